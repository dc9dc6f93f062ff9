//! What one server can tell another of the images it has.

use std::fmt;

use super::{Image, ImageId};
use crate::codec::Writer;
use crate::object::ObjectId;
use crate::view::encode_filter;

/// The digest of what never changes about an image: what it holds, who made it and when. Expiry and owners may change, and
/// with them the [`ImageId`]; two images of one name with the same lasting id are one image all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LastingId(pub ObjectId);

impl fmt::Display for LastingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What there is at a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageState {
    /// Nothing: no image was ever there, or it has expired.
    Absent,
    /// An image was there and was deleted.
    Deleted {
        /// Which; nothing, if that is not known any more.
        was: Option<LastingId>,
    },
    /// An image.
    Present {
        /// Its manifest.
        id: ImageId,
        /// Which it is, whatever its expiry and owners.
        lasting: LastingId,
        /// When it ceases to be, in seconds since 1970; never, if not given.
        expires_at: Option<u64>,
    },
}

impl ImageState {
    /// That of a name which has `image`.
    pub fn of(image: &Image) -> Self {
        Self::Present { id: image.id(), lasting: image.lasting_id(), expires_at: image.expires_at }
    }
}

impl Image {
    const LASTING: [u8; 4] = *b"DIL1";

    /// What of it never changes. Tombstones keep it, so its encoding is not that of the manifest, of which there are
    /// versions: `docs/formats/image.md`.
    pub fn lasting_id(&self) -> LastingId {
        let mut w = Writer::begin(Self::LASTING);
        w.id(&self.tree_id().0);
        encode_filter(&mut w, &self.filter);
        w.bytes(self.triggers.to_json().as_bytes());
        w.bytes(self.created_by.as_bytes());
        w.u64(self.created_on);
        LastingId(ObjectId::of(&w.finish()))
    }
}
