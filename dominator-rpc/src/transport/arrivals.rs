use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::bounds::Bounds;
use super::crowd::neighbourhood;
use crate::lines::Lines;
use crate::metrics::Metrics;

/// Why a handshake was given up, in a word for metrics.
const SLOW: &str = "slow";

/// The handshakes under way.
///
/// As many strangers as like can connect and say nothing, or begin a handshake and say no more. While there is room, they
/// have their time. When there is none, the address with the most makes room for one that has fewer, at once, and gets no
/// more itself; so who comes from an address of its own is kept out by nobody who has fewer addresses than there are
/// places. Where all have as many, whoever has been at it longest makes room, and first those who say nothing: who means it
/// speaks at once, and is done within moments.
///
/// A refusal must cost less than the connection that is refused, so nothing here looks at more than the addresses while there
/// is one to choose.
#[derive(Debug)]
pub(super) struct Arrivals {
    bounds: Arc<Bounds>,
    lines: Lines,
    metrics: Metrics,
    tasks: JoinSet<()>,
    /// The address of each that is under way and not given up.
    addresses: HashMap<Id, IpAddr>,
    /// Those of each address, the oldest first.
    queues: HashMap<IpAddr, VecDeque<Arrival>>,
}

#[derive(Debug)]
struct Arrival {
    begun: Instant,
    heard: Heard,
    handshake: AbortHandle,
}

/// Whether anything was heard of somebody.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard(Arc<AtomicBool>);

impl Heard {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Arrivals {
    pub(super) fn new(bounds: Arc<Bounds>, lines: Lines, metrics: Metrics) -> Self {
        let (tasks, addresses, queues) = (JoinSet::new(), HashMap::new(), HashMap::new());
        Self { bounds, lines, metrics, tasks, addresses, queues }
    }

    /// Waits until there is room for one more from `address`, and says whether there is. Safe to cancel.
    pub(super) async fn room(&mut self, address: IpAddr) -> bool {
        let from = neighbourhood(address.to_canonical());
        loop {
            while let Some(done) = self.tasks.try_join_next_with_id() {
                self.forget(id(done));
            }
            if self.tasks.len() < self.bounds.handshakes.max(1) {
                return true;
            }
            let own = self.queues.get(&from).map_or(0, VecDeque::len);
            let most = self.queues.iter().map(|(address, queue)| (queue.len(), *address)).max();
            match most {
                Some((count, most)) if count > own + 1 => {
                    self.give_up_oldest_of(most);
                    self.done().await;
                }
                Some((count, _)) if count > 1 => return false,
                _ => self.wait().await,
            }
        }
    }

    /// Begins one with `address`, which tells when it has heard anything.
    pub(super) fn begin<F>(&mut self, address: IpAddr, handshake: impl FnOnce(Heard) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let heard = Heard::default();
        let handshake = self.tasks.spawn(handshake(heard.clone()));
        let from = neighbourhood(address.to_canonical());
        self.addresses.insert(handshake.id(), from);
        let arrival = Arrival { begun: Instant::now(), heard, handshake };
        self.queues.entry(from).or_default().push_back(arrival);
    }

    fn give_up_oldest_of(&mut self, address: IpAddr) {
        let oldest = self.queues.get(&address).and_then(VecDeque::front);
        if let Some(handshake) = oldest.map(|arrival| arrival.handshake.clone()) {
            self.give_up(&handshake);
        }
    }

    fn give_up(&mut self, handshake: &AbortHandle) {
        if let Some(peer) = self.addresses.get(&handshake.id()).filter(|_| !handshake.is_finished()) {
            self.metrics.refused(SLOW);
            self.lines.write(*peer, "connection refused", SLOW, || {
                let reason =
                    "others need the room, and it was the slowest or of the address that has most of it";
                tracing::warn!(%peer, reason, "connection refused");
            });
        }
        handshake.abort();
        self.forget(handshake.id());
    }

    /// Waits until one is done.
    async fn done(&mut self) {
        if let Some(done) = self.tasks.join_next_with_id().await {
            self.forget(id(done));
        }
    }

    /// It is done, or given up.
    fn forget(&mut self, handshake: Id) {
        let Some(from) = self.addresses.remove(&handshake) else { return };
        if let Entry::Occupied(mut queue) = self.queues.entry(from) {
            queue.get_mut().retain(|arrival| arrival.handshake.id() != handshake);
            if queue.get().is_empty() {
                queue.remove();
            }
        }
    }

    /// Waits until one is done, or late.
    async fn wait(&mut self) {
        let first = self.queues.values().flatten().map(|arrival| self.late(arrival)).min();
        tokio::select! {
            () = self.done() => {}
            () = sleep_until(first.unwrap_or_else(Instant::now)) => self.evict(),
        }
    }

    /// When it makes room, if there is none.
    fn late(&self, arrival: &Arrival) -> Instant {
        arrival.begun
            + match arrival.heard.0.load(Ordering::Relaxed) {
                true => self.bounds.handshake_pressed,
                false => self.bounds.handshake_silent,
            }
    }

    /// Gives up all whose time is over: each makes room for one.
    fn evict(&mut self) {
        let now = Instant::now();
        let late = self.queues.values().flatten().filter(|arrival| self.late(arrival) <= now);
        let late: Vec<_> = late.map(|arrival| arrival.handshake.clone()).collect();
        late.iter().for_each(|handshake| self.give_up(handshake));
    }
}

fn id(done: Result<(Id, ()), JoinError>) -> Id {
    done.map_or_else(|failed| failed.id(), |(id, ())| id)
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn so_many_at_once(handshakes: usize) -> Arrivals {
        let (handshake_pressed, handshake_silent) = (5 * SECOND, 2 * SECOND);
        let bounds = Bounds { handshakes, handshake_pressed, handshake_silent, ..Bounds::default() };
        Arrivals::new(Arc::new(bounds), Lines::default(), Metrics::new())
    }

    /// A handshake that lasts until it is given up, and tells so.
    fn slow(arrivals: &mut Arrivals, from: u8, says_something: bool) -> oneshot::Receiver<()> {
        let (held, given_up) = oneshot::channel::<()>();
        arrivals.begin(address(from), |heard| async move {
            let _held = held;
            if says_something {
                heard.set();
            }
            pending().await
        });
        given_up
    }

    async fn is_given_up(handshake: oneshot::Receiver<()>) -> bool {
        timeout(SECOND, handshake).await.is_ok_and(|held| held.is_err())
    }

    #[tokio::test(start_paused = true)]
    async fn who_began_first_and_is_not_done_makes_room_when_there_is_none() {
        let (begun, mut arrivals) = (Instant::now(), so_many_at_once(2));
        let first = slow(&mut arrivals, 1, true);
        assert!(arrivals.room(address(2)).await);
        assert_eq!(begun.elapsed(), Duration::ZERO, "there was room");
        let second = slow(&mut arrivals, 2, false);
        assert!(arrivals.room(address(3)).await);
        assert_eq!(begun.elapsed(), 2 * SECOND);
        assert!(is_given_up(second).await, "given up, as it said nothing");
        let third = slow(&mut arrivals, 3, true);
        assert!(arrivals.room(address(4)).await);
        assert_eq!(begun.elapsed(), 5 * SECOND);
        assert!(is_given_up(first).await, "given up, as it was not done");
        arrivals.begin(address(4), |_| async {});
        assert!(arrivals.room(address(5)).await);
        assert_eq!(begun.elapsed(), 5 * SECOND, "who is done holds nobody up");
        assert_eq!(arrivals.metrics.connections_refused(), 2, "all that were given up, and no more");
        drop(third);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_are_remembered_than_may_be_under_way() {
        let mut arrivals = so_many_at_once(2);
        let first = slow(&mut arrivals, 1, true);
        for _ in 0..100 {
            assert!(arrivals.room(address(2)).await);
            arrivals.begin(address(2), |_| async {});
            tokio::task::yield_now().await;
        }
        let queued: usize = arrivals.queues.values().map(VecDeque::len).sum();
        assert!(queued <= 3 && arrivals.addresses.len() <= 3, "{queued} queued");
        drop(first);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_the_most_makes_room_at_once_for_who_has_fewer_and_gets_no_more() {
        let (begun, mut arrivals) = (Instant::now(), so_many_at_once(4));
        let oldest = slow(&mut arrivals, 1, true);
        let others = [1, 1, 2].map(|from| slow(&mut arrivals, from, true));
        assert!(!arrivals.room(address(1)).await, "it has the most");
        assert!(arrivals.room(address(3)).await);
        assert!(is_given_up(oldest).await, "given up, as the oldest of those who have the most");
        assert_eq!(arrivals.metrics.connections_refused(), 1);
        let third = slow(&mut arrivals, 3, true);
        assert!(!arrivals.room(address(3)).await, "it would have as many as anybody");
        assert!(arrivals.room(address(4)).await);
        assert_eq!(begun.elapsed(), Duration::ZERO, "nobody is waited for");
        let fourth = slow(&mut arrivals, 4, true);
        let network = [1_u128 << 64, (1 << 64) + 1].map(|bits| IpAddr::V6(bits.into()));
        assert!(arrivals.room(network[0]).await, "nobody has more than one, and the slowest makes room");
        assert_eq!(begun.elapsed(), 5 * SECOND);
        drop((others, third, fourth));
    }
}
