use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use dominator_core::tree::{Directory, DirectoryId};

/// The directories seen lately, for all machines: most differ from their image in the same ones.
///
/// Two generations: what was not asked for while the younger one filled up is forgotten.
#[derive(Debug)]
pub(super) struct DirectoryCache {
    generations: Mutex<Generations>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<DirectoryId, Arc<Directory>>,
    old: HashMap<DirectoryId, Arc<Directory>>,
    /// How large the encodings of the young ones are.
    weight: usize,
}

impl DirectoryCache {
    /// Keeps directories of about `limit` bytes, encoded.
    pub(super) fn new(limit: usize) -> Self {
        Self { generations: Mutex::default(), limit }
    }

    /// The directory of that id, if it is remembered.
    pub(super) fn find(&self, id: &DirectoryId) -> Option<Arc<Directory>> {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(directory) = generations.young.get(id) {
            return Some(directory.clone());
        }
        let directory = generations.old.remove(id)?;
        generations.insert(*id, directory.clone(), self.limit);
        Some(directory)
    }

    /// Remembers a directory. The id was verified.
    pub(super) fn insert(&self, id: DirectoryId, directory: Arc<Directory>) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.insert(id, directory, self.limit);
    }
}

impl Generations {
    fn insert(&mut self, id: DirectoryId, directory: Arc<Directory>, limit: usize) {
        let weight = directory.encoded().len();
        if self.weight.saturating_add(weight) > limit / 2 {
            self.old = std::mem::take(&mut self.young);
            self.weight = 0;
        }
        if self.young.insert(id, directory).is_none() {
            self.weight = self.weight.saturating_add(weight);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dominator_core::inode::{Inode, Why};
    use dominator_core::path::Name;

    fn directory(number: usize) -> (DirectoryId, Arc<Directory>) {
        let name = Name::parse(number.to_string().as_bytes()).unwrap();
        let directory = Directory::new([(name, Inode::unknown(Why::Unreadable))]).unwrap();
        (directory.id(), Arc::new(directory))
    }

    #[test]
    fn what_is_used_stays_and_the_rest_goes() {
        let cache = DirectoryCache::new(600);
        let (used, used_directory) = directory(0);
        let (unused, unused_directory) = directory(1);
        cache.insert(used, used_directory);
        cache.insert(unused, unused_directory);
        for number in 2..100 {
            let (id, directory) = directory(number);
            cache.insert(id, directory);
            assert!(cache.find(&used).is_some(), "after {number}");
        }
        assert!(cache.find(&unused).is_none());
    }
}
