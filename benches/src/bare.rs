//! The limits: the same system calls and the same hash, with nothing around them. They cut every corner a scanner may
//! not: no view, no attributes, no order, no result, and whatever goes wrong ends them.

use std::collections::HashSet;
use std::ffi::CStr;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, StatxFlags};
use sha2::{Digest, Sha256};

/// What one read asks for, in bytes.
const PIECE: usize = 128 * 1024;

/// The regular files below `root`, each inode once, in the order of the walk.
///
/// # Errors
/// Whatever can't be read.
pub fn files(root: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut files, mut seen, mut directories) = (Vec::new(), HashSet::new(), vec![root.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() {
                let metadata = entry.metadata()?;
                if metadata.nlink() == 1 || seen.insert((metadata.dev(), metadata.ino())) {
                    files.push(entry.path());
                }
            }
        }
    }
    Ok(files)
}

/// Opens, reads and hashes every file, each thread taking the next one that nobody has; says how many bytes there were.
///
/// # Errors
/// The first file that can't be read.
pub fn hash(files: &[PathBuf], threads: NonZeroUsize) -> io::Result<u64> {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.get()).map(|_| scope.spawn(|| hash_next(files, &next))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| Err(panicked()))).sum()
    })
}

fn hash_next(files: &[PathBuf], next: &AtomicUsize) -> io::Result<u64> {
    let (mut buffer, mut bytes) = (vec![0; PIECE], 0);
    while let Some(path) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
        let (mut file, mut hasher) = (File::open(path)?, Sha256::new());
        loop {
            let len = file.read(&mut buffer)?;
            let Some(piece) = buffer.get(..len).filter(|piece| !piece.is_empty()) else { break };
            hasher.update(piece);
            bytes += u64::try_from(len).map_err(io::Error::other)?;
        }
        black_box(hasher.finalize());
    }
    Ok(bytes)
}

/// Lists every directory below `root` and asks for the metadata of every entry; says how many entries there were.
///
/// # Errors
/// The first entry that can't be looked at.
pub fn walk(root: &Path, threads: NonZeroUsize) -> io::Result<u64> {
    let pool =
        rayon::ThreadPoolBuilder::new().num_threads(threads.get()).build().map_err(io::Error::other)?;
    let root = rustix::fs::open(root, DIRECTORY, Mode::empty())?;
    let walk = Walk::default();
    pool.scope(|scope| walk.directory(scope, root));
    walk.failed.into_inner().unwrap_or_else(|_| Some(panicked())).map_or(Ok(walk.entries.into_inner()), Err)
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

#[derive(Default)]
struct Walk {
    entries: AtomicU64,
    failed: std::sync::Mutex<Option<io::Error>>,
}

impl Walk {
    fn directory<'scope>(&'scope self, scope: &rayon::Scope<'scope>, directory: OwnedFd) {
        if let Err(error) = self.list(scope, &directory)
            && let Ok(mut failed) = self.failed.lock()
        {
            failed.get_or_insert(error);
        }
    }

    fn list<'scope>(&'scope self, scope: &rayon::Scope<'scope>, directory: &OwnedFd) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); 32 * 1024];
        let (mut listing, mut entries) = (RawDir::new(directory.as_fd(), &mut buffer), 0);
        while let Some(entry) = listing.next() {
            let entry = entry?;
            let name: &CStr = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let found =
                rustix::fs::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?;
            entries += 1;
            if rustix::fs::FileType::from_raw_mode(found.stx_mode.into()).is_dir() {
                let below = rustix::fs::openat(directory, name, DIRECTORY, Mode::empty())?;
                scope.spawn(|scope| self.directory(scope, below));
            }
        }
        self.entries.fetch_add(entries, Ordering::Relaxed);
        Ok(())
    }
}

fn panicked() -> io::Error {
    io::Error::other("a thread panicked")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus;

    #[test]
    fn the_limits_look_at_everything_once() {
        let made = tempfile::tempdir().unwrap();
        corpus::many_small(made.path(), corpus::Size { files: 50, links: 5 }).unwrap();
        let files = files(made.path()).unwrap();
        assert_eq!(files.len(), 50);
        for threads in [1, 2] {
            let threads = NonZeroUsize::new(threads).unwrap();
            assert_eq!(hash(&files, threads).unwrap(), 50 * 4096);
            assert_eq!(walk(made.path(), threads).unwrap(), 50 + 5 + 5 + corpus::DIRECTORIES);
        }
    }
}
