use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dominator_core::inode::Mode;
use dominator_core::path::ImagePath;
use dominator_core::view::View;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use thiserror::Error;

use crate::publish;
use crate::root::{Root, inode_of, names_in, open_directory};
use crate::seam::{At, Remove, Seam};

/// The directory at the top of a root where everything is prepared before it is put in place, and where what it
/// displaced lies until the end. Nobody else may enter it, and one process at a time uses it.
#[derive(Debug)]
pub(crate) struct WorkDirectory {
    /// Holds the lock.
    _top: OwnedFd,
    pub(crate) objects: Arc<OwnedFd>,
    pub(crate) staging: OwnedFd,
    pub(crate) aside: OwnedFd,
    next_slot: AtomicU64,
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
}

impl From<io::Error> for WorkError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl WorkDirectory {
    /// Opens or makes it, and removes what a dead attempt left.
    pub(crate) fn open(root: &Root, seam: &dyn Seam) -> Result<Self, WorkError> {
        let name = View::WORK_DIRECTORY.strip_prefix(b"/").unwrap_or(View::WORK_DIRECTORY);
        let top = private_directory(root, seam, At::new(root.as_fd(), name))?;
        match rustix::fs::flock(&top, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(WorkError::Busy),
            other => other.map_err(io::Error::from)?,
        }
        let part = |name| private_directory(root, seam, At::new(top.as_fd(), name));
        let work = Self {
            objects: Arc::new(part(b"objects")?),
            staging: part(b"staging")?,
            aside: part(b"aside")?,
            _top: top,
            next_slot: AtomicU64::new(0),
        };
        work.remove_debris(seam)?;
        work.try_exchange(seam)?;
        Ok(work)
    }

    /// Finds out whether two names can change places in one step, rather than fail with every path of an update. What
    /// else goes wrong is for [`super::Updater::probe`] to tell.
    fn try_exchange(&self, seam: &dyn Seam) -> Result<(), WorkError> {
        let (one, other) = (self.slot(), self.slot());
        let (one, other) = (At::new(self.aside.as_fd(), &one), At::new(self.aside.as_fd(), &other));
        let mode = Mode::from_st_mode(0o600);
        let made = seam.create(one, mode).and_then(|_| seam.create(other, mode));
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

    /// A name in `staging` and `aside` that is not in use.
    pub(crate) fn slot(&self) -> Vec<u8> {
        self.next_slot.fetch_add(1, Ordering::Relaxed).to_string().into_bytes()
    }

    /// The path, in the root, of what lies in a slot of `staging`.
    pub(crate) fn staged(&self, slot: &[u8]) -> ImagePath {
        let path = [View::WORK_DIRECTORY, b"/staging/", slot].concat();
        ImagePath::parse(&path).expect("invariant: a slot is a decimal number, a plain name")
    }

    /// Removes all that lies in `staging` and `aside`.
    pub(crate) fn remove_debris(&self, seam: &dyn Seam) -> io::Result<()> {
        self.empty(seam, self.staging.as_fd())?;
        self.empty(seam, self.aside.as_fd())
    }

    /// Directories within are moved up before they are emptied: no depth is too deep, and a mount point anywhere in
    /// them makes the kernel refuse.
    fn empty(&self, seam: &dyn Seam, dir: BorrowedFd<'_>) -> io::Result<()> {
        loop {
            let names = names_in(dir)?;
            if names.is_empty() {
                return Ok(());
            }
            for name in names {
                self.remove_shallowly(seam, At::new(dir, &name))?;
            }
        }
    }

    fn remove_shallowly(&self, seam: &dyn Seam, at: At<'_>) -> io::Result<()> {
        match seam.remove(at, Remove::File) {
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
        let names = names_in(opened.as_fd())?;
        if !names.is_empty() {
            seam.chmod(At::itself(opened.as_fd()), PRIVATE)?;
        }
        for name in names {
            let inner = At::new(opened.as_fd(), &name);
            match seam.remove(inner, Remove::File) {
                Err(error) if Errno::from_io_error(&error) == Some(Errno::ISDIR) => {
                    self.move_up(seam, at, inner)?
                }
                other => other?,
            }
        }
        seam.remove(at, Remove::Directory)
    }

    /// Moves a directory beside the one it is in, under a name that is free there.
    fn move_up(&self, seam: &dyn Seam, outer: At<'_>, inner: At<'_>) -> io::Result<()> {
        if rustix::process::geteuid().as_raw() != 0 {
            // A directory that moves is written to: its `..` changes.
            seam.chmod(inner, PRIVATE)?;
        }
        loop {
            match publish::place(seam, inner, At::new(outer.dir, &self.slot())) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => return other,
            }
        }
    }
}

/// The mode of everything that is ours alone.
pub(crate) const PRIVATE: Mode = Mode::from_st_mode(0o700);

/// Makes sure of a directory only this user can enter, on the root's own file-system, and opens it.
fn private_directory(root: &Root, seam: &dyn Seam, at: At<'_>) -> Result<OwnedFd, WorkError> {
    let made = match seam.mkdir(at, PRIVATE) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        other => other.map(|()| true)?,
    };
    let dir = open_directory(at).map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::NOTDIR | Errno::LOOP) => WorkError::NotOurs { why: "it is no directory" },
        _ => WorkError::Io(error),
    })?;
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
    Ok(dir)
}

fn no_such_attribute(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NODATA | Errno::NOTSUP))
}
