use std::collections::BTreeSet;
use std::sync::Arc;

use thiserror::Error;

use super::Plan;
use super::links::{self, Sides};
use super::walk::{Walked, walk};
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
        let mut missing = self.walk()?.missing;
        missing.extend(self.missing_links());
        Ok(missing)
    }

    /// What must be got next when directories that were missing have come, without another way down from the root: a
    /// machine whose tree is two thousand deep would make two thousand of them. Nothing when [`Comparison::plan`] is
    /// worth another try.
    pub fn missing_below<'d>(&self, came: impl IntoIterator<Item = &'d Directory>) -> BTreeSet<ObjectId> {
        // What came is nowhere in the required tree, or it would not have been missing. So what is in it stands where
        // the required tree has something else, unless it is in that, too, and then it is here.
        let below =
            came.into_iter().flat_map(|directory| directory.iter().filter_map(|entry| entry.directory()));
        below.filter(|id| self.directory(id).is_none()).map(|id| id.0).collect()
    }

    /// The plan that makes the machine what it must be. Takes time for what differs, not for what is there.
    ///
    /// # Errors
    /// [`DiffError::Missing`] with what [`Comparison::missing`] says, unless that is nothing; others when the trees
    /// can't be compared.
    pub fn plan(&self) -> Result<Compared, DiffError> {
        if self.required.tree == *self.actual {
            return Ok(Compared::default());
        }
        let Walked { directories: mut operations, touched, deletions, unknown, mut missing, added, deleted } =
            self.walk()?;
        missing.extend(self.missing_links());
        let (true, Some(links)) = (missing.is_empty(), self.sets()) else {
            return Err(DiffError::Missing(missing));
        };
        let sides = Sides {
            required: &|path| self.required.inode(path),
            actual: &|path| self.find(path),
            required_links: &self.required.links,
            actual_links: links,
        };
        operations.append(&mut links::reconcile(&sides, touched, &unknown)?);
        operations.extend(deletions);
        Ok(Compared { plan: Plan { operations }, unknown, added, deleted })
    }

    fn sets(&self) -> Option<&LinkSets> {
        if self.actual.links == self.required.tree.links { Some(&self.required.links) } else { self.links }
    }

    fn missing_links(&self) -> Option<ObjectId> {
        self.sets().is_none().then_some(self.actual.links.0)
    }

    fn walk(&self) -> Result<Walked, DiffError> {
        if self.required.tree.view != self.actual.view
            || self.required.tree.algorithm != self.actual.algorithm
        {
            return Err(DiffError::OtherView);
        }
        walk(self)
    }

    pub(super) fn directory(&self, id: &DirectoryId) -> Option<Arc<Directory>> {
        // Those asked for mostly differ from the required ones.
        self.directories.directory(id).or_else(|| self.required.directories.directory(id))
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
