use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use dominator_core::path::ImagePath;
use dominator_core::port::{PathFailure, UpdateReport};
use rustix::io::Errno;

use super::Updater;
use super::displace::held_by;
use super::error::Trouble;
use super::id::Id;
use super::lift::{End, is_privileged};
use super::metadata::{Attributes, redress};
use super::parents::Parents;
use super::stage::{directory, handle, has_names, is_absent};
use super::step::{Change, Made, Old, Prepared, Slot, Step, Target};
use crate::mounts::Mounts;
use crate::publish;
use crate::root::{Statx, inode_at, inode_of, is_empty, open_directory};
use crate::seam::At;

/// Whether steps may have been made before, by a process that died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    First,
    Again,
}

/// Where a swap stopped, and why.
#[derive(Debug)]
pub(super) struct Stopped {
    /// How many steps were tried, that one included.
    pub(super) tried: usize,
    pub(super) path: ImagePath,
    pub(super) source: io::Error,
}

/// What came of a step that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    /// It holds what is not in view, or something is mounted there.
    Kept,
}

impl Updater {
    /// Makes all steps, one after the other, each path in one step. It has all that may be in the way lifted first, and
    /// lowers it again.
    pub(super) fn make(
        &self,
        prepared: &Prepared,
        mounts: Mounts,
        attempt: Attempt,
    ) -> Result<UpdateReport, Stopped> {
        let stopped = |tried, (path, source)| Stopped { tried, path, source };
        self.lift(&prepared.lifts).map_err(|error| stopped(0, error))?;
        let report = UpdateReport {
            applied: prepared.done,
            failures: prepared.failures.clone(),
            ..UpdateReport::default()
        };
        let mut swap = Swap {
            updater: self,
            prepared,
            parents: Parents::of_root(&self.root),
            mounts,
            attempt,
            deleted: None,
            given: None,
            failed: BTreeSet::new(),
            wrong: BTreeSet::new(),
            report,
        };
        swap.all()?;
        let Swap { mut report, .. } = swap;
        self.are_proven(prepared).map_err(|error| stopped(prepared.steps.len(), error))?;
        let lowered = self.lower(prepared, End::Made);
        report.failures.extend(lowered.map_err(|error| stopped(prepared.steps.len(), error))?);
        Ok(report)
    }
}

struct Swap<'a> {
    updater: &'a Updater,
    prepared: &'a Prepared,
    parents: Parents,
    mounts: Mounts,
    attempt: Attempt,
    /// Every path that is deleted, once somebody asked.
    deleted: Option<BTreeSet<ImagePath>>,
    /// How many names inodes are given, once somebody asked.
    given: Option<HashMap<Id, usize>>,
    /// Paths that failed.
    failed: BTreeSet<ImagePath>,
    /// Inodes that are not where, or not as they must be: no more names for them.
    wrong: BTreeSet<Id>,
    report: UpdateReport,
}

impl Swap<'_> {
    fn all(&mut self) -> Result<(), Stopped> {
        let start = Instant::now();
        let mut last = Duration::ZERO;
        for (before, step) in self.prepared.steps.iter().enumerate() {
            let outcome = self.step(step);
            last = start.elapsed();
            match outcome {
                Ok(Outcome::Done) => self.report.applied += 1,
                Ok(Outcome::Kept) => self.report.kept.push(step.path()),
                Err(Trouble::Path(reason)) => self.fail(step, reason),
                Err(Trouble::Halt(source)) => {
                    return Err(Stopped { tried: before + 1, path: step.path(), source });
                }
            }
        }
        self.report.window = last;
        Ok(())
    }

    fn fail(&mut self, step: &Step, reason: String) {
        let path = step.path();
        match step {
            Step::Put { new, .. } => drop(self.wrong.insert(*new)),
            Step::Attributes(change) => drop(self.wrong.insert(change.inode)),
            Step::Delete { .. } => {}
        }
        self.failed.insert(path.clone());
        self.report.failures.push(PathFailure { path, reason });
    }

    fn step(&mut self, step: &Step) -> Result<Outcome, Trouble> {
        match step {
            Step::Put { path, slot, new, old, .. } => self.put(path, *slot, *new, *old),
            Step::Attributes(change) => self.attributes(change),
            Step::Delete { path, slot, old, directory: false } => self.delete_file(path, *slot, *old),
            Step::Delete { path, slot, old, directory: true } => self.delete_directory(path, *slot, *old),
        }
    }

    fn put(&mut self, path: &ImagePath, slot: Slot, new: Id, old: Old) -> Result<Outcome, Trouble> {
        if self.wrong.contains(&new) {
            return Err(Trouble::because("what it should share an inode with is not right"));
        }
        let (name, slots) = (slot.name(), self.updater.work.slots.as_fd());
        let staged = At::new(slots, &name);
        let made = self.attempt == Attempt::Again && self.updater.id_at(staged)? != Some(new);
        if made {
            self.must_be_there(path, new)?;
        } else {
            self.move_in(path, staged, old)?;
        }
        if old == Old::Nothing {
            return Ok(Outcome::Done);
        }
        match self.displaced(path, staged, new, old) {
            Ok(()) => Ok(Outcome::Done),
            Err(trouble) => {
                self.exchange_back(path, staged, new)?;
                Err(trouble)
            }
        }
    }

    /// What is new takes its place, in one step.
    fn move_in(&mut self, path: &ImagePath, staged: At<'_>, old: Old) -> Result<(), Trouble> {
        if old != Old::Nothing || self.attempt == Attempt::Again {
            self.must_not_be_mounted(path, old)?;
        }
        let seam = &*self.updater.seam;
        let (dir, at) = self.parents.of(path)?;
        let at = At::new(dir, at);
        let moved = match old {
            Old::Nothing => publish::place(seam, staged, at),
            Old::Other(_) => publish::exchange(seam, staged, at),
            Old::Directory(id) => {
                let there = open_directory(at).map_err(|_| Trouble::changed())?;
                if self.updater.root.id(&inode_of(&there)?) != id {
                    return Err(Trouble::changed());
                }
                let deleted = self.deleted.get_or_insert_with(|| deleted(self.prepared));
                if let Some(held) = held_by(&self.updater.root, there.as_fd(), path, deleted)? {
                    return Err(must_stay(&held));
                }
                publish::exchange(seam, staged, at)
            }
        };
        match moved {
            // Somebody made it meanwhile, or removed it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Trouble::changed()),
            Err(error) if error.kind() == io::ErrorKind::NotFound && old != Old::Nothing => {
                Err(Trouble::changed())
            }
            other => Ok(other?),
        }
    }

    /// What lies in a slot is removed in the end: what can't go back now, because somebody was faster again, is kept. What
    /// else goes wrong has everything undone.
    fn exchange_back(&mut self, path: &ImagePath, staged: At<'_>, new: Id) -> Result<(), Trouble> {
        let updater = self.updater;
        let exchanged = self.parents.of(path).and_then(|(dir, name)| {
            let at = At::new(dir, name);
            let ours = updater.id_at(at)? == Some(new);
            if ours { publish::exchange(&*updater.seam, staged, at) } else { Err(Errno::EXIST.into()) }
        });
        match exchanged {
            Err(error) if is_taken(&error) => return Err(self.kept(staged)),
            other => other.map_err(Trouble::Halt)?,
        }
        if updater.id_at(staged).map_err(Trouble::Halt)? != Some(new) {
            return Err(self.kept(staged));
        }
        Ok(self.mounts.read()?)
    }

    /// Says where that is now which nobody must lose.
    fn kept(&self, staged: At<'_>) -> Trouble {
        match self.updater.keep(staged) {
            Ok(kept) => {
                Trouble::Path(format!("somebody else changed it twice; what was there first is {kept} now"))
            }
            Err(error) => Trouble::Halt(error),
        }
    }

    /// What was made by a process that died is there, unless somebody changed it since.
    fn must_be_there(&mut self, path: &ImagePath, new: Id) -> Result<(), Trouble> {
        let (dir, name) = self.parents.of(path)?;
        if self.updater.id_at(At::new(dir, name))? == Some(new) { Ok(()) } else { Err(Trouble::changed()) }
    }

    /// Looks at what was displaced, now that nobody can reach it any more. What is not what was there when the update was
    /// prepared, or must not go, or can't be looked at, goes back.
    fn displaced(&mut self, path: &ImagePath, staged: At<'_>, new: Id, old: Old) -> Result<(), Trouble> {
        let now = self.updater.id_at(staged)?;
        // Two names of one inode can't change places: it was there already.
        if now == Some(new) {
            return Ok(());
        }
        if now != old.id() {
            return Err(Trouble::changed());
        }
        if !matches!(old, Old::Directory(_)) {
            return Ok(());
        }
        // What was mounted in it after the last look has come along.
        self.mounts.read()?;
        if self.mounts.within(&self.updater.work.slot_path(staged.name)).is_some() {
            return Err(Trouble::because("something was mounted in it at the same time"));
        }
        let deleted = self.deleted.get_or_insert_with(|| deleted(self.prepared));
        match held_by(&self.updater.root, open_directory(staged)?.as_fd(), path, deleted)? {
            Some(held) => Err(must_stay(&held)),
            None => Ok(()),
        }
    }

    fn attributes(&mut self, change: &Change) -> Result<Outcome, Trouble> {
        let (updater, rules) = (self.updater, self.prepared.rules);
        let path = change.path();
        let handle = match change.of {
            Target::Directory => directory(&updater.root, path)?,
            Target::File | Target::Other => handle(updater, path)?,
        };
        let stat = inode_of(&handle)?;
        let mut same = self.updater.root.id(&stat) == change.inode;
        if change.of != Target::Directory {
            same = same && (has_names(stat.stx_nlink, &change.paths) || self.has_new_names(&stat, change));
            for other in change.paths.iter().skip(1) {
                let (dir, name) = self.parents.of(other)?;
                same = same && self.updater.root.id(&inode_at(dir, name)?) == change.inode;
            }
        }
        if !same {
            return Err(Trouble::because("it changed since it was scanned"));
        }
        let now = Attributes::read(handle.as_fd(), &stat, rules)?;
        let wanted = change.of.meanwhile(&change.after);
        redress(&*updater.seam, handle.as_fd(), &now, &wanted, rules)?;
        Ok(Outcome::Done)
    }

    /// Whether an inode has no names but those it had and those this update gives it, which exist since it was staged.
    fn has_new_names(&mut self, stat: &Statx, change: &Change) -> bool {
        let given = self.given.get_or_insert_with(|| links(self.prepared)).get(&change.inode).copied();
        usize::try_from(stat.stx_nlink)
            .is_ok_and(|names| Some(names) == given.map(|given| given + change.paths.len()))
    }

    fn delete_file(&mut self, path: &ImagePath, slot: Slot, old: Id) -> Result<Outcome, Trouble> {
        let name = slot.name();
        let staged = At::new(self.updater.work.slots.as_fd(), &name);
        let seam = &*self.updater.seam;
        if self.attempt == Attempt::First || self.updater.id_at(staged)?.is_none() {
            if self.mounted_within(path)?.is_some() {
                return Ok(Outcome::Kept);
            }
            let moved = self
                .parents
                .of(path)
                .and_then(|(dir, name)| publish::place(seam, At::new(dir, name), staged));
            match moved {
                // Also when something else has taken the place of a directory on the way, as the plan may have it.
                Err(error) if is_absent(&error) => return Ok(Outcome::Done),
                other => other?,
            }
        }
        if self.updater.id_at(staged)? == Some(old) {
            return Ok(Outcome::Done);
        }
        self.put_back(path, staged)?;
        Err(Trouble::changed())
    }

    /// Somebody may put something into a directory until nobody can reach it any more: it is looked into before and after.
    fn delete_directory(&mut self, path: &ImagePath, slot: Slot, old: Id) -> Result<Outcome, Trouble> {
        let name = slot.name();
        let staged = At::new(self.updater.work.slots.as_fd(), &name);
        let seam = &*self.updater.seam;
        if self.attempt == Attempt::First || self.updater.id_at(staged)?.is_none() {
            if self.mounted_within(path)?.is_some() {
                return Ok(Outcome::Kept);
            }
            let there = self.parents.of(path).and_then(|(dir, name)| {
                let at = At::new(dir, name);
                open_directory(at).map(|opened| (at, opened))
            });
            let (at, there) = match there {
                Err(error) if is_absent(&error) => return Ok(Outcome::Done),
                other => other?,
            };
            if self.updater.root.id(&inode_of(&there)?) != old {
                return Err(Trouble::changed());
            }
            if !is_empty(there.as_fd())? {
                return self.not_empty(path);
            }
            publish::place(seam, at, staged).map_err(|error| match Errno::from_io_error(&error) {
                Some(Errno::XDEV) if self.updater.root.is_layered() => Trouble::because(
                    "it comes from a lower layer of an overlay, whose directories can't be moved; mount that with \
                     redirect_dir=on",
                ),
                _ => error.into(),
            })?;
        }
        if self.updater.id_at(staged)? != Some(old) {
            self.put_back(path, staged)?;
            return Err(Trouble::changed());
        }
        if open_directory(staged).and_then(|dir| is_empty(dir.as_fd())).unwrap_or(false) {
            return Ok(Outcome::Done);
        }
        self.put_back(path, staged)?;
        self.not_empty(path)
    }

    fn not_empty(&self, path: &ImagePath) -> Result<Outcome, Trouble> {
        // What is in a directory stands right behind it.
        match self.failed.range(path..).next().filter(|failed| failed.is_within(path)) {
            Some(failed) => Err(Trouble::Path(format!("it holds {failed}, which could not be deleted"))),
            None => Ok(Outcome::Kept),
        }
    }

    /// As [`Self::exchange_back`], where nothing is by now.
    fn put_back(&mut self, path: &ImagePath, staged: At<'_>) -> Result<(), Trouble> {
        let seam = &*self.updater.seam;
        let placed =
            self.parents.of(path).and_then(|(dir, name)| publish::place(seam, staged, At::new(dir, name)));
        match placed {
            Err(error) if is_taken(&error) => Err(self.kept(staged)),
            other => other.map_err(Trouble::Halt),
        }
    }

    fn must_not_be_mounted(&mut self, path: &ImagePath, old: Old) -> Result<(), Trouble> {
        if matches!(old, Old::Directory(_)) {
            self.mounts.read()?;
        }
        self.mounted_within(path)?.map_or(Ok(()), |point| Err(Trouble::mounted(&point)))
    }

    /// The mount point that keeps a path where it is, as things are now.
    fn mounted_within(&mut self, path: &ImagePath) -> Result<Option<ImagePath>, Trouble> {
        self.mounts.refresh()?;
        Ok(self.mounts.within(path).cloned())
    }
}

impl Updater {
    /// Which inode lies in a slot, or at any other name.
    pub(super) fn id_at(&self, at: At<'_>) -> io::Result<Option<Id>> {
        Ok(stat_at(at)?.map(|stat| self.root.id(&stat)))
    }
}

impl Target {
    /// What attributes it gets until the end: without privileges a directory must be accessible until then.
    pub(super) fn meanwhile(self, wanted: &Attributes) -> Attributes {
        if self == Self::Directory && !is_privileged() { wanted.accessible() } else { wanted.clone() }
    }
}

/// Whether somebody has put something else at a path, or taken away the directory it was in.
fn is_taken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AlreadyExists || is_absent(error)
}

fn must_stay(held: &str) -> Trouble {
    Trouble::Path(format!("a directory stands there and must not go: {held}"))
}

/// How many further names each inode gets.
fn links(prepared: &Prepared) -> HashMap<Id, usize> {
    let mut links = HashMap::new();
    for step in &prepared.steps {
        if let Step::Put { new, made: Made::Link, .. } = step {
            *links.entry(*new).or_default() += 1;
        }
    }
    links
}

fn deleted(prepared: &Prepared) -> BTreeSet<ImagePath> {
    let deleted = prepared.steps.iter().filter_map(|step| match step {
        Step::Delete { path, .. } => Some(path.clone()),
        Step::Put { .. } | Step::Attributes(_) => None,
    });
    deleted.collect()
}

/// What lies in a slot, or at any other name.
pub(super) fn stat_at(at: At<'_>) -> io::Result<Option<Statx>> {
    match inode_at(at.dir, at.name) {
        Ok(stat) => Ok(Some(stat)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
