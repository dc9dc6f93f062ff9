//! When a look at a file can be relied on: not before all that was written to it before the look is on the disk.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dominator_core::inode::Timestamp;

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
