use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use thiserror::Error;

use super::{Directory, DirectoryId, Entry, LinkSets, Tree, TreeId};
use crate::inode::Inode;
use crate::object::{Algorithm, ObjectId};
use crate::path::ImagePath;
use crate::view::ViewId;

/// Where directories are looked up by id.
pub trait Directories {
    /// The directory of that id, if it is here.
    fn directory(&self, id: &DirectoryId) -> Option<Arc<Directory>>;
}

/// Directories in memory.
#[derive(Clone, Debug, Default)]
pub struct DirectoryMap(HashMap<DirectoryId, Arc<Directory>>);

impl DirectoryMap {
    /// Adds a directory under its own id, which is returned.
    pub fn insert(&mut self, directory: Directory) -> DirectoryId {
        let id = directory.id();
        self.0.entry(id).or_insert_with(|| Arc::new(directory));
        id
    }

    /// Adds a directory that is shared with other maps. The caller vouches for the id.
    pub fn share(&mut self, id: DirectoryId, directory: Arc<Directory>) {
        self.0.entry(id).or_insert(directory);
    }

    /// Every directory.
    pub fn iter(&self) -> impl Iterator<Item = (&DirectoryId, &Arc<Directory>)> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Directories for DirectoryMap {
    fn directory(&self, id: &DirectoryId) -> Option<Arc<Directory>> {
        self.0.get(id).cloned()
    }
}

/// A tree with its hard links and all its directories in memory.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The tree itself.
    pub tree: Tree,
    /// Its hard links.
    pub links: LinkSets,
    /// Its directories.
    pub directories: DirectoryMap,
}

impl Snapshot {
    /// Joins the parts of a tree. `root` is the inode of `/`, a directory.
    pub fn new(view: ViewId, root: Inode, links: LinkSets, directories: DirectoryMap) -> Self {
        let tree = Tree { algorithm: Algorithm::Sha256, view, root, links: links.id() };
        Self { tree, links, directories }
    }

    /// The id of the tree.
    pub fn id(&self) -> TreeId {
        self.tree.id()
    }

    /// The inode at `path`, if there is one and the directories on the way are here.
    pub fn inode(&self, path: &ImagePath) -> Option<Inode> {
        find(&self.directories, &self.tree.root, path)
    }

    /// Calls `visit` with every path and inode, directories before what is in them, names in order. Paths that
    /// would be no [`ImagePath`] and directories that are not here end their branch silently; [`Self::verify`] finds them.
    pub fn walk(&self, mut visit: impl FnMut(&ImagePath, &Inode)) {
        let directory = |id: Option<DirectoryId>| id.and_then(|id| self.directories.directory(&id));
        let root = &self.tree.root;
        visit(&ImagePath::root(), root);
        let mut open: Vec<_> =
            directory(root.directory()).map(|root| Level::new(ImagePath::root(), root)).into_iter().collect();
        while let Some(level) = open.last_mut() {
            let Some((at, entry)) = level.next() else {
                open.pop();
                continue;
            };
            let Ok(path) = entry.path_in(at) else { continue };
            visit(&path, &entry.inode());
            let below = directory(entry.directory());
            open.extend(below.map(|directory| Level::new(path, directory)));
        }
    }

    /// Every object the regular files need, with its length, each once.
    pub fn objects(&self) -> BTreeMap<ObjectId, u64> {
        self.directories
            .iter()
            .flat_map(|(_, directory)| directory.iter().filter_map(|entry| entry.object()))
            .collect()
    }

    /// Checks that this is a complete tree a machine could have: every directory is here, no path too long, no more
    /// than `max_inodes` entries, every hard link set of equal inodes that are no directories.
    ///
    /// # Errors
    /// The first [`Malformed`] thing found.
    pub fn verify(&self, max_inodes: u64) -> Result<(), Malformed> {
        self.verify_directories(max_inodes)?;
        if self.links.id() != self.tree.links {
            return Err(Malformed::OtherLinks);
        }
        for set in self.links.iter() {
            let inodes: Vec<_> = set.iter().map(|path| self.inode(path)).collect();
            let sound = inodes
                .windows(2)
                .all(|pair| matches!(pair, [Some(a), Some(b)] if a == b && !a.is_directory()));
            if !sound {
                return Err(Malformed::Links { path: set.first().cloned().unwrap_or_else(ImagePath::root) });
            }
        }
        Ok(())
    }

    fn verify_directories(&self, max_inodes: u64) -> Result<(), Malformed> {
        let mut budget = max_inodes;
        let mut open: Vec<Level> = Vec::new();
        let mut next = Some((ImagePath::root(), self.tree.root.directory()));
        loop {
            if let Some((path, id)) = next.take() {
                budget = budget.checked_sub(1).ok_or(Malformed::TooManyInodes)?;
                if let Some(id) = id {
                    let directory = self.directories.directory(&id);
                    let missing = || Malformed::DirectoryMissing { path: path.clone(), id };
                    let directory = directory.ok_or_else(missing)?;
                    open.push(Level::new(path, directory));
                }
            }
            let Some(level) = open.last_mut() else { return Ok(()) };
            match level.next() {
                Some((at, entry)) => {
                    let too_long = |_| Malformed::PathTooLong { path: at.clone() };
                    next = Some((entry.path_in(at).map_err(too_long)?, entry.directory()));
                }
                None => drop(open.pop()),
            }
        }
    }
}

/// A directory that is being gone through. Kept in a stack on the heap: a tree may be deeper than the stack of a thread.
struct Level {
    path: ImagePath,
    directory: Arc<Directory>,
    next: usize,
}

impl Level {
    fn new(path: ImagePath, directory: Arc<Directory>) -> Self {
        Self { path, directory, next: 0 }
    }

    fn next(&mut self) -> Option<(&ImagePath, Entry<'_>)> {
        let entry = self.directory.nth(self.next)?;
        self.next += 1;
        Some((&self.path, entry))
    }
}

/// A tree no machine could have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Malformed {
    /// A directory is named but not here.
    #[error("the entries of {path} ({id}) are missing")]
    DirectoryMissing {
        /// Where it hangs.
        path: ImagePath,
        /// What is missing.
        id: DirectoryId,
    },
    /// Directories nested too deep.
    #[error("{path} holds a path of more than {} bytes", ImagePath::MAX_LEN)]
    PathTooLong {
        /// The last directory that fits.
        path: ImagePath,
    },
    /// More entries than allowed.
    #[error("the tree has more entries than allowed")]
    TooManyInodes,
    /// The hard links given are not those the tree names.
    #[error("the hard links are not those the tree names")]
    OtherLinks,
    /// A hard link set of different, missing or directory inodes.
    #[error("the hard link set of {path} is not of equal files")]
    Links {
        /// The first name of the set.
        path: ImagePath,
    },
}

/// The inode at `path` below `root`, as far as `directories` has the way there.
pub(crate) fn find(directories: &impl Directories, root: &Inode, path: &ImagePath) -> Option<Inode> {
    let Some((parent, name)) = path.split() else { return Some(root.clone()) };
    let mut id = root.directory()?;
    for part in parent.components() {
        id = directories.directory(&id)?.entry(part)?.directory()?;
    }
    Some(directories.directory(&id)?.entry(name.as_bytes())?.inode())
}
