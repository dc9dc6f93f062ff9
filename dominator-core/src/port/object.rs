use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_core::Stream;
use thiserror::Error;

use super::Cause;
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
    /// Bytes of the object that began last; at most [`Piece::MAX_DATA`].
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
