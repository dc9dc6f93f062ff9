use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dominator_core::port::Chain;

use super::Shared;
use super::order::Inherited;
use super::state::{Assignment, Next};
use crate::scan::{Scan, ScanError, Scanner};

/// The thread that scans. It ends when this is dropped, within the time a file buffer takes to be read.
pub(super) struct ScanThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl ScanThread {
    /// Services the agent before owes are started first.
    pub(super) fn start(
        shared: Arc<Shared>,
        interval: Duration,
        inherited: Option<Inherited>,
    ) -> io::Result<Self> {
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("scanner".to_owned()).spawn(move || {
            if let Some(inherited) = inherited {
                inherited.repay();
            }
            run(&theirs, interval);
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl Drop for ScanThread {
    fn drop(&mut self) {
        self.shared.lock().stop();
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // It has nothing to say; a panic in it was reported when it happened.
            drop(thread.join());
        }
    }
}

fn run(shared: &Shared, interval: Duration) {
    let mut due = Instant::now();
    while let Some(duty) = wait(shared, due) {
        if let Duty::Scan(assignment) = duty {
            scan(shared, &assignment);
        }
        // Also when nothing can be scanned: a controller sends no view to a machine it takes for unwritable.
        shared.look_at_the_disk_if_idle();
        due = Instant::now() + interval;
    }
}

/// What the thread does next.
enum Duty {
    Scan(Assignment),
    /// A scan is due, but there is no view, or an update is being made; when that ends, a scan is wanted.
    LookAtTheDisk,
}

/// Waits until a scan is due or wanted; nothing when the agent stops.
fn wait(shared: &Shared, due: Instant) -> Option<Duty> {
    let mut state = shared.lock();
    loop {
        let left = due.saturating_duration_since(Instant::now());
        match state.next_scan(left.is_zero()) {
            Next::Scan(assignment) => return Some(Duty::Scan(assignment)),
            Next::Stop => return None,
            Next::Wait if left.is_zero() => return Some(Duty::LookAtTheDisk),
            Next::Wait => {}
        }
        let waited = shared.wake.wait_timeout(state, left);
        state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
    }
}

fn scan(shared: &Shared, assignment: &Assignment) {
    let scanner = Scanner::new(shared.root.clone(), Arc::clone(&assignment.view));
    let Some(outcome) = outcome(|| scanner.scan(&assignment.cancel)) else { return };
    if let Err(error) = &outcome {
        tracing::error!(error, "scan failed");
    }
    let mut state = shared.lock();
    if state.take_scan(assignment, outcome) {
        shared.announce(state);
    }
}

/// What came of a scan; nothing when it was cancelled. A scan that panics has failed: were this thread to end with it,
/// polls would go on answering what was true before.
fn outcome(scan: impl FnOnce() -> Result<Scan, ScanError>) -> Option<Result<Scan, String>> {
    match std::panic::catch_unwind(AssertUnwindSafe(scan)) {
        Ok(Err(ScanError::Cancelled)) => None,
        Ok(other) => Some(other.map_err(|error| Chain(&error).to_string())),
        Err(_) => Some(Err("the scan ended by a bug of the agent; its log says where".to_owned())),
    }
}

impl Shared {
    /// The updater is locked for as long as an order takes; a scan must not wait for it.
    fn look_at_the_disk_if_idle(&self) {
        if self.lock().is_idle() {
            self.look_at_the_disk();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_that_panics_has_failed_and_is_not_passed_over() {
        let failed = outcome(|| panic!("a bug")).unwrap().unwrap_err();
        assert!(failed.contains("bug"), "{failed}");
        assert!(outcome(|| Err(ScanError::Cancelled)).is_none());
    }
}
