//! Merkle trees: a directory is an object named by the digest of its entries, so that equal machines are equal ids.

mod builder;
mod directory;
mod links;
mod snapshot;

pub use builder::{Builder, Conflict};
pub(crate) use directory::Cursor;
pub use directory::{BadEntry, Difference, Directory, DirectoryId, DirectoryWriter, Entry};
pub use links::{LinkSets, LinksId};
pub use snapshot::{Directories, DirectoryMap, Malformed, Snapshot};

use std::fmt;

use crate::codec::{DecodeError, Reader, Writer};
use crate::inode::Inode;
use crate::object::{Algorithm, ObjectId};
use crate::view::ViewId;

/// The digest of a [`Tree`]: 32 bytes that say what all of a machine in view is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeId(pub ObjectId);

impl fmt::Display for TreeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A whole tree: its root, which names its entries, and the hard links among them. Encoded as `docs/formats/tree.md`
/// says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// How the ids within are made.
    pub algorithm: Algorithm,
    /// Under which view it was taken.
    pub view: ViewId,
    /// The root directory.
    pub root: Inode,
    /// Its hard links.
    pub links: LinksId,
}

impl Tree {
    const MAGIC: [u8; 4] = *b"DTR1";
    /// The longest encoding accepted, in bytes: one inode with the largest extended attributes.
    pub const MAX_LEN: usize = 80 * 1024 * 1024;

    /// The name of this tree.
    pub fn id(&self) -> TreeId {
        TreeId(ObjectId::of(&self.encode()))
    }

    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::begin(Self::MAGIC);
        w.u8(match self.algorithm {
            Algorithm::Sha256 => 1,
        });
        w.id(&self.view.0);
        self.root.encode(&mut w);
        w.id(&self.links.0);
        w.finish()
    }

    /// Reads a canonical encoding.
    ///
    /// # Errors
    /// [`DecodeError`] when it is none, or its root is no directory.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::open(bytes, Self::MAGIC, Self::MAX_LEN)?;
        let algorithm = match r.u8()? {
            1 => Algorithm::Sha256,
            _ => return Err(DecodeError::Invalid("a digest algorithm not known here")),
        };
        let view = ViewId(r.id()?);
        let root = Inode::decode(&mut r)?;
        if !root.is_directory() {
            return Err(DecodeError::Invalid("a root that is no directory"));
        }
        let links = LinksId(r.id()?);
        r.end()?;
        Ok(Self { algorithm, view, root, links })
    }
}
