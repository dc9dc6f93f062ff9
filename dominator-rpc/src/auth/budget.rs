use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dominator_pki::Fingerprint;

use crate::transport::{Peer, neighbourhood};

/// How many records each caller without power may leave in the audit log at once.
const AT_ONCE: u32 = 20;
/// How many calls each holder of a certificate with a scope may have under way of which only the handlers know whether they
/// lie within it, and how many of them may be denied at once. More than anybody needs who means it well, and few beside what
/// the log holds.
const SCOPED_AT_ONCE: u32 = 256;
/// How long it takes until it may leave one more.
const EACH: Duration = Duration::from_secs(1);
/// How many callers are told apart. Those beyond share one purse.
const CALLERS: usize = 1024;

/// What callers without power may have recorded. Such calls cost nothing, and must not push out what others did.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    at_once: u32,
    purses: Arc<Mutex<HashMap<Whose, Purse>>>,
}

/// Whose records are counted together. A user name will not do: whoever may choose one has many.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Whose {
    Certificate(Fingerprint),
    /// All who show no certificate at one address.
    Address(IpAddr),
    /// All for whom there was no room.
    Others,
}

#[derive(Debug)]
struct Purse {
    left: u32,
    /// When `left` was right.
    since: Instant,
    /// How many records were left out since one was not.
    suppressed: u64,
}

impl Budget {
    /// For callers without power.
    pub(super) fn powerless() -> Self {
        Self { at_once: AT_ONCE, purses: Arc::default() }
    }

    /// For those whose power has a scope. No stranger has a purse among these, so that they can't be crowded out.
    pub(super) fn scoped() -> Self {
        Self { at_once: SCOPED_AT_ONCE, purses: Arc::default() }
    }

    /// Takes the price of one record; how many were left out before it. Nothing, if there is nothing left.
    pub(super) fn take(&self, peer: &Peer) -> Option<u64> {
        self.with(Whose::of(peer), |purse| {
            purse.left = purse.left.checked_sub(1)?;
            Some(std::mem::take(&mut purse.suppressed))
        })
    }

    /// The call that was paid for was none of those that cost nothing.
    pub(super) fn give_back(&self, peer: &Peer) {
        self.with(Whose::of(peer), |purse| purse.left = self.at_once.min(purse.left + 1));
    }

    /// A record was left out.
    pub(super) fn leave_out(&self, peer: &Peer) {
        self.with(Whose::of(peer), |purse| purse.suppressed += 1);
    }

    /// How many were left out before a record that needs no budget.
    pub(super) fn left_out(&self, peer: &Peer) -> u64 {
        let mut purses = self.purses.lock().unwrap_or_else(PoisonError::into_inner);
        purses.get_mut(&Whose::of(peer)).map_or(0, |purse| std::mem::take(&mut purse.suppressed))
    }

    fn with<T>(&self, mut whose: Whose, work: impl FnOnce(&mut Purse) -> T) -> T {
        let now = Instant::now();
        let mut purses = self.purses.lock().unwrap_or_else(PoisonError::into_inner);
        if !purses.contains_key(&whose) && purses.len() >= CALLERS {
            purses.retain(|_, purse| !purse.is_full(now, self.at_once));
            if purses.len() >= CALLERS {
                whose = Whose::Others;
            }
        }
        let purse = purses.entry(whose).or_insert(Purse { left: self.at_once, since: now, suppressed: 0 });
        purse.refill(now, self.at_once);
        work(purse)
    }
}

impl Whose {
    fn of(peer: &Peer) -> Self {
        match &peer.verified {
            Some(verified) => Self::Certificate(verified.fingerprint()),
            None => Self::Address(neighbourhood(peer.address.ip().to_canonical())),
        }
    }
}

impl Purse {
    fn earned(&self, now: Instant) -> u32 {
        let earned = now.saturating_duration_since(self.since).as_secs() / EACH.as_secs();
        u32::try_from(earned).unwrap_or(u32::MAX)
    }

    fn is_full(&self, now: Instant, at_once: u32) -> bool {
        self.left.saturating_add(self.earned(now)) >= at_once
    }

    fn refill(&mut self, now: Instant, at_once: u32) {
        let earned = self.earned(now);
        self.left = self.left.saturating_add(earned).min(at_once);
        self.since += EACH * earned;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: usize) -> Whose {
        Whose::Address(IpAddr::from(u32::try_from(number).unwrap().to_be_bytes()))
    }

    #[test]
    fn a_purse_fills_with_time_and_never_over_its_brim() {
        let began = Instant::now();
        let mut purse = Purse { left: 0, since: began, suppressed: 0 };
        purse.refill(began + EACH * 2 + EACH / 2, AT_ONCE);
        assert_eq!(purse.left, 2);
        purse.refill(began + EACH * 3, AT_ONCE);
        assert_eq!(purse.left, 3, "and half a price is not forgotten");
        purse.refill(began + EACH * 1_000_000, AT_ONCE);
        assert_eq!(purse.left, AT_ONCE);
    }

    #[test]
    fn callers_without_number_share_what_is_left_and_take_no_memory() {
        let budget = Budget::powerless();
        let take = |whose| budget.with(whose, |purse| purse.left = purse.left.saturating_sub(AT_ONCE));
        (0..3 * CALLERS).for_each(|number| take(address(number)));
        assert!(budget.purses.lock().unwrap().len() <= CALLERS + 1);
        assert!(budget.purses.lock().unwrap().contains_key(&Whose::Others));
    }
}
