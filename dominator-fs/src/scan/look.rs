//! One name of one directory: what it is, found out so that it can't be a mixture of two things.

use std::cell::RefCell;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use dominator_core::inode::{Device, Inode, Kind, Mode, Timestamp, Why, Xattrs};
use dominator_core::object::{ObjectHasher, ObjectId};
use dominator_core::tree::Builder;
use dominator_core::view::XattrPolicy;
use rustix::fs::{FileType, OFlags, Statx, StatxTimestamp};
use rustix::io::Errno;

use super::ScanError;
use crate::root::{self, dev_of};

/// What was found out of a name.
#[derive(Debug)]
pub(super) enum Look {
    /// What it is, not yet under any view. A directory's id is not known yet.
    Known(Inode),
    /// Nothing certain.
    Unknown(Why, String),
    /// It is gone.
    Vanished,
}

/// Which file, on which file-system.
pub(super) type FileKey = (u64, u64);

/// All that tells whether a file is the same, and the same as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    key: FileKey,
    mode: u16,
    owner: (u32, u32),
    device: (u32, u32),
    size: u64,
    mtime: (i64, u32),
    ctime: (i64, u32),
}

impl Identity {
    pub(super) fn of(stat: &Statx) -> Self {
        let time = |time: &StatxTimestamp| (time.tv_sec, time.tv_nsec);
        Self {
            key: key_of(stat),
            mode: stat.stx_mode,
            owner: (stat.stx_uid, stat.stx_gid),
            device: (stat.stx_rdev_major, stat.stx_rdev_minor),
            size: stat.stx_size,
            mtime: time(&stat.stx_mtime),
            ctime: time(&stat.stx_ctime),
        }
    }
}

pub(super) fn key_of(stat: &Statx) -> FileKey {
    (dev_of(stat), stat.stx_ino)
}

pub(super) fn type_of(stat: &Statx) -> FileType {
    FileType::from_raw_mode(stat.stx_mode.into())
}

/// Reads contents piece by piece; told of every piece, it may end the scan.
pub(super) type OnPiece<'a> = &'a dyn Fn(usize) -> Result<(), ScanError>;

/// Looks at `name` in `dir`, of which `stat` was just told. It is no directory. What changes while it is looked at is
/// looked at once more, and then given up.
pub(super) fn look(
    dir: BorrowedFd<'_>,
    name: &[u8],
    stat: &Statx,
    policy: XattrPolicy,
    on_piece: OnPiece<'_>,
) -> Result<Look, ScanError> {
    let mut stat = *stat;
    for _ in 0..2 {
        let outcome = if type_of(&stat).is_file() {
            look_at_file(dir, name, &stat, policy, on_piece)?
        } else {
            look_without_opening(dir, name, &stat, policy)
        };
        match outcome {
            Ok(inode) => return Ok(Look::Known(inode)),
            Err(Setback::Changed) => {}
            Err(Setback::Failed(error)) => return unreadable(&error),
        }
        match root::inode_at(dir, name) {
            Ok(now) => stat = now,
            Err(error) if is_gone(&error) => return Ok(Look::Vanished),
            Err(error) => return unreadable(&error),
        }
    }
    Ok(Look::Unknown(Why::Changing, Why::Changing.to_string()))
}

/// An error that concerns this name only; one that concerns this process ends the scan.
pub(super) fn unreadable(error: &io::Error) -> Result<Look, ScanError> {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    if matches!(code, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM)) {
        return Err(ScanError::Exhausted { source: io::Error::new(error.kind(), error.to_string()) });
    }
    Ok(Look::Unknown(Why::Unreadable, error.to_string()))
}

pub(super) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// The inode of a directory whose entries are not known yet.
pub(super) fn directory(stat: &Statx, xattrs: Xattrs) -> Inode {
    inode(stat, xattrs, Kind::Directory { id: Builder::placeholder() })
}

/// Why a look came to nothing.
enum Setback {
    Changed,
    Failed(io::Error),
}

impl From<io::Error> for Setback {
    fn from(error: io::Error) -> Self {
        let code = error.raw_os_error().map(Errno::from_raw_os_error);
        match code {
            // Gone, became a symbolic link, became none, became a socket: the next look tells.
            Some(Errno::NOENT | Errno::LOOP | Errno::INVAL | Errno::NXIO | Errno::STALE) => Self::Changed,
            _ => Self::Failed(error),
        }
    }
}

impl From<Errno> for Setback {
    fn from(error: Errno) -> Self {
        io::Error::from(error).into()
    }
}

fn look_at_file(
    dir: BorrowedFd<'_>,
    name: &[u8],
    stat: &Statx,
    policy: XattrPolicy,
    on_piece: OnPiece<'_>,
) -> Result<Result<Inode, Setback>, ScanError> {
    let begin = || {
        let file = open(dir, name)?;
        let before = root::inode_of(&file)?;
        if key_of(&before) != key_of(stat) || type_of(&before) != FileType::RegularFile {
            return Err(Setback::Changed);
        }
        let xattrs = root::xattrs_of(&file, policy)?;
        Ok((file, before, xattrs, mtime(&before)?))
    };
    let (file, before, xattrs, mtime) = match begin() {
        Ok(begun) => begun,
        Err(setback) => return Ok(Err(setback)),
    };
    let object = match hash(&file, before.stx_size, on_piece)? {
        Ok(object) => object,
        Err(setback) => return Ok(Err(setback)),
    };
    Ok(match root::inode_of(&file) {
        Ok(after) if Identity::of(&after) == Identity::of(&before) => {
            Ok(inode(&before, xattrs, Kind::Regular { mtime, size: before.stx_size, object }))
        }
        Ok(_) => Err(Setback::Changed),
        Err(error) => Err(error.into()),
    })
}

/// Opens what was a regular file a moment ago. Should it have become a pipe, this does not wait for a writer.
fn open(dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags | OFlags::NOATIME, rustix::fs::Mode::empty()) {
        // Only owners and root may leave the access time alone.
        Err(Errno::PERM) => rustix::fs::openat(dir, name, flags, rustix::fs::Mode::empty()),
        outcome => outcome,
    }
}

/// Hashes exactly `size` bytes: a file that grows for ever does not hold the scan for ever.
fn hash(file: &OwnedFd, size: u64, on_piece: OnPiece<'_>) -> Result<Result<ObjectId, Setback>, ScanError> {
    /// Measured: smaller costs system calls, larger falls out of the second-level cache.
    const PIECE: usize = 128 * 1024;
    thread_local!(static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; PIECE]));
    BUFFER.with_borrow_mut(|buffer| {
        let mut hasher = ObjectHasher::new();
        let mut rest = size;
        while rest > 0 {
            let piece = match rustix::io::read(file, buffer.as_mut_slice()) {
                Ok(0) => return Ok(Err(Setback::Changed)),
                Ok(len) => buffer.get(..len).unwrap_or_default(),
                Err(Errno::INTR) => continue,
                Err(error) => return Ok(Err(Setback::Failed(error.into()))),
            };
            on_piece(piece.len())?;
            hasher.update(piece);
            let Some(left) = rest.checked_sub(piece.len() as u64) else { return Ok(Err(Setback::Changed)) };
            rest = left;
        }
        Ok(Ok(hasher.finish()))
    })
}

fn look_without_opening(
    dir: BorrowedFd<'_>,
    name: &[u8],
    stat: &Statx,
    policy: XattrPolicy,
) -> Result<Inode, Setback> {
    let device = Device { major: stat.stx_rdev_major, minor: stat.stx_rdev_minor };
    let kind = match type_of(stat) {
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes();
            Kind::Symlink { target: target.into() }
        }
        FileType::BlockDevice => Kind::BlockDevice { mtime: mtime(stat)?, device },
        FileType::CharacterDevice => Kind::CharDevice { mtime: mtime(stat)?, device },
        FileType::Fifo => Kind::Fifo { mtime: mtime(stat)? },
        FileType::RegularFile | FileType::Directory | FileType::Socket | FileType::Unknown => {
            return Err(Setback::Changed);
        }
    };
    let xattrs = root::xattrs_at(dir, name, policy)?;
    let after = root::inode_at(dir, name)?;
    if Identity::of(&after) == Identity::of(stat) {
        Ok(inode(stat, xattrs, kind))
    } else {
        Err(Setback::Changed)
    }
}

fn inode(stat: &Statx, xattrs: Xattrs, kind: Kind) -> Inode {
    let symlink = matches!(kind, Kind::Symlink { .. });
    let mode = if symlink { Mode::SYMLINK } else { Mode::from_st_mode(stat.stx_mode.into()) };
    Inode { mode, uid: stat.stx_uid, gid: stat.stx_gid, xattrs, kind }
}

fn mtime(stat: &Statx) -> io::Result<Timestamp> {
    let time = stat.stx_mtime;
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "its time of modification is none");
    Timestamp::new(time.tv_sec, time.tv_nsec).ok_or_else(broken)
}
