use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use dominator_core::inode::{Inode, Kind, Mode};
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::plan::{Operation, Plan};
use dominator_core::port::PathFailure;
use dominator_core::view::View;
use rustix::fs::{FileType, OFlags};

use super::metadata::{Attributes, Rules, dress};
use super::objects::hash;
use super::{Trouble, UpdateError, Updater};
use crate::mounts::Mounts;
use crate::publish::{self, MANY};
use crate::root::{Statx, inode_of, is_directory, open_file};
use crate::seam::{At, Node};
use crate::sparse::Sparse;

/// A plan whose every new inode exists beside the tree, durable and with its final metadata. Dropping it leaves debris
/// that the next attempt removes.
#[derive(Debug)]
#[must_use = "nothing in view has changed yet"]
pub struct Staged<'u> {
    pub(super) updater: &'u mut Updater,
    pub(super) rules: Rules,
    pub(super) steps: Vec<Step>,
    /// Every path the plan deletes and may delete.
    pub(super) deleted: BTreeSet<ImagePath>,
    pub(super) failures: Vec<PathFailure>,
    /// What must stay where it is.
    pub(super) mounts: Mounts,
    /// Objects that were moved out of the cache, and where to.
    pub(super) taken: Vec<(ObjectId, Vec<u8>)>,
}

/// One change to the tree, ready to be made.
#[derive(Debug)]
pub(super) enum Step {
    /// What lies in the slot takes the place of whatever is there.
    Put { path: ImagePath, slot: Vec<u8> },
    /// The same for a directory; one that is there already only gets these attributes.
    Directory { path: ImagePath, slot: Vec<u8>, attributes: Attributes },
    /// Another name for an inode.
    Link { path: ImagePath, target: ImagePath },
    /// Attributes of a directory, or of an inode with exactly these names.
    Attributes { paths: Vec<ImagePath>, inode: Inode, attributes: Attributes },
    /// A path goes.
    Delete { path: ImagePath, directory: bool },
}

impl Step {
    pub(super) fn path(&self) -> Option<&ImagePath> {
        match self {
            Self::Put { path, .. }
            | Self::Directory { path, .. }
            | Self::Link { path, .. }
            | Self::Delete { path, .. } => Some(path),
            Self::Attributes { paths, .. } => paths.first(),
        }
    }
}

pub(super) fn prepare<'u>(
    updater: &'u mut Updater,
    plan: &Plan,
    view: &View,
) -> Result<Staged<'u>, UpdateError> {
    updater.work.remove_debris(&*updater.seam).map_err(UpdateError::Work)?;
    let mounts = Mounts::of(&updater.root)?;
    let mut failures = Vec::new();
    let operations: Vec<_> = plan
        .operations
        .iter()
        .filter(|operation| match vet(operation, view) {
            Ok(()) => true,
            Err(failure) => {
                failures.push(failure);
                false
            }
        })
        .collect();
    let deleted = operations.iter().filter_map(|operation| deleted_path(operation)).cloned().collect();
    let uses = objects_used(&operations);
    check_objects(updater, &uses)?;
    let staged = Staged {
        updater,
        rules: Rules::of(view),
        steps: Vec::new(),
        deleted,
        failures,
        mounts,
        taken: Vec::new(),
    };
    let mut staging = Staging { staged, uses, settled: Vec::new() };
    match staging.all(&operations) {
        Ok(()) => Ok(staging.staged),
        Err(error) => {
            let Staged { updater, taken, .. } = staging.staged;
            give_up(updater, taken);
            Err(error)
        }
    }
}

/// Refuses what no plan for this view may touch: the order comes from elsewhere, and the machine has the last word.
fn vet(operation: &Operation, view: &View) -> Result<(), PathFailure> {
    let refuse = |path: &ImagePath, reason: &str| {
        Err(PathFailure { path: path.clone(), reason: format!("refused: {reason}") })
    };
    let target = if let Operation::Link { target, .. } = operation { Some(target) } else { None };
    for path in operation.paths().iter().chain(target) {
        if !view.reaches(path) {
            return refuse(path, "it is protected or not in view");
        }
        if path.is_root() && !matches!(operation, Operation::SetMetadata { .. }) {
            return refuse(path, "the root itself can't be replaced or deleted");
        }
    }
    Ok(())
}

fn deleted_path(operation: &Operation) -> Option<&ImagePath> {
    if let Operation::Delete { path, .. } = operation { Some(path) } else { None }
}

/// How often each object is used, and its length.
fn objects_used(operations: &[&Operation]) -> BTreeMap<ObjectId, (usize, u64)> {
    let mut uses = BTreeMap::new();
    for operation in operations {
        if let Operation::Put { inode, .. } = operation
            && let Some((object, size)) = inode.object()
            && size > 0
        {
            uses.entry(object).or_insert((0, size)).0 += 1;
        }
    }
    uses
}

/// All objects must be here, and there must be room for those that are copied because they are used more than once.
fn check_objects(updater: &Updater, uses: &BTreeMap<ObjectId, (usize, u64)>) -> Result<(), UpdateError> {
    let mut missing = BTreeSet::new();
    for id in uses.keys() {
        if updater.objects.size(id).map_err(UpdateError::Work)?.is_none() {
            missing.insert(*id);
        }
    }
    if !missing.is_empty() {
        return Err(UpdateError::Missing(missing));
    }
    let free = updater.objects.free_space().map_err(UpdateError::Work)?;
    let copies = uses.values().flat_map(|(count, size)| std::iter::repeat_n(*size, count.saturating_sub(1)));
    let need = free.needed(copies);
    if need > free.bytes { Err(UpdateError::NoSpace { need, free: free.bytes }) } else { Ok(()) }
}

/// Puts objects that were moved out of the cache back, for the next attempt. They are hashed again then.
pub(super) fn give_back(updater: &Updater, taken: Vec<(ObjectId, Vec<u8>)>) {
    for (id, slot) in taken {
        // What can't be put back is fetched again.
        drop(updater.objects.give_back(&id, At::new(updater.work.staging.as_fd(), &slot)));
    }
}

/// Leaves nothing of a failed attempt but its objects. It must not have displaced anything that is not back.
pub(super) fn give_up(updater: &Updater, taken: Vec<(ObjectId, Vec<u8>)>) {
    give_back(updater, taken);
    if let Err(error) = updater.work.remove_debris(&*updater.seam) {
        tracing::warn!(%error, "what was staged could not be removed yet");
    }
}

/// The work of [`prepare`].
struct Staging<'u> {
    staged: Staged<'u>,
    uses: BTreeMap<ObjectId, (usize, u64)>,
    /// Slots of files and directories, to be made durable.
    settled: Vec<Vec<u8>>,
}

impl Staging<'_> {
    fn all(&mut self, operations: &[&Operation]) -> Result<(), UpdateError> {
        for operation in operations {
            let outcome = match operation {
                Operation::MakeDirectory { path, inode } => self.directory(path, inode),
                Operation::Put { path, inode } => self.put(path, inode),
                Operation::Link { path, target } => {
                    self.step(Step::Link { path: path.clone(), target: target.clone() })
                }
                Operation::SetMetadata { paths, inode } => self.attributes(paths, inode),
                Operation::Delete { path, directory } => {
                    self.step(Step::Delete { path: path.clone(), directory: *directory })
                }
                _ => Err(Trouble::because("an operation this agent does not know").into()),
            };
            self.note(operation, outcome)?;
        }
        self.settle().map_err(UpdateError::Work)
    }

    fn note(&mut self, operation: &Operation, outcome: Result<(), Fault>) -> Result<(), UpdateError> {
        let path = || operation.paths().first().cloned().unwrap_or_else(ImagePath::root);
        match outcome {
            Ok(()) => Ok(()),
            Err(Fault::Corrupt(id)) => {
                self.staged.updater.objects.remove(&id).map_err(UpdateError::Work)?;
                Err(UpdateError::Corrupt { id })
            }
            Err(Fault::Trouble(Trouble::Halt(source))) => Err(UpdateError::Staging { path: path(), source }),
            Err(Fault::Trouble(Trouble::Path(reason))) => {
                self.staged.failures.push(PathFailure { path: path(), reason });
                Ok(())
            }
        }
    }

    fn step(&mut self, step: Step) -> Result<(), Fault> {
        self.staged.steps.push(step);
        Ok(())
    }

    fn directory(&mut self, path: &ImagePath, inode: &Inode) -> Result<(), Fault> {
        let slot = self.staged.updater.work.slot();
        let attributes = Attributes::of(inode, self.staged.rules);
        let at = At::new(self.staged.updater.work.staging.as_fd(), &slot);
        self.staged.updater.seam.mkdir(at, Mode::from_st_mode(0o700))?;
        // Without privileges a directory must stay writable until its entries are in it.
        let now = if is_privileged() { attributes.clone() } else { attributes.accessible() };
        dress(&*self.staged.updater.seam, at, &now, self.staged.rules)?;
        self.settled.push(slot.clone());
        self.step(Step::Directory { path: path.clone(), slot, attributes })
    }

    fn put(&mut self, path: &ImagePath, inode: &Inode) -> Result<(), Fault> {
        let slot = self.staged.updater.work.slot();
        match inode.object() {
            Some((object, size)) => self.contents(&slot, object, size)?,
            None => self.special(&slot, inode)?,
        }
        self.dressed(path, inode, slot)
    }

    fn dressed(&mut self, path: &ImagePath, inode: &Inode, slot: Vec<u8>) -> Result<(), Fault> {
        let updater = &*self.staged.updater;
        let at = At::new(updater.work.staging.as_fd(), &slot);
        dress(&*updater.seam, at, &Attributes::of(inode, self.staged.rules), self.staged.rules)?;
        if inode.object().is_some() {
            self.settled.push(slot.clone());
        }
        self.step(Step::Put { path: path.clone(), slot })
    }

    /// Makes a file of an object in a slot. The last use moves it there. It is hashed again: what lay on the disk for
    /// days may have changed, and this is the last look before it is in place.
    fn contents(&mut self, slot: &[u8], object: ObjectId, size: u64) -> Result<(), Fault> {
        let updater = &*self.staged.updater;
        let at = At::new(updater.work.staging.as_fd(), slot);
        if size == 0 {
            updater.seam.create(at, Mode::from_st_mode(0o600))?;
            return if object == ObjectId::of(b"") { Ok(()) } else { Err(Fault::Corrupt(object)) };
        }
        let last = match self.uses.get_mut(&object) {
            Some((count, _)) => {
                *count = count.saturating_sub(1);
                *count == 0
            }
            None => false,
        };
        let from = updater.objects.open_object(&object)?;
        let hashed = if last {
            let hashed = hash(&from, |_| Ok(()))?;
            updater.objects.take(&object, at)?;
            self.staged.taken.push((object, slot.to_vec()));
            hashed
        } else {
            copy(updater, &from, at)?
        };
        if hashed == (object, size) {
            return Ok(());
        }
        if last {
            // It must not go back into the cache.
            self.staged.taken.pop();
        }
        Err(Fault::Corrupt(object))
    }

    fn special(&self, slot: &[u8], inode: &Inode) -> Result<(), Fault> {
        let updater = &*self.staged.updater;
        let at = At::new(updater.work.staging.as_fd(), slot);
        let mode = Mode::from_st_mode(0o600);
        match &inode.kind {
            Kind::Symlink { target } => updater.seam.symlink(target, at)?,
            Kind::BlockDevice { device, .. } => updater.seam.mknod(at, Node::Block(*device), mode)?,
            Kind::CharDevice { device, .. } => updater.seam.mknod(at, Node::Char(*device), mode)?,
            Kind::Fifo { .. } => updater.seam.mknod(at, Node::Fifo, mode)?,
            Kind::Computed { .. } => {
                return Err(Trouble::because("a computed file that was not computed").into());
            }
            Kind::Regular { .. } | Kind::Directory { .. } | Kind::Unknown { .. } => {
                return Err(Trouble::because("nothing that can be put").into());
            }
            _ => return Err(Trouble::because("a kind of file this agent does not know").into()),
        }
        Ok(())
    }

    /// Metadata are changed in place only when that touches no other name and hands nobody else's bytes new rights.
    /// Otherwise the inode is made anew.
    fn attributes(&mut self, paths: &[ImagePath], inode: &Inode) -> Result<(), Fault> {
        let attributes = Attributes::of(inode, self.staged.rules);
        let Some((first, others)) = paths.split_first() else {
            return Err(Trouble::because("metadata for nothing").into());
        };
        if !inode.is_directory() {
            let found = handle(self.staged.updater, first)?;
            let stat = inode_of(&found)?;
            // Whoever has the file open for writing, or wrote to it since the scan, must not be given a set-uid program.
            let privileged = inode.object().is_some() && attributes.is_privileged();
            if privileged || !has_names(stat.stx_nlink, paths) {
                self.renewed(first, inode, &stat)?;
                for path in others {
                    self.step(Step::Link { path: path.clone(), target: first.clone() })?;
                }
                return Ok(());
            }
        }
        self.step(Step::Attributes { paths: paths.to_vec(), inode: inode.clone(), attributes })
    }

    /// Stages a new inode with the contents the one at `path` has.
    fn renewed(&mut self, path: &ImagePath, inode: &Inode, found: &Statx) -> Result<(), Fault> {
        let Some(expected) = inode.object() else { return self.put(path, inode) };
        let updater = &*self.staged.updater;
        let (dir, name) = updater.root.parent(path)?;
        let from = open_file(At::new(dir.as_fd(), name.as_bytes()))?;
        let stat = inode_of(&from)?;
        if !FileType::from_raw_mode(stat.stx_mode.into()).is_file() || stat.stx_ino != found.stx_ino {
            return Err(Trouble::because("it changed since it was scanned").into());
        }
        let free = updater.objects.free_space()?;
        if free.needed([stat.stx_size]) > free.bytes {
            return Err(Trouble::Halt(rustix::io::Errno::NOSPC.into()).into());
        }
        let slot = updater.work.slot();
        if copy(updater, &from, At::new(updater.work.staging.as_fd(), &slot))? != expected {
            return Err(Trouble::because("its contents changed since it was scanned").into());
        }
        self.dressed(path, inode, slot)
    }

    /// DURABILITY: all of it before the first rename, or a crash leaves names with nothing behind them.
    fn settle(&self) -> io::Result<()> {
        let updater = &*self.staged.updater;
        let staging = updater.work.staging.as_fd();
        if self.settled.len() >= MANY {
            let _durable = publish::settle_all(&*updater.seam, staging)?;
            return Ok(());
        }
        for slot in &self.settled {
            match open_file(At::new(staging, slot)) {
                Ok(file) => publish::settle(&*updater.seam, &file)?,
                // A file without read permission, and no privilege to read it nevertheless.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    let _durable = publish::settle_all(&*updater.seam, staging)?;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        let _durable = publish::directories(&*updater.seam, [staging])?;
        Ok(())
    }
}

/// Copies a file to a new one, sharing the blocks where the file-system can, and hashes what came out.
fn copy(updater: &Updater, from: &std::fs::File, at: At<'_>) -> io::Result<(ObjectId, u64)> {
    let to = updater.seam.create(at, Mode::from_st_mode(0o600))?;
    match updater.seam.reflink(from, &to) {
        Ok(()) => hash(&to, |_| Ok(())),
        Err(_) => {
            let mut to = Sparse::new(to)?;
            let hashed = hash(from, |bytes| to.write(&*updater.seam, bytes))?;
            to.finish(&*updater.seam)?;
            Ok(hashed)
        }
    }
}

/// A handle that only names what is at `path`.
pub(super) fn handle(updater: &Updater, path: &ImagePath) -> io::Result<OwnedFd> {
    let (dir, name) = updater.root.parent(path)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(&dir, name.as_bytes(), flags, rustix::fs::Mode::empty())?;
    let stat = inode_of(&handle)?;
    if is_directory(stat.stx_mode) { Err(rustix::io::Errno::ISDIR.into()) } else { Ok(handle) }
}

/// Whether an inode with `nlink` names can have no others than `paths`.
pub(super) fn has_names(nlink: u32, paths: &[ImagePath]) -> bool {
    usize::try_from(nlink).is_ok_and(|names| names == paths.len())
}

pub(super) fn is_privileged() -> bool {
    rustix::process::geteuid().is_root()
}

/// Why an operation could not be staged.
enum Fault {
    Trouble(Trouble),
    Corrupt(ObjectId),
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
