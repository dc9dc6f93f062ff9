//! Pressure: whether others on the machine wait for what a scan takes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::budget::WHOLE;
use super::{Pressure, PressureStatus};

/// How much of each budget is allowed, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Factors {
    pub(super) disk: u16,
    pub(super) cpu: u16,
}

impl Default for Factors {
    fn default() -> Self {
        Self { disk: WHOLE, cpu: WHOLE }
    }
}

/// Reads what the kernel tells, at most once a second.
#[derive(Debug)]
pub(super) struct Watcher {
    directory: PathBuf,
    next: Duration,
    available: bool,
}

impl Watcher {
    const INTERVAL: Duration = Duration::from_secs(1);

    pub(super) fn of_the_kernel() -> Self {
        Self::new(Path::new("/proc/pressure"))
    }

    /// One that reads the files of `directory`.
    pub(super) fn new(directory: &Path) -> Self {
        let available = ["io", "cpu", "memory"].iter().any(|name| read(directory, name).is_some());
        Self { directory: directory.to_owned(), next: Duration::ZERO, available }
    }

    /// What is allowed from now on: half as much each second somebody waits, more again when nobody does.
    pub(super) fn look(&mut self, now: Duration, limits: &Pressure, factors: Factors) -> Factors {
        if !self.available || now < self.next {
            return factors;
        }
        self.next = now + Self::INTERVAL;
        let above =
            |name, limit: u16| read(&self.directory, name).is_some_and(|some| some > f64::from(limit));
        let memory = above("memory", limits.memory);
        Factors {
            disk: adjust(factors.disk, memory || above("io", limits.io)),
            cpu: adjust(factors.cpu, memory || above("cpu", limits.cpu)),
        }
    }

    pub(super) fn status(&self, asked: Option<Pressure>, factors: Factors) -> PressureStatus {
        match asked {
            None => PressureStatus::NotAsked,
            Some(_) if !self.available => PressureStatus::Unavailable,
            Some(_) => PressureStatus::Watched { disk: factors.disk, cpu: factors.cpu },
        }
    }
}

/// Down fast, to a tenth: a scan goes on whatever happens, or nothing would be known of a machine that is always busy.
/// Up slowly, as the average the kernel tells is ten seconds behind.
fn adjust(factor: u16, pressed: bool) -> u16 {
    const LEAST: u16 = WHOLE / 10;
    const STEP: u16 = WHOLE / 10;
    if pressed { (factor / 2).max(LEAST) } else { factor.saturating_add(STEP).min(WHOLE) }
}

/// The percentage of the last ten seconds during which somebody waited.
fn read(directory: &Path, name: &str) -> Option<f64> {
    let text = std::fs::read_to_string(directory.join(name)).ok()?;
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    some.split(' ').find_map(|field| field.strip_prefix("avg10="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tell(directory: &Path, name: &str, avg10: &str) {
        let text = format!("some avg10={avg10} avg60=99.00 avg300=99.00 total=1\nfull avg10=99.00 total=1\n");
        std::fs::write(directory.join(name), text).unwrap();
    }

    #[test]
    fn budgets_shrink_while_others_wait_and_recover_afterwards() {
        let kernel = tempfile::tempdir().unwrap();
        for name in ["io", "cpu", "memory"] {
            tell(kernel.path(), name, "0.00");
        }
        let mut watcher = Watcher::new(kernel.path());
        let limits = Pressure::default();
        let mut now = 0;
        let mut look = |factors| {
            now += 1;
            watcher.look(Duration::from_secs(now), &limits, factors)
        };
        assert_eq!(look(Factors::default()), Factors::default());
        tell(kernel.path(), "io", "20.01");
        let factors = look(Factors::default());
        assert_eq!(factors, Factors { disk: 500, cpu: 1000 });
        let least = (0..9).fold(factors, |factors, _| look(factors));
        assert_eq!(least, Factors { disk: 100, cpu: 1000 });
        tell(kernel.path(), "io", "20.00");
        tell(kernel.path(), "cpu", "50.50");
        assert_eq!(look(least), Factors { disk: 200, cpu: 500 });
        tell(kernel.path(), "cpu", "0.00");
        tell(kernel.path(), "memory", "10.50");
        assert_eq!(look(Factors::default()), Factors { disk: 500, cpu: 500 });
        tell(kernel.path(), "memory", "0.00");
        assert_eq!((0..9).fold(least, |factors, _| look(factors)), Factors::default());
    }

    #[test]
    fn pressure_is_read_at_most_once_a_second() {
        let kernel = tempfile::tempdir().unwrap();
        tell(kernel.path(), "io", "99.00");
        let mut watcher = Watcher::new(kernel.path());
        let mut look =
            |millis, factors| watcher.look(Duration::from_millis(millis), &Pressure::default(), factors);
        let first = look(10, Factors::default());
        assert_eq!(first.disk, 500);
        assert_eq!(look(1009, first), first);
        assert_eq!(look(1010, first).disk, 250);
    }

    #[test]
    fn a_kernel_that_tells_nothing_shrinks_nothing_and_that_is_said() {
        let kernel = tempfile::tempdir().unwrap();
        let mut watcher = Watcher::new(kernel.path());
        let factors = watcher.look(Duration::from_secs(9), &Pressure::default(), Factors::default());
        assert_eq!(factors, Factors::default());
        assert_eq!(watcher.status(Some(Pressure::default()), factors), PressureStatus::Unavailable);
        assert_eq!(watcher.status(None, factors), PressureStatus::NotAsked);
        // A kernel started with `psi=0` has the files, but reading them fails.
        std::fs::create_dir(kernel.path().join("io")).unwrap();
        let watcher = Watcher::new(kernel.path());
        assert_eq!(watcher.status(Some(Pressure::default()), factors), PressureStatus::Unavailable);
    }
}
