//! The way down two trees at once, into directories that differ.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Operation;
use super::diff::{Comparison, DiffError};
use crate::inode::Inode;
use crate::object::ObjectId;
use crate::path::ImagePath;
use crate::tree::{Cursor, Difference, Directories, Directory, DirectoryId, Entry};

/// What was found on the way.
#[derive(Default)]
pub(super) struct Walked {
    /// Directories to make or to set metadata of, parents first.
    pub(super) directories: Vec<Operation>,
    /// Names whose inode, not a directory, is not as it must be; in order.
    pub(super) touched: Vec<Touched>,
    /// From the leaves up.
    pub(super) deletions: Vec<Operation>,
    /// Paths of which nothing is known, or below which something is that may not be deleted.
    pub(super) unknown: BTreeSet<ImagePath>,
    /// What is not here of the machine's directories.
    pub(super) missing: BTreeSet<ObjectId>,
    pub(super) added: u64,
    pub(super) deleted: u64,
}

/// A name whose inode is not as it must be.
pub(super) struct Touched {
    pub(super) path: ImagePath,
    /// As it must be.
    pub(super) inode: Inode,
    pub(super) there: There,
}

/// What the machine has at a name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum There {
    /// An inode of the same contents.
    Similar,
    /// Another, or none.
    Other,
}

/// Compares the trees.
pub(super) fn walk<D: Directories>(comparison: &Comparison<'_, D>) -> Result<Walked, DiffError> {
    let mut walk = Walk { comparison, empty: Arc::default(), visited: 0, walked: Walked::default() };
    let (required, actual) = (&comparison.required.tree.root, &comparison.actual.root);
    let mut open: Vec<_> = walk.both(ImagePath::root(), required.clone(), actual)?.into_iter().collect();
    while let Some(mut level) = open.pop() {
        match walk.go_on(&mut level)? {
            Some(below) => open.extend([level, below]),
            None => walk.leave(level, open.last_mut()),
        }
    }
    Ok(walk.walked)
}

struct Walk<'a, D> {
    comparison: &'a Comparison<'a, D>,
    /// What stands for a directory that is not there.
    empty: Arc<Directory>,
    visited: u64,
    walked: Walked,
}

/// A pair of directories that is being gone through. Kept in a stack on the heap: a machine may have a tree that is
/// deeper than the stack of a thread.
struct Level {
    path: ImagePath,
    required: Arc<Directory>,
    actual: Arc<Directory>,
    cursor: Cursor,
    then: Then,
    clear: Clear,
}

/// What is to be done once all that is in a directory was looked at.
enum Then {
    Nothing,
    /// If all in it may go, put this in the place of the machine's directory.
    Replace(Inode),
    /// If all in it may go, delete the machine's directory.
    Delete,
}

/// Whether everything below a path may go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clear {
    Yes,
    /// Something below is unknown.
    No,
}

impl<D: Directories> Walk<'_, D> {
    /// Goes through a level up to the next directory that must be entered; nothing when it is through.
    fn go_on(&mut self, level: &mut Level) -> Result<Option<Level>, DiffError> {
        while let Some(difference) = level.cursor.next(&level.required, &level.actual) {
            self.visit()?;
            let entry = match &difference {
                Difference::Here(entry) | Difference::There(entry) => entry,
                Difference::Both { here, .. } => here,
            };
            let malformed = |_| DiffError::Malformed { path: level.path.clone() };
            let path = entry.path_in(&level.path).map_err(malformed)?;
            let below = match difference {
                Difference::Both { here, there } => self.both(path, here.inode(), &there.inode())?,
                Difference::Here(entry) => {
                    self.walked.added += 1;
                    self.make(path, entry.inode())?
                }
                Difference::There(entry) => self.delete(path, entry, &mut level.clear),
            };
            if below.is_some() {
                return Ok(below);
            }
        }
        Ok(None)
    }

    /// A level was gone through; `above` is the one it is in.
    fn leave(&mut self, level: Level, above: Option<&mut Level>) {
        match (level.then, level.clear) {
            (Then::Nothing, _) => {}
            (Then::Replace(inode), Clear::Yes) => self.touch(level.path, inode, There::Other),
            (Then::Replace(_), Clear::No) => {
                self.walked.unknown.insert(level.path);
            }
            (Then::Delete, Clear::Yes) => self.deletion(level.path, true),
            (Then::Delete, Clear::No) => {
                if let Some(above) = above {
                    above.clear = Clear::No;
                }
            }
        }
    }

    fn visit(&mut self) -> Result<(), DiffError> {
        self.visited += 1;
        if self.visited > Comparison::<D>::MAX_VISITED { Err(DiffError::TooLarge) } else { Ok(()) }
    }

    fn both(&mut self, path: ImagePath, required: Inode, actual: &Inode) -> Result<Option<Level>, DiffError> {
        if actual.is_unknown() {
            self.walked.unknown.insert(path);
            return Ok(None);
        }
        match (required.directory(), actual.directory()) {
            (Some(must), Some(is)) => {
                if !required.same_attributes(actual) {
                    let paths = vec![path.clone()];
                    self.walked.directories.push(Operation::SetMetadata { paths, inode: required });
                }
                if must == is {
                    return Ok(None);
                }
                let required = self.required(must)?;
                Ok(self.load(is).map(|actual| Level::new(path, required, actual, Then::Nothing)))
            }
            (None, Some(is)) => {
                // What stands in the place of a file is deleted first, and replaced as a whole; not if that would
                // take something unknown with it.
                let Some(actual) = self.load(is) else { return Ok(None) };
                Ok(Some(Level::new(path, self.empty.clone(), actual, Then::Replace(required))))
            }
            (Some(_), None) => self.make(path, required),
            (None, None) => {
                let there = if actual.same_contents(&required) { There::Similar } else { There::Other };
                if required != *actual {
                    self.touch(path, required, there);
                }
                Ok(None)
            }
        }
    }

    /// Something that is not there, or in the place of something that is not a directory.
    fn make(&mut self, path: ImagePath, required: Inode) -> Result<Option<Level>, DiffError> {
        let Some(must) = required.directory() else {
            self.touch(path, required, There::Other);
            return Ok(None);
        };
        self.walked.directories.push(Operation::MakeDirectory { path: path.clone(), inode: required });
        Ok(Some(Level::new(path, self.required(must)?, self.empty.clone(), Then::Nothing)))
    }

    /// Something that must not be there.
    fn delete(&mut self, path: ImagePath, actual: Entry<'_>, clear: &mut Clear) -> Option<Level> {
        if actual.is_unknown() {
            self.walked.unknown.insert(path);
            *clear = Clear::No;
            return None;
        }
        match actual.directory() {
            Some(id) => {
                let actual = self.load(id)?;
                Some(Level::new(path, self.empty.clone(), actual, Then::Delete))
            }
            None => {
                self.deletion(path, false);
                None
            }
        }
    }

    fn touch(&mut self, path: ImagePath, inode: Inode, there: There) {
        self.walked.touched.push(Touched { path, inode, there });
    }

    fn deletion(&mut self, path: ImagePath, directory: bool) {
        self.walked.deleted += 1;
        self.walked.deletions.push(Operation::Delete { path, directory });
    }

    fn required(&self, id: DirectoryId) -> Result<Arc<Directory>, DiffError> {
        self.comparison.required.directories.directory(&id).ok_or(DiffError::Incomplete)
    }

    /// A directory of the machine; one that is not here is noted, and there will be no plan.
    fn load(&mut self, id: DirectoryId) -> Option<Arc<Directory>> {
        let directory = self.comparison.directory(&id);
        if directory.is_none() {
            self.walked.missing.insert(id.0);
        }
        directory
    }
}

impl Level {
    fn new(path: ImagePath, required: Arc<Directory>, actual: Arc<Directory>, then: Then) -> Self {
        Self { path, required, actual, cursor: Cursor::default(), then, clear: Clear::Yes }
    }
}
