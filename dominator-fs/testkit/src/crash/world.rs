use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dominator_fs::seam::Rename;

use super::log::{Op, Place};

/// One inode, for as long as it is watched: what has this number is the same inode in every world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(super) u32);

/// What an inode is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// What it consists of.
    pub body: Body,
    /// Its metadata.
    pub attributes: Attributes,
}

/// What an inode consists of, by kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Body {
    /// Entries by name.
    Directory(BTreeMap<Vec<u8>, NodeId>),
    /// Contents.
    File(Arc<Vec<u8>>),
    /// Where it leads.
    Symlink(Vec<u8>),
    /// A pipe or a device.
    Special {
        /// Its kind, as `st_mode` has it.
        kind: u32,
        /// Its device number.
        device: u64,
    },
}

/// The metadata of an inode.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// Twelve bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Seconds and nanoseconds; nothing where images keep none.
    pub mtime: Option<(i64, u32)>,
    /// All extended attributes that can be seen.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Whether it is immutable or only to be appended to, as `chattr` has it.
    pub flags: u32,
}

/// A tree with all its inodes at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct World {
    pub(super) nodes: BTreeMap<NodeId, Arc<Node>>,
}

impl World {
    /// The directory at the top.
    pub const TOP: NodeId = NodeId(0);

    /// Every path but the top's, from `/`, and what is there.
    pub fn paths(&self) -> BTreeMap<Vec<u8>, NodeId> {
        let mut found = BTreeMap::new();
        let mut waiting = vec![(Vec::new(), Self::TOP)];
        while let Some((path, dir)) = waiting.pop() {
            for (name, node) in self.entries(dir).into_iter().flatten() {
                let path = [path.as_slice(), b"/", name].concat();
                if self.entries(*node).is_some() {
                    waiting.push((path.clone(), *node));
                }
                found.insert(path, *node);
            }
        }
        found
    }

    /// What has that number.
    pub fn node(&self, node: NodeId) -> Option<&Node> {
        self.nodes.get(&node).map(|node| &**node)
    }

    /// What is at a path such as `/etc/hosts`.
    pub fn at(&self, path: &[u8]) -> Option<NodeId> {
        let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        names.into_iter().try_fold(Self::TOP, |dir, name| self.entries(dir)?.get(name).copied())
    }

    /// The entries of a directory; nothing when it is none.
    pub fn entries(&self, node: NodeId) -> Option<&BTreeMap<Vec<u8>, NodeId>> {
        match &self.node(node)?.body {
            Body::Directory(entries) => Some(entries),
            Body::File(_) | Body::Symlink(_) | Body::Special { .. } => None,
        }
    }

    /// The contents of the file at a path such as `/etc/hosts`; nothing when there is none.
    pub fn read(&self, path: &str) -> Option<&[u8]> {
        self.contents(self.at(path.as_bytes())?)
    }

    /// The contents of a file.
    pub fn contents(&self, node: NodeId) -> Option<&[u8]> {
        match &self.node(node)?.body {
            Body::File(contents) => Some(contents),
            Body::Directory(_) | Body::Symlink(_) | Body::Special { .. } => None,
        }
    }

    /// The names in the directory at a path, none when there is none.
    pub fn names(&self, dir: &str) -> Vec<String> {
        let entries = self.at(dir.as_bytes()).and_then(|dir| self.entries(dir));
        entries.into_iter().flatten().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect()
    }

    /// Without what no path leads to.
    pub(super) fn reachable(mut self) -> Self {
        let mut wanted = BTreeSet::from([Self::TOP]);
        wanted.extend(self.paths().into_values());
        self.nodes.retain(|node, _| wanted.contains(node));
        self
    }

    /// How many names each inode has.
    pub(super) fn link_counts(&self) -> BTreeMap<NodeId, usize> {
        let mut names = BTreeMap::new();
        for node in self.nodes.values() {
            if let Body::Directory(entries) = &node.body {
                entries.values().for_each(|node| *names.entry(*node).or_insert(0) += 1);
            }
        }
        names
    }

    pub(super) fn lookup(&self, place: &Place) -> Option<NodeId> {
        self.entries(place.dir)?.get(&place.name).copied()
    }

    pub(super) fn make_mut(&mut self, node: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(&node).map(Arc::make_mut)
    }

    /// Makes one change of names or length. Contents are changed by [`Self::write`].
    pub(super) fn change(&mut self, op: &Op) {
        match op {
            Op::Make { node, fresh, at } => {
                self.nodes.insert(*node, Arc::new(fresh.clone()));
                self.enter(at, Some(*node));
            }
            Op::Link { node, at } => self.enter(at, Some(*node)),
            Op::Rename { from, to, how } => {
                let (moved, displaced) = (self.lookup(from), self.lookup(to));
                // Renaming one name of an inode over another does nothing in Linux.
                if moved != displaced {
                    self.enter(to, moved);
                    self.enter(from, if *how == Rename::Exchange { displaced } else { None });
                }
            }
            Op::Remove { at } => self.enter(at, None),
            Op::Length { node, len } => {
                if let Some(Node { body: Body::File(contents), .. }) = self.make_mut(*node) {
                    Arc::make_mut(contents).resize(*len, 0);
                }
            }
            Op::Write { .. } | Op::Attributes | Op::Sync { .. } | Op::SyncAll | Op::Mark(_) => {}
        }
    }

    /// Puts bytes into a file, which grows to hold them.
    pub(super) fn write(&mut self, node: NodeId, offset: usize, bytes: &[u8]) {
        let Some(Node { body: Body::File(contents), .. }) = self.make_mut(node) else { return };
        let contents = Arc::make_mut(contents);
        let end = offset + bytes.len();
        if contents.len() < end {
            contents.resize(end, 0);
        }
        if let Some(there) = contents.get_mut(offset..end) {
            there.copy_from_slice(bytes);
        }
    }

    /// The length of a file.
    pub(super) fn len(&self, node: NodeId) -> Option<usize> {
        match &self.node(node)?.body {
            Body::File(contents) => Some(contents.len()),
            Body::Directory(_) | Body::Symlink(_) | Body::Special { .. } => None,
        }
    }

    pub(super) fn dress(&mut self, node: NodeId, attributes: &Attributes) {
        if let Some(node) = self.make_mut(node) {
            node.attributes = attributes.clone();
        }
    }

    fn enter(&mut self, at: &Place, node: Option<NodeId>) {
        let Some(Node { body: Body::Directory(entries), .. }) = self.make_mut(at.dir) else { return };
        match node {
            Some(node) => drop(entries.insert(at.name.clone(), node)),
            None => drop(entries.remove(&at.name)),
        }
    }
}
