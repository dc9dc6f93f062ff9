use std::num::NonZeroU64;
use std::sync::Arc;

use async_trait::async_trait;
use dominator_core::object::ObjectId;
use dominator_core::port::{ObjectStore, Piece, Pieces, StoreError};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::driven::{Driven, Items};
use super::rates::{Rate, Rates};
use super::turns::Turns;
use super::{Answer, next, permit};
use crate::auth::{Caller, Gate};
use crate::v1::add_objects_reply::Part as ReplyPart;
use crate::v1::add_objects_request::Part as RequestPart;
use crate::v1::object_server_server::ObjectServer;
use crate::wire::{self, Packing, Presses, Sequence, invalid, store_status};
use crate::{limits, v1};

/// How many messages wait for the store.
const QUEUE: usize = 2;

/// A store of objects, served.
pub(super) struct ObjectService {
    store: Gate<Arc<dyn ObjectStore>>,
    turns: Turns,
    rates: Rates,
    presses: Arc<Presses>,
}

impl ObjectService {
    /// Serves `store`, and lets no address have more bytes a second.
    pub(super) fn new(store: Arc<dyn ObjectStore>, bytes_per_second: Option<NonZeroU64>) -> Self {
        Self {
            store: Gate::new(store),
            turns: Turns::new(limits::TRANSFERS_OF_ADDRESS),
            rates: Rates::new(bytes_per_second),
            presses: Arc::new(Presses::new()),
        }
    }
}

#[async_trait]
impl ObjectServer for ObjectService {
    type AddObjectsStream = Answer<v1::AddObjectsReply>;

    async fn add_objects(
        &self,
        request: Request<Streaming<v1::AddObjectsRequest>>,
    ) -> Result<Response<Self::AddObjectsStream>, Status> {
        let (pieces, taken) = mpsc::channel(QUEUE);
        let store = self.store.open(permit(&request)?).clone();
        let caller = Caller::of(&request)?.clone();
        let rate = self.rates.of(&request)?;
        let turn = self.turns.wait(&request).await?;
        let work = async move |answers: Items<v1::AddObjectsReply>| {
            let reading = read_all((request.into_inner(), rate), store.clone(), answers.clone(), pieces);
            let adding = add_all(store.clone(), taken, answers.clone(), caller);
            let done = tokio::try_join!(reading, adding).map(|_| ());
            drop(turn);
            done
        };
        Ok(Response::new(Driven::new(work).boxed()))
    }

    async fn check_objects(
        &self,
        request: Request<v1::ObjectIds>,
    ) -> Result<Response<v1::CheckObjectsReply>, Status> {
        let store = self.store.open(permit(&request)?);
        let ids = wire::ids_from(&request.get_ref().ids, limits::IDS)?;
        let sizes = store.sizes(&ids).await.map_err(|error| store_status(&error))?;
        let sizes =
            sizes.into_iter().map(|size| size.map_or(-1, |size| i64::try_from(size).unwrap_or(i64::MAX)));
        Ok(Response::new(v1::CheckObjectsReply { sizes: sizes.collect() }))
    }

    type GetObjectsStream = Answer<v1::ObjectPieces>;

    async fn get_objects(
        &self,
        request: Request<Streaming<v1::GetObjectsRequest>>,
    ) -> Result<Response<Self::GetObjectsStream>, Status> {
        let store = self.store.open(permit(&request)?);
        let rate = self.rates.of(&request)?;
        let turn = self.turns.wait(&request).await?;
        let mut parts = request.into_inner();
        let (mut wanted, mut offset, mut zstd) = (Vec::new(), 0, false);
        while let Some(part) = next(&mut parts).await? {
            wanted.extend(wire::ids_from(&part.ids, limits::OBJECTS_IN_CALL - wanted.len())?);
            offset = part.offset.max(offset);
            zstd |= part.zstd;
        }
        let pieces = match (offset, wanted.as_slice()) {
            (0, _) => store.objects(wanted).await,
            (_, [id]) => store.rest(*id, offset).await,
            (..) => return Err(invalid("an offset in several objects")),
        };
        let pieces = pieces.map_err(|error| store_status(&error))?;
        let pieces = pieces.map_err(|error| store_status(&error));
        let mut packing = zstd.then(|| Packing::new(self.presses.clone()));
        let work = async move |messages: Items<v1::ObjectPieces>| {
            let mut read = std::pin::pin!(wire::pack_rest(pieces, offset));
            while let Some(message) = read.try_next().await? {
                let message = match &mut packing {
                    Some(packing) => packing.pack(message).await,
                    None => message,
                };
                rate.pass(message.encoded_len()).await;
                messages.give(message).await?;
            }
            drop(turn);
            Ok(())
        };
        Ok(Response::new(Driven::new(work).boxed()))
    }
}

/// Answers offers and passes pieces on, until the client has ended its side.
async fn read_all(
    (mut parts, rate): (Streaming<v1::AddObjectsRequest>, Rate),
    store: Arc<dyn ObjectStore>,
    answers: Items<v1::AddObjectsReply>,
    pieces: mpsc::Sender<Vec<Piece>>,
) -> Result<(), Status> {
    let mut sequence = Sequence::any();
    let mut begun = 0_usize;
    let breach = |why: String| store_status(&StoreError::Protocol(why));
    while let Some(part) = next(&mut parts).await? {
        match part.part {
            Some(RequestPart::Offer(offer)) => {
                let offered: Vec<ObjectId> =
                    wire::sized_from(&offer)?.into_iter().map(|(id, _)| id).collect();
                let sizes = store.sizes(&offered).await.map_err(|error| store_status(&error))?;
                let missing = offered.iter().zip(sizes).filter(|(_, size)| size.is_none()).map(|(id, _)| id);
                let wanted = ReplyPart::Wanted(v1::ObjectIds { ids: wire::ids(missing) });
                answers.give(v1::AddObjectsReply { part: Some(wanted), zstd: true }).await?;
            }
            Some(RequestPart::Pieces(batch)) => {
                rate.pass(batch.encoded_len()).await;
                let batch = wire::unpack(batch)?;
                for piece in &batch {
                    sequence.step(piece).map_err(breach)?;
                    begun += usize::from(matches!(piece, Piece::Begin { .. }));
                    if begun > limits::IDS_IN_CALL {
                        return Err(breach(format!("more than {} objects", limits::IDS_IN_CALL)));
                    }
                }
                // A store that takes no more has failed, and its error is the answer.
                if pieces.send(batch).await.is_err() {
                    return Ok(());
                }
            }
            None => return Err(invalid("neither an offer nor objects")),
        }
    }
    sequence.end().map_err(breach)
}

/// Lets the store take in what comes and says what it keeps.
async fn add_all(
    store: Arc<dyn ObjectStore>,
    pieces: mpsc::Receiver<Vec<Piece>>,
    answers: Items<v1::AddObjectsReply>,
    caller: Caller,
) -> Result<(), Status> {
    let pieces = ReceiverStream::new(pieces).flat_map(|batch| stream::iter(batch.into_iter().map(Ok)));
    let verified = store.add(Pieces::new(pieces)).await;
    let verified = verified.map_err(|error| store_status(&error))?;
    let bytes: u64 = verified.iter().map(|object| object.size()).sum();
    caller.detail(format_args!("{} objects, {bytes} bytes", verified.len()));
    for batch in verified.chunks(limits::IDS) {
        let objects: Vec<_> = batch.iter().map(|object| (object.id(), object.size())).collect();
        let part = Some(ReplyPart::Added(wire::sized(&objects)));
        answers.give(v1::AddObjectsReply { part, zstd: true }).await?;
    }
    Ok(())
}
