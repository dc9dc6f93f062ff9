use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Whether this agent has shown that it can be reached.
#[derive(Debug, Default)]
pub(super) struct Served {
    now: Mutex<Now>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Now {
    #[default]
    NotYet,
    Yes,
    Ending,
}

impl Served {
    pub(super) fn yes(&self) {
        self.set(Now::Yes);
    }

    /// Nobody waits for it any more.
    pub(super) fn end(&self) {
        self.set(Now::Ending);
    }

    fn set(&self, to: Now) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = to;
        self.changed.notify_all();
    }

    /// Lets time pass; false, if the agent ends meanwhile.
    pub(super) fn rest(&self, time: Duration) -> bool {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(now, time, |now| *now != Now::Ending);
        *waited.unwrap_or_else(PoisonError::into_inner).0 != Now::Ending
    }

    /// Whether that is so within `limit`; nothing, if the agent ends before that is known.
    pub(super) fn wait(&self, limit: Duration) -> Option<bool> {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(now, limit, |now| *now == Now::NotYet);
        match *waited.unwrap_or_else(PoisonError::into_inner).0 {
            Now::NotYet => Some(false),
            Now::Yes => Some(true),
            Now::Ending => None,
        }
    }
}
