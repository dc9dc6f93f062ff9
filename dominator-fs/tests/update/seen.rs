//! What a tree is, seen with the standard library alone: nothing of ours looks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// One path of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kind: &'static str,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Neither of directories nor of symbolic links.
    pub(crate) mtime: Option<(i64, i64)>,
    /// Contents, target or device.
    pub(crate) holds: Vec<u8>,
    pub(crate) note: Vec<u8>,
    pub(crate) ino: u64,
    /// How many names it has, in the tree or elsewhere. Not of directories.
    pub(crate) nlink: Option<u64>,
    /// All its names in the tree.
    pub(crate) names: BTreeSet<String>,
}

impl Seen {
    /// The same, made anew: another inode.
    pub(crate) fn anew(&self) -> Self {
        Self { ino: 0, nlink: None, ..self.clone() }
    }
}

pub(crate) type Tree = BTreeMap<String, Seen>;

/// Everything below `root` but the work directory, and `root` itself under the name of nothing.
pub(crate) fn seen(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut waiting = vec![String::new()];
    while let Some(name) = waiting.pop() {
        let path = root.join(name.trim_start_matches('/'));
        let one = one(&path);
        if one.kind == "directory" {
            for entry in fs::read_dir(&path).unwrap() {
                let below = format!("{name}/{}", entry.unwrap().file_name().to_str().unwrap());
                if below != "/.subd" {
                    waiting.push(below);
                }
            }
        }
        tree.insert(name, one);
    }
    let mut names: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for (name, one) in &tree {
        names.entry(one.ino).or_default().insert(name.clone());
    }
    for one in tree.values_mut() {
        one.names.clone_from(&names[&one.ino]);
    }
    tree
}

fn one(path: &Path) -> Seen {
    let stat = path.symlink_metadata().unwrap();
    let kind = stat.file_type();
    let (kind, holds) = if kind.is_dir() {
        ("directory", Vec::new())
    } else if kind.is_symlink() {
        ("symlink", fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec())
    } else if kind.is_file() {
        ("file", fs::read(path).unwrap())
    } else if kind.is_fifo() {
        ("fifo", Vec::new())
    } else {
        ("device", stat.rdev().to_le_bytes().to_vec())
    };
    let mut note = [0; 64];
    let note = match rustix::fs::lgetxattr(path, "user.note", &mut note) {
        Ok(len) => note[..len].to_vec(),
        Err(_) => Vec::new(),
    };
    let is_directory = kind == "directory";
    Seen {
        kind,
        mode: stat.mode(),
        uid: stat.uid(),
        gid: stat.gid(),
        mtime: (!is_directory && kind != "symlink").then(|| (stat.mtime(), stat.mtime_nsec())),
        holds,
        note,
        ino: stat.ino(),
        nlink: (!is_directory).then(|| stat.nlink()),
        names: BTreeSet::new(),
    }
}

/// The same trees, but for which inodes they are made of.
pub(crate) fn alike(one: &Tree, other: &Tree) -> Result<(), String> {
    compare(one, other, |seen| seen.anew())
}

/// The very same trees, inode by inode.
pub(crate) fn identical(one: &Tree, other: &Tree) -> Result<(), String> {
    compare(one, other, Clone::clone)
}

fn compare(one: &Tree, other: &Tree, what: impl Fn(&Seen) -> Seen) -> Result<(), String> {
    let paths: BTreeSet<_> = one.keys().chain(other.keys()).collect();
    for path in paths {
        let (one, other) = (one.get(path).map(&what), other.get(path).map(&what));
        if one != other {
            return Err(format!("{path:?} is {one:?}\nwhere it should be {other:?}"));
        }
    }
    Ok(())
}
