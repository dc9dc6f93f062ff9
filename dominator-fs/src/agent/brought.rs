//! Objects that others bring, where an agent can't reach those who have them.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use dominator_core::object::ObjectId;
use dominator_core::port::{
    Activity, Cause, ObjectSource, ObjectStore, Piece, Pieces, Refusal, StoreError, Verified,
};
use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc;

use super::order::Order;
use super::{Shared, blocking};
use crate::update::ObjectCache;

/// How many pieces wait for the disk.
const QUEUE: usize = 4;
const FAILED: &str = "the machine takes no objects";

/// What an agent keeps beside its root, to be added to. Nothing is handed out: it is the machine's.
pub(super) struct Brought(pub(super) Arc<Shared>);

#[async_trait]
impl ObjectSource for Brought {
    async fn objects(&self, wanted: Vec<ObjectId>) -> Result<Pieces, StoreError> {
        match wanted.into_iter().next() {
            Some(id) => Err(StoreError::NotFound { id }),
            None => Ok(Pieces::new(stream::empty())),
        }
    }
}

#[async_trait]
impl ObjectStore for Brought {
    async fn sizes(&self, ids: &[ObjectId]) -> Result<Vec<Option<u64>>, StoreError> {
        let (cache, ids) = (self.cache().await?, ids.to_vec());
        let look = move || Ok(ids.iter().map(|id| cache.size(id)).collect::<io::Result<Vec<_>>>());
        blocking("look for objects", look).await.map_err(failed)?.map_err(failed)
    }

    /// An order like others: it is refused while another is carried out, or somebody else has the lock, or the machine
    /// was stopped.
    async fn add(&self, mut pieces: Pieces) -> Result<Vec<Verified>, StoreError> {
        let shared = Arc::clone(&self.0);
        if let Some(words) = shared.look_at_the_switch() {
            return Err(failed(Refusal::Stopped(words)));
        }
        shared.admit(None).and_then(|()| shared.may_write()).map_err(failed)?;
        let order = Order::begin(shared, Activity::Fetching).map_err(failed)?;
        let cache = self.cache().await?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let writing = tokio::task::spawn_blocking(move || take_in(&cache, receiver));
        let mut broken = None;
        while let Some(piece) = pieces.next().await {
            let sent = match piece {
                Ok(piece) => sender.send(piece).await.is_ok(),
                Err(error) => {
                    broken = Some(error);
                    false
                }
            };
            // A writer that takes no more says why below.
            if !sent {
                break;
            }
        }
        drop(sender);
        let written = writing.await.map_err(failed)?;
        drop(order);
        broken.map_or(written, Err)
    }
}

impl Brought {
    async fn cache(&self) -> Result<ObjectCache, StoreError> {
        let shared = Arc::clone(&self.0);
        let cache = move || Ok(shared.with_updater(|updater| updater.objects().clone()));
        blocking("look for objects", cache).await.map_err(failed)?.map_err(failed)
    }
}

/// What was complete stays, also when something went wrong after it.
fn take_in(cache: &ObjectCache, mut pieces: mpsc::Receiver<Piece>) -> Result<Vec<Verified>, StoreError> {
    let mut intake = cache.intake();
    let mut take = || {
        while let Some(piece) = pieces.blocking_recv() {
            match piece {
                Piece::Begin { id, size } => {
                    let free = cache.free_space().map_err(failed)?;
                    free.suffices(free.needed([size]), 1)?;
                    intake.begin(id, size)?;
                }
                Piece::Data(data) if data.len() > Piece::MAX_DATA => {
                    return Err(StoreError::Protocol(format!("a piece of {} bytes", data.len())));
                }
                Piece::Data(data) => intake.data(&data)?,
            }
        }
        Ok(())
    };
    let taken = take();
    if taken.is_err() {
        intake.break_off();
    }
    let kept = intake.finish()?;
    taken.map(|()| kept)
}

fn failed(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::Failed { what: FAILED.to_owned(), cause: Cause::new(cause) }
}
