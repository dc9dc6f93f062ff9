//! Applying plans: everything new is staged beside the tree and made durable, then each path changes in one step, then
//! what was displaced is removed.
//!
//! ```text
//! Updater::prepare → Staged::swap → Swapped::commit → UpdateReport
//! ```
//!
//! A path is always as it was or as it must be, whoever looks. What can't be done to one path is reported and the rest
//! goes on; what makes going on wrong (no space, a file-system that became read-only, input/output errors) undoes what
//! was done. Nothing outside the view is ever touched, whatever the plan says.
//!
//! A power cut between swap and commit leaves some paths old and some new, never one torn; the next scan finds out.

mod activated;
mod commit;
mod displace;
mod metadata;
mod objects;
mod salvage;
mod stage;
mod swap;
mod undo;
mod work;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use dominator_core::inode::Mode;
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::plan::Plan;
use dominator_core::port::{PathFailure, UpdateReport};
use dominator_core::view::View;
use rustix::io::Errno;
use thiserror::Error;

pub use activated::{ActivatedError, Ledger};
pub use commit::{Committed, Swapped};
pub use objects::{FreeSpace, Intake, ObjectCache};
pub use salvage::{Likeness, Salvage, SalvageError, Salvaged, Survey};
pub use stage::Staged;
pub use work::WorkError;

use crate::mounts::MountsError;
use crate::root::Root;
use crate::seam::{At, Remove, Seam};
use work::WorkDirectory;

/// Applies plans to one root. Only one can be open on a root at a time, in all processes.
pub struct Updater {
    root: Root,
    seam: Arc<dyn Seam>,
    work: WorkDirectory,
    objects: ObjectCache,
    /// Whether there may be changes of an earlier attempt, also of a process that died, that no power cut must find.
    unsettled: bool,
}

impl Updater {
    /// Sets the work directory `/.subd` up at the top of the root, and removes what a dead attempt left there.
    ///
    /// # Errors
    /// [`WorkError`] when it can't be, or another process has it.
    pub fn new(root: Root, seam: Arc<dyn Seam>) -> Result<Self, WorkError> {
        let work = WorkDirectory::open(&root, &*seam)?;
        let objects = ObjectCache::open(Arc::clone(&work.objects), Arc::clone(&seam))?;
        Ok(Self { root, seam, work, objects, unsettled: true })
    }

    /// Where the objects an update needs are taken in before it.
    pub fn objects(&self) -> &ObjectCache {
        &self.objects
    }

    /// Finds out whether the root's file-system can be written to.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn probe(&self) -> io::Result<()> {
        let slot = self.work.slot();
        let at = At::new(self.work.aside.as_fd(), &slot);
        let file = self.seam.create(at, Mode::from_st_mode(0o600))?;
        let written = self.seam.write(&file, b"probe");
        self.seam.remove(at, Remove::File)?;
        written
    }

    /// Makes everything new that the plan needs, with its final metadata, beside the tree, and makes it durable. Nothing
    /// in view changes. Objects are hashed again and used up.
    ///
    /// # Errors
    /// [`UpdateError`] when an object is missing or corrupt, or the disk can't take them. Paths that can't be prepared,
    /// or are not in the view, are no errors but failures in the report.
    pub fn prepare(&mut self, plan: &Plan, view: &View) -> Result<Staged<'_>, UpdateError> {
        stage::prepare(self, plan, view)
    }

    /// Prepares, swaps and commits.
    ///
    /// # Errors
    /// [`UpdateError`].
    pub fn apply(&mut self, plan: &Plan, view: &View) -> Result<UpdateReport, UpdateError> {
        Ok(self.prepare(plan, view)?.swap()?.commit()?.report)
    }
}

impl fmt::Debug for Updater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Updater").field("root", &self.root).finish_non_exhaustive()
    }
}

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
        /// What could not be undone.
        not_undone: Vec<PathFailure>,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Which paths must keep their places can't be found out.
    #[error("what is mounted below the root can't be found out, and nothing of it may be carried away")]
    Mounts(#[from] MountsError),
    /// Everything is in place, but might not survive a power cut.
    #[error(
        "the update was made but could not be made durable; look at the kernel's log, the next update tries again"
    )]
    NotDurable(#[source] io::Error),
    /// The work directory failed.
    #[error("the work directory /.subd can't be used")]
    Work(#[source] io::Error),
}

struct Listed<'a>(&'a [PathFailure]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = ", except for ";
        for failure in self.0 {
            write!(f, "{separator}{} ({})", failure.path, failure.reason)?;
            separator = ", ";
        }
        Ok(())
    }
}

/// Why one operation could not be carried out.
#[derive(Debug)]
enum Trouble {
    /// Only its path is concerned; the rest goes on.
    Path(String),
    /// Whatever comes next would fail as well, or make it worse.
    Halt(io::Error),
}

impl Trouble {
    fn because(reason: impl Into<String>) -> Self {
        Self::Path(reason.into())
    }

    fn mounted(point: &ImagePath) -> Self {
        Self::Path(format!(
            "something is mounted at {point}, which must stay where it is; unmount it, or leave it out of the image"
        ))
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
