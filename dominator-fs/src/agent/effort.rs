//! How hard an agent works at looking, and the orders that change it.

use std::num::{NonZeroU8, NonZeroU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dominator_core::port::{Boost, Configuration, MachineTraits, Pacing, Percent, Reconfiguration};
use dominator_core::view::View;

use super::fetch::Patience;
use super::memory::Memory;
use crate::pace::{
    self, BytesPerSecond, DiskSpeed, Limits, Pacer, Pressure, PressureStatus, Priority, Share, SpeedSource,
};
use crate::root::Root;
use crate::scan::Scanner;

/// How hard an agent works at looking. The default holds it back in nothing.
#[derive(Clone, Debug)]
pub struct Effort {
    /// How much of the processors' time scans take at most; together never more than one processor has. All is no limit.
    pub cpu: Percent,
    /// How much of the disk's speed scans take at most. All is no limit.
    pub scan_speed: Percent,
    /// How much of the speed of the network interface towards a source fetches take at most. All is no limit.
    pub network_speed: Percent,
    /// How much they take at most, in bytes a second.
    pub network_bytes: Option<NonZeroU64>,
    /// How fast the disk is; measured at the first start, if not given.
    pub disk: Option<BytesPerSecond>,
    /// How the threads that scan rank among those of others.
    pub priority: Priority,
    /// In how much time everything is read again, whether it seems to have changed or not; never, if not given.
    pub scrub: Option<Duration>,
    /// How slow a source of objects may be.
    pub patience: Patience,
    /// After what time what was written is on the disk; as this kernel says, if not given. See
    /// [`Scanner::write_back_expiry`](crate::scan::Scanner::write_back_expiry).
    pub write_back_expiry: Option<Duration>,
}

impl Default for Effort {
    fn default() -> Self {
        let (cpu, scan_speed) = (Percent::ALL, Percent::ALL);
        Self {
            cpu,
            scan_speed,
            network_speed: Percent::ALL,
            network_bytes: None,
            disk: None,
            priority: Priority::Inherited,
            scrub: None,
            patience: Patience::default(),
            write_back_expiry: None,
        }
    }
}

/// The limits in force.
#[derive(Debug)]
pub(super) struct Throttle {
    pacer: Arc<Pacer>,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    effort: Effort,
    /// How fast the disk is, when that is known.
    speed: Option<BytesPerSecond>,
}

impl Throttle {
    pub(super) fn new(effort: Effort) -> Self {
        let held = Held { speed: effort.disk, effort };
        Self { pacer: Arc::new(Pacer::new(held.limits())), held: Mutex::new(held) }
    }

    /// What threads that read keep to.
    pub(super) fn pacer(&self) -> Arc<Pacer> {
        Arc::clone(&self.pacer)
    }

    /// How much fetches take of a link that is as fast as this, or nobody knows how fast.
    pub(super) fn network(&self, speed: Option<BytesPerSecond>) -> Option<BytesPerSecond> {
        let held = self.lock();
        let share = Share::new(held.effort.network_speed.get()).filter(|share| share.percent() < 100);
        let of_link = share.zip(speed).map(|(share, speed)| speed.share(share));
        let fixed = held.effort.network_bytes.and_then(|bytes| BytesPerSecond::new(bytes.get()));
        of_link.into_iter().chain(fixed).min()
    }

    /// Whether fetches need to know how fast the network is.
    pub(super) fn shares_network(&self) -> bool {
        self.lock().effort.network_speed != Percent::ALL
    }

    /// How slow a source of objects may be.
    pub(super) fn patience(&self) -> Patience {
        self.lock().effort.patience
    }

    /// In how much time everything is read again.
    pub(super) fn scrub_time(&self) -> Option<Duration> {
        self.lock().effort.scrub
    }

    /// A scanner that keeps to the limits.
    pub(super) fn scanner(&self, root: Root, view: Arc<View>) -> Scanner {
        let expiry = self.lock().effort.write_back_expiry;
        let scanner = Scanner::new(root, view).pace(self.pacer());
        expiry.into_iter().fold(scanner, Scanner::write_back_expiry)
    }

    /// Finds out how fast the disk is, if a share of that is wanted and nobody knows. When it had to be measured, the next
    /// scan is not held back: a machine that is looked at for the first time is to be known soon.
    pub(super) fn learn_speed(&self, root: &Root, memory: &Memory) {
        let wanted = {
            let held = self.lock();
            held.speed.is_none() && held.effort.scan_speed != Percent::ALL
        };
        if !wanted {
            return;
        }
        match DiskSpeed::remembered(root, memory.dir(), Memory::DISK_SPEED) {
            Ok(known) => {
                tracing::info!(speed = %known, "disk");
                let mut held = self.lock();
                held.speed = Some(known.speed);
                self.pacer.limit(held.limits());
                if !matches!(known.source, SpeedSource::Given | SpeedSource::Remembered { .. }) {
                    self.pacer.boost(pace::Boost::Disk);
                }
            }
            Err(error) => {
                tracing::warn!(error = %dominator_core::port::Chain(&error), "no limit for the disk");
            }
        }
    }

    pub(super) fn configuration(&self, traits: &MachineTraits) -> Configuration {
        let held = self.lock();
        Configuration {
            cpu: held.effort.cpu,
            scan_speed: held.effort.scan_speed,
            network_speed: held.effort.network_speed,
            network_bytes: held.effort.network_bytes,
            exclusions: traits.exclusions.clone(),
        }
    }

    pub(super) fn configure(&self, change: Reconfiguration) {
        let mut held = self.lock();
        held.effort.cpu = change.cpu.unwrap_or(held.effort.cpu);
        held.effort.scan_speed = change.scan_speed.unwrap_or(held.effort.scan_speed);
        held.effort.network_speed = change.network_speed.unwrap_or(held.effort.network_speed);
        held.effort.network_bytes = change.network_bytes.map_or(held.effort.network_bytes, NonZeroU64::new);
        self.pacer.limit(held.limits());
        tracing::info!(cpu = %held.effort.cpu, scan_speed = %held.effort.scan_speed, "limits");
    }

    pub(super) fn boost(&self, boost: Boost) {
        self.pacer.boost(match boost {
            Boost::Cpu => pace::Boost::Cpu,
            Boost::Scan => pace::Boost::Disk,
        });
        tracing::info!(?boost, "limit lifted until the end of a scan");
    }

    /// The next scan is waited for: it is not held back. After an update little is read, and that was written just now.
    pub(super) fn hurry(&self) {
        self.pacer.boost(pace::Boost::Cpu);
        self.pacer.boost(pace::Boost::Disk);
    }

    /// A scan was completed.
    pub(super) fn end_boost(&self) {
        self.pacer.end_boost();
    }

    /// What is in force now.
    pub(super) fn pacing(&self) -> Pacing {
        let (cpu, disk) = {
            let held = self.lock();
            (held.effort.cpu, held.limits().disk)
        };
        let status = self.pacer.status();
        Pacing {
            // As set: what pressure leaves of it is told beside it.
            disk: status.disk.and(disk).map(BytesPerSecond::bytes),
            cpu: status.cpu.map(|_| cpu),
            left: match status.pressure {
                PressureStatus::Watched { disk, cpu } => u8::try_from(disk.min(cpu) / 10).ok(),
                PressureStatus::NotAsked | PressureStatus::Unavailable => None,
            },
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn limits(&self) -> Limits {
        let share = |percent: Percent| {
            let percent = NonZeroU8::new(percent.get()).filter(|percent| percent.get() < 100)?;
            Share::new(percent.get())
        };
        let (cpu, disk) = (share(self.effort.cpu), share(self.effort.scan_speed).zip(self.speed));
        let pressure = (cpu.is_some() || disk.is_some()).then(Pressure::default);
        let limits = Limits { disk: None, cpu, pressure, priority: self.effort.priority };
        disk.into_iter().fold(limits, |limits, (share, speed)| limits.of_disk(share, speed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_disk_counts_once_its_speed_is_known_and_all_of_it_is_no_limit() {
        let effort = Effort { scan_speed: Percent::new(2).unwrap(), ..Effort::default() };
        let of = |disk| Throttle::new(Effort { disk: BytesPerSecond::new(disk), ..effort.clone() });
        assert_eq!(of(0).pacing().disk, None);
        let throttle = of(100_000_000);
        assert_eq!(throttle.pacing().disk, Some(2_000_000));
        throttle.boost(Boost::Scan);
        assert_eq!(throttle.pacing().disk, None);
        throttle.end_boost();
        assert_eq!(throttle.pacing().disk, Some(2_000_000));
        let change = Reconfiguration {
            cpu: Percent::new(50),
            scan_speed: Some(Percent::ALL),
            ..Reconfiguration::default()
        };
        throttle.configure(change);
        assert_eq!((throttle.pacing().disk, throttle.pacing().cpu), (None, Percent::new(50)));
    }
}
