//! The ports of `dominator-core` on these stores, on tokio's pool for blocking work, of which each takes a bounded
//! share; and the other way round, the sinks and streams of this crate on any port.
//!
//! Cancelling a call abandons it: work that has begun on the pool is finished there, and leaves whole objects or none.

pub(crate) mod batches;
mod bridge;
mod cluster;
mod images;
mod objects;

pub use bridge::{PortSink, PortStream};
pub use images::LocalImages;
pub use objects::LocalObjects;

use std::sync::Arc;

use dominator_core::port::Cause;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// How many pieces may wait between the disk and the network, so that neither fills the memory when the other is slow.
const QUEUE: usize = 4;

/// A share of the pool for blocking work.
#[derive(Clone, Debug)]
struct Pool(Arc<Semaphore>);

impl Pool {
    fn new(share: usize) -> Self {
        Self(Arc::new(Semaphore::new(share)))
    }

    /// Runs `work` on the pool when it is its turn, and waits for the end of it.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Cause> {
        self.start(work).await.await.map_err(Cause::new)
    }

    /// Starts `work` on the pool when it is its turn.
    async fn start<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let permit = Arc::clone(&self.0).acquire_owned().await;
        let permit = permit.expect("invariant: the semaphore is never closed");
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        })
    }
}
