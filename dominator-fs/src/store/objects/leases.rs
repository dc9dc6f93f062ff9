//! Who needs objects that no image needs, yet or any more.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dominator_core::object::ObjectId;

use super::ObjectStore;

/// What is held, and what was since a collection began.
#[derive(Debug, Default)]
pub(super) struct Leases {
    held: Mutex<Held>,
    /// Held by whoever collects.
    collecting: Mutex<()>,
}

#[derive(Debug, Default)]
pub(super) struct Held {
    /// How many hold each.
    by: HashMap<ObjectId, u32>,
    /// While a collection runs: what was held at any time since it began. What images need is found out before something is
    /// removed; who held an object in between may have made an image of it.
    spared: Option<HashSet<ObjectId>>,
}

impl Leases {
    /// Waits until nobody else collects.
    pub(super) fn collect(&self) -> MutexGuard<'_, ()> {
        let turn = self.collecting.lock().unwrap_or_else(PoisonError::into_inner);
        self.lock().begin();
        turn
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Held> {
        // Whole after every statement. A count that is too high keeps something for longer.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn begin(&mut self) {
        self.spared = Some(self.by.keys().copied().collect());
    }

    pub(super) fn end(&mut self) {
        self.spared = None;
    }

    /// Whether nobody holds an object, nor did since the collection began.
    pub(super) fn is_free(&self, id: &ObjectId) -> bool {
        self.spared.as_ref().is_some_and(|spared| !spared.contains(id))
    }

    fn take(&mut self, id: ObjectId) {
        *self.by.entry(id).or_insert(0) += 1;
        if let Some(spared) = &mut self.spared {
            spared.insert(id);
        }
    }

    fn give_back(&mut self, id: &ObjectId) {
        if let Some(count) = self.by.get_mut(id) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by.remove(id);
            }
        }
    }
}

/// What becomes of objects that are held no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    /// They are as young as if they were added now: somebody is going to make an image of them.
    Fresh,
    /// Nothing.
    AsBefore,
}

/// Keeps objects from being collected as garbage as long as it lives, those among them that are here. Look whether they are
/// when it is there, not before.
#[must_use = "nothing is held by what is dropped"]
pub struct Hold {
    store: ObjectStore,
    ids: Vec<ObjectId>,
    afterwards: Afterwards,
}

impl Hold {
    pub(super) fn new(
        store: ObjectStore,
        ids: impl IntoIterator<Item = ObjectId>,
        afterwards: Afterwards,
    ) -> Self {
        let ids: Vec<_> = ids.into_iter().collect();
        {
            let mut held = store.0.leases.lock();
            ids.iter().for_each(|id| held.take(*id));
        }
        Self { store, ids, afterwards }
    }

    /// Holds one more.
    pub(in crate::store) fn add(&mut self, id: ObjectId) {
        self.store.0.leases.lock().take(id);
        self.ids.push(id);
    }

    /// Holds what another one held.
    pub(super) fn absorb(&mut self, mut other: Self) {
        self.ids.append(&mut other.ids);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.store.0.leases.lock();
        self.ids.iter().for_each(|id| held.give_back(id));
        if self.afterwards == Afterwards::Fresh && !self.ids.is_empty() {
            self.store.touch(&self.ids);
        }
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold").field("objects", &self.ids.len()).finish_non_exhaustive()
    }
}
