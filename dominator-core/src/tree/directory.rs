use std::collections::BTreeMap;
use std::fmt;

use crate::codec::{DecodeError, Reader, Writer};
use crate::inode::Inode;
use crate::object::ObjectId;
use crate::path::Name;

/// The name of a directory's entries: the digest of their encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirectoryId(pub ObjectId);

impl fmt::Display for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The entries of one directory in view, by name. Encoded as `docs/formats/tree.md` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// The entries.
    pub entries: BTreeMap<Name, Inode>,
}

impl Directory {
    const MAGIC: [u8; 4] = *b"DDR1";
    /// The longest encoding accepted, in bytes: room for two million files.
    pub const MAX_LEN: usize = 256 * 1024 * 1024;
    /// The shortest entry: a name of one byte and the inode of an unknown.
    const MIN_ENTRY: usize = 5 + 16;

    /// The name of these entries.
    pub fn id(&self) -> DirectoryId {
        DirectoryId(ObjectId::of(&self.encode()))
    }

    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::begin(Self::MAGIC);
        w.count(self.entries.len());
        for (name, inode) in &self.entries {
            w.bytes(name.as_bytes());
            inode.encode(&mut w);
        }
        w.finish()
    }

    /// Reads a canonical encoding.
    ///
    /// # Errors
    /// [`DecodeError`] when it is none: names out of order, twice or hostile, values out of bounds, bytes left over.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::open(bytes, Self::MAGIC, Self::MAX_LEN)?;
        let mut entries = BTreeMap::new();
        for _ in 0..r.count(Self::MIN_ENTRY)? {
            let name = Name::parse(r.bytes(Name::MAX_LEN)?)
                .map_err(|_| DecodeError::Invalid("a name no directory could hold"))?;
            if entries.last_key_value().is_some_and(|(last, _)| *last >= name) {
                return Err(DecodeError::Invalid("names out of order"));
            }
            entries.insert(name, Inode::decode(&mut r)?);
        }
        r.end()?;
        Ok(Self { entries })
    }
}
