//! The limit of a change: the bare renames, one after the other, with nothing around them.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, RenameFlags, renameat_with};

use crate::disk::settle;

/// Files that differ between two trees that hold the same names.
pub(crate) fn differing(one: &Path, other: &Path) -> Vec<PathBuf> {
    let mut differing = BTreeSet::new();
    for path in dominator_benches::bare::files(one).unwrap() {
        let name = path.strip_prefix(one).unwrap();
        let (left, right) = (fs::metadata(&path).unwrap(), fs::metadata(other.join(name)).unwrap());
        if left.modified().unwrap() != right.modified().unwrap() {
            differing.insert(name.to_owned());
        }
    }
    differing.into_iter().collect()
}

/// Exchanges as many staged files with those in the tree, and back again with the next call.
pub(crate) fn exchange(tree: &Path, staged: &Path, paths: &[PathBuf]) -> Duration {
    if !staged.exists() {
        fs::create_dir(staged).unwrap();
        for (number, path) in paths.iter().enumerate() {
            fs::copy(tree.join(path), staged.join(number.to_string())).unwrap();
        }
    }
    settle();
    rename(tree, staged, paths, RenameFlags::EXCHANGE)
}

/// Takes a tree apart, everything in it staged in one directory, and puts it together again, which is measured.
pub(crate) fn put_together(tree: &Path, staged: &Path) -> (usize, Duration) {
    fs::create_dir(staged).unwrap();
    let paths = parents_first(tree);
    for (number, path) in paths.iter().enumerate().rev() {
        fs::rename(tree.join(path), staged.join(number.to_string())).unwrap();
    }
    settle();
    (paths.len(), rename(tree, staged, &paths, RenameFlags::NOREPLACE))
}

/// The way to a directory is looked up once for all that follow each other in it.
fn rename(tree: &Path, staged: &Path, paths: &[PathBuf], flags: RenameFlags) -> Duration {
    let (root, from) = (directory(tree), directory(staged));
    let names: Vec<_> = (0..paths.len()).map(|number| number.to_string()).collect();
    let mut parent: Option<(&Path, OwnedFd)> = None;
    let began = Instant::now();
    for (path, staged) in paths.iter().zip(&names) {
        let (above, name) = (path.parent().unwrap(), path.file_name().unwrap());
        let opened = match parent.take() {
            Some((last, opened)) if last == above => opened,
            _ if above.as_os_str().is_empty() => root.try_clone().unwrap(),
            _ => rustix::fs::openat(&root, above, DIRECTORY, Mode::empty()).unwrap(),
        };
        renameat_with(&from, staged, &opened, name, flags).unwrap();
        parent = Some((above, opened));
    }
    began.elapsed()
}

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn directory(path: &Path) -> OwnedFd {
    rustix::fs::open(path, DIRECTORY, Mode::empty()).unwrap()
}

/// Everything below a directory, what is in one directory together.
fn parents_first(tree: &Path) -> Vec<PathBuf> {
    let (mut paths, mut directories) = (Vec::new(), vec![tree.to_owned()]);
    while let Some(directory) = directories.pop() {
        let mut entries: Vec<_> = fs::read_dir(directory).unwrap().map(Result::unwrap).collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            if entry.file_type().unwrap().is_dir() {
                directories.push(entry.path());
            }
            paths.push(entry.path().strip_prefix(tree).unwrap().to_owned());
        }
    }
    paths
}
