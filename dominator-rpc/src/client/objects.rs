use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use dominator_core::auth::Role;
use dominator_core::object::{ObjectHasher, ObjectId};
use dominator_core::port::{Cause, ObjectSource, ObjectStore, Piece, Pieces, StoreError, Verified};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, future, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{next, within};
use crate::transport::{Channel, Tls, connect};
use crate::v1::add_objects_reply::Part as ReplyPart;
use crate::v1::add_objects_request::Part as RequestPart;
use crate::v1::object_server_client::ObjectServerClient;
use crate::wire::{self, Packing, Presses, Sequence, store_error};
use crate::{limits, v1};

/// How many messages wait to be sent.
const QUEUE: usize = 4;
const ADDING: &str = "adding objects failed";
const GETTING: &str = "getting objects failed";

/// A store of objects elsewhere.
///
/// What it streams is in the order asked for and as long as announced, but not hashed: a store that takes it in hashes
/// it anyway, others use [`verified`].
#[derive(Clone, Debug)]
pub struct RemoteObjects {
    client: ObjectServerClient<Channel>,
    compression: Compression,
}

/// Whether contents are compressed on their way, object by object, where that is worth it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// They go as they are: on a network that is faster than half a gigabyte a second, that is faster.
    #[default]
    Never,
    /// By Zstandard, if the server knows that, and has a processor for it.
    Zstd,
}

impl RemoteObjects {
    /// Connects to the image server at `address`, as in `host:port`.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`], with the reason.
    pub async fn connect(tls: &Tls, address: &str) -> Result<Self, StoreError> {
        let channel = connect(tls, address, Role::ImageServer).await;
        let channel = channel.map_err(|error| StoreError::Unreachable(Cause::new(error)))?;
        Ok(Self::over(channel))
    }

    /// Over a connection there is.
    pub(crate) fn over(channel: Channel) -> Self {
        let client = ObjectServerClient::new(channel).max_decoding_message_size(limits::MESSAGE);
        Self { client, compression: Compression::default() }
    }

    /// Compresses like that.
    #[must_use]
    pub fn compressing(self, compression: Compression) -> Self {
        Self { compression, ..self }
    }

    /// Offers objects and sends those that are wanted, which are read from `source`. Returns what was added. Needs the
    /// right to add only, not the one to check.
    ///
    /// # Errors
    /// [`StoreError`] of either end. What was complete before an error stays.
    pub async fn push(
        &self,
        offers: &[(ObjectId, u64)],
        source: &dyn ObjectSource,
    ) -> Result<Vec<Verified>, StoreError> {
        let (requests, requested) = mpsc::channel(QUEUE);
        let mut client = self.client.clone();
        let answers = within(limits::CALL, client.add_objects(ReceiverStream::new(requested))).await;
        let mut answers = answers.map_err(|status| store_error(ADDING, status))?.into_inner();
        let (mut wanted, mut is_known) = (Vec::new(), true);
        for batch in offers.chunks(limits::IDS) {
            let offer = RequestPart::Offer(wire::sized(batch));
            // A call that takes no more has failed, and its answer says why.
            drop(requests.send(v1::AddObjectsRequest { part: Some(offer) }).await);
            let (some, zstd) = wanted_of(batch, &mut answers).await?;
            is_known &= zstd;
            wanted.extend(some);
        }
        let mut packing = match self.compression {
            Compression::Zstd if is_known => Some(Packing::new(Arc::new(Presses::new()))),
            Compression::Zstd | Compression::Never => None,
        };
        let pieces = source.objects(wanted).await?;
        let mut messages = std::pin::pin!(wire::pack_pieces(pieces));
        while let Some(message) = messages.try_next().await? {
            let message = match &mut packing {
                Some(packing) => packing.pack(message).await,
                None => message,
            };
            let part = Some(RequestPart::Pieces(message));
            if requests.send(v1::AddObjectsRequest { part }).await.is_err() {
                break;
            }
        }
        drop(requests);
        let answer = answers_of_add(&mut answers, || offers.len()).await?;
        believed(answer, &offers.iter().copied().collect())
    }
}

#[async_trait]
impl ObjectSource for RemoteObjects {
    async fn objects(&self, wanted: Vec<ObjectId>) -> Result<Pieces, StoreError> {
        let mut portions = wanted.chunks(limits::OBJECTS_IN_CALL).map(<[_]>::to_vec);
        let first = self.some_objects(portions.next().unwrap_or_default(), 0).await?;
        let rest: Vec<_> = portions.collect();
        let client = self.clone();
        let rest = stream::iter(rest).then(move |some| {
            let client = client.clone();
            async move { client.some_objects(some, 0).await }
        });
        Ok(Pieces::new(first.chain(rest.try_flatten())))
    }

    async fn rest(&self, id: ObjectId, offset: u64) -> Result<Pieces, StoreError> {
        Ok(Pieces::new(self.some_objects(vec![id], offset).await?))
    }

    /// Takes the right to check; without it, nothing is known to be lacking.
    async fn lacking(&self, ids: &[ObjectId]) -> Result<Vec<ObjectId>, StoreError> {
        match self.sizes(ids).await {
            Ok(sizes) => {
                let lacking = ids.iter().zip(sizes).filter(|(_, size)| size.is_none());
                Ok(lacking.map(|(id, _)| *id).collect())
            }
            Err(StoreError::Denied(_)) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

impl RemoteObjects {
    /// Objects of one call; of one alone, only what comes after `offset` bytes.
    async fn some_objects(
        &self,
        wanted: Vec<ObjectId>,
        offset: u64,
    ) -> Result<impl Stream<Item = Result<Piece, StoreError>> + Send + use<>, StoreError> {
        let zstd = self.compression == Compression::Zstd;
        let requests: Vec<_> = wanted
            .chunks(limits::IDS)
            .map(|some| v1::GetObjectsRequest { ids: wire::ids(some), offset, zstd })
            .collect();
        let mut client = self.client.clone();
        let answer = within(limits::STALL, client.get_objects(stream::iter(requests))).await;
        let answer = answer.map_err(|status| store_error(GETTING, status))?.into_inner();
        let sequence = Sequence::of(wanted);
        let arriving = Arriving { answer, sequence, offset, unwanted: 0, ready: VecDeque::new() };
        Ok(stream::try_unfold(arriving, async move |mut arriving| {
            let piece = arriving.next().await?;
            Ok(piece.map(|piece| (piece, arriving)))
        }))
    }
}

/// The answer to a call that gets objects.
struct Arriving {
    answer: Streaming<v1::ObjectPieces>,
    sequence: Sequence,
    /// Where in the object it was asked to begin.
    offset: u64,
    /// How many bytes of it are still passed over: a server that does not know offsets sends all of it.
    unwanted: u64,
    ready: VecDeque<Piece>,
}

impl Arriving {
    async fn next(&mut self) -> Result<Option<Piece>, StoreError> {
        loop {
            let Some(piece) = self.ready.pop_front() else {
                let message = next(&mut self.answer).await.map_err(|status| store_error(GETTING, status))?;
                let Some(message) = message else {
                    self.sequence.end().map_err(StoreError::Protocol)?;
                    return Ok(None);
                };
                self.unpack(message)?;
                continue;
            };
            self.sequence.step(&piece).map_err(StoreError::Protocol)?;
            if let Some(piece) = self.wanted(piece) {
                return Ok(Some(piece));
            }
        }
    }

    fn unpack(&mut self, message: v1::ObjectPieces) -> Result<(), StoreError> {
        let protocol = |status: tonic::Status| StoreError::Protocol(status.message().into());
        let (pieces, left_out) = wire::unpack_rest(message).map_err(protocol)?;
        match left_out {
            Some(left_out) if left_out == 0 || left_out == self.offset => {
                self.sequence.leave_out(left_out);
                self.unwanted = self.offset - left_out;
            }
            Some(left_out) => {
                let asked = self.offset;
                let what = format!("an object without {left_out} bytes where {asked} were to be left out");
                return Err(StoreError::Protocol(what));
            }
            None => {}
        }
        self.ready.extend(pieces);
        Ok(())
    }

    /// What of a piece was asked for.
    fn wanted(&mut self, piece: Piece) -> Option<Piece> {
        let Piece::Data(mut data) = piece else { return Some(piece) };
        let unwanted = usize::try_from(self.unwanted).unwrap_or(usize::MAX).min(data.len());
        self.unwanted -= wire::length(data.get(..unwanted).unwrap_or_default());
        let data = data.split_off(unwanted);
        (!data.is_empty()).then_some(Piece::Data(data))
    }
}

#[async_trait]
impl ObjectStore for RemoteObjects {
    async fn sizes(&self, ids: &[ObjectId]) -> Result<Vec<Option<u64>>, StoreError> {
        let mut sizes = Vec::with_capacity(ids.len());
        for some in ids.chunks(limits::IDS) {
            let mut client = self.client.clone();
            let answer = client.check_objects(v1::ObjectIds { ids: wire::ids(some) });
            let answer = within(limits::CALL, answer).await;
            let answer =
                answer.map_err(|status| store_error("checking objects failed", status))?.into_inner();
            if answer.sizes.len() != some.len() {
                return Err(StoreError::Protocol("not as many lengths as were asked for".into()));
            }
            sizes.extend(answer.sizes.into_iter().map(|size| u64::try_from(size).ok()));
        }
        Ok(sizes)
    }

    async fn add(&self, pieces: Pieces) -> Result<Vec<Verified>, StoreError> {
        let sent = Arc::new(Mutex::new(Sent::default()));
        let noted = sent.clone();
        // The call is ended where the pieces end, be it in an error, which is then what the caller gets.
        let pieces = pieces.take_while(move |piece| {
            let mut sent = noted.lock().unwrap_or_else(PoisonError::into_inner);
            match piece {
                Ok(Piece::Begin { id, size }) => {
                    sent.count += 1;
                    sent.begun.insert(*id, *size);
                }
                Ok(Piece::Data(_)) => {}
                Err(error) => sent.failed = Some(error.clone()),
            }
            future::ready(piece.is_ok())
        });
        let requests = wire::pack_pieces(pieces).filter_map(|message| {
            let part = message.ok().map(RequestPart::Pieces);
            future::ready(part.map(|part| v1::AddObjectsRequest { part: Some(part) }))
        });
        let mut client = self.client.clone();
        let answers = within(limits::CALL, client.add_objects(requests)).await;
        let mut answers = answers.map_err(|status| store_error(ADDING, status))?.into_inner();
        let answer =
            answers_of_add(&mut answers, || sent.lock().unwrap_or_else(PoisonError::into_inner).count);
        let answer = answer.await;
        let sent = std::mem::take(&mut *sent.lock().unwrap_or_else(PoisonError::into_inner));
        match sent.failed {
            Some(error) => Err(error),
            None => believed(answer?, &sent.begun),
        }
    }
}

/// What went out in a call to add.
#[derive(Default)]
struct Sent {
    count: usize,
    begun: HashMap<ObjectId, u64>,
    failed: Option<StoreError>,
}

/// The objects of an offer that are wanted, and whether they may be compressed.
async fn wanted_of(
    offer: &[(ObjectId, u64)],
    answers: &mut Streaming<v1::AddObjectsReply>,
) -> Result<(Vec<ObjectId>, bool), StoreError> {
    let answer = next(answers).await.map_err(|status| store_error(ADDING, status))?;
    let zstd = answer.as_ref().is_some_and(|answer| answer.zstd);
    let Some(ReplyPart::Wanted(wanted)) = answer.and_then(|answer| answer.part) else {
        return Err(StoreError::Protocol("an offer was not answered".into()));
    };
    let wanted = wire::ids_from(&wanted.ids, offer.len());
    let wanted = wanted.map_err(|status| StoreError::Protocol(status.message().into()))?;
    let offered: HashSet<_> = offer.iter().map(|(id, _)| id).collect();
    match wanted.iter().find(|id| !offered.contains(id)) {
        Some(id) => Err(StoreError::Protocol(format!("object {id} was wanted but not offered"))),
        None => Ok((wanted, zstd)),
    }
}

/// What the other end says it keeps. The end may take its time: it makes everything durable first.
async fn answers_of_add(
    answers: &mut Streaming<v1::AddObjectsReply>,
    sent: impl Fn() -> usize,
) -> Result<Vec<(ObjectId, u64)>, StoreError> {
    let mut added = Vec::new();
    let failed = |status| store_error(ADDING, status);
    while let Some(answer) = within(limits::ORDER, answers.message()).await.map_err(failed)? {
        let Some(ReplyPart::Added(objects)) = answer.part else {
            return Err(StoreError::Protocol("an answer that is not known here, or out of order".into()));
        };
        added.extend(wire::sized_from(&objects).map_err(failed)?);
        if added.len() > sent() {
            return Err(StoreError::Protocol("more objects were added than were sent".into()));
        }
    }
    Ok(added)
}

/// Evidence from the other end: it has hashed what it keeps, and it has proven that it is the one to be believed. It is
/// not believed about what it was never sent.
fn believed(added: Vec<(ObjectId, u64)>, sent: &HashMap<ObjectId, u64>) -> Result<Vec<Verified>, StoreError> {
    let believe = |(id, size)| match sent.get(&id) {
        Some(length) => Verified::check(id, size, id, *length),
        None => Err(StoreError::Protocol(format!("object {id} was added but not sent"))),
    };
    added.into_iter().map(believe).collect()
}

/// The same pieces, hashed on the way: an object whose bytes are not what they should be ends the stream with
/// [`StoreError::Corrupt`]. What came of it before that is worth nothing.
pub fn verified(pieces: Pieces) -> Pieces {
    let state = (pieces, None::<Hashing>);
    Pieces::new(stream::try_unfold(state, async move |(mut pieces, mut hashing)| {
        let piece = pieces.try_next().await?;
        match &piece {
            Some(Piece::Data(data)) => {
                if let Some(hashing) = &mut hashing {
                    hashing.hasher.update(data);
                    hashing.length += wire::length(data);
                }
            }
            Some(Piece::Begin { id, size }) => {
                Hashing::check(hashing.take())?;
                hashing = Some(Hashing { id: *id, size: *size, hasher: ObjectHasher::new(), length: 0 });
            }
            None => Hashing::check(hashing.take())?,
        }
        Ok(piece.map(|piece| (piece, (pieces, hashing))))
    }))
}

struct Hashing {
    id: ObjectId,
    size: u64,
    hasher: ObjectHasher,
    length: u64,
}

impl Hashing {
    fn check(this: Option<Self>) -> Result<(), StoreError> {
        let Some(this) = this else { return Ok(()) };
        Verified::check(this.id, this.size, this.hasher.finish(), this.length).map(drop)
    }
}
