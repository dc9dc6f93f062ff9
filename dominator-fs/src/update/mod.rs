//! Applying plans: everything new is staged beside the tree and made durable, what is going to be done is journalled, then
//! each path changes in one step. It can be undone until it is cleaned up.
//!
//! ```text
//! Updater::begin → Fetched → stage → Staged → journal → Journalled → swap → Swapped → commit → Committed
//! ```
//!
//! A path is always as it was or as it must be, whoever looks. What can't be done to one path is reported and the rest
//! goes on; what makes going on wrong (no space, a file-system that became read-only, input/output errors) undoes what
//! was done. Nothing outside the view is ever touched, whatever the plan says.
//!
//! Whatever a crash cuts off is finished or undone by [`Updater::open`], before anything else, by what the journal says and
//! by looking at each path.

mod activated;
mod afterwards;
mod commit;
mod conflicts;
mod contents;
mod displace;
mod error;
mod fetched;
mod id;
mod journal;
mod lift;
mod lifted;
mod local;
mod metadata;
mod objects;
mod parents;
mod prove;
mod recover;
mod salvage;
mod stage;
mod step;
mod swap;
mod trial;
mod typestate;
mod undo;
mod work;
mod writers;

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use dominator_core::plan::Plan;
use dominator_core::port::UpdateReport;
use dominator_core::view::View;

#[cfg(feature = "tokio")]
pub(crate) use activated::activate;
pub use activated::{ActivatedError, Ledger};
pub use afterwards::Afterwards;
pub use conflicts::Conflicts;
pub use error::UpdateError;
pub use journal::{JournalError, Totals};
pub use local::Local;
pub use objects::{FreeSpace, Intake, ObjectCache, Resumed, Taken};
pub use recover::Recovery;
pub use salvage::{Likeness, Salvage, SalvageError, Salvaged, Survey};
pub use trial::{BootId, Judged, Kept, Pending, Reason, Trial, When};
pub use typestate::{Committed, Fetched, Journalled, Staged, Swapped, Update};
pub use undo::{Conflict, UndoReport};
pub use work::WorkError;

use crate::publish;
use crate::root::Root;
use crate::scan::Installed;
use crate::seam::Seam;
use fetched::Checked;
use journal::Journal;
use step::Step;
use work::WorkDirectory;

/// Applies plans to one root. Only one can be open on a root at a time, in all processes.
pub struct Updater {
    root: Root,
    seam: Arc<dyn Seam>,
    work: WorkDirectory,
    objects: ObjectCache,
    standing: Standing,
    /// Files that were staged, and then those the last update put in place.
    installed: Installed,
    /// Where in the tree contents lie that need not be in the cache.
    local: Local,
}

/// What the journal on the disk is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// There is none.
    Clean,
    /// An update that was made and can be undone.
    Kept,
    /// An update that was made and nobody has judged.
    OnTrial,
    /// An update that was undone, for whoever opens the root to be told.
    Undone,
    /// An update that must be finished or undone first.
    Unfinished,
}

impl Standing {
    /// Once an update is durable.
    fn made(journal: &Journal) -> Self {
        if journal.trial().is_some() { Self::OnTrial } else { Self::Kept }
    }
}

impl Updater {
    /// Sets the work directory `/.subd` up at the top of the root. Before anything else, an update that a process before
    /// this one did not come to the end of is finished or undone, and its debris removed.
    ///
    /// # Errors
    /// [`WorkError`] when it can't be, another process has it, or the update can be neither finished nor undone.
    pub fn open(root: Root, seam: Arc<dyn Seam>) -> Result<(Self, Recovery), WorkError> {
        let work = WorkDirectory::open(&root, &*seam)?;
        let objects = ObjectCache::open(Arc::clone(&work.objects), Arc::clone(&seam))?;
        let (standing, installed, local) = (Standing::Clean, Installed::new(), Local::default());
        let mut updater = Self { root, seam, work, objects, standing, installed, local };
        let recovery = updater.recover()?;
        updater.work.try_exchange(&*updater.seam)?;
        Ok((updater, recovery))
    }

    /// Whether there is a work directory: without one, no update of this root was ever begun.
    pub fn has_worked_in(root: &Root) -> bool {
        WorkDirectory::is_in(root)
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
        self.work.probe(&*self.seam)
    }

    /// Whether an update was left half way by this process: it must be dropped, and the root opened again.
    pub fn is_unfinished(&self) -> bool {
        self.standing == Standing::Unfinished
    }

    /// The files that the update which was committed last put in place: a scan need not open them, see
    /// [`Cache::learn`](crate::scan::Cache::learn). None, when they were asked for before.
    pub fn take_installed(&mut self) -> Installed {
        if self.is_undoable() { std::mem::take(&mut self.installed) } else { Installed::new() }
    }

    /// Whether there is an update that can be undone.
    pub fn is_undoable(&self) -> bool {
        matches!(self.standing, Standing::Kept | Standing::OnTrial)
    }

    /// Begins an update. The one before can't be undone any more, and must not be on trial. Nothing in view changes.
    ///
    /// # Errors
    /// [`UpdateError`] when objects are missing or there is no room for what they will become.
    pub fn begin<'u, 'p>(
        &'u mut self,
        plan: &'p Plan,
        view: &View,
    ) -> Result<Update<'u, Fetched<'p>>, UpdateError> {
        self.clean_up()?;
        let checked = Checked::of(self, plan, view)?;
        Ok(Update { updater: self, state: Fetched { checked } })
    }

    /// Begins an update and carries it through. A plan without operations leaves the update before as it is.
    ///
    /// # Errors
    /// [`UpdateError`].
    pub fn apply(&mut self, plan: &Plan, view: &View) -> Result<UpdateReport, UpdateError> {
        if plan.is_empty() && !self.is_unfinished() {
            return Ok(UpdateReport::default());
        }
        Ok(self.begin(plan, view)?.stage()?.journal(b"", None)?.swap()?.commit()?.report)
    }

    /// Removes what is kept to undo the update that was made last, and the room it takes is free. What somebody
    /// else changed and is kept in `/.subd/conflicts` stays until somebody removes it.
    ///
    /// # Errors
    /// [`UpdateError::Work`] when it can't be removed; [`UpdateError::Unfinished`] or [`UpdateError::OnTrial`] when it is
    /// needed.
    pub fn clean_up(&mut self) -> Result<(), UpdateError> {
        match self.standing {
            Standing::Unfinished => Err(UpdateError::Unfinished),
            Standing::OnTrial => Err(UpdateError::OnTrial),
            Standing::Clean | Standing::Kept | Standing::Undone => self.tidy().map_err(UpdateError::Work),
        }
    }

    /// Removes the journal, and when that is durable what lies in slots.
    fn tidy(&mut self) -> io::Result<()> {
        self.tidy_giving_back(&[])
    }

    /// As [`Self::tidy`], and the cache gets its objects back in between.
    fn tidy_giving_back(&mut self, steps: &[Step]) -> io::Result<()> {
        self.standing = Standing::Unfinished;
        let had_journal = Journal::remove(&*self.seam, &self.work)?;
        let has_debris = self.work.has_debris()?;
        if had_journal || has_debris {
            // DURABILITY: a journal that came back after a power cut would go by slots that are empty, or another update's.
            let _durable = publish::directories(&*self.seam, [self.work.top.as_fd()])?;
        }
        if has_debris {
            self.give_back(steps);
            self.work.remove_debris(&*self.seam)?;
        }
        self.standing = Standing::Clean;
        Ok(())
    }

    /// As [`Self::tidy`], where another error counts more; the root must be opened again if it fails.
    fn tidy_or_warn(&mut self) {
        if let Err(error) = self.tidy() {
            tracing::warn!(%error, "what was staged could not be removed yet");
        }
    }
}

impl fmt::Debug for Updater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Updater").field("root", &self.root).finish_non_exhaustive()
    }
}
