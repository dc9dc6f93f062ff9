//! When a look at a file can be relied on: not before all that was written to it before the look is on the disk.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dominator_core::inode::Timestamp;

use super::identity::Freshness;

/// What tells a scanner the time.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The system's clock, which file-systems take their times from.
    pub fn system() -> Self {
        Self::new(|| timestamp(SystemTime::now()))
    }

    /// Whatever `now` says.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// What time it is.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    Timestamp::new(seconds, since.subsec_nanos()).unwrap_or_default()
}

/// How long it takes this kernel at most to bring what was written through a shared mapping to the disk: until then a
/// write to the same page is not noticed by the file-system and moves no time.
pub(super) fn write_back_expiry() -> Duration {
    /// What kernels come with, in hundredths of a second, as the two numbers below.
    const DEFAULTS: [u64; 2] = [3000, 500];
    /// The clock's ticks, and a flusher that was late.
    const MARGIN: Duration = Duration::from_secs(1);
    let names = ["dirty_expire_centisecs", "dirty_writeback_centisecs"];
    let centiseconds = names.iter().zip(DEFAULTS).map(|(name, default)| {
        let text = std::fs::read_to_string(format!("/proc/sys/vm/{name}")).unwrap_or_default();
        text.trim().parse().unwrap_or(default)
    });
    Duration::from_millis(centiseconds.sum::<u64>().saturating_mul(10)).saturating_add(MARGIN)
}

/// When a look began, and how long changes can hide.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    now: Timestamp,
    expiry: Duration,
}

impl Moment {
    pub(super) fn new(now: Timestamp, expiry: Duration) -> Self {
        Self { now, expiry }
    }

    pub(super) fn now(self) -> Timestamp {
        self.now
    }

    /// What a look that begins now at something that changed at `changed` is worth. `before` is when it was looked at
    /// the last time, if nothing changed since: then only what was written before can have been hidden then, and that
    /// is on the disk after the expiry whatever the clock said when it changed.
    pub(super) fn freshness(self, changed: Timestamp, before: Option<Timestamp>) -> Freshness {
        if self.is_past(changed) || before.is_some_and(|before| self.is_past(before)) {
            Freshness::Settled
        } else {
            Freshness::Fresh
        }
    }

    /// Whether something that was fresh when it was looked at, at `before`, is to be looked at again.
    pub(super) fn is_due(self, changed: Timestamp, before: Timestamp) -> bool {
        // A clock that was set back says nothing of how long ago that was.
        self.is_past(changed) || self.is_past(before) || self.now < before
    }

    fn is_past(self, time: Timestamp) -> bool {
        self.now.nanos_since(time) >= i128::try_from(self.expiry.as_nanos()).unwrap_or(i128::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::new(seconds, 0).unwrap()
    }

    fn moment(seconds: i64) -> Moment {
        Moment::new(at(seconds), Duration::from_secs(36))
    }

    #[test]
    fn a_look_counts_when_all_written_before_is_on_the_disk() {
        assert_eq!(moment(135).freshness(at(100), None), Freshness::Fresh);
        assert_eq!(moment(136).freshness(at(100), None), Freshness::Settled);
        assert!(!moment(135).is_due(at(100), at(101)));
        assert!(moment(136).is_due(at(100), at(101)));
    }

    #[test]
    fn a_time_of_change_in_the_future_keeps_nothing_fresh_for_ever() {
        assert_eq!(moment(1000).freshness(at(5000), None), Freshness::Fresh);
        assert!(!moment(1035).is_due(at(5000), at(1000)));
        assert!(moment(1036).is_due(at(5000), at(1000)));
        assert_eq!(moment(1036).freshness(at(5000), Some(at(1000))), Freshness::Settled);
        assert!(moment(999).is_due(at(5000), at(1000)), "the clock was set back");
        assert_eq!(moment(999).freshness(at(5000), Some(at(1000))), Freshness::Fresh);
    }
}
