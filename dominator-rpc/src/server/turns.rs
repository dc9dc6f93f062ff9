use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Status};

use crate::transport::Peer;

/// Lets each address do so much at once of what is dear; the rest of its calls wait, and those of others do not wait for
/// them.
#[derive(Debug)]
pub(super) struct Turns {
    addresses: Mutex<HashMap<IpAddr, Weak<Semaphore>>>,
    share: usize,
}

impl Turns {
    /// `share` calls of each address at once.
    pub(super) fn new(share: usize) -> Self {
        Self { addresses: Mutex::default(), share }
    }

    /// Waits for the turn of a call. Keep what is returned for as long as the call lasts. Safe to cancel.
    pub(super) async fn wait<T>(&self, request: &Request<T>) -> Result<OwnedSemaphorePermit, Status> {
        // INVARIANT: connections without a verified peer are never accepted.
        let peer = request.extensions().get::<Peer>();
        let peer = peer.ok_or_else(|| Status::unauthenticated("nobody is calling"))?;
        let share = self.share_of(peer.address.ip().to_canonical());
        share.acquire_owned().await.map_err(|_| Status::internal("no more turns are given"))
    }

    fn share_of(&self, address: IpAddr) -> Arc<Semaphore> {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = addresses.get(&address).and_then(Weak::upgrade) {
            return share;
        }
        // A share lives as long as somebody has a turn or waits for one.
        addresses.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Semaphore::new(self.share));
        addresses.insert(address, Arc::downgrade(&share));
        share
    }
}
