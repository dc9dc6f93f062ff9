use std::collections::BTreeSet;

use super::{Device, Inode, Kind, Mode, Timestamp, Why};
use crate::object::ObjectId;

/// Something in which two inodes differ, as it is in the one that was asked, and in the other.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Aspect<'a> {
    /// What they are, in the words of [`Inode::kind_name`]. What only one kind has is not compared then.
    Kind(&'static str, &'static str),
    /// The contents of files, and how many bytes they are.
    Contents((ObjectId, u64), (ObjectId, u64)),
    /// Who computes the contents.
    Source(&'a str, &'a str),
    /// Where symbolic links point.
    Target(&'a [u8], &'a [u8]),
    /// Which device it is.
    Device(Device, Device),
    /// Why nothing is known of it.
    Reason(Why, Why),
    /// The permissions.
    Mode(Mode, Mode),
    /// User and group.
    Owner((u32, u32), (u32, u32)),
    /// When the contents were last modified.
    Modified(Timestamp, Timestamp),
    /// An extended attribute: its name and values. One side may not have it.
    Xattr(&'a [u8], Option<&'a [u8]>, Option<&'a [u8]>),
}

impl Aspect<'_> {
    /// Whether an inode that differs in this must be made anew: it can't be set.
    pub fn is_contents(&self) -> bool {
        match self {
            Self::Kind(..)
            | Self::Contents(..)
            | Self::Source(..)
            | Self::Target(..)
            | Self::Device(..)
            | Self::Reason(..) => true,
            Self::Mode(..) | Self::Owner(..) | Self::Modified(..) | Self::Xattr(..) => false,
        }
    }
}

impl Inode {
    /// All in which it differs from `other`, in the order of [`Aspect`]. Of directories it is only their own metadata,
    /// not what is in them.
    pub fn differences<'a>(&'a self, other: &'a Self) -> Vec<Aspect<'a>> {
        let same_kind = self.kind_name() == other.kind_name();
        let mut found = Vec::new();
        found.extend(pair(self.kind_name(), other.kind_name(), Aspect::Kind));
        found.extend(contents(&self.kind, &other.kind));
        found.extend(pair(self.mode, other.mode, Aspect::Mode));
        found.extend(pair((self.uid, self.gid), (other.uid, other.gid), Aspect::Owner));
        if let (true, Some(here), Some(there)) = (same_kind, self.modified(), other.modified()) {
            found.extend(pair(here, there, Aspect::Modified));
        }
        let names: BTreeSet<_> =
            self.xattrs.iter().chain(other.xattrs.iter()).map(|(name, _)| name).collect();
        found.extend(names.into_iter().filter_map(|name| {
            pair(self.xattrs.value(name), other.xattrs.value(name), |here, there| {
                Aspect::Xattr(name, here, there)
            })
        }));
        found
    }

    /// When its contents were last modified, if its kind has that.
    pub fn modified(&self) -> Option<Timestamp> {
        match self.kind {
            Kind::Regular { mtime, .. }
            | Kind::BlockDevice { mtime, .. }
            | Kind::CharDevice { mtime, .. }
            | Kind::Fifo { mtime } => Some(mtime),
            Kind::Computed { .. } | Kind::Symlink { .. } | Kind::Directory { .. } | Kind::Unknown { .. } => {
                None
            }
        }
    }
}

fn pair<'a, T: PartialEq>(here: T, there: T, aspect: impl FnOnce(T, T) -> Aspect<'a>) -> Option<Aspect<'a>> {
    (here != there).then(|| aspect(here, there))
}

/// What differs of what only that kind has, but for the times.
fn contents<'a>(here: &'a Kind, there: &'a Kind) -> Option<Aspect<'a>> {
    match (here, there) {
        (Kind::Regular { object: a, size: n, .. }, Kind::Regular { object: b, size: m, .. }) => {
            pair((*a, *n), (*b, *m), Aspect::Contents)
        }
        (Kind::Computed { source: a }, Kind::Computed { source: b }) => {
            pair(a.as_str(), b.as_str(), Aspect::Source)
        }
        (Kind::Symlink { target: a }, Kind::Symlink { target: b }) => pair(&**a, &**b, Aspect::Target),
        (Kind::BlockDevice { device: a, .. }, Kind::BlockDevice { device: b, .. })
        | (Kind::CharDevice { device: a, .. }, Kind::CharDevice { device: b, .. }) => {
            pair(*a, *b, Aspect::Device)
        }
        (Kind::Unknown { why: a }, Kind::Unknown { why: b }) => pair(*a, *b, Aspect::Reason),
        _ => None,
    }
}
