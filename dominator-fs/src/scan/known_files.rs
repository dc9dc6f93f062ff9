//! The regular files a cache knows, in order, and other contents for one of them.

use std::iter::Peekable;
use std::sync::Arc;

use dominator_core::inode::Kind;
use dominator_core::object::ObjectId;
use dominator_core::path::{ImagePath, Name};
use dominator_core::tree::{DirectoryWriter, Entry};

use super::cache::Cache;
use super::identity::{Identity, Links};
use super::known::{Child, Known};

/// A regular file that is not empty, as it was when it was looked at.
#[derive(Clone, Debug)]
pub(crate) struct KnownFile {
    pub(crate) path: ImagePath,
    pub(crate) identity: Identity,
    pub(crate) object: ObjectId,
}

impl Cache {
    /// The files that come after `after`, in order.
    pub(crate) fn files(&self, after: Option<&ImagePath>) -> impl Iterator<Item = KnownFile> {
        self.top.iter().flat_map(move |top| Files::new(top, after))
    }

    /// How much there is to read in all files together, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        let mut bytes = 0_u64;
        let mut rest: Vec<&Arc<Known>> = self.top.iter().collect();
        while let Some(known) = rest.pop() {
            let sizes = known.directory.iter().filter_map(|entry| entry.object());
            bytes = sizes.fold(bytes, |bytes, (_, size)| bytes.saturating_add(size));
            rest.extend(&known.below);
        }
        bytes
    }

    /// Knows from now on that a file contains something else, under all its names.
    pub(super) fn correct(&mut self, file: &KnownFile, found: ObjectId) {
        let mut paths = vec![file.path.clone()];
        if file.identity.links == Links::Several {
            // Names of one file that don't agree would make a scan doubt all of them.
            let others = self.files(None).filter(|other| other.identity.key() == file.identity.key());
            paths = others.map(|other| other.path).collect();
        }
        for path in paths {
            let corrected = self.top.as_ref().and_then(|top| top.corrected(&path, found));
            if let Some(top) = corrected {
                self.top = Some(Arc::new(top));
            }
        }
    }
}

/// Regular files in the order of a tree: by name within a directory, and what is below a directory in its place.
pub(super) struct Files<'a> {
    levels: Vec<Level<'a>>,
}

struct Level<'a> {
    path: ImagePath,
    children: Peekable<Box<dyn Iterator<Item = (Entry<'a>, Child<'a>)> + 'a>>,
}

impl<'a> Files<'a> {
    /// Those that come after the place where `after` is or was.
    pub(super) fn new(top: &'a Known, after: Option<&ImagePath>) -> Self {
        let mut files = Self { levels: vec![Level::new(ImagePath::root(), top)] };
        for name in after.into_iter().flat_map(ImagePath::components) {
            let Some(below) = files.levels.last_mut().and_then(|level| level.skip_to(name)) else { break };
            files.levels.push(below);
        }
        files
    }
}

impl Iterator for Files<'_> {
    type Item = KnownFile;

    fn next(&mut self) -> Option<KnownFile> {
        while let Some(level) = self.levels.last_mut() {
            let Some((entry, child)) = level.children.next() else {
                self.levels.pop();
                continue;
            };
            // A path that is too long can't be in a tree.
            let Ok(path) = entry.path_in(&level.path) else { continue };
            match (child, entry.object()) {
                (Child::Directory(known), _) => self.levels.push(Level::new(path, known)),
                (Child::File(identity), Some((object, 1..))) => {
                    return Some(KnownFile { path, identity: *identity, object });
                }
                (Child::File(_), _) => {}
            }
        }
        None
    }
}

impl<'a> Level<'a> {
    fn new(path: ImagePath, known: &'a Known) -> Self {
        let children: Box<dyn Iterator<Item = _> + 'a> = Box::new(known.children());
        Self { path, children: children.peekable() }
    }

    /// Leaves out all up to `name`, and is in it when it is a directory.
    fn skip_to(&mut self, name: &[u8]) -> Option<Self> {
        while self.children.next_if(|(entry, _)| entry.name() < name).is_some() {}
        let (entry, child) = self.children.next_if(|(entry, _)| entry.name() == name)?;
        match child {
            Child::Directory(known) => Some(Self::new(entry.path_in(&self.path).ok()?, known)),
            Child::File(_) => None,
        }
    }
}

impl Known {
    /// The same, but that the file at `path` has other contents; nothing when there is no such file.
    fn corrected(&self, path: &ImagePath, found: ObjectId) -> Option<Self> {
        let mut names: Vec<Name> = path.names().collect();
        let file = names.pop()?;
        // By a loop: paths are deeper than stacks.
        let mut on_the_way = vec![self];
        for name in &names {
            on_the_way.push(on_the_way.last()?.child(name.as_bytes())?);
        }
        let mut known = on_the_way.pop()?.with(&file, &Other::Contents(found))?;
        while let (Some(parent), Some(name)) = (on_the_way.pop(), names.pop()) {
            known = parent.with(&name, &Other::Directory(Arc::new(known)))?;
        }
        Some(known)
    }

    /// The same, but for the entry of that name.
    fn with(&self, name: &Name, other: &Other) -> Option<Self> {
        let mut writer = DirectoryWriter::new();
        let mut below = Vec::with_capacity(self.below.len());
        let mut replaced = false;
        for (entry, child) in self.children() {
            let here = entry.name() == name.as_bytes();
            replaced |= here;
            match (child, other) {
                (Child::Directory(_), Other::Directory(known)) if here => {
                    writer.push(name, &known.inode).ok()?;
                    below.push(Arc::clone(known));
                }
                (Child::File(_), Other::Contents(found)) if here => {
                    let mut inode = entry.inode();
                    let Kind::Regular { object, .. } = &mut inode.kind else { return None };
                    *object = *found;
                    writer.push(name, &inode).ok()?;
                }
                _ if here => return None,
                (Child::Directory(known), _) => {
                    writer.copy(entry).ok()?;
                    below.push(Arc::clone(known));
                }
                (Child::File(_), _) => writer.copy(entry).ok()?,
            }
        }
        let (identities, facts) = (self.identities.clone(), self.facts.clone());
        replaced.then(|| self.with_entries(writer.finish(), identities, below.into(), facts))
    }
}

/// What an entry is instead of what it was.
enum Other {
    Contents(ObjectId),
    Directory(Arc<Known>),
}
