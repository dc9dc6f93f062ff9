//! Removing objects that nobody needs.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::MutexGuard;

use dominator_core::object::ObjectId;

use super::index::Entry;
use super::{ObjectStore, shard_of, split};
use crate::seam::{At, Remove};

/// A collection that is under way: what is held from its beginning on is spared by it. One at a time.
pub(in crate::store) struct Sweep<'a> {
    store: &'a ObjectStore,
    _turn: MutexGuard<'a, ()>,
}

impl<'a> Sweep<'a> {
    /// Begins one when no other is under way any more. What images need is to be found out after this.
    pub(in crate::store) fn begin(store: &'a ObjectStore) -> Self {
        Self { store, _turn: store.0.leases.collect() }
    }

    /// All objects that `garbage` says yes to, those first that have waited longest.
    pub(in crate::store) fn oldest(
        &self,
        garbage: impl Fn(&ObjectId, &Entry) -> bool,
    ) -> Vec<(ObjectId, Entry)> {
        let mut found = self.store.0.index.select(garbage);
        found.sort_unstable_by_key(|(id, entry)| (entry.since, *id));
        found
    }

    /// Removes an object, unless somebody holds it or did since this began. Says whether a file went. Needs no room on the
    /// disk.
    pub(in crate::store) fn remove(&self, id: &ObjectId) -> io::Result<bool> {
        let store = self.store;
        let (shard, (_, rest)) = (store.shard(shard_of(id))?, split(id));
        let _naming = store.naming();
        // INVARIANT: who holds an object looks for it when he has it held; so it is either spared here, or gone there.
        let held = store.0.leases.lock();
        if !held.is_free(id) {
            return Ok(false);
        }
        // DURABILITY: nobody waits for this one. After a crash the object may be back, as garbage.
        let removed = store.0.seam.remove(At::new(shard.as_fd(), rest.as_bytes()), Remove::File);
        drop(held);
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            outcome => {
                store.0.index.remove(id);
                Ok(outcome.is_ok())
            }
        }
    }
}

impl Drop for Sweep<'_> {
    fn drop(&mut self) {
        self.store.0.leases.lock().end();
    }
}

impl fmt::Debug for Sweep<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sweep").field(self.store).finish()
    }
}
