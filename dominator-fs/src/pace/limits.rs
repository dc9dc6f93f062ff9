//! What a pacer keeps to.

use std::num::{NonZeroU8, NonZeroU64, NonZeroUsize};

/// What reading may take. The default limits nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// What may really be read from the disk.
    pub disk: Option<BytesPerSecond>,
    /// The share of all processors; but never more than one of them, by all threads together.
    pub cpu: Option<Share>,
    /// How much pressure shrinks the two above; nothing else does.
    pub pressure: Option<Pressure>,
    /// The priority threads take that enter.
    pub priority: Priority,
}

impl Limits {
    /// Keeps to `share` of a disk that reads at `speed`. While this reads, it waits for the disk for about that share
    /// of the time, which is no pressure from others.
    #[must_use]
    pub fn of_disk(mut self, share: Share, speed: BytesPerSecond) -> Self {
        self.disk = Some(speed.share(share));
        if let Some(pressure) = &mut self.pressure {
            pressure.io = pressure.io.saturating_add(share.percent().into()).min(100);
        }
        self
    }

    pub(super) fn is_limited(&self) -> bool {
        self.disk.is_some() || self.cpu.is_some()
    }
}

/// How fast a disk is read: bytes (not blocks, not bits) in a second, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BytesPerSecond(pub(super) NonZeroU64);

impl BytesPerSecond {
    /// So many bytes a second, unless there are none.
    pub fn new(bytes: u64) -> Option<Self> {
        NonZeroU64::new(bytes).map(Self)
    }

    /// How many bytes a second.
    pub fn bytes(self) -> u64 {
        self.0.get()
    }

    /// A share of it; at least one byte a second.
    #[must_use]
    pub fn share(self, share: Share) -> Self {
        let bytes = u128::from(self.bytes()) * u128::from(share.percent()) / 100;
        Self(u64::try_from(bytes).ok().and_then(NonZeroU64::new).unwrap_or(NonZeroU64::MIN))
    }
}

/// A share, of 1 to 100 percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(NonZeroU8);

impl Share {
    /// So many percent, if that is from 1 to 100.
    pub fn new(percent: u8) -> Option<Self> {
        NonZeroU8::new(percent).filter(|percent| percent.get() <= 100).map(Self)
    }

    /// How many percent.
    pub fn percent(self) -> u8 {
        self.0.get()
    }

    /// The share of so many processors, in nanoseconds of work a second; never more than one processor has.
    pub(super) fn nanos_per_second(self, cores: NonZeroUsize) -> NonZeroU64 {
        const PERCENT_OF_ONE: u64 = 10_000_000;
        let cores = u64::try_from(cores.get()).unwrap_or(u64::MAX);
        let percent = u64::from(self.percent()).saturating_mul(cores).min(100);
        NonZeroU64::new(percent * PERCENT_OF_ONE).unwrap_or(NonZeroU64::MIN)
    }
}

/// From when on others are held to be held up: percent of the last ten seconds during which something on the machine
/// waited (the kernel's `some avg10`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pressure {
    /// For disks: above it, less is read.
    pub io: u16,
    /// For processors: above it, less of them is used. Every full machine has some.
    pub cpu: u16,
    /// For memory: above it, less of both is used, as what is read takes memory.
    pub memory: u16,
}

impl Default for Pressure {
    fn default() -> Self {
        Self { io: 20, cpu: 50, memory: 10 }
    }
}

/// How threads rank among those of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// As whoever started them.
    #[default]
    Inherited,
    /// Nice 15, and the disk when nobody else wants it (where the disk's scheduler knows such a thing).
    Background,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_all_processors_and_of_at_most_one() {
        let nanos = |percent, cores| {
            Share::new(percent).unwrap().nanos_per_second(NonZeroUsize::new(cores).unwrap()).get()
        };
        assert_eq!(nanos(50, 1), 500_000_000);
        assert_eq!(nanos(10, 4), 400_000_000);
        assert_eq!(nanos(50, 4), 1_000_000_000);
        assert_eq!((Share::new(0), Share::new(101)), (None, None));
    }

    #[test]
    fn a_share_of_a_disk_is_never_nothing_and_its_own_waiting_is_no_pressure() {
        let two = Share::new(2).unwrap();
        let speed = |bytes| BytesPerSecond::new(bytes).unwrap();
        assert_eq!(speed(100_000_000).share(two).bytes(), 2_000_000);
        assert_eq!(speed(u64::MAX).share(Share::new(100).unwrap()).bytes(), u64::MAX);
        assert_eq!(speed(3).share(two).bytes(), 1);
        let limits = Limits { pressure: Some(Pressure::default()), ..Limits::default() };
        assert_eq!(limits.of_disk(two, speed(1)).pressure.unwrap().io, 22);
    }
}
