//! Scans with what earlier scans found, and keeps that.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dominator_core::path::ImagePath;
use dominator_core::port::{Chain, ScanReach};

use super::Shared;
use super::state::Assignment;
use crate::scan::{Cache, Scan, ScanError, Scanner};

/// What scans, and what they found so far.
pub(super) struct Eyes<'a> {
    shared: &'a Shared,
    cache: Cache,
    /// How far a scan goes that goes by the cache.
    reach: ScanReach,
    /// When the cache was saved last, and whether it holds more since.
    saved: Instant,
    unsaved: bool,
}

impl<'a> Eyes<'a> {
    /// How often the cache is saved at most. What is lost with the agent is hashed again, no more.
    const SAVE: Duration = Duration::from_secs(300);

    /// With what the agent before has seen.
    pub(super) fn open(shared: &'a Shared) -> Self {
        let known = shared.memory.scan_cache(&shared.root);
        let reach = known.as_ref().map_or(ScanReach::Full, |_| ScanReach::Incremental);
        let cache = known.unwrap_or_default();
        Self { shared, cache, reach, saved: Instant::now(), unsaved: false }
    }

    /// Looks at everything.
    pub(super) fn scan(&mut self, assignment: &Assignment) {
        self.look(assignment, self.reach, |scanner, cache| scanner.rescan(cache, assignment.cancel()));
    }

    /// Looks only into `directories`.
    pub(super) fn look_again(&mut self, assignment: &Assignment, directories: &BTreeSet<ImagePath>) {
        let look = |scanner: &Scanner, cache: &mut Cache| {
            scanner.rescan_only(cache, directories, assignment.cancel())
        };
        self.look(assignment, ScanReach::Hinted, look);
    }

    /// Saves what was found since the last time.
    pub(super) fn close(mut self) {
        self.save();
    }

    fn look(
        &mut self,
        assignment: &Assignment,
        reach: ScanReach,
        look: impl FnOnce(&Scanner, &mut Cache) -> Result<Scan, ScanError>,
    ) {
        let shared = self.shared;
        let scanner = Scanner::new(shared.root.clone(), Arc::clone(assignment.view()));
        let scanner = scanner.pace(shared.reins.pacer());
        let outcome = outcome(|| look(&scanner, &mut self.cache));
        self.unsaved |= !matches!(&outcome, Outcome::Done(scan) if scan.bytes_hashed == 0);
        if matches!(outcome, Outcome::Panicked) {
            // Nobody knows in what state it is.
            (self.cache, self.reach) = (Cache::new(), ScanReach::Full);
        }
        if let Some(outcome) = outcome.told() {
            self.take(assignment, reach, outcome);
        }
        if self.unsaved && self.saved.elapsed() >= Self::SAVE {
            self.save();
        }
    }

    fn take(&mut self, assignment: &Assignment, reach: ScanReach, outcome: Result<Scan, String>) {
        match &outcome {
            Ok(scan) => {
                let (opened, hashed, seconds) =
                    (scan.files_opened, scan.bytes_hashed, scan.elapsed.as_secs_f64());
                tracing::debug!(?reach, opened, hashed, seconds, facts = scan.facts.len(), "scan");
                self.shared.reins.end_boost();
                self.reach = ScanReach::Incremental;
            }
            Err(error) => tracing::error!(error, "scan failed"),
        }
        let mut state = self.shared.lock();
        if state.take_scan(assignment, reach, outcome) {
            self.shared.announce(state);
        }
    }

    fn save(&mut self) {
        if !self.unsaved {
            return;
        }
        (self.saved, self.unsaved) = (Instant::now(), false);
        if let Err(error) = self.shared.memory.remember_scan(&self.cache) {
            tracing::warn!(error = %Chain(&error), "what scans found can't be kept: the next agent reads it all again");
        }
    }
}

/// What came of a scan.
#[derive(Debug)]
enum Outcome {
    Done(Box<Scan>),
    Cancelled,
    Failed(String),
    /// A scan that panics has failed: were its thread to end with it, polls would go on answering what was true before.
    Panicked,
}

fn outcome(scan: impl FnOnce() -> Result<Scan, ScanError>) -> Outcome {
    match std::panic::catch_unwind(AssertUnwindSafe(scan)) {
        Ok(Ok(scan)) => Outcome::Done(Box::new(scan)),
        Ok(Err(ScanError::Cancelled)) => Outcome::Cancelled,
        Ok(Err(error)) => Outcome::Failed(Chain(&error).to_string()),
        Err(_) => Outcome::Panicked,
    }
}

impl Outcome {
    /// What people and controllers are told; nothing of one that was cancelled.
    fn told(self) -> Option<Result<Scan, String>> {
        match self {
            Self::Done(scan) => Some(Ok(*scan)),
            Self::Cancelled => None,
            Self::Failed(error) => Some(Err(error)),
            Self::Panicked => {
                Some(Err("the scan ended by a bug of the agent; its log says where".to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_that_panics_has_failed_and_is_not_passed_over() {
        let failed = outcome(|| panic!("a bug")).told().unwrap().unwrap_err();
        assert!(failed.contains("bug"), "{failed}");
        assert!(outcome(|| Err(ScanError::Cancelled)).told().is_none());
    }
}
