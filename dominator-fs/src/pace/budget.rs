//! A budget: so much a second, spent first and slept for afterwards.

use std::num::NonZeroU64;
use std::time::Duration;

/// When what was spent so far will have been earned. Times are since some beginning; units are whatever is counted.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    rate: NonZeroU64,
    due: Duration,
}

/// A factor of one, in thousandths.
pub(super) const WHOLE: u16 = 1000;

impl Budget {
    /// What was not spent is lost after this: nobody saves up for a burst.
    const BURST: Duration = Duration::from_millis(100);

    pub(super) fn new(rate: NonZeroU64, now: Duration) -> Self {
        Self { rate, due: now }
    }

    /// Spends `amount`, for work that began at `since`, and says when that will have been earned. While the work lasted
    /// the budget earned, so that what a read took is not slept for once more.
    pub(super) fn charge(&mut self, now: Duration, since: Duration, amount: u64, factor: u16) -> Duration {
        let earliest = since.max(now.saturating_sub(Self::BURST));
        let nanos = u128::from(amount) * 1_000_000_000 / u128::from(self.allowed(factor).max(1));
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.due = self.due.max(earliest).saturating_add(cost);
        self.due
    }

    /// Forgets debts.
    pub(super) fn forgive(&mut self, now: Duration) {
        self.due = self.due.min(now);
    }

    /// How much a second is allowed at so many thousandths.
    pub(super) fn allowed(&self, factor: u16) -> u64 {
        let allowed = u128::from(self.rate.get()) * u128::from(factor) / u128::from(WHOLE);
        u64::try_from(allowed).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn budget(rate: u64) -> Budget {
        Budget::new(NonZeroU64::new(rate).unwrap(), Duration::ZERO)
    }

    #[test]
    fn what_is_spent_is_earned_at_the_rate_whoever_spends_it() {
        let mut shared = budget(1000);
        let mut now = Duration::ZERO;
        // Two threads, each asleep for as long as it is told to.
        for _ in 0..50 {
            let first = shared.charge(now, now, 10, WHOLE);
            let second = shared.charge(now, now, 10, WHOLE);
            assert_eq!(second - first, ms(10));
            now = second;
        }
        assert_eq!(now, ms(1000));
    }

    #[test]
    fn idling_saves_nothing_up_and_a_slow_read_is_not_slept_for_twice() {
        let mut budget = budget(1000);
        assert_eq!(budget.charge(ms(5000), ms(5000), 200, WHOLE), ms(5200));
        // A read of 50 ms that cost 80 ms of the budget: 30 ms are left to sleep.
        assert_eq!(budget.charge(ms(6050), ms(6000), 80, WHOLE), ms(6080));
        // A thread that was away for an hour has no hour to spend.
        assert_eq!(budget.charge(ms(3_600_000), ms(7000), 150, WHOLE), ms(3_600_050));
    }

    #[test]
    fn less_is_allowed_under_pressure_and_debts_can_be_forgiven() {
        let mut budget = budget(1000);
        assert_eq!(budget.charge(ms(0), ms(0), 100, WHOLE / 10), ms(1000));
        budget.forgive(ms(5));
        assert_eq!(budget.charge(ms(5), ms(5), 100, WHOLE), ms(105));
        assert_eq!(
            budget.charge(ms(5), ms(5), u64::MAX, 1),
            ms(105).saturating_add(Duration::from_nanos(u64::MAX))
        );
    }
}
