//! How old connections get.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Into how many groups the connections fall that are made at one moment.
const GROUPS: u32 = 16;

/// The age of each group: all of `longest` for the first, three quarters of it and a little for the last. A fleet that
/// connected in one moment, as it does when a server starts, must not come back in one moment, again and again.
pub(super) fn ages(longest: Duration) -> impl Iterator<Item = Duration> {
    (0..GROUPS).map(move |group| longest - longest / 4 / GROUPS * group)
}

/// Deals what comes among groups, each in its turn.
#[derive(Debug)]
pub(super) struct Dealt<T> {
    groups: Vec<T>,
    dealt: AtomicUsize,
}

impl<T> Dealt<T> {
    pub(super) fn new(groups: Vec<T>) -> Self {
        Self { groups, dealt: AtomicUsize::new(0) }
    }

    /// Whose turn it is; nobody's, where there is no group.
    pub(super) fn next(&self) -> Option<&T> {
        let turn = self.dealt.fetch_add(1, Ordering::Relaxed);
        self.groups.get(turn.checked_rem(self.groups.len())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_made_at_once_come_back_over_a_quarter_of_their_age() {
        let hour = Duration::from_secs(3600);
        let ages: Vec<_> = ages(hour).collect();
        assert_eq!((ages[0], ages.len()), (hour, 16));
        assert!(ages.windows(2).all(|two| two[0] - two[1] == hour / 64), "{ages:?}");
        assert!(*ages.last().unwrap() > hour * 3 / 4);
        let dealt = Dealt::new(ages);
        let mut turns: Vec<_> = (0..160).map(|_| *dealt.next().unwrap()).collect();
        turns.sort();
        assert!(turns.chunks(10).all(|chunk| chunk.iter().all(|age| *age == chunk[0])), "all have as many");
    }
}
