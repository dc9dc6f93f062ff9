use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;

use dominator_core::inode::Inode;
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::plan::{Operation, Plan};
use dominator_core::port::PathFailure;
use dominator_core::view::View;

use super::local::Taken;
use super::metadata::Rules;
use super::stage::Staging;
use super::typestate::{Fetched, Staged, Update};
use super::{UpdateError, Updater};
use crate::mounts::Mounts;

/// A plan of which each operation is one that may be carried out.
#[derive(Debug)]
pub(super) struct Checked<'p> {
    pub(super) rules: Rules,
    pub(super) operations: Vec<&'p Operation>,
    pub(super) failures: Vec<PathFailure>,
    /// How often each object is used, and its length in bytes.
    pub(super) uses: BTreeMap<ObjectId, (usize, u64)>,
    /// Those of them that are taken from the tree.
    pub(super) taken: Taken,
}

impl<'p> Checked<'p> {
    pub(super) fn of(updater: &Updater, plan: &'p Plan, view: &View) -> Result<Self, UpdateError> {
        // Where it can't be found out what is mounted, nothing begins.
        drop(Mounts::of(&updater.root)?);
        let mut failures = Vec::new();
        let mut operations = Vec::new();
        for operation in &plan.operations {
            match vet(operation, view) {
                Ok(()) => operations.push(operation),
                Err(failure) => failures.push(failure),
            }
        }
        let uses = objects_used(&operations);
        let taken = Taken { from: BTreeMap::new(), linked: BTreeMap::new() };
        let mut checked = Self { rules: Rules::of(view), operations, failures, uses, taken };
        checked.objects_are_here(updater)?;
        checked.there_is_room(updater)?;
        Ok(checked)
    }

    fn objects_are_here(&mut self, updater: &Updater) -> Result<(), UpdateError> {
        let mut missing = BTreeSet::new();
        for id in self.uses.keys() {
            if updater.objects.size(id).map_err(UpdateError::Work)?.is_none() {
                missing.insert(*id);
            }
        }
        if !missing.is_empty() {
            self.take_locally(updater, &missing).map_err(UpdateError::Work)?;
            missing.retain(|id| !self.taken.from.contains_key(id));
        }
        if missing.is_empty() { Ok(()) } else { Err(UpdateError::Missing(missing)) }
    }

    /// There must be room for what is copied because it is used more than once, and inodes for all that is new.
    fn there_is_room(&self, updater: &Updater) -> Result<(), UpdateError> {
        let free = updater.objects.free_space().map_err(UpdateError::Work)?;
        let copies = self
            .uses
            .iter()
            .flat_map(|(id, (count, size))| std::iter::repeat_n(*size, self.copies(id, *count)));
        let need = free.needed(copies);
        if need > free.bytes {
            return Err(UpdateError::NoSpace { need, free: free.bytes });
        }
        let stat =
            rustix::fs::fstatvfs(updater.root.as_fd()).map_err(|error| UpdateError::Work(error.into()))?;
        let (need, free) = (self.new_inodes(), stat.f_favail.saturating_sub(Self::INODES_LEFT));
        // Some file-systems make inodes as they need them, and tell of none.
        if stat.f_files > 0 && need > free {
            return Err(UpdateError::NoInodes { need, free });
        }
        Ok(())
    }

    /// How many inodes are left to others, and to the journal.
    const INODES_LEFT: u64 = 16;

    fn new_inodes(&self) -> u64 {
        // What has an object becomes that, unless it is empty.
        let is_new = |inode: &Inode| inode.object().is_none_or(|(_, size)| size == 0);
        let made = self.operations.iter().filter(|operation| {
            matches!(operation, Operation::MakeDirectory { .. })
                || matches!(operation, Operation::Put { inode, .. } if is_new(inode))
        });
        let copies = self.uses.iter().map(|(id, (count, _))| self.copies(id, *count));
        (made.count() + copies.sum::<usize>()) as u64
    }
}

/// Refuses what no plan for this view may touch: the order comes from elsewhere, and the machine has the last word.
fn vet(operation: &Operation, view: &View) -> Result<(), PathFailure> {
    let refuse = |path: &ImagePath, reason: &str| {
        Err(PathFailure { path: path.clone(), reason: format!("refused: {reason}") })
    };
    // Names are counted: one that is told twice would stand for one that is not in view.
    if let Operation::SetMetadata { paths, .. } = operation
        && paths.iter().collect::<BTreeSet<_>>().len() < paths.len()
    {
        return refuse(paths.first().unwrap_or(&ImagePath::root()), "it is named twice");
    }
    let target = if let Operation::Link { target, .. } = operation { Some(target) } else { None };
    for path in operation.paths().iter().chain(target) {
        if !view.reaches(path) {
            return refuse(path, "it is protected or not in view");
        }
        if path.is_root() && !matches!(operation, Operation::SetMetadata { .. }) {
            return refuse(path, "the root itself can't be replaced or deleted");
        }
    }
    Ok(())
}

/// How often each object is used, and its length.
fn objects_used(operations: &[&Operation]) -> BTreeMap<ObjectId, (usize, u64)> {
    let mut uses = BTreeMap::new();
    for operation in operations {
        if let Operation::Put { inode, .. } = operation
            && let Some((object, size)) = inode.object()
            && size > 0
        {
            uses.entry(object).or_insert((0, size)).0 += 1;
        }
    }
    uses
}

impl<'u> Update<'u, Fetched<'_>> {
    /// Makes everything new with its final metadata, beside the tree, and makes it durable. Nothing in view changes.
    /// Objects are hashed again and used up.
    ///
    /// # Errors
    /// [`UpdateError`] when an object is corrupt, or the disk can't take what is new; the objects are in the cache again
    /// then. Paths that can't be prepared, or are not in the view, are no errors but failures in the report.
    pub fn stage(self) -> Result<Update<'u, Staged>, UpdateError> {
        let Self { updater, state: Fetched { checked } } = self;
        let mut staging = Staging::new(updater, checked);
        match staging.all() {
            Ok(()) => {
                let installed = std::mem::take(&mut staging.installed);
                let prepared = staging.prepared();
                updater.installed = installed;
                Ok(Update { updater, state: Staged { prepared } })
            }
            Err(error) => {
                let prepared = staging.prepared();
                updater.give_back(&prepared.steps);
                updater.tidy_or_warn();
                if let UpdateError::Corrupt { id } = &error {
                    updater.objects.remove(id).map_err(UpdateError::Work)?;
                }
                Err(error)
            }
        }
    }
}
