//! The walk: a task for each directory, and for each handful of files in it.
//!
//! Tasks are queued with paths, not handles, so that what is open at a time goes by the number of threads, not by how
//! deep or wide the tree is; and no task waits for another, so that stacks stay flat. Whoever brings the last missing
//! part of a directory puts it together.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::ops::Bound;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dominator_core::inode::{Why, Xattrs};
use dominator_core::path::{ImagePath, Name};
use dominator_core::view::View;
use rayon::{Scope, ThreadPool};
use rustix::fs::Statx;
use rustix::io::Errno;

use super::ScanError;
use super::freshness::{Clock, Moment};
use super::identity::{FileKey, Identity};
use super::known::{Child, Extent, Holding, Known};
use super::listing::{self, Candidate};
use super::look::{self, Looker, unreadable};
use super::pending::{Basis, Outcome, Own, Pending};
use crate::root;

/// What all tasks share.
pub(super) struct Walk<'a> {
    pub(super) looker: Looker<'a>,
    pub(super) view: &'a View,
    pub(super) basis: Basis,
    pub(super) clock: &'a Clock,
    pub(super) expiry: Duration,
    /// Only these directories, if given, and what is new below them.
    pub(super) only: Option<BTreeSet<ImagePath>>,
    pub(super) seen: Seen,
}

/// What a walk brings in.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// What became of the root directory.
    top: Mutex<Option<Outcome>>,
    /// Why it ended early: the first reason.
    error: Mutex<Option<ScanError>>,
    /// Directories that must be looked at after all, as one in them was not what it had been.
    also: Mutex<BTreeSet<ImagePath>>,
    /// The files of several names that were looked at.
    pub(super) linked: Mutex<HashMap<FileKey, Identity>>,
}

/// What a walk came to.
pub(super) struct Walked {
    /// The root directory, with what is below it, unless nothing was found out of it.
    pub(super) top: Option<Arc<Known>>,
    pub(super) end: Result<(), ScanError>,
    pub(super) also: BTreeSet<ImagePath>,
    pub(super) linked: HashMap<FileKey, Identity>,
}

/// A directory that is being looked at.
pub(super) struct Here {
    pub(super) pending: Arc<Pending>,
    pub(super) handle: OwnedFd,
    pub(super) moment: Moment,
}

/// How many names one task compares with what they were: a stat each, mostly.
const CHUNK: usize = 64;

impl<'a> Walk<'a> {
    /// Looks at everything, going by what was known.
    pub(super) fn run(&self, pool: &ThreadPool, old: Option<Arc<Known>>) -> Walked {
        let pending = Arc::new(Pending::new(ImagePath::root(), None, old));
        pool.scope(|scope| self.directory(scope, pending, None));
        let error = lock(&self.seen.error).take();
        let top = match lock(&self.seen.top).take() {
            Some(Outcome::Known(known)) => Some(known),
            Some(Outcome::Vanished | Outcome::Unknown(..) | Outcome::NotSeen) | None => None,
        };
        Walked {
            top,
            // A scan that was over before it began has no error of its own.
            end: error.map_or_else(|| self.looker.check(), Err),
            also: std::mem::take(&mut lock(&self.seen.also)),
            linked: std::mem::take(&mut lock(&self.seen.linked)),
        }
    }

    /// The first error ends the walk.
    pub(super) fn note(&self, result: Result<(), ScanError>) {
        if let Err(error) = result {
            self.looker.ended.store(true, Ordering::Relaxed);
            lock(&self.seen.error).get_or_insert(error);
        }
    }

    /// A task of this directory is done. Whoever does the last one brings it to the directory it is in, and so on
    /// upwards.
    pub(super) fn finish(&self, mut pending: Arc<Pending>) {
        while pending.done() {
            let outcome = pending.complete(self.basis);
            let (Some(parent), Some((_, name))) = (pending.parent.clone(), pending.path.split()) else {
                *lock(&self.seen.top) = Some(outcome);
                return;
            };
            parent.receive(&name, outcome, pending.old.as_ref());
            pending = parent;
        }
    }

    /// Looks at a directory. `seen` is what it was when its name was looked at; nothing, where the name was taken over.
    fn directory<'s>(&'s self, scope: &Scope<'s>, pending: Arc<Pending>, seen: Option<FileKey>)
    where
        'a: 's,
    {
        if self.looker.check().is_ok() {
            let through =
                pending.old.clone().filter(|old| seen.is_none() && self.leads_through(&pending.path, old));
            match through {
                Some(old) => self.lead_through(scope, &pending, &old),
                None => self.note(self.enter(scope, &pending, seen)),
            }
        }
        self.finish(pending);
    }

    fn enter<'s>(
        &'s self,
        scope: &Scope<'s>,
        pending: &Arc<Pending>,
        seen: Option<FileKey>,
    ) -> Result<(), ScanError>
    where
        'a: 's,
    {
        let moment = self.moment();
        let (handle, candidates) = match self.open(pending, seen, moment) {
            Ok(opened) => opened,
            Err(source) if pending.parent.is_none() => return Err(ScanError::Root { source }),
            Err(error) => {
                pending.own(self.no_directory(pending, seen, &error)?);
                return Ok(());
            }
        };
        let here = Arc::new(Here { pending: Arc::clone(pending), handle, moment });
        let mut candidates = candidates.into_iter().peekable();
        loop {
            let chunk: Vec<_> = candidates.by_ref().take(CHUNK).collect();
            let here = Arc::clone(&here);
            pending.expect_one();
            if candidates.peek().is_none() {
                // The last one is no task of its own: most directories are small.
                self.chunk(scope, &here, chunk);
                return Ok(());
            }
            scope.spawn(move |scope| self.chunk(scope, &here, chunk));
        }
    }

    /// Opens a directory, finds out what it is, and says what there is to look at in it.
    fn open(
        &self,
        pending: &Pending,
        seen: Option<FileKey>,
        moment: Moment,
    ) -> io::Result<(OwnedFd, Vec<Candidate>)> {
        let handle = self.looker.root.directory_here(&pending.path)?;
        let stat = root::inode_of(&handle)?;
        if seen.is_some_and(|seen| seen != Identity::of(&stat).key()) {
            return Err(Errno::NOTDIR.into());
        }
        if pending.parent.is_some() && self.looker.root.is_elsewhere(&stat) {
            self.mounted(pending, &stat, root::xattrs_of(&handle, self.looker.policy)?);
            return Ok((handle, Vec::new()));
        }
        let old = pending.old.as_ref().filter(|_| self.basis == Basis::Entries);
        if let Some(old) = old.filter(|old| old.is_settled() && old.identity.is_same(&Identity::of(&stat))) {
            pending.holding(old.holding);
            let (identity, inode) = (old.identity, old.inode.clone());
            pending.own(Own::Listed { identity, inode, looked: moment.now() });
            return Ok((handle, listing::of(old)));
        }
        let (stat, xattrs, names) = self.list(&handle)?;
        let identity = Identity::of(&stat);
        let before = old.filter(|old| old.identity.is_same(&identity)).map(|old| old.looked);
        let identity = identity.with(moment.freshness(identity.changed(), before));
        let inode = self.view.inode(&look::directory(&stat, xattrs));
        pending.own(Own::Listed { identity, inode, looked: moment.now() });
        Ok((handle, listing::candidates(self.view, pending, names)))
    }

    /// What a directory is, and its names. If it changed meanwhile, it is listed once more; should it have changed even
    /// then, what it was before is no longer what it is, and so the next scan lists it again.
    fn list(&self, handle: &OwnedFd) -> io::Result<(Statx, Xattrs, listing::Names)> {
        let list = || {
            let before = root::inode_of(handle)?;
            let xattrs = root::xattrs_of(handle, self.looker.policy)?;
            Ok((before, xattrs, listing::names(handle)?))
        };
        let first: io::Result<_> = list();
        let first = first?;
        if Identity::of(&root::inode_of(handle)?) == Identity::of(&first.0) { Ok(first) } else { list() }
    }

    /// What is mounted there hides what the image calls by that name.
    fn mounted(&self, pending: &Pending, stat: &Statx, xattrs: Xattrs) {
        let inode = self.view.inode(&look::directory(stat, xattrs));
        pending.holding(Holding::Something);
        pending.own(Own::Listed { identity: Identity::of(stat), inode, looked: self.moment().now() });
    }

    /// A directory that was there when its name was read is not, or not readable.
    fn no_directory(
        &self,
        pending: &Pending,
        seen: Option<FileKey>,
        error: &io::Error,
    ) -> Result<Own, ScanError> {
        if let (None, Some(parent)) = (seen, &pending.parent) {
            // Nobody looked at its name: that comes first.
            lock(&self.seen.also).insert(parent.path.clone());
            return Ok(Own::AsBefore);
        }
        let (why, detail) = match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT) => return Ok(Own::Vanished),
            // Or it was moved out of the root, or something was mounted there.
            Some(Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => {
                (Why::Changing, "something else took the place of a directory".into())
            }
            _ => unreadable(error)?,
        };
        Ok(Own::Unknown(why, detail))
    }

    /// Looks at a directory found in another. One where something is mounted is not entered.
    pub(super) fn hand_on<'s>(
        &'s self,
        scope: &Scope<'s>,
        here: &Here,
        name: &Name,
        stat: &Statx,
        old: Option<&Arc<Known>>,
    ) where
        'a: 's,
    {
        let parent = &here.pending;
        let Ok(path) = parent.path.join(name) else { return };
        if let Some(old) = old.filter(|old| self.is_left_alone(&path, stat, old)) {
            parent.receive(name, Outcome::Known(Arc::clone(old)), None);
            return;
        }
        parent.expect_one();
        let pending = Arc::new(Pending::new(path, Some(Arc::clone(parent)), old.cloned()));
        let key = Identity::of(stat).key();
        if !self.looker.root.is_elsewhere(stat) {
            scope.spawn(move |scope| self.directory(scope, pending, Some(key)));
            return;
        }
        match root::xattrs_at(&here.handle, name.as_bytes(), self.looker.policy) {
            Ok(xattrs) => self.mounted(&pending, stat, xattrs),
            Err(error) => {
                self.note(self.no_directory(&pending, Some(key), &error).map(|own| pending.own(own)))
            }
        }
        self.finish(pending);
    }

    /// Takes a directory over as it is known, but for those on the way to what is to be looked at.
    fn lead_through<'s>(&'s self, scope: &Scope<'s>, pending: &Arc<Pending>, old: &Arc<Known>)
    where
        'a: 's,
    {
        pending.own(Own::Listed { identity: old.identity, inode: old.inode.clone(), looked: old.looked });
        pending.same_doubts(old);
        let mut kept = Vec::with_capacity(old.identities.len());
        for (place, entry, child) in old.places() {
            let Child::Directory(known) = child else {
                kept.push(place);
                continue;
            };
            let name = entry.to_name();
            match pending.path.join(&name).ok().filter(|path| self.is_wanted(path)) {
                Some(path) => {
                    pending.expect_one();
                    let below = Pending::new(path, Some(Arc::clone(pending)), Some(Arc::clone(known)));
                    scope.spawn(move |scope| self.directory(scope, Arc::new(below), None));
                }
                None => pending.receive(&name, Outcome::Known(Arc::clone(known)), None),
            }
        }
        pending.keep(kept);
    }

    /// Whether something at or below `path` is to be looked at.
    fn is_wanted(&self, path: &ImagePath) -> bool {
        self.wanted(path).next().is_some()
    }

    fn wanted(&self, path: &ImagePath) -> impl Iterator<Item = &ImagePath> {
        let from = (Bound::Included(path), Bound::Unbounded);
        let rest = self.only.iter().flat_map(move |only| only.range::<ImagePath, _>(from));
        rest.take_while(move |wanted| wanted.is_within(path))
    }

    /// Whether a directory is only on the way to those to be looked at, and known to lead there.
    fn leads_through(&self, path: &ImagePath, old: &Known) -> bool {
        let depth = path.components().count();
        let leads = |wanted: &ImagePath| {
            let next = wanted.components().nth(depth).and_then(|name| old.directory.entry(name));
            next.is_some_and(|entry| entry.directory().is_some())
        };
        self.is_taken_over(old) && self.is_wanted(path) && self.wanted(path).all(leads)
    }

    /// Whether a directory found in one that is looked at need not be looked at itself. Also when it is fresh, with all that
    /// is fresh below it: that is for the scan of everything, or a hint at `/` would read all that was installed lately.
    fn is_left_alone(&self, path: &ImagePath, stat: &Statx, old: &Known) -> bool {
        self.is_taken_over(old) && old.identity.is_same(&Identity::of(stat)) && !self.is_wanted(path)
    }

    fn is_taken_over(&self, old: &Known) -> bool {
        self.only.is_some() && self.basis == Basis::Entries && old.extent == Extent::Whole
    }

    /// The scan is over: what was known of these names stays, what was not stays unknown.
    pub(super) fn leave_out(&self, pending: &Pending, rest: impl Iterator<Item = Candidate>) {
        let mut kept = Vec::new();
        for candidate in rest {
            pending.cut();
            match (candidate, &pending.old) {
                (Candidate::File(place), _) => kept.push(place),
                (Candidate::Directory(place), Some(old)) => {
                    let entry = old.directory.nth(place.entry as usize);
                    if let Some(entry) = entry {
                        let known = old.below.get(place.rank as usize);
                        pending.receive(&entry.to_name(), Outcome::NotSeen, known);
                    }
                }
                (Candidate::Directory(_), None) | (Candidate::New(..), _) => {}
            }
        }
        pending.keep(kept);
    }

    fn moment(&self) -> Moment {
        Moment::new(self.clock.now(), self.expiry)
    }
}

/// Locks; a thread that panicked while it held the lock ends the whole pool anyway.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
