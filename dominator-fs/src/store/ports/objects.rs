use std::io::Read;

use async_trait::async_trait;
use bytes::Bytes;
use dominator_core::object::ObjectId;
use dominator_core::port::{self, Cause, Piece, Pieces, StoreError, Verified};
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio_stream::wrappers::ReceiverStream;

use super::{Pool, QUEUE};
use crate::store::objects::{AddBatch, Afterwards, ObjectReader, ObjectStore, ObjectWriter, failed};

/// How many streams of objects are read at a time; others wait for their turn.
const READS: usize = 100;
/// How many are written.
const WRITES: usize = 32;
/// How many look-ups are made.
const LOOKUPS: usize = 16;
/// From which length on an object is mapped rather than copied, in bytes, and up to which: it is read twice then, the
/// second time from memory.
const MAPPED: std::ops::RangeInclusive<u64> = 1024 * 1024..=256 * 1024 * 1024;
/// How many bytes of what is read are handed over at once, and how many such batches wait: waking somebody up costs more
/// than reading a small file.
const BATCH: usize = 256 * 1024;
const BATCHES: usize = 2;
/// About what a piece takes beside its data, in bytes.
const OVERHEAD: usize = 64;

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
        // Nothing of it is collected as garbage until it was sent.
        let hold = self.store.hold(wanted.iter().copied(), Afterwards::AsBefore);
        let sizes = self.look_up(wanted.clone()).await?;
        if let Some((id, _)) = wanted.iter().zip(&sizes).find(|(_, size)| size.is_none()) {
            return Err(StoreError::NotFound { id: *id });
        }
        let store = self.store.clone();
        let send = move |out: &mut Outlet<'_>| {
            let _hold = hold;
            send_all(&store, &wanted, out)
        };
        Ok(self.reading(send).await)
    }

    /// Nothing before `offset` is read: on a busy disk that would take longer than anybody waits for an answer. So what
    /// is sent is not verified here. Who asked hashes the whole, and asks for the whole when it is wrong.
    async fn rest(&self, id: ObjectId, offset: u64) -> Result<Pieces, StoreError> {
        let sizes = self.look_up(vec![id]).await?;
        if sizes.first().copied().flatten().is_none() {
            return Err(StoreError::NotFound { id });
        }
        let store = self.store.clone();
        Ok(self.reading(move |out| send_rest(&store, id, offset, out)).await)
    }
}

impl LocalObjects {
    /// What `read` sends.
    async fn reading(
        &self,
        read: impl FnOnce(&mut Outlet<'_>) -> Result<(), Stopped> + Send + 'static,
    ) -> Pieces {
        let (sender, receiver) = mpsc::channel(BATCHES);
        let reading = self
            .reads
            .start(move || {
                let mut out = Outlet { to: &sender, batch: Vec::new(), bytes: 0 };
                let sent = read(&mut out).and_then(|()| out.flush());
                if let Err(Stopped::Failed(error)) = sent {
                    // What came before it, then the error; who has gone away needs neither.
                    drop(out.flush());
                    drop(sender.blocking_send(Err(error)));
                }
            })
            .await;
        // A reader that panicked must not look like one that came to its end.
        let end = stream::once(reading)
            .filter_map(async |read| read.err().map(|error| Err(lost("reading objects", Cause::new(error)))));
        let pieces = ReceiverStream::new(receiver).flat_map(|batch| match batch {
            Ok(batch) => stream::iter(batch.into_iter().map(Ok)).left_stream(),
            Err(error) => stream::iter([Err(error)]).right_stream(),
        });
        Pieces::new(pieces.chain(end))
    }
}

#[async_trait]
impl port::ObjectStore for LocalObjects {
    async fn sizes(&self, ids: &[ObjectId]) -> Result<Vec<Option<u64>>, StoreError> {
        // Who asks is going to add the others and make an image of all: what is here is told to stay, before it is looked
        // for.
        let _hold = self.store.hold(ids.iter().copied(), Afterwards::Fresh);
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

/// Where what is read goes.
struct Outlet<'a> {
    to: &'a Sender<Result<Vec<Piece>, StoreError>>,
    batch: Vec<Piece>,
    /// About how many bytes the batch has.
    bytes: usize,
}

impl Outlet<'_> {
    fn send(&mut self, piece: Piece) -> Result<(), Stopped> {
        let data = if let Piece::Data(data) = &piece { data.len() } else { 0 };
        self.batch.push(piece);
        self.bytes += data + OVERHEAD;
        if self.bytes < BATCH { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), Stopped> {
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() { Ok(()) } else { self.to.blocking_send(Ok(batch)).map_err(|_| Stopped::Gone) }
    }
}

/// Who asks hashes what comes, so what was hashed here a while ago is only read.
fn send_all(store: &ObjectStore, wanted: &[ObjectId], to: &mut Outlet<'_>) -> Result<(), Stopped> {
    for id in wanted {
        let object = store.open_object(id)?;
        to.send(Piece::Begin { id: *id, size: object.size() })?;
        if let Some(file) = object.proven() {
            send_data(*id, object.size(), file.take(object.size()), to)?;
        } else if MAPPED.contains(&object.size()) {
            drop(object);
            send_mapped(store, id, to)?;
        } else {
            send_read(object, to)?;
        }
    }
    Ok(())
}

fn send_mapped(store: &ObjectStore, id: &ObjectId, to: &mut Outlet<'_>) -> Result<(), Stopped> {
    let mut bytes = Bytes::from_owner(store.map(id)?);
    while !bytes.is_empty() {
        to.send(Piece::Data(bytes.split_to(Piece::MAX_DATA.min(bytes.len()))))?;
    }
    Ok(())
}

fn send_rest(store: &ObjectStore, id: ObjectId, offset: u64, to: &mut Outlet<'_>) -> Result<(), Stopped> {
    let (file, size) = store.open_rest(&id, offset)?;
    to.send(Piece::Begin { id, size })?;
    let rest = size.saturating_sub(offset);
    // Should the file be longer by now, the rest is not.
    send_data(id, rest, file.take(rest), to)
}

fn send_read(object: ObjectReader, to: &mut Outlet<'_>) -> Result<(), Stopped> {
    send_data(object.id(), object.size(), object, to)
}

fn send_data(id: ObjectId, length: u64, mut from: impl Read, to: &mut Outlet<'_>) -> Result<(), Stopped> {
    let mut left = usize::try_from(length).unwrap_or(usize::MAX);
    loop {
        let piece = left.min(Piece::MAX_DATA);
        let mut data = Vec::with_capacity(piece);
        let read = (&mut from).take(Piece::MAX_DATA as u64).read_to_end(&mut data);
        read.map_err(|error| failed(format!("object {id} can't be read"), error))?;
        if data.is_empty() {
            return Ok(());
        }
        left = left.saturating_sub(data.len());
        to.send(Piece::Data(data.into()))?;
    }
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
