use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use dominator_core::inode::{Inode, Kind};
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::plan::Operation;
use dominator_core::port::PathFailure;
use dominator_core::view::Ownership;
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::error::Trouble;
use super::fetched::Checked;
use super::id::Id;
use super::lift::{Lifts, is_privileged};
use super::metadata::{Attributes, Present, dress};
use super::parents::Parents;
use super::step::{Change, Made, Old, Prepared, Slot, Step, Target, Written};
use super::work::{PRIVATE, WorkDirectory};
use super::{UpdateError, Updater};
use crate::root::{Root, Statx, inode_at, inode_of, is_directory, open_directory};
use crate::scan::Installed;
use crate::seam::{At, Seam};

/// Makes all that is new, each in a slot of its own, and says what is to be done with it.
pub(super) struct Staging<'a> {
    pub(super) updater: &'a Updater,
    pub(super) checked: Checked<'a>,
    parents: Parents,
    steps: Vec<Step>,
    lifts: Lifts,
    done: u64,
    next: u32,
    /// What this file-system gives new inodes.
    present: Present,
    /// The directory that was looked for last, if it is not there.
    absent: Option<ImagePath>,
    /// Paths that other operations make links to, and where what was staged for them lies.
    targets: BTreeMap<ImagePath, Option<(Slot, Id)>>,
    /// Paths that could not be staged.
    failed: BTreeSet<ImagePath>,
    /// Files of which it is known what they contain.
    pub(super) installed: Installed,
    /// Slots of files and directories, to be made durable.
    pub(super) settled: Vec<Slot>,
    /// Slots of files that nobody has read back from the disk yet, and what must be in them.
    pub(super) unread: Vec<(Slot, ObjectId, u64)>,
    /// Those of them that come from the tree.
    pub(super) local: BTreeSet<Slot>,
    /// Whether files can share blocks, once somebody asked.
    pub(super) shared: Option<bool>,
}

/// Why an operation could not be staged.
pub(super) enum Fault {
    Trouble(Trouble),
    Corrupt(ObjectId),
    /// It is no longer where it was in the tree.
    Gone(ObjectId),
}

impl<'a> Staging<'a> {
    /// How long a file may be, in bytes, to be made anew when its owner changes: the former owner may have it open for
    /// writing. Beyond that, the time and the room for a copy are not worth it, unless it becomes privileged.
    const RENEWED: u64 = 64 * 1024 * 1024;

    pub(super) fn new(updater: &'a Updater, checked: Checked<'a>) -> Self {
        let targets = checked.operations.iter().filter_map(|operation| {
            if let Operation::Link { target, .. } = operation { Some((target.clone(), None)) } else { None }
        });
        Self {
            updater,
            parents: Parents::of_root(&updater.root),
            steps: Vec::with_capacity(checked.operations.len()),
            lifts: Lifts::of_root(&updater.root),
            done: 0,
            // What can't be looked at fails with the first slot that is taken.
            next: updater.work.free_slot().unwrap_or(WorkDirectory::FIRST_SLOT),
            present: updater.work.present(&*updater.seam),
            absent: None,
            targets: targets.collect(),
            failed: checked.failures.iter().map(|failure| failure.path.clone()).collect(),
            installed: Installed::new(),
            settled: Vec::new(),
            unread: Vec::new(),
            local: BTreeSet::new(),
            shared: None,
            checked,
        }
    }

    pub(super) fn all(&mut self) -> Result<(), UpdateError> {
        for operation in std::mem::take(&mut self.checked.operations) {
            let outcome = self.one(operation);
            self.note(operation, outcome)?;
        }
        self.settle().map_err(UpdateError::Work)?;
        self.read_back()
    }

    pub(super) fn prepared(self) -> Prepared {
        let Checked { rules, failures, .. } = self.checked;
        Prepared { rules, steps: self.steps, lifts: self.lifts.all(), done: self.done, failures }
    }

    fn one(&mut self, operation: &Operation) -> Result<(), Fault> {
        match operation {
            Operation::MakeDirectory { path, inode } => self.directory(path, inode),
            Operation::Put { path, inode } => self.put(path, inode),
            Operation::Link { path, target } => self.link(path, target),
            Operation::SetMetadata { paths, inode } => self.metadata(paths, inode),
            Operation::Delete { path, directory } => self.delete(path, *directory),
            _ => Err(Trouble::because("an operation this agent does not know").into()),
        }
    }

    fn note(&mut self, operation: &Operation, outcome: Result<(), Fault>) -> Result<(), UpdateError> {
        let path = || operation.paths().first().cloned().unwrap_or_else(ImagePath::root);
        match outcome {
            Ok(()) => Ok(()),
            Err(Fault::Corrupt(id)) => {
                self.updater.objects.remove(&id).map_err(UpdateError::Work)?;
                Err(UpdateError::Corrupt { id })
            }
            Err(Fault::Gone(id)) => Err(UpdateError::Missing(BTreeSet::from([id]))),
            Err(Fault::Trouble(Trouble::Halt(source))) => Err(UpdateError::Staging { path: path(), source }),
            Err(Fault::Trouble(Trouble::Path(reason))) => {
                self.failed.extend(operation.paths().iter().cloned());
                self.checked.failures.push(PathFailure { path: path(), reason });
                Ok(())
            }
        }
    }

    fn slot(&mut self) -> Slot {
        self.next += 1;
        Slot(self.next - 1)
    }

    /// What is at a path that is going to change, and must be able to.
    fn look(&mut self, path: &ImagePath) -> Result<Option<Statx>, Fault> {
        let known = self.parents.is_last(path);
        let parent = if known { None } else { path.parent() };
        if parent.is_some() && parent == self.absent {
            return Ok(None);
        }
        let (dir, name) = match self.parents.of(path) {
            // Or the plan has a directory made there, or put in the place of what is there.
            Err(error) if is_absent(&error) => {
                self.absent = parent;
                return Ok(None);
            }
            other => other?,
        };
        if let Some(parent) = parent {
            self.lifts.directory(&parent, &inode_of(dir)?);
        }
        match inode_at(dir, name) {
            Ok(stat) => {
                self.lifts.displaced(path, &stat);
                Ok(Some(stat))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn directory(&mut self, path: &ImagePath, inode: &Inode) -> Result<(), Fault> {
        let there = self.look(path)?;
        if there.is_some_and(|stat| is_directory(stat.stx_mode)) {
            return self.directory_metadata(path, inode);
        }
        let slot = self.slot();
        let name = slot.name();
        let at = At::new(self.updater.work.slots.as_fd(), &name);
        self.updater.seam.mkdir(at, PRIVATE)?;
        self.settled.push(slot);
        let wanted = Attributes::of(inode, self.checked.rules);
        // Without privileges a directory must stay writable until its entries are in it.
        let now = if is_privileged() { wanted.clone() } else { wanted.accessible() };
        dress(&*self.updater.seam, at, self.present, &now, self.checked.rules)?;
        let new = self.updater.root.id(&inode_at(at.dir, at.name)?);
        if let (Some(before), Some(after)) = (now.mode, wanted.mode) {
            self.lifts.until_the_end(path, new, before, after);
        }
        self.step(path, slot, new, Old::of(&self.updater.root, there.as_ref()), Made::Directory);
        Ok(())
    }

    fn put(&mut self, path: &ImagePath, inode: &Inode) -> Result<(), Fault> {
        let there = self.look(path)?;
        let slot = self.slot();
        if self.take_from_tree(path, inode, slot, there.as_ref())?.is_some() {
            return Ok(());
        }
        let object = match inode.object() {
            Some((object, size)) => self.contents(slot, object, size)?,
            None => self.special(slot, inode).map(|()| None)?,
        };
        self.dressed(path, inode, slot, there.as_ref(), object)
    }

    /// Gives what lies in a slot its metadata and has it put at the path.
    pub(super) fn dressed(
        &mut self,
        path: &ImagePath,
        inode: &Inode,
        slot: Slot,
        there: Option<&Statx>,
        object: Option<ObjectId>,
    ) -> Result<(), Fault> {
        let (updater, rules, name) = (self.updater, self.checked.rules, slot.name());
        let at = At::new(updater.work.slots.as_fd(), &name);
        let dressed = dress(&*updater.seam, at, self.present, &Attributes::of(inode, rules), rules)
            .and_then(|()| inode_at(at.dir, at.name));
        let stat = match (dressed, object) {
            (Ok(stat), _) => stat,
            (Err(error), None) => return Err(error.into()),
            (Err(error), Some(object)) => {
                // What can't be put back is fetched again.
                drop(updater.strip(at).and_then(|()| updater.objects.give_back(&object, at)));
                return Err(error.into());
            }
        };
        let made = match inode.object() {
            Some(_) => Made::File { written: Written::of(&stat), object },
            None => Made::Other,
        };
        if let Some((contents, _)) = inode.object() {
            self.installed.add(&stat, contents);
            self.settled.push(slot);
        }
        self.step(path, slot, self.updater.root.id(&stat), Old::of(&self.updater.root, there), made);
        Ok(())
    }

    /// Has what lies in a slot put at the path.
    pub(super) fn put_at(&mut self, path: &ImagePath, slot: Slot, new: &Statx, old: Old, made: Made) {
        self.step(path, slot, self.updater.root.id(new), old, made);
    }

    fn step(&mut self, path: &ImagePath, slot: Slot, new: Id, old: Old, made: Made) {
        if let Some(target) = self.targets.get_mut(path) {
            *target = Some((slot, new));
        }
        self.steps.push(Step::Put { path: path.clone(), slot, new, old, made });
    }

    fn link(&mut self, path: &ImagePath, target: &ImagePath) -> Result<(), Fault> {
        if self.failed.contains(target) {
            let reason = format!("{target}, which it should share an inode with, is not right");
            return Err(Trouble::Path(reason).into());
        }
        if let Some(Some((slot, id))) = self.targets.get(target).copied() {
            let there = self.look(path)?;
            let name = slot.name();
            let target = At::new(self.updater.work.slots.as_fd(), &name);
            return self.linked(path, there.as_ref(), id, |seam, at| seam.link(target, at));
        }
        let wanted = inode_of(handle(self.updater, target)?)?;
        let there = self.look(path)?;
        // Renaming one name of an inode over another does nothing in Linux: that is already as it must be.
        if there.as_ref().is_some_and(|stat| same_inode(stat, &wanted)) {
            self.done += 1;
            return Ok(());
        }
        // What is immutable takes no further name, and none of its names moves.
        self.lifts.changed(target, &wanted);
        let (updater, (dir, name)) = (self.updater, self.updater.root.parent(target)?);
        let from = At::new(dir.as_fd(), name.as_bytes());
        self.linked(path, there.as_ref(), updater.root.id(&wanted), |seam, at| {
            updater.work.despite_flags(seam, from, || seam.link(from, at))
        })
    }

    /// Makes another name for an inode in a slot: the swap only renames.
    fn linked(
        &mut self,
        path: &ImagePath,
        there: Option<&Statx>,
        id: Id,
        link: impl FnOnce(&dyn Seam, At<'_>) -> io::Result<()>,
    ) -> Result<(), Fault> {
        let slot = self.slot();
        let to = slot.name();
        let at = At::new(self.updater.work.slots.as_fd(), &to);
        link(&*self.updater.seam, at)?;
        if self.updater.root.id(&inode_at(at.dir, at.name)?) != id {
            return Err(Trouble::changed().into());
        }
        self.step(path, slot, id, Old::of(&self.updater.root, there), Made::Link);
        Ok(())
    }

    /// Metadata are changed in place only when that touches no other name and hands nobody else's bytes new rights.
    /// Otherwise the inode is made anew.
    fn metadata(&mut self, paths: &[ImagePath], inode: &Inode) -> Result<(), Fault> {
        let Some((first, others)) = paths.split_first() else {
            return Err(Trouble::because("metadata for nothing").into());
        };
        if inode.is_directory() {
            return self.directory_metadata(first, inode);
        }
        let found = handle(self.updater, first)?;
        let stat = inode_of(&found)?;
        if self.updater.root.is_elsewhere(&stat) {
            return Err(Trouble::because("something is mounted there").into());
        }
        let changed = || Trouble::because("it changed since it was scanned");
        if !is_kind(&stat, inode) {
            return Err(changed().into());
        }
        let after = Attributes::of(inode, self.checked.rules);
        if self.must_be_renewed(&stat, inode, &after) || !has_names(stat.stx_nlink, paths) {
            let there = self.look(first)?;
            let slot = self.slot();
            self.renewed(first, inode, &stat, slot)?;
            self.dressed(first, inode, slot, there.as_ref(), None)?;
            return self.renewed_links(others, slot);
        }
        for other in others {
            let (dir, name) = self.updater.root.parent(other)?;
            if !same_inode(&inode_at(&dir, name.as_bytes())?, &stat) {
                return Err(changed().into());
            }
        }
        self.lifts.changed(first, &stat);
        let before = Attributes::read(found.as_fd(), &stat, self.checked.rules)?;
        let (paths, inode, of) = (paths.to_vec(), self.updater.root.id(&stat), Target::of(&stat));
        self.steps.push(Step::Attributes(Box::new(Change { paths, inode, of, before, after })));
        Ok(())
    }

    /// Whoever has the file open for writing, or wrote to it since the scan, must not be given a set-uid program, nor keep
    /// a hand on what is another's from now on.
    fn must_be_renewed(&self, stat: &Statx, inode: &Inode, after: &Attributes) -> bool {
        let given_away = self.checked.rules.ownership == Ownership::Kept
            && stat.stx_uid != after.uid
            && stat.stx_size <= Self::RENEWED;
        inode.object().is_some() && (after.is_privileged() || given_away)
    }

    fn renewed_links(&mut self, others: &[ImagePath], slot: Slot) -> Result<(), Fault> {
        let Some(Step::Put { new, .. }) = self.steps.last() else { return Ok(()) };
        let new = *new;
        for path in others {
            let (there, name) = (self.look(path)?, slot.name());
            let first = At::new(self.updater.work.slots.as_fd(), &name);
            self.linked(path, there.as_ref(), new, |seam, at| seam.link(first, at))?;
        }
        Ok(())
    }

    fn directory_metadata(&mut self, path: &ImagePath, inode: &Inode) -> Result<(), Fault> {
        let dir = directory(&self.updater.root, path)?;
        let stat = inode_of(&dir)?;
        let before = Attributes::read(dir.as_fd(), &stat, self.checked.rules)?;
        let after = Attributes::of(inode, self.checked.rules);
        self.lifts.changed(path, &stat);
        let id = self.updater.root.id(&stat);
        if let (false, Some(before), Some(after)) = (is_privileged(), before.mode, after.mode) {
            self.lifts.until_the_end(path, id, before, after);
        }
        let (paths, of) = (vec![path.clone()], Target::Directory);
        self.steps.push(Step::Attributes(Box::new(Change { paths, inode: id, of, before, after })));
        Ok(())
    }

    fn delete(&mut self, path: &ImagePath, directory: bool) -> Result<(), Fault> {
        let Some(stat) = self.look(path)? else {
            self.done += 1;
            return Ok(());
        };
        if is_directory(stat.stx_mode) != directory {
            return Err(Trouble::because("it changed since it was scanned").into());
        }
        let slot = self.slot();
        self.steps.push(Step::Delete {
            path: path.clone(),
            slot,
            old: self.updater.root.id(&stat),
            directory,
        });
        Ok(())
    }
}

/// A directory that is in the tree: something may be mounted at it, but not on the way there.
pub(super) fn directory(root: &Root, path: &ImagePath) -> io::Result<OwnedFd> {
    let Some((parent, name)) = path.split() else { return root.directory(path) };
    open_directory(At::new(root.directory_here(&parent)?.as_fd(), name.as_bytes()))
}

/// A handle that only names what is at `path`, which is no directory.
pub(super) fn handle(updater: &Updater, path: &ImagePath) -> io::Result<OwnedFd> {
    let (dir, name) = updater.root.parent(path)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(&dir, name.as_bytes(), flags, rustix::fs::Mode::empty())?;
    let stat = inode_of(&handle)?;
    if is_directory(stat.stx_mode) { Err(Errno::ISDIR.into()) } else { Ok(handle) }
}

/// Whether an error says that there is no such path.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

/// Whether an inode with `nlink` names can have no others than `paths`.
pub(super) fn has_names(nlink: u32, paths: &[ImagePath]) -> bool {
    usize::try_from(nlink).is_ok_and(|names| names == paths.len())
}

fn same_inode(one: &Statx, other: &Statx) -> bool {
    let identity = |stat: &Statx| (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino);
    identity(one) == identity(other)
}

/// Whether what was found is of the kind it should be.
fn is_kind(stat: &Statx, inode: &Inode) -> bool {
    let wanted = match inode.kind {
        Kind::Regular { .. } => FileType::RegularFile,
        Kind::Symlink { .. } => FileType::Symlink,
        Kind::BlockDevice { .. } => FileType::BlockDevice,
        Kind::CharDevice { .. } => FileType::CharacterDevice,
        Kind::Fifo { .. } => FileType::Fifo,
        Kind::Directory { .. } => FileType::Directory,
        Kind::Computed { .. } | Kind::Unknown { .. } => return false,
        _ => return false,
    };
    FileType::from_raw_mode(stat.stx_mode.into()) == wanted
}

impl From<Trouble> for Fault {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Trouble(error.into())
    }
}
