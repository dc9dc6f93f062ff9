//! Plans: the ordered operations that make one tree of another. An empty plan *is* compliance.

mod diff;
mod links;
mod needs;
mod summary;
mod walk;

pub use diff::{Compared, Comparison, DiffError};
pub use needs::{Need, Needs};
pub use summary::{PlanSummary, PlannedAction};

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::codec::{DecodeError, Reader, Writer};
use crate::inode::Inode;
use crate::object::ObjectId;
use crate::path::ImagePath;
use crate::view::decode_path;

/// One change to a machine. Each leaves the path it names as it was or as it must be, never between.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// A directory is made where nothing, or something else, is. Its entries come in operations of their own.
    MakeDirectory {
        /// Where.
        path: ImagePath,
        /// Mode, owner and attributes; the id of the entries is of no concern here.
        inode: Inode,
    },
    /// Anything but a directory is put in place of whatever is there, as a new inode. A directory that stands there is
    /// replaced only when it holds nothing but what the plan deletes.
    Put {
        /// Where.
        path: ImagePath,
        /// What.
        inode: Inode,
    },
    /// The path becomes another name of an inode that is already as it must be.
    Link {
        /// The new name.
        path: ImagePath,
        /// A name the inode has.
        target: ImagePath,
    },
    /// Contents stay, metadata change. The names given are all the names in view; an inode that has others, too, must
    /// not be changed in place but replaced under these.
    SetMetadata {
        /// All names in view, one for a directory.
        paths: Vec<ImagePath>,
        /// As it must be.
        inode: Inode,
    },
    /// A path is removed. A directory is removed only when it is empty by then: one that holds what is not in view
    /// stays and is reported.
    Delete {
        /// Which.
        path: ImagePath,
        /// Whether a directory was seen there.
        directory: bool,
    },
}

impl Operation {
    /// The paths it touches.
    pub fn paths(&self) -> &[ImagePath] {
        match self {
            Self::MakeDirectory { path, .. }
            | Self::Put { path, .. }
            | Self::Link { path, .. }
            | Self::Delete { path, .. } => std::slice::from_ref(path),
            Self::SetMetadata { paths, .. } => paths,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MakeDirectory { path, .. } => write!(f, "make directory {path}"),
            Self::Put { path, inode } => write!(f, "put {} {path}", inode.kind_name()),
            Self::Link { path, target } => write!(f, "link {path} to {target}"),
            Self::SetMetadata { paths, .. } => {
                write!(f, "set metadata of")?;
                paths.iter().try_for_each(|path| write!(f, " {path}"))
            }
            Self::Delete { path, .. } => write!(f, "delete {path}"),
        }
    }
}

/// The ordered operations from one tree to another: parents before what is in them, links after their targets,
/// deletions last and from the leaves up. Encoded as `docs/formats/plan.md` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The operations, in order.
    pub operations: Vec<Operation>,
}

impl Plan {
    const MAGIC: [u8; 4] = *b"DPL1";
    /// The longest encoding accepted, in bytes: room for as many operations as are accepted.
    pub const MAX_LEN: usize = 1024 * 1024 * 1024;
    /// The most operations accepted: as many as a [`Comparison`] looks at. A deletion takes ten bytes here and many times
    /// that in memory.
    pub const MAX_OPERATIONS: usize = 5_000_000;

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Every object that is needed, with its length in bytes, each once.
    pub fn objects(&self) -> BTreeMap<ObjectId, u64> {
        let object = |operation: &Operation| match operation {
            Operation::Put { inode, .. } => inode.object(),
            Operation::MakeDirectory { .. }
            | Operation::Link { .. }
            | Operation::SetMetadata { .. }
            | Operation::Delete { .. } => None,
        };
        self.operations.iter().filter_map(object).collect()
    }

    /// Every path that is touched, in order of the operations.
    pub fn paths(&self) -> impl Iterator<Item = &ImagePath> {
        self.operations.iter().flat_map(Operation::paths)
    }

    /// The plan without deletions of what is in `kept`, since it holds what is not in view, or something is mounted on it;
    /// and those.
    #[must_use]
    pub fn without_kept(self, kept: &BTreeSet<ImagePath>) -> (Self, Vec<ImagePath>) {
        let stays = |operation: &Operation| matches!(operation, Operation::Delete { path, .. } if kept.contains(path));
        let (left, operations): (Vec<_>, Vec<_>) = self.operations.into_iter().partition(stays);
        (Self { operations }, left.iter().flat_map(Operation::paths).cloned().collect())
    }

    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::begin(Self::MAGIC);
        w.count(self.operations.len());
        self.operations.iter().for_each(|operation| encode(&mut w, operation));
        w.finish()
    }

    /// Reads a canonical encoding.
    ///
    /// # Errors
    /// [`DecodeError`] when it is none. Whether the operations make sense shows when they are applied.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::open(bytes, Self::MAGIC, Self::MAX_LEN)?;
        let count = r.count(7)?;
        if count > Self::MAX_OPERATIONS {
            return Err(DecodeError::Invalid("more operations than any plan has"));
        }
        let operations = (0..count).map(|_| decode(&mut r)).collect::<Result<_, _>>()?;
        r.end()?;
        Ok(Self { operations })
    }
}

fn encode(w: &mut Writer, operation: &Operation) {
    match operation {
        Operation::MakeDirectory { path, inode } => {
            w.u8(1);
            w.bytes(path.as_bytes());
            inode.encode(w);
        }
        Operation::Put { path, inode } => {
            w.u8(2);
            w.bytes(path.as_bytes());
            inode.encode(w);
        }
        Operation::Link { path, target } => {
            w.u8(3);
            w.bytes(path.as_bytes());
            w.bytes(target.as_bytes());
        }
        Operation::SetMetadata { paths, inode } => {
            w.u8(4);
            w.count(paths.len());
            paths.iter().for_each(|path| w.bytes(path.as_bytes()));
            inode.encode(w);
        }
        Operation::Delete { path, directory } => {
            w.u8(5);
            w.bytes(path.as_bytes());
            w.u8(u8::from(*directory));
        }
    }
}

fn decode(r: &mut Reader<'_>) -> Result<Operation, DecodeError> {
    Ok(match r.u8()? {
        1 => {
            let (path, inode) = (decode_entry(r)?, Inode::decode(r)?);
            if !inode.is_directory() {
                return Err(DecodeError::Invalid("a directory to make that is none"));
            }
            Operation::MakeDirectory { path, inode }
        }
        2 => {
            let (path, inode) = (decode_entry(r)?, Inode::decode(r)?);
            if inode.is_directory() || inode.is_unknown() {
                return Err(DecodeError::Invalid("something to put that is a directory or unknown"));
            }
            Operation::Put { path, inode }
        }
        3 => Operation::Link { path: decode_entry(r)?, target: decode_entry(r)? },
        4 => {
            let paths: Vec<_> = (0..r.count(5)?).map(|_| decode_path(r)).collect::<Result<_, _>>()?;
            let inode = Inode::decode(r)?;
            let sound =
                !paths.is_empty() && !inode.is_unknown() && (paths.len() == 1 || !inode.is_directory());
            if !sound {
                return Err(DecodeError::Invalid(
                    "metadata for nothing, for an unknown, or for a linked directory",
                ));
            }
            Operation::SetMetadata { paths, inode }
        }
        5 => Operation::Delete { path: decode_entry(r)?, directory: r.flag()? },
        _ => return Err(DecodeError::Invalid("an operation not known here")),
    })
}

/// The root is there on every machine: its metadata may change, but nobody makes, replaces, links or deletes it.
fn decode_entry(r: &mut Reader<'_>) -> Result<ImagePath, DecodeError> {
    let path = decode_path(r)?;
    if path.is_root() {
        Err(DecodeError::Invalid("an operation that would replace the root"))
    } else {
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_of_more_operations_than_any_plan_has_is_refused_before_it_takes_memory() {
        let encoded = |count: usize| {
            let mut w = Writer::begin(Plan::MAGIC);
            w.count(count);
            let delete = Operation::Delete { path: ImagePath::parse(b"/a").unwrap(), directory: false };
            (0..count).for_each(|_| encode(&mut w, &delete));
            w.finish()
        };
        let refused = Plan::decode(&encoded(Plan::MAX_OPERATIONS + 1));
        assert_eq!(refused, Err(DecodeError::Invalid("more operations than any plan has")));
        assert_eq!(Plan::decode(&encoded(1000)).map(|plan| plan.operations.len()), Ok(1000));
    }
}
