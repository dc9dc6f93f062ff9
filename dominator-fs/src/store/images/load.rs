//! Trees out of the object store.

use std::collections::HashSet;
use std::sync::Arc;

use dominator_core::object::ObjectId;
use dominator_core::port::{ImageError, StoreError};
use dominator_core::tree::{Directory, DirectoryId, DirectoryMap, LinkSets, Snapshot, Tree};

use super::{ImageStore, malformed};
use crate::store::objects::ObjectStore;

/// Reads all directories and the hard links of `tree`.
pub(super) fn snapshot(objects: &ObjectStore, tree: &Tree) -> Result<Snapshot, ImageError> {
    let mut missing = Missing::default();
    let links = match missing.note(objects.read(&tree.links.0, LinkSets::MAX_LEN))? {
        Some(bytes) => LinkSets::decode(&bytes).map_err(malformed)?,
        None => LinkSets::default(),
    };
    let directories = directories(objects, tree, &mut missing)?;
    missing.none()?;
    let snapshot = Snapshot { tree: tree.clone(), links, directories };
    snapshot.verify(ImageStore::MAX_INODES).map_err(malformed)?;
    Ok(snapshot)
}

fn directories(
    objects: &ObjectStore,
    tree: &Tree,
    missing: &mut Missing,
) -> Result<DirectoryMap, ImageError> {
    let mut directories = DirectoryMap::default();
    let mut wanted: Vec<DirectoryId> = tree.root.directory().into_iter().collect();
    let mut seen: HashSet<DirectoryId> = wanted.iter().copied().collect();
    let mut budget = ImageStore::MAX_INODES;
    while let Some(id) = wanted.pop() {
        let Some(bytes) = missing.note(objects.read(&id.0, Directory::MAX_LEN))? else { continue };
        let directory = Directory::decode(bytes).map_err(malformed)?;
        budget = budget
            .checked_sub(directory.len() as u64)
            .ok_or_else(|| malformed(format!("its tree has more than {} entries", ImageStore::MAX_INODES)))?;
        let below = directory.iter().filter_map(|entry| entry.directory());
        wanted.extend(below.filter(|id| seen.insert(*id)));
        directories.share(id, Arc::new(directory));
    }
    Ok(directories)
}

/// Which objects were looked for and are not there.
#[derive(Debug, Default)]
pub(super) struct Missing {
    first: Option<ObjectId>,
    count: usize,
}

impl Missing {
    /// Counts an object that is not there; other errors end the search.
    pub(super) fn note(&mut self, read: Result<Vec<u8>, StoreError>) -> Result<Option<Vec<u8>>, ImageError> {
        match read {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::NotFound { id }) => {
                self.add(id);
                Ok(None)
            }
            Err(error) => Err(store_failed(error)),
        }
    }

    pub(super) fn add(&mut self, id: ObjectId) {
        self.first.get_or_insert(id);
        self.count += 1;
    }

    /// # Errors
    /// [`ImageError::Incomplete`] unless everything was there.
    pub(super) fn none(&self) -> Result<(), ImageError> {
        match self.first {
            None => Ok(()),
            Some(first) => Err(ImageError::Incomplete { first, count: self.count }),
        }
    }
}

pub(super) fn store_failed(error: StoreError) -> ImageError {
    ImageError::Failed {
        what: "the object store failed".into(),
        cause: dominator_core::port::Cause::new(error),
    }
}
