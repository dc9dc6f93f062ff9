use std::io;
use std::os::fd::AsFd;

use dominator_core::port::{PathFailure, UpdateReport};
use dominator_core::view::XattrPolicy;

use super::journal::{Account, Found, Journal, JournalError, Phase, Totals};
use super::step::{Made, Prepared, Step};
use super::swap::Attempt;
use super::trial::{BootId, Reason, Trial, When};
use super::undo::UndoReport;
use super::{Standing, UpdateError, Updater, WorkDirectory, WorkError};
use crate::mounts::Mounts;
use crate::publish;
use crate::root::{inode_at, xattrs_at};
use crate::seam::At;

/// What was found of an update of a process before this one, and what became of it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Recovery {
    /// Nothing was under way.
    Clean,
    /// An update had been prepared and had not begun. Nothing in view had changed, and its objects are in the cache again.
    Abandoned {
        /// What the caller had noted of it.
        note: Vec<u8>,
    },
    /// An update was made to its end.
    Finished {
        /// What the caller had noted of it.
        note: Vec<u8>,
        /// What was done, before and now.
        report: UpdateReport,
        /// What it must still prove: it is on trial.
        trial: Option<Trial>,
    },
    /// An update was undone, now or by a process before. Whoever opens the root is told so until it is cleaned up.
    Undone {
        /// What the caller had noted of it.
        note: Vec<u8>,
        /// Why.
        reason: Reason,
        /// What came of it.
        report: UndoReport,
        /// What kept it from being finished; nothing when undoing it had begun before.
        stopped: Option<PathFailure>,
        /// What it was to prove.
        trial: Option<Trial>,
        /// Whether it was undone by this process.
        when: When,
    },
    /// An update is complete and nobody has judged it: it must be accepted or undone.
    OnTrial {
        /// What the caller had noted of it.
        note: Vec<u8>,
        /// What came of it.
        totals: Totals,
        /// What it must prove.
        trial: Trial,
        /// Which start of the machine was the first with it, if there was one with a
        /// [recovery](Updater::open_at_boot).
        booted: Option<BootId>,
    },
    /// An update was complete and can still be undone.
    Kept {
        /// What the caller had noted of it.
        note: Vec<u8>,
        /// What came of it.
        totals: Totals,
    },
}

impl Updater {
    /// Does what is to be done before anything else: whatever a process that died was at is finished or undone, and what
    /// it left behind is removed.
    pub(super) fn recover(&mut self) -> Result<Recovery, WorkError> {
        let failed = |error| WorkError::Recovery(Box::new(error));
        if let Err(error) = self.work.lower_what_was_left(&*self.seam, &self.root) {
            tracing::warn!(%error, "what was immutable can't be made so again yet");
        }
        let found = Journal::find(&self.work, &self.root).map_err(WorkError::Journal)?;
        let Some(Found { journal, phase, note, prepared }) = found else {
            self.tidy().map_err(WorkError::Io)?;
            return Ok(Recovery::Clean);
        };
        self.standing = Standing::Unfinished;
        match phase {
            Phase::Prepared => {
                self.is_untouched(&prepared)?;
                self.give_back(&prepared.steps);
                self.tidy().map_err(WorkError::Io)?;
                Ok(Recovery::Abandoned { note })
            }
            Phase::Swapping => self.go_on(journal, &prepared, note).map_err(failed),
            Phase::Committed(totals) => Ok(self.made_before(&journal, note, totals, None)),
            Phase::Booted(totals, boot) => Ok(self.made_before(&journal, note, totals, Some(boot))),
            Phase::Accepted(totals) => {
                self.standing = Standing::Kept;
                Ok(Recovery::Kept { note, totals })
            }
            Phase::Undoing(reason) => {
                let trial = journal.trial();
                let report = self.undo_all(journal, &prepared, reason, None).map_err(failed)?;
                Ok(Recovery::Undone { note, reason, report, stopped: None, trial, when: When::Now })
            }
            Phase::Undone(account) => {
                // Whoever undid it may not have lived to do so, or the disk had failed.
                let unstaged = self.unstage(&prepared.steps, prepared.steps.len());
                unstaged.map_err(|error| failed(UpdateError::Work(error)))?;
                self.standing = Standing::Undone;
                let Account { reason, stopped, report } = *account;
                let trial = journal.trial();
                Ok(Recovery::Undone { note, reason, report, stopped, trial, when: When::Before })
            }
        }
    }

    fn made_before(
        &mut self,
        journal: &Journal,
        note: Vec<u8>,
        totals: Totals,
        booted: Option<BootId>,
    ) -> Recovery {
        self.standing = Standing::made(journal);
        match journal.trial() {
            Some(trial) => Recovery::OnTrial { note, totals, trial, booted },
            None => Recovery::Kept { note, totals },
        }
    }

    /// All is staged and durable, so that going on is as good as going back, and what the operator wanted. Where the disk
    /// won't have it, all is undone.
    fn go_on(
        &mut self,
        mut journal: Journal,
        prepared: &Prepared,
        note: Vec<u8>,
    ) -> Result<Recovery, UpdateError> {
        match self.make(prepared, Mounts::of(&self.root)?, Attempt::Again) {
            Ok(report) => {
                let durable = publish::settle_all(&*self.seam, self.root.as_fd());
                let durable = durable.map_err(UpdateError::NotDurable)?;
                let noted = journal.committed(&*self.seam, &durable, Totals::of_report(&report));
                noted.map_err(UpdateError::NotDurable)?;
                self.standing = Standing::made(&journal);
                Ok(Recovery::Finished { note, report, trial: journal.trial() })
            }
            Err(stopped) => {
                tracing::warn!(path = %stopped.path, error = %stopped.source, "an update that was cut off is undone");
                let reason = Reason::Halted;
                journal.undoing(&*self.seam, reason).map_err(UpdateError::Work)?;
                let stopped = PathFailure { path: stopped.path, reason: stopped.source.to_string() };
                let trial = journal.trial();
                let report = self.undo_all(journal, prepared, reason, Some(stopped.clone()))?;
                Ok(Recovery::Undone { note, reason, report, stopped: Some(stopped), trial, when: When::Now })
            }
        }
    }

    /// A phase that was damaged looks as if it had never been reached; what lies in the slots tells.
    fn is_untouched(&self, prepared: &Prepared) -> Result<(), WorkError> {
        for step in &prepared.steps {
            let (slot, new) = match step {
                Step::Put { slot, new, .. } => (*slot, Some(*new)),
                Step::Delete { slot, .. } => (*slot, None),
                Step::Attributes(_) => continue,
            };
            let name = slot.name();
            let there = self.id_at(At::new(self.work.slots.as_fd(), &name)).map_err(WorkError::Io)?;
            if there.is_some() && there != new {
                let why = "it says that nothing was changed, and something was";
                return Err(WorkError::Journal(JournalError::Damaged(why)));
            }
        }
        Ok(())
    }

    /// Empties the slots of an update of which the first `tried` steps may have been made, once it is on record that it was
    /// undone: nobody goes by them any more. They don't wait until somebody has heard of it: a further name of a file of the
    /// machine's lies there as well, and as long as it does the file has more names than before.
    pub(super) fn unstage(&self, steps: &[Step], tried: usize) -> io::Result<()> {
        if !self.work.has_debris()? {
            return Ok(());
        }
        self.give_back_private(steps, tried);
        self.work.remove_debris(&*self.seam)?;
        // DURABILITY: names that came back after a power cut would count again.
        publish::directories(&*self.seam, [self.work.slots.as_fd()]).map(drop)
    }

    /// Gives the cache its objects back, which lie in slots. They are hashed again when they are used.
    pub(super) fn give_back(&self, steps: &[Step]) {
        self.give_back_if(steps, |_, _| true);
    }

    /// As [`Self::give_back`], when the first `tried` steps may have been made: what was in the tree for a moment, somebody
    /// may have opened for writing, and would write to it when it has become a program of root's. Only what nobody but
    /// this user could write to is an object again.
    fn give_back_private(&self, steps: &[Step], tried: usize) {
        let us = rustix::process::geteuid().as_raw();
        self.give_back_if(steps, |number, stat| {
            number >= tried || (stat.stx_uid == us && stat.stx_mode & 0o022 == 0)
        });
    }

    /// Takes from a file what no object has.
    pub(super) fn strip(&self, at: At<'_>) -> io::Result<()> {
        for (name, _) in xattrs_at(at.dir, at.name, XattrPolicy::ALL)?.iter() {
            self.seam.remove_xattr(at, name)?;
        }
        self.seam.chmod(at, WorkDirectory::FILE)
    }

    fn give_back_if(&self, steps: &[Step], may: impl Fn(usize, &crate::root::Statx) -> bool) {
        for (number, step) in steps.iter().enumerate() {
            let Step::Put { slot, new, made: Made::File { object: Some(object), .. }, .. } = step else {
                continue;
            };
            let name = slot.name();
            let at = At::new(self.work.slots.as_fd(), &name);
            let Ok(stat) = inode_at(at.dir, at.name) else { continue };
            if self.root.id(&stat) == *new && may(number, &stat) {
                // What can't be put back is fetched again.
                drop(self.strip(at).and_then(|()| self.objects.give_back(object, at)));
            }
        }
    }
}

impl Totals {
    pub(super) fn of_report(report: &UpdateReport) -> Self {
        Self { applied: report.applied, kept: report.kept.len() as u64, failed: report.failures.len() as u64 }
    }
}
