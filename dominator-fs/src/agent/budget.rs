//! How long what undoing the last update needs is kept: it takes room that nobody sees.

use std::time::{Duration, SystemTime};

use dominator_core::port::{Chain, Undoable};

use super::Shared;
use super::activation::of_clock;
use crate::update::{Kept, Updater};

/// When what undoing needs goes, though nothing else wants the room. Whatever wants it gets it at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UndoBudget {
    /// How long after the update was made or accepted.
    pub time: Duration,
    /// How much it may take, in bytes.
    pub bytes: u64,
}

/// A week, and 4 GiB.
impl Default for UndoBudget {
    fn default() -> Self {
        Self { time: Duration::from_secs(7 * 24 * 3600), bytes: 4 << 30 }
    }
}

impl UndoBudget {
    /// Nothing is kept for longer than it takes to look.
    pub const NOTHING: Self = Self { time: Duration::ZERO, bytes: 0 };

    /// Whether what is kept may stay. A clock that was set back takes nothing away.
    fn allows(&self, kept: &Kept, now: SystemTime) -> bool {
        let age = now.duration_since(kept.since).unwrap_or_default();
        age < self.time && kept.bytes <= self.bytes
    }
}

impl Shared {
    /// Drops what undoing needs once it is over the budget, and tells of it until then.
    pub(super) fn keep_within_budget(&self, updater: &mut Updater) -> Option<Undoable> {
        let kept = updater.kept().unwrap_or_else(|error| {
            tracing::warn!(%error, "what is kept to undo the last update can't be looked at");
            None
        });
        let kept = kept.filter(|_| !updater.is_on_trial())?;
        if !self.undo.allows(&kept, SystemTime::now()) {
            tracing::info!(
                bytes = kept.bytes,
                "what is kept to undo the last update goes, as it is over the budget"
            );
            self.let_go();
            match updater.clean_up() {
                Ok(()) => {
                    self.keep(None);
                    return None;
                }
                Err(error) => tracing::warn!(error = %Chain(&error), "it can't be removed"),
            }
        }
        let image = self.kept()?.note.previous;
        Some(Undoable { image, since: of_clock(kept.since), bytes: kept.bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_goes_when_it_is_too_old_or_too_much_and_not_because_a_clock_was_set_back() {
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        let budget = UndoBudget { time: hour, bytes: 100 };
        let allows = |since, bytes| budget.allows(&Kept { since, bytes }, now);
        assert!(allows(now, 100) && allows(now - hour / 2, 0) && allows(now + 10 * hour, 0));
        assert!(!allows(now, 101) && !allows(now - hour, 0));
        assert!(!UndoBudget::NOTHING.allows(&Kept { since: now, bytes: 0 }, now));
    }
}
