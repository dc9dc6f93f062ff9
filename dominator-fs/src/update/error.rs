use std::collections::BTreeSet;
use std::fmt;
use std::io;

use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::port::PathFailure;
use rustix::io::Errno;
use thiserror::Error;

use super::journal::JournalError;
use crate::mounts::MountsError;

/// An update that was not made. Unless the variant says otherwise, everything in view is as it was.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// Objects must be fetched first.
    #[error("{} objects the plan needs were not fetched, {} among them", .0.len(), .0.first().map(ToString::to_string).unwrap_or_default())]
    Missing(BTreeSet<ObjectId>),
    /// A fetched object is no longer what it was. It was removed; fetch it again.
    #[error("object {id} became corrupt since it was fetched and was removed; fetch it again")]
    Corrupt {
        /// Which.
        id: ObjectId,
    },
    /// Not enough room to stage what is new.
    #[error(
        "no space to stage the update: {need} bytes needed, {free} free; free them or enlarge the file-system of the root"
    )]
    NoSpace {
        /// In bytes.
        need: u64,
        /// In bytes.
        free: u64,
    },
    /// Not enough inodes to stage what is new.
    #[error(
        "no space to stage the update: it makes {need} files, and the file-system of the root has room for {free}; remove some"
    )]
    NoInodes {
        /// How many files.
        need: u64,
        /// How many there is room for.
        free: u64,
    },
    /// The disk could not take what is new.
    #[error("{path} could not be staged")]
    Staging {
        /// For which path.
        path: ImagePath,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Going on would have been wrong, and what had been done was undone, but for the paths listed.
    #[error("the update stopped at {path} and was undone{}", Listed(.not_undone))]
    Halted {
        /// Where.
        path: ImagePath,
        /// What is not as before, and why.
        not_undone: Vec<PathFailure>,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Going on would have been wrong, and so was going back: some paths are as before, and some are not.
    #[error(
        "the update stopped at {path}, and could not be undone: {changed} of {of} paths are changed{}; it is finished or \
         undone when the disk lets it, as soon as the agent starts again or takes an order",
        Listed(.not_undone)
    )]
    HalfMade {
        /// Where.
        path: ImagePath,
        /// How many paths are as the update made them.
        changed: usize,
        /// How many paths the update is about.
        of: usize,
        /// What is not as before, and why.
        not_undone: Vec<PathFailure>,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// An earlier update was left half way by this process.
    #[error(
        "an earlier update was neither finished nor undone; open the root again, which does one or the other"
    )]
    Unfinished,
    /// The update that was made last is on trial: what it displaced is needed until it is judged.
    #[error("the update that was made last is on trial; accept or undo it first")]
    OnTrial,
    /// No update is on trial.
    #[error("there is no update on trial: none was made, or it was accepted, undone or cleaned up")]
    NotOnTrial,
    /// There is no update that could be undone.
    #[error("there is no update to undo: none was made, or it was cleaned up")]
    NothingToUndo,
    /// What was kept of an update can't be read any more.
    #[error("the journal /.subd/journal can't be gone by")]
    Journal(#[from] JournalError),
    /// The caller's note is too long.
    #[error("a note of {len} bytes where {limit} are the limit")]
    NoteTooLong {
        /// In bytes.
        len: usize,
        /// In bytes.
        limit: usize,
    },
    /// Which paths must keep their places can't be found out.
    #[error("what is mounted below the root can't be found out, and nothing of it may be carried away")]
    Mounts(#[from] MountsError),
    /// Everything is in place, but might not survive a power cut, or it is not noted that it does.
    #[error(
        "the update was made but could not be made durable; look at the kernel's log, it is tried again when the root is \
         opened next"
    )]
    NotDurable(#[source] io::Error),
    /// The work directory failed.
    #[error("the work directory /.subd can't be used")]
    Work(#[source] io::Error),
}

impl UpdateError {
    /// What is not as before, of an update that was to be undone.
    pub fn not_undone(&self) -> &[PathFailure] {
        match self {
            Self::Halted { not_undone, .. } | Self::HalfMade { not_undone, .. } => not_undone,
            Self::Missing(_)
            | Self::Corrupt { .. }
            | Self::NoSpace { .. }
            | Self::NoInodes { .. }
            | Self::Staging { .. }
            | Self::Unfinished
            | Self::OnTrial
            | Self::NotOnTrial
            | Self::NothingToUndo
            | Self::Journal(_)
            | Self::NoteTooLong { .. }
            | Self::Mounts(_)
            | Self::NotDurable(_)
            | Self::Work(_) => &[],
        }
    }
}

struct Listed<'a>(&'a [PathFailure]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 10;
        let mut separator = ", except for ";
        for failure in self.0.iter().take(SHOWN) {
            write!(f, "{separator}{} ({})", failure.path, failure.reason)?;
            separator = ", ";
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Why one operation could not be carried out.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Only its path is concerned; the rest goes on.
    Path(String),
    /// Whatever comes next would fail as well, or make it worse.
    Halt(io::Error),
}

impl Trouble {
    pub(super) fn because(reason: impl Into<String>) -> Self {
        Self::Path(reason.into())
    }

    pub(super) fn mounted(point: &ImagePath) -> Self {
        Self::Path(format!(
            "something is mounted at {point}, which must stay where it is; unmount it, or leave it out of the image"
        ))
    }

    pub(super) fn changed() -> Self {
        Self::because("somebody else changed it while the update was made; the next scan sees what is there")
    }

    /// As an error of reading one file: a disk that can't give back what one file holds may still take all the others.
    pub(super) fn of_reading(error: io::Error) -> Self {
        if Errno::from_io_error(&error) == Some(Errno::IO) {
            return Self::Path(format!("what is there can't be read: {error}; look at the kernel's log"));
        }
        error.into()
    }
}

impl From<MountsError> for Trouble {
    fn from(error: MountsError) -> Self {
        Self::Halt(io::Error::other(error))
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(
                Errno::NOSPC
                | Errno::DQUOT
                | Errno::ROFS
                | Errno::IO
                | Errno::NOMEM
                | Errno::MFILE
                | Errno::NFILE,
            ) => Self::Halt(error),
            Some(Errno::LOOP) => Self::because("a symbolic link stands where a directory must be"),
            Some(Errno::NOTDIR) => Self::because("something that is no directory stands in the way there"),
            Some(Errno::NOENT) => Self::because("the directory it belongs in does not exist"),
            Some(Errno::XDEV) => Self::because("it is on another file-system than the root"),
            Some(Errno::BUSY) => Self::because("something is mounted there"),
            Some(Errno::PERM) => {
                Self::Path(format!("{error}; the agent lacks the privilege, or the file is immutable"))
            }
            _ => Self::Path(error.to_string()),
        }
    }
}
