use std::time::Duration;

use dominator_core::port::StoreError;

/// How slow a source may be. Only time that is spent waiting for it counts: who is held back by this machine is not slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// How long nothing at all may come; four times as long before an answer begins.
    pub silence: Duration,
    /// After how much time of waiting it is looked how much came meanwhile.
    pub window: Duration,
    /// How many bytes must have come in a second then, on average.
    pub bytes_per_second: u64,
    /// How many must have come in a second within four such times, where another source can be asked.
    pub expected: u64,
}

/// Who else can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hurry {
    /// Another source, which may be faster.
    Others,
    Nobody,
}

impl Default for Patience {
    /// Half a minute without anything, or at less than 16 KiB/s: a line that is slower would take days for an image, and
    /// another source may be nearer. Where there is one, two minutes at less than 256 KiB/s.
    fn default() -> Self {
        let half_a_minute = Duration::from_secs(30);
        Self {
            silence: half_a_minute,
            window: half_a_minute,
            bytes_per_second: 16 * 1024,
            expected: 256 * 1024,
        }
    }
}

impl Patience {
    /// How long a source that was asked may have others come first.
    pub(super) fn turn(&self) -> Duration {
        self.silence.saturating_mul(4)
    }

    /// Whether a source that was left for being slow is fast enough where there is no other.
    pub(super) fn is_bearable(&self, error: &StoreError) -> bool {
        if let StoreError::TooSlow { bytes, waited } = error {
            *bytes > 0 && is_fast(*bytes, *waited, self.bytes_per_second)
        } else {
            false
        }
    }
}

/// How much came of one source lately.
#[derive(Debug)]
pub(super) struct Progress {
    patience: Patience,
    hurry: Hurry,
    waited: Duration,
    bytes: u64,
    /// The same, over a longer time.
    long: (u64, Duration),
}

impl Progress {
    pub(super) fn new(patience: Patience, hurry: Hurry) -> Self {
        Self { patience, hurry, waited: Duration::ZERO, bytes: 0, long: (0, Duration::ZERO) }
    }

    /// So much came after that much waiting.
    pub(super) fn came(&mut self, bytes: usize, waited: Duration) -> Result<(), StoreError> {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        self.waited = self.waited.saturating_add(waited);
        if self.waited < self.patience.window {
            return Ok(());
        }
        let (bytes, waited) = (std::mem::take(&mut self.bytes), std::mem::take(&mut self.waited));
        if !is_fast(bytes, waited, self.patience.bytes_per_second) {
            return Err(StoreError::TooSlow { bytes, waited });
        }
        self.long = (self.long.0.saturating_add(bytes), self.long.1.saturating_add(waited));
        if self.hurry == Hurry::Nobody || self.long.1 < self.patience.window.saturating_mul(4) {
            return Ok(());
        }
        let (bytes, waited) = std::mem::take(&mut self.long);
        if is_fast(bytes, waited, self.patience.expected) {
            Ok(())
        } else {
            Err(StoreError::TooSlow { bytes, waited })
        }
    }

    /// Nothing came for as long as it may.
    pub(super) fn silent(&self) -> StoreError {
        let waited = self.waited.saturating_add(self.patience.silence);
        StoreError::TooSlow { bytes: self.bytes, waited }
    }
}

fn is_fast(bytes: u64, waited: Duration, per_second: u64) -> bool {
    u128::from(bytes) >= u128::from(per_second) * waited.as_millis() / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_drips_is_found_out_and_one_that_is_just_fast_enough_is_not() {
        let patience = Patience::default();
        let check = |every: Duration, bytes: usize| {
            let mut progress = Progress::new(patience, Hurry::Nobody);
            (0..10_000).find_map(|_| progress.came(bytes, every).err())
        };
        let second = Duration::from_secs(1);
        assert!(check(second, 16 * 1024).is_none());
        assert!(matches!(check(second, 16 * 1024 - 1), Some(StoreError::TooSlow { .. })));
        // One byte after the other, as fast as they come one by one.
        assert!(check(Duration::from_millis(5), 1).is_some());
        assert!(check(Duration::ZERO, 1).is_none(), "nobody waited");
    }

    #[test]
    fn what_came_long_ago_does_not_excuse_what_does_not_come_now() {
        let mut progress = Progress::new(Patience::default(), Hurry::Nobody);
        progress.came(1 << 30, Duration::from_secs(31)).unwrap();
        assert!(progress.came(1, Duration::from_secs(31)).is_err());
    }

    #[test]
    fn a_source_is_left_for_another_one_sooner_than_for_none_and_comes_again_after_it() {
        let patience = Patience::default();
        let check = |hurry: Hurry, bytes: usize| {
            let mut progress = Progress::new(patience, hurry);
            (0..10_000).find_map(|_| progress.came(bytes, Duration::from_secs(1)).err())
        };
        assert!(check(Hurry::Nobody, 20 * 1024).is_none());
        let slow = check(Hurry::Others, 20 * 1024).unwrap();
        assert!(matches!(slow, StoreError::TooSlow { waited, .. } if waited == Duration::from_secs(120)));
        assert!(patience.is_bearable(&slow));
        assert!(check(Hurry::Others, 256 * 1024).is_none());
        assert!(!patience.is_bearable(&check(Hurry::Others, 1).unwrap()));
        assert!(!patience.is_bearable(&Progress::new(patience, Hurry::Others).silent()));
    }
}
