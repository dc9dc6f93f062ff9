//! When to try again what failed: later each time, and not when everybody else does.

use std::time::Duration;

use crate::object::ObjectId;

/// Pauses between attempts at one thing: each twice as long as the one before, up to a longest, and then shortened by
/// [`Spread`], so that those who failed together do not come back together.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    spread: Spread,
    failures: u32,
}

impl Backoff {
    /// Pauses from `first` to `longest`.
    pub const fn new(first: Duration, longest: Duration, spread: Spread) -> Self {
        Self { first, longest, spread, failures: 0 }
    }

    /// How long to wait after one more failure.
    pub fn pause(&mut self) -> Duration {
        self.pause_up_to(self.longest)
    }

    /// The same, where so little is worth waiting for this time.
    pub fn pause_up_to(&mut self, longest: Duration) -> Duration {
        let doubled = self.first.saturating_mul(1 << self.failures.min(20));
        self.failures = self.failures.saturating_add(1);
        self.spread.within(doubled.min(longest).min(self.longest), self.failures)
    }

    /// A pause after a refusal that nothing but another certificate or other rights will change: `time` at once.
    pub fn refused(&mut self, time: Duration) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.spread.within(time, self.failures)
    }

    /// It succeeded: the next failure is a first one.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }
}

/// Where one of many stands in the crowd: the crowd's pauses end one after the other, each one's always the same way.
/// Without a name, nothing is spread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spread(Option<u64>);

impl Spread {
    /// That of the machine, or whatever else, of this name.
    pub fn of(name: &str) -> Self {
        let id = ObjectId::of(name.as_bytes());
        let first = id.as_bytes().first_chunk().copied().unwrap_or_default();
        Self(Some(u64::from_be_bytes(first)))
    }

    /// That of whoever drew this number.
    pub const fn drawn(number: u64) -> Self {
        Self(Some(number))
    }

    /// Half of `pause`, and as much of the other half as falls to this one at this attempt. It is applied after the cap:
    /// those who have failed longest are the largest crowd.
    pub fn within(self, pause: Duration, attempt: u32) -> Duration {
        let Some(seed) = self.0 else { return pause };
        // One round of SplitMix64: attempts that follow each other come out far apart.
        let mut mixed = seed.wrapping_add(u64::from(attempt).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let share = u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap_or(u32::MAX);
        let half = pause / 2;
        half.saturating_add(half.mul_f64(f64::from(share) / f64::from(u32::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_that_failed_together_are_tried_again_apart() {
        let longest = Duration::from_secs(60);
        let mut tenths = [0_u32; 10];
        for number in 0..10_000 {
            let name = format!("web{number}");
            let pause = Spread::of(&name).within(longest, 9);
            assert!(pause >= longest / 2 && pause <= longest, "{pause:?}");
            assert_eq!(pause, Spread::of(&name).within(longest, 9), "the same each time");
            let tenth = (pause - longest / 2).as_micros() * 10 / ((longest / 2).as_micros() + 1);
            tenths[usize::try_from(tenth).unwrap()] += 1;
        }
        assert!(tenths.iter().all(|count| (800..1200).contains(count)), "{tenths:?}");
        assert_eq!(Spread::default().within(longest, 9), longest);
    }

    #[test]
    fn pauses_grow_to_the_longest_and_are_spread_after_it() {
        let (first, longest) = (Duration::from_secs(1), Duration::from_secs(30));
        let mut pauses = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let mut backoff = Backoff::new(first, longest, Spread::drawn(seed));
            for expected in [1, 2, 4, 8, 16, 30, 30] {
                let (pause, expected) = (backoff.pause(), Duration::from_secs(expected));
                assert!(pause >= expected / 2 && pause <= expected, "{pause:?}");
            }
            assert!(pauses.insert(backoff.pause()), "nobody else waits as long");
            assert!(backoff.pause_up_to(first) <= first);
            assert!(backoff.refused(longest * 10) >= longest * 5, "who was refused is not heard for long");
            backoff.succeeded();
            assert!(backoff.pause() <= first);
        }
    }
}
