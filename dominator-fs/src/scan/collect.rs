//! What the tasks bring in, put together.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use dominator_core::inode::{Inode, Kind, Why};
use dominator_core::path::{ImagePath, Name};
use dominator_core::tree::{Directory, DirectoryMap, LinkSets, Snapshot};
use dominator_core::view::View;

use super::look::{FileKey, Look};
use super::{Counts, Fact, Scan};

/// What was brought in so far, in no order.
#[derive(Debug, Default)]
pub(super) struct Collected {
    directories: HashMap<ImagePath, Part>,
    /// Names by the file they are names of, for files that say they have several.
    links: HashMap<FileKey, Vec<(ImagePath, Name)>>,
    facts: Vec<Fact>,
    held: BTreeSet<ImagePath>,
    pub(super) bytes_hashed: u64,
    pub(super) files_opened: u64,
}

/// A directory: its own inode, without the id of its entries, and what of these is no directory.
#[derive(Debug)]
struct Part {
    inode: Inode,
    entries: BTreeMap<Name, Inode>,
}

impl Collected {
    /// A directory was entered. This comes before anything that is in it.
    pub(super) fn enter(&mut self, path: ImagePath, inode: Inode) {
        self.directories.insert(path, Part { inode, entries: BTreeMap::new() });
    }

    /// A name was looked at; `key` if what it names has several.
    pub(super) fn add(&mut self, directory: &ImagePath, name: Name, look: Look, key: Option<FileKey>) {
        let inode = match look {
            Look::Known(inode) => inode,
            Look::Unknown(why, detail) => {
                let path = directory.join(&name).unwrap_or_else(|_| directory.clone());
                self.fact(path, why, detail);
                self.hold(directory);
                Inode::unknown(why)
            }
            Look::Vanished => return,
        };
        if let Some(key) = key {
            self.links.entry(key).or_default().push((directory.clone(), name.clone()));
        }
        if let Some(part) = self.directories.get_mut(directory) {
            part.entries.insert(name, inode);
        }
    }

    /// Something could not be found out. Where nothing stands for it in the tree, the directory is held.
    pub(super) fn fact(&mut self, path: ImagePath, why: Why, detail: String) {
        self.facts.push(Fact { path, why, detail });
    }

    /// The directory holds something that is not in the tree.
    pub(super) fn hold(&mut self, directory: &ImagePath) {
        if !self.held.contains(directory) {
            self.held.insert(directory.clone());
        }
    }

    /// The whole tree; nothing if not even the root was entered, or holds more than a tree can.
    pub(super) fn assemble(mut self, view: &View) -> Option<Scan> {
        let links = self.agree_on_links();
        let counts = self.counts();
        let mut directories = DirectoryMap::default();
        let mut paths: Vec<_> = self.directories.keys().cloned().collect();
        // What is in a directory stands behind it, so that from the end on each is complete when its turn comes.
        paths.sort_unstable();
        let mut root = None;
        for path in paths.into_iter().rev() {
            let Some(Part { mut inode, entries }) = self.directories.remove(&path) else { continue };
            match Directory::new(entries) {
                Ok(directory) => inode.kind = Kind::Directory { id: directories.insert(directory) },
                Err(_) if path.is_root() => return None,
                Err(error) => {
                    inode = Inode::unknown(Why::Unreadable);
                    self.hold(&path);
                    self.fact(path.clone(), Why::Unreadable, error.to_string());
                }
            }
            match path.split() {
                None => root = Some(inode),
                Some((parent, name)) => {
                    if let Some(part) = self.directories.get_mut(&parent) {
                        part.entries.insert(name, inode);
                    }
                }
            }
        }
        self.facts.sort_by(|a, b| (&a.path, &a.detail).cmp(&(&b.path, &b.detail)));
        Some(Scan {
            snapshot: Snapshot::new(view.id(), root?, links, directories),
            facts: self.facts,
            held: with_ancestors(self.held),
            bytes_hashed: self.bytes_hashed,
            files_opened: self.files_opened,
            counts,
            elapsed: Duration::ZERO,
        })
    }

    /// The names of one file must carry equal inodes. Where they don't it changed between two looks, and then, as where
    /// one look failed, nothing is known of it under any name.
    fn agree_on_links(&mut self) -> LinkSets {
        let mut sets = Vec::new();
        for names in std::mem::take(&mut self.links).into_values().filter(|names| names.len() > 1) {
            let mut inodes = names
                .iter()
                .filter_map(|(directory, name)| self.directories.get(directory)?.entries.get(name));
            let first = inodes.next().cloned();
            let agreed = inodes.all(|inode| Some(inode) == first.as_ref());
            if !agreed {
                names.iter().for_each(|(directory, name)| self.doubt(directory, name));
            }
            sets.push(names.iter().filter_map(|(directory, name)| directory.join(name).ok()).collect());
        }
        LinkSets::new(sets)
    }

    fn doubt(&mut self, directory: &ImagePath, name: &Name) {
        let Some(entry) = self.directories.get_mut(directory).and_then(|part| part.entries.get_mut(name))
        else {
            return;
        };
        let was_known = !entry.is_unknown();
        *entry = Inode::unknown(Why::Changing);
        if was_known {
            let path = directory.join(name).unwrap_or_else(|_| directory.clone());
            self.fact(path, Why::Changing, "looks different under another of its names".into());
            self.hold(directory);
        }
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts { directories: self.directories.len() as u64, ..Counts::default() };
        for inode in self.directories.values().flat_map(|part| part.entries.values()) {
            let count = match inode.kind {
                Kind::Regular { .. } => &mut counts.files,
                Kind::Symlink { .. } => &mut counts.symlinks,
                Kind::Unknown { .. } => &mut counts.unknown,
                // Computed files are never scanned, and directories are not among the entries yet.
                Kind::BlockDevice { .. } | Kind::CharDevice { .. } | Kind::Fifo { .. } | _ => {
                    &mut counts.special
                }
            };
            *count += 1;
        }
        counts
    }
}

/// What holds something back in a directory holds back the directories it is in.
fn with_ancestors(held: BTreeSet<ImagePath>) -> BTreeSet<ImagePath> {
    let mut all = BTreeSet::new();
    for path in held {
        let mut next = Some(path);
        while let Some(path) = next.take().filter(|path| !all.contains(path)) {
            next = path.parent();
            all.insert(path);
        }
    }
    all
}
