use dominator_core::inode::{Mode, Timestamp};
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::port::PathFailure;
use rustix::fs::FileType;

use super::id::Id;
use super::metadata::{Attributes, Rules};
use crate::root::{Root, Statx, is_directory};

/// A name in the directory of slots: a decimal number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(pub(super) u32);

impl Slot {
    pub(super) fn name(self) -> Vec<u8> {
        self.0.to_string().into_bytes()
    }
}

/// One change to the tree, ready to be made. All that is new lies in its slot, and what it displaces comes to lie there, so
/// that whoever looks into the slot knows whether it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// What lies in the slot takes the place of what is at the path.
    Put { path: ImagePath, slot: Slot, new: Id, old: Old, made: Made },
    /// Metadata change in place.
    Attributes(Box<Change>),
    /// What is at the path goes into the slot.
    Delete { path: ImagePath, slot: Slot, old: Id, directory: bool },
}

impl Step {
    pub(super) fn path(&self) -> ImagePath {
        match self {
            Self::Put { path, .. } | Self::Delete { path, .. } => path.clone(),
            Self::Attributes(change) => change.path().clone(),
        }
    }
}

/// What was at a path when a change was prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Old {
    Nothing,
    Directory(Id),
    /// Anything else.
    Other(Id),
}

impl Old {
    pub(super) fn of(root: &Root, stat: Option<&Statx>) -> Self {
        match stat {
            None => Self::Nothing,
            Some(stat) if is_directory(stat.stx_mode) => Self::Directory(root.id(stat)),
            Some(stat) => Self::Other(root.id(stat)),
        }
    }

    pub(super) fn id(self) -> Option<Id> {
        match self {
            Self::Nothing => None,
            Self::Directory(id) | Self::Other(id) => Some(id),
        }
    }
}

/// What is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// A new file with contents, and the object of the cache that became it, if one did.
    File { written: Written, object: Option<ObjectId> },
    /// A new directory, empty.
    Directory,
    /// Anything else that is new.
    Other,
    /// Another name of an inode.
    Link,
}

/// What tells whether somebody has written to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) size: u64,
    pub(super) mtime: Timestamp,
}

impl Written {
    pub(super) fn of(stat: &Statx) -> Self {
        let mtime = Timestamp::new(stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec).unwrap_or_default();
        Self { size: stat.stx_size, mtime }
    }
}

/// Metadata that change in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// All names of the inode.
    pub(super) paths: Vec<ImagePath>,
    pub(super) inode: Id,
    pub(super) of: Target,
    pub(super) before: Attributes,
    pub(super) after: Attributes,
}

impl Change {
    pub(super) fn path(&self) -> &ImagePath {
        self.paths.first().expect("invariant: changes are built, and decoded, with at least one path")
    }
}

/// What metadata are changed of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Directory,
    /// A file with contents.
    File,
    /// What is not to be opened: devices, pipes, symbolic links.
    Other,
}

impl Target {
    pub(super) fn of(stat: &Statx) -> Self {
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        if kind.is_dir() {
            Self::Directory
        } else if kind.is_file() {
            Self::File
        } else {
            Self::Other
        }
    }
}

/// What stands in the way of an update and is lifted while it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lift {
    pub(super) path: ImagePath,
    pub(super) what: Lifted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lifted {
    /// What is at the path is immutable or append-only, and what is there in the end becomes so.
    Flags(u32),
    /// The directory lacks access for its owner, who has no privileges. In the end it has the one mode, or the other
    /// when the update is undone.
    Mode { inode: Id, before: Mode, after: Mode },
}

/// All of an update that was prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prepared {
    pub(super) rules: Rules,
    pub(super) steps: Vec<Step>,
    pub(super) lifts: Vec<Lift>,
    /// Operations that found everything as it must be.
    pub(super) done: u64,
    pub(super) failures: Vec<PathFailure>,
}
