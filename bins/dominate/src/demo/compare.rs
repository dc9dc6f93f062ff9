use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::trees;

/// What a comparison of two trees found.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Compared {
    pub(super) paths: u64,
    /// The first that differ.
    pub(super) differing: Vec<String>,
}

/// How many paths are listed.
const LISTED: usize = 20;
/// What an agent keeps for itself at the top of its root.
const WORK: &str = ".subd";

/// Compares two trees by all their names: kind, mode, owner, size, modification time, contents, target, and which names
/// are one file.
pub(super) fn trees(one: &Path, other: &Path) -> io::Result<Compared> {
    let (a, b) = (described(one)?, described(other)?);
    let paths = a.keys().chain(b.keys().filter(|path| !a.contains_key(*path)));
    let differing = paths.clone().filter(|path| a.get(*path) != b.get(*path));
    let differing = differing.take(LISTED).map(|path| path.display().to_string()).collect();
    Ok(Compared { paths: paths.count() as u64, differing })
}

/// What is at a path; nothing, if nothing is. Its other names are not looked for.
pub(super) fn entry(path: &Path) -> io::Result<Option<Entry>> {
    match fs::symlink_metadata(path) {
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
        Ok(metadata) => match Entry::of(path, &metadata) {
            // It went after it was looked at.
            Err(error) if is_gone(&error) => Ok(None),
            entry => entry.map(Some),
        },
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// One name, as it looks from outside.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    what: What,
    mode: u32,
    owner: (u32, u32),
    /// The first of the names that are this file; nothing, if it has but one.
    same_as: Option<PathBuf>,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    Directory,
    File { digest: [u8; 32], size: u64, modified: (i64, i64) },
    Symlink { target: OsString },
    Other { device: u64, fifo: bool, modified: (i64, i64) },
}

impl Entry {
    fn of(path: &Path, metadata: &Metadata) -> io::Result<Self> {
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        let what = if metadata.is_dir() {
            What::Directory
        } else if metadata.is_symlink() {
            What::Symlink { target: fs::read_link(path)?.into_os_string() }
        } else if metadata.is_file() {
            What::File { digest: digest(path)?, size: metadata.len(), modified }
        } else {
            What::Other { device: metadata.rdev(), fifo: metadata.file_type().is_fifo(), modified }
        };
        Ok(Self { what, mode: metadata.mode(), owner: (metadata.uid(), metadata.gid()), same_as: None })
    }
}

fn digest(path: &Path) -> io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match io::Read::read(&mut file, &mut buffer)? {
            0 => return Ok(hasher.finalize().into()),
            read => hasher.update(buffer.get(..read).unwrap_or_default()),
        }
    }
}

fn described(tree: &Path) -> io::Result<BTreeMap<PathBuf, Entry>> {
    let mut found = BTreeMap::new();
    let mut first_names = BTreeMap::new();
    let mut directories = vec![tree.to_owned()];
    while let Some(directory) = directories.pop() {
        for path in trees::entries(&directory)? {
            let relative = path.strip_prefix(tree).unwrap_or(&path).to_owned();
            if relative == Path::new(WORK) {
                continue;
            }
            let metadata = fs::symlink_metadata(&path)?;
            found.insert(relative.clone(), Entry::of(&path, &metadata)?);
            if metadata.is_dir() {
                directories.push(path);
            } else if metadata.nlink() > 1 {
                let names = first_names.entry((metadata.dev(), metadata.ino())).or_insert_with(Vec::new);
                names.push(relative);
            }
        }
    }
    for names in first_names.into_values() {
        let first = names.iter().min().cloned();
        for name in names {
            if let Some(entry) = found.get_mut(&name) {
                entry.same_as.clone_from(&first);
            }
        }
    }
    Ok(found)
}
