use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};

use crate::verified::Verified;

/// How many handshakes may have verified a chain whose outcome nobody has asked for.
const ROOM: usize = 2048;

/// What handshakes found out, for those who ask right after them who it was: nothing is verified twice.
///
/// A handshake is given a verdict and no way of handing on how it was reached. What it found is kept here under everything
/// it was found by, handed out once, and forgotten when too much of it piles up, as handshakes may fail later on.
#[derive(Default)]
pub(crate) struct Handover(Mutex<HashMap<Question, Verified>>);

/// Everything a verdict depends on but the time and the trust.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Question([u8; 32]);

impl Question {
    /// The question `what` about a chain. It is a hash: no two differ in parts and are the same as a whole.
    pub(crate) fn new<'a>(what: &'a [u8], leaf: &'a [u8], links: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut hash = Sha256::new();
        for part in [what, leaf].into_iter().chain(links) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }
}

impl Handover {
    pub(crate) fn put(&self, question: Question, found: Verified) {
        let mut kept = self.kept();
        if kept.len() >= ROOM {
            kept.clear();
        }
        kept.insert(question, found);
    }

    pub(crate) fn take(&self, question: &Question) -> Option<Verified> {
        self.kept().remove(question)
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<Question, Verified>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was found under one trust is nothing under another.
impl Clone for Handover {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl fmt::Debug for Handover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handover").finish_non_exhaustive()
    }
}
