//! Sinks and streams of this crate on the asynchronous ports, for threads of their own. None of this may be called from
//! within a runtime; it would block it, and panics instead.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use dominator_core::object::{ObjectHasher, ObjectId};
use dominator_core::port::{self, Cause, Piece, Pieces, StoreError, Verified};
use futures_util::StreamExt;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{self, Sender};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

use super::QUEUE;
use super::batches::{self, Gathered, Inlet};
use crate::export::{ExportError, ObjectStream};
use crate::import::ObjectSink;
use crate::store::objects::failed;

/// How many objects are asked for at a time.
const REQUEST: usize = 64 * 1024;

/// Sends the objects of an import to a store behind the port, all in one stream. They are there when
/// [`PortSink::finish`] returns. Dropped before, it gives the upload up.
pub struct PortSink {
    store: Arc<dyn port::ObjectStore>,
    runtime: Handle,
    upload: Option<Upload>,
}

struct Upload {
    sender: Option<Sender<Result<Piece, StoreError>>>,
    adding: JoinHandle<Result<Vec<Verified>, StoreError>>,
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.adding.abort();
    }
}

impl PortSink {
    /// A sink for `store`, whose calls run on `runtime`.
    pub fn new(store: Arc<dyn port::ObjectStore>, runtime: Handle) -> Self {
        Self { store, runtime, upload: None }
    }

    /// Waits until all objects are kept.
    ///
    /// # Errors
    /// What the store says.
    pub fn finish(mut self) -> Result<Vec<Verified>, StoreError> {
        self.upload.take().map_or(Ok(Vec::new()), |upload| conclude(&self.runtime, upload))
    }

    fn send(&mut self, piece: Result<Piece, StoreError>) -> Result<(), StoreError> {
        let (store, runtime) = (&self.store, &self.runtime);
        let upload = self.upload.get_or_insert_with(|| {
            let (sender, receiver) = mpsc::channel(QUEUE);
            let store = Arc::clone(store);
            let pieces = Pieces::new(ReceiverStream::new(receiver));
            Upload { sender: Some(sender), adding: runtime.spawn(async move { store.add(pieces).await }) }
        });
        if upload.sender.as_ref().is_some_and(|sender| sender.blocking_send(piece).is_ok()) {
            return Ok(());
        }
        let ended = self.upload.take().map(|upload| conclude(runtime, upload));
        match ended {
            Some(Err(error)) => Err(error),
            Some(Ok(_)) | None => Err(StoreError::Protocol("the store ended the upload too early".into())),
        }
    }
}

impl ObjectSink for PortSink {
    fn want(&mut self, offered: &[(ObjectId, u64)]) -> Result<Vec<ObjectId>, StoreError> {
        let ids: Vec<_> = offered.iter().map(|(id, _)| *id).collect();
        let sizes = self.runtime.block_on(self.store.sizes(&ids))?;
        if sizes.len() != ids.len() {
            return Err(StoreError::Protocol("the store answered for another number of objects".into()));
        }
        let here = offered.iter().zip(sizes);
        Ok(here.filter(|((_, size), here)| *here != Some(*size)).map(|((id, _), _)| *id).collect())
    }

    fn put(&mut self, id: ObjectId, size: u64, contents: &mut dyn Read) -> Result<(), StoreError> {
        self.send(Ok(Piece::Begin { id, size }))?;
        loop {
            let mut data = Vec::new();
            match contents.take(Piece::MAX_DATA as u64).read_to_end(&mut data) {
                Ok(0) => return Ok(()),
                Ok(_) => self.send(Ok(Piece::Data(data.into())))?,
                Err(error) => {
                    let error = failed(format!("the contents of object {id} can't be read"), error);
                    // The store must not take what came of it for all there is; what it answers is of no use here.
                    drop(self.send(Err(error.clone())));
                    return Err(error);
                }
            }
        }
    }
}

impl fmt::Debug for PortSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortSink").finish_non_exhaustive()
    }
}

fn conclude(runtime: &Handle, mut upload: Upload) -> Result<Vec<Verified>, StoreError> {
    upload.sender = None;
    runtime.block_on(&mut upload.adding).unwrap_or_else(|error| {
        Err(StoreError::Failed { what: "the upload was given up".into(), cause: Cause::new(error) })
    })
}

/// The objects of an export from a source behind the port. Every object is hashed before its last bytes are passed on.
pub struct PortStream {
    source: Arc<dyn port::ObjectSource>,
    runtime: Handle,
}

impl PortStream {
    /// A stream from `source`, whose calls run on `runtime`.
    pub fn new(source: Arc<dyn port::ObjectSource>, runtime: Handle) -> Self {
        Self { source, runtime }
    }
}

impl fmt::Debug for PortStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortStream").finish_non_exhaustive()
    }
}

impl ObjectStream for PortStream {
    fn stream(
        &mut self,
        wanted: &[ObjectId],
        take: &mut dyn FnMut(ObjectId, &mut dyn Read) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        for request in wanted.chunks(REQUEST) {
            let mut coming = Coming::begin(Arc::clone(&self.source), request.to_vec(), &self.runtime);
            for id in request {
                let mut object = Incoming::begin(*id, &mut coming.pieces).map_err(ExportError::Source)?;
                take(*id, &mut object)?;
                if object.left > 0 || !object.verified {
                    let what = format!("object {id} was not read to its end");
                    return Err(ExportError::Source(StoreError::Protocol(what)));
                }
            }
        }
        Ok(())
    }
}

/// Objects that a task gets while others are written.
struct Coming {
    pieces: Inlet,
    getting: JoinHandle<()>,
}

impl Coming {
    fn begin(source: Arc<dyn port::ObjectSource>, wanted: Vec<ObjectId>, runtime: &Handle) -> Self {
        let (sender, receiver) = batches::channel();
        let getting = runtime.spawn(async move {
            let mut batches = match source.objects(wanted).await {
                Ok(pieces) => Gathered::new(pieces),
                Err(error) => return drop(sender.send(Err(error)).await),
            };
            while let Some(batch) = batches.next().await {
                // Whoever listens no more says why.
                if sender.send(batch).await.is_err() {
                    return;
                }
            }
        });
        Self { pieces: Inlet::new(receiver), getting }
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.getting.abort();
    }
}

/// One object of a stream.
struct Incoming<'a> {
    pieces: &'a mut Inlet,
    id: ObjectId,
    size: u64,
    left: u64,
    data: Bytes,
    hasher: ObjectHasher,
    verified: bool,
}

impl<'a> Incoming<'a> {
    fn begin(id: ObjectId, pieces: &'a mut Inlet) -> Result<Self, StoreError> {
        match pieces.next()? {
            Some(Piece::Begin { id: begun, size }) if begun == id => {
                let (data, hasher) = (Bytes::new(), ObjectHasher::new());
                Ok(Self { pieces, id, size, left: size, data, hasher, verified: false })
            }
            Some(_) | None => Err(StoreError::Protocol(format!("object {id} should have come, but did not"))),
        }
    }

    fn more(&mut self) -> Result<(), StoreError> {
        let arrived = match self.pieces.next()? {
            Some(Piece::Data(data)) if data.len() as u64 <= self.left => {
                self.hasher.update(&data);
                self.left -= data.len() as u64;
                data
            }
            Some(_) | None => {
                let what = format!("object {} is not of the {} bytes announced", self.id, self.size);
                return Err(StoreError::Protocol(what));
            }
        };
        if self.left == 0 {
            self.verify()?;
        }
        self.data = arrived;
        Ok(())
    }

    fn verify(&mut self) -> Result<(), StoreError> {
        let hashed = std::mem::take(&mut self.hasher).finish();
        Verified::check(self.id, self.size, hashed, self.size)?;
        self.verified = true;
        Ok(())
    }
}

impl Read for Incoming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.size == 0 && !self.verified {
            self.verify().map_err(io::Error::other)?;
        }
        while self.data.is_empty() {
            if self.left == 0 {
                return Ok(0);
            }
            self.more().map_err(io::Error::other)?;
        }
        let count = self.data.len().min(buffer.len());
        self.data.copy_to_slice(buffer.get_mut(..count).unwrap_or_default());
        Ok(count)
    }
}
