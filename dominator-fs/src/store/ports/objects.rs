use std::io::Read;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use async_trait::async_trait;
use bytes::Bytes;
use dominator_core::object::ObjectId;
use dominator_core::port::{self, Cause, Piece, Pieces, StoreError, Verified};
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc::Receiver;

use super::Pool;
use super::batches::{self, Gathered, Inlet, Outlet, Stopped};
use crate::store::objects::{AddBatch, Afterwards, Hold, ObjectReader, ObjectStore, ObjectWriter, failed};

/// How many streams of objects are read at a time; others wait for their turn.
const READS: usize = 100;
/// How many are written.
const WRITES: usize = 32;
/// How many look-ups are made.
const LOOKUPS: usize = 16;
/// From which length on an object is mapped rather than copied, in bytes, and up to which: it is read twice then, the
/// second time from memory.
const MAPPED: std::ops::RangeInclusive<u64> = 1024 * 1024..=256 * 1024 * 1024;
/// After how many bytes what came is made durable while more comes: the disk does not wait for the network, nor the network
/// for the disk.
const SETTLED: u64 = 64 * 1024 * 1024;

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
        let send = move |out: &mut Outlet| {
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
        read: impl FnOnce(&mut Outlet) -> Result<(), Stopped> + Send + 'static,
    ) -> Pieces {
        let (sender, receiver) = batches::channel();
        let reading = self
            .reads
            .start(move || {
                let mut out = Outlet::new(sender);
                let sent = read(&mut out);
                out.end(sent);
            })
            .await;
        // A reader that panicked must not look like one that came to its end.
        let end = stream::once(reading)
            .filter_map(async |read| read.err().map(|error| Err(lost("reading objects", Cause::new(error)))));
        Pieces::new(batches::pieces(receiver).chain(end))
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

    async fn add(&self, pieces: Pieces) -> Result<Vec<Verified>, StoreError> {
        let (sender, receiver) = batches::channel();
        let store = self.store.clone();
        let writing = self.writes.start(move || receive_all(&store, receiver)).await;
        let mut coming = Gathered::new(pieces);
        while let Some(batch) = coming.next().await {
            let failed = batch.is_err();
            // A writer that takes no more has given up and says why below.
            if sender.send(batch).await.is_err() || failed {
                break;
            }
        }
        drop(sender);
        writing.await.map_err(|error| lost("writing objects", Cause::new(error)))?
    }
}

/// Who asks hashes what comes, so what was hashed here a while ago is only read.
fn send_all(store: &ObjectStore, wanted: &[ObjectId], to: &mut Outlet) -> Result<(), Stopped> {
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

fn send_mapped(store: &ObjectStore, id: &ObjectId, to: &mut Outlet) -> Result<(), Stopped> {
    let mut bytes = Bytes::from_owner(store.map(id)?);
    while !bytes.is_empty() {
        to.send(Piece::Data(bytes.split_to(Piece::MAX_DATA.min(bytes.len()))))?;
    }
    Ok(())
}

fn send_rest(store: &ObjectStore, id: ObjectId, offset: u64, to: &mut Outlet) -> Result<(), Stopped> {
    let (file, size) = store.open_rest(&id, offset)?;
    to.send(Piece::Begin { id, size })?;
    let rest = size.saturating_sub(offset);
    // Should the file be longer by now, the rest is not.
    send_data(id, rest, file.take(rest), to)
}

fn send_read(object: ObjectReader, to: &mut Outlet) -> Result<(), Stopped> {
    send_data(object.id(), object.size(), object, to)
}

fn send_data(id: ObjectId, length: u64, mut from: impl Read, to: &mut Outlet) -> Result<(), Stopped> {
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
fn receive_all(store: &ObjectStore, batches: Receiver<batches::Batch>) -> Result<Vec<Verified>, StoreError> {
    // Nothing of an upload is garbage before all of it is here, however long that takes.
    let mut hold = store.hold([], Afterwards::Fresh);
    thread::scope(|scope| {
        let (full, settling) = sync_channel::<AddBatch>(0);
        let settler = thread::Builder::new().name("settle".into()).spawn_scoped(scope, move || {
            let mut kept = Vec::new();
            for batch in settling {
                let (some, durable) = batch.finish()?;
                kept.extend(acknowledged(some, durable));
            }
            Ok(kept)
        });
        let settler = settler.map_err(|error| failed("no thread can be had", error))?;
        let received = receive(store, &mut Inlet::new(batches), &full, &mut hold);
        drop(full);
        let kept = settler.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        received.map(|()| kept)
    })
}

fn acknowledged(kept: Vec<Verified>, _proof: crate::publish::Durable) -> Vec<Verified> {
    kept
}

/// Hands what came on to be made durable, also when something is wrong with what comes then.
fn receive(
    store: &ObjectStore,
    from: &mut Inlet,
    full: &SyncSender<AddBatch>,
    hold: &mut Hold,
) -> Result<(), StoreError> {
    let mut filling = Filling { batch: store.batch(), bytes: 0, current: None, hold };
    loop {
        let more = from.next().and_then(|piece| filling.take(piece));
        let more = match more {
            Ok(More::Comes) if filling.bytes < SETTLED => continue,
            Ok(More::Comes) => Ok(true),
            Ok(More::Ended) => Ok(false),
            Err(error) => Err(error),
        };
        let batch = std::mem::replace(&mut filling.batch, store.batch());
        filling.bytes = 0;
        // Who makes it durable has failed when it takes no more, and its error is the answer.
        if full.send(batch).is_err() || !more? {
            return Ok(());
        }
    }
}

/// What comes, until it is made durable.
struct Filling<'a> {
    batch: AddBatch,
    /// How many bytes of data the batch was given.
    bytes: u64,
    current: Option<ObjectWriter>,
    hold: &'a mut Hold,
}

enum More {
    Comes,
    Ended,
}

impl Filling<'_> {
    fn take(&mut self, piece: Option<Piece>) -> Result<More, StoreError> {
        let Some(Piece::Data(data)) = piece else {
            if let Some(complete) = self.current.take() {
                self.batch.add(complete)?;
            }
            let Some(Piece::Begin { id, size }) = piece else { return Ok(More::Ended) };
            self.hold.add(id);
            self.current = Some(self.batch.begin(id, size)?);
            return Ok(More::Comes);
        };
        let (length, limit) = (data.len(), Piece::MAX_DATA);
        if length > limit {
            return Err(StoreError::Protocol(format!("a piece of {length} bytes, more than {limit}")));
        }
        let current = self.current.as_mut();
        current
            .ok_or_else(|| StoreError::Protocol("data before the object they belong to".into()))?
            .write(&data)?;
        self.bytes += length as u64;
        Ok(More::Comes)
    }
}

fn lost(what: &str, cause: Cause) -> StoreError {
    StoreError::Failed { what: format!("{what} was given up"), cause }
}
