use std::collections::{BTreeMap, HashMap};

use thiserror::Error;

use super::directory::{BadEntry, entry_len};
use super::{Directory, DirectoryId, DirectoryMap, LinkSets, Snapshot};
use crate::inode::{Inode, Kind};
use crate::path::{ImagePath, Name};
use crate::view::ViewId;

/// Builds a snapshot from inodes that come in any order.
#[derive(Debug)]
pub struct Builder {
    nodes: Nodes,
    /// Which paths share an inode: those with the same number.
    groups: HashMap<ImagePath, usize>,
    next_group: usize,
}

impl Builder {
    /// Starts with the inode of `/`.
    ///
    /// # Errors
    /// [`Conflict::NotADirectory`] when it is none.
    pub fn new(root: Inode) -> Result<Self, Conflict> {
        if root.is_directory() {
            let nodes = Nodes { nodes: vec![Node::new(root)], free: Vec::new() };
            Ok(Self { nodes, groups: HashMap::new(), next_group: 0 })
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
    /// [`Conflict`] when the directory for it is missing, no directory or full, or the inode is none a machine could
    /// have. Nothing was changed then.
    pub fn insert(&mut self, path: &ImagePath, inode: Inode) -> Result<(), Conflict> {
        let Some((parent, name)) = path.split() else {
            if !inode.is_directory() {
                return Err(Conflict::NotADirectory { path: path.clone() });
            }
            self.nodes.at_mut(Nodes::ROOT).inode = inode;
            return Ok(());
        };
        let bad = |cause| Conflict::Entry { path: path.clone(), cause };
        inode.check().map_err(|why| bad(BadEntry::Inode { name: name.clone(), why }))?;
        let parent = self.directory(&parent)?;
        let Node { entries, len, .. } = self.nodes.at(parent);
        let there = entries.get(name.as_bytes()).copied();
        let before = there.map_or(0, |there| entry_len(&name, &self.nodes.at(there).inode));
        let len = len - before + entry_len(&name, &inode);
        if len > Directory::MAX_LEN - Directory::HEADER {
            return Err(bad(BadEntry::Full));
        }
        self.nodes.at_mut(parent).len = len;
        match there {
            Some(there) => self.nodes.replace(there, inode),
            None => {
                let node = self.nodes.add(inode);
                self.nodes.at_mut(parent).entries.insert(name, node);
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
        let inode = self.nodes.find(target).map(|node| self.nodes.at(node).inode.clone());
        let inode = inode.filter(|inode| !inode.is_directory());
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
        self.nodes.find(path).is_some()
    }

    /// Names everything.
    pub fn finish(self, view: ViewId) -> Snapshot {
        let mut sets: BTreeMap<usize, Vec<ImagePath>> = BTreeMap::new();
        // What a later insertion put in the way of a link's directory is gone from the tree.
        for (path, group) in self.groups.iter().filter(|(path, _)| self.contains(path)) {
            sets.entry(*group).or_default().push(path.clone());
        }
        let (root, directories) = self.nodes.finish();
        Snapshot::new(view, root, LinkSets::new(sets.into_values()), directories)
    }

    fn directory(&self, path: &ImagePath) -> Result<usize, Conflict> {
        let node = self.nodes.find(path).ok_or_else(|| Conflict::NoParent { path: path.clone() })?;
        if self.nodes.at(node).inode.is_directory() {
            Ok(node)
        } else {
            Err(Conflict::NotADirectory { path: path.clone() })
        }
    }
}

/// All nodes of a tree, beside each other and not within each other: neither is one finished nor dropped by recursion.
#[derive(Debug)]
struct Nodes {
    nodes: Vec<Node>,
    /// Places whose nodes were replaced.
    free: Vec<usize>,
}

/// A node under construction. The directory id in `inode` is filled in at the end.
#[derive(Debug)]
struct Node {
    inode: Inode,
    entries: BTreeMap<Name, usize>,
    /// How long they are, encoded.
    len: usize,
}

impl Node {
    fn new(inode: Inode) -> Self {
        Self { inode, entries: BTreeMap::new(), len: 0 }
    }
}

impl Nodes {
    const ROOT: usize = 0;

    fn at(&self, place: usize) -> &Node {
        self.nodes.get(place).expect("invariant: every place in an entry is that of a node")
    }

    fn at_mut(&mut self, place: usize) -> &mut Node {
        self.nodes.get_mut(place).expect("invariant: every place in an entry is that of a node")
    }

    fn find(&self, path: &ImagePath) -> Option<usize> {
        path.components().try_fold(Self::ROOT, |node, part| self.at(node).entries.get(part).copied())
    }

    fn add(&mut self, inode: Inode) -> usize {
        if let Some(place) = self.free.pop() {
            *self.at_mut(place) = Node::new(inode);
            return place;
        }
        self.nodes.push(Node::new(inode));
        self.nodes.len() - 1
    }

    fn replace(&mut self, place: usize, inode: Inode) {
        let node = self.at_mut(place);
        let keeps = node.inode.is_directory() && inode.is_directory();
        node.inode = inode;
        if !keeps {
            node.len = 0;
            let mut gone: Vec<_> = std::mem::take(&mut node.entries).into_values().collect();
            while let Some(place) = gone.pop() {
                gone.extend(std::mem::take(&mut self.at_mut(place).entries).into_values());
                self.free.push(place);
            }
        }
    }

    /// Names every directory from the leaves up. Returns the root's inode and all directories.
    fn finish(mut self) -> (Inode, DirectoryMap) {
        let mut places = vec![Self::ROOT];
        let mut next = 0;
        while let Some(place) = places.get(next) {
            let entries = self.at(*place).entries.values().copied();
            let below: Vec<_> = entries.filter(|entry| self.at(*entry).inode.is_directory()).collect();
            places.extend(below);
            next += 1;
        }
        let mut directories = DirectoryMap::default();
        // What is in a directory comes behind it, so that from the end on each is complete when its turn comes.
        for place in places.into_iter().rev() {
            let entries = std::mem::take(&mut self.at_mut(place).entries);
            let entries = entries.into_iter().map(|(name, entry)| (name, self.at(entry).inode.clone()));
            let directory = Directory::new(entries);
            let directory =
                directory.expect("invariant: inodes and room were checked when they were inserted");
            self.at_mut(place).inode.kind = Kind::Directory { id: directories.insert(directory) };
        }
        let root = self.nodes.into_iter().next().expect("invariant: a tree has a root");
        (root.inode, directories)
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
