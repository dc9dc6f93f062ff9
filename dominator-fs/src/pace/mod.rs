//! Pacing: how much of a machine's disk and processors the reading of files may take.
//!
//! What counts is what a thread really cost: blocks read from a device, as the kernel accounts for them (what the page
//! cache answers is free), and time on a processor. All threads that share a [`Pacer`] share its budgets, so that more
//! threads don't take more. Where the kernel tells of pressure (PSI), the budgets shrink while others wait.
//!
//! What is not here: any notion of files. Whoever reads calls [`Pacer::pace`] after each piece.

mod budget;
mod device;
pub(crate) mod direct;
mod disk;
mod limits;
mod meter;
#[cfg(feature = "tokio")]
pub(crate) mod network;
mod pressure;
mod sample;

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::budget::Budget;
use self::meter::{Cost, PacerId};
use self::pressure::{Factors, Watcher};
use crate::scan::Cancel;

#[cfg(feature = "tokio")]
pub(crate) use self::disk::rate;
pub use self::disk::{DiskSpeed, DiskSpeedError, SpeedSource};
pub use self::limits::{BytesPerSecond, Limits, Pressure, Priority, Share};

/// Shares budgets among the threads that read: share it, as an `Arc`.
#[derive(Debug)]
pub struct Pacer {
    id: PacerId,
    began: Instant,
    /// Whether anything is limited at all: the one thing an unlimited pacer looks at.
    limited: AtomicBool,
    /// How often the limits were changed.
    changes: AtomicU64,
    /// The bits of what is boosted.
    boosted: AtomicU8,
    state: Mutex<State>,
}

impl Pacer {
    /// A pause is slept in slices of this, so that a cancelled scan ends and a boosted one goes on at once.
    const SLICE: Duration = Duration::from_millis(20);
    /// A debt of less is not slept for yet: it grows. Thousands of short sleeps would cost more than they save.
    const GRAIN: Duration = Duration::from_millis(10);

    /// One that never holds anybody up.
    pub fn unlimited() -> Self {
        Self::new(Limits::default())
    }

    /// One that keeps to `limits`.
    pub fn new(limits: Limits) -> Self {
        Self::with(limits, Watcher::of_the_kernel())
    }

    fn with(limits: Limits, watcher: Watcher) -> Self {
        Self {
            id: PacerId::next(),
            began: Instant::now(),
            limited: AtomicBool::new(limits.is_limited()),
            changes: AtomicU64::new(0),
            boosted: AtomicU8::new(0),
            state: Mutex::new(State::new(limits, watcher)),
        }
    }

    /// Keeps to `limits` from now on. Debts are forgiven; the priority of threads that entered stays.
    pub fn limit(&self, limits: Limits) {
        let now = self.began.elapsed();
        let mut state = self.lock();
        self.limited.store(limits.is_limited(), Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Relaxed);
        state.limit(limits, now);
    }

    /// Says that this thread begins to work under this pacer: what it cost before is not charged, and it gets the
    /// priority of the limits, which it keeps until it ends (an ordinary user's thread could not get it back anyway).
    /// A thread that can't have the priority works without.
    pub fn enter(&self) {
        let priority = self.lock().limits.priority;
        meter::begin(self.id, self.began.elapsed());
        meter::take_priority(priority);
    }

    /// Charges what this thread cost since it was charged last, and sleeps for as long as the budgets are overdrawn.
    /// Returns within some 20 ms when cancelled or boosted. To be called after each piece of at most 128 KiB that was
    /// read, and every few files.
    pub fn pace(&self, cancel: &Cancel) {
        if self.limited.load(Ordering::Relaxed) {
            let now = self.began.elapsed();
            if let Some(cost) = meter::cost(self.id, now) {
                let due = self.charge(now, &cost);
                self.sleep(&due, cancel);
            }
        }
    }

    /// Lifts a limit until [`Pacer::end_boost`]. Who sleeps because of it wakes.
    pub fn boost(&self, what: Boost) {
        let now = self.began.elapsed();
        let mut state = self.lock();
        self.boosted.fetch_or(what.bit(), Ordering::Relaxed);
        state.forgive(what, now);
    }

    /// Ends all boosts: to be called at the end of a scan.
    pub fn end_boost(&self) {
        self.boosted.store(0, Ordering::Relaxed);
    }

    /// What is allowed and was taken, as of now.
    pub fn status(&self) -> Status {
        let state = self.lock();
        let boosted = |what| self.is_boosted(what);
        Status {
            disk: state
                .disk
                .as_ref()
                .filter(|_| !boosted(Boost::Disk))
                .map(|b| b.allowed(state.factors.disk)),
            cpu: state.cpu.as_ref().filter(|_| !boosted(Boost::Cpu)).map(|b| b.allowed(state.factors.cpu)),
            pressure: state.watcher.status(state.limits.pressure, state.factors),
            read: state.read,
            worked: state.worked,
        }
    }

    fn charge(&self, now: Duration, cost: &Cost) -> Due {
        let mut state = self.lock();
        state.look_at_pressure(now);
        state.read = state.read.saturating_add(cost.read);
        state.worked = state.worked.saturating_add(cost.cpu);
        let Factors { disk, cpu } = state.factors;
        let mut due = Due { changes: self.changes.load(Ordering::Relaxed), ..Due::default() };
        if !self.is_boosted(Boost::Disk)
            && let Some(budget) = &mut state.disk
        {
            due.disk = budget.charge(now, cost.since, cost.read, disk);
        }
        if !self.is_boosted(Boost::Cpu)
            && let Some(budget) = &mut state.cpu
        {
            // A twentieth more, for what nobody is charged for: starting threads, and the end of a scan on one of them.
            let nanos = u64::try_from((cost.cpu + cost.cpu / 20).as_nanos()).unwrap_or(u64::MAX);
            due.cpu = budget.charge(now, cost.since, nanos, cpu);
        }
        due
    }

    fn sleep(&self, due: &Due, cancel: &Cancel) {
        let mut least = Self::GRAIN;
        while !cancel.is_cancelled() && self.changes.load(Ordering::Relaxed) == due.changes {
            let disk = if self.is_boosted(Boost::Disk) { Duration::ZERO } else { due.disk };
            let cpu = if self.is_boosted(Boost::Cpu) { Duration::ZERO } else { due.cpu };
            let left = disk.max(cpu).saturating_sub(self.began.elapsed());
            if left <= least {
                return;
            }
            std::thread::sleep(left.min(Self::SLICE));
            least = Duration::ZERO;
        }
    }

    fn is_boosted(&self, what: Boost) -> bool {
        self.boosted.load(Ordering::Relaxed) & what.bit() != 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Pacer {
    fn default() -> Self {
        Self::unlimited()
    }
}

/// Which limit is lifted for the length of one scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boost {
    /// That of the processors.
    Cpu,
    /// That of the disk.
    Disk,
}

impl Boost {
    fn bit(self) -> u8 {
        match self {
            Self::Cpu => 1,
            Self::Disk => 2,
        }
    }
}

/// What a pacer allows and what was taken under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// How many bytes a second may be read from the disk now; unlimited when there is none.
    pub disk: Option<u64>,
    /// How many nanoseconds of processor time a second may be used now; unlimited when there is none.
    pub cpu: Option<u64>,
    /// Whether pressure is watched, and what came of it.
    pub pressure: PressureStatus,
    /// How many bytes were really read from disks under limits.
    pub read: u64,
    /// How much processor time was used under limits.
    pub worked: Duration,
}

/// Whether pressure is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PressureStatus {
    /// The limits don't ask for it.
    NotAsked,
    /// The kernel tells nothing (`CONFIG_PSI`, or started without `psi=1`): budgets don't shrink.
    Unavailable,
    /// It is; the budgets are at so many thousandths of the limits.
    Watched {
        /// That of the disk.
        disk: u16,
        /// That of the processors.
        cpu: u16,
    },
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.disk {
            Some(rate) => write!(f, "disk: {rate} bytes/s")?,
            None => f.write_str("disk: unlimited")?,
        }
        match self.cpu {
            Some(nanos) => write!(f, ", processors: {} % of one", nanos / 10_000_000)?,
            None => f.write_str(", processors: unlimited")?,
        }
        match self.pressure {
            PressureStatus::NotAsked => Ok(()),
            PressureStatus::Unavailable => f.write_str(", pressure: this kernel does not tell"),
            PressureStatus::Watched { disk: 1000, cpu: 1000 } => f.write_str(", no pressure"),
            PressureStatus::Watched { .. } => f.write_str(", less than the limits because of pressure"),
        }
    }
}

/// Until when a thread sleeps, for each budget; since the pacer began.
#[derive(Debug, Default)]
struct Due {
    /// How often the limits it is due under had been changed.
    changes: u64,
    disk: Duration,
    cpu: Duration,
}

#[derive(Debug)]
struct State {
    limits: Limits,
    disk: Option<Budget>,
    cpu: Option<Budget>,
    watcher: Watcher,
    factors: Factors,
    read: u64,
    worked: Duration,
}

impl State {
    fn new(limits: Limits, watcher: Watcher) -> Self {
        let mut state = Self {
            limits: Limits::default(),
            disk: None,
            cpu: None,
            watcher,
            factors: Factors::default(),
            read: 0,
            worked: Duration::ZERO,
        };
        state.limit(limits, Duration::ZERO);
        state
    }

    fn limit(&mut self, limits: Limits, now: Duration) {
        let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        self.disk = limits.disk.map(|rate| Budget::new(rate.0, now));
        self.cpu = limits.cpu.map(|share| Budget::new(share.nanos_per_second(cores), now));
        self.factors = Factors::default();
        self.limits = limits;
    }

    fn forgive(&mut self, what: Boost, now: Duration) {
        let budget = match what {
            Boost::Cpu => &mut self.cpu,
            Boost::Disk => &mut self.disk,
        };
        if let Some(budget) = budget {
            budget.forgive(now);
        }
    }

    fn look_at_pressure(&mut self, now: Duration) {
        if let Some(pressure) = &self.limits.pressure {
            self.factors = self.watcher.look(now, pressure, self.factors);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn slow() -> Pacer {
        Pacer::new(Limits { cpu: Share::new(1), disk: BytesPerSecond::new(1), ..Limits::default() })
    }

    /// A thread that is to sleep for a day, and what ends that.
    fn wakes(pacer: Pacer, wake: impl FnOnce(&Pacer, &Cancel)) {
        let (pacer, cancel) = (Arc::new(pacer), Cancel::default());
        let sleeper = std::thread::spawn({
            let (pacer, cancel) = (Arc::clone(&pacer), cancel.clone());
            move || {
                let day = Duration::from_secs(86_400);
                pacer.sleep(&Due { disk: day, cpu: day, changes: 0 }, &cancel);
            }
        });
        wake(&pacer, &cancel);
        sleeper.join().unwrap();
    }

    #[test]
    fn who_sleeps_wakes_when_cancelled_boosted_or_limited_otherwise() {
        wakes(slow(), |_, cancel| cancel.cancel());
        wakes(slow(), |pacer, _| {
            pacer.boost(Boost::Disk);
            pacer.boost(Boost::Cpu);
        });
        wakes(slow(), |pacer, _| pacer.limit(Limits { cpu: Share::new(99), ..Limits::default() }));
    }

    #[test]
    fn a_boost_lifts_one_limit_until_it_ends_and_is_not_paid_for_afterwards() {
        let pacer = slow();
        let cost = Cost { since: Duration::ZERO, read: 1000, cpu: Duration::from_millis(10) };
        let at = Duration::from_secs(1);
        let due = pacer.charge(at, &cost);
        assert!(due.disk > Duration::from_secs(1000) && due.cpu > at, "{due:?}");
        pacer.boost(Boost::Disk);
        assert_eq!(pacer.status().disk, None);
        let boosted = pacer.charge(at, &cost);
        assert_eq!(boosted.disk, Duration::ZERO);
        assert!(boosted.cpu > due.cpu, "the other limit holds: {boosted:?}");
        pacer.end_boost();
        assert_eq!(pacer.status().disk, Some(1));
        let nothing = pacer.charge(at, &Cost { read: 0, ..cost });
        assert!(nothing.disk <= at, "{nothing:?}");
        assert_eq!(pacer.status().read, 3000 - 1000);
    }

    #[test]
    fn a_status_says_what_is_allowed_and_whether_pressure_is_watched() {
        let kernel = tempfile::tempdir().unwrap();
        let limits = Limits {
            disk: BytesPerSecond::new(2_000_000),
            cpu: Share::new(100),
            pressure: Some(Pressure::default()),
            ..Limits::default()
        };
        let silent = Pacer::with(limits, Watcher::new(kernel.path()));
        assert_eq!(
            silent.status().to_string(),
            "disk: 2000000 bytes/s, processors: 100 % of one, pressure: this kernel does not tell"
        );
        std::fs::write(kernel.path().join("io"), "some avg10=99.00 avg60=0.00\n").unwrap();
        let pressed = Pacer::with(limits, Watcher::new(kernel.path()));
        pressed.charge(Duration::ZERO, &Cost { since: Duration::ZERO, read: 0, cpu: Duration::ZERO });
        assert_eq!(
            pressed.status().to_string(),
            "disk: 1000000 bytes/s, processors: 100 % of one, less than the limits because of pressure"
        );
        assert_eq!(Pacer::unlimited().status().to_string(), "disk: unlimited, processors: unlimited");
    }
}
