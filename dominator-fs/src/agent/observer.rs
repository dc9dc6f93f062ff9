//! Scans with what earlier scans found, and keeps that.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dominator_core::inode::Timestamp;
use dominator_core::path::ImagePath;
use dominator_core::port::{Chain, Corruption, ScanReach, ScrubStatus};

use super::Shared;
use super::memory::Memory;
use super::state::Assignment;
use crate::scan::{self, Cache, CacheError, Clock, Scan, ScanError, Scanner, Scrub};

/// What scans, and what they found so far.
pub(super) struct Observer<'a> {
    shared: &'a Shared,
    cache: Cache,
    /// How far a scan goes that goes by the cache.
    reach: ScanReach,
    /// When anything was saved last, and whether the cache holds more since.
    saved: Instant,
    unsaved: bool,
    /// Whether the slow pass went on since it was saved last. That is no reason to write the whole cache again.
    went_on: bool,
    scrubbing: Option<Scrubbing>,
}

/// The slow pass over everything.
struct Scrubbing {
    scrub: Scrub,
    /// When it goes on.
    due: Instant,
    corruptions: u64,
    clock: Clock,
}

impl<'a> Observer<'a> {
    /// How often the cache is saved at most. What is lost with the agent is hashed again, no more.
    const SAVE: Duration = Duration::from_secs(300);

    /// With what the agent before has seen.
    pub(super) fn open(shared: &'a Shared) -> Self {
        let known = shared.memory.scan_cache(&shared.root);
        let reach = known.as_ref().map_or(ScanReach::Full, |_| ScanReach::Incremental);
        let cache = known.unwrap_or_default();
        let scrubbing = shared.throttle.scrub_time().map(|time| Scrubbing {
            scrub: shared.memory.scrub(time),
            due: Instant::now(),
            corruptions: 0,
            clock: Clock::system(),
        });
        Self { shared, cache, reach, saved: Instant::now(), unsaved: false, went_on: false, scrubbing }
    }

    /// When the slow pass over everything goes on.
    pub(super) fn scrub_due(&self) -> Option<Instant> {
        self.scrubbing.as_ref().map(|scrubbing| scrubbing.due)
    }

    /// Reads a little again that seems unchanged. What is not what it was is seen at once: it will be repaired.
    pub(super) fn scrub(&mut self, assignment: &Assignment) {
        let shared = self.shared;
        let Some(scrubbing) = &mut self.scrubbing else { return };
        let step = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let pacer = shared.throttle.pacer();
            let now = scrubbing.clock.now();
            scrubbing.scrub.step(&shared.root, &mut self.cache, now, &pacer, assignment.cancel())
        }));
        let Ok(step) = step else {
            tracing::error!("the scrub ended by a bug of the agent; there is none until it starts again");
            (self.cache, self.reach, self.scrubbing) = (Cache::new(), ScanReach::Full, None);
            return;
        };
        scrubbing.due = Instant::now() + step.wait;
        scrubbing.corruptions += step.corrupt.len() as u64;
        shared.lock().set_scrub(scrubbing.status());
        self.went_on |= step.read > 0;
        for fact in &step.unreadable {
            tracing::error!(path = %fact.path, why = fact.detail, "the disk lost a file");
        }
        if !step.corrupt.is_empty() {
            let found = scrubbing.clock.now();
            self.found_corrupt(assignment, step.corrupt, found);
        }
        self.save_if_due();
    }

    fn found_corrupt(&mut self, assignment: &Assignment, corrupt: Vec<scan::Corruption>, found: Timestamp) {
        let mut directories = BTreeSet::new();
        for scan::Corruption { path, expected: was, found: is } in corrupt {
            tracing::error!(%path, %was, %is, "silent corruption");
            directories.extend(path.parent());
            self.shared.tell(|state| state.found_corrupt(Corruption { path, was, is, found }));
        }
        self.unsaved = true;
        self.look_again(assignment, &directories);
        self.save();
    }

    /// Looks at everything.
    pub(super) fn scan(&mut self, assignment: &Assignment) {
        let memory = &self.shared.memory;
        let mut save = |cache: &Cache| drop(kept(memory, cache));
        self.look(assignment, self.reach, |scanner, cache| {
            // Held back, the first one of a machine may take hours.
            scanner.rescan_and_save(cache, assignment.cancel(), Self::SAVE, &mut save)
        });
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
        let installed = shared.take_installed();
        if !installed.is_empty() {
            self.cache.learn(installed);
            self.unsaved = true;
        }
        let scanner = shared.throttle.scanner(shared.root.clone(), Arc::clone(assignment.view()));
        let outcome = outcome(|| look(&scanner, &mut self.cache));
        self.unsaved |= !matches!(&outcome, Outcome::Done(scan) if scan.bytes_hashed == 0);
        if matches!(outcome, Outcome::Panicked) {
            // Nobody knows in what state it is.
            (self.cache, self.reach) = (Cache::new(), ScanReach::Full);
        }
        if let Some(outcome) = outcome.told() {
            self.take(assignment, reach, outcome);
        }
        self.save_if_due();
    }

    fn save_if_due(&mut self) {
        if (self.unsaved || self.went_on) && self.saved.elapsed() >= Self::SAVE {
            self.save();
        }
    }

    fn take(&mut self, assignment: &Assignment, reach: ScanReach, outcome: Result<Scan, String>) {
        match &outcome {
            Ok(scan) => {
                let (opened, hashed, seconds) =
                    (scan.files_opened, scan.bytes_hashed, scan.elapsed.as_secs_f64());
                tracing::debug!(?reach, opened, hashed, seconds, facts = scan.facts.len(), "scan");
                if reach != ScanReach::Hinted {
                    // One that looks at a directory or two is not the scan somebody is waiting for.
                    self.shared.throttle.end_boost();
                }
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
        let (unsaved, went_on) = (std::mem::take(&mut self.unsaved), std::mem::take(&mut self.went_on));
        self.saved = Instant::now();
        let memory = &self.shared.memory;
        if unsaved && kept(memory, &self.cache).is_err() {
            return;
        }
        // After the cache: what was found would be in neither.
        let scrubbing = self.scrubbing.as_ref().filter(|_| went_on);
        if let Some(Err(error)) = scrubbing.map(|own| memory.remember_scrub(&own.scrub)) {
            tracing::warn!(%error, "how far the scrub is can't be kept: the next agent begins anew");
        }
    }
}

impl Scrubbing {
    fn status(&self) -> Option<ScrubStatus> {
        let (done, total) = self.scrub.progress();
        Some(ScrubStatus { done, total, began: self.scrub.began()?, corruptions: self.corruptions })
    }
}

fn kept(memory: &Memory, cache: &Cache) -> Result<(), CacheError> {
    memory.remember_scan(cache).inspect_err(|error| {
        tracing::warn!(error = %Chain(error), "what scans found can't be kept: the next agent reads it all again");
    })
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
