use std::collections::HashSet;

use crate::codec::{DecodeError, Reader, Writer};
use crate::object::ObjectId;
use crate::path::ImagePath;

/// The digest of a tree's hard links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinksId(pub ObjectId);

/// The hard links of a tree: the disjoint sets of two or more names in view that share one inode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkSets(Vec<Vec<ImagePath>>);

impl LinkSets {
    const MAGIC: [u8; 4] = *b"DLK1";
    /// The longest encoding accepted, in bytes.
    pub const MAX_LEN: usize = 256 * 1024 * 1024;
    /// The shortest name that is not the root's.
    const MIN_NAME: usize = 4 + 2;

    /// Brings sets of names into canonical order; sets of one name are no hard links and are dropped, and so is the
    /// root, which can have no second name. The sets must be disjoint, as the names of different inodes are; a name
    /// that comes twice stays in the first set only.
    pub fn new(sets: impl IntoIterator<Item = Vec<ImagePath>>) -> Self {
        let mut seen = HashSet::new();
        let tidy = |mut set: Vec<ImagePath>| {
            set.retain(|path| !path.is_root() && seen.insert(path.clone()));
            set.sort();
            (set.len() >= 2).then_some(set)
        };
        let mut sets: Vec<_> = sets.into_iter().filter_map(tidy).collect();
        sets.sort();
        Self(sets)
    }

    /// The sets, each sorted, in order of their first names.
    pub fn iter(&self) -> impl Iterator<Item = &[ImagePath]> {
        self.0.iter().map(Vec::as_slice)
    }

    /// Whether no inode has two names.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The name of these sets.
    pub fn id(&self) -> LinksId {
        LinksId(ObjectId::of(&self.encode()))
    }

    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::begin(Self::MAGIC);
        w.count(self.0.len());
        for set in &self.0 {
            w.count(set.len());
            set.iter().for_each(|path| w.bytes(path.as_bytes()));
        }
        w.finish()
    }

    /// Reads a canonical encoding.
    ///
    /// # Errors
    /// [`DecodeError`] when it is none: sets or names out of order, twice, or a set of less than two.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::open(bytes, Self::MAGIC, Self::MAX_LEN)?;
        let mut seen = HashSet::new();
        let mut sets: Vec<Vec<ImagePath>> = Vec::new();
        for _ in 0..r.count(4 + 2 * Self::MIN_NAME)? {
            let set = decode_set(&mut r, &mut seen)?;
            if sets.last().is_some_and(|last| last.first() >= set.first()) {
                return Err(DecodeError::Invalid("hard links out of order"));
            }
            sets.push(set);
        }
        r.end()?;
        Ok(Self(sets))
    }
}

/// One set; `seen` are the names of all sets so far, as they stand in the encoding.
fn decode_set<'a>(r: &mut Reader<'a>, seen: &mut HashSet<&'a [u8]>) -> Result<Vec<ImagePath>, DecodeError> {
    let mut set: Vec<ImagePath> = Vec::new();
    for _ in 0..r.count(LinkSets::MIN_NAME)? {
        let raw = r.bytes(ImagePath::MAX_LEN)?;
        let path = ImagePath::parse(raw).map_err(|_| DecodeError::Invalid("a path no tree could hold"))?;
        if path.is_root() || set.last().is_some_and(|last| *last >= path) || !seen.insert(raw) {
            return Err(DecodeError::Invalid("hard links out of order, twice, or to the root"));
        }
        set.push(path);
    }
    if set.len() < 2 { Err(DecodeError::Invalid("a hard link of one name")) } else { Ok(set) }
}
