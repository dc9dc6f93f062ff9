//! Views: what of a machine is looked at, and how. Two trees can be compared when they were taken under one view.

use std::collections::BTreeSet;
use std::fmt;

use crate::codec::{DecodeError, Reader, Writer};
use crate::filter::{Filter, Lines};
use crate::inode::{Inode, Kind, Timestamp, Xattrs};
use crate::object::ObjectId;
use crate::path::ImagePath;
use crate::tree::{Builder, Snapshot};

/// The digest of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ViewId(pub ObjectId);

impl fmt::Display for ViewId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The families of extended attributes the model carries. Others (`trusted.*`, `system.*` but ACLs) are never looked
/// at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum XattrClass {
    /// `security.capability`.
    Capability,
    /// `security.selinux`.
    Selinux,
    /// `system.posix_acl_access` and `system.posix_acl_default`.
    PosixAcl,
    /// `user.*`.
    User,
}

impl XattrClass {
    /// Every class.
    pub const ALL: [Self; 4] = [Self::Capability, Self::Selinux, Self::PosixAcl, Self::User];

    /// The class an attribute of that name is in, if the model carries it.
    pub fn of(name: &[u8]) -> Option<Self> {
        match name {
            b"security.capability" => Some(Self::Capability),
            b"security.selinux" => Some(Self::Selinux),
            b"system.posix_acl_access" | b"system.posix_acl_default" => Some(Self::PosixAcl),
            _ => name.strip_prefix(b"user.").filter(|rest| !rest.is_empty()).map(|_| Self::User),
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Capability => 1,
            Self::Selinux => 2,
            Self::PosixAcl => 4,
            Self::User => 8,
        }
    }
}

/// Which classes of extended attributes are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct XattrPolicy(u8);

impl XattrPolicy {
    /// None: they are neither read nor written.
    pub const NONE: Self = Self(0);
    /// Every class the model carries.
    pub const ALL: Self = Self(15);

    /// Exactly `classes`.
    pub fn of(classes: impl IntoIterator<Item = XattrClass>) -> Self {
        Self(classes.into_iter().fold(0, |bits, class| bits | class.bit()))
    }

    /// The classes both look at.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether an attribute of that name is looked at.
    pub fn covers(self, name: &[u8]) -> bool {
        XattrClass::of(name).is_some_and(|class| self.0 & class.bit() != 0)
    }

    /// The classes as bits, for encodings: capability 1, SELinux 2, ACL 4, user 8.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The policy of those bits, if they are bits of classes.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        if bits <= Self::ALL.0 { Some(Self(bits)) } else { None }
    }
}

/// Whether owners count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ownership {
    /// User and group ids are compared and set.
    #[default]
    Kept,
    /// They are left alone: an agent without privileges can't set them.
    Ignored,
}

/// How fine the times of a file-system are, in nanoseconds, up to a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Granularity(u32);

impl Granularity {
    /// Nanoseconds.
    pub const FINE: Self = Self(1);
    /// Whole seconds.
    pub const SECOND: Self = Self(1_000_000_000);

    /// A granularity of `nanos`, from 1 to 10⁹.
    pub const fn nanos(nanos: u32) -> Option<Self> {
        if nanos >= 1 && nanos <= Self::SECOND.0 { Some(Self(nanos)) } else { None }
    }

    /// In nanoseconds.
    pub const fn as_nanos(self) -> u32 {
        self.0
    }

    /// The time as such a file-system would keep it.
    pub fn truncate(self, time: Timestamp) -> Timestamp {
        Timestamp::new(time.seconds(), time.nanos() - time.nanos() % self.0).unwrap_or(time)
    }
}

/// What of a machine is looked at, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Paths that match one of these are not looked at, nor what is below them.
    pub filters: Vec<Filter>,
    /// These paths and what is below them are not looked at. The agent's own [`View::WORK_DIRECTORY`] never is.
    pub protected: BTreeSet<ImagePath>,
    /// Only these paths are looked at, if given: those of a sparse image.
    pub only: Option<BTreeSet<ImagePath>>,
    /// Which extended attributes are looked at.
    pub xattrs: XattrPolicy,
    /// Whether owners are.
    pub ownership: Ownership,
    /// How finely times are.
    pub mtime: Granularity,
}

impl View {
    const MAGIC: [u8; 4] = *b"DVW1";
    /// The longest encoding accepted, in bytes.
    pub const MAX_LEN: usize = 256 * 1024 * 1024;
    /// How many filters a view may have.
    const MAX_FILTERS: usize = 16;
    /// Where an agent keeps what it is about to put in place, at the top of the root it manages.
    pub const WORK_DIRECTORY: &'static [u8] = b"/.subd";

    /// Everything, exactly.
    pub fn everything() -> Self {
        Self {
            filters: Vec::new(),
            protected: BTreeSet::new(),
            only: None,
            xattrs: XattrPolicy::ALL,
            ownership: Ownership::Kept,
            mtime: Granularity::FINE,
        }
    }

    /// Whether `path` is looked at, provided that the directory it is in is.
    pub fn shows(&self, path: &ImagePath) -> bool {
        if path.is_root() {
            return true;
        }
        path.as_bytes() != Self::WORK_DIRECTORY
            && self.only.as_ref().is_none_or(|only| only.contains(path))
            && !self.protected.contains(path)
            && !self.filters.iter().any(|filter| filter.matches(path))
    }

    /// Whether `path` is looked at, with every directory on the way to it.
    pub fn reaches(&self, path: &ImagePath) -> bool {
        std::iter::successors(Some(path.clone()), ImagePath::parent).all(|path| self.shows(&path))
    }

    /// An inode as it looks under this view. The id of a directory is kept as it is.
    pub fn inode(&self, inode: &Inode) -> Inode {
        let mut seen = inode.clone();
        seen.xattrs = self.xattrs(&inode.xattrs);
        if self.ownership == Ownership::Ignored {
            (seen.uid, seen.gid) = (0, 0);
        }
        match &mut seen.kind {
            Kind::Regular { mtime, .. }
            | Kind::BlockDevice { mtime, .. }
            | Kind::CharDevice { mtime, .. }
            | Kind::Fifo { mtime } => *mtime = self.mtime.truncate(*mtime),
            Kind::Computed { .. } | Kind::Symlink { .. } | Kind::Directory { .. } | Kind::Unknown { .. } => {}
        }
        seen
    }

    fn xattrs(&self, xattrs: &Xattrs) -> Xattrs {
        xattrs.retained(|name| self.xattrs.covers(name))
    }

    /// A whole tree as it looks under this view.
    pub fn apply(&self, snapshot: &Snapshot) -> Snapshot {
        let mut builder = Builder::new(self.inode(&snapshot.tree.root))
            .expect("invariant: the root of a tree is a directory and a view changes no kind");
        snapshot.walk(|path, inode| {
            if self.shows(path) {
                // What is below a path that is not shown has no directory to go to, and is not shown either.
                drop(builder.insert(path, self.inode(inode)));
            }
        });
        for set in snapshot.links.iter() {
            let mut names =
                set.iter().filter(|path| builder.contains(path)).cloned().collect::<Vec<_>>().into_iter();
            if let Some(first) = names.next() {
                for name in names {
                    drop(builder.link(&name, &first));
                }
            }
        }
        builder.finish(self.id())
    }

    /// The name of this view.
    pub fn id(&self) -> ViewId {
        ViewId(ObjectId::of(&self.encode()))
    }

    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::begin(Self::MAGIC);
        w.count(self.filters.len());
        self.filters.iter().for_each(|filter| encode_filter(&mut w, filter));
        encode_paths(&mut w, &self.protected);
        w.u8(u8::from(self.only.is_some()));
        if let Some(only) = &self.only {
            encode_paths(&mut w, only);
        }
        w.u8(self.xattrs.bits());
        w.u8(u8::from(self.ownership == Ownership::Ignored));
        w.u32(self.mtime.as_nanos());
        w.finish()
    }

    /// Reads a canonical encoding.
    ///
    /// # Errors
    /// [`DecodeError`] when it is none, or a filter in it does not compile.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::open(bytes, Self::MAGIC, Self::MAX_LEN)?;
        let count = r.count(1)?;
        if count > Self::MAX_FILTERS {
            return Err(DecodeError::TooLong { len: count, limit: Self::MAX_FILTERS });
        }
        let filters = (0..count).map(|_| decode_filter(&mut r)).collect::<Result<_, _>>()?;
        let protected = decode_paths(&mut r)?;
        let only = if r.flag()? { Some(decode_paths(&mut r)?) } else { None };
        let xattrs =
            XattrPolicy::from_bits(r.u8()?).ok_or(DecodeError::Invalid("an unknown class of attributes"))?;
        let ownership = if r.flag()? { Ownership::Ignored } else { Ownership::Kept };
        let mtime = Granularity::nanos(r.u32()?).ok_or(DecodeError::Invalid("an impossible granularity"))?;
        r.end()?;
        Ok(Self { filters, protected, only, xattrs, ownership, mtime })
    }
}

pub(crate) fn encode_filter(w: &mut Writer, filter: &Filter) {
    match filter {
        Filter::Sparse => w.u8(0),
        Filter::Empty => w.u8(1),
        // No lines match nothing: that is the empty filter, whoever made it.
        Filter::Lines(lines) if lines.lines().is_empty() => w.u8(1),
        Filter::Lines(lines) => {
            w.u8(2);
            w.count(lines.lines().len());
            lines.lines().iter().for_each(|line| w.bytes(line.as_bytes()));
        }
    }
}

pub(crate) fn decode_filter(r: &mut Reader<'_>) -> Result<Filter, DecodeError> {
    match r.u8()? {
        0 => Ok(Filter::Sparse),
        1 => Ok(Filter::Empty),
        2 => {
            let lines: Vec<String> = (0..r.count(5)?)
                .map(|_| Ok(r.text(Lines::MAX_LINE)?.to_owned()))
                .collect::<Result<_, _>>()?;
            if lines.is_empty() {
                return Err(DecodeError::Invalid("a filter of no lines that is not the empty one"));
            }
            Lines::new(lines)
                .map(Filter::Lines)
                .map_err(|_| DecodeError::Invalid("a filter that does not compile"))
        }
        _ => Err(DecodeError::Invalid("a filter in no known state")),
    }
}

pub(crate) fn encode_paths(w: &mut Writer, paths: &BTreeSet<ImagePath>) {
    w.count(paths.len());
    paths.iter().for_each(|path| w.bytes(path.as_bytes()));
}

pub(crate) fn decode_paths(r: &mut Reader<'_>) -> Result<BTreeSet<ImagePath>, DecodeError> {
    let mut paths = BTreeSet::new();
    for _ in 0..r.count(5)? {
        let path = decode_path(r)?;
        if paths.last().is_some_and(|last| *last >= path) {
            return Err(DecodeError::Invalid("paths out of order"));
        }
        paths.insert(path);
    }
    Ok(paths)
}

pub(crate) fn decode_path(r: &mut Reader<'_>) -> Result<ImagePath, DecodeError> {
    ImagePath::parse(r.bytes(ImagePath::MAX_LEN)?)
        .map_err(|_| DecodeError::Invalid("a path no tree could hold"))
}
