use std::time::Duration;

use crate::object::ObjectId;

/// Where a machine stands in a crowd: the crowd's pauses end one after the other, each machine's always the same way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spread(Option<u64>);

impl Spread {
    /// That of the machine of this name.
    pub(super) fn of(hostname: &str) -> Self {
        let id = ObjectId::of(hostname.as_bytes());
        let first = id.as_bytes().first_chunk().copied().unwrap_or_default();
        Self(Some(u64::from_be_bytes(first)))
    }

    /// Half of `pause`, and as much of the other half as falls to this machine at this attempt. It is applied after the
    /// cap: those who have failed longest are the largest crowd.
    pub(super) fn within(self, pause: Duration, attempt: u32) -> Duration {
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
}
