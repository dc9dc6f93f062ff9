use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
#[cfg(feature = "tokio")]
use std::time::Duration;
use std::time::Instant;

use dominator_core::object::ObjectId;

use crate::root::Statx;
use crate::scan::Identity;

/// Objects whose files were hashed not long ago, and what tells that they are the same files as then. A fleet gets the same
/// objects thousands of times over.
#[derive(Debug, Default)]
pub(super) struct Proven(Mutex<HashMap<ObjectId, (Identity, Instant)>>);

impl Proven {
    /// How many are remembered at most.
    const MOST: usize = 256 * 1024;
    /// How long a hash is good for: what goes bad on the disk changes no time, and is to be found by the server, not by each
    /// machine.
    #[cfg(feature = "tokio")]
    const FOR: Duration = Duration::from_secs(3600);

    /// The file that `stat` is of was what it must be.
    pub(super) fn add(&self, id: ObjectId, stat: &Statx) {
        let mut proven = self.lock();
        if proven.len() >= Self::MOST {
            proven.clear();
        }
        proven.insert(id, (Identity::of(stat), Instant::now()));
    }

    /// Whether the file that `stat` is of need not be hashed again.
    #[cfg(feature = "tokio")]
    pub(super) fn has(&self, id: &ObjectId, stat: &Statx) -> bool {
        let known = self.lock().get(id).copied();
        known.is_some_and(|(then, when)| when.elapsed() < Self::FOR && then.is_same(&Identity::of(stat)))
    }

    /// Whole after every statement.
    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectId, (Identity, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
