//! What the scanning thread waits with: until it is time, until it is woken, or until something is written.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use dominator_core::port::{Chain, Works};
use dominator_core::view::View;

use crate::root::Root;
use crate::watch::{Changes, Waker, Watch};

/// Wakes the scanning thread, whatever it waits with.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
    waker: OnceLock<Waker>,
    /// Whether the waker's end is still there.
    watched: AtomicBool,
}

impl Bell {
    /// Makes the wait that is under way end, or the next one.
    pub(super) fn ring(&self) {
        *self.lock() = true;
        self.heard.notify_all();
        if self.watched.load(Ordering::Acquire)
            && let Some(waker) = self.waker.get()
        {
            waker.wake();
        }
    }

    fn wait(&self, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        let rung = self.lock();
        let waited = self.heard.wait_timeout_while(rung, left, |rung| !*rung);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a bell, and for the watch on the root where there can be one.
#[derive(Debug)]
pub(super) struct Listener<'a> {
    bell: &'a Bell,
    watch: Option<Watch>,
    overflows: u64,
    /// For how long nobody listens after changes were heard.
    rest: Duration,
    /// Until when that is.
    resting: Instant,
}

impl<'a> Listener<'a> {
    /// Less than changes are gathered for anyway; so long that what is written to in view all the time, a thousand times a
    /// second, does not wake this process as often.
    const REST: Duration = Duration::from_millis(50);

    /// Begins to listen; and whether changes are heard of.
    pub(super) fn open(bell: &'a Bell, root: &Root) -> (Self, Works) {
        let (watch, works) = match Watch::new(root) {
            Ok(watch) => (Some(watch), Works::Yes),
            Err(error) => {
                let why = Chain(&error).to_string();
                tracing::info!(why, "changes are found by scans only");
                (None, Works::No(why))
            }
        };
        if let Some(watch) = &watch {
            bell.waker.get_or_init(|| watch.waker());
            bell.watched.store(true, Ordering::Release);
        }
        (Self { bell, watch, overflows: 0, rest: Self::REST, resting: Instant::now() }, works)
    }

    /// Waits until the time given, until the bell is rung, or until there are changes in view. What can't be heard any
    /// more is an error, and not tried again.
    pub(super) fn listen(&mut self, view: Option<&View>, until: Instant) -> Result<Changes, String> {
        let (Some(watch), Some(view)) = (&mut self.watch, view) else {
            self.bell.wait(until);
            return Ok(Changes::Nothing);
        };
        if std::mem::take(&mut *self.bell.lock()) {
            return Ok(Changes::Nothing);
        }
        if Instant::now() < self.resting {
            self.bell.wait(self.resting.min(until));
            return Ok(Changes::Nothing);
        }
        let left = until.saturating_duration_since(Instant::now()).min(Duration::from_secs(86_400));
        match watch.wait(view, Some(left)) {
            Ok(changes) => {
                let overflows = watch.overflows();
                if overflows > self.overflows {
                    tracing::warn!(
                        overflows,
                        "more was changed at once than is told of: everything is looked at"
                    );
                    self.overflows = overflows;
                }
                if changes != Changes::Nothing {
                    self.resting = Instant::now() + self.rest;
                }
                Ok(changes)
            }
            Err(error) => {
                self.watch = None;
                self.bell.watched.store(false, Ordering::Release);
                let why = Chain(&error).to_string();
                tracing::warn!(why, "changes are found by scans only from now on");
                Err(why)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bell_that_was_rung_before_is_heard() {
        let bell = Bell::default();
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let never = Instant::now() + Duration::from_secs(3600);
        let (mut listener, _) = Listener::open(&bell, &root);
        for view in [None, Some(View::everything())] {
            bell.ring();
            assert_eq!(listener.listen(view.as_ref(), never), Ok(Changes::Nothing));
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| listener.listen(view.as_ref(), never));
                bell.ring();
                assert_eq!(waiting.join().unwrap(), Ok(Changes::Nothing));
            });
        }
    }

    #[test]
    fn what_is_written_to_all_the_time_is_not_heard_of_all_the_time() {
        let bell = Bell::default();
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let (mut listener, works) = Listener::open(&bell, &root);
        if works != Works::Yes {
            return dominator_fs_testkit::left_out(
                "what_is_written_to_all_the_time_is_not_heard_of_all_the_time",
                "nothing is heard of here",
            );
        }
        let never = Instant::now() + Duration::from_secs(3600);
        let view = View::everything();
        let mut write_and_listen = |rest, until| {
            listener.rest = rest;
            std::fs::write(dir.path().join("file"), "again").unwrap();
            listener.listen(Some(&view), until).unwrap()
        };
        let heard = write_and_listen(Duration::from_secs(7200), never);
        assert_ne!(heard, Changes::Nothing);
        for _ in 0..3 {
            let soon = Instant::now() + Duration::from_millis(1);
            assert_eq!(write_and_listen(Duration::ZERO, soon), Changes::Nothing);
        }
        listener.resting = Instant::now();
        assert_eq!(listener.listen(Some(&view), never), Ok(heard), "what was written meanwhile is not lost");
    }
}
