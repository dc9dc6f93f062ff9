use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use dominator_core::path::ImagePath;
use dominator_core::port::PathFailure;

use super::Updater;
use super::error::Trouble;
use super::id::Id;
use super::lift::End;
use super::local::linked;
use super::metadata::{Attributes, redress};
use super::parents::Parents;
use super::stage::{directory, handle, is_absent};
use super::step::{Change, Made, Old, Prepared, Slot, Step, Target, Written};
use super::swap::stat_at;
use crate::mounts::Mounts;
use crate::publish;
use crate::root::{Statx, inode_at, inode_of, is_directory, is_empty, open_directory};
use crate::seam::At;

/// What undoing an update came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UndoReport {
    /// How many changes were taken back, or found to be.
    pub undone: u64,
    /// Paths that somebody changed since the update. Nothing of that is lost.
    pub conflicts: Vec<Conflict>,
    /// Paths that are not as before.
    pub failures: Vec<PathFailure>,
    /// How long paths were changing: from the first rename to the last.
    pub window: Duration,
}

impl UndoReport {
    /// Conflicts and failures, in words.
    pub fn not_as_before(&self) -> Vec<PathFailure> {
        let conflicts = self.conflicts.iter().map(|conflict| {
            let kept =
                conflict.kept.as_ref().map(|kept| format!("; it is kept as {kept}")).unwrap_or_default();
            PathFailure { path: conflict.path.clone(), reason: format!("{}{kept}", conflict.reason) }
        });
        conflicts.chain(self.failures.iter().cloned()).collect()
    }
}

/// A path that was not as the update had made it when that was undone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conflict {
    /// Which.
    pub path: ImagePath,
    /// What happened.
    pub reason: String,
    /// Where lies what did not stay at the path; nothing when all is at the path. It stays until somebody removes it.
    pub kept: Option<ImagePath>,
}

/// Changes that the disk would not let be taken back.
#[derive(Debug)]
pub(super) struct Stuck {
    pub(super) report: UndoReport,
    /// How many paths are still as the update made them.
    pub(super) changed: usize,
    pub(super) source: io::Error,
}

/// How one step was found.
enum Taken {
    Back,
    Conflict { reason: String, kept: Option<ImagePath> },
}

impl Updater {
    /// Takes steps back, the last one first, as far as they were made, which shows by looking. All is tried, whatever fails.
    pub(super) fn take_back(&self, prepared: &Prepared, tried: usize) -> Result<UndoReport, Box<Stuck>> {
        let stuck = |report, changed, source| Box::new(Stuck { report, changed, source });
        let mounts = Mounts::of(&self.root)
            .map_err(|error| stuck(UndoReport::default(), tried, io::Error::other(error)))?;
        if let Err((_, error)) = self.lift(&prepared.lifts) {
            tracing::warn!(%error, "not everything that was immutable can be changed");
        }
        let parents = Parents::of_root(&self.root);
        let (linked, report) = (linked(prepared), UndoReport::default());
        let mut undo = Undo { updater: self, prepared, parents, mounts, linked, report };
        let mut halted = undo.all(tried);
        match self.lower(prepared, End::Undone) {
            Ok(failures) => undo.report.failures.extend(failures),
            Err((_, error)) => halted = Some((halted.map_or(0, |(changed, _)| changed), error)),
        }
        match halted {
            None => Ok(undo.report),
            Some((changed, source)) => Err(stuck(undo.report, changed, source)),
        }
    }

    /// Moves something to where it is kept for somebody to look at.
    pub(super) fn keep(&self, at: At<'_>) -> io::Result<ImagePath> {
        let conflicts = self.work.conflicts.as_fd();
        loop {
            let name = self.work.next_conflict().to_string();
            let to = At::new(conflicts, name.as_bytes());
            match self.work.despite_flags(&*self.seam, at, || publish::place(&*self.seam, at, to)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => return other.map(|()| self.work.conflict_path(name.as_bytes())),
            }
        }
    }
}

struct Undo<'a> {
    updater: &'a Updater,
    prepared: &'a Prepared,
    parents: Parents,
    mounts: Mounts,
    /// Files that were put elsewhere and not copied.
    linked: BTreeMap<Id, (&'a ImagePath, Written)>,
    report: UndoReport,
}

impl Undo<'_> {
    fn all(&mut self, tried: usize) -> Option<(usize, io::Error)> {
        let start = Instant::now();
        let mut halted: Option<(usize, io::Error)> = None;
        let steps = self.prepared.steps.get(..tried).unwrap_or(&self.prepared.steps);
        let mut back = Vec::with_capacity(steps.len());
        for step in steps.iter().rev() {
            let taken = match self.step(step) {
                // What the disk would not take back may be all that is in the way; both are tried again.
                Err(Trouble::Path(reason)) if halted.is_none() => self.failed(step, reason),
                other => other,
            };
            match taken {
                Ok(Taken::Back) => back.push(step),
                other => self.note(step, other, &mut halted),
            }
        }
        self.report.window = start.elapsed();
        for step in back {
            let judged = self.judged(step).map_err(Trouble::Halt);
            self.note(step, judged, &mut halted);
        }
        halted
    }

    fn note(&mut self, step: &Step, taken: Result<Taken, Trouble>, halted: &mut Option<(usize, io::Error)>) {
        match taken {
            Ok(Taken::Back) => self.report.undone += 1,
            Ok(Taken::Conflict { reason, kept }) => {
                self.report.conflicts.push(Conflict { path: step.path(), reason, kept });
            }
            Err(Trouble::Path(reason)) => {
                self.report.failures.push(PathFailure { path: step.path(), reason });
            }
            Err(Trouble::Halt(error)) => {
                let reason = error.to_string();
                self.report.failures.push(PathFailure { path: step.path(), reason });
                *halted = Some((halted.take().map_or(1, |(changed, _)| changed + 1), error));
            }
        }
    }

    /// Whether anybody has written to what came back into a slot. Asked when no path leads there any more, and in no hurry:
    /// what was written at the last moment counts as well.
    fn judged(&self, step: &Step) -> io::Result<Taken> {
        let Step::Put { slot, new, made, .. } = step else { return Ok(Taken::Back) };
        let name = slot.name();
        let staged = At::new(self.updater.work.slots.as_fd(), &name);
        let theirs = stat_at(staged)?
            .is_some_and(|stat| self.updater.root.id(&stat) == *new && is_written(&stat, made));
        if theirs { self.kept(staged) } else { Ok(Taken::Back) }
    }

    /// What was displaced can't go back to its place and must not be lost: as long as it can't be kept either, the slots
    /// stay as they are.
    fn failed(&self, step: &Step, reason: String) -> Result<Taken, Trouble> {
        let (Step::Put { slot, .. } | Step::Delete { slot, .. }) = step else {
            return Err(Trouble::Path(reason));
        };
        let name = slot.name();
        let staged = At::new(self.updater.work.slots.as_fd(), &name);
        let holds_the_old = match (self.updater.id_at(staged).map_err(Trouble::Halt)?, step) {
            (Some(id), Step::Put { new, .. }) => id != *new,
            (Some(_), _) => true,
            (None, _) => false,
        };
        if !holds_the_old {
            return Err(Trouble::Path(reason));
        }
        let kept = self.updater.keep(staged).map_err(Trouble::Halt)?;
        let reason = format!("{reason}; what was there before can't go back");
        Ok(Taken::Conflict { reason, kept: Some(kept) })
    }

    fn step(&mut self, step: &Step) -> Result<Taken, Trouble> {
        match step {
            Step::Put { path, slot, new, old, made } => self.put(path, *slot, *new, *old, made),
            Step::Attributes(change) => self.attributes(change),
            Step::Delete { path, slot, old, directory } => self.deleted(path, *slot, *old, *directory),
        }
    }

    /// What is at a path; nothing also where the directory it was in is gone.
    fn at_path(&mut self, path: &ImagePath) -> Result<Option<Statx>, Trouble> {
        match self.parents.of(path).and_then(|(dir, name)| inode_at(dir, name)) {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn put(
        &mut self,
        path: &ImagePath,
        slot: Slot,
        new: Id,
        old: Old,
        made: &Made,
    ) -> Result<Taken, Trouble> {
        let name = slot.name();
        let staged = At::new(self.updater.work.slots.as_fd(), &name);
        let there = self.at_path(path)?;
        if let Some(stat) = there.as_ref().filter(|stat| self.updater.root.id(stat) == new) {
            self.must_not_be_mounted(path, stat)?;
            return match old {
                Old::Nothing => self.put_away(path, staged, made),
                Old::Directory(_) | Old::Other(_) => self.exchange(path, staged, made),
            };
        }
        match (stat_at(staged)?, there) {
            (Some(stat), _) if self.updater.root.id(&stat) == new => self.in_its_slot(staged, made),
            // What was put was removed since, or this was done before.
            (None, None) => Ok(Taken::Back),
            (None, Some(stat)) if old.id() == Some(self.updater.root.id(&stat)) => Ok(Taken::Back),
            (None, Some(_)) => Ok(Taken::Conflict {
                reason: "somebody else put something there since, where nothing was; it stays".to_owned(),
                kept: None,
            }),
            (Some(_), None) => {
                self.place(staged, path)?;
                Ok(Taken::Back)
            }
            // An attempt that died had come as far as this.
            (Some(_), Some(stat)) if old.id() == Some(self.updater.root.id(&stat)) => Ok(self.kept(staged)?),
            (Some(_), Some(stat)) => {
                self.must_not_be_mounted(path, &stat)?;
                self.exchanged(path, staged)?;
                Ok(self.kept(staged)?)
            }
        }
    }

    /// It was never made, or an attempt that died had come as far as this and would have looked next whether anybody's work
    /// has come along.
    fn in_its_slot(&self, staged: At<'_>, made: &Made) -> Result<Taken, Trouble> {
        match *made == Made::Directory && !is_empty_directory(staged)? {
            true => Ok(self.kept(staged)?),
            false => Ok(Taken::Back),
        }
    }

    /// What was put where nothing was goes back into its slot.
    fn put_away(&mut self, path: &ImagePath, staged: At<'_>, made: &Made) -> Result<Taken, Trouble> {
        let seam = &*self.updater.seam;
        let (dir, name) = self.parents.of(path)?;
        let at = At::new(dir, name);
        if *made == Made::Directory && !is_empty_directory(at)? {
            return Ok(holds_others());
        }
        publish::place(seam, at, staged)?;
        if *made == Made::Directory && !is_empty_directory(staged)? {
            publish::place(seam, staged, at).map_err(Trouble::Halt)?;
            return Ok(holds_others());
        }
        Ok(Taken::Back)
    }

    /// What was put and what it displaced change places again.
    fn exchange(&mut self, path: &ImagePath, staged: At<'_>, made: &Made) -> Result<Taken, Trouble> {
        if *made == Made::Directory {
            let (dir, name) = self.parents.of(path)?;
            if !is_empty_directory(At::new(dir, name))? {
                return Err(not_empty());
            }
        }
        self.exchanged(path, staged)?;
        if *made == Made::Directory && !is_empty_directory(staged)? {
            self.exchanged(path, staged).map_err(|_| Trouble::changed())?;
            return Err(not_empty());
        }
        Ok(Taken::Back)
    }

    fn exchanged(&mut self, path: &ImagePath, staged: At<'_>) -> Result<(), Trouble> {
        let Updater { seam, work, .. } = self.updater;
        let (seam, (dir, name)) = (&**seam, self.parents.of(path)?);
        Ok(work.despite_flags(seam, staged, || publish::exchange(seam, At::new(dir, name), staged))?)
    }

    fn place(&mut self, staged: At<'_>, path: &ImagePath) -> Result<(), Trouble> {
        let Updater { seam, work, .. } = self.updater;
        let (seam, (dir, name)) = (&**seam, self.parents.of(path)?);
        Ok(work.despite_flags(seam, staged, || publish::place(seam, staged, At::new(dir, name)))?)
    }

    /// What came to lie in a slot and is somebody else's.
    fn kept(&self, staged: At<'_>) -> io::Result<Taken> {
        Ok(changed_since(Some(self.updater.keep(staged)?)))
    }

    fn deleted(&mut self, path: &ImagePath, slot: Slot, old: Id, directory: bool) -> Result<Taken, Trouble> {
        let name = slot.name();
        let staged = At::new(self.updater.work.slots.as_fd(), &name);
        match self.updater.id_at(staged)? {
            None => return Ok(Taken::Back),
            Some(id) if id == old => {}
            // An attempt that died had given the path back, and not yet put away what somebody had made there.
            Some(_) => return Ok(self.kept(staged)?),
        }
        match self.at_path(path)? {
            None => {
                self.place(staged, path)?;
                self.with_later_edits(path, old)
            }
            Some(stat) if directory && is_directory(stat.stx_mode) => Ok(Taken::Conflict {
                reason: "somebody else made the directory again since; it stays".to_owned(),
                kept: None,
            }),
            Some(stat) => {
                self.must_not_be_mounted(path, &stat)?;
                self.exchanged(path, staged)?;
                Ok(self.kept(staged)?)
            }
        }
    }

    /// A file that was not copied to where it was put has come back with what was written to it there.
    fn with_later_edits(&mut self, path: &ImagePath, id: Id) -> Result<Taken, Trouble> {
        let Some((put, proven)) = self.linked.get(&id).copied() else { return Ok(Taken::Back) };
        let stat = self.at_path(path)?;
        if stat.is_none_or(|stat| self.updater.root.id(&stat) != id || Written::of(&stat) == proven) {
            return Ok(Taken::Back);
        }
        let reason = format!("it was moved to {put}, where somebody changed it since; it is back with that");
        Ok(Taken::Conflict { reason, kept: None })
    }

    fn attributes(&mut self, change: &Change) -> Result<Taken, Trouble> {
        let (updater, rules) = (self.updater, self.prepared.rules);
        let path = change.path();
        let handle = match change.of {
            Target::Directory => directory(&updater.root, path),
            Target::File | Target::Other => handle(updater, path),
        };
        let gone = || Taken::Conflict {
            reason: "something else is there since, whose metadata stay as they are".to_owned(),
            kept: None,
        };
        let handle = match handle {
            Err(error) if is_absent(&error) => return Ok(gone()),
            other => other?,
        };
        let stat = inode_of(&handle)?;
        if self.updater.root.id(&stat) != change.inode {
            return Ok(gone());
        }
        let now = Attributes::read(handle.as_fd(), &stat, rules)?;
        // Who wrote to it since did so at the time it tells.
        let written = now.mtime != change.after.mtime && now.mtime != change.before.mtime;
        let mut wanted = change.of.meanwhile(&change.before);
        if written {
            wanted.mtime = now.mtime;
        }
        redress(&*updater.seam, handle.as_fd(), &now, &wanted, rules)?;
        if !written {
            return Ok(Taken::Back);
        }
        let reason = "somebody else wrote to it since; that stays, with its time".to_owned();
        Ok(Taken::Conflict { reason, kept: None })
    }

    /// What is moved must not carry a mount along. What is no directory can only be a mount point itself, which the kernel
    /// does not move: it need not be asked before.
    fn must_not_be_mounted(&mut self, path: &ImagePath, stat: &Statx) -> Result<(), Trouble> {
        if is_directory(stat.stx_mode) || !self.mounts.are_held() {
            self.mounts.refresh()?;
        }
        match self.mounts.within(path) {
            Some(point) => Err(Trouble::Path(format!("something was mounted at {point} meanwhile"))),
            None => Ok(()),
        }
    }
}

fn is_empty_directory(at: At<'_>) -> Result<bool, Trouble> {
    Ok(is_empty(open_directory(at)?.as_fd())?)
}

/// Whether somebody has written to what was put, or made it the last name of an inode.
fn is_written(stat: &Statx, made: &Made) -> bool {
    match made {
        Made::File { written, .. } => Written::of(stat) != *written,
        Made::Link => stat.stx_nlink == 1,
        Made::Directory | Made::Other => false,
    }
}

fn changed_since(kept: Option<ImagePath>) -> Taken {
    Taken::Conflict { reason: "somebody else changed it since".to_owned(), kept }
}

fn holds_others() -> Taken {
    Taken::Conflict {
        reason: "the directory holds what is not the update's; it stays".to_owned(),
        kept: None,
    }
}

fn not_empty() -> Trouble {
    Trouble::because("the directory that was put there holds what is not the update's")
}
