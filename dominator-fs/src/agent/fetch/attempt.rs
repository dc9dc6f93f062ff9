use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dominator_core::object::ObjectId;
use dominator_core::port::{AgentError, ObjectSource, Piece, Pieces, StoreError};
use futures_util::stream::Fuse;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::super::Shared;
use super::pacing::Pacing;
use super::patience::{Hurry, Patience, Progress};
use super::stop::Stop;
use super::writer::{Ended, Writer};
use super::{failed, on_disk};

/// How many batches of pieces wait for the disk, and about how many bytes each has at most: waking the thread that writes
/// costs more than a small file does.
const QUEUE: usize = 2;
const BATCH: usize = 256 * 1024;
/// How often a source may refuse because of something it has not, and is asked again without that, before it is left.
const LACKING: usize = 16;

/// What one source did wrong, and in which object.
pub(super) type Fault = (Option<ObjectId>, StoreError);
/// Nothing when all came, what the source did otherwise; an error when this machine could not take it.
pub(super) type Outcome = Result<Option<Fault>, StoreError>;

/// One source's turn.
pub(super) struct Attempt<'a> {
    shared: &'a Arc<Shared>,
    address: &'a str,
    patience: Patience,
    hurry: Hurry,
    pacing: Pacing,
    stop: &'a Stop,
}

/// What comes of asking once.
enum Round {
    /// There may be more to ask for.
    Well,
    Fault(Fault),
    /// It has not got that object.
    Lacks(ObjectId),
}

impl<'a> Attempt<'a> {
    pub(super) async fn new(shared: &'a Arc<Shared>, address: &'a str, hurry: Hurry, stop: &'a Stop) -> Self {
        let pacing = Pacing::towards(shared, address).await;
        Self { shared, address, patience: shared.throttle.patience(), hurry, pacing, stop }
    }

    /// Gets what is missing, as far as the source gives it.
    pub(super) async fn run(mut self, writer: Writer) -> Result<(Writer, Outcome), AgentError> {
        let source = match self.in_time(self.shared.sources.source(self.address)).await {
            Ok(source) => source,
            Err(error) => return Ok((writer, Ok(Some((None, error))))),
        };
        let sizes: Arc<BTreeMap<ObjectId, u64>> = Arc::new(writer.sizes());
        let (mut writer, mut lacking, mut refusals) = (writer, BTreeSet::new(), 0);
        loop {
            let (after, round) = self.round(&*source, writer, &lacking).await?;
            writer = after;
            let sizes = Arc::clone(&sizes);
            // DURABILITY: what came stays, whatever the source did afterwards.
            let (after, settled) = on_disk(writer, move |writer| {
                writer.break_off();
                writer.settle(&sizes)
            })
            .await?;
            writer = after;
            let round = match (round, settled) {
                (Ok(round), Ok(())) => round,
                (Err(error), _) | (Ok(_), Err(error)) => return Ok((writer, Err(error))),
            };
            match round {
                Round::Fault(fault) => return Ok((writer, Ok(Some(fault)))),
                Round::Lacks(id) => {
                    refusals += 1;
                    lacking.insert(id);
                    // It may lack many, and would refuse once for each. One that can't tell is asked one by one.
                    let left: Vec<_> = writer.missing().filter(|id| !lacking.contains(id)).collect();
                    lacking.extend(self.in_turn(source.lacking(&left)).await.unwrap_or_default());
                }
                Round::Well => {}
            }
            let left = writer.missing().any(|id| !lacking.contains(&id));
            match lacking.first() {
                _ if left && refusals <= LACKING => {}
                Some(id) => return Ok((writer, Ok(Some((None, StoreError::NotFound { id: *id }))))),
                None => return Ok((writer, Ok(None))),
            }
        }
    }

    /// Asks once: for the rest of an object there is a beginning of, or for all there is.
    async fn round(
        &mut self,
        source: &dyn ObjectSource,
        writer: Writer,
        lacking: &BTreeSet<ObjectId>,
    ) -> Result<(Writer, Result<Round, StoreError>), AgentError> {
        let but = lacking.clone();
        let (writer, resumed) = on_disk(writer, move |writer| writer.resume(&but)).await?;
        let resumed = match resumed {
            Ok(resumed) => resumed,
            Err(error) => return Ok((writer, Err(error))),
        };
        let pieces = match resumed {
            Some((id, offset)) => self.in_turn(source.rest(id, offset)).await,
            None => {
                let wanted = writer.missing().filter(|id| !lacking.contains(id)).collect();
                self.in_turn(source.objects(wanted)).await
            }
        };
        let pieces = match pieces {
            Ok(pieces) => pieces,
            Err(StoreError::NotFound { id }) => return Ok((writer, Ok(Round::Lacks(id)))),
            Err(error) => return Ok((writer, Ok(Round::Fault((None, error))))),
        };
        let (writer, ended) = self.take_in(writer, pieces, resumed.map(|(id, _)| id)).await?;
        let round = match ended {
            Ended::Well | Ended::NotTheRest => Ok(Round::Well),
            Ended::Badly(object, error) => Ok(Round::Fault((object, error))),
            Ended::Here(error) => Err(error),
        };
        Ok((writer, round))
    }

    /// Takes a stream of objects to the disk, on a thread that may wait for it.
    async fn take_in(
        &mut self,
        mut writer: Writer,
        pieces: Pieces,
        rest: Option<ObjectId>,
    ) -> Result<(Writer, Ended), AgentError> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let writing = tokio::task::spawn_blocking(move || {
            let ended = writer.write(receiver, rest);
            (writer, ended)
        });
        let (mut pieces, mut progress) = (pieces.fuse(), Progress::new(self.patience, self.hurry));
        loop {
            let batch = self.batch(&mut pieces, &mut progress).await;
            let over = batch.last().is_none_or(Result::is_err);
            let came = batch.iter().flatten().map(length).sum();
            // A writer that takes no more has given up, and says why when it is joined.
            if sender.send(batch).await.is_err() || over {
                break;
            }
            // One that must end is told so by the next piece.
            drop(self.stop.or(self.pacing.came(came)).await);
        }
        drop(sender);
        writing.await.map_err(|error| failed("write objects", error))
    }

    /// The next piece, and what has come with it, up to the first error. Nothing when there is no more.
    async fn batch(
        &self,
        pieces: &mut Fuse<Pieces>,
        progress: &mut Progress,
    ) -> Vec<Result<Piece, StoreError>> {
        let mut batch: Vec<_> = self.next(pieces, progress).await.into_iter().collect();
        let mut bytes = 0;
        while let Some(Ok(last)) = batch.last() {
            bytes += OVERHEAD + length(last);
            if bytes >= BATCH {
                break;
            }
            // What has not come yet, or the end, is for the next call.
            let Some(Some(piece)) = pieces.next().now_or_never() else { break };
            let slow = piece.as_ref().map_or(Ok(()), |piece| progress.came(length(piece), Duration::ZERO));
            batch.push(slow.and(piece));
        }
        batch
    }

    /// The next piece, unless it takes too long.
    async fn next(
        &self,
        pieces: &mut Fuse<Pieces>,
        progress: &mut Progress,
    ) -> Option<Result<Piece, StoreError>> {
        let asked = Instant::now();
        let piece = match self.stop.or(timeout(self.patience.silence, pieces.next())).await {
            Ok(Ok(piece)) => piece,
            Ok(Err(_)) => return Some(Err(progress.silent())),
            Err(stopped) => return Some(Err(stopped)),
        };
        let came = piece.as_ref().and_then(|piece| piece.as_ref().ok()).map_or(0, length);
        match progress.came(came, asked.elapsed()) {
            // That it ended counts more than how slowly.
            Err(error) if matches!(piece, Some(Ok(_))) => Some(Err(error)),
            _ => piece,
        }
    }

    async fn in_time<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.stop.or(within(self.patience.silence, call)).await?
    }

    /// A source that gives to many has them wait for their turn before it answers: who goes away too early begins anew at
    /// the end of that queue.
    async fn in_turn<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.stop.or(within(self.patience.turn(), call)).await?
    }
}

async fn within<T>(
    time: Duration,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let silent = |_| Err(StoreError::TooSlow { bytes: 0, waited: time });
    timeout(time, call).await.unwrap_or_else(silent)
}

/// What a piece takes beside its data, in bytes.
const OVERHEAD: usize = 64;

fn length(piece: &Piece) -> usize {
    if let Piece::Data(data) = piece { data.len() } else { 0 }
}
