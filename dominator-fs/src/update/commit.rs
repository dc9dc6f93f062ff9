use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use dominator_core::path::ImagePath;
use dominator_core::port::{PathFailure, UpdateReport};

use super::id::Id;
use super::journal::{Account, Journal, Totals};
use super::step::{Prepared, Step, Target};
use super::swap::{Attempt, Stopped};
use super::trial::{Reason, Trial};
use super::typestate::{Committed, Journalled, Staged, Swapped, Update};
use super::undo::UndoReport;
use super::{Standing, UpdateError, Updater};
use crate::mounts::Mounts;
use crate::publish::{self, Durable, MANY};
use crate::root::{inode_of, open_file};
use crate::scan::Clock;
use crate::seam::At;

impl<'u> Update<'u, Staged> {
    /// Puts on the disk what is going to be done and how to take it back, with a note for whoever opens the root next,
    /// should this process not come to the end; at most 16 MiB. With a trial, the update must be [accepted](Updater::accept)
    /// once it is committed, or undone.
    ///
    /// # Errors
    /// [`UpdateError::Work`] when the disk can't take it; the update is given up then.
    pub fn journal(self, note: &[u8], trial: Option<Trial>) -> Result<Update<'u, Journalled>, UpdateError> {
        let Self { updater, state: Staged { prepared } } = self;
        let Updater { root, seam, work, .. } = &*updater;
        let limit = Journal::MAX_NOTE;
        let written = if note.len() > limit {
            Err(UpdateError::NoteTooLong { len: note.len(), limit })
        } else {
            Mounts::of(root).map_err(UpdateError::from).and_then(|mounts| {
                let journal = Journal::write(&**seam, work, root, (note, trial), &prepared);
                journal.map(|journal| (journal, mounts)).map_err(UpdateError::Work)
            })
        };
        match written {
            Ok((journal, mounts)) => {
                updater.standing = Standing::Unfinished;
                Ok(Update { updater, state: Journalled { prepared, journal, mounts } })
            }
            Err(error) => {
                updater.give_back(&prepared.steps);
                updater.tidy_or_warn();
                Err(error)
            }
        }
    }

    /// Gives the update up. The objects are kept for another attempt.
    ///
    /// # Errors
    /// [`UpdateError::Work`] when what was staged can't be removed; the next attempt tries again.
    pub fn abandon(self) -> Result<(), UpdateError> {
        self.updater.give_back(&self.state.prepared.steps);
        self.updater.tidy().map_err(UpdateError::Work)
    }
}

impl<'u> Update<'u, Journalled> {
    /// Changes every path in one step each. Each is as it was or as it must be at any moment.
    ///
    /// # Errors
    /// [`UpdateError::Halted`] when going on would have been wrong: everything was undone.
    pub fn swap(self) -> Result<Update<'u, Swapped>, UpdateError> {
        let Self { updater, state: Journalled { prepared, mut journal, mounts } } = self;
        if let Err(error) = journal.swapping(&*updater.seam) {
            // The record may have reached the disk all the same: while there is a journal, slots must stay as they are.
            if let Err(error) = updater.tidy_giving_back(&prepared.steps) {
                tracing::warn!(%error, "what was staged could not be removed yet");
            }
            return Err(UpdateError::Work(error));
        }
        match updater.make(&prepared, mounts, Attempt::First) {
            Ok(report) => {
                // Before anybody is told: whoever writes to a file from now on is later.
                let installed = std::mem::take(&mut updater.installed);
                updater.installed = installed.in_place(Clock::system().now());
                Ok(Update { updater, state: Swapped { prepared, journal, report } })
            }
            Err(stopped) => Err(updater.back_out(journal, &prepared, stopped)),
        }
    }

    /// As [`Update::<Staged>::abandon`].
    ///
    /// # Errors
    /// As there.
    pub fn abandon(self) -> Result<(), UpdateError> {
        let Self { updater, state: Journalled { prepared, .. } } = self;
        Update { updater, state: Staged { prepared } }.abandon()
    }
}

impl Update<'_, Swapped> {
    /// How many operations were carried out, and what went wrong so far.
    pub fn report(&self) -> &UpdateReport {
        &self.state.report
    }

    /// Makes the update durable, and has that noted. It can be undone until it is cleaned up.
    ///
    /// # Errors
    /// [`UpdateError::NotDurable`] when the disk would not confirm it.
    pub fn commit(self) -> Result<Committed, UpdateError> {
        let Self { updater, state: Swapped { prepared, mut journal, report } } = self;
        let durable = updater.settle(&prepared).map_err(UpdateError::NotDurable)?;
        let noted = journal.committed(&*updater.seam, &durable, Totals::of_report(&report));
        noted.map_err(UpdateError::NotDurable)?;
        updater.standing = Standing::made(&journal);
        Ok(Committed { report, durable })
    }
}

impl Updater {
    /// Waits for all that a swap has changed.
    fn settle(&self, prepared: &Prepared) -> io::Result<Durable> {
        let Updater { root, seam, work, .. } = self;
        let all = || publish::settle_all(&**seam, root.as_fd());
        let Some((directories, files)) = touched(prepared) else { return all() };
        for (path, id) in &files {
            match self.open_itself(path, *id) {
                Ok(Some(file)) => publish::settle(&**seam, &file)?,
                // Not readable for its owner, who has no privileges, or somewhere else by now: this can't wait for it alone.
                Ok(None) | Err(_) => return all(),
            }
        }
        let mut opened: Vec<OwnedFd> = Vec::new();
        for path in &directories {
            match root.directory(path) {
                Ok(dir) => opened.push(dir),
                // It was deleted, or replaced; the directory it was in is touched, too.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                // It is there, but can't be waited for alone.
                Err(_) => return all(),
            }
        }
        // DURABILITY: every name that moved came from there or went there. Where waiting for a directory is waiting for its
        // own entries only, none of the others then shows a part of the update: a directory that is gone before what was
        // in it would have to come back.
        let _durable = publish::directories(&**seam, [work.slots.as_fd()])?;
        publish::directories(&**seam, opened.iter().map(AsFd::as_fd))
    }

    /// Opens a file whose metadata were changed. Whoever may write in its directory may have put something else there since,
    /// a pipe for one: what is not that file is not opened, nor waited for in its place.
    fn open_itself(&self, path: &ImagePath, id: Id) -> io::Result<Option<File>> {
        let (dir, name) = self.root.parent(path)?;
        let at = At::new(dir.as_fd(), name.as_bytes());
        if self.id_at(at)? != Some(id) {
            return Ok(None);
        }
        let file = open_file(at)?;
        Ok((self.root.id(&inode_of(&file)?) == id).then_some(file))
    }

    /// Takes back what a swap that stopped had done.
    fn back_out(&mut self, mut journal: Journal, prepared: &Prepared, stopped: Stopped) -> UpdateError {
        // Where the disk takes no record it may still take renames.
        let noted = journal.undoing(&*self.seam, Reason::Halted);
        let Stopped { tried, path, source } = stopped;
        let account = |report: &UndoReport| {
            let stopped = Some(PathFailure { path: path.clone(), reason: source.to_string() });
            Account { reason: Reason::Halted, stopped, report: report.clone() }
        };
        let (report, changed, finished) = match self.take_back(prepared, tried) {
            Ok(report) => {
                let finished = noted
                    .and_then(|()| self.undone(journal, (prepared, tried), account(&report)))
                    .and_then(|()| self.tidy());
                (report, 0, finished)
            }
            Err(stuck) => (stuck.report, stuck.changed, Err(stuck.source)),
        };
        let not_undone = report.not_as_before();
        match finished {
            Ok(()) => UpdateError::Halted { path, not_undone, source },
            Err(error) => {
                tracing::error!(%error, "an update that stopped is not undone, or not durably");
                UpdateError::HalfMade { path, changed, of: prepared.steps.len(), not_undone, source }
            }
        }
    }

    /// Takes an update back of which any step may have been made. The journal stays.
    pub(super) fn undo_all(
        &mut self,
        journal: Journal,
        prepared: &Prepared,
        reason: Reason,
        stopped: Option<PathFailure>,
    ) -> Result<UndoReport, UpdateError> {
        let of = prepared.steps.len();
        match self.take_back(prepared, of) {
            Ok(report) => {
                let account = Account { reason, stopped, report: report.clone() };
                let noted = self.undone(journal, (prepared, of), account);
                noted.map(|()| report).map_err(UpdateError::NotDurable)
            }
            Err(stuck) => Err(UpdateError::HalfMade {
                path: stuck.report.failures.first().map_or_else(ImagePath::root, |first| first.path.clone()),
                changed: stuck.changed,
                of,
                not_undone: stuck.report.not_as_before(),
                source: stuck.source,
            }),
        }
    }

    /// All is as before: makes that durable, has it noted, and removes what is left of an update of which so many steps may
    /// have been made.
    fn undone(
        &mut self,
        mut journal: Journal,
        (prepared, tried): (&Prepared, usize),
        account: Account,
    ) -> io::Result<()> {
        let durable = publish::settle_all(&*self.seam, self.root.as_fd())?;
        journal.undone(&*self.seam, &durable, account)?;
        self.unstage(&prepared.steps, tried)?;
        self.standing = Standing::Undone;
        Ok(())
    }
}

/// Files whose metadata changed in place, each with what it must be.
type Files = Vec<(ImagePath, Id)>;

/// Directories whose entries or metadata a swap has changed, and files whose metadata; nothing when there are many, or
/// something that can't be waited for alone.
fn touched(prepared: &Prepared) -> Option<(BTreeSet<ImagePath>, Files)> {
    if !prepared.lifts.is_empty() {
        return None;
    }
    let (mut directories, mut files) = (BTreeSet::new(), Vec::new());
    for step in &prepared.steps {
        match step {
            Step::Put { path, .. } | Step::Delete { path, .. } => directories.extend(path.parent()),
            Step::Attributes(change) => match change.of {
                Target::Directory => drop(directories.insert(change.path().clone())),
                Target::File => files.push((change.path().clone(), change.inode)),
                // Opening a device or a pipe to wait for it would wake what is behind it.
                Target::Other => return None,
            },
        }
        if directories.len() + files.len() >= MANY {
            return None;
        }
    }
    Some((directories, files))
}
