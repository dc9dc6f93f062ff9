use core::net::{IpAddr, SocketAddr};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use thiserror::Error;

use super::{Cause, Chain};
use crate::object::ObjectId;

/// A part of a stream of objects. Each object is a [`Piece::Begin`] followed by data that add up to its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// An object begins.
    Begin {
        /// Its id: a claim until the bytes were hashed.
        id: ObjectId,
        /// Its length in bytes.
        size: u64,
    },
    /// Bytes of the object that began last; at least one, at most [`Piece::MAX_DATA`].
    Data(Bytes),
}

impl Piece {
    /// The most data in one piece, in bytes.
    pub const MAX_DATA: usize = 256 * 1024;
}

/// A stream of objects, so that none is ever whole in memory.
pub struct Pieces(Pin<Box<dyn Stream<Item = Result<Piece, StoreError>> + Send>>);

impl Pieces {
    /// Wraps a stream. Who makes it keeps the rules of [`Piece`].
    pub fn new(stream: impl Stream<Item = Result<Piece, StoreError>> + Send + 'static) -> Self {
        Self(Box::pin(stream))
    }
}

impl Pieces {
    /// The same without the first bytes of the object it begins with.
    #[must_use]
    pub fn skipping(self, bytes: u64) -> Self {
        Self(Box::pin(Skipping { pieces: self, left: bytes }))
    }
}

/// A stream of objects without the first bytes.
struct Skipping {
    pieces: Pieces,
    left: u64,
}

impl Stream for Skipping {
    type Item = Result<Piece, StoreError>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        loop {
            let next = std::task::ready!(Pin::new(&mut self.pieces).poll_next(context));
            let Some(Ok(Piece::Data(mut data))) = next else { return std::task::Poll::Ready(next) };
            let skipped = usize::try_from(self.left).unwrap_or(usize::MAX).min(data.len());
            self.left -= skipped as u64;
            if skipped < data.len() {
                return std::task::Poll::Ready(Some(Ok(Piece::Data(data.split_off(skipped)))));
            }
        }
    }
}

impl Stream for Pieces {
    type Item = Result<Piece, StoreError>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

/// Evidence that bytes of this id and length were hashed and are kept. Only a matching hash makes one, at the end of
/// [`Verified::check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    id: ObjectId,
    size: u64,
}

impl Verified {
    /// Compares what was claimed with what was hashed.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when they differ.
    pub fn check(id: ObjectId, size: u64, hashed: ObjectId, length: u64) -> Result<Self, StoreError> {
        if id == hashed && size == length {
            Ok(Self { id, size })
        } else {
            Err(StoreError::Corrupt { id, hashed, length })
        }
    }

    /// The object.
    pub const fn id(&self) -> ObjectId {
        self.id
    }

    /// Its length in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }
}

/// Where objects can be read.
#[async_trait]
pub trait ObjectSource: Send + Sync {
    /// Streams objects in the order asked for.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] before anything is sent when one is missing; others also within the stream, which ends
    /// with the first.
    async fn objects(&self, wanted: Vec<ObjectId>) -> Result<Pieces, StoreError>;

    /// Streams the end of an object, from `offset` bytes after its beginning on: a [`Piece::Begin`] with the length of
    /// all of it, then data that add up to the rest. For who has its beginning from a stream that broke off.
    ///
    /// # Errors
    /// As [`ObjectSource::objects`].
    async fn rest(&self, id: ObjectId, offset: u64) -> Result<Pieces, StoreError> {
        Ok(self.objects(vec![id]).await?.skipping(offset))
    }

    /// Those of `ids` that are not there, for who was told of one. None, where that can't be told all at once.
    ///
    /// # Errors
    /// [`StoreError`] when it could not be looked.
    async fn lacking(&self, ids: &[ObjectId]) -> Result<Vec<ObjectId>, StoreError> {
        let _ = ids;
        Ok(Vec::new())
    }
}

/// Where objects are kept.
#[async_trait]
pub trait ObjectStore: ObjectSource {
    /// The length of each object in bytes, nothing for those that are not here.
    async fn sizes(&self, ids: &[ObjectId]) -> Result<Vec<Option<u64>>, StoreError>;

    /// Takes objects in. Each is hashed on the way, made durable, and then kept; one that is already here is passed
    /// over. What was complete before an error stays.
    async fn add(&self, pieces: Pieces) -> Result<Vec<Verified>, StoreError>;
}

/// Finds a source by the address an order to fetch names.
#[async_trait]
pub trait ObjectSources: Send + Sync {
    /// The source at `address`, as in `host:port`.
    async fn source(&self, address: &str) -> Result<Arc<dyn ObjectSource>, StoreError>;

    /// Where that is in the network, to find out which way there leads; nothing, when it is not known. Without more
    /// knowledge, an address that names no host but numbers is known.
    async fn place(&self, address: &str) -> Option<IpAddr> {
        address.parse::<SocketAddr>().ok().map(|address| address.ip())
    }
}

/// What one of several sources did wrong.
#[derive(Clone, Debug)]
pub struct SourceFailure {
    /// Its address.
    pub source: String,
    /// Which object it was sending then, if it was.
    pub object: Option<ObjectId>,
    /// What went wrong.
    pub error: StoreError,
}

impl fmt::Display for SourceFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.source)?;
        // Most errors name the object themselves.
        match (&self.object, &self.error) {
            (None, error) | (Some(_), error @ (StoreError::NotFound { .. } | StoreError::Corrupt { .. })) => {
                write!(f, "{}", Chain(error))
            }
            (Some(id), error) => write!(f, "in object {id}: {}", Chain(error)),
        }
    }
}

/// Every cause, as there is more than one.
struct Listed<'a>(&'a [SourceFailure]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no source gave all that is needed")?;
        let mut separator = ": ";
        for failure in self.0 {
            write!(f, "{separator}{failure}")?;
            separator = "; ";
        }
        if self.0.is_empty() { f.write_str(": none was named") } else { Ok(()) }
    }
}

/// What can go wrong with objects.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It is not there; looking succeeded.
    #[error("object {id} is not there")]
    NotFound {
        /// Which.
        id: ObjectId,
    },
    /// The bytes are not what they were said to be. Nothing of them was kept; fetch from elsewhere.
    #[error("object {id} is corrupt: {length} bytes that hash to {hashed} came")]
    Corrupt {
        /// What was asked for.
        id: ObjectId,
        /// What the bytes hash to.
        hashed: ObjectId,
        /// How many came.
        length: u64,
    },
    /// The stream broke the rules: more or less data than announced, or an object nobody asked for.
    #[error("the stream of objects is wrong: {0}")]
    Protocol(String),
    /// Not enough room.
    #[error("no space for objects: {need} bytes needed, {free} free; free them or enlarge the file-system")]
    NoSpace {
        /// In bytes.
        need: u64,
        /// In bytes.
        free: u64,
    },
    /// Not enough inodes: the file-system has room for bytes, but not for so many files.
    #[error(
        "no inodes for objects: {need} needed, {free} free; remove files or make the file-system anew with more"
    )]
    NoInodes {
        /// How many.
        need: u64,
        /// How many.
        free: u64,
    },
    /// Fewer bytes came than anybody can wait for.
    #[error("too slow: {bytes} bytes came in {} s", .waited.as_secs())]
    TooSlow {
        /// How many came.
        bytes: u64,
        /// In how much time, waiting for them.
        waited: Duration,
    },
    /// No source had, or would give, all that was wanted. What came before is kept.
    #[error("{}", Listed(.0))]
    Sources(Vec<SourceFailure>),
    /// The caller lacks the right.
    #[error("{0}")]
    Denied(String),
    /// The other end can't be reached or went away; try again or elsewhere.
    #[error("the object store can't be reached")]
    Unreachable(#[source] Cause),
    /// It was tried and failed.
    #[error("{what}")]
    Failed {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        cause: Cause,
    },
}
