use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use thiserror::Error;

use super::directory::{BadEntry, entry_len};
use super::{Directory, DirectoryId, LinkSets, Tree, TreeId};
use crate::inode::{Inode, Kind};
use crate::object::{Algorithm, ObjectId};
use crate::path::{ImagePath, Name};
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
        self.walk_below(&ImagePath::root(), &self.tree.root, &mut visit);
    }

    fn walk_below(&self, path: &ImagePath, inode: &Inode, visit: &mut impl FnMut(&ImagePath, &Inode)) {
        visit(path, inode);
        let Some(directory) = inode.directory().and_then(|id| self.directories.directory(&id)) else {
            return;
        };
        for entry in directory.iter() {
            if let Ok(below) = entry.path_in(path) {
                self.walk_below(&below, &entry.inode(), visit);
            }
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
        let mut budget = max_inodes;
        self.verify_below(&ImagePath::root(), self.tree.root.directory(), &mut budget)?;
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

    fn verify_below(
        &self,
        path: &ImagePath,
        id: Option<DirectoryId>,
        budget: &mut u64,
    ) -> Result<(), Malformed> {
        *budget = budget.checked_sub(1).ok_or(Malformed::TooManyInodes)?;
        let Some(id) = id else { return Ok(()) };
        let directory = self
            .directories
            .directory(&id)
            .ok_or_else(|| Malformed::DirectoryMissing { path: path.clone(), id })?;
        for entry in directory.iter() {
            let below = entry.path_in(path).map_err(|_| Malformed::PathTooLong { path: path.clone() })?;
            self.verify_below(&below, entry.directory(), budget)?;
        }
        Ok(())
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
    #[error(
        "{path} holds a path of more than {} bytes or {} names",
        ImagePath::MAX_LEN,
        ImagePath::MAX_DEPTH
    )]
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

/// Builds a snapshot from inodes that come in any order.
#[derive(Debug)]
pub struct Builder {
    root: Node,
    /// Which paths share an inode: those with the same number.
    groups: HashMap<ImagePath, usize>,
    next_group: usize,
}

/// A node under construction. The directory id in `inode` is filled in at the end.
#[derive(Clone, Debug)]
struct Node {
    inode: Inode,
    entries: BTreeMap<Name, Node>,
    /// How long they are, encoded.
    len: usize,
}

impl Node {
    fn new(inode: Inode) -> Self {
        Self { inode, entries: BTreeMap::new(), len: 0 }
    }

    /// Names every directory from the leaves up and returns this one's inode.
    fn finish(self, directories: &mut DirectoryMap) -> Inode {
        let mut inode = self.inode;
        if inode.is_directory() {
            let entries = self.entries.into_iter().map(|(name, node)| (name, node.finish(directories)));
            let directory = Directory::new(entries);
            let directory =
                directory.expect("invariant: inodes and room were checked when they were inserted");
            inode.kind = Kind::Directory { id: directories.insert(directory) };
        }
        inode
    }
}

impl Builder {
    /// Starts with the inode of `/`.
    ///
    /// # Errors
    /// [`Conflict::NotADirectory`] when it is none.
    pub fn new(root: Inode) -> Result<Self, Conflict> {
        if root.is_directory() {
            Ok(Self { root: Node::new(root), groups: HashMap::new(), next_group: 0 })
        } else {
            Err(Conflict::NotADirectory { path: ImagePath::root() })
        }
    }

    /// The id to give a directory's inode before it is known: [`Builder::finish`] puts the right one in.
    pub fn placeholder() -> DirectoryId {
        Directory::default().id()
    }

    /// Adds an inode, or replaces what is there; a directory that replaces a directory keeps its entries.
    ///
    /// # Errors
    /// [`Conflict`] when the directory for it is missing, no directory or full, or the inode is none a machine could have.
    pub fn insert(&mut self, path: &ImagePath, inode: Inode) -> Result<(), Conflict> {
        let Some((parent, name)) = path.split() else {
            if !inode.is_directory() {
                return Err(Conflict::NotADirectory { path: path.clone() });
            }
            self.root.inode = inode;
            return Ok(());
        };
        let bad = |cause| Conflict::Entry { path: path.clone(), cause };
        inode.check().map_err(|why| bad(BadEntry::Inode { name: name.clone(), why }))?;
        let above = self.directory(&parent)?;
        let before = above.entries.get(&name).map_or(0, |node| entry_len(&name, &node.inode));
        let len = above.len - before + entry_len(&name, &inode);
        if len > Directory::MAX_LEN - Directory::HEADER {
            return Err(bad(BadEntry::Full));
        }
        above.len = len;
        match above.entries.get_mut(&name) {
            Some(node) if node.inode.is_directory() && inode.is_directory() => node.inode = inode,
            _ => {
                above.entries.insert(name, Node::new(inode));
            }
        }
        self.groups.remove(path);
        Ok(())
    }

    /// Makes `path` another name of the inode at `target`, which must be there and no directory.
    ///
    /// # Errors
    /// [`Conflict`] when it is not, or when `path` has no directory to be in.
    pub fn link(&mut self, path: &ImagePath, target: &ImagePath) -> Result<(), Conflict> {
        let inode = self.node(target).map(|node| node.inode.clone()).filter(|inode| !inode.is_directory());
        let inode = inode.ok_or_else(|| Conflict::NoTarget { path: path.clone(), target: target.clone() })?;
        if path == target {
            return Ok(());
        }
        self.insert(path, inode)?;
        let fresh = self.next_group;
        let group = *self.groups.entry(target.clone()).or_insert(fresh);
        self.next_group += usize::from(group == fresh);
        self.groups.insert(path.clone(), group);
        Ok(())
    }

    /// Whether something was inserted at `path`.
    pub fn contains(&self, path: &ImagePath) -> bool {
        self.node(path).is_some()
    }

    /// Names everything.
    pub fn finish(self, view: ViewId) -> Snapshot {
        let mut directories = DirectoryMap::default();
        let mut sets: BTreeMap<usize, Vec<ImagePath>> = BTreeMap::new();
        // What a later insertion put in the way of a link's directory is gone from the tree.
        let there: Vec<_> = self.groups.keys().filter(|path| self.contains(path)).cloned().collect();
        for path in there {
            if let Some(group) = self.groups.get(&path) {
                sets.entry(*group).or_default().push(path);
            }
        }
        let root = self.root.finish(&mut directories);
        Snapshot::new(view, root, LinkSets::new(sets.into_values()), directories)
    }

    fn node(&self, path: &ImagePath) -> Option<&Node> {
        path.components().try_fold(&self.root, |node, part| node.entries.get(part))
    }

    fn directory(&mut self, path: &ImagePath) -> Result<&mut Node, Conflict> {
        let mut node = &mut self.root;
        for part in path.components() {
            node = node.entries.get_mut(part).ok_or_else(|| Conflict::NoParent { path: path.clone() })?;
        }
        if node.inode.is_directory() { Ok(node) } else { Err(Conflict::NotADirectory { path: path.clone() }) }
    }
}

/// An inode that has no place in the tree that is being built.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Conflict {
    /// The directory is missing.
    #[error("there is no directory {path}")]
    NoParent {
        /// The directory that is missing.
        path: ImagePath,
    },
    /// What should be a directory is something else.
    #[error("{path} is no directory")]
    NotADirectory {
        /// The path in question.
        path: ImagePath,
    },
    /// The directory can't have it.
    #[error("{path} can't be part of a tree")]
    Entry {
        /// The path in question.
        path: ImagePath,
        /// Why not.
        #[source]
        cause: BadEntry,
    },
    /// The target of a hard link is missing or a directory.
    #[error("{path} is a hard link to {target}, which is no file that came before it")]
    NoTarget {
        /// The link.
        path: ImagePath,
        /// What it should be another name of.
        target: ImagePath,
    },
}
