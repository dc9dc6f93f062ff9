use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;

use crate::codec::{DecodeError, Reader, Writer};
use crate::object::ObjectId;
use crate::path::ImagePath;

/// The digest of a tree's hard links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinksId(pub ObjectId);

/// The hard links of a tree: the disjoint sets of two or more names in view that share one inode.
#[derive(Clone, Default)]
pub struct LinkSets {
    /// Each sorted, in order of their first names.
    sets: Vec<Vec<ImagePath>>,
    /// Where each name is, set and place within it, in order of the names.
    names: Vec<(usize, usize)>,
}

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
        Self::indexed(sets)
    }

    /// The sets, each sorted, in order of their first names.
    pub fn iter(&self) -> impl Iterator<Item = &[ImagePath]> {
        self.sets.iter().map(Vec::as_slice)
    }

    /// All names of the inode that has this one, if it has others.
    pub fn set_of(&self, name: &ImagePath) -> Option<&[ImagePath]> {
        let (set, _) =
            self.names.get(self.names.binary_search_by(|at| self.name(at).cmp(&Some(name))).ok()?)?;
        self.sets.get(*set).map(Vec::as_slice)
    }

    /// The sets with a name that is `path` or below it, one for each such name.
    pub(crate) fn within(&self, path: &ImagePath) -> impl Iterator<Item = &[ImagePath]> {
        let first = self.names.partition_point(|at| self.name(at) < Some(path));
        let names = self.names.get(first..).unwrap_or_default().iter();
        names
            .take_while(move |at| self.name(at).is_some_and(|name| name.is_within(path)))
            .filter_map(|(set, _)| self.sets.get(*set).map(Vec::as_slice))
    }

    /// The sets that only `self`, and those that only `other` has.
    pub(crate) fn differences<'a>(&'a self, other: &'a Self) -> [Vec<&'a [ImagePath]>; 2] {
        let [mut here, mut there] = [Vec::new(), Vec::new()];
        let (mut ours, mut theirs) = (self.iter().peekable(), other.iter().peekable());
        loop {
            let order = match (ours.peek(), theirs.peek()) {
                (None, None) => return [here, there],
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => a.cmp(b),
            };
            match order {
                Ordering::Less => here.extend(ours.next()),
                Ordering::Greater => there.extend(theirs.next()),
                Ordering::Equal => drop((ours.next(), theirs.next())),
            }
        }
    }

    /// Whether no inode has two names.
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// The name of these sets.
    pub fn id(&self) -> LinksId {
        LinksId(ObjectId::of(&self.encode()))
    }

    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::begin(Self::MAGIC);
        w.count(self.sets.len());
        for set in &self.sets {
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
        Ok(Self::indexed(sets))
    }

    fn indexed(sets: Vec<Vec<ImagePath>>) -> Self {
        let places = |(at, set): (usize, &Vec<ImagePath>)| (0..set.len()).map(move |place| (at, place));
        let names = sets.iter().enumerate().flat_map(places).collect();
        let mut links = Self { sets, names };
        let mut names = std::mem::take(&mut links.names);
        names.sort_by(|a, b| links.name(a).cmp(&links.name(b)));
        links.names = names;
        links
    }

    fn name(&self, (set, place): &(usize, usize)) -> Option<&ImagePath> {
        self.sets.get(*set)?.get(*place)
    }
}

impl PartialEq for LinkSets {
    fn eq(&self, other: &Self) -> bool {
        self.sets == other.sets
    }
}

impl Eq for LinkSets {}

impl fmt::Debug for LinkSets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(&self.sets).finish()
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
