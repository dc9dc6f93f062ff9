use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use dominator_core::inode::{Inode, Kind};
use dominator_core::path::{ImagePath, Name};
use dominator_core::port::{PathFailure, UpdateReport};
use rustix::fs::FileType;
use rustix::io::Errno;

use super::commit::Swapped;
use super::displace::held_by;
use super::metadata::{Attributes, Rules, redress};
use super::stage::{Staged, Step, give_back, give_up, handle, has_names, is_privileged};
use super::undo::{Undo, undo};
use super::{Trouble, UpdateError, Updater};
use crate::mounts::Mounts;
use crate::publish;
use crate::root::{Statx, inode_at, inode_of, is_directory, open_directory};
use crate::seam::{At, Remove};

impl<'u> Staged<'u> {
    /// Changes every path in one step each. Each is as it was or as it must be at any moment.
    ///
    /// # Errors
    /// [`UpdateError::Halted`] when going on would have been wrong: everything was undone.
    pub fn swap(self) -> Result<Swapped<'u>, UpdateError> {
        let Staged { updater, rules, steps, deleted, failures, mounts, taken } = self;
        // DURABILITY: until this update is settled, the one that follows has it to settle as well: it plans only what it
        // sees missing, and claims the whole.
        let wait_for_all = std::mem::replace(&mut updater.unsettled, true);
        let failed = failures.iter().map(|failure| failure.path.clone()).collect();
        let mut swap = Swap {
            updater: &*updater,
            rules,
            deleted,
            mounts,
            failed,
            late: BTreeMap::new(),
            done: Vec::new(),
            touched: BTreeSet::new(),
            changed: BTreeSet::new(),
            wait_for_all,
            report: UpdateReport { failures, ..UpdateReport::default() },
        };
        if let Err((path, source)) = swap.all(steps) {
            let not_undone = undo(swap.updater, rules, &mut swap.mounts, swap.done);
            if not_undone.is_empty() {
                give_up(updater, taken);
            }
            return Err(UpdateError::Halted { path, not_undone, source });
        }
        let Swap { report, touched, changed, wait_for_all, .. } = swap;
        Ok(Swapped { updater, report, touched, changed, wait_for_all })
    }

    /// Gives the update up. The objects are kept for another attempt.
    ///
    /// # Errors
    /// [`UpdateError::Work`] when what was staged can't be removed; the next attempt tries again.
    pub fn abandon(self) -> Result<(), UpdateError> {
        give_back(self.updater, self.taken);
        self.updater.work.remove_debris(&*self.updater.seam).map_err(UpdateError::Work)
    }
}

/// The work of [`Staged::swap`].
struct Swap<'u> {
    updater: &'u Updater,
    rules: Rules,
    deleted: BTreeSet<ImagePath>,
    mounts: Mounts,
    failed: BTreeSet<ImagePath>,
    /// What directories get at the end, since without privileges they must be writable until then.
    late: BTreeMap<ImagePath, Attributes>,
    done: Vec<Undo>,
    touched: BTreeSet<ImagePath>,
    changed: BTreeSet<ImagePath>,
    wait_for_all: bool,
    report: UpdateReport,
}

/// What came of a step that did not fail.
enum Outcome {
    Done,
    /// It holds what is not in view, or something is mounted there.
    Kept,
}

impl Swap<'_> {
    /// How often a step is tried again when somebody else changes the path at the same time.
    const ATTEMPTS: usize = 8;

    fn all(&mut self, steps: Vec<Step>) -> Result<(), (ImagePath, io::Error)> {
        let start = Instant::now();
        let mut last = Duration::ZERO;
        for step in steps {
            let path = step.path().cloned().unwrap_or_else(ImagePath::root);
            let outcome = self.step(step);
            last = start.elapsed();
            match outcome {
                Ok(Outcome::Done) => self.report.applied += 1,
                Ok(Outcome::Kept) => self.report.kept.push(path),
                Err(Trouble::Path(reason)) => self.fail(path, reason),
                Err(Trouble::Halt(source)) => return Err((path, source)),
            }
        }
        for (path, attributes) in std::mem::take(&mut self.late).into_iter().rev() {
            match self.directory_attributes(&path, &attributes) {
                Ok(()) => {}
                Err(Trouble::Path(reason)) => self.fail(path, reason),
                Err(Trouble::Halt(source)) => return Err((path, source)),
            }
            last = start.elapsed();
        }
        self.report.window = last;
        Ok(())
    }

    fn fail(&mut self, path: ImagePath, reason: String) {
        self.failed.insert(path.clone());
        self.report.failures.push(PathFailure { path, reason });
    }

    fn step(&mut self, step: Step) -> Result<Outcome, Trouble> {
        match step {
            Step::Put { path, slot } => self.put(&path, slot)?,
            Step::Directory { path, slot, attributes } => self.directory(&path, slot, attributes)?,
            Step::Link { path, target } => self.link(&path, &target)?,
            Step::Attributes { paths, inode, attributes } => self.attributes(&paths, &inode, attributes)?,
            Step::Delete { path, directory } => return self.delete(&path, directory),
        }
        Ok(Outcome::Done)
    }

    /// Exchanges what is in the slot with what is at the path, or moves it there when nothing is.
    fn put(&mut self, path: &ImagePath, slot: Vec<u8>) -> Result<(), Trouble> {
        let updater = self.updater;
        let (dir, name) = self.parent(path)?;
        let (at, staged) =
            (At::new(dir.as_fd(), name.as_bytes()), At::new(updater.work.staging.as_fd(), &slot));
        for _ in 0..Self::ATTEMPTS {
            let outcome = match inode_at(&dir, name.as_bytes()) {
                Ok(stat) => {
                    self.check_displaceable(path, at, &stat)?;
                    publish::exchange(&*updater.seam, staged, at).map(|()| true)
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    publish::place(&*updater.seam, staged, at).map(|()| false)
                }
                Err(error) => return Err(error.into()),
            };
            match outcome {
                Ok(exchanged) => {
                    self.touch_parent(path);
                    if exchanged {
                        self.done.push(Undo::Exchanged { path: path.clone(), slot: slot.clone() });
                        return self.check_displaced(path, at, staged);
                    }
                    self.done.push(Undo::Placed { path: path.clone(), slot });
                    return Ok(());
                }
                // Somebody made or removed it at the same time.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Trouble::because("it is being made and removed by somebody else all the time"))
    }

    fn check_displaceable(&mut self, path: &ImagePath, at: At<'_>, stat: &Statx) -> Result<(), Trouble> {
        if self.updater.root.is_elsewhere(stat) {
            return Err(Trouble::because("something is mounted there"));
        }
        let is_directory = is_directory(stat.stx_mode);
        if is_directory {
            self.mounts.read()?;
        }
        if let Some(point) = self.mounted_within(path)? {
            return Err(Trouble::mounted(&point));
        }
        if !is_directory {
            return Ok(());
        }
        let there = open_directory(at)?;
        if let Some(held) = held_by(&self.updater.root, there.as_fd(), path, &self.deleted)? {
            return Err(Trouble::Path(format!("a directory stands there and must not go: {held}")));
        }
        if !is_privileged() {
            // A directory that moves is written to.
            self.make_accessible(path, &there)?;
            self.late.remove(path);
        }
        Ok(())
    }

    /// Looks again at what was displaced, now that nobody can reach it any more. It is put back when it must not go, or
    /// can't be looked at; when even that fails, everything is undone, as what is displaced is removed in the end.
    fn check_displaced(&mut self, path: &ImagePath, at: At<'_>, staged: At<'_>) -> Result<(), Trouble> {
        let Updater { root, seam, work, .. } = self.updater;
        let mut held = || {
            if !is_directory(inode_at(staged.dir, staged.name)?.stx_mode) {
                return Ok(None);
            }
            // What was mounted in it after the last look has come along.
            self.mounts.read()?;
            if self.mounts.within(&work.staged(staged.name)).is_some() {
                return Err(Trouble::because("something was mounted in it at the same time"));
            }
            Ok(held_by(root, open_directory(staged)?.as_fd(), path, &self.deleted)?)
        };
        let trouble = match held() {
            Ok(None) => return Ok(()),
            Ok(Some(held)) => Trouble::Path(format!("a directory stands there and must not go: {held}")),
            Err(trouble) => trouble,
        };
        publish::exchange(&**seam, staged, at).map_err(Trouble::Halt)?;
        self.done.pop();
        self.mounts.read()?;
        Err(trouble)
    }

    fn directory(&mut self, path: &ImagePath, slot: Vec<u8>, attributes: Attributes) -> Result<(), Trouble> {
        let (dir, name) = self.parent(path)?;
        let is_there = inode_at(&dir, name.as_bytes()).is_ok_and(|stat| is_directory(stat.stx_mode));
        if !is_there {
            self.put(path, slot)?;
            self.touched.insert(path.clone());
            if is_privileged() {
                return Ok(());
            }
        }
        self.set_directory(path, attributes)
    }

    fn set_directory(&mut self, path: &ImagePath, attributes: Attributes) -> Result<(), Trouble> {
        if is_privileged() {
            return self.directory_attributes(path, &attributes);
        }
        self.directory_attributes(path, &attributes.accessible())?;
        self.late.insert(path.clone(), attributes);
        Ok(())
    }

    fn directory_attributes(&mut self, path: &ImagePath, attributes: &Attributes) -> Result<(), Trouble> {
        let dir = self.updater.root.directory(path)?;
        let before = Attributes::read(dir.as_fd(), &inode_of(&dir)?, self.rules)?;
        self.done.push(Undo::Directory { path: path.clone(), before: before.clone() });
        self.touched.insert(path.clone());
        Ok(redress(&*self.updater.seam, dir.as_fd(), &before, attributes, self.rules)?)
    }

    fn link(&mut self, path: &ImagePath, target: &ImagePath) -> Result<(), Trouble> {
        if self.failed.contains(target) {
            return Err(Trouble::Path(format!(
                "{target}, which it should share an inode with, is not right"
            )));
        }
        let updater = self.updater;
        let (from_dir, from_name) = self.parent(target)?;
        let wanted = inode_of(handle(updater, target)?)?;
        let (dir, name) = self.parent(path)?;
        // Renaming one name of an inode over another does nothing in Linux: that is already as it must be.
        if inode_at(&dir, name.as_bytes()).is_ok_and(|stat| same_inode(&stat, &wanted)) {
            return Ok(());
        }
        let slot = updater.work.slot();
        let staged = At::new(updater.work.staging.as_fd(), &slot);
        updater.seam.link(At::new(from_dir.as_fd(), from_name.as_bytes()), staged)?;
        if !same_inode(&inode_at(staged.dir, staged.name)?, &wanted) {
            updater.seam.remove(staged, Remove::File)?;
            return Err(Trouble::Path(format!("{target} was replaced by somebody else at the same time")));
        }
        self.put(path, slot)
    }

    fn attributes(
        &mut self,
        paths: &[ImagePath],
        inode: &Inode,
        attributes: Attributes,
    ) -> Result<(), Trouble> {
        let Some(path) = paths.first() else { return Err(Trouble::because("metadata for nothing")) };
        if inode.is_directory() {
            return self.set_directory(path, attributes);
        }
        let file = handle(self.updater, path)?;
        let stat = inode_of(&file)?;
        if self.updater.root.is_elsewhere(&stat) {
            return Err(Trouble::because("something is mounted there"));
        }
        let same = |other: &ImagePath| {
            let (dir, name) = self.updater.root.parent(other)?;
            io::Result::Ok(same_inode(&inode_at(&dir, name.as_bytes())?, &stat))
        };
        let mut all_same = is_kind(&stat, inode) && has_names(stat.stx_nlink, paths);
        for other in paths {
            all_same = all_same && same(other)?;
        }
        if !all_same {
            return Err(Trouble::because("it changed since it was scanned"));
        }
        let before = Attributes::read(file.as_fd(), &stat, self.rules)?;
        self.done.push(Undo::File { path: path.clone(), before: before.clone() });
        if inode.object().is_some() {
            self.changed.insert(path.clone());
        } else {
            // Opening a device or a pipe to wait for it would wake what is behind it.
            self.wait_for_all = true;
        }
        Ok(redress(&*self.updater.seam, file.as_fd(), &before, &attributes, self.rules)?)
    }

    fn delete(&mut self, path: &ImagePath, directory: bool) -> Result<Outcome, Trouble> {
        let there = self.parent(path).and_then(|(dir, name)| {
            let stat = inode_at(&dir, name.as_bytes())?;
            Ok((dir, name, stat))
        });
        let (dir, name, stat) = match there {
            // Also when something else has taken the place of a directory on the way, as the plan may have it.
            Err(error)
                if matches!(
                    Errno::from_io_error(&error),
                    Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
                ) =>
            {
                return Ok(Outcome::Done);
            }
            other => other?,
        };
        if self.updater.root.is_elsewhere(&stat) {
            // Where a file-system is mounted, a directory holds what is not in view.
            return if directory && is_directory(stat.stx_mode) {
                Ok(Outcome::Kept)
            } else {
                Err(Trouble::because("something is mounted there"))
            };
        }
        if is_directory(stat.stx_mode) != directory {
            return Err(Trouble::because("it changed since it was scanned"));
        }
        if self.mounted_within(path)?.is_some() {
            return Ok(Outcome::Kept);
        }
        let at = At::new(dir.as_fd(), name.as_bytes());
        if directory { self.delete_directory(path, at) } else { self.delete_file(path, at) }
    }

    fn delete_file(&mut self, path: &ImagePath, at: At<'_>) -> Result<Outcome, Trouble> {
        let Updater { seam, work, .. } = self.updater;
        let slot = work.slot();
        let aside = At::new(work.aside.as_fd(), &slot);
        publish::place(&**seam, at, aside)?;
        self.touch_parent(path);
        self.done.push(Undo::Deleted { path: path.clone(), slot: slot.clone() });
        if is_directory(inode_at(aside.dir, aside.name)?.stx_mode) {
            // What lies aside is removed in the end: if it can't go back now, everything is undone.
            publish::place(&**seam, aside, at).map_err(Trouble::Halt)?;
            self.done.pop();
            return Err(Trouble::because("it changed since it was scanned"));
        }
        Ok(Outcome::Done)
    }

    fn delete_directory(&mut self, path: &ImagePath, at: At<'_>) -> Result<Outcome, Trouble> {
        let there = open_directory(at)?;
        let before = Attributes::read(there.as_fd(), &inode_of(&there)?, self.rules)?;
        match self.updater.seam.remove(at, Remove::Directory) {
            Ok(()) => {}
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOTEMPTY | Errno::EXIST)) => {
                return match self.failed.iter().find(|failed| failed.is_within(path)) {
                    Some(failed) => {
                        Err(Trouble::Path(format!("it holds {failed}, which could not be deleted")))
                    }
                    None => Ok(Outcome::Kept),
                };
            }
            Err(error) => return Err(error.into()),
        }
        self.touch_parent(path);
        self.late.remove(path);
        self.done.push(Undo::Removed { path: path.clone(), before });
        Ok(Outcome::Done)
    }

    /// Opens the directory a path is in. Without privileges, one's own directory is made writable for the time being.
    fn parent(&mut self, path: &ImagePath) -> io::Result<(OwnedFd, Name)> {
        let (dir, name) = self.updater.root.parent(path)?;
        if !is_privileged()
            && let Some(parent) = path.parent()
        {
            self.make_accessible(&parent, &dir)?;
        }
        Ok((dir, name))
    }

    fn make_accessible(&mut self, path: &ImagePath, dir: &OwnedFd) -> io::Result<()> {
        let stat = inode_of(dir)?;
        let ours = stat.stx_uid == rustix::process::geteuid().as_raw();
        if ours && stat.stx_mode & 0o700 != 0o700 {
            let before = Attributes::read(dir.as_fd(), &stat, self.rules)?;
            self.done.push(Undo::Directory { path: path.clone(), before: before.clone() });
            self.late.entry(path.clone()).or_insert_with(|| before.clone());
            redress(&*self.updater.seam, dir.as_fd(), &before, &before.accessible(), self.rules)?;
        }
        Ok(())
    }

    /// The mount point that keeps a path where it is, as things are now.
    fn mounted_within(&mut self, path: &ImagePath) -> Result<Option<ImagePath>, Trouble> {
        self.mounts.refresh()?;
        Ok(self.mounts.within(path).cloned())
    }

    fn touch_parent(&mut self, path: &ImagePath) {
        self.touched.extend(path.parent());
    }
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
