//! The journal: what an update is going to do and how to take it back, on the disk before anything in view changes.

mod account;
mod format;
mod phase;

use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::SystemTime;

use dominator_core::object::ObjectId;
use rustix::fs::OFlags;
use rustix::io::Errno;
use thiserror::Error;

pub(crate) use account::Account;
pub(crate) use phase::Phase;
pub use phase::Totals;

use super::id::Id;
use super::step::Prepared;
use super::trial::{BootId, Reason, Trial};
use super::work::WorkDirectory;
use crate::publish::{self, Durable, Replace};
use crate::root::{Root, inode_at, inode_of};
use crate::seam::{At, IFlags, Remove, Seam};
use phase::Blocks;

const NAME: &[u8] = b"journal";
const TEMPORARY: &[u8] = b"journal~";

/// A journal that can't be gone by. Nothing was touched.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JournalError {
    /// It can't be read or written.
    #[error("it can't be read or written")]
    Io(#[from] io::Error),
    /// It is not what was written.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// It was written by a program of another version, and its update is not at its end. Start that program again: it brings
    /// the update to its end.
    #[error(
        "it is of a version this program does not know, and its update is not at its end; start the program again that wrote it"
    )]
    Version,
    /// It tells of another root directory.
    #[error("it is of another root, as after a restored backup or a copied disk")]
    OtherRoot,
}

/// The journal of one update, which is on the disk.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    /// Where the records of phases begin.
    phases: u64,
    update: ObjectId,
    trial: Option<Trial>,
}

/// A journal that was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) journal: Journal,
    pub(super) phase: Phase,
    pub(super) note: Vec<u8>,
    pub(super) prepared: Prepared,
}

impl Journal {
    /// The longest note, in bytes.
    pub(super) const MAX_NOTE: usize = format::MAX_NOTE;

    /// Makes it durable. There must be none.
    pub(super) fn write(
        seam: &dyn Seam,
        work: &WorkDirectory,
        root: &Root,
        (note, trial): (&[u8], Option<Trial>),
        prepared: &Prepared,
    ) -> io::Result<Self> {
        let at = At::new(work.top.as_fd(), TEMPORARY);
        let _there_is_none = Self::remove(seam, work)?;
        let file = seam.create(at, WorkDirectory::FILE)?;
        overwritten_in_place(seam, &file)?;
        let (len, update) = format::write(seam, &file, identity(root)?, (note, trial), prepared)?;
        let phases = len.next_multiple_of(Blocks::BLOCK);
        // DURABILITY: zeros, and no hole: a phase must never be refused for want of room.
        let zeros = vec![0; usize::try_from(phases - len + Blocks::LEN).unwrap_or_default()];
        seam.write(&file, &zeros)?;
        let _durable = publish::file(seam, work.top.as_fd(), TEMPORARY, NAME, Replace::Never)?;
        Ok(Self { file, phases, update, trial })
    }

    /// Reads all of it, if there is one that is about this root.
    pub(super) fn find(work: &WorkDirectory, root: &Root) -> Result<Option<Found>, JournalError> {
        Self::find_in(work.top.as_fd(), root)
    }

    /// As [`Self::find`], in a work directory that another process may have.
    pub(super) fn find_in(top: BorrowedFd<'_>, root: &Root) -> Result<Option<Found>, JournalError> {
        let mut file = match open(top) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        file.rewind()?;
        let len = file.metadata()?.len();
        if format::is_of_another_version(&file)? {
            return match Blocks::are_over(&file, len)? {
                // It must not keep a machine that was given another agent from being looked after.
                true => {
                    tracing::warn!(
                        "what undoing the last update needs is of another version, and is removed"
                    );
                    Ok(None)
                }
                false => Err(JournalError::Version),
            };
        }
        let left = len.checked_sub(Blocks::LEN).ok_or(JournalError::Damaged("it is cut short"))?;
        let loaded = format::read(&file, left)?;
        if loaded.len.next_multiple_of(Blocks::BLOCK) != left {
            return Err(JournalError::Damaged("it is longer or shorter than it says"));
        }
        let phase = Blocks::read(&file, left, &loaded.digest)?;
        if loaded.root != identity(root)? {
            // What was complete when it was copied can't be undone here, and nothing of it is half made.
            return match phase {
                Phase::Committed(_) | Phase::Booted(..) | Phase::Accepted(_) | Phase::Undone(_) => Ok(None),
                Phase::Prepared | Phase::Swapping | Phase::Undoing(_) => Err(JournalError::OtherRoot),
            };
        }
        let journal = Self { file, phases: left, update: loaded.digest, trial: loaded.trial };
        Ok(Some(Found { journal, phase, note: loaded.note, prepared: loaded.prepared }))
    }

    /// What the update must prove.
    pub(super) fn trial(&self) -> Option<Trial> {
        self.trial
    }

    /// When the last phase was noted, if there is a journal.
    pub(super) fn last_noted(work: &WorkDirectory) -> io::Result<Option<SystemTime>> {
        match open(work.top.as_fd()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => Ok(Some(other?.metadata()?.modified()?)),
        }
    }

    /// From here on, paths may have changed.
    pub(super) fn swapping(&mut self, seam: &dyn Seam) -> io::Result<()> {
        self.record(seam, &Phase::Swapping)
    }

    /// Whoever has the evidence that all changes are on the disk may say so.
    pub(super) fn committed(&mut self, seam: &dyn Seam, _: &Durable, totals: Totals) -> io::Result<()> {
        self.record(seam, &Phase::Committed(totals))
    }

    /// The machine was started with what is on trial.
    pub(super) fn booted(&mut self, seam: &dyn Seam, totals: Totals, boot: BootId) -> io::Result<()> {
        self.record(seam, &Phase::Booted(totals, boot))
    }

    /// It stays.
    pub(super) fn accepted(&mut self, seam: &dyn Seam, totals: Totals) -> io::Result<()> {
        self.record(seam, &Phase::Accepted(totals))
    }

    /// From here on, paths may be as before again.
    pub(super) fn undoing(&mut self, seam: &dyn Seam, reason: Reason) -> io::Result<()> {
        self.record(seam, &Phase::Undoing(reason))
    }

    /// Whoever has the evidence that all is as before on the disk may say so.
    pub(super) fn undone(&mut self, seam: &dyn Seam, _: &Durable, account: Account) -> io::Result<()> {
        self.record(seam, &Phase::Undone(Box::new(account)))
    }

    fn record(&mut self, seam: &dyn Seam, phase: &Phase) -> io::Result<()> {
        Blocks::write(seam, &self.file, self.phases, &self.update, phase).map_err(|error| {
            match Errno::from_io_error(&error) {
                // It could only be opened for reading.
                Some(Errno::BADF) => Errno::ROFS.into(),
                _ => error,
            }
        })
    }

    /// Removes the journal, if there is one, and what is left of one that was not finished. Only when that is durable may
    /// slots be emptied, or filled again. Says whether there was one.
    pub(super) fn remove(seam: &dyn Seam, work: &WorkDirectory) -> io::Result<bool> {
        let mut was_there = false;
        for name in [TEMPORARY, NAME] {
            was_there = match inode_at(&work.top, name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                found => {
                    found.and_then(|_| seam.remove(At::new(work.top.as_fd(), name), Remove::File))?;
                    true
                }
            };
        }
        Ok(was_there)
    }
}

/// For writing, where that can be: a read-only root may still be looked at.
fn open(top: BorrowedFd<'_>) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = |how| rustix::fs::openat(top, NAME, flags | how, rustix::fs::Mode::empty());
    let opened = match open(OFlags::RDWR) {
        Err(Errno::ROFS) => open(OFlags::RDONLY),
        other => other,
    };
    Ok(opened?.into())
}

/// Where what is written over goes to new blocks, as on btrfs, phases would need room after all: asks for the same ones. To be
/// called while the file is empty.
fn overwritten_in_place(seam: &dyn Seam, file: &File) -> io::Result<()> {
    if rustix::fs::fstatfs(file)?.f_type != BTRFS {
        return Ok(());
    }
    let flags = rustix::fs::ioctl_getflags(file)?;
    seam.set_flags(file.as_fd(), flags.union(IFlags::NOCOW))
}

/// What `statfs` says of btrfs.
const BTRFS: rustix::fs::FsWord = 0x9123_683e;

fn identity(root: &Root) -> io::Result<Id> {
    Ok(root.id(&inode_of(root)?))
}

#[cfg(test)]
mod tests;
