use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::policy::Offered;

/// How many calls of one method those without powers have under way.
#[derive(Debug, Default)]
pub(super) struct Shares(Mutex<HashMap<Who, u32>>);

/// Whose calls are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Who {
    /// A user, wherever it calls from.
    User(String),
    /// All who show no certificate at one address.
    Address(IpAddr),
}

/// A call's place among those of its caller; given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    offered: Arc<Offered>,
    who: Who,
}

impl Share {
    /// A place for a call, if `who` has less than `limit` of them.
    pub(super) fn take(offered: &Arc<Offered>, who: Who, limit: u32) -> Option<Self> {
        let mut held = offered.shares.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.get(&who).copied().unwrap_or_default();
        if count >= limit {
            return None;
        }
        held.insert(who.clone(), count + 1);
        drop(held);
        Some(Self { offered: offered.clone(), who })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.offered.shares.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.who) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                held.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Policy;
    use dominator_core::auth::Rule;

    #[test]
    fn a_user_has_its_share_and_nobody_is_remembered() {
        let policy = Policy::new().method("/a.B/C", Rule::READS).unwrap();
        let offered = policy.offered("/a.B/C").unwrap();
        let take = |who: &str| Share::take(offered, Who::User(who.into()), 2);
        let (first, second) = (take("alice"), take("alice"));
        assert!(first.is_some() && second.is_some() && take("alice").is_none());
        let other = take("bob");
        assert!(other.is_some());
        drop(first);
        let again = take("alice");
        assert!(again.is_some());
        drop((second, again, other));
        assert!(offered.shares.0.lock().unwrap().is_empty());
    }
}
