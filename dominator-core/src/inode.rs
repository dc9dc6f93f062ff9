//! Inodes: everything the model knows of one file, and its encoding.

mod aspect;

pub use aspect::Aspect;

use std::collections::BTreeMap;
use std::fmt;

use thiserror::Error;

use crate::codec::{DecodeError, Reader, Writer};
use crate::object::ObjectId;
use crate::tree::DirectoryId;
use crate::view::XattrClass;

/// Permission bits with set-uid, set-gid and sticky: the low twelve bits of `st_mode`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mode(u16);

impl Mode {
    /// What every symbolic link has on Linux.
    pub const SYMLINK: Self = Self(0o777);

    /// Takes the low twelve bits of `st_mode`; the file type is not part of a mode here.
    pub const fn from_st_mode(st_mode: u32) -> Self {
        Self((st_mode & 0o7777) as u16)
    }

    /// The bits, at most 0o7777.
    pub const fn bits(self) -> u16 {
        self.0
    }
}

impl fmt::Debug for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// A point in time as a file-system keeps it: seconds since 1970 (negative before) and nanoseconds, below 10⁹, after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    seconds: i64,
    nanos: u32,
}

impl Timestamp {
    /// A time; nothing when `nanos` is a second or more.
    pub const fn new(seconds: i64, nanos: u32) -> Option<Self> {
        if nanos < 1_000_000_000 { Some(Self { seconds, nanos }) } else { None }
    }

    /// Seconds since 1970.
    pub const fn seconds(self) -> i64 {
        self.seconds
    }

    /// Nanoseconds after the second.
    pub const fn nanos(self) -> u32 {
        self.nanos
    }

    /// How much later than `earlier` this is, in nanoseconds; negative when it is before it.
    pub fn nanos_since(self, earlier: Self) -> i128 {
        let nanos = |time: Self| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
        nanos(self) - nanos(earlier)
    }
}

/// Extended attributes by name (`security.capability`, `user.note`, …), with their namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Xattrs(BTreeMap<Box<[u8]>, Box<[u8]>>);

impl Xattrs {
    /// The longest name Linux takes, in bytes.
    pub const MAX_NAME: usize = 255;
    /// The longest value Linux takes, in bytes.
    pub const MAX_VALUE: usize = 64 * 1024;
    /// How many one inode may have here.
    pub const MAX_COUNT: usize = 1024;

    /// Adds or replaces one.
    ///
    /// # Errors
    /// [`BadXattr`] when it is of no [class](XattrClass) the model carries, or name, value or number are beyond what
    /// Linux takes.
    pub fn insert(&mut self, name: &[u8], value: &[u8]) -> Result<(), BadXattr> {
        let fits = XattrClass::of(name).is_some()
            && name.len() <= Self::MAX_NAME
            && !name.contains(&0)
            && value.len() <= Self::MAX_VALUE
            && (self.0.len() < Self::MAX_COUNT || self.0.contains_key(name));
        if !fits {
            return Err(BadXattr { name: String::from_utf8_lossy(name).into_owned() });
        }
        self.0.insert(name.into(), value.into());
        Ok(())
    }

    /// Name and value of each, in order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The value of one.
    pub fn value(&self, name: &[u8]) -> Option<&[u8]> {
        self.0.get(name).map(|value| &**value)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Only those whose name `keep` accepts.
    pub fn retained(&self, keep: impl Fn(&[u8]) -> bool) -> Self {
        Self(self.0.iter().filter(|(name, _)| keep(name)).map(|(n, v)| (n.clone(), v.clone())).collect())
    }
}

/// An extended attribute that no file of the model could carry.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "extended attribute {name:?} is not carried: capabilities, SELinux labels, ACLs and user.* are, with a name of up \
     to 255 bytes, a value of up to 64 KiB, 1024 a file"
)]
pub struct BadXattr {
    name: String,
}

/// A device number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device {
    /// The driver.
    pub major: u32,
    /// The unit.
    pub minor: u32,
}

/// Why nothing can be said of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Why {
    /// It could not be read: permission, an input/output error, a name or attribute out of bounds.
    Unreadable,
    /// It would not hold still while it was read.
    Changing,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreadable => "could not be read",
            Self::Changing => "changed while it was read",
        })
    }
}

/// What an inode is, with all that only this kind has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A file with contents.
    Regular {
        /// Last modification.
        mtime: Timestamp,
        /// Length in bytes.
        size: u64,
        /// The contents.
        object: ObjectId,
    },
    /// A file whose contents a generator makes for each machine; only in images.
    Computed {
        /// The generator, `host:port`; 1 to 512 bytes.
        source: String,
    },
    /// A symbolic link.
    Symlink {
        /// What it says, 1 to 4095 bytes.
        target: Box<[u8]>,
    },
    /// A block device node.
    BlockDevice {
        /// Last modification.
        mtime: Timestamp,
        /// Which device.
        device: Device,
    },
    /// A character device node.
    CharDevice {
        /// Last modification.
        mtime: Timestamp,
        /// Which device.
        device: Device,
    },
    /// A named pipe.
    Fifo {
        /// Last modification.
        mtime: Timestamp,
    },
    /// A directory.
    Directory {
        /// Its entries.
        id: DirectoryId,
    },
    /// Something is there, but what could not be found out: neither equal nor different. Only in scanned trees.
    Unknown {
        /// Why.
        why: Why,
    },
}

/// Everything the model knows of one file. Hard links are kept beside the tree, in its link sets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Inode {
    /// Permissions.
    pub mode: Mode,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Extended attributes in view.
    pub xattrs: Xattrs,
    /// The rest.
    pub kind: Kind,
}

impl Inode {
    /// The longest target of a symbolic link, in bytes.
    pub const MAX_TARGET: usize = 4095;
    /// The longest source of a computed file, in bytes.
    pub const MAX_SOURCE: usize = 512;

    /// The inode of a path of which nothing could be found out.
    pub fn unknown(why: Why) -> Self {
        Self { mode: Mode(0), uid: 0, gid: 0, xattrs: Xattrs::default(), kind: Kind::Unknown { why } }
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory { .. })
    }

    /// Whether nothing could be found out of it.
    pub fn is_unknown(&self) -> bool {
        matches!(self.kind, Kind::Unknown { .. })
    }

    /// The directory's entries, if it is one.
    pub fn directory(&self) -> Option<DirectoryId> {
        if let Kind::Directory { id } = self.kind { Some(id) } else { None }
    }

    /// Contents and length, if it is a regular file.
    pub fn object(&self) -> Option<(ObjectId, u64)> {
        if let Kind::Regular { object, size, .. } = self.kind { Some((object, size)) } else { None }
    }

    /// Whether only metadata (mode, owner, times, extended attributes) may differ: same kind, same contents. Two
    /// directories have the same contents here whatever is in them.
    pub fn same_contents(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Regular { object: a, size: n, .. }, Kind::Regular { object: b, size: m, .. }) => {
                a == b && n == m
            }
            (Kind::BlockDevice { device: a, .. }, Kind::BlockDevice { device: b, .. })
            | (Kind::CharDevice { device: a, .. }, Kind::CharDevice { device: b, .. }) => a == b,
            (Kind::Fifo { .. }, Kind::Fifo { .. }) | (Kind::Directory { .. }, Kind::Directory { .. }) => true,
            (Kind::Symlink { target: a }, Kind::Symlink { target: b }) => a == b,
            (Kind::Computed { source: a }, Kind::Computed { source: b }) => a == b,
            _ => false,
        }
    }

    /// Whether owner, mode and extended attributes are the same: all the metadata a directory has.
    pub fn same_attributes(&self, other: &Self) -> bool {
        (self.mode, self.uid, self.gid) == (other.mode, other.uid, other.gid) && self.xattrs == other.xattrs
    }

    /// The word for its kind, as `find -type` users know them.
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            Kind::Regular { .. } => "file",
            Kind::Computed { .. } => "computed file",
            Kind::Symlink { .. } => "symlink",
            Kind::BlockDevice { .. } => "block device",
            Kind::CharDevice { .. } => "character device",
            Kind::Fifo { .. } => "fifo",
            Kind::Directory { .. } => "directory",
            Kind::Unknown { .. } => "unknown",
        }
    }

    pub(crate) fn encode(&self, w: &mut Writer) {
        w.u8(self.tag());
        w.u16(self.mode.0);
        w.u32(self.uid);
        w.u32(self.gid);
        w.count(self.xattrs.0.len());
        for (name, value) in self.xattrs.iter() {
            w.bytes(name);
            w.bytes(value);
        }
        match &self.kind {
            Kind::Regular { mtime, size, object } => {
                encode_time(w, *mtime);
                w.u64(*size);
                w.id(object);
            }
            Kind::Computed { source } => w.bytes(source.as_bytes()),
            Kind::Symlink { target } => w.bytes(target),
            Kind::BlockDevice { mtime, device } | Kind::CharDevice { mtime, device } => {
                encode_time(w, *mtime);
                w.u32(device.major);
                w.u32(device.minor);
            }
            Kind::Fifo { mtime } => encode_time(w, *mtime),
            Kind::Directory { id } => w.id(&id.0),
            Kind::Unknown { why } => w.u8(match why {
                Why::Unreadable => 0,
                Why::Changing => 1,
            }),
        }
    }

    fn tag(&self) -> u8 {
        match self.kind {
            Kind::Regular { .. } => b'r',
            Kind::Computed { .. } => b'm',
            Kind::Symlink { .. } => b'l',
            Kind::BlockDevice { .. } => b'b',
            Kind::CharDevice { .. } => b'c',
            Kind::Fifo { .. } => b'p',
            Kind::Directory { .. } => b'd',
            Kind::Unknown { .. } => b'?',
        }
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let tag = r.u8()?;
        let mode = r.u16()?;
        if mode > 0o7777 {
            return Err(DecodeError::Invalid("a mode of more than twelve bits"));
        }
        let (mode, uid, gid, xattrs) = (Mode(mode), r.u32()?, r.u32()?, decode_xattrs(r)?);
        let inode = Self { mode, uid, gid, xattrs, kind: decode_kind(tag, r)? };
        inode.check().map_err(DecodeError::Invalid)?;
        Ok(inode)
    }

    /// Whether a machine could have it: what the types leave open.
    ///
    /// # Errors
    /// What it would be.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let plain = self.uid == 0 && self.gid == 0 && self.mode == Mode(0) && self.xattrs.is_empty();
        match &self.kind {
            Kind::Unknown { .. } if !plain => Err("metadata of an unknown inode"),
            Kind::Symlink { .. } if self.mode != Mode::SYMLINK => {
                Err("a symbolic link with a mode of its own")
            }
            Kind::Symlink { target } if target.is_empty() || target.contains(&0) => {
                Err("a symbolic link to nothing")
            }
            Kind::Symlink { target } if target.len() > Self::MAX_TARGET => {
                Err("a symbolic link of more bytes than Linux takes")
            }
            Kind::Computed { source } if source.is_empty() => Err("a computed file that nobody computes"),
            Kind::Computed { source } if source.len() > Self::MAX_SOURCE => {
                Err("a computed file with too long a source")
            }
            Kind::Regular { .. }
            | Kind::Computed { .. }
            | Kind::Symlink { .. }
            | Kind::BlockDevice { .. }
            | Kind::CharDevice { .. }
            | Kind::Fifo { .. }
            | Kind::Directory { .. }
            | Kind::Unknown { .. } => Ok(()),
        }
    }

    /// How long its encoding is, in bytes.
    pub(crate) fn encoded_len(&self) -> usize {
        const TIME: usize = 12;
        let xattrs: usize = self.xattrs.iter().map(|(name, value)| 8 + name.len() + value.len()).sum();
        let rest = match &self.kind {
            Kind::Regular { .. } => TIME + 8 + ObjectId::LEN,
            Kind::Computed { source } => 4 + source.len(),
            Kind::Symlink { target } => 4 + target.len(),
            Kind::BlockDevice { .. } | Kind::CharDevice { .. } => TIME + 8,
            Kind::Fifo { .. } => TIME,
            Kind::Directory { .. } => ObjectId::LEN,
            Kind::Unknown { .. } => 1,
        };
        15 + xattrs + rest
    }

    /// The id of the directory whose encoding this is, if it is one's. It stands at the end.
    pub(crate) fn peek_directory(encoded: &[u8]) -> Option<DirectoryId> {
        let (b'd', (_, id)) = (encoded.first()?, encoded.split_last_chunk()?) else { return None };
        Some(DirectoryId(ObjectId::from_bytes(*id)))
    }

    /// Contents and length of the regular file whose encoding this is, if it is one's. They stand at the end.
    pub(crate) fn peek_object(encoded: &[u8]) -> Option<(ObjectId, u64)> {
        let (b'r', (rest, id)) = (encoded.first()?, encoded.split_last_chunk()?) else { return None };
        let (_, size) = rest.split_last_chunk()?;
        Some((ObjectId::from_bytes(*id), u64::from_be_bytes(*size)))
    }

    /// Whether this is the encoding of an unknown.
    pub(crate) fn peek_unknown(encoded: &[u8]) -> bool {
        encoded.first() == Some(&b'?')
    }
}

fn encode_time(w: &mut Writer, time: Timestamp) {
    w.i64(time.seconds);
    w.u32(time.nanos);
}

fn decode_time(r: &mut Reader<'_>) -> Result<Timestamp, DecodeError> {
    let (seconds, nanos) = (r.i64()?, r.u32()?);
    Timestamp::new(seconds, nanos).ok_or(DecodeError::Invalid("a second of more than 10⁹ nanoseconds"))
}

fn decode_xattrs(r: &mut Reader<'_>) -> Result<Xattrs, DecodeError> {
    let mut xattrs = Xattrs::default();
    for _ in 0..r.count(9)? {
        let (name, value) = (r.bytes(Xattrs::MAX_NAME)?, r.bytes(Xattrs::MAX_VALUE)?);
        if xattrs.0.last_key_value().is_some_and(|(last, _)| **last >= *name) {
            return Err(DecodeError::Invalid("extended attributes out of order"));
        }
        xattrs
            .insert(name, value)
            .map_err(|_| DecodeError::Invalid("an extended attribute out of bounds"))?;
    }
    Ok(xattrs)
}

fn decode_kind(tag: u8, r: &mut Reader<'_>) -> Result<Kind, DecodeError> {
    let device = |r: &mut Reader<'_>| Ok(Device { major: r.u32()?, minor: r.u32()? });
    Ok(match tag {
        b'r' => Kind::Regular { mtime: decode_time(r)?, size: r.u64()?, object: r.id()? },
        b'm' => Kind::Computed { source: r.text(Inode::MAX_SOURCE)?.into() },
        b'l' => Kind::Symlink { target: r.bytes(Inode::MAX_TARGET)?.into() },
        b'b' => Kind::BlockDevice { mtime: decode_time(r)?, device: device(r)? },
        b'c' => Kind::CharDevice { mtime: decode_time(r)?, device: device(r)? },
        b'p' => Kind::Fifo { mtime: decode_time(r)? },
        b'd' => Kind::Directory { id: DirectoryId(r.id()?) },
        b'?' => Kind::Unknown {
            why: match r.u8()? {
                0 => Why::Unreadable,
                1 => Why::Changing,
                _ => return Err(DecodeError::Invalid("an unknown reason")),
            },
        },
        _ => return Err(DecodeError::Invalid("an inode of no known kind")),
    })
}
