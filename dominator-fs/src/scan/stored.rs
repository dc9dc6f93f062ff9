//! A cache in a file, as `docs/formats/scan-cache.md` says: written and read piece by piece, never as a whole.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::sync::Arc;

use dominator_core::inode::{Inode, Timestamp, Why};
use dominator_core::object::{ObjectHasher, ObjectId};
use dominator_core::path::{ImagePath, Name};
use dominator_core::tree::{Directory, Entry};
use dominator_core::view::ViewId;

use super::Fact;
use super::cache::CacheError;
use super::identity::{FileKey, Freshness, Identity, Links};
use super::known::{Extent, Holding, Known, Summary};
use crate::seam::Seam;

const MAGIC: [u8; 4] = *b"DSC1";
/// The longest description of what went wrong that is kept, in bytes.
const MAX_DETAIL: usize = 4096;
const IDENTITY_LEN: u64 = 55;
/// A path of one byte, why, and no detail.
const MIN_FACT: u64 = 4 + 1 + 1 + 4;

/// What is stored.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) root: FileKey,
    pub(super) view: Option<ViewId>,
    pub(super) top: Option<Arc<Known>>,
}

/// Writes a cache to a new file.
pub(super) fn write(seam: &dyn Seam, file: &File, stored: &Stored) -> io::Result<()> {
    let mut out = Output { seam, file, buffer: Vec::new(), hasher: ObjectHasher::new() };
    out.raw(&MAGIC)?;
    out.raw(&stored.root.0.to_be_bytes())?;
    out.raw(&stored.root.1.to_be_bytes())?;
    out.raw(&[u8::from(stored.view.is_some())])?;
    if let Some(view) = stored.view {
        out.raw(view.0.as_bytes())?;
    }
    out.raw(&[u8::from(stored.top.is_some())])?;
    if let Some(top) = &stored.top {
        out.bytes(own(&top.inode)?.encoded())?;
        let mut rest = vec![top];
        while let Some(known) = rest.pop() {
            out.known(known)?;
            rest.extend(known.below.iter().rev());
        }
    }
    out.finish()
}

/// Reads a cache.
pub(super) fn read(file: File) -> Result<Stored, CacheError> {
    let left = file.metadata()?.len();
    let mut input = Input { from: BufReader::with_capacity(BUFFER, file), left, hasher: ObjectHasher::new() };
    if input.array()? != MAGIC {
        return Err(CacheError::Damaged("another kind of file, or of another version"));
    }
    let root = (u32::from_be_bytes(input.array()?), u64::from_be_bytes(input.array()?));
    let view = if input.flag()? { Some(ViewId(ObjectId::from_bytes(input.array()?))) } else { None };
    let top = if input.flag()? { Some(input.tree()?) } else { None };
    input.finish()?;
    Ok(Stored { root, view, top })
}

/// The root's own inode has no directory it is in; it is stored as the only entry of one.
fn own(inode: &Inode) -> io::Result<Directory> {
    let name = Name::parse(b"root").map_err(io::Error::other)?;
    Directory::new([(name, inode.clone())]).map_err(io::Error::other)
}

/// How much is written or read at a time.
const BUFFER: usize = 256 * 1024;

struct Output<'a> {
    seam: &'a dyn Seam,
    file: &'a File,
    buffer: Vec<u8>,
    hasher: ObjectHasher,
}

impl Output<'_> {
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hasher.update(&self.buffer);
        self.seam.write(self.file, &self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    fn count(&mut self, count: usize) -> io::Result<()> {
        self.raw(&u32::try_from(count).map_err(io::Error::other)?.to_be_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.count(bytes.len())?;
        self.raw(bytes)
    }

    fn known(&mut self, known: &Known) -> io::Result<()> {
        self.identity(&known.identity)?;
        self.raw(&known.looked.seconds().to_be_bytes())?;
        self.raw(&known.looked.nanos().to_be_bytes())?;
        let partial = u8::from(known.extent == Extent::Partial);
        let holding = u8::from(known.holding == Holding::Something);
        self.raw(&[partial | holding << 1])?;
        self.bytes(known.directory.encoded())?;
        known.identities.iter().try_for_each(|identity| self.identity(identity))?;
        self.count(known.facts.len())?;
        for fact in &known.facts {
            self.bytes(fact.path.as_bytes())?;
            self.raw(&[match fact.why {
                Why::Changing => 1,
                Why::Unreadable | _ => 0,
            }])?;
            let detail = fact.detail.as_bytes();
            self.bytes(detail.get(..detail.len().min(MAX_DETAIL)).unwrap_or_default())?;
        }
        Ok(())
    }

    fn identity(&mut self, of: &Identity) -> io::Result<()> {
        self.raw(&of.dev.to_be_bytes())?;
        self.raw(&of.ino.to_be_bytes())?;
        self.raw(&of.size.to_be_bytes())?;
        self.raw(&of.mtime.to_be_bytes())?;
        self.raw(&of.mtime_nanos.to_be_bytes())?;
        self.raw(&of.ctime.to_be_bytes())?;
        self.raw(&of.ctime_nanos.to_be_bytes())?;
        self.raw(&of.mode.to_be_bytes())?;
        self.raw(&of.uid.to_be_bytes())?;
        self.raw(&of.gid.to_be_bytes())?;
        let several = u8::from(of.links == Links::Several);
        let settled = u8::from(of.freshness == Freshness::Settled);
        self.raw(&[several | settled << 1])
    }

    fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        let digest = self.hasher.finish();
        self.seam.write(self.file, digest.as_bytes())
    }
}

struct Input {
    from: BufReader<File>,
    /// How much of the file there still is, in bytes: nothing in it can be longer.
    left: u64,
    hasher: ObjectHasher,
}

/// A directory some of whose directories are still to be read.
struct Unfinished {
    known: Known,
    /// The inodes of those directories, the next one last.
    inodes: Vec<Inode>,
    below: Vec<Arc<Known>>,
}

impl Input {
    fn exactly(&mut self, into: &mut [u8]) -> Result<(), CacheError> {
        self.left = self.left.checked_sub(into.len() as u64).ok_or(CacheError::Damaged("it is cut short"))?;
        self.from.read_exact(into)?;
        self.hasher.update(into);
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CacheError> {
        let mut array = [0; N];
        self.exactly(&mut array)?;
        Ok(array)
    }

    /// One of the first `count` numbers.
    fn small(&mut self, count: u8) -> Result<u8, CacheError> {
        let [value] = self.array()?;
        if value < count { Ok(value) } else { Err(CacheError::Damaged("a value that is none")) }
    }

    fn flag(&mut self) -> Result<bool, CacheError> {
        Ok(self.small(2)? == 1)
    }

    /// A count of items of at least `size` bytes each, which must be there before anybody makes room for them.
    fn count(&mut self, size: u64) -> Result<usize, CacheError> {
        let count = u32::from_be_bytes(self.array()?);
        if u64::from(count) > self.left / size {
            return Err(CacheError::Damaged("it is cut short"));
        }
        usize::try_from(count).map_err(|_| CacheError::Damaged("a count that is none"))
    }

    fn bytes(&mut self, limit: usize) -> Result<Vec<u8>, CacheError> {
        let len = self.count(1)?;
        if len > limit {
            return Err(CacheError::Damaged("something too long"));
        }
        let mut bytes = vec![0; len];
        self.exactly(&mut bytes)?;
        Ok(bytes)
    }

    fn time(&mut self) -> Result<Timestamp, CacheError> {
        let (seconds, nanos) = (i64::from_be_bytes(self.array()?), u32::from_be_bytes(self.array()?));
        Timestamp::new(seconds, nanos).ok_or(CacheError::Damaged("a time that is none"))
    }

    fn directory(&mut self) -> Result<Directory, CacheError> {
        let encoded = self.bytes(Directory::MAX_LEN)?;
        Directory::decode(encoded).map_err(|_| CacheError::Damaged("a directory that is none"))
    }

    fn tree(&mut self) -> Result<Arc<Known>, CacheError> {
        let own = self.directory()?;
        let inode = own.entry(b"root").filter(|_| own.len() == 1).map(|entry| entry.inode());
        let inode = inode.ok_or(CacheError::Damaged("a root that is none"))?;
        let mut unfinished = vec![self.known(inode)?];
        while let Some(last) = unfinished.last_mut() {
            if let Some(inode) = last.inodes.pop() {
                if unfinished.len() > ImagePath::MAX_DEPTH {
                    return Err(CacheError::Damaged("directories too deep in each other"));
                }
                unfinished.push(self.known(inode)?);
                continue;
            }
            let Some(Unfinished { mut known, below, .. }) = unfinished.pop() else { break };
            known.below = below.into();
            let known = Arc::new(known.summarise());
            match unfinished.last_mut() {
                Some(parent) => parent.below.push(known),
                None => return Ok(known),
            }
        }
        Err(CacheError::Damaged("a root that is none"))
    }

    /// A directory, `inode` being its own.
    fn known(&mut self, inode: Inode) -> Result<Unfinished, CacheError> {
        let identity = self.identity()?;
        let looked = self.time()?;
        let flags = self.small(4)?;
        let extent = if flags & 1 == 0 { Extent::Whole } else { Extent::Partial };
        let holding = if flags & 2 == 0 { Holding::Nothing } else { Holding::Something };
        let directory = self.directory()?;
        let id = inode.directory().ok_or(CacheError::Damaged("a directory that is none"))?;
        if extent == Extent::Whole && id != directory.id() {
            return Err(CacheError::Damaged("a directory under the name of another"));
        }
        let inodes: Vec<_> = directory.iter().rev().filter_map(directory_in).collect();
        let files = directory.len().saturating_sub(inodes.len());
        if files as u64 > self.left / IDENTITY_LEN {
            return Err(CacheError::Damaged("it is cut short"));
        }
        let identities = (0..files).map(|_| self.identity()).collect::<Result<_, _>>()?;
        let facts = (0..self.count(MIN_FACT)?).map(|_| self.fact()).collect::<Result<_, _>>()?;
        let known = Known {
            identity,
            inode,
            directory: Arc::new(directory),
            identities,
            below: Box::default(),
            facts,
            looked,
            extent,
            holding,
            summary: Summary::default(),
        };
        Ok(Unfinished { known, inodes, below: Vec::new() })
    }

    fn identity(&mut self) -> Result<Identity, CacheError> {
        let dev = u32::from_be_bytes(self.array()?);
        let (ino, size) = (u64::from_be_bytes(self.array()?), u64::from_be_bytes(self.array()?));
        let (mtime, ctime) = (self.time()?, self.time()?);
        let mode = u16::from_be_bytes(self.array()?);
        let (uid, gid) = (u32::from_be_bytes(self.array()?), u32::from_be_bytes(self.array()?));
        let flags = self.small(4)?;
        let links = if flags & 1 == 0 { Links::One } else { Links::Several };
        let freshness = if flags & 2 == 0 { Freshness::Fresh } else { Freshness::Settled };
        Ok(Identity {
            ino,
            size,
            mtime: mtime.seconds(),
            ctime: ctime.seconds(),
            mtime_nanos: mtime.nanos(),
            ctime_nanos: ctime.nanos(),
            dev,
            uid,
            gid,
            mode,
            links,
            freshness,
        })
    }

    fn fact(&mut self) -> Result<Fact, CacheError> {
        let path = ImagePath::parse(&self.bytes(ImagePath::MAX_LEN)?);
        let path = path.map_err(|_| CacheError::Damaged("a path that is none"))?;
        let why = if self.flag()? { Why::Changing } else { Why::Unreadable };
        let detail = String::from_utf8_lossy(&self.bytes(MAX_DETAIL)?).into_owned();
        Ok(Fact { path, why, detail })
    }

    /// What was read is what was written, all of it and nothing else.
    fn finish(mut self) -> Result<(), CacheError> {
        let digest = std::mem::take(&mut self.hasher).finish();
        if self.array()? == *digest.as_bytes() && self.left == 0 {
            Ok(())
        } else {
            Err(CacheError::Damaged("its digest"))
        }
    }
}

fn directory_in(entry: Entry<'_>) -> Option<Inode> {
    entry.directory().map(|_| entry.inode())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dominator_core::inode::{Kind, Mode, Xattrs};
    use dominator_core::tree::DirectoryId;
    use std::io::Write;

    const GOLDEN: &[u8] = include_bytes!("../../tests/golden/scan-cache.bin");

    fn inode(kind: Kind) -> Inode {
        Inode { mode: Mode::from_st_mode(0o644), uid: 1, gid: 2, xattrs: Xattrs::default(), kind }
    }

    fn identity(mode: u16, links: Links, freshness: Freshness) -> Identity {
        let (mtime, ctime, dev) = (1_000_000_000, 1_000_000_036, 8 << 20 | 1);
        let (ino, size, mtime_nanos, ctime_nanos, uid, gid) = (12, 6, 999_999_999, 1, 1, 2);
        Identity { ino, size, mtime, ctime, mtime_nanos, ctime_nanos, dev, uid, gid, mode, links, freshness }
    }

    fn known(entries: Vec<(&str, Inode)>, extent: Extent) -> Known {
        let entries = entries.into_iter().map(|(name, inode)| (Name::parse(name.as_bytes()).unwrap(), inode));
        let directory = Directory::new(entries).unwrap();
        let id = if extent == Extent::Whole { directory.id() } else { Directory::default().id() };
        Known {
            identity: identity(0o040_755, Links::Several, Freshness::Settled),
            inode: inode(Kind::Directory { id }),
            directory: Arc::new(directory),
            identities: Box::default(),
            below: Box::default(),
            facts: Box::default(),
            looked: Timestamp::new(1_000_000_040, 7).unwrap(),
            extent,
            holding: Holding::Nothing,
            summary: Summary::default(),
        }
    }

    /// One of each kind.
    fn sample() -> Stored {
        let (mtime, size) = (Timestamp::new(1_000_000_000, 999_999_999).unwrap(), 6);
        let file = inode(Kind::Regular { mtime, size, object: ObjectId::of(b"hello\n") });
        let mut below = known(vec![("file", file.clone())], Extent::Partial);
        below.identities = Box::new([identity(0o100_644, Links::Several, Freshness::Settled)]);
        below.holding = Holding::Something;
        let entries =
            vec![("dir", below.inode.clone()), ("file", file), ("unknown", Inode::unknown(Why::Changing))];
        let mut top = known(entries, Extent::Whole);
        top.identities = Box::new([identity(0o100_644, Links::One, Freshness::Fresh), Identity::default()]);
        top.below = Box::new([Arc::new(below.summarise())]);
        let path = ImagePath::parse(b"/unknown").unwrap();
        top.facts = Box::new([Fact { path, why: Why::Changing, detail: "would not hold still".into() }]);
        let view = Some(ViewId(ObjectId::of(b"a view")));
        Stored { root: (8 << 20 | 1, 2), view, top: Some(Arc::new(top.summarise())) }
    }

    fn written(stored: &Stored) -> Vec<u8> {
        let file = tempfile::NamedTempFile::new().unwrap();
        write(&crate::seam::Kernel, file.as_file(), stored).unwrap();
        std::fs::read(file.path()).unwrap()
    }

    fn reading(bytes: &[u8]) -> Result<Stored, CacheError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        read(file.reopen().unwrap())
    }

    #[test]
    fn the_golden_cache_is_what_is_written_and_read() {
        assert_eq!(written(&sample()), GOLDEN);
        let stored = reading(GOLDEN).unwrap();
        assert_eq!(written(&stored), GOLDEN);
        let top = stored.top.unwrap();
        assert_eq!((top.summary.counts.files, top.summary.links, top.summary.facts), (2, 1, 1));
    }

    #[test]
    fn a_directory_under_the_name_of_another_is_refused() {
        let mut stored = sample();
        let mut top = known(Vec::new(), Extent::Whole);
        top.inode.kind = Kind::Directory { id: DirectoryId(ObjectId::of(b"another")) };
        stored.top = Some(Arc::new(top));
        assert!(matches!(reading(&written(&stored)), Err(CacheError::Damaged(_))));
    }

    /// Under a digest that is right.
    fn under_a_digest(bytes: &[u8]) -> Vec<u8> {
        [bytes, ObjectId::of(bytes).as_bytes()].concat()
    }

    #[test]
    fn what_is_read_is_what_would_be_written_or_is_refused() {
        let sound = &GOLDEN[..GOLDEN.len() - ObjectId::LEN];
        let mut refused = 0;
        for place in 0..sound.len() {
            // The topmost bit makes a detail other than UTF-8, which is read as far as it goes.
            for bit in 0..7 {
                let mut bytes = sound.to_vec();
                bytes[place] ^= 1 << bit;
                let bytes = under_a_digest(&bytes);
                match reading(&bytes) {
                    Ok(stored) => assert_eq!(written(&stored), bytes, "bit {bit} of {place}"),
                    Err(CacheError::Damaged(_)) => refused += 1,
                    Err(error) => panic!("bit {bit} of {place}: {error}"),
                }
            }
            let cut = reading(&under_a_digest(&sound[..place]));
            assert!(matches!(cut, Err(CacheError::Damaged(_))), "cut at {place}: {cut:?}");
        }
        assert!(refused > 0);
        let longer = under_a_digest(&[sound, b"x"].concat());
        assert!(matches!(reading(&longer), Err(CacheError::Damaged(_))), "more at its end");
    }

    #[test]
    fn what_is_longer_or_deeper_than_it_may_be_is_refused() {
        let chain = |depth: usize| {
            let mut last = known(Vec::new(), Extent::Whole).summarise();
            for _ in 0..depth {
                let mut above = known(vec![("d", last.inode.clone())], Extent::Whole);
                above.below = Box::new([Arc::new(last)]);
                last = above.summarise();
            }
            Stored { top: Some(Arc::new(last)), ..sample() }
        };
        assert!(reading(&written(&chain(ImagePath::MAX_DEPTH))).is_ok());
        let deeper = reading(&written(&chain(ImagePath::MAX_DEPTH + 1)));
        assert!(matches!(deeper, Err(CacheError::Damaged(_))), "{deeper:?}");

        let detail = b"would not hold still";
        let place = GOLDEN.windows(detail.len()).position(|window| window == detail).unwrap();
        let long = |len: usize| {
            let sound = &GOLDEN[..GOLDEN.len() - ObjectId::LEN];
            let (count, rest) = (u32::try_from(len).unwrap().to_be_bytes(), &sound[place + detail.len()..]);
            under_a_digest(&[&sound[..place - 4], &count, &vec![b'x'; len], rest].concat())
        };
        assert!(reading(&long(MAX_DETAIL)).is_ok());
        assert!(matches!(reading(&long(MAX_DETAIL + 1)), Err(CacheError::Damaged(_))));
    }
}
