//! Objects in streams: the rules of `Piece`, kept on both ends.

use std::collections::VecDeque;

use bytes::Bytes;
use dominator_core::object::{ObjectHasher, ObjectId};
use dominator_core::port::{Piece, Verified};
use futures_util::{Stream, StreamExt as _, stream};
use tonic::Status;

use super::{Packed, Weighed, chunks, digest, invalid};
use crate::v1::object_piece::Piece as Kind;
use crate::{limits, v1};

impl Weighed for v1::ObjectPiece {
    fn weight(&self) -> usize {
        match &self.piece {
            Some(Kind::Data(data) | Kind::Zstd(data)) => data.len() + 8,
            Some(Kind::Begin(_)) | None => 48,
        }
    }
}

/// Pieces as messages; small ones share one.
pub(crate) fn pack_pieces<E: Unpin + Send + 'static>(
    pieces: impl Stream<Item = Result<Piece, E>> + Send + 'static,
) -> impl Stream<Item = Result<v1::ObjectPieces, E>> + Send {
    pack_rest(pieces, 0)
}

/// The same, for the end of an object from `offset` on.
pub(crate) fn pack_rest<E: Unpin + Send + 'static>(
    pieces: impl Stream<Item = Result<Piece, E>> + Send + 'static,
    offset: u64,
) -> impl Stream<Item = Result<v1::ObjectPieces, E>> + Send {
    let items = pieces.map(move |piece| piece.map(|piece| piece_to(piece, offset)));
    Packed::new(items, limits::BATCH).map(|batch| batch.map(|pieces| v1::ObjectPieces { pieces }))
}

/// The pieces of objects that are whole in memory.
pub(crate) fn encodings<E: Send + 'static>(
    objects: impl Stream<Item = Result<(ObjectId, Bytes), E>> + Send + 'static,
) -> impl Stream<Item = Result<Piece, E>> + Send {
    objects.flat_map(|object| match object {
        Ok((id, bytes)) => {
            let begin = Piece::Begin { id, size: length(&bytes) };
            let data = chunks(bytes).filter(|part| !part.is_empty()).map(Piece::Data);
            stream::iter(std::iter::once(begin).chain(data).map(Ok)).left_stream()
        }
        Err(error) => stream::iter([Err(error)]).right_stream(),
    })
}

/// The pieces in a message.
pub(crate) fn unpack(message: v1::ObjectPieces) -> Result<Vec<Piece>, Status> {
    message.pieces.into_iter().map(piece_from).collect()
}

/// The pieces in a message, and how many bytes the object that begins in it leaves out, if one does.
pub(crate) fn unpack_rest(message: v1::ObjectPieces) -> Result<(Vec<Piece>, Option<u64>), Status> {
    let offset = message.pieces.iter().find_map(|piece| match &piece.piece {
        Some(Kind::Begin(begin)) => Some(begin.offset),
        Some(Kind::Data(_) | Kind::Zstd(_)) | None => None,
    });
    Ok((unpack(message)?, offset))
}

fn piece_to(piece: Piece, offset: u64) -> v1::ObjectPiece {
    let piece = match piece {
        Piece::Begin { id, size } => Kind::Begin(v1::ObjectBegin { id: super::ids([&id]), size, offset }),
        Piece::Data(data) => Kind::Data(data),
    };
    v1::ObjectPiece { piece: Some(piece) }
}

fn piece_from(piece: v1::ObjectPiece) -> Result<Piece, Status> {
    match piece.piece {
        Some(Kind::Begin(begin)) => Ok(Piece::Begin { id: digest(&begin.id)?, size: begin.size }),
        Some(Kind::Data(data)) if data.is_empty() => Err(invalid("a piece of nothing")),
        Some(Kind::Data(data)) if data.len() <= Piece::MAX_DATA => Ok(Piece::Data(data)),
        Some(Kind::Data(data)) => Err(invalid(format!("a piece of {} bytes", data.len()))),
        Some(Kind::Zstd(frame)) => Ok(Piece::Data(super::compress::unpacked(&frame)?)),
        None => Err(invalid("a piece that is neither beginning nor data")),
    }
}

/// A breach of the rules of a stream, in words.
pub(crate) type Breach = String;

/// Watches a stream: the objects come whole and, if the order is known, in the order asked for.
#[derive(Debug)]
pub(crate) struct Sequence {
    expected: Option<VecDeque<ObjectId>>,
    current: Option<(ObjectId, u64)>,
    /// How many bytes of the next object are left out, from its beginning on.
    left_out: u64,
}

impl Sequence {
    /// A stream of exactly these objects.
    pub(crate) fn of(expected: impl IntoIterator<Item = ObjectId>) -> Self {
        Self { expected: Some(expected.into_iter().collect()), current: None, left_out: 0 }
    }

    /// A stream of whatever the sender likes.
    pub(crate) fn any() -> Self {
        Self { expected: None, current: None, left_out: 0 }
    }

    /// So many bytes of the object that begins next will not come.
    pub(crate) fn leave_out(&mut self, bytes: u64) {
        self.left_out = bytes;
    }

    /// Takes note of a piece.
    pub(crate) fn step(&mut self, piece: &Piece) -> Result<(), Breach> {
        match piece {
            Piece::Begin { id, size } => {
                self.is_whole()?;
                if let Some(expected) = &mut self.expected {
                    match expected.pop_front() {
                        Some(next) if next == *id => {}
                        Some(next) => return Err(format!("object {id} came where {next} was asked for")),
                        None => return Err(format!("object {id} came, which nobody asked for")),
                    }
                }
                let left_out = std::mem::take(&mut self.left_out);
                let left = size.checked_sub(left_out);
                let left = left.ok_or_else(|| format!("object {id} is shorter than what was left out"))?;
                self.current = Some((*id, left));
                Ok(())
            }
            Piece::Data(data) => match &mut self.current {
                Some((id, left)) => {
                    let rest = left.checked_sub(length(data));
                    *left = rest.ok_or_else(|| format!("object {id} is longer than announced"))?;
                    Ok(())
                }
                None => Err("data came before any object had begun".into()),
            },
        }
    }

    /// Takes note of the end.
    pub(crate) fn end(&self) -> Result<(), Breach> {
        self.is_whole()?;
        match self.expected.as_ref().and_then(|expected| expected.front()) {
            Some(id) => Err(format!("the stream ended before object {id}")),
            None => Ok(()),
        }
    }

    fn is_whole(&self) -> Result<(), Breach> {
        match self.current {
            Some((id, left)) if left > 0 => {
                Err(format!("object {id} is {left} bytes shorter than announced"))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// What an object costs beside its bytes: a sender of endless empty ones must reach a limit, too.
const OVERHEAD: u64 = 64;

/// Joins and verifies small objects, each at most `limit` bytes and all together at most `total`.
pub(crate) struct Assembler {
    sequence: Sequence,
    limit: usize,
    total: u64,
    current: Option<(ObjectId, u64, Vec<u8>)>,
}

impl Assembler {
    /// For the objects of `sequence`.
    pub(crate) fn new(sequence: Sequence, limit: usize, total: u64) -> Self {
        Self { sequence, limit, total, current: None }
    }

    /// Takes a piece; returns the object it completes, if it does.
    pub(crate) fn push(&mut self, piece: Piece) -> Result<Option<(ObjectId, Bytes)>, Breach> {
        self.sequence.step(&piece)?;
        match piece {
            Piece::Begin { id, size } => {
                let fits = usize::try_from(size).is_ok_and(|size| size <= self.limit);
                let left = self.total.checked_sub(size.saturating_add(OVERHEAD)).filter(|_| fits);
                self.total =
                    left.ok_or_else(|| format!("object {id} of {size} bytes is more than allowed"))?;
                self.current = Some((id, size, Vec::new()));
            }
            Piece::Data(data) => {
                if let Some((.., bytes)) = &mut self.current {
                    bytes.extend_from_slice(&data);
                }
            }
        }
        match self.current.take_if(|(_, size, bytes)| length(bytes) == *size) {
            Some((id, size, bytes)) => {
                let mut hasher = ObjectHasher::new();
                hasher.update(&bytes);
                Verified::check(id, size, hasher.finish(), length(&bytes))
                    .map_err(|error| error.to_string())?;
                // Some of these are kept for long: without the slack of their growth.
                Ok(Some((id, bytes.into_boxed_slice().into())))
            }
            None => Ok(None),
        }
    }

    /// Takes note of the end.
    pub(crate) fn end(&self) -> Result<(), Breach> {
        self.sequence.end()
    }
}

/// A length as the protocol counts.
pub(crate) fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("invariant: no platform has lengths of more than 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endless_empty_objects_reach_a_limit() {
        let mut assembler = Assembler::new(Sequence::any(), 1, 1_000_000);
        let empty = Piece::Begin { id: ObjectId::of(b""), size: 0 };
        let taken = (0..1_000_000).take_while(|_| assembler.push(empty.clone()).is_ok()).count();
        assert!((1..100_000).contains(&taken), "{taken}");
    }
}
