//! The tasks that look at the names of one directory, a few at a time.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dominator_core::inode::{Inode, Timestamp};
use dominator_core::object::ObjectId;
use dominator_core::path::Name;
use dominator_core::tree::Entry;
use rayon::Scope;
use rustix::fs::{FileType, Statx};

use super::ScanError;
use super::identity::{Freshness, Identity, Links, type_of};
use super::known::{Holding, Known};
use super::listing::Candidate;
use super::look::{Look, Subject, is_gone, unreadable};
use super::pending::{Basis, Batch, Place};
use super::walk::{Here, Walk, lock};
use crate::root;

/// How many files one task reads: enough to be worth a task, few enough to share out a directory of large files.
const HANDFUL: usize = 16;

/// A name that must be looked at.
struct Work {
    name: Name,
    stat: Option<Box<Statx>>,
    before: Option<(Identity, Timestamp)>,
    object: Option<ObjectId>,
}

impl<'a> Walk<'a> {
    /// Finds out which of some names must be looked at, and has that done.
    pub(super) fn chunk<'s>(&'s self, scope: &Scope<'s>, here: &Arc<Here>, chunk: Vec<Candidate>)
    where
        'a: 's,
    {
        let mut candidates = chunk.into_iter();
        let (mut kept, mut work) = (Vec::new(), Vec::new());
        while self.looker.check().is_ok() {
            let Some(candidate) = candidates.next() else { break };
            match self.sift(scope, here, candidate) {
                Ok(Sifted::Same(place)) => kept.push(place),
                Ok(Sifted::Work(name)) => work.push(name),
                Ok(Sifted::Done) => {}
                Err(error) => {
                    here.pending.cut();
                    self.note(Err(error));
                }
            }
        }
        self.looker.progress.files.fetch_add(kept.len() as u64, Ordering::Relaxed);
        self.looker.pacer.pace(self.looker.cancel);
        here.pending.keep(kept);
        self.leave_out(&here.pending, candidates);
        let mut work = work.into_iter().peekable();
        while work.peek().is_some() {
            let handful: Vec<_> = work.by_ref().take(HANDFUL).collect();
            let task = Arc::clone(here);
            here.pending.expect_one();
            if work.peek().is_none() {
                self.handful(scope, &task, handful);
            } else {
                scope.spawn(move |scope| self.handful(scope, &task, handful));
            }
        }
        self.finish(Arc::clone(&here.pending));
    }

    fn sift<'s>(
        &'s self,
        scope: &Scope<'s>,
        here: &Arc<Here>,
        candidate: Candidate,
    ) -> Result<Sifted, ScanError>
    where
        'a: 's,
    {
        let old = here.pending.old.as_ref();
        let (place, entry) = match candidate {
            // One that was put in place just now need not be opened, and a look tells.
            Candidate::New(name, FileType::RegularFile) if self.looker.installed.is_none() => {
                return Ok(Sifted::Work(Work { name, stat: None, before: None, object: None }));
            }
            Candidate::New(name, _) => return self.stat(scope, here, name, None),
            Candidate::File(place) | Candidate::Directory(place) => {
                (place, old.and_then(|old| old.directory.nth(place.entry as usize)))
            }
        };
        let (Some(old), Some(entry)) = (old, entry) else { return Ok(Sifted::Done) };
        if entry.directory().is_some() {
            let known = old.below.get(place.rank as usize);
            return self.stat(scope, here, entry.to_name(), known);
        }
        let Some(before) = old.identities.get(place.rank as usize) else { return Ok(Sifted::Done) };
        self.compare(scope, here, old, place, entry, before)
    }

    /// Whether a file is what it was.
    fn compare<'s>(
        &'s self,
        scope: &Scope<'s>,
        here: &Arc<Here>,
        old: &Known,
        place: Place,
        entry: Entry<'_>,
        before: &Identity,
    ) -> Result<Sifted, ScanError>
    where
        'a: 's,
    {
        let stat = match root::inode_at(&here.handle, entry.name()) {
            Ok(stat) => stat,
            Err(_) => return self.stat(scope, here, entry.to_name(), None),
        };
        let same = before.is_same(&Identity::of(&stat)) && !entry.is_unknown();
        let due = before.freshness == Freshness::Fresh && here.moment.is_due(before.changed(), old.looked);
        if same && !due && self.basis == Basis::Entries && !self.looker.root.is_elsewhere(&stat) {
            return Ok(Sifted::Same(place));
        }
        let name = entry.to_name();
        match type_of(&stat) {
            FileType::Directory => self.hand_on(scope, here, &name, &stat, None),
            FileType::Socket => here.pending.holding(Holding::Something),
            FileType::RegularFile
            | FileType::Symlink
            | FileType::Fifo
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => {
                let (before, object) = match same {
                    true => (Some((*before, old.looked)), entry.object().map(|(object, _)| object)),
                    false => (None, None),
                };
                return Ok(Sifted::Work(Work { name, stat: Some(Box::new(stat)), before, object }));
            }
        }
        Ok(Sifted::Done)
    }

    /// Finds out what a name is, of which nothing is known but perhaps the directory it was.
    fn stat<'s>(
        &'s self,
        scope: &Scope<'s>,
        here: &Arc<Here>,
        name: Name,
        known: Option<&Arc<Known>>,
    ) -> Result<Sifted, ScanError>
    where
        'a: 's,
    {
        match root::inode_at(&here.handle, name.as_bytes()) {
            Ok(stat) if type_of(&stat).is_dir() => self.hand_on(scope, here, &name, &stat, known),
            Ok(stat) if type_of(&stat).is_socket() => here.pending.holding(Holding::Something),
            Ok(stat) => {
                return Ok(Sifted::Work(Work {
                    name,
                    stat: Some(Box::new(stat)),
                    before: None,
                    object: None,
                }));
            }
            Err(error) if is_gone(&error) => {}
            Err(error) => {
                let (why, detail) = unreadable(&error)?;
                here.pending.unknown(&name, why, detail, Identity::default());
            }
        }
        Ok(Sifted::Done)
    }

    /// Looks at a few names.
    fn handful<'s>(&'s self, scope: &Scope<'s>, here: &Arc<Here>, handful: Vec<Work>)
    where
        'a: 's,
    {
        let mut seen = Vec::with_capacity(handful.len());
        for work in handful {
            let look = self.looker.check().and_then(|()| {
                let Work { name, stat, before, object } = &work;
                let (dir, name) = (here.handle.as_fd(), name.as_bytes());
                let subject =
                    Subject { dir, name, stat: stat.as_deref().copied(), before: *before, object: *object };
                self.looker.look(subject, here.moment)
            });
            match look {
                Ok(Look::Known(inode, identity)) => seen.push((work.name, self.view.inode(&inode), identity)),
                Ok(Look::Unknown(why, detail, identity)) => {
                    self.notice_links(&identity);
                    here.pending.unknown(&work.name, why, detail, identity);
                }
                Ok(Look::Vanished) => {}
                Ok(Look::Other(stat)) if type_of(&stat).is_dir() => {
                    self.hand_on(scope, here, &work.name, &stat, None);
                }
                Ok(Look::Other(_)) => here.pending.holding(Holding::Something),
                Err(error) => {
                    here.pending.cut();
                    self.note(Err(error));
                }
            }
        }
        self.looker.progress.files.fetch_add(seen.len() as u64, Ordering::Relaxed);
        if !seen.is_empty() {
            self.bring(here, seen);
        }
        self.finish(Arc::clone(&here.pending));
    }

    fn bring(&self, here: &Here, mut seen: Vec<(Name, Inode, Identity)>) {
        seen.sort_unstable_by(|(a, ..), (b, ..)| a.cmp(b));
        let mut batch = Batch::default();
        for (name, inode, identity) in &seen {
            self.notice_links(identity);
            if let Err(detail) = batch.push(name, inode, *identity) {
                here.pending.missing(detail);
            }
        }
        here.pending.add(batch);
    }

    /// Other names of a file may be in directories that are not looked at.
    fn notice_links(&self, identity: &Identity) {
        if self.only.is_some() && identity.links == Links::Several {
            lock(&self.seen.linked).insert(identity.key(), *identity);
        }
    }
}

/// What is to be done about a name.
enum Sifted {
    /// Nothing: it is what it was.
    Same(Place),
    /// It is to be looked at.
    Work(Work),
    /// All was done.
    Done,
}
