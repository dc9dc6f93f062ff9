use std::io::Read;

use async_trait::async_trait;
use bytes::Bytes;
use dominator_core::object::ObjectId;
use dominator_core::port::{self, Cause, Piece, Pieces, StoreError, Verified};
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio_stream::wrappers::ReceiverStream;

use super::{Pool, QUEUE};
use crate::store::objects::{AddBatch, ObjectReader, ObjectStore, ObjectWriter, failed};

/// How many streams of objects are read at a time; others wait for their turn.
const READS: usize = 100;
/// How many are written.
const WRITES: usize = 32;
/// How many look-ups are made.
const LOOKUPS: usize = 16;
/// From which length on an object is mapped rather than copied, in bytes, and up to which: it is read twice then, the
/// second time from memory.
const MAPPED: std::ops::RangeInclusive<u64> = 1024 * 1024..=256 * 1024 * 1024;

/// An [`ObjectStore`] as the port. Clones share it.
#[derive(Clone, Debug)]
pub struct LocalObjects {
    store: ObjectStore,
    lookups: Pool,
    reads: Pool,
    writes: Pool,
}

impl LocalObjects {
    /// Serves `store`.
    pub fn new(store: ObjectStore) -> Self {
        Self { store, lookups: Pool::new(LOOKUPS), reads: Pool::new(READS), writes: Pool::new(WRITES) }
    }

    /// The store that is served.
    pub fn store(&self) -> &ObjectStore {
        &self.store
    }

    async fn look_up(&self, ids: Vec<ObjectId>) -> Result<Vec<Option<u64>>, StoreError> {
        let store = self.store.clone();
        let sizes = self.lookups.run(move || ids.iter().map(|id| store.size(id)).collect());
        sizes.await.map_err(|cause| lost("looking objects up", cause))?
    }
}

#[async_trait]
impl port::ObjectSource for LocalObjects {
    async fn objects(&self, wanted: Vec<ObjectId>) -> Result<Pieces, StoreError> {
        let sizes = self.look_up(wanted.clone()).await?;
        if let Some((id, _)) = wanted.iter().zip(&sizes).find(|(_, size)| size.is_none()) {
            return Err(StoreError::NotFound { id: *id });
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        let store = self.store.clone();
        let reading = self
            .reads
            .start(move || {
                if let Err(Stopped::Failed(error)) = send_all(&store, &wanted, &sender) {
                    // Who has gone away needs no error.
                    drop(sender.blocking_send(Err(error)));
                }
            })
            .await;
        // A reader that panicked must not look like one that came to its end.
        let end = stream::once(reading)
            .filter_map(async |read| read.err().map(|error| Err(lost("reading objects", Cause::new(error)))));
        Ok(Pieces::new(ReceiverStream::new(receiver).chain(end)))
    }
}

#[async_trait]
impl port::ObjectStore for LocalObjects {
    async fn sizes(&self, ids: &[ObjectId]) -> Result<Vec<Option<u64>>, StoreError> {
        self.look_up(ids.to_vec()).await
    }

    async fn add(&self, mut pieces: Pieces) -> Result<Vec<Verified>, StoreError> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let store = self.store.clone();
        let writing = self.writes.start(move || receive_all(&store, receiver)).await;
        let mut broken = None;
        while let Some(piece) = pieces.next().await {
            match piece {
                Ok(piece) => {
                    if sender.send(piece).await.is_err() {
                        // The writer has given up and says why below.
                        break;
                    }
                }
                Err(error) => {
                    broken = Some(error);
                    break;
                }
            }
        }
        drop(sender);
        let written = writing.await.map_err(|error| lost("writing objects", Cause::new(error)))?;
        broken.map_or(written, Err)
    }
}

/// Why nothing more is sent.
enum Stopped {
    /// Nobody listens.
    Gone,
    Failed(StoreError),
}

impl From<StoreError> for Stopped {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

type Outlet = Sender<Result<Piece, StoreError>>;

fn send_all(store: &ObjectStore, wanted: &[ObjectId], to: &Outlet) -> Result<(), Stopped> {
    for id in wanted {
        let object = store.open_object(id)?;
        send(Piece::Begin { id: *id, size: object.size() }, to)?;
        if MAPPED.contains(&object.size()) {
            drop(object);
            send_mapped(store, id, to)?;
        } else {
            send_read(object, to)?;
        }
    }
    Ok(())
}

fn send_mapped(store: &ObjectStore, id: &ObjectId, to: &Outlet) -> Result<(), Stopped> {
    let mut bytes = Bytes::from_owner(store.map(id)?);
    while !bytes.is_empty() {
        send(Piece::Data(bytes.split_to(Piece::MAX_DATA.min(bytes.len()))), to)?;
    }
    Ok(())
}

fn send_read(mut object: ObjectReader, to: &Outlet) -> Result<(), Stopped> {
    let id = object.id();
    loop {
        let mut data = Vec::new();
        let read = (&mut object).take(Piece::MAX_DATA as u64).read_to_end(&mut data);
        read.map_err(|error| failed(format!("object {id} can't be read"), error))?;
        if data.is_empty() {
            return Ok(());
        }
        send(Piece::Data(data.into()), to)?;
    }
}

fn send(piece: Piece, to: &Outlet) -> Result<(), Stopped> {
    to.blocking_send(Ok(piece)).map_err(|_| Stopped::Gone)
}

/// Keeps what was complete, also when something went wrong after it.
fn receive_all(store: &ObjectStore, pieces: Receiver<Piece>) -> Result<Vec<Verified>, StoreError> {
    let mut batch = store.batch();
    let received = receive(&mut batch, pieces);
    let (kept, durable) = batch.finish()?;
    received.map(|()| acknowledged(kept, durable))
}

fn acknowledged(kept: Vec<Verified>, _proof: crate::publish::Durable) -> Vec<Verified> {
    kept
}

fn receive(batch: &mut AddBatch, mut pieces: Receiver<Piece>) -> Result<(), StoreError> {
    let mut current: Option<ObjectWriter> = None;
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Piece::Begin { id, size } => {
                if let Some(complete) = current.take() {
                    batch.add(complete)?;
                }
                current = Some(batch.begin(id, size)?);
            }
            Piece::Data(data) if data.len() > Piece::MAX_DATA => {
                let limit = Piece::MAX_DATA;
                return Err(StoreError::Protocol(format!(
                    "a piece of {} bytes, more than {limit}",
                    data.len()
                )));
            }
            Piece::Data(data) => current
                .as_mut()
                .ok_or_else(|| StoreError::Protocol("data before the object they belong to".into()))?
                .write(&data)?,
        }
    }
    current.map_or(Ok(()), |complete| batch.add(complete))
}

fn lost(what: &str, cause: Cause) -> StoreError {
    StoreError::Failed { what: format!("{what} was given up"), cause }
}
