use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts what each address holds, so that none holds everything.
#[derive(Clone, Debug)]
pub(super) struct Crowd {
    held: Arc<Mutex<HashMap<IpAddr, usize>>>,
    limit: usize,
}

impl Crowd {
    /// Lets each address hold `limit` places.
    pub(super) fn new(limit: usize) -> Self {
        Self { held: Arc::default(), limit }
    }

    /// A place for `address`, if it has not all of its places.
    pub(super) fn enter(&self, address: IpAddr) -> Option<Place> {
        // An IPv6 network is handed out whole: its addresses are one.
        let address = neighbourhood(address.to_canonical());
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(address).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(Place { crowd: self.clone(), address })
    }
}

/// The addresses that are counted as one: who has one of them can take the others.
pub(crate) fn neighbourhood(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
    }
}

/// A place of an address; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Crowd,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.crowd.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                held.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_holds_its_share_and_takes_none_of_the_others() {
        let crowd = Crowd::new(2);
        let enter = |address: &str| crowd.enter(address.parse().unwrap());
        let (first, second) = (enter("192.0.2.1"), enter("::ffff:192.0.2.1"));
        assert!(first.is_some() && second.is_some());
        assert!(enter("192.0.2.1").is_none(), "however it is written");
        assert!(enter("192.0.2.2").is_some());
        drop(first);
        let again = enter("192.0.2.1");
        assert!(again.is_some());
        drop((second, again));
        assert!(crowd.held.lock().unwrap().is_empty(), "nobody is remembered");
        let network = [enter("2001:db8::1"), enter("2001:db8::2")];
        assert!(enter("2001:db8::3").is_none() && enter("2001:db8:0:1::1").is_some());
        drop(network);
    }
}
