//! Sources of objects in memory, each with its own way of doing it wrong.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dominator_core::object::ObjectId;
use dominator_core::port::{Cause, ObjectSource, ObjectSources, Piece, Pieces, StoreError};
use futures_util::{StreamExt, stream};

/// How a source does what it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Honest,
    /// Can't be reached.
    Absent,
    /// One byte of the first object is missing, and the stream goes on.
    Truncated,
    /// One byte more than announced.
    Oversized,
    /// Another length is announced.
    OtherLength,
    /// Begins, sends nothing of it, and ends.
    Empty,
    /// Sends nothing at all and ends.
    Nothing,
    /// As long as it must be, but not what it must be.
    WrongBytes,
    /// The right bytes, for another object.
    OtherObject,
    /// The bytes of another object of the same length... under the name of this.
    Swapped,
    /// Never answers.
    Silent,
    /// Has others come first for so long.
    Busy(Duration),
    /// A byte now and then.
    Drips,
    /// The right bytes, some 100 KiB in a second.
    Steady,
    /// Sends the first half slowly and wrong.
    SlowThenWrong,
    /// Never ends.
    Endless,
    /// Pieces without bytes, without end.
    EndlessNothing,
    /// Pieces that are too long.
    HugePieces,
    /// Data before any object.
    DataFirst,
    /// The same object again and again.
    Twice,
    /// Has none of it.
    Lacks,
    /// Has not got the first few of what it is asked for, which it says one by one.
    LacksFirst(usize),
    /// The same, and says of all when asked.
    LacksMany(usize),
    /// The stream breaks after so many bytes of the first object.
    BreaksAfter(usize),
    /// The same, with wrong bytes.
    LiesAndBreaksAfter(usize),
}

impl Way {
    /// Everything a source must not do.
    pub(crate) const HOSTILE: [Self; 18] = [
        Self::Absent,
        Self::Truncated,
        Self::Oversized,
        Self::OtherLength,
        Self::Empty,
        Self::Nothing,
        Self::WrongBytes,
        Self::OtherObject,
        Self::Swapped,
        Self::Silent,
        Self::Drips,
        Self::SlowThenWrong,
        Self::Endless,
        Self::EndlessNothing,
        Self::HugePieces,
        Self::DataFirst,
        Self::Twice,
        Self::Lacks,
    ];
}

/// What a source was asked for, and from which offset on.
type Asked = Vec<(Vec<ObjectId>, u64)>;

/// All there is, and who has it.
#[derive(Default)]
pub(crate) struct World {
    objects: Mutex<BTreeMap<ObjectId, Bytes>>,
    ways: Mutex<HashMap<String, Way>>,
    asked: Arc<Mutex<HashMap<String, Asked>>>,
}

impl World {
    pub(crate) fn put(&self, bytes: Vec<u8>) -> ObjectId {
        let id = ObjectId::of(&bytes);
        self.objects.lock().unwrap().insert(id, bytes.into());
        id
    }

    pub(crate) fn bytes(&self, id: &ObjectId) -> Bytes {
        self.objects.lock().unwrap()[id].clone()
    }

    pub(crate) fn add(&self, address: &str, way: Way) {
        self.ways.lock().unwrap().insert(address.to_owned(), way);
    }

    pub(crate) fn asked(&self, address: &str) -> Asked {
        self.asked.lock().unwrap().get(address).cloned().unwrap_or_default()
    }

    pub(crate) fn forget(&self) {
        self.asked.lock().unwrap().clear();
    }
}

#[async_trait]
impl ObjectSources for World {
    async fn source(&self, address: &str) -> Result<Arc<dyn ObjectSource>, StoreError> {
        let way = self.ways.lock().unwrap()[address];
        if way == Way::Absent {
            return Err(StoreError::Unreachable(Cause::new("nobody is there")));
        }
        let objects = self.objects.lock().unwrap().clone();
        let (address, asked) = (address.to_owned(), Arc::clone(&self.asked));
        Ok(Arc::new(Source { way, objects, address, asked }))
    }
}

struct Source {
    way: Way,
    objects: BTreeMap<ObjectId, Bytes>,
    address: String,
    asked: Arc<Mutex<HashMap<String, Asked>>>,
}

#[async_trait]
impl ObjectSource for Source {
    async fn objects(&self, wanted: Vec<ObjectId>) -> Result<Pieces, StoreError> {
        self.note(wanted.clone(), 0);
        self.answer(wanted, 0).await
    }

    async fn rest(&self, id: ObjectId, offset: u64) -> Result<Pieces, StoreError> {
        self.note(vec![id], offset);
        self.answer(vec![id], usize::try_from(offset).unwrap()).await
    }

    async fn lacking(&self, ids: &[ObjectId]) -> Result<Vec<ObjectId>, StoreError> {
        let Way::LacksMany(count) = self.way else { return Ok(Vec::new()) };
        Ok(self.objects.keys().take(count).filter(|id| ids.contains(id)).copied().collect())
    }
}

impl Source {
    fn note(&self, wanted: Vec<ObjectId>, offset: u64) {
        let first = self.objects.keys().take(10).copied().collect::<Vec<_>>();
        if let Way::LacksFirst(count) = self.way
            && wanted.iter().any(|id| first[..count].contains(id))
        {
            return;
        }
        self.asked.lock().unwrap().entry(self.address.clone()).or_default().push((wanted, offset));
    }

    async fn answer(&self, wanted: Vec<ObjectId>, offset: usize) -> Result<Pieces, StoreError> {
        let id = wanted[0];
        let bytes = self.objects[&id].clone();
        let (begin, rest) = (self.begin(id), bytes.slice(offset..));
        let wrong: Bytes = rest.iter().map(|byte| byte ^ 1).collect();
        let others = || self.all(&wanted[1..], 0);
        let broken = Err(StoreError::Unreachable(Cause::new("the connection broke")));
        let other = *self.objects.iter().find(|(other, _)| **other != id).map_or(&id, |(other, _)| other);
        Ok(match self.way {
            Way::Honest | Way::Absent => of(self.all(&wanted, offset)),
            Way::Busy(time) => {
                tokio::time::sleep(time).await;
                of(self.all(&wanted, offset))
            }
            Way::Truncated => of([vec![begin], data(&rest.slice(..rest.len() - 1)), others()].concat()),
            Way::Oversized => {
                of([vec![begin], data(&rest), data(&Bytes::from_static(b"!")), others()].concat())
            }
            Way::OtherLength => of(vec![Piece::Begin { id, size: bytes.len() as u64 + 1 }]),
            Way::Empty => of(vec![begin]),
            Way::Nothing => of(Vec::new()),
            Way::WrongBytes => of([vec![begin], data(&wrong), others()].concat()),
            Way::OtherObject => {
                let unasked = Piece::Begin { id: ObjectId::of(b"unasked"), size: 7 };
                of([vec![unasked], data(&Bytes::from_static(b"unasked"))].concat())
            }
            Way::Swapped => {
                let size = self.objects[&other].len();
                let swapped: Bytes = self.objects[&other].iter().copied().cycle().take(bytes.len()).collect();
                assert!(size > 0);
                let lie = if swapped == bytes { wrong } else { swapped.slice(offset..) };
                of([vec![begin], data(&lie)].concat())
            }
            Way::Silent => std::future::pending().await,
            Way::Drips => Pieces::new(stream::iter([Ok(begin)]).chain(slowly(rest))),
            Way::Steady => {
                let pieces = self.all(&wanted, offset).into_iter().flat_map(in_small);
                Pieces::new(stream::iter(pieces).then(async |piece| {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    Ok(piece)
                }))
            }
            Way::SlowThenWrong => {
                let first = slowly(wrong.slice(..1));
                let then = stream::iter(data(&wrong.slice(1..))).map(Ok);
                Pieces::new(stream::iter([Ok(begin)]).chain(first).chain(then))
            }
            Way::Endless => Pieces::new(
                stream::iter([Ok(begin)])
                    .chain(stream::repeat_with(move || Ok(Piece::Data(Bytes::from(vec![0; 4096]))))),
            ),
            Way::EndlessNothing => {
                let nothing = stream::repeat_with(|| Ok(Piece::Data(Bytes::new())));
                Pieces::new(stream::iter([Ok(begin)]).chain(nothing))
            }
            Way::HugePieces => of(vec![begin, Piece::Data(Bytes::from(vec![0; Piece::MAX_DATA + 1]))]),
            Way::DataFirst => of(data(&rest)),
            Way::Twice => of([self.all(&wanted[..1], offset), self.all(&wanted[..1], offset)].concat()),
            Way::Lacks => return Err(StoreError::NotFound { id }),
            Way::LacksFirst(count) | Way::LacksMany(count) => {
                let first = self.objects.keys().take(count).find(|id| wanted.contains(id));
                match first {
                    Some(id) => return Err(StoreError::NotFound { id: *id }),
                    None => of(self.all(&wanted, offset)),
                }
            }
            Way::BreaksAfter(bytes) => breaking([vec![begin], data(&rest.slice(..bytes))].concat(), broken),
            Way::LiesAndBreaksAfter(bytes) => {
                breaking([vec![begin], data(&wrong.slice(..bytes))].concat(), broken)
            }
        })
    }

    fn begin(&self, id: ObjectId) -> Piece {
        Piece::Begin { id, size: self.objects[&id].len() as u64 }
    }

    fn all(&self, wanted: &[ObjectId], offset: usize) -> Vec<Piece> {
        let object =
            |id: &ObjectId| [vec![self.begin(*id)], data(&self.objects[id].slice(offset..))].concat();
        wanted.iter().flat_map(object).collect()
    }
}

fn data(bytes: &Bytes) -> Vec<Piece> {
    bytes.chunks(Piece::MAX_DATA).map(|part| Piece::Data(bytes.slice_ref(part))).collect()
}

fn in_small(piece: Piece) -> Vec<Piece> {
    match piece {
        Piece::Data(bytes) => bytes.chunks(512).map(|part| Piece::Data(bytes.slice_ref(part))).collect(),
        begin => vec![begin],
    }
}

fn of(pieces: Vec<Piece>) -> Pieces {
    Pieces::new(stream::iter(pieces.into_iter().map(Ok)))
}

fn breaking(pieces: Vec<Piece>, broken: Result<Piece, StoreError>) -> Pieces {
    Pieces::new(stream::iter(pieces.into_iter().map(Ok).chain([broken])))
}

/// A byte at a time, far too seldom.
fn slowly(bytes: Bytes) -> impl futures_util::Stream<Item = Result<Piece, StoreError>> + Send {
    stream::iter(0..bytes.len()).then(move |at| {
        let byte = bytes.slice(at..=at);
        async move {
            tokio::time::sleep(Duration::from_millis(40)).await;
            Ok(Piece::Data(byte))
        }
    })
}
