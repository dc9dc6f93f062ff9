//! What only the whole tree tells: hard links, and whether their names agree.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use dominator_core::inode::{Inode, Why};
use dominator_core::path::{ImagePath, Name};
use dominator_core::tree::{DirectoryMap, DirectoryWriter, Entry, LinkSets};

use super::Fact;
use super::identity::{FileKey, Identity, Links};
use super::known::{Child, Holding, Known};

/// The directories of a tree, each under its id.
pub(super) fn directories(top: &Arc<Known>) -> DirectoryMap {
    let mut map = DirectoryMap::default();
    let mut rest = vec![top];
    while let Some(known) = rest.pop() {
        if let Some(id) = known.inode.directory() {
            map.share(id, Arc::clone(&known.directory));
        }
        rest.extend(&known.below);
    }
    map
}

/// All facts, in order of their paths.
pub(super) fn facts(top: &Arc<Known>) -> Vec<Fact> {
    let mut facts = Vec::new();
    visit(top, |known| known.summary.facts > 0, |_, known| facts.extend(known.facts.iter().cloned()));
    facts.sort_by(|a, b| (&a.path, &a.detail).cmp(&(&b.path, &b.detail)));
    facts
}

/// The directories that hold, at any depth, something that is not in the tree or unknown.
pub(super) fn held(top: &Arc<Known>) -> BTreeSet<ImagePath> {
    let mut held = BTreeSet::new();
    let holds = |known: &Known| known.summary.holding == Holding::Something;
    visit(top, holds, |path, known| {
        if holds(known) {
            held.insert(path.clone());
        }
    });
    held
}

/// The hard links. The names of one file must carry equal inodes. Where they don't it changed between two looks, and
/// then, as where one look failed, nothing is known of it under any name: `top` becomes the tree that says so.
pub(super) fn agree(top: &mut Arc<Known>) -> LinkSets {
    let mut names: HashMap<FileKey, Linked> = HashMap::new();
    visit(
        top,
        |known| known.summary.links > 0,
        |path, known| {
            for (entry, identity) in linked(known) {
                names.entry(identity.key()).or_default().add(path, entry);
            }
        },
    );
    names.retain(|_, linked| linked.names.len() > 1);
    let mut doubts: BTreeMap<ImagePath, BTreeSet<Name>> = BTreeMap::new();
    for (directory, name) in names.values().filter(|linked| linked.disagree).flat_map(|linked| &linked.names)
    {
        doubts.entry(directory.clone()).or_default().insert(name.clone());
    }
    if !doubts.is_empty() {
        *top = doubted(top, &doubts);
    }
    let paths = |linked: Linked| linked.names.iter().filter_map(|(dir, name)| dir.join(name).ok()).collect();
    LinkSets::new(names.into_values().map(paths))
}

/// The directories in which there is a name of one of these files that does not agree with what it is now.
pub(super) fn others(top: &Arc<Known>, files: &HashMap<FileKey, Identity>) -> BTreeSet<ImagePath> {
    let mut others = BTreeSet::new();
    if files.is_empty() {
        return others;
    }
    visit(
        top,
        |_| true,
        |path, known| {
            let stale =
                |identity: &Identity| files.get(&identity.key()).is_some_and(|now| !now.is_same(identity));
            if known.identities.iter().any(stale) {
                others.insert(path.clone());
            }
        },
    );
    others
}

/// The names of one file.
#[derive(Debug, Default)]
struct Linked {
    names: Vec<(ImagePath, Name)>,
    inode: Option<Inode>,
    disagree: bool,
}

impl Linked {
    fn add(&mut self, directory: &ImagePath, entry: Entry<'_>) {
        let inode = entry.inode();
        self.disagree |= self.inode.as_ref().is_some_and(|other| *other != inode);
        self.inode.get_or_insert(inode);
        self.names.push((directory.clone(), entry.to_name()));
    }
}

fn linked(known: &Known) -> impl Iterator<Item = (Entry<'_>, &Identity)> {
    known.children().filter_map(|(entry, child)| match child {
        Child::File(identity) if identity.links == Links::Several => Some((entry, identity)),
        Child::File(_) | Child::Directory(_) => None,
    })
}

/// Visits directories before what is in them, and only those below which there is something to see.
fn visit(top: &Arc<Known>, worth: impl Fn(&Known) -> bool, mut visit: impl FnMut(&ImagePath, &Known)) {
    let mut rest = vec![(ImagePath::root(), top)];
    while let Some((path, known)) = rest.pop() {
        visit(&path, known);
        for (entry, child) in known.children() {
            if let Child::Directory(below) = child
                && worth(below)
                && let Ok(path) = entry.path_in(&path)
            {
                rest.push((path, below));
            }
        }
    }
}

/// The tree in which nothing is known of these names.
fn doubted(top: &Arc<Known>, doubts: &BTreeMap<ImagePath, BTreeSet<Name>>) -> Arc<Known> {
    let mut touched = BTreeSet::new();
    for path in doubts.keys() {
        let mut next = Some(path.clone());
        while let Some(path) = next.take().filter(|path| touched.insert(path.clone())) {
            next = path.parent();
        }
    }
    let mut done: HashMap<ImagePath, Arc<Known>> = HashMap::new();
    // From the end on, each directory comes when all in it are done.
    for path in touched.iter().rev() {
        if let Some(known) = at(top, path) {
            let names = doubts.get(path);
            let known =
                without(known, path, |name| names.is_some_and(|names| names.contains::<[u8]>(name)), &done);
            done.insert(path.clone(), Arc::new(known));
        }
    }
    done.remove(&ImagePath::root()).unwrap_or_else(|| Arc::clone(top))
}

fn at<'a>(top: &'a Arc<Known>, path: &ImagePath) -> Option<&'a Arc<Known>> {
    path.components().try_fold(top, |known, name| known.child(name))
}

/// A directory in which nothing is known of some names, and which holds the directories that are `done`.
fn without(
    known: &Known,
    path: &ImagePath,
    is_doubted: impl Fn(&[u8]) -> bool,
    done: &HashMap<ImagePath, Arc<Known>>,
) -> Known {
    let mut writer = DirectoryWriter::new();
    let (mut identities, mut below) = (Vec::new(), Vec::new());
    let mut facts = known.facts.to_vec();
    for (entry, child) in known.children() {
        let written = match child {
            Child::Directory(old) => {
                let new = entry.path_in(path).ok().and_then(|path| done.get(&path)).unwrap_or(old);
                below.push(Arc::clone(new));
                writer.push(&entry.to_name(), &new.inode)
            }
            Child::File(identity) => {
                identities.push(*identity);
                match is_doubted(entry.name()) && !entry.is_unknown() {
                    true => {
                        let path = entry.path_in(path).unwrap_or_else(|_| path.clone());
                        let detail = "looks different under another of its names".into();
                        facts.push(Fact { path, why: Why::Changing, detail });
                        writer.push(&entry.to_name(), &Inode::unknown(Why::Changing))
                    }
                    false => writer.copy(entry),
                }
            }
        };
        written
            .expect("invariant: an unknown inode is the shortest, and all others were in a directory before");
    }
    known.with_entries(writer.finish(), identities.into(), below.into(), facts.into())
}
