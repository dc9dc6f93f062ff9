//! Data of objects as Zstandard frames, where that is worth it.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use dominator_core::port::Piece;
use tonic::Status;
use zstd::bulk::Compressor;
use zstd::zstd_safe;

use super::invalid;
use crate::v1;
use crate::v1::object_piece::Piece as Kind;

/// What is shorter is not worth it, in bytes.
const LEAST: usize = 512;
/// How much of an object is tried, in bytes.
const SAMPLE: usize = 16 * 1024;
/// The fastest that Zstandard calls a level: half a gigabyte a second on one core.
const LEVEL: i32 = 1;
/// How what is compressed already begins: gzip, bzip2, xz, Zstandard, lz4, zip, 7z, PNG, JPEG.
const COMPRESSED: [&[u8]; 9] = [
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ\0",
    b"\x28\xb5\x2f\xfd",
    b"\x04\x22\x4d\x18",
    b"PK\x03\x04",
    b"7z\xbc\xaf\x27\x1c",
    b"\x89PNG",
    b"\xff\xd8\xff",
];

/// So many streams compress at once; what others send meanwhile goes as it is. Nobody waits for a processor here that
/// could send.
pub(crate) struct Presses(Mutex<Idle>);

struct Idle {
    presses: Vec<Compressor<'static>>,
    /// How many were not made yet.
    unmade: usize,
}

impl Presses {
    /// As many as half of the processors.
    pub(crate) fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self(Mutex::new(Idle { presses: Vec::new(), unmade: processors.div_ceil(2) }))
    }

    fn take(&self) -> Option<Compressor<'static>> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(press) = idle.presses.pop() {
            return Some(press);
        }
        idle.unmade = idle.unmade.checked_sub(1)?;
        // Without memory for it, what is sent goes as it is from then on.
        Compressor::new(LEVEL).ok()
    }

    fn give_back(&self, press: Compressor<'static>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).presses.push(press);
    }
}

/// Compresses the messages of one stream of objects.
pub(crate) struct Packing {
    presses: Arc<Presses>,
    worth: Worth,
}

/// What is known of the object under way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Worth {
    Unknown,
    Some,
    None,
}

impl Packing {
    /// With the presses that are shared with others.
    pub(crate) const fn new(presses: Arc<Presses>) -> Self {
        Self { presses, worth: Worth::Unknown }
    }

    /// The same message, what is worth it compressed. What is under way when this is given up is finished.
    pub(crate) async fn pack(&mut self, message: v1::ObjectPieces) -> v1::ObjectPieces {
        let Some(mut press) = self.presses.take() else {
            if message.pieces.iter().any(|piece| matches!(piece.piece, Some(Kind::Begin(_)))) {
                self.worth = Worth::Unknown;
            }
            return message;
        };
        let (presses, mut worth) = (self.presses.clone(), self.worth);
        let packed = tokio::task::spawn_blocking(move || {
            let pieces =
                message.pieces.into_iter().map(|piece| pack(piece, &mut worth, &mut press)).collect();
            presses.give_back(press);
            (v1::ObjectPieces { pieces }, worth)
        });
        let (message, worth) =
            packed.await.expect("invariant: compressing does not panic, and is not aborted");
        self.worth = worth;
        message
    }
}

fn pack(piece: v1::ObjectPiece, worth: &mut Worth, press: &mut Compressor<'_>) -> v1::ObjectPiece {
    let piece = piece.piece.map(|piece| match piece {
        Kind::Data(data) => {
            if *worth == Worth::Unknown {
                *worth = worth_of(&data, press);
            }
            let frame = if *worth == Worth::Some { press.compress(&data).ok() } else { None };
            match frame.filter(|frame| is_worth_it(frame.len(), data.len())) {
                Some(frame) => Kind::Zstd(frame.into()),
                None => Kind::Data(data),
            }
        }
        Kind::Begin(begin) => {
            *worth = Worth::Unknown;
            Kind::Begin(begin)
        }
        Kind::Zstd(frame) => Kind::Zstd(frame),
    });
    v1::ObjectPiece { piece }
}

fn worth_of(data: &[u8], press: &mut Compressor<'_>) -> Worth {
    if data.len() < LEAST || COMPRESSED.iter().any(|magic| data.starts_with(magic)) {
        return Worth::None;
    }
    // What is short is tried as a whole, and that once.
    let Some(sample) = data.get(..SAMPLE) else { return Worth::Some };
    match press.compress(sample) {
        Ok(frame) if is_worth_it(frame.len(), sample.len()) => Worth::Some,
        Ok(_) | Err(_) => Worth::None,
    }
}

/// By a tenth at least.
const fn is_worth_it(frame: usize, data: usize) -> bool {
    frame <= data - data / 10
}

/// The data in a frame, which must say how much that is: no more is ever made room for.
pub(crate) fn unpacked(frame: &[u8]) -> Result<Bytes, Status> {
    let declared = zstd_safe::get_frame_content_size(frame).ok().flatten();
    let declared = declared.and_then(|size| usize::try_from(size).ok());
    let Some(size) = declared.filter(|size| (1..=Piece::MAX_DATA).contains(size)) else {
        return Err(invalid(format!(
            "a frame that does not say that it holds 1 to {} bytes",
            Piece::MAX_DATA
        )));
    };
    match zstd::bulk::decompress(frame, size) {
        Ok(data) if data.len() == size => Ok(data.into()),
        Ok(data) => Err(invalid(format!("a frame of {} bytes that says {size}", data.len()))),
        Err(_) => Err(invalid(format!("a frame that holds no {size} bytes"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pieces(objects: &[Vec<u8>]) -> v1::ObjectPieces {
        let piece = |piece| v1::ObjectPiece { piece: Some(piece) };
        let pieces = objects.iter().flat_map(|data| {
            let begin = piece(Kind::Begin(v1::ObjectBegin::default()));
            std::iter::once(begin)
                .chain(data.chunks(Piece::MAX_DATA).map(move |part| piece(Kind::Data(part.to_vec().into()))))
        });
        v1::ObjectPieces { pieces: pieces.collect() }
    }

    fn packed(message: v1::ObjectPieces) -> v1::ObjectPieces {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(Packing::new(Arc::new(Presses::new())).pack(message))
    }

    /// How many bytes of data are in it, and how many of frames.
    fn weigh(message: &v1::ObjectPieces) -> (usize, usize) {
        message.pieces.iter().fold((0, 0), |(data, frames), piece| match &piece.piece {
            Some(Kind::Data(bytes)) => (data + bytes.len(), frames),
            Some(Kind::Zstd(frame)) => (data, frames + frame.len()),
            Some(Kind::Begin(_)) | None => (data, frames),
        })
    }

    /// Bytes without any order in them.
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn only_what_shrinks_by_a_tenth_is_compressed() {
        let text = b"what is said twice is said twice; ".repeat(20_000);
        let begins_like = |magic: &[u8]| [magic, &text[..]].concat();
        let grows_dull = [noise(SAMPLE), text.clone()].concat();
        for (name, object, is_packed) in [
            ("text", text.clone(), true),
            ("noise", noise(400_000), false),
            ("too short", text[..LEAST - 1].to_vec(), false),
            ("short", text[..LEAST].to_vec(), true),
            ("gzip", begins_like(b"\x1f\x8b"), false),
            ("xz", begins_like(b"\xfd7zXZ\0"), false),
            ("zip", begins_like(b"PK\x03\x04"), false),
            ("its head is noise", grows_dull, false),
        ] {
            let length = object.len();
            let (data, frames) = weigh(&packed(pieces(&[object])));
            assert_eq!((frames > 0, data == length), (is_packed, !is_packed), "{name}");
            assert!(frames < length / 5, "{name}");
        }
    }

    #[test]
    fn each_object_is_judged_by_itself() {
        let text = b"what is said twice is said twice; ".repeat(2000);
        let message = packed(pieces(&[text.clone(), noise(50_000), text]));
        let kinds = message.pieces.iter().map(|piece| matches!(piece.piece, Some(Kind::Zstd(_))));
        assert_eq!(kinds.collect::<Vec<_>>(), [false, true, false, false, false, true]);
    }

    #[test]
    fn what_others_compress_with_is_not_waited_for() {
        let presses = Arc::new(Presses::new());
        let taken: Vec<_> = std::iter::from_fn(|| presses.take()).collect();
        assert!(!taken.is_empty());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let message = pieces(&[b"what is said twice is said twice; ".repeat(2000)]);
        let packing = &mut Packing::new(presses.clone());
        assert_eq!(runtime.block_on(packing.pack(message.clone())), message);
        taken.into_iter().for_each(|press| presses.give_back(press));
        assert_ne!(runtime.block_on(packing.pack(message.clone())), message);
    }

    #[test]
    fn a_frame_is_no_larger_than_it_says_and_says_no_more_than_a_piece() {
        let frame = |size: usize| zstd::bulk::compress(&vec![0; size], LEVEL).unwrap();
        assert_eq!(unpacked(&frame(Piece::MAX_DATA)).unwrap().len(), Piece::MAX_DATA);
        // 256 MiB in 24 KiB.
        for (name, bomb) in [
            ("a byte too much", frame(Piece::MAX_DATA + 1)),
            ("a bomb", frame(1 << 28)),
            ("nothing", frame(0)),
            ("two frames", [frame(10), frame(1 << 20)].concat()),
            ("no frame", b"no frame".to_vec()),
            ("a part", frame(10)[..8].to_vec()),
            ("no length", unsized_frame(&[7; 1000])),
        ] {
            assert!(unpacked(&bomb).is_err(), "{name}");
        }
    }

    fn unsized_frame(data: &[u8]) -> Vec<u8> {
        let mut press = Compressor::new(LEVEL).unwrap();
        press.set_parameter(zstd_safe::CParameter::ContentSizeFlag(false)).unwrap();
        press.compress(data).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_compressed_comes_out_as_it_was(
            objects in proptest::collection::vec(proptest::collection::vec(0_u8..4, 0..20_000), 0..8),
        ) {
            let message = pieces(&objects);
            let unpack = |message: v1::ObjectPieces| super::super::unpack(message).map(|pieces| format!("{pieces:?}"));
            let begun = v1::ObjectBegin { id: vec![7; 32].into(), ..Default::default() };
            let named = v1::ObjectPieces {
                pieces: message.pieces.into_iter().map(|piece| match piece.piece {
                    Some(Kind::Begin(_)) => v1::ObjectPiece { piece: Some(Kind::Begin(begun.clone())) },
                    _ => piece,
                }).collect(),
            };
            prop_assert_eq!(unpack(packed(named.clone())).unwrap(), unpack(named).unwrap());
        }

        #[test]
        fn whatever_comes_is_data_of_a_piece_or_refused(
            mut frame in proptest::collection::vec(any::<u8>(), 0..2000),
            begins_like_one: bool,
            flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            if begins_like_one {
                frame = zstd::bulk::compress(&frame, LEVEL).unwrap();
            }
            for (at, value) in flips {
                if !frame.is_empty() {
                    let at = at.index(frame.len());
                    frame[at] = value;
                }
            }
            if let Ok(data) = unpacked(&frame) {
                prop_assert!((1..=Piece::MAX_DATA).contains(&data.len()));
            }
        }
    }
}
