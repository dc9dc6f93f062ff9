use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tonic::{Request, Status};

use crate::transport::Peer;

/// How much of a rate nobody used may be had at once later, in time.
const CREDIT: Duration = Duration::from_millis(100);

/// Lets each address have so many bytes of objects a second, however many calls and connections it has.
#[derive(Debug)]
pub(super) struct Rates {
    /// Nothing for no limit.
    bytes_per_second: Option<NonZeroU64>,
    addresses: Mutex<HashMap<IpAddr, Arc<Mutex<Instant>>>>,
}

/// What an address has.
#[derive(Clone, Debug)]
pub(super) struct Rate {
    /// Nothing for no limit.
    limit: Option<(NonZeroU64, Arc<Mutex<Instant>>)>,
}

impl Rates {
    /// So many bytes a second.
    pub(super) fn new(bytes_per_second: Option<NonZeroU64>) -> Self {
        Self { bytes_per_second, addresses: Mutex::default() }
    }

    /// The rate of whoever calls.
    pub(super) fn of<T>(&self, request: &Request<T>) -> Result<Rate, Status> {
        // INVARIANT: connections without a verified peer are never accepted.
        let peer = request.extensions().get::<Peer>();
        let peer = peer.ok_or_else(|| Status::unauthenticated("nobody is calling"))?;
        Ok(self.of_address(peer.address.ip().to_canonical()))
    }

    fn of_address(&self, address: IpAddr) -> Rate {
        let Some(bytes_per_second) = self.bytes_per_second else { return Rate { limit: None } };
        let now = Instant::now();
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        // Who comes back with another call has not had less: an address is remembered until it is its turn again.
        addresses.retain(|_, due| Arc::strong_count(due) > 1 || *locked(due) > now);
        let due = addresses.entry(address).or_insert_with(|| Arc::new(Mutex::new(now))).clone();
        Rate { limit: Some((bytes_per_second, due)) }
    }
}

impl Rate {
    /// Waits until so many more bytes may pass. When it is given up, they count as if they had.
    pub(super) async fn pass(&self, bytes: usize) {
        let Some((bytes_per_second, due)) = &self.limit else { return };
        let takes = u128::try_from(bytes).unwrap_or(u128::MAX).saturating_mul(1_000_000_000);
        let takes = takes / u128::from(bytes_per_second.get());
        let takes = Duration::from_nanos(u64::try_from(takes).unwrap_or(u64::MAX));
        let turn = {
            let mut due = locked(due);
            let turn = (*due).max(Instant::now().checked_sub(CREDIT).unwrap_or(*due));
            *due = turn + takes;
            turn
        };
        sleep_until(turn).await;
    }
}

fn locked(due: &Mutex<Instant>) -> std::sync::MutexGuard<'_, Instant> {
    due.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    /// How long it takes each of these to pass a megabyte in messages of 10 kB.
    async fn passed(rates: impl IntoIterator<Item = Rate>) -> Vec<f64> {
        let begun = Instant::now();
        let pass = |rate: Rate| async move {
            for _ in 0..100 {
                rate.pass(10_000).await;
            }
            begun.elapsed().as_secs_f64()
        };
        futures_util::future::join_all(rates.into_iter().map(pass)).await
    }

    #[tokio::test(start_paused = true)]
    async fn calls_of_one_address_share_its_rate_and_others_have_their_own() {
        let rates = Rates::new(NonZeroU64::new(1_000_000));
        let times = passed([A, A, B].map(|address| rates.of_address(address))).await;
        assert!((1.8..2.1).contains(&times[0].max(times[1])), "{times:?}");
        assert!((0.8..1.1).contains(&times[2]), "{times:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_comes_back_is_remembered_and_whoever_stays_away_is_not() {
        let rates = Rates::new(NonZeroU64::new(1_000_000));
        let begun = Instant::now();
        for _ in 0..10 {
            rates.of_address(A).pass(1_000_000).await;
            assert!(rates.addresses.lock().unwrap().len() <= 1);
        }
        assert!(begun.elapsed().as_secs_f64() > 8.8, "{:?}", begun.elapsed());
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let begun = Instant::now();
        rates.of_address(B).pass(1).await;
        assert_eq!(rates.addresses.lock().unwrap().len(), 1, "the other is forgotten");
        // An hour of silence is worth a tenth of a second.
        passed([rates.of_address(B)]).await;
        assert!(begun.elapsed().as_secs_f64() > 0.8, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nobody_waits_and_nobody_is_remembered() {
        let rates = Rates::new(None);
        assert_eq!(passed([rates.of_address(A)]).await, [0.0]);
        assert!(rates.addresses.lock().unwrap().is_empty());
    }
}
