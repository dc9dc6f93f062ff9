//! The directory of a store: opened by handle, locked against a second process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use dominator_core::inode::Mode;
use rustix::fs::{FlockOperation, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::publish;
use crate::seam::{At, Remove, Seam};

/// Directories of a store: nobody but its user and group has business in there.
const DIRECTORY_MODE: Mode = Mode::from_st_mode(0o750);
/// Files of a store.
pub(super) const FILE_MODE: Mode = Mode::from_st_mode(0o640);
const LOCK: &[u8] = b".lock";
/// How every path in a store is resolved.
const RESOLVE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_SYMLINKS);

/// An open store directory. The lock on it is held as long as this lives; a dead process holds none.
#[derive(Debug)]
pub(super) struct Home {
    dir: OwnedFd,
    _lock: OwnedFd,
}

impl Home {
    /// Opens the directory at `path`, making it where only the last component is missing. Symbolic links on the way
    /// are followed: the operator chose it.
    pub(super) fn open(seam: &dyn Seam, path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let none = rustix::fs::Mode::empty();
        let dir = match rustix::fs::open(path, flags, none) {
            Err(Errno::NOENT) => {
                make(seam, path)?;
                rustix::fs::open(path, flags, none)?
            }
            outcome => outcome?,
        };
        let lock = lock(&dir)?;
        Ok(Self { dir, _lock: lock })
    }
}

impl AsFd for Home {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// Opens a directory below `dir`; `path` may have several components, none of them a symbolic link.
pub(super) fn directory(dir: impl AsFd, path: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    beneath(dir, path, flags)
}

/// Opens a directory in `dir`, made and made durable when it is missing.
pub(super) fn directory_or_new(seam: &dyn Seam, dir: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let dir = dir.as_fd();
    match seam.mkdir(At::new(dir, name), DIRECTORY_MODE) {
        Ok(()) => drop(publish::directories(seam, [dir])?),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    directory(dir, name)
}

/// Makes a directory unless it is there, and says whether it was made. Not durable until `dir` is.
pub(super) fn make_missing(seam: &dyn Seam, dir: impl AsFd, name: &[u8]) -> io::Result<bool> {
    match seam.mkdir(At::new(dir.as_fd(), name), DIRECTORY_MODE) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Opens what is below `dir`, whatever is on the way being a plain directory.
pub(super) fn beneath(dir: impl AsFd, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    loop {
        match rustix::fs::openat2(dir.as_fd(), path, flags, rustix::fs::Mode::empty(), RESOLVE) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            outcome => return Ok(outcome?),
        }
    }
}

/// The names in a directory, without `.` and `..`, in no order.
pub(super) fn names(dir: impl AsFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

/// Removes every file in a directory of temporary files: what a process left behind that was killed.
pub(super) fn clear(seam: &dyn Seam, dir: impl AsFd) -> io::Result<usize> {
    let names = names(dir.as_fd())?;
    names.iter().try_for_each(|name| seam.remove(At::new(dir.as_fd(), name), Remove::File))?;
    Ok(names.len())
}

fn make(seam: &dyn Seam, path: &Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let name = path.file_name().ok_or(Errno::NOENT)?;
    let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let above = rustix::fs::open(above, flags, rustix::fs::Mode::empty())?;
    if make_missing(seam, &above, name.as_bytes())? {
        drop(publish::directories(seam, [above.as_fd()])?);
    }
    Ok(())
}

fn lock(dir: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let lock = rustix::fs::openat(dir, LOCK, flags, rustix::fs::Mode::from_raw_mode(0o640))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(Errno::WOULDBLOCK) => {
            let text = "another process uses it; stop that one first";
            Err(io::Error::new(io::ErrorKind::ResourceBusy, text))
        }
        Err(error) => Err(error.into()),
    }
}

/// Reads a whole file of at most `limit` bytes.
pub(super) fn read(file: OwnedFd, limit: usize) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let limit = limit as u64;
    std::fs::File::from(file).take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it has more than {limit} bytes")));
    }
    Ok(bytes)
}
