//! What strangers make a server write into its log.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::limits;
use crate::transport::neighbourhood;

/// How long the room for lines lasts.
const SPAN: Duration = Duration::from_secs(1);

/// The room that a log has for lines which cost nothing to cause: [`limits::LINES`] of a kind in a second for each part of the
/// addresses, then one that says how many more there were. So neither the disk nor what else is in the log is at the mercy of
/// whoever can connect. A clone is the same thing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By words of this crate: nothing a stranger says makes a kind.
    kinds: Mutex<BTreeMap<Kind, Room>>,
    left_out: Notify,
    /// Nobody can choose whose room he takes.
    parts: RandomState,
}

/// What happened, why, and to which part of the addresses.
type Kind = (&'static str, &'static str, u64);

impl Lines {
    /// Has the line written that says `what` happened to `peer` for which `reason`, if there is room; otherwise it is one of
    /// those that are told of by their number.
    pub(crate) fn write(&self, peer: IpAddr, what: &'static str, reason: &'static str, line: impl FnOnce()) {
        let now = Instant::now();
        let part = self.0.parts.hash_one(neighbourhood(peer.to_canonical())) % limits::LINES_APART;
        let kind = (what, reason, part);
        let taken = {
            let mut kinds = self.0.kinds.lock().unwrap_or_else(PoisonError::into_inner);
            kinds.entry(kind).or_insert_with(|| Room::new(now)).take(now)
        };
        match taken {
            Some(more) => {
                tell(kind, more);
                line();
            }
            None => self.0.left_out.notify_one(),
        }
    }

    /// Tells within two seconds how many lines were left out, also when no further one comes. Never ends; can be dropped at
    /// any time.
    pub(crate) async fn keep_telling(&self) {
        loop {
            self.0.left_out.notified().await;
            sleep(SPAN).await;
            self.tell_rest();
        }
    }

    /// Tells how many lines were left out and not told of.
    pub(crate) fn tell_rest(&self) {
        let rest: Vec<(Kind, u64)> = {
            let mut kinds = self.0.kinds.lock().unwrap_or_else(PoisonError::into_inner);
            kinds.iter_mut().map(|(kind, room)| (*kind, std::mem::take(&mut room.more))).collect()
        };
        rest.into_iter().for_each(|(kind, more)| tell(kind, more));
    }
}

fn tell((what, reason, _): Kind, more: u64) {
    if more > 0 {
        tracing::warn!(more, reason, "{what}: and {more} more");
    }
}

/// The room for lines of one kind.
#[derive(Debug)]
struct Room {
    since: Instant,
    left: u32,
    /// How many found none and were not told of.
    more: u64,
}

impl Room {
    const fn new(now: Instant) -> Self {
        Self { since: now, left: limits::LINES, more: 0 }
    }

    /// Takes the room for one line; how many were left out before it. Nothing, if there is none.
    fn take(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.since) >= SPAN {
            (self.since, self.left) = (now, limits::LINES);
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Some(std::mem::take(&mut self.more))
            }
            None => {
                self.more += 1;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_found_no_room_is_told_of_once_also_when_nothing_more_comes() {
        let (lines, written) = (Lines::default(), Cell::new(0));
        let more = |lines: &Lines| lines.0.kinds.lock().unwrap().values().map(|room| room.more).sum::<u64>();
        let write = |peer: [u8; 4], reason| {
            lines.write(peer.into(), "refused", reason, || written.set(written.get() + 1));
        };
        let burst = || (0..100).for_each(|_| write([192, 0, 2, 1], "noise"));
        burst();
        assert_eq!((written.get(), more(&lines)), (limits::LINES, u64::from(100 - limits::LINES)));
        write([192, 0, 2, 1], "other");
        assert_eq!(written.get(), limits::LINES + 1, "every kind has room of its own");
        (0..=255).for_each(|last| write([198, 51, 100, last], "noise"));
        let others = written.get() - limits::LINES - 1;
        assert!(others > 0, "one address can't take the room of all");
        assert!(
            u64::from(others) < u64::from(limits::LINES) * limits::LINES_APART,
            "nor many that of the disk"
        );
        written.set(limits::LINES + 1);
        let telling = tokio::time::timeout(SPAN * 3, lines.keep_telling());
        assert!(telling.await.is_err());
        assert_eq!(more(&lines), 0);
        burst();
        assert_eq!(written.get(), 2 * limits::LINES + 1);
    }

    proptest! {
        /// `Room` against its promise, by a clock that is made up.
        #[test]
        fn a_second_has_room_for_so_many_lines_and_none_is_lost(
            pauses in prop::collection::vec(0_u64..300, 1..200)
        ) {
            let begun = Instant::now();
            let (mut room, mut now) = (Room::new(begun), begun);
            let (mut written, mut told) = (Vec::new(), 0);
            for pause in &pauses {
                now += Duration::from_millis(*pause);
                if let Some(more) = room.take(now) {
                    written.push(now);
                    told += more;
                }
            }
            let spans = u32::try_from((now - begun).as_millis() / SPAN.as_millis()).unwrap() + 1;
            let count = u32::try_from(written.len()).unwrap();
            prop_assert!(count <= limits::LINES * spans, "{count} lines in {spans} s");
            prop_assert_eq!(u64::from(count) + told + room.more, u64::try_from(pauses.len()).unwrap());
            // Whoever writes no more than there is room for is heard with every word.
            let few = pauses.windows(usize::try_from(limits::LINES).unwrap())
                .all(|ten| ten.iter().sum::<u64>() >= u64::try_from(SPAN.as_millis()).unwrap());
            prop_assert!(!few || told + room.more == 0);
        }
    }
}
