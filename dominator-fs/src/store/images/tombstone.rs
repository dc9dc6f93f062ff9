//! What is left of a deleted image at its name.

use dominator_core::image::{Image, LastingId};
use dominator_core::object::ObjectId;
use dominator_core::port::ImageError;

/// Which image was there, so that a replica deletes that one and no other; nothing, if that could not be found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tombstone(pub(super) Option<LastingId>);

impl Tombstone {
    const MAGIC: [u8; 4] = *b"DTB1";
    /// The length of a file that says which image was there, in bytes.
    pub(super) const LEN: usize = Self::MAGIC.len() + ObjectId::LEN;

    /// Of an image that is deleted, even if it can't be read.
    pub(super) fn of(image: Result<Image, ImageError>) -> Self {
        Self(image.ok().map(|image| image.lasting_id()))
    }

    /// Whether a file of so many bytes is a tombstone: all manifests are longer.
    pub(super) const fn is_of_length(length: u64) -> bool {
        length == 0 || length == Self::LEN as u64
    }

    pub(super) fn encode(self) -> Vec<u8> {
        match self.0 {
            Some(was) => [&Self::MAGIC[..], was.0.as_bytes()].concat(),
            None => Vec::new(),
        }
    }

    /// What can't be read says nothing, which deletes nothing.
    pub(super) fn decode(bytes: &[u8]) -> Self {
        let id = bytes.strip_prefix(&Self::MAGIC).and_then(|id| id.try_into().ok());
        Self(id.map(|id| LastingId(ObjectId::from_bytes(id))))
    }
}
