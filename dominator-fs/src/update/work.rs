use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dominator_core::inode::Mode;
use dominator_core::path::ImagePath;
use dominator_core::view::{View, XattrPolicy};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use thiserror::Error;

use super::UpdateError;
use super::journal::JournalError;
use super::lift::is_privileged;
use super::metadata::Present;
use crate::publish;
use crate::root::{Root, inode_at, inode_of, is_empty, names_in, open_directory, xattrs_of};
use crate::seam::{At, Remove, Seam};

/// The directory at the top of a root where everything is prepared before it is put in place, and where what it
/// displaced lies until the end. Nobody else may enter it, and one process at a time uses it.
#[derive(Debug)]
pub(crate) struct WorkDirectory {
    /// Holds the lock, and the journal is in it.
    pub(crate) top: OwnedFd,
    pub(crate) objects: Arc<OwnedFd>,
    /// What is new before the swap, and what it displaced after.
    pub(crate) slots: OwnedFd,
    /// What undoing found changed, and what had no place to go back to, for somebody to look at.
    pub(crate) conflicts: OwnedFd,
    /// The number the next conflict may have.
    conflict: AtomicU64,
}

/// A work directory that can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WorkError {
    /// Something that this process did not make bears its name. Look at it and remove it.
    #[error("/.subd is not a work directory of this agent: {why}; remove it")]
    NotOurs {
        /// What is wrong with it.
        why: &'static str,
    },
    /// The file-system is of a kind (NFS is one) that no update can be made on without moments in which a path is
    /// missing.
    #[error(
        "the file-system of the root can't exchange two names in one step, which updates need; use ext4, xfs, btrfs or another local one"
    )]
    NoExchange,
    /// Another process is at work in this root.
    #[error("another agent is at work in this root; stop one of them")]
    Busy,
    /// It could not be made or opened.
    #[error("the work directory /.subd can't be set up")]
    Io(#[source] io::Error),
    /// There is a journal that can't be gone by. An update may be half made, and nothing was touched.
    #[error(
        "the journal /.subd/journal can't be gone by, and an update may be half made; what it displaced is in \
         /.subd/slots: when nothing of that is missed, remove both and start the agent again"
    )]
    Journal(#[source] JournalError),
    /// An update that was cut off can neither be finished nor undone. The journal is kept, and it is tried again when the
    /// root is opened next.
    #[error("an update that was cut off could be neither finished nor undone; it is tried again")]
    Recovery(#[source] Box<UpdateError>),
}

impl From<io::Error> for WorkError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl WorkDirectory {
    /// Its name at the top of the root.
    pub(super) const NAME: &[u8] = b".subd";
    /// The mode of files in it.
    pub(crate) const FILE: Mode = Mode::from_st_mode(0o600);
    /// Slots that no update uses.
    const PROBES: [&'static [u8]; 2] = [b"0", b"1"];
    /// The first slot that updates use.
    pub(crate) const FIRST_SLOT: u32 = 2;

    /// Whether anything bears its name.
    pub(crate) fn is_in(root: &Root) -> bool {
        inode_at(root.as_fd(), Self::NAME).is_ok()
    }

    /// Opens or makes it.
    pub(crate) fn open(root: &Root, seam: &dyn Seam) -> Result<Self, WorkError> {
        let (top, made) = private_directory(root, seam, At::new(root.as_fd(), Self::NAME))?;
        match rustix::fs::flock(&top, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(WorkError::Busy),
            other => other.map_err(io::Error::from)?,
        }
        let mut made = made;
        let mut part = |name| {
            let (dir, part_made) = private_directory(root, seam, At::new(top.as_fd(), name))?;
            made |= part_made;
            Ok::<_, WorkError>(dir)
        };
        let (objects, slots, conflicts) = (part(b"objects")?, part(b"slots")?, part(b"conflicts")?);
        if made {
            // DURABILITY: a journal in a directory that is gone after a power cut is none.
            let _durable = publish::directories(seam, [root.as_fd(), top.as_fd()])?;
        }
        Ok(Self { objects: Arc::new(objects), slots, conflicts, conflict: AtomicU64::new(0), top })
    }

    /// Finds out whether two names can change places in one step, rather than fail with every path of an update. What
    /// else goes wrong is for [`super::Updater::probe`] to tell.
    pub(crate) fn try_exchange(&self, seam: &dyn Seam) -> Result<(), WorkError> {
        let [one, other] = Self::PROBES.map(|name| At::new(self.slots.as_fd(), name));
        let made = seam.create(one, Self::FILE).and_then(|_| seam.create(other, Self::FILE));
        let exchanged = made.and_then(|_| publish::exchange(seam, one, other));
        for at in [one, other] {
            // What stays behind is removed with other debris.
            drop(seam.remove(at, Remove::File));
        }
        match exchanged.map_err(|error| Errno::from_io_error(&error)) {
            Err(Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)) => Err(WorkError::NoExchange),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Finds out whether the file-system can be written to.
    pub(crate) fn probe(&self, seam: &dyn Seam) -> io::Result<()> {
        let [name, _] = Self::PROBES;
        let at = At::new(self.slots.as_fd(), name);
        match seam.remove(at, Remove::File) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
        let written = seam.create(at, Self::FILE).and_then(|file| seam.write(&file, b"probe"));
        if written.is_ok() {
            return seam.remove(at, Remove::File);
        }
        drop(seam.remove(at, Remove::File));
        written
    }

    /// Finds out whether files can share blocks: those of `with`, for a moment.
    pub(crate) fn can_share(&self, seam: &dyn Seam, with: &File) -> bool {
        let [name, _] = Self::PROBES;
        let at = At::new(self.slots.as_fd(), name);
        let shared = seam.create(at, Self::FILE).and_then(|file| seam.reflink(with, &file));
        drop(seam.remove(at, Remove::File));
        shared.is_ok()
    }

    /// What extended attributes new files and directories, and objects, have here: a policy of the machine may label
    /// them, and a list of access rights may have been set on a directory by hand.
    pub(crate) fn present(&self, seam: &dyn Seam) -> Present {
        let [name, _] = Self::PROBES;
        let at = At::new(self.slots.as_fd(), name);
        let made = seam.create(at, Self::FILE).and_then(|file| xattrs_of(&file, XattrPolicy::ALL));
        drop(seam.remove(at, Remove::File));
        let of = |dir: &OwnedFd| xattrs_of(dir, XattrPolicy::ALL);
        let all = [made, of(&self.slots), of(&self.objects)];
        let nothing = all.iter().all(|xattrs| xattrs.as_ref().is_ok_and(|xattrs| xattrs.is_empty()));
        if nothing { Present::Nothing } else { Present::Unknown }
    }

    /// The path, in the root, of what lies in a slot.
    pub(crate) fn slot_path(&self, slot: &[u8]) -> ImagePath {
        Self::path_of(b"/slots/", slot)
    }

    /// The path, in the root, of what is kept as a conflict.
    pub(crate) fn conflict_path(&self, name: &[u8]) -> ImagePath {
        Self::path_of(b"/conflicts/", name)
    }

    fn path_of(part: &[u8], name: &[u8]) -> ImagePath {
        let path = [View::WORK_DIRECTORY, part, name].concat();
        ImagePath::parse(&path).expect("invariant: slots and conflicts are decimal numbers, plain names")
    }

    /// The next name among conflicts, which may be taken by one of an earlier process.
    pub(crate) fn next_conflict(&self) -> u64 {
        self.conflict.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether anything lies in a slot.
    pub(crate) fn has_debris(&self) -> io::Result<bool> {
        Ok(!names_in(self.slots.as_fd())?.is_empty())
    }

    /// The first slot of the next update: behind all that could not be removed.
    pub(crate) fn free_slot(&self) -> io::Result<u32> {
        let names = names_in(self.slots.as_fd())?;
        let taken = names.iter().filter_map(|name| std::str::from_utf8(name).ok()?.parse::<u32>().ok());
        Ok(taken.max().map_or(Self::FIRST_SLOT, |last| Self::FIRST_SLOT.max(last.saturating_add(1))))
    }

    /// Removes all that lies in slots. There must be no journal, not even after a power cut, or one that says for good that
    /// its update was undone. Who mounts something looks up first where: when that is displaced in between, the mount comes
    /// to lie in a slot. Such a slot stays until it is unmounted.
    pub(crate) fn remove_debris(&self, seam: &dyn Seam) -> io::Result<()> {
        self.empty(seam, self.slots.as_fd(), "slots")
    }

    /// Removes all that is kept as conflicts, but for what something is mounted in.
    pub(crate) fn remove_conflicts(&self, seam: &dyn Seam) -> io::Result<()> {
        self.empty(seam, self.conflicts.as_fd(), "conflicts")
    }

    /// Directories within are moved up before they are emptied: no depth is too deep, and a mount point anywhere in
    /// them makes the kernel refuse.
    fn empty(&self, seam: &dyn Seam, dir: BorrowedFd<'_>, part: &str) -> io::Result<()> {
        let mut busy = BTreeSet::new();
        let mut moved = 0;
        loop {
            let mut names = names_in(dir)?;
            names.retain(|name| !busy.contains(name));
            if names.is_empty() {
                return Ok(());
            }
            for name in names {
                match self.remove_shallowly(seam, At::new(dir, &name), &mut moved) {
                    Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => {
                        let shown = String::from_utf8_lossy(&name);
                        tracing::warn!("something is mounted at or in /.subd/{part}/{shown}; unmount it");
                        busy.insert(name);
                    }
                    other => other?,
                }
            }
        }
    }

    /// `moved` is the number of the last directory that was moved up.
    fn remove_shallowly(&self, seam: &dyn Seam, at: At<'_>, moved: &mut u64) -> io::Result<()> {
        match self.remove_file(seam, at) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::ISDIR) => {}
            other => return other,
        }
        let opened = match open_directory(at) {
            // Without privileges even one's own directory must be made accessible first.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                seam.chmod(at, PRIVATE)?;
                open_directory(at)?
            }
            other => other?,
        };
        if !is_empty(opened.as_fd())? {
            take_over(seam, opened.as_fd())?;
        }
        for name in names_in(opened.as_fd())? {
            let inner = At::new(opened.as_fd(), &name);
            match self.remove_file(seam, inner) {
                Err(error) if Errno::from_io_error(&error) == Some(Errno::ISDIR) => {
                    self.move_up(seam, at, inner, moved)?
                }
                other => other?,
            }
        }
        match seam.remove(at, Remove::Directory) {
            // Its owner made something at the last moment: the next round takes it over.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOTEMPTY) && is_privileged() => Ok(()),
            other => other,
        }
    }

    /// A file may have another name, by which somebody made it immutable.
    fn remove_file(&self, seam: &dyn Seam, at: At<'_>) -> io::Result<()> {
        self.despite_flags(seam, at, || seam.remove(at, Remove::File))
    }

    /// Moves a directory beside the one it is in, under a name that is free there.
    fn move_up(&self, seam: &dyn Seam, outer: At<'_>, inner: At<'_>, moved: &mut u64) -> io::Result<()> {
        if rustix::process::geteuid().as_raw() != 0 {
            // A directory that moves is written to: its `..` changes.
            seam.chmod(inner, PRIVATE)?;
        }
        loop {
            *moved += 1;
            match publish::place(seam, inner, At::new(outer.dir, format!("moved-{moved}").as_bytes())) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => return other,
            }
        }
    }
}

impl Drop for WorkDirectory {
    /// A process that is being started has all open files until it becomes another program: closing does not free the lock.
    fn drop(&mut self) {
        if let Err(error) = rustix::fs::flock(&self.top, FlockOperation::Unlock) {
            tracing::debug!(%error, "the lock of the work directory goes when all who have it open have closed it");
        }
    }
}

/// The mode of everything that is ours alone.
pub(crate) const PRIVATE: Mode = Mode::from_st_mode(0o700);

/// Who owns a directory and is in it, or has it open, could go on making files there, faster than they are removed.
fn take_over(seam: &dyn Seam, dir: BorrowedFd<'_>) -> io::Result<()> {
    let (this, us) = (At::itself(dir), rustix::process::geteuid().as_raw());
    if is_privileged() && inode_of(dir)?.stx_uid != us {
        seam.chown(this, us, rustix::process::getegid().as_raw())?;
    }
    seam.chmod(this, PRIVATE)
}

/// Makes sure of a directory only this user can enter, on the root's own file-system, opens it, and says whether it was made.
fn private_directory(root: &Root, seam: &dyn Seam, at: At<'_>) -> Result<(OwnedFd, bool), WorkError> {
    // Looked for first: what is there can be used, if for nothing but a look, when the disk takes nothing more.
    let (dir, made) = match open_directory(at) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            seam.mkdir(at, PRIVATE)?;
            (open_directory(at)?, true)
        }
        Err(error) if is_no_directory(&error) => {
            return Err(WorkError::NotOurs { why: "it is no directory" });
        }
        other => (other?, false),
    };
    let stat = inode_of(&dir)?;
    if root.is_elsewhere(&stat) {
        return Err(WorkError::NotOurs { why: "it is on another file-system" });
    }
    if stat.stx_uid != rustix::process::geteuid().as_raw() {
        return Err(WorkError::NotOurs { why: "it belongs to another user" });
    }
    if made {
        // What is staged must not inherit access for others, or the group, from the root.
        let this = At::itself(dir.as_fd());
        for acl in [b"system.posix_acl_default".as_slice(), b"system.posix_acl_access"] {
            match seam.remove_xattr(this, acl) {
                Err(error) if !no_such_attribute(&error) => return Err(error.into()),
                _ => {}
            }
        }
        seam.chmod(this, PRIVATE)?;
    } else if stat.stx_mode & 0o077 != 0 {
        return Err(WorkError::NotOurs { why: "others may enter it" });
    }
    Ok((dir, made))
}

fn is_no_directory(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOTDIR | Errno::LOOP))
}

fn no_such_attribute(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NODATA | Errno::NOTSUP))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seam::Kernel;

    #[test]
    fn a_process_that_is_just_being_started_does_not_keep_the_root_busy() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let work = WorkDirectory::open(&root, &Kernel).unwrap();
        assert!(matches!(WorkDirectory::open(&root, &Kernel), Err(WorkError::Busy)));
        let inherited = work.top.try_clone().unwrap();
        drop(work);
        drop(WorkDirectory::open(&root, &Kernel).unwrap());
        drop(inherited);
    }
}
