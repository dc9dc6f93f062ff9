use std::collections::BTreeSet;
use std::sync::Arc;

use thiserror::Error;

use super::Plan;
use crate::object::ObjectId;
use crate::path::ImagePath;
use crate::tree::{Directories, LinkSets, Snapshot, Tree};

/// What a machine is and must be, joined for comparison. Both trees are under one view.
#[derive(Debug)]
pub struct Comparison<'a, D> {
    /// What it must be, whole.
    pub required: &'a Snapshot,
    /// What it is.
    pub actual: &'a Tree,
    /// The hard links it has, whose id is in `actual`.
    pub links: &'a Arc<LinkSets>,
    /// Where directories of the machine that differ from the required ones are found.
    pub directories: &'a D,
}

/// What came of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// What is to be done.
    pub plan: Plan,
    /// Paths of which nothing is known; nothing is done to them.
    pub unknown: BTreeSet<ImagePath>,
}

/// Trees that can't be compared.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DiffError {
    /// Objects of the actual tree must be got first.
    #[error("{} objects of the machine's tree are missing", .0.len())]
    Missing(BTreeSet<ObjectId>),
    /// x
    #[error("x")]
    Malformed(ImagePath),
}

/// x
pub fn missing<D: Directories>(_c: &Comparison<'_, D>) -> BTreeSet<ObjectId> {
    BTreeSet::new()
}
