use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dominator_core::view::View;

use super::Shared;
use super::hints::{Hints, Where};
use super::listen::Listener;
use super::observer::Observer;
use super::recovery::Inherited;
use super::state::{Assignment, Due, Next};
use crate::watch::Changes;

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
            ScanLoop::new(&theirs, interval).run();
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl Drop for ScanThread {
    fn drop(&mut self) {
        self.shared.lock().stop();
        self.shared.served.end();
        self.shared.bell.ring();
        if let Some(thread) = self.thread.take() {
            // It has nothing to say; a panic in it was reported when it happened.
            drop(thread.join());
        }
    }
}

/// Looks at everything again and again, and in between where changes are seen.
struct ScanLoop<'a> {
    shared: &'a Arc<Shared>,
    interval: Duration,
    /// When everything is looked at next.
    due: Instant,
    listener: Listener<'a>,
    observer: Observer<'a>,
    hints: Hints,
}

/// What the thread does next.
enum Task {
    Scan(Assignment),
    LookAgain(Assignment),
    Scrub(Assignment),
    /// A scan is due, but there is no view, or an update is being made; when that ends, a scan is wanted.
    LookAtTheDisk,
}

impl<'a> ScanLoop<'a> {
    fn new(shared: &'a Arc<Shared>, interval: Duration) -> Self {
        // Before the first scan: what is changed behind its back is seen.
        let (listener, watch) = Listener::open(&shared.bell, &shared.root);
        shared.tell(|state| state.set_watch(watch));
        // The threads that scans use begin with what this one has.
        shared.throttle.pacer().enter();
        shared.throttle.learn_speed(&shared.root, &shared.memory);
        let (observer, hints) = (Observer::open(shared), Hints::new(interval));
        Self { shared, interval, due: Instant::now(), listener, observer, hints }
    }

    fn run(mut self) {
        self.shared.take_note();
        while let Some(task) = self.wait() {
            match task {
                Task::Scan(assignment) => {
                    self.hints.clear();
                    self.observer.scan(&assignment);
                }
                Task::LookAgain(assignment) => {
                    match self.hints.take(Instant::now()) {
                        Some(Where::Only(directories)) => self.observer.look_again(&assignment, &directories),
                        Some(Where::Everywhere) => self.observer.scan(&assignment),
                        None => {}
                    }
                    // The disk, and the time of the next scan, are as they were.
                    continue;
                }
                Task::Scrub(assignment) => {
                    self.observer.scrub(&assignment);
                    continue;
                }
                Task::LookAtTheDisk => {}
            }
            // Also when nothing can be scanned: a controller sends no view to a machine it takes for unwritable.
            self.shared.look_at_the_disk_if_idle();
            if let Some(inherited) = Inherited::found(self.shared) {
                inherited.repay();
            }
            self.due = Instant::now() + self.interval;
        }
        self.observer.close();
    }

    /// Waits until there is something to do; nothing when the agent stops.
    fn wait(&mut self) -> Option<Task> {
        loop {
            let due = self.due(Instant::now());
            let next = self.shared.lock().next_scan(due);
            match (next, due) {
                (Next::Scan(assignment), _) => return Some(Task::Scan(assignment)),
                (Next::LookAgain(assignment), _) => return Some(Task::LookAgain(assignment)),
                (Next::Scrub(assignment), _) => {
                    // One that is behind never waits, and what is written meanwhile comes first all the same.
                    self.listen(Some(assignment.view()), Instant::now());
                    if self.hints.due().is_none_or(|due| due > Instant::now()) {
                        return Some(Task::Scrub(assignment));
                    }
                }
                (Next::Stop, _) => return None,
                (Next::Wait(_), Due::Everything) => return Some(Task::LookAtTheDisk),
                (Next::Wait(view), Due::Nothing) => {
                    let others = [self.hints.due(), self.observer.scrub_due()].into_iter().flatten();
                    self.listen(view.as_deref(), others.fold(self.due, Instant::min));
                }
                // What can't be done now is, when that changes: the bell is rung then.
                (Next::Wait(view), Due::Changes | Due::Scrub) => self.listen(view.as_deref(), self.due),
            }
        }
    }

    fn due(&self, now: Instant) -> Due {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if self.due <= now {
            Due::Everything
        } else if is_due(self.hints.due()) {
            Due::Changes
        } else if is_due(self.observer.scrub_due()) {
            Due::Scrub
        } else {
            Due::Nothing
        }
    }

    fn listen(&mut self, view: Option<&View>, until: Instant) {
        match self.listener.listen(view, until) {
            Ok(Changes::Nothing) => {}
            Ok(changes) => self.hints.add(Instant::now(), changes),
            Err(why) => self.shared.tell(|state| state.set_watch(dominator_core::port::Works::No(why))),
        }
    }
}

impl Shared {
    /// Changes the state and lets those who wait for the machine know, but not the scanning thread.
    pub(super) fn tell(&self, change: impl FnOnce(&mut super::state::State)) {
        let mut state = self.lock();
        change(&mut state);
        self.announce(state);
    }

    /// The updater is locked for as long as an order takes; a scan must not wait for it.
    fn look_at_the_disk_if_idle(&self) {
        if self.lock().is_idle() {
            self.look_at_the_disk();
        }
    }
}
