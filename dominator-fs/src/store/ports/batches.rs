//! Pieces in batches, from thread to thread: waking somebody up costs more than reading a small file.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use dominator_core::port::{Piece, Pieces, StoreError};
use futures_util::stream::Fuse;
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio_stream::wrappers::ReceiverStream;

/// How many bytes are handed over at once, and how many such batches wait.
const BATCH: usize = 256 * 1024;
const BATCHES: usize = 2;
/// About what a piece takes beside its data, in bytes.
const OVERHEAD: usize = 64;

/// What is handed over at once.
pub(crate) type Batch = Result<Vec<Piece>, StoreError>;

/// Why nothing more is sent.
pub(crate) enum Stopped {
    /// Nobody listens.
    Gone,
    Failed(StoreError),
}

impl From<StoreError> for Stopped {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

/// A way for batches, of which a few wait.
pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
    mpsc::channel(BATCHES)
}

/// The pieces that come out of it.
pub(crate) fn pieces(from: Receiver<Batch>) -> impl Stream<Item = Result<Piece, StoreError>> + Send {
    ReceiverStream::new(from).flat_map(|batch| match batch {
        Ok(batch) => stream::iter(batch.into_iter().map(Ok)).left_stream(),
        Err(error) => stream::iter([Err(error)]).right_stream(),
    })
}

/// Where a thread puts what it reads.
pub(crate) struct Outlet {
    to: Sender<Batch>,
    batch: Vec<Piece>,
    /// About how many bytes the batch has.
    bytes: usize,
}

impl Outlet {
    /// Into the way that begins with `to`.
    pub(crate) const fn new(to: Sender<Batch>) -> Self {
        Self { to, batch: Vec::new(), bytes: 0 }
    }

    /// Waits while there is no room.
    pub(crate) fn send(&mut self, piece: Piece) -> Result<(), Stopped> {
        self.batch.push(piece);
        self.bytes += self.batch.last().map_or(0, weight);
        if self.bytes < BATCH { Ok(()) } else { self.flush() }
    }

    /// What is left goes out, and after it the error, if there was one; who has gone away needs neither.
    pub(crate) fn end(mut self, sent: Result<(), Stopped>) {
        drop(self.flush());
        if let Err(Stopped::Failed(error)) = sent {
            drop(self.to.blocking_send(Err(error)));
        }
    }

    fn flush(&mut self) -> Result<(), Stopped> {
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() { Ok(()) } else { self.to.blocking_send(Ok(batch)).map_err(|_| Stopped::Gone) }
    }
}

/// What a thread gets out of the way, piece by piece.
pub(crate) struct Inlet {
    from: Receiver<Batch>,
    ready: VecDeque<Piece>,
}

impl Inlet {
    /// Out of the way that ends with `from`.
    pub(crate) const fn new(from: Receiver<Batch>) -> Self {
        Self { from, ready: VecDeque::new() }
    }

    /// Waits for the next piece.
    pub(crate) fn next(&mut self) -> Result<Option<Piece>, StoreError> {
        while self.ready.is_empty() {
            match self.from.blocking_recv() {
                Some(batch) => self.ready = batch?.into(),
                None => return Ok(None),
            }
        }
        Ok(self.ready.pop_front())
    }
}

/// Gathers what is there at once, and never waits for more.
pub(crate) struct Gathered {
    pieces: Fuse<Pieces>,
    failed: Option<StoreError>,
}

impl Gathered {
    pub(crate) fn new(pieces: Pieces) -> Self {
        Self { pieces: pieces.fuse(), failed: None }
    }
}

impl Stream for Gathered {
    type Item = Batch;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Batch>> {
        let this = self.get_mut();
        if let Some(error) = this.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH {
            match this.pieces.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(piece))) => {
                    bytes += weight(&piece);
                    batch.push(piece);
                }
                // What came before the error is delivered first.
                Poll::Ready(Some(Err(error))) if batch.is_empty() => return Poll::Ready(Some(Err(error))),
                Poll::Ready(Some(Err(error))) => {
                    this.failed = Some(error);
                    break;
                }
                Poll::Ready(None) if batch.is_empty() => return Poll::Ready(None),
                Poll::Pending if batch.is_empty() => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        Poll::Ready(Some(Ok(batch)))
    }
}

fn weight(piece: &Piece) -> usize {
    OVERHEAD + if let Piece::Data(data) = piece { data.len() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use dominator_core::object::ObjectId;

    #[test]
    fn what_came_before_an_error_is_delivered_and_then_the_error() {
        let id = ObjectId::of(b"data");
        let coming = [
            Ok(Piece::Begin { id, size: 4 }),
            Ok(Piece::Data(Bytes::from_static(b"data"))),
            Err(StoreError::NotFound { id }),
        ];
        let mut gathered = Gathered::new(Pieces::new(stream::iter(coming)));
        let (sender, receiver) = channel();
        // There is room for all of it.
        while let Some(batch) = futures_util::FutureExt::now_or_never(gathered.next()).unwrap() {
            sender.try_send(batch).unwrap();
        }
        drop(sender);
        let mut inlet = Inlet::new(receiver);
        assert!(matches!(inlet.next(), Ok(Some(Piece::Begin { size: 4, .. }))));
        assert!(matches!(inlet.next(), Ok(Some(Piece::Data(data))) if &data[..] == b"data"));
        assert!(matches!(inlet.next(), Err(StoreError::NotFound { id: absent }) if absent == id));
        assert!(matches!(inlet.next(), Ok(None)));
    }

    #[test]
    fn a_batch_has_a_bound_however_much_is_there() {
        let piece = || Ok(Piece::Data(Bytes::from(vec![7; BATCH / 4])));
        let mut gathered = Gathered::new(Pieces::new(stream::repeat_with(piece)));
        let batch = futures_util::FutureExt::now_or_never(gathered.next()).unwrap().unwrap().unwrap();
        assert_eq!(batch.len(), 4);
    }
}
