use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use thiserror::Error;

use super::links::{self, Sides};
use super::{Operation, Plan};
use crate::inode::Inode;
use crate::object::ObjectId;
use crate::path::ImagePath;
use crate::tree::{Directories, Directory, DirectoryId, LinkSets, Snapshot, Tree};

/// What a machine must be and what it is, joined for comparison. Both trees are under one view.
#[derive(Debug)]
pub struct Comparison<'a, D> {
    /// What it must be, whole and [verified](Snapshot::verify).
    pub required: &'a Snapshot,
    /// What it is.
    pub actual: &'a Tree,
    /// Its hard links. Not needed when the two trees name the same.
    pub links: Option<&'a LinkSets>,
    /// Where its directories are found. Those that the required tree has, too, are not needed.
    pub directories: &'a D,
}

/// What came of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// What is to be done.
    pub plan: Plan,
    /// Paths of which nothing is known; nothing is done to them or below them.
    pub unknown: BTreeSet<ImagePath>,
    /// How many paths the machine has not.
    pub added: u64,
    /// How many paths are deleted.
    pub deleted: u64,
}

impl<D: Directories> Comparison<'_, D> {
    /// How many entries that differ are looked at before the tree is refused as hostile: directories that share
    /// directories can describe more paths than there are atoms.
    pub const MAX_VISITED: u64 = 5_000_000;

    /// The directories and link sets that must be got before [`Comparison::plan`] can be made. Ask again when they
    /// are there: what is in them may name more. Never more than differs between the trees, plus what is to be deleted.
    ///
    /// # Errors
    /// [`DiffError`] when the trees can't be compared.
    pub fn missing(&self) -> Result<BTreeSet<ObjectId>, DiffError> {
        let mut walk = self.walk()?;
        if self.sets().is_none() {
            walk.missing.insert(self.actual.links.0);
        }
        Ok(walk.missing)
    }

    /// The plan that makes the machine what it must be.
    ///
    /// # Errors
    /// [`DiffError`] when the trees can't be compared, or [`Comparison::missing`] is not empty.
    pub fn plan(&self) -> Result<Compared, DiffError> {
        let walk = self.walk()?;
        let (true, Some(links)) = (walk.missing.is_empty(), self.sets()) else {
            return Err(DiffError::Missing(self.missing()?));
        };
        let sides = Sides {
            required: &|path| self.required.inode(path),
            actual: &|path| self.find(path),
            required_links: &self.required.links,
            actual_links: links,
        };
        let mut files = links::reconcile(&sides, &walk.touched, &walk.unknown)?;
        let mut operations = walk.directories;
        operations.append(&mut files);
        operations.extend(walk.deletions);
        let deleted = walk.deleted;
        Ok(Compared { plan: Plan { operations }, unknown: walk.unknown, added: walk.added, deleted })
    }

    fn sets(&self) -> Option<&LinkSets> {
        if self.actual.links == self.required.tree.links { Some(&self.required.links) } else { self.links }
    }

    fn walk(&self) -> Result<Walk<'_, D>, DiffError> {
        if self.required.tree.view != self.actual.view
            || self.required.tree.algorithm != self.actual.algorithm
        {
            return Err(DiffError::OtherView);
        }
        let mut walk = Walk {
            comparison: self,
            visited: 0,
            added: 0,
            deleted: 0,
            directories: Vec::new(),
            touched: BTreeSet::new(),
            deletions: Vec::new(),
            unknown: BTreeSet::new(),
            missing: BTreeSet::new(),
        };
        walk.both(&ImagePath::root(), &self.required.tree.root, &self.actual.root)?;
        Ok(walk)
    }

    fn directory(&self, id: &DirectoryId) -> Option<Arc<Directory>> {
        self.required.directories.directory(id).or_else(|| self.directories.directory(id))
    }

    /// What the machine has at `path`.
    fn find(&self, path: &ImagePath) -> Option<Inode> {
        let Some((parent, name)) = path.split() else { return Some(self.actual.root.clone()) };
        let mut id = self.actual.root.directory()?;
        for part in parent.components() {
            id = self.directory(&id)?.entry(part)?.directory()?;
        }
        Some(self.directory(&id)?.entry(name.as_bytes())?.inode())
    }
}

/// One walk down both trees, into directories that differ.
struct Walk<'a, D> {
    comparison: &'a Comparison<'a, D>,
    visited: u64,
    added: u64,
    deleted: u64,
    /// Directories to make or to set metadata of, parents first.
    directories: Vec<Operation>,
    /// Names whose inode, not a directory, is not as it must be.
    touched: BTreeSet<ImagePath>,
    /// From the leaves up.
    deletions: Vec<Operation>,
    unknown: BTreeSet<ImagePath>,
    missing: BTreeSet<ObjectId>,
}

/// Whether everything below a path may go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clear {
    Yes,
    /// Something below is unknown.
    No,
}

impl<D: Directories> Walk<'_, D> {
    fn visit(&mut self) -> Result<(), DiffError> {
        self.visited += 1;
        if self.visited > Comparison::<D>::MAX_VISITED { Err(DiffError::TooLarge) } else { Ok(()) }
    }

    fn both(&mut self, path: &ImagePath, required: &Inode, actual: &Inode) -> Result<(), DiffError> {
        self.visit()?;
        if actual.is_unknown() {
            self.unknown.insert(path.clone());
            return Ok(());
        }
        match (required.directory(), actual.directory()) {
            (Some(must), Some(is)) => {
                if !required.same_attributes(actual) {
                    self.directories
                        .push(Operation::SetMetadata { paths: vec![path.clone()], inode: required.clone() });
                }
                if must == is { Ok(()) } else { self.entries(path, must, Some(is)) }
            }
            (Some(must), None) => {
                self.directories
                    .push(Operation::MakeDirectory { path: path.clone(), inode: required.clone() });
                self.entries(path, must, None)
            }
            (None, Some(is)) => {
                // What stands in the place of a file is deleted below, and replaced as a whole; not if that would
                // take something unknown with it.
                if self.delete_entries(path, is)? == Clear::Yes {
                    self.touched.insert(path.clone());
                } else {
                    self.unknown.insert(path.clone());
                }
                Ok(())
            }
            (None, None) => {
                if required != actual {
                    self.touched.insert(path.clone());
                }
                Ok(())
            }
        }
    }

    /// Walks the entries of a required directory beside those of the actual one, if there is one.
    fn entries(
        &mut self,
        path: &ImagePath,
        must: DirectoryId,
        is: Option<DirectoryId>,
    ) -> Result<(), DiffError> {
        let required = self.comparison.required.directories.directory(&must).ok_or(DiffError::Incomplete)?;
        let actual = match is {
            None => Arc::default(),
            Some(id) => match self.load(id) {
                Some(directory) => directory,
                None => return Ok(()),
            },
        };
        let names: BTreeSet<_> = required.iter().chain(actual.iter()).map(|entry| entry.to_name()).collect();
        for name in names {
            let below = path.join(&name).map_err(|_| DiffError::Malformed { path: path.clone() })?;
            match (required.entry(name.as_bytes()), actual.entry(name.as_bytes())) {
                (Some(must), Some(is)) => self.both(&below, &must.inode(), &is.inode())?,
                (Some(must), None) => self.add(&below, &must.inode())?,
                (None, Some(is)) => {
                    self.delete(&below, &is.inode())?;
                }
                (None, None) => {}
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &ImagePath, required: &Inode) -> Result<(), DiffError> {
        self.visit()?;
        self.added += 1;
        match required.directory() {
            Some(must) => {
                self.directories
                    .push(Operation::MakeDirectory { path: path.clone(), inode: required.clone() });
                self.entries(path, must, None)
            }
            None => {
                self.touched.insert(path.clone());
                Ok(())
            }
        }
    }

    fn delete(&mut self, path: &ImagePath, actual: &Inode) -> Result<Clear, DiffError> {
        self.visit()?;
        if actual.is_unknown() {
            self.unknown.insert(path.clone());
            return Ok(Clear::No);
        }
        let clear = match actual.directory() {
            Some(id) => self.delete_entries(path, id)?,
            None => Clear::Yes,
        };
        if clear == Clear::Yes {
            self.deleted += 1;
            self.deletions.push(Operation::Delete { path: path.clone(), directory: actual.is_directory() });
        }
        Ok(clear)
    }

    fn delete_entries(&mut self, path: &ImagePath, id: DirectoryId) -> Result<Clear, DiffError> {
        let Some(directory) = self.load(id) else { return Ok(Clear::No) };
        let mut clear = Clear::Yes;
        for entry in directory.iter() {
            let below = entry.path_in(path).map_err(|_| DiffError::Malformed { path: path.clone() })?;
            if self.delete(&below, &entry.inode())? == Clear::No {
                clear = Clear::No;
            }
        }
        Ok(clear)
    }

    /// A directory of the machine; one that is not here is noted.
    fn load(&mut self, id: DirectoryId) -> Option<Arc<Directory>> {
        let directory = self.comparison.directory(&id);
        if directory.is_none() {
            self.missing.insert(id.0);
        }
        directory
    }
}

/// Trees that can't be compared.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DiffError {
    /// Objects of the machine's tree must be got first.
    #[error("{} directories of the machine's tree must be fetched first", .0.len())]
    Missing(BTreeSet<ObjectId>),
    /// The trees were taken under different views, or with different digests.
    #[error("the trees were not taken under the same view")]
    OtherView,
    /// The required tree lacks a directory: it was not verified.
    #[error("the required tree is not complete")]
    Incomplete,
    /// The machine's tree contradicts itself; its agent is at fault.
    #[error("the machine's tree contradicts itself at {path}")]
    Malformed {
        /// Where.
        path: ImagePath,
    },
    /// The machine's tree describes more paths than any machine has.
    #[error("the machine's tree differs in more paths than any machine could have")]
    TooLarge,
}

/// The sets a name belongs to, by name.
pub(super) type SetOf<'a> = BTreeMap<&'a ImagePath, &'a [ImagePath]>;
