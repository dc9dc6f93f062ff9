//! Streams of objects that go on where they broke off.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dominator_core::backoff::{Backoff, Spread};
use dominator_core::object::ObjectId;
use dominator_core::port::{ObjectSource, Piece, Pieces, StoreError};
use futures_util::{TryStreamExt as _, stream};
use tokio::time::sleep;

/// The pauses between attempts to go on: a first and a longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// How often in a row it is tried in vain: for a few minutes.
const ATTEMPTS: u32 = 30;

/// A source whose streams survive the connection they began on: an object that was cut off is gone on with at the byte where
/// it broke, so that what a link carried once it need not carry again.
#[derive(Clone)]
pub(super) struct Resuming {
    source: Arc<dyn ObjectSource>,
    spread: Spread,
}

impl Resuming {
    pub(super) fn new(source: Arc<dyn ObjectSource>, spread: Spread) -> Self {
        Self { source, spread }
    }
}

#[async_trait]
impl ObjectSource for Resuming {
    async fn objects(&self, wanted: Vec<ObjectId>) -> Result<Pieces, StoreError> {
        let pieces = self.source.objects(wanted.clone()).await?;
        let backoff = Backoff::new(PAUSES.0, PAUSES.1, self.spread);
        let source = Arc::clone(&self.source);
        let under_way = UnderWay {
            source,
            wanted: wanted.into(),
            pieces,
            current: None,
            is_rest: false,
            backoff,
            failures: 0,
        };
        Ok(Pieces::new(stream::try_unfold(under_way, async move |mut under_way| {
            let piece = under_way.next().await?;
            Ok(piece.map(|piece| (piece, under_way)))
        })))
    }
}

/// The object that comes.
#[derive(Clone, Copy)]
struct Current {
    id: ObjectId,
    size: u64,
    /// How many of its bytes came.
    came: u64,
}

struct UnderWay {
    source: Arc<dyn ObjectSource>,
    /// What has not begun.
    wanted: VecDeque<ObjectId>,
    pieces: Pieces,
    current: Option<Current>,
    /// What comes is the rest of the current object, which begins once more.
    is_rest: bool,
    backoff: Backoff,
    failures: u32,
}

impl UnderWay {
    async fn next(&mut self) -> Result<Option<Piece>, StoreError> {
        loop {
            match self.pieces.try_next().await {
                Ok(Some(Piece::Begin { id, size })) if self.is_rest => self.begins_again(id, size)?,
                Ok(Some(piece)) => return self.takes(piece).map(Some),
                Ok(None) if self.is_whole() && self.wanted.is_empty() => return Ok(None),
                // What follows the rest of an object is asked for anew.
                Ok(None) if self.is_whole() => self.reopen().await?,
                Ok(None) => return Err(StoreError::Protocol("the stream ends within an object".into())),
                // Everything came; what broke then is nothing to wait for.
                Err(_) if self.is_whole() && self.wanted.is_empty() => return Ok(None),
                Err(error) => {
                    self.survive(error).await?;
                    self.reopen().await?;
                }
            }
        }
    }

    /// The rest of an object must be one of the very same.
    fn begins_again(&mut self, id: ObjectId, size: u64) -> Result<(), StoreError> {
        self.is_rest = false;
        match self.current {
            Some(current) if current.id == id && current.size == size => Ok(()),
            Some(_) | None => {
                Err(StoreError::Protocol(format!("object {id} came instead of the rest of another")))
            }
        }
    }

    fn takes(&mut self, piece: Piece) -> Result<Piece, StoreError> {
        match &piece {
            Piece::Begin { id, size } => {
                if self.wanted.pop_front() != Some(*id) {
                    return Err(StoreError::Protocol(format!("object {id} came out of order")));
                }
                self.current = Some(Current { id: *id, size: *size, came: 0 });
            }
            Piece::Data(data) => {
                let Some(current) = &mut self.current else {
                    return Err(StoreError::Protocol("data before any object".into()));
                };
                current.came += crate::wire::length(data);
            }
        }
        self.failures = 0;
        self.backoff.succeeded();
        Ok(piece)
    }

    fn is_whole(&self) -> bool {
        self.current.is_none_or(|current| current.came >= current.size)
    }

    /// Waits, if the error is one that passes; ends with it otherwise.
    async fn survive(&mut self, error: StoreError) -> Result<(), StoreError> {
        let passes = matches!(error, StoreError::Unreachable(_) | StoreError::TooSlow { .. });
        self.failures += 1;
        if !passes || self.failures > ATTEMPTS {
            return Err(error);
        }
        sleep(self.backoff.pause()).await;
        Ok(())
    }

    async fn reopen(&mut self) -> Result<(), StoreError> {
        loop {
            let open = self.current.filter(|current| current.came < current.size);
            self.is_rest = open.is_some();
            let pieces = match open {
                Some(current) => self.source.rest(current.id, current.came).await,
                None => self.source.objects(self.wanted.iter().copied().collect()).await,
            };
            match pieces {
                Ok(pieces) => {
                    self.pieces = pieces;
                    return Ok(());
                }
                Err(error) => self.survive(error).await?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytes::Bytes;
    use dominator_core::port::Cause;
    use dominator_core_testkit::MemoryObjects;
    use futures_util::StreamExt as _;

    use super::*;

    /// A source whose streams break off after so many pieces, and count the bytes they carried.
    struct Breaking {
        objects: MemoryObjects,
        pieces: usize,
        carried: Arc<Mutex<u64>>,
    }

    impl Breaking {
        fn cut(&self, pieces: Pieces) -> Pieces {
            let broken = stream::iter([Err(StoreError::Unreachable(Cause::new("cut")))]);
            let carried = Arc::clone(&self.carried);
            Pieces::new(pieces.take(self.pieces).chain(broken).inspect(move |piece| {
                if let Ok(Piece::Data(data)) = piece {
                    *carried.lock().unwrap() += data.len() as u64;
                }
            }))
        }
    }

    #[async_trait]
    impl ObjectSource for Breaking {
        async fn objects(&self, wanted: Vec<ObjectId>) -> Result<Pieces, StoreError> {
            Ok(self.cut(self.objects.objects(wanted).await?))
        }

        async fn rest(&self, id: ObjectId, offset: u64) -> Result<Pieces, StoreError> {
            Ok(self.cut(self.objects.rest(id, offset).await?))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_came_before_a_break_does_not_come_again() {
        let objects = MemoryObjects::default();
        let lengths = [(b'a', 0), (b'b', 5), (b'c', 900_000), (b'd', 300_000), (b'e', 7)];
        let bodies: Vec<Vec<u8>> = lengths.map(|(byte, length)| vec![byte; length]).into();
        let ids: Vec<_> = bodies.iter().map(|body| objects.put(body.clone())).collect();
        let total: u64 = bodies.iter().map(|body| body.len() as u64).sum();
        for pieces in 2..9 {
            let carried = Arc::new(Mutex::new(0));
            let (kept, source) = (MemoryObjects::default(), MemoryObjects::default());
            for body in &bodies {
                source.put(body.clone());
            }
            let breaking = Breaking { objects: source, pieces, carried: Arc::clone(&carried) };
            let resuming = Resuming::new(Arc::new(breaking), Spread::default());
            let added =
                dominator_core::port::ObjectStore::add(&kept, resuming.objects(ids.clone()).await.unwrap());
            assert_eq!(added.await.unwrap().len(), ids.len(), "broken after {pieces}");
            for (id, body) in ids.iter().zip(&bodies) {
                assert_eq!(kept.bytes(id), Some(Bytes::from(body.clone())));
            }
            assert_eq!(*carried.lock().unwrap(), total, "each byte once, broken after {pieces}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_never_gets_on_is_given_up() {
        let objects = MemoryObjects::default();
        let id = objects.put(vec![1; 10]);
        let breaking = Breaking { objects, pieces: 0, carried: Arc::default() };
        let resuming = Resuming::new(Arc::new(breaking), Spread::default());
        let came: Result<Vec<_>, _> = resuming.objects(vec![id]).await.unwrap().try_collect().await;
        assert!(matches!(came, Err(StoreError::Unreachable(_))), "{came:?}");
    }
}
