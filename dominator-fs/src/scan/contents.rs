//! Reading and hashing the contents of one file, in pieces, with the means to go on later.

use std::cell::RefCell;
use std::os::fd::OwnedFd;

use dominator_core::object::{ObjectHasher, ObjectId};
use rustix::io::Errno;

use super::ScanError;
use super::freshness::Moment;
use super::identity::Identity;
use super::look::Setback;

/// A file that was hashed up to some point.
#[derive(Clone, Debug)]
pub(crate) struct Partly {
    pub(super) identity: Identity,
    /// When its first byte was read: what was written to the beginning since then can have been missed.
    began: Moment,
    /// How much was hashed, in bytes.
    done: u64,
    hasher: ObjectHasher,
}

impl Partly {
    /// Less is as quickly read again as remembered.
    const WORTH_KEEPING: u64 = 1024 * 1024;

    /// Nothing of it was hashed yet.
    pub(super) fn new(identity: Identity, began: Moment) -> Self {
        Self { identity, began, done: 0, hasher: ObjectHasher::new() }
    }

    pub(super) fn is_worth_keeping(&self) -> bool {
        self.done >= Self::WORTH_KEEPING
    }

    /// What the contents are, and when reading them began.
    pub(super) fn finish(self) -> (ObjectId, Moment) {
        (self.hasher.finish(), self.began)
    }
}

/// Hashes on to exactly the size the file had at first: one that grows for ever does not hold the scan for ever.
/// `on_piece` is told of every piece and may end the scan; `partly` then is as far as it was read.
pub(super) fn read_on(
    file: &OwnedFd,
    partly: &mut Partly,
    on_piece: impl Fn(usize) -> Result<(), ScanError>,
) -> Result<Result<(), Setback>, ScanError> {
    /// Measured: smaller costs system calls, larger falls out of the second-level cache.
    const PIECE: usize = 128 * 1024;
    thread_local!(static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; PIECE]));
    BUFFER.with_borrow_mut(|buffer| {
        while partly.done < partly.identity.size {
            let rest = usize::try_from(partly.identity.size - partly.done).unwrap_or(PIECE);
            let room = buffer.get_mut(..rest.min(PIECE)).unwrap_or_default();
            let piece = match rustix::io::pread(file, room, partly.done) {
                Ok(0) => return Ok(Err(Setback::Changed)),
                Ok(len) => buffer.get(..len).unwrap_or_default(),
                Err(Errno::INTR) => continue,
                Err(error) => return Ok(Err(Setback::Failed(error.into()))),
            };
            partly.hasher.update(piece);
            partly.done += piece.len() as u64;
            on_piece(piece.len())?;
        }
        Ok(Ok(()))
    })
}
