use std::cmp::Ordering;
use std::fmt;

use bytes::Bytes;
use thiserror::Error;

use crate::codec::{DecodeError, Reader, Writer};
use crate::inode::Inode;
use crate::object::ObjectId;
use crate::path::{BadPath, ImagePath, Name, common_prefix};

/// The name of a directory's entries: the digest of their encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirectoryId(pub ObjectId);

impl fmt::Display for DirectoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The entries of one directory in view, in order of their names. Encoded as `docs/formats/tree.md` says, and kept so:
/// what is in memory is what is hashed, stored and sent, and an entry is decoded when somebody looks at it. A clone
/// shares the bytes.
#[derive(Clone)]
pub struct Directory {
    // INVARIANT: a canonical encoding, at most `MAX_LEN` bytes.
    encoded: Bytes,
    // INVARIANT: where each entry starts in it; one ends where the next starts.
    offsets: Box<[u32]>,
}

impl Directory {
    const MAGIC: [u8; 4] = *b"DDR1";
    /// The longest encoding accepted, in bytes: room for two million files.
    pub const MAX_LEN: usize = 256 * 1024 * 1024;
    /// Magic and count: what stands before the first entry.
    pub(super) const HEADER: usize = 8;
    /// The shortest entry: a name of one byte and the inode of an unknown.
    const MIN_ENTRY: usize = 5 + 16;

    /// The directory of these entries, which may come in any order; of several of one name, the last stays. Entries
    /// in order of their names are taken as they come and neither sorted nor copied again.
    ///
    /// # Errors
    /// [`BadEntry`] when one can't be in a directory, or not with all the others.
    pub fn new(entries: impl IntoIterator<Item = (Name, Inode)>) -> Result<Self, BadEntry> {
        let mut writer = DirectoryWriter::new();
        for (name, inode) in entries {
            writer.push(&name, &inode)?;
        }
        Ok(writer.finish())
    }

    /// Takes a canonical encoding, which is kept as it is: a slice of a larger buffer keeps all of that.
    ///
    /// # Errors
    /// [`DecodeError`] when it is none: names out of order, twice or hostile, values out of bounds, bytes left over.
    pub fn decode(encoded: impl Into<Bytes>) -> Result<Self, DecodeError> {
        let encoded = encoded.into();
        let mut r = Reader::open(&encoded, Self::MAGIC, Self::MAX_LEN)?;
        let count = r.count(Self::MIN_ENTRY)?;
        let mut offsets = Vec::with_capacity(count);
        let mut last: Option<&[u8]> = None;
        for _ in 0..count {
            offsets.push(offset(r.position()));
            let name = r.bytes(Name::MAX_LEN)?;
            if !Name::is_valid(name) {
                return Err(DecodeError::Invalid("a name no directory could hold"));
            }
            if last.is_some_and(|last| last >= name) {
                return Err(DecodeError::Invalid("names out of order"));
            }
            last = Some(name);
            Inode::decode(&mut r)?;
        }
        r.end()?;
        Ok(Self { offsets: offsets.into(), encoded })
    }

    /// The canonical encoding.
    pub fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// The name of these entries. Hashes them: keep it.
    pub fn id(&self) -> DirectoryId {
        DirectoryId(ObjectId::of(&self.encoded))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// The entries, in order of their names.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Entry<'_>> + ExactSizeIterator {
        (0..self.len()).map(|index| self.nth(index).expect("invariant: the index is below the length"))
    }

    /// The entry before which `index` others stand: for those who walk and can't hold an iterator.
    pub fn nth(&self, index: usize) -> Option<Entry<'_>> {
        let start = *self.offsets.get(index)? as usize;
        let end = self.offsets.get(index + 1).map_or(self.encoded.len(), |next| *next as usize);
        self.encoded.get(start..end).map(Entry::new)
    }

    /// Where `self` and `other` are not the same, in order of the names. What is equal is passed over as fast as
    /// memory can be compared.
    pub fn differences<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = Difference<'a>> {
        let mut cursor = Cursor::default();
        std::iter::from_fn(move || cursor.next(self, other))
    }

    /// The entry of that name.
    pub fn entry(&self, name: &[u8]) -> Option<Entry<'_>> {
        let name_at = |start: &u32| self.encoded.get(*start as usize..).map_or(&[][..], |raw| split(raw).0);
        self.nth(self.offsets.binary_search_by(|start| name_at(start).cmp(name)).ok()?)
    }
}

/// A name at which two directories are not the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference<'a> {
    /// Only the one that was asked has it.
    Here(Entry<'a>),
    /// Only the other has it.
    There(Entry<'a>),
    /// Both have it, with different inodes.
    Both {
        /// In the one that was asked.
        here: Entry<'a>,
        /// In the other.
        there: Entry<'a>,
    },
}

/// How far a comparison of two directories has come, for those who go down between two steps.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor {
    here: usize,
    there: usize,
}

impl Cursor {
    /// The next difference, in order of the names. Both directories are those of every call before.
    pub(crate) fn next<'a>(&mut self, here: &'a Directory, there: &'a Directory) -> Option<Difference<'a>> {
        let equal = equal_entries(here, self.here, there, self.there);
        (self.here, self.there) = (self.here + equal, self.there + equal);
        let (ours, theirs) = (here.nth(self.here), there.nth(self.there));
        let order = match (&ours, &theirs) {
            (Some(ours), Some(theirs)) => ours.name().cmp(theirs.name()),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        self.here += usize::from(order.is_le());
        self.there += usize::from(order.is_ge());
        match order {
            Ordering::Less => ours.map(Difference::Here),
            Ordering::Greater => theirs.map(Difference::There),
            Ordering::Equal => Some(Difference::Both { here: ours?, there: theirs? }),
        }
    }
}

/// How many entries follow that are the same, without looking at each.
fn equal_entries(here: &Directory, from: usize, there: &Directory, other: usize) -> usize {
    let starts = here.offsets.get(from..).unwrap_or_default();
    let (Some(start), Some(other)) = (starts.first(), there.offsets.get(other)) else { return 0 };
    let rest = here.encoded.get(*start as usize..).unwrap_or_default();
    let common = common_prefix(rest, there.encoded.get(*other as usize..).unwrap_or_default());
    if common == rest.len() {
        return starts.len();
    }
    let end = *start as usize + common;
    // An entry that ends within what is the same is the same; it ends where the next one starts.
    starts.get(1..).unwrap_or_default().partition_point(|next| *next as usize <= end)
}

impl Default for Directory {
    fn default() -> Self {
        Self { encoded: Bytes::from_static(b"DDR1\0\0\0\0"), offsets: Box::default() }
    }
}

impl PartialEq for Directory {
    fn eq(&self, other: &Self) -> bool {
        self.encoded == other.encoded
    }
}

impl Eq for Directory {}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|entry| (entry.to_name(), entry.inode()))).finish()
    }
}

/// One entry of a directory, as it is encoded: equal entries are equal bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    raw: &'a [u8],
}

impl<'a> Entry<'a> {
    fn new(raw: &'a [u8]) -> Self {
        Self { raw }
    }

    /// The bytes of its name.
    pub fn name(&self) -> &'a [u8] {
        split(self.raw).0
    }

    /// A copy of its name.
    pub fn to_name(&self) -> Name {
        Name::parse(self.name()).expect("invariant: names were checked on the way in")
    }

    /// Its path in `directory`.
    ///
    /// # Errors
    /// [`BadPath`] when that would be longer or deeper than a path may be.
    pub fn path_in(&self, directory: &ImagePath) -> Result<ImagePath, BadPath> {
        directory.join_valid(self.name())
    }

    /// Its inode, decoded.
    pub fn inode(&self) -> Inode {
        Inode::decode(&mut Reader::within(split(self.raw).1))
            .expect("invariant: inodes were checked on the way in")
    }

    /// The entries of this one, if it is a directory, without decoding it.
    pub fn directory(&self) -> Option<DirectoryId> {
        Inode::peek_directory(split(self.raw).1)
    }

    /// The contents of this one and their length in bytes, if it is a regular file, without decoding it.
    pub fn object(&self) -> Option<(ObjectId, u64)> {
        Inode::peek_object(split(self.raw).1)
    }

    /// Whether nothing is known of it, without decoding it.
    pub fn is_unknown(&self) -> bool {
        Inode::peek_unknown(split(self.raw).1)
    }

    /// All of it: name and inode, encoded.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }
}

impl fmt::Debug for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Entry").field(&self.to_name()).field(&self.inode()).finish()
    }
}

/// Writes a directory entry by entry. Entries that come in order of their names cost no more than their encoding.
#[derive(Debug)]
pub struct DirectoryWriter {
    encoded: Writer,
    offsets: Vec<u32>,
    order: Order,
    /// In bytes.
    limit: usize,
}

/// Whether each name so far was greater than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Ascending,
    Any,
}

impl Default for DirectoryWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl DirectoryWriter {
    /// No entries yet.
    pub fn new() -> Self {
        Self::bounded(Directory::MAX_LEN)
    }

    fn bounded(limit: usize) -> Self {
        let mut encoded = Writer::begin(Directory::MAGIC);
        encoded.count(0);
        Self { encoded, offsets: Vec::new(), order: Order::Ascending, limit }
    }

    /// Adds an entry; one of the same name that came before is replaced.
    ///
    /// # Errors
    /// [`BadEntry`] when it can't be in a directory, or not with what is there already. Nothing was added then.
    pub fn push(&mut self, name: &Name, inode: &Inode) -> Result<(), BadEntry> {
        inode.check().map_err(|why| BadEntry::Inode { name: name.clone(), why })?;
        self.make_room(name.as_bytes(), entry_len(name, inode))?;
        self.encoded.bytes(name.as_bytes());
        inode.encode(&mut self.encoded);
        Ok(())
    }

    /// Adds an entry of another directory as it is, without decoding it.
    ///
    /// # Errors
    /// [`BadEntry::Full`]. Nothing was added then.
    pub fn copy(&mut self, entry: Entry<'_>) -> Result<(), BadEntry> {
        self.make_room(entry.name(), entry.raw.len())?;
        self.encoded.raw(entry.raw);
        Ok(())
    }

    /// The directory of all these entries.
    pub fn finish(mut self) -> Directory {
        match self.order {
            Order::Ascending => {
                self.encoded.set_count(Directory::MAGIC.len(), self.offsets.len());
                // Without slack: directories live long.
                let encoded = self.encoded.finish().into_boxed_slice();
                Directory { encoded: encoded.into(), offsets: self.offsets.into() }
            }
            Order::Any => {
                sorted(&Directory { encoded: self.encoded.finish().into(), offsets: self.offsets.into() })
            }
        }
    }

    /// Notes an entry of `len` bytes that is about to be written.
    fn make_room(&mut self, name: &[u8], len: usize) -> Result<(), BadEntry> {
        let start = self.encoded.len();
        if len > self.limit.saturating_sub(start) {
            return Err(BadEntry::Full);
        }
        let written = self.encoded.written();
        let last = self.offsets.last().and_then(|last| written.get(*last as usize..)).map(|raw| split(raw).0);
        if last.is_some_and(|last| last >= name) {
            self.order = Order::Any;
        }
        self.offsets.push(offset(start));
        Ok(())
    }
}

/// The same entries in order, the last of each name.
fn sorted(any: &Directory) -> Directory {
    let mut entries: Vec<_> = any.iter().collect();
    // Stable: of one name, the last one stays last.
    entries.sort_by(|a, b| a.name().cmp(b.name()));
    let mut writer = DirectoryWriter::new();
    let mut entries = entries.into_iter().peekable();
    while let Some(entry) = entries.next() {
        if entries.peek().is_none_or(|next| next.name() != entry.name()) {
            writer.copy(entry).expect("invariant: a directory of no more entries has room for them");
        }
    }
    writer.finish()
}

/// How long an entry is, encoded.
pub(super) fn entry_len(name: &Name, inode: &Inode) -> usize {
    4 + name.as_bytes().len() + inode.encoded_len()
}

/// Splits what begins with an entry behind its name.
fn split(raw: &[u8]) -> (&[u8], &[u8]) {
    let (len, rest) =
        raw.split_first_chunk().expect("invariant: an entry begins with the length of its name");
    rest.split_at(u32::from_be_bytes(*len) as usize)
}

fn offset(position: usize) -> u32 {
    u32::try_from(position).expect("invariant: no directory is longer than MAX_LEN")
}

/// What can't be an entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BadEntry {
    /// An inode that no machine could have: whoever made it is at fault.
    #[error("{name} can't be in a directory: it would be {why}")]
    Inode {
        /// Its name.
        name: Name,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The directory would be longer than [`Directory::MAX_LEN`] with this entry.
    #[error(
        "a directory may have {} bytes, encoded; this one has more: spread its files over several",
        Directory::MAX_LEN
    )]
    Full,
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::inode::{Kind, Mode, Timestamp, Why, Xattrs};

    fn file(size: u64) -> Inode {
        // Two that differ do so in the last byte of their encoding only: the entry that is nearly passed over.
        let mut object = [0; ObjectId::LEN];
        object.iter_mut().last().into_iter().for_each(|last| *last = u8::try_from(size).unwrap());
        let object = ObjectId::from_bytes(object);
        let kind = Kind::Regular { mtime: Timestamp::default(), size: 0, object };
        Inode { mode: Mode::from_st_mode(0o644), uid: 0, gid: 0, xattrs: Xattrs::default(), kind }
    }

    /// A directory of some of many names, of which a few have other inodes than usual.
    fn directories() -> impl Strategy<Value = BTreeMap<String, u64>> {
        let names = prop::collection::btree_set("[ab]{1,6}", 0..60);
        (names, prop::collection::vec(0..20u64, 60)).prop_map(|(names, sizes)| {
            names.into_iter().zip(sizes.into_iter().map(|size| size / 18)).collect()
        })
    }

    fn of(files: &BTreeMap<String, u64>) -> Directory {
        let entry = |(text, size): (&String, &u64)| (Name::parse(text.as_bytes()).unwrap(), file(*size));
        Directory::new(files.iter().map(entry)).unwrap()
    }

    proptest! {
        #[test]
        fn differences_are_all_there_is_to_see(here in directories(), there in directories()) {
            let names: BTreeSet<_> = here.keys().chain(there.keys()).collect();
            let differ: Vec<_> = names.into_iter().filter(|name| here.get(*name) != there.get(*name)).collect();
            let (ours, theirs) = (of(&here), of(&there));
            let mut found = Vec::new();
            for difference in ours.differences(&theirs) {
                let (entry, there, here) = match difference {
                    Difference::Here(entry) => (entry, None, ours.entry(entry.name())),
                    Difference::There(entry) => (entry, theirs.entry(entry.name()), None),
                    Difference::Both { here, there } => (here, Some(there), Some(here)),
                };
                prop_assert_eq!((ours.entry(entry.name()), theirs.entry(entry.name())), (here, there));
                found.push(String::from_utf8(entry.name().to_vec()).unwrap());
            }
            prop_assert_eq!(found.iter().collect::<Vec<_>>(), differ);
        }
    }

    fn entry(text: &str, why: Why) -> (Name, Inode) {
        (Name::parse(text.as_bytes()).unwrap(), Inode::unknown(why))
    }

    #[test]
    fn entries_in_any_order_are_the_same_directory_and_the_last_of_a_name_stays() {
        let (old, new) = (Why::Unreadable, Why::Changing);
        let tidy = Directory::new([entry("a", new), entry("b", old), entry("bb", new)]).unwrap();
        let wild = [entry("bb", old), entry("b", old), entry("a", old), entry("bb", new), entry("a", new)];
        let wild = Directory::new(wild).unwrap();
        assert_eq!(wild.encoded(), tidy.encoded());
        assert_eq!(Directory::decode(wild.encoded().clone()).unwrap(), tidy);
        let twice = Directory::new([entry("a", old), entry("a", new)]).unwrap();
        assert_eq!(twice, Directory::new([entry("a", new)]).unwrap());
    }

    #[test]
    fn what_is_full_takes_no_more_and_stays_as_it_was() {
        let name = |text: &str| Name::parse(text.as_bytes()).unwrap();
        let two = Directory::new([(name("a"), file(0)), (name("e"), file(0))]).unwrap();
        let mut writer = DirectoryWriter::bounded(two.encoded().len());
        writer.push(&name("a"), &file(0)).unwrap();
        assert_eq!(writer.push(&name("bc"), &file(0)), Err(BadEntry::Full));
        writer.push(&name("e"), &file(0)).unwrap();
        assert_eq!(writer.copy(two.entry(b"a").unwrap()), Err(BadEntry::Full));
        assert_eq!(writer.finish(), two);
    }

    #[test]
    fn entries_are_found_by_name_and_by_place() {
        let names = ["a", "aa", "b", "ba", "c"];
        let directory = Directory::new(names.map(|text| entry(text, Why::Changing))).unwrap();
        for (index, text) in names.iter().enumerate() {
            assert_eq!(directory.entry(text.as_bytes()), directory.nth(index));
            assert_eq!(directory.nth(index).unwrap().name(), text.as_bytes());
            assert_eq!(directory.nth(index).unwrap().inode(), Inode::unknown(Why::Changing));
        }
        for absent in ["", "A", "ab", "d"] {
            assert_eq!(directory.entry(absent.as_bytes()), None);
        }
        assert_eq!(directory.nth(5), None);
        assert_eq!(directory.iter().rev().map(|entry| entry.name()).collect::<Vec<_>>().len(), 5);
    }
}
