//! A replica of an image server: what it does about each image its master has, or has not, as a pure machine. Whoever drives
//! it looks at names, fetches and deletes, and says what became of it.
//!
//! **A replica deletes only what its master says was deleted**, and only the very image that was there. A name that is merely
//! absent from the list of a master (which lost its disk, was restored from an old backup, or is another server altogether) is
//! *held*: kept, told of, and given up only when an operator agrees. So a server that forgets wipes nobody.

mod policy;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use self::policy::{ArchivedExpiry, Mode, Policy};
pub use self::verdict::{Held, Verdict, decide};
use crate::backoff::{Backoff, Spread};
use crate::herd::Moment;
use crate::image::{ImageName, ImageState, LastingId};

/// The pauses between attempts at one image: a first and a longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What is to be done about one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Fetch the image.
    Fetch,
    /// What is here has expired: remove it, and fetch what the master has.
    Replace,
    /// Take over expiry and owners.
    Refresh,
    /// Delete what is here.
    Delete,
}

/// What became of a name that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Nothing is to be done.
    Agreed,
    /// This is; say with [`Replica::done`] or [`Replica::failed`] what came of it.
    Do(Task),
    /// It is held, and was before.
    StillHeld(Held),
    /// It is held from now on: tell somebody.
    NewlyHeld(Held),
}

/// What a replica knows of the difference to its master.
#[derive(Debug)]
pub struct Replica {
    policy: Policy,
    spread: Spread,
    /// The names of a list that has not ended.
    listing: Option<BTreeSet<ImageName>>,
    /// Names to look at.
    pending: BTreeSet<ImageName>,
    /// Names that failed, which are looked at again later.
    waiting: BTreeMap<ImageName, (Moment, Backoff)>,
    held: BTreeMap<ImageName, (Held, Option<LastingId>)>,
    /// What an operator has given up.
    accepted: BTreeMap<ImageName, LastingId>,
    /// Whether all of the master's list was heard.
    listed: bool,
}

impl Replica {
    /// One that knows nothing of its master yet. `spread` tells its pauses from those of others.
    pub fn new(policy: Policy, spread: Spread) -> Self {
        Self {
            policy,
            spread,
            listing: None,
            pending: BTreeSet::new(),
            waiting: BTreeMap::new(),
            held: BTreeMap::new(),
            accepted: BTreeMap::new(),
            listed: false,
        }
    }

    /// The master begins to list its images. What it said of a list before that did not end is forgotten.
    pub fn list_begins(&mut self) {
        self.listing = Some(BTreeSet::new());
    }

    /// It has these.
    pub fn listed(&mut self, names: impl IntoIterator<Item = ImageName>) {
        self.listing.get_or_insert_default().extend(names);
    }

    /// That were all of them, and `here` is what there is here. All of both is looked at: what is in one only, too.
    pub fn list_ends(&mut self, here: impl IntoIterator<Item = ImageName>) {
        self.pending.extend(self.listing.take().unwrap_or_default());
        self.pending.extend(here);
        self.pending.extend(std::mem::take(&mut self.waiting).into_keys());
        self.listed = true;
    }

    /// Something has changed about a name.
    pub fn changed(&mut self, name: ImageName) {
        self.waiting.remove(&name);
        self.pending.insert(name);
    }

    /// The connection is lost: a list that has not ended says nothing. What is to be looked at stays.
    pub fn lost(&mut self) {
        self.listing = None;
    }

    /// Up to `most` names to look at now, here and at the master. They stay to be looked at until [`Replica::looked`] is told
    /// of them.
    pub fn to_look_at(&mut self, now: Moment, most: usize) -> Vec<ImageName> {
        let due: Vec<_> =
            self.waiting.iter().filter(|(_, (at, _))| *at <= now).map(|(name, _)| name.clone()).collect();
        // What has failed keeps its pauses in mind until it succeeds.
        self.pending.extend(due);
        self.pending.iter().take(most).cloned().collect()
    }

    /// When there is something to look at again, if not now.
    pub fn wake_at(&self) -> Option<Moment> {
        self.waiting.values().map(|(at, _)| *at).min()
    }

    /// What is to be done about a name that was looked at, when it is `seconds` since 1970.
    pub fn looked(&mut self, name: &ImageName, here: ImageState, there: ImageState, seconds: u64) -> Settled {
        self.pending.remove(name);
        let was_held = self.held.remove(name).map(|(why, _)| why);
        let accepted = self.accepted.remove(name);
        let ours = match here {
            ImageState::Present { lasting, .. } => Some(lasting),
            ImageState::Absent | ImageState::Deleted { .. } => None,
        };
        let verdict = decide(&self.policy, name, here, there, seconds);
        let settled = match verdict {
            Verdict::Agreed => Settled::Agreed,
            Verdict::Do(task) => Settled::Do(task),
            Verdict::Hold(why) if why.can_be_accepted() && accepted.is_some() && accepted == ours => {
                Settled::Do(Task::Delete)
            }
            Verdict::Hold(why) => {
                self.held.insert(name.clone(), (why, ours));
                if was_held == Some(why) { Settled::StillHeld(why) } else { Settled::NewlyHeld(why) }
            }
        };
        if !matches!(settled, Settled::Do(_)) {
            self.waiting.remove(name);
        }
        settled
    }

    /// What was to be done about a name is done.
    pub fn done(&mut self, name: &ImageName) {
        self.waiting.remove(name);
    }

    /// It could not be done; it is looked at again, ever later.
    pub fn failed(&mut self, name: &ImageName, now: Moment) {
        let fresh = || (now, Backoff::new(RETRY.0, RETRY.1, self.spread));
        let (at, backoff) = self.waiting.entry(name.clone()).or_insert_with(fresh);
        *at = now.after(backoff.pause());
    }

    /// The connection broke while it was being done, which is no fault of the image: it is looked at as soon as there is one.
    pub fn interrupted(&mut self, name: &ImageName) {
        self.pending.insert(name.clone());
    }

    /// An operator gives up images that are held. They are deleted when the master, asked once more, still does not have them.
    /// Returns which of `names` are none of those.
    pub fn accept(&mut self, names: &[ImageName]) -> Vec<ImageName> {
        let mut refused = Vec::new();
        for name in names {
            match self.held.get(name) {
                Some((why, Some(ours))) if why.can_be_accepted() => {
                    self.accepted.insert(name.clone(), *ours);
                    self.pending.insert(name.clone());
                }
                Some(_) | None => refused.push(name.clone()),
            }
        }
        refused
    }

    /// What is held, in order, and why.
    pub fn held(&self) -> impl ExactSizeIterator<Item = (&ImageName, Held)> {
        self.held.iter().map(|(name, (why, _))| (name, *why))
    }

    /// How many names are still to be looked at, or failed.
    pub fn behind(&self) -> usize {
        self.pending.len() + self.waiting.keys().filter(|name| !self.pending.contains(*name)).count()
    }

    /// Whether all that the master has said is done, but for what is held.
    pub fn is_in_sync(&self) -> bool {
        self.listed && self.listing.is_none() && self.behind() == 0
    }
}
