use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::super::Shared;
use crate::pace::network::{Flow, Link, Routes};
use crate::pace::{BytesPerSecond, rate};

/// Holds a fetch back to its share of the network towards one source.
pub(super) struct Pacing {
    shared: Arc<Shared>,
    link: Link,
    began: Instant,
    flow: Flow,
    /// As long as what comes is a measure of an interface nobody knows the speed of.
    measure: Option<Measure>,
}

/// How much has come, and since when. What came first began to come before that, and does not count: a source may take its
/// time to answer, and is no slower for it.
#[derive(Debug, Default)]
struct Measure {
    since: Option<Duration>,
    bytes: u64,
}

impl Measure {
    /// So much came until now. How fast that was, once it tells.
    fn came(&mut self, now: Duration, bytes: usize) -> Option<Option<BytesPerSecond>> {
        let Some(since) = self.since else {
            self.since = Some(now);
            return None;
        };
        self.bytes = self.bytes.saturating_add(bytes as u64);
        (self.bytes >= Pacing::MEASURE).then(|| rate(self.bytes, now.saturating_sub(since)))
    }
}

impl Pacing {
    /// How much must have come, in bytes, to tell how fast a network is.
    const MEASURE: u64 = 64 * 1024 * 1024;

    /// Finds out which way leads to the source at `address`.
    pub(super) async fn towards(shared: &Arc<Shared>, address: &str) -> Self {
        let mut link = Link::Inside;
        if shared.throttle.shares_network() {
            let place = shared.sources.place(address).await;
            let theirs = Arc::clone(shared);
            // A few small files of the kernel's, and one of ours.
            let found = tokio::task::spawn_blocking(move || theirs.link(Routes::of_the_kernel().link(place)));
            link = found.await.unwrap_or(Link::Inside);
        }
        let measure = matches!(link, Link::Outside { speed: None, .. }).then(Measure::default);
        tracing::debug!(address, ?link, "the way to a source");
        Self { shared: Arc::clone(shared), link, began: Instant::now(), flow: Flow::default(), measure }
    }

    /// So many bytes have come, most of which had to be waited for. Returns when more may come.
    pub(super) async fn came(&mut self, bytes: usize) {
        self.measure(bytes);
        let speed = match &self.link {
            Link::Outside { speed, .. } => *speed,
            Link::Inside => None,
        };
        let now = self.began.elapsed();
        let due = self.flow.came(now, bytes, self.shared.throttle.network(speed));
        if due > now + Duration::from_millis(1) {
            sleep_until(self.began + due).await;
        }
    }

    fn measure(&mut self, bytes: usize) {
        let (Some(measure), Link::Outside { interface, speed }) = (&mut self.measure, &mut self.link) else {
            return;
        };
        let Some(measured) = measure.came(self.began.elapsed(), bytes) else { return };
        *speed = measured;
        self.measure = None;
        if let Some(speed) = speed {
            tracing::info!(interface, bytes_per_second = speed.bytes(), "network, as measured");
            if let Err(error) = self.shared.memory.remember_network(interface, *speed) {
                tracing::warn!(%error, "the speed of the network will be measured again");
            }
        }
    }
}

impl Shared {
    /// With the speed that was measured, where the kernel does not tell.
    fn link(&self, link: Link) -> Link {
        match link {
            Link::Outside { interface, speed: None } => {
                let speed: Option<BytesPerSecond> = self.memory.network(&interface);
                Link::Outside { interface, speed }
            }
            known @ (Link::Inside | Link::Outside { .. }) => known,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::memory::Memory;
    use super::*;

    #[test]
    fn a_network_is_not_slow_because_the_source_took_its_time_to_answer() {
        let mut measure = Measure::default();
        let second = Duration::from_secs(1);
        assert_eq!(measure.came(60 * second, 1 << 20), None);
        assert_eq!(measure.came(61 * second, 1 << 25), None);
        assert_eq!(measure.came(62 * second, 1 << 25), Some(BytesPerSecond::new(1 << 25)));
    }

    #[test]
    fn what_was_measured_is_measured_again_after_a_while() {
        let place = tempfile::tempdir().unwrap();
        let memory = Memory::open(place.path()).unwrap();
        memory.remember_network("eth0", BytesPerSecond::new(100_000).unwrap()).unwrap();
        let file = std::fs::File::options().write(true).open(place.path().join("network.speed")).unwrap();
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let now = std::time::SystemTime::now();
        for (time, known) in [(now - hours(23), true), (now - hours(25), false), (now + hours(1), false)] {
            file.set_modified(time).unwrap();
            assert_eq!(memory.network("eth0").is_some(), known, "{time:?}");
        }
    }

    #[test]
    fn what_was_measured_is_remembered_of_its_interface_and_whole() {
        let place = tempfile::tempdir().unwrap();
        let memory = Memory::open(place.path()).unwrap();
        assert_eq!(memory.network("eth0"), None);
        let speed = BytesPerSecond::new(12_345_678).unwrap();
        memory.remember_network("eth0", speed).unwrap();
        assert_eq!(memory.network("eth0"), Some(speed));
        assert_eq!(memory.network("eth1"), None);
        for damaged in
            ["", "network speed 1\neth0\n", "network speed 1\neth0\n0\n", "network speed 2\neth0\n5\n"]
        {
            std::fs::write(place.path().join("network.speed"), damaged).unwrap();
            assert_eq!(memory.network("eth0"), None, "{damaged:?}");
        }
    }
}
