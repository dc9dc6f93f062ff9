use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::state::{Assignment, Next};
use super::{Shared, chain};
use crate::scan::{ScanError, Scanner};

/// The thread that scans. It ends when this is dropped, within the time a file buffer takes to be read.
pub(super) struct ScanThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl ScanThread {
    pub(super) fn start(shared: Arc<Shared>, interval: Duration) -> io::Result<Self> {
        let theirs = Arc::clone(&shared);
        let thread =
            std::thread::Builder::new().name("scanner".to_owned()).spawn(move || run(&theirs, interval))?;
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
    while let Some(assignment) = wait(shared, due) {
        scan(shared, &assignment);
        shared.look_at_the_disk_if_idle();
        due = Instant::now() + interval;
    }
}

/// Waits until a scan is due or wanted; nothing when the agent stops.
fn wait(shared: &Shared, due: Instant) -> Option<Assignment> {
    let mut state = shared.lock();
    loop {
        let left = due.saturating_duration_since(Instant::now());
        match state.next_scan(left.is_zero()) {
            Next::Scan(assignment) => return Some(assignment),
            Next::Stop => return None,
            Next::Wait => {}
        }
        // When one is due but can't be made, whoever changes that wakes this.
        let patience = if left.is_zero() { Duration::from_secs(3600) } else { left };
        let waited = shared.wake.wait_timeout(state, patience);
        state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
    }
}

fn scan(shared: &Shared, assignment: &Assignment) {
    let scanner = Scanner::new(shared.root.clone(), Arc::clone(&assignment.view));
    let outcome = match scanner.scan(&assignment.cancel) {
        Err(ScanError::Cancelled) => return,
        other => other.map_err(|error| chain(&error)),
    };
    if let Err(error) = &outcome {
        tracing::error!(error, "scan failed");
    }
    let mut state = shared.lock();
    if state.take_scan(assignment, outcome) {
        shared.announce(state);
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
