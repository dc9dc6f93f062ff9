//! Putting things in place: the only code of this crate that renames or waits for the disk.
//!
//! What was prepared under another name appears under its own in one step, and [`Durable`] says that a power cut can
//! no longer take it away.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use dominator_core::inode::Mode;
use rustix::fs::OFlags;

use crate::seam::{At, Remove, Rename, Seam};

/// Evidence that what was published survives a power cut.
#[derive(Debug)]
#[must_use = "acknowledge what is durable"]
pub struct Durable(());

/// What to do when the name is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    /// Fail with [`io::ErrorKind::AlreadyExists`].
    Never,
    /// Replace what is there.
    Existing,
}

impl From<Replace> for Rename {
    fn from(replace: Replace) -> Self {
        match replace {
            Replace::Never => Self::Never,
            Replace::Existing => Self::Replace,
        }
    }
}

/// A staged file and where it belongs, on one file-system.
#[derive(Clone, Copy, Debug)]
pub struct Move<'a> {
    /// Where it was written.
    pub from: At<'a>,
    /// Where it belongs.
    pub to: At<'a>,
}

/// Makes the file `temporary` durable and gives it its `name`, both in `dir`. When it fails, `temporary` may be left
/// behind for the caller to remove.
///
/// # Errors
/// What the kernel says; `AlreadyExists` when the name is taken and must not be replaced.
pub fn file(
    seam: &dyn Seam,
    dir: BorrowedFd<'_>,
    temporary: &[u8],
    name: &[u8],
    replace: Replace,
) -> io::Result<Durable> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, temporary, flags, rustix::fs::Mode::empty())?;
    // DURABILITY: the contents before the name, or a crash leaves the name with nothing behind it.
    seam.fsync(file.as_fd())?;
    seam.rename(At::new(dir, temporary), At::new(dir, name), replace.into())?;
    seam.fsync(dir)?;
    Ok(Durable(()))
}

/// Writes `contents` to a new file and publishes it under `name` in `dir`. The temporary name is `name` with `~` at its
/// end; what a dead attempt left there is replaced, so one name must have one writer at a time.
///
/// # Errors
/// What the kernel says; `AlreadyExists` when the name is taken and must not be replaced.
pub fn bytes(
    seam: &dyn Seam,
    dir: BorrowedFd<'_>,
    name: &[u8],
    contents: &[u8],
    mode: Mode,
    replace: Replace,
) -> io::Result<Durable> {
    let temporary = [name, b"~"].concat();
    let at = At::new(dir, &temporary);
    absent_is_fine(seam.remove(at, Remove::File))?;
    let written = seam.create(at, mode).and_then(|file| {
        seam.write(&file, contents)?;
        seam.fsync(file.as_fd())?;
        seam.rename(at, At::new(dir, name), replace.into())?;
        seam.fsync(dir)
    });
    if let Err(error) = written {
        // The error that counts is the one above; a leftover is replaced next time.
        drop(seam.remove(at, Remove::File));
        return Err(error);
    }
    Ok(Durable(()))
}

/// Publishes many staged files at the cost of two waits for the whole file-system, or of one wait a file when they are
/// few. Stops at the first error; what was published before stays.
///
/// # Errors
/// What the kernel says; `AlreadyExists` when a name is taken and must not be replaced.
pub fn batch(seam: &dyn Seam, moves: &[Move<'_>], replace: Replace) -> io::Result<Durable> {
    let Some(first) = moves.first() else { return Ok(Durable(())) };
    if moves.len() < MANY {
        for each in moves {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = rustix::fs::openat(each.from.dir, each.from.name, flags, rustix::fs::Mode::empty())?;
            seam.fsync(file.as_fd())?;
        }
    } else {
        seam.syncfs(first.from.dir)?;
    }
    for each in moves {
        seam.rename(each.from, each.to, replace.into())?;
    }
    directories(seam, moves.iter().map(|each| each.to.dir))
}

/// Makes the entries of directories durable, all of one file-system.
///
/// # Errors
/// What the kernel says.
pub fn directories<'a>(
    seam: &dyn Seam,
    dirs: impl IntoIterator<Item = BorrowedFd<'a>>,
) -> io::Result<Durable> {
    let mut dirs: Vec<_> = dirs.into_iter().collect();
    dirs.sort_by_key(AsRawFd::as_raw_fd);
    dirs.dedup_by_key(|dir| dir.as_raw_fd());
    match dirs.first() {
        Some(first) if dirs.len() >= MANY => seam.syncfs(*first)?,
        _ => dirs.into_iter().try_for_each(|dir| seam.fsync(dir))?,
    }
    Ok(Durable(()))
}

/// Makes a file's contents and metadata durable under the name it has.
///
/// # Errors
/// What the kernel says.
pub fn settle(seam: &dyn Seam, file: &File) -> io::Result<()> {
    seam.fsync(file.as_fd())
}

/// Makes everything on the file-system of `fd` durable.
///
/// # Errors
/// What the kernel says.
pub fn settle_all(seam: &dyn Seam, fd: BorrowedFd<'_>) -> io::Result<Durable> {
    seam.syncfs(fd)?;
    Ok(Durable(()))
}

/// Moves something to a name that must be free. Not durable until its directories are.
///
/// # Errors
/// What the kernel says; `AlreadyExists` when the name is taken.
pub fn place(seam: &dyn Seam, from: At<'_>, to: At<'_>) -> io::Result<()> {
    seam.rename(from, to, Rename::Never)
}

/// Makes two names change places in one step. Not durable until their directories are.
///
/// # Errors
/// What the kernel says; `NotFound` when one of them is free.
pub fn exchange(seam: &dyn Seam, one: At<'_>, other: At<'_>) -> io::Result<()> {
    seam.rename(one, other, Rename::Exchange)
}

/// From how many files on one wait for the whole file-system is cheaper than one wait a file. `syncfs` also waits for
/// what others have written, so it must not be the choice for a handful.
pub const MANY: usize = 64;

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
