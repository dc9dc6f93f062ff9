use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dominator_core::object::{ObjectHasher, ObjectId};

use super::journal::{Found, Journal, JournalError, Phase};
use super::recover::Recovery;
use super::swap::stat_at;
use super::undo::UndoReport;
use super::{Standing, UpdateError, Updater, WorkDirectory, WorkError};
use crate::root::{Root, is_directory, names_in, open_directory};
use crate::seam::{At, Seam};

/// What an update must still prove once it is in place: until somebody [accepts](Updater::accept) it, it is undone rather
/// than kept when nobody is there to judge it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    /// How long whoever judges it may take before it is undone, from the start of the watch over it, and again from the
    /// start of the machine. In milliseconds on the disk, at most 49 days.
    pub deadline: Duration,
    /// After what it is judged.
    pub judged: Judged,
}

/// After what an update is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Judged {
    /// As soon as services run, with the kernel that runs already.
    AfterServices,
    /// When the machine was started anew: so it must be once more when the update is undone.
    AfterReboot,
}

/// Why an update is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The disk would not let it be made.
    Halted,
    /// Services did not start, or checks of its health failed.
    Unhealthy,
    /// The machine was started a second time, and nobody had accepted it.
    NeverHealthy,
    /// Nobody had judged it in time.
    Overdue,
    /// Somebody wanted it.
    Asked,
    /// Whoever judged it died meanwhile, again and again.
    Unjudged,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Halted => "the disk would not let it be made",
            Self::Unhealthy => "services or checks of its health failed",
            Self::NeverHealthy => "the machine was started again before anybody had found it healthy",
            Self::Overdue => "nobody had found it healthy in time",
            Self::Asked => "somebody wanted it",
            Self::Unjudged => "no judgement of it came to an end",
        })
    }
}

/// Which start of the machine this is: two that are equal are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BootId(ObjectId);

impl BootId {
    /// By anything that differs from start to start.
    pub fn of(what: &[u8]) -> Self {
        Self(ObjectId::of(what))
    }

    /// This start: by what the kernel calls it and by when its first process began, since a container that is started
    /// anew has the kernel it had before.
    ///
    /// # Errors
    /// When `/proc` is not there, or not what it should be.
    pub fn current() -> io::Result<Self> {
        let kernel = std::fs::read("/proc/sys/kernel/random/boot_id")?;
        let first = std::fs::read_to_string("/proc/1/stat")?;
        // The name of the process, in parentheses, may hold anything; its start is the 20th field behind that.
        let began = first.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(19));
        let began = began.ok_or_else(|| io::Error::other("/proc/1/stat does not say when it began"))?;
        let mut hasher = ObjectHasher::new();
        hasher.update(&kernel);
        hasher.update(began.as_bytes());
        Ok(Self(hasher.finish()))
    }

    /// As [`BootId`]'s text says it, for what an agent writes down.
    #[cfg(feature = "tokio")]
    pub(crate) fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }

    pub(super) fn as_bytes(&self) -> &[u8; ObjectId::LEN] {
        self.0.as_bytes()
    }

    pub(super) fn from_bytes(bytes: [u8; ObjectId::LEN]) -> Self {
        Self(ObjectId::from_bytes(bytes))
    }
}

impl std::fmt::Display for BootId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What is kept to undo the last update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Kept {
    /// Since when, by the clock of the machine: the update was made or accepted then.
    pub since: SystemTime,
    /// How much room is free once it is removed, in bytes.
    pub bytes: u64,
}

/// An update that nobody has judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pending {
    /// What it must prove.
    pub trial: Trial,
    /// Which start of the machine was the first with it, if there was one with a [recovery](Updater::open_at_boot).
    pub booted: Option<BootId>,
}

/// Whether an update was undone now or by a process before this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum When {
    /// Now, or the last of it.
    Now,
    /// It was undone already, and whoever did it left word.
    Before,
}

impl Trial {
    /// The trial an update is on, as seen from outside: nobody is kept from opening the root, and whoever has it open
    /// may be deciding right now. Nothing when there is none, or it is decided, or paths are still changing.
    ///
    /// # Errors
    /// [`JournalError`] when there is a journal that can't be gone by.
    pub fn pending(root: &Root) -> Result<Option<Pending>, JournalError> {
        let top = match open_directory(At::new(root.as_fd(), WorkDirectory::NAME)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let Some(Found { journal, phase, .. }) = Journal::find_in(top.as_fd(), root)? else {
            return Ok(None);
        };
        let booted = match phase {
            Phase::Committed(_) => None,
            Phase::Booted(_, boot) => Some(boot),
            Phase::Prepared | Phase::Swapping | Phase::Accepted(_) | Phase::Undoing(_) | Phase::Undone(_) => {
                return Ok(None);
            }
        };
        Ok(journal.trial().map(|trial| Pending { trial, booted }))
    }
}

impl Updater {
    /// As [`Self::open`], when the machine starts: an update that is on trial may see one start, and is undone at the next
    /// if nobody has accepted it by then. Calls within one start are one. When an update was finished or undone just now whose
    /// trial is [`Judged::AfterReboot`], the machine must be started anew: it was started with what is no longer there.
    ///
    /// # Errors
    /// As there.
    pub fn open_at_boot(
        root: Root,
        seam: Arc<dyn Seam>,
        boot: BootId,
    ) -> Result<(Self, Recovery), WorkError> {
        let (mut updater, recovery) = Self::open(root, seam)?;
        let failed = |error| WorkError::Recovery(Box::new(error));
        let recovery = match recovery {
            Recovery::OnTrial { note, totals, trial, booted: None } => {
                updater.booted(boot).map_err(failed)?;
                Recovery::OnTrial { note, totals, trial, booted: Some(boot) }
            }
            Recovery::OnTrial { note, trial, booted: Some(before), .. } if before != boot => {
                let report = updater.undo_on_record(Reason::NeverHealthy).map_err(failed)?;
                Recovery::Undone {
                    note,
                    reason: Reason::NeverHealthy,
                    report,
                    stopped: None,
                    trial: Some(trial),
                    when: When::Now,
                }
            }
            // What the machine was started with was half-way: when a start is the trial, this was none.
            Recovery::Finished { note, report, trial: Some(trial) } => {
                if trial.judged == Judged::AfterServices {
                    updater.booted(boot).map_err(failed)?;
                }
                Recovery::Finished { note, report, trial: Some(trial) }
            }
            other @ (Recovery::Clean
            | Recovery::Abandoned { .. }
            | Recovery::Finished { .. }
            | Recovery::Undone { .. }
            | Recovery::OnTrial { .. }
            | Recovery::Kept { .. }) => other,
        };
        Ok((updater, recovery))
    }

    /// Whether an update is in place that nobody has accepted yet.
    pub fn is_on_trial(&self) -> bool {
        self.standing == Standing::OnTrial
    }

    /// The update that is on trial stays. It can be undone as one that was never on trial.
    ///
    /// # Errors
    /// [`UpdateError::NotOnTrial`] when there is none; [`UpdateError::Work`] when it can't be noted: it is on trial still.
    pub fn accept(&mut self) -> Result<(), UpdateError> {
        let (mut journal, phase) = self.tried()?;
        let (Phase::Committed(totals) | Phase::Booted(totals, _)) = phase else {
            return Err(UpdateError::NotOnTrial);
        };
        journal.accepted(&*self.seam, totals).map_err(UpdateError::Work)?;
        self.standing = Standing::Kept;
        Ok(())
    }

    fn booted(&mut self, boot: BootId) -> Result<(), UpdateError> {
        let (mut journal, phase) = self.tried()?;
        let Phase::Committed(totals) = phase else { return Err(UpdateError::NotOnTrial) };
        journal.booted(&*self.seam, totals, boot).map_err(UpdateError::Work)
    }

    fn tried(&self) -> Result<(Journal, Phase), UpdateError> {
        if self.standing != Standing::OnTrial {
            return Err(UpdateError::NotOnTrial);
        }
        let found = Journal::find(&self.work, &self.root)?.ok_or(UpdateError::NotOnTrial)?;
        Ok((found.journal, found.phase))
    }

    /// Takes the update that was made last back, whether it is on trial or not. What somebody changed since is kept and
    /// told of.
    ///
    /// # Errors
    /// [`UpdateError::NothingToUndo`] when there is none, or it was cleaned up; [`UpdateError::HalfMade`] when the disk
    /// fails: it is undone as far as it can be, and the rest when the root is opened next.
    pub fn undo(&mut self, reason: Reason) -> Result<UndoReport, UpdateError> {
        let report = self.undo_on_record(reason)?;
        self.tidy().map_err(UpdateError::NotDurable)?;
        Ok(report)
    }

    /// As [`Self::undo`], but the journal stays until [`Self::clean_up`], so that whoever opens the root next is told,
    /// by [`Recovery::Undone`]. Nothing else of the update stays.
    ///
    /// # Errors
    /// As there.
    pub fn undo_on_record(&mut self, reason: Reason) -> Result<UndoReport, UpdateError> {
        match self.standing {
            Standing::Clean | Standing::Undone => return Err(UpdateError::NothingToUndo),
            Standing::Unfinished => return Err(UpdateError::Unfinished),
            Standing::Kept | Standing::OnTrial => {}
        }
        let found = Journal::find(&self.work, &self.root)?;
        let Some(Found {
            mut journal,
            phase: Phase::Committed(_) | Phase::Booted(..) | Phase::Accepted(_),
            prepared,
            ..
        }) = found
        else {
            return Err(UpdateError::NothingToUndo);
        };
        self.standing = Standing::Unfinished;
        journal.undoing(&*self.seam, reason).map_err(UpdateError::Work)?;
        self.undo_all(journal, &prepared, reason, None)
    }

    /// What is kept to undo the update that was made last; nothing when there is none.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn kept(&self) -> io::Result<Option<Kept>> {
        if !matches!(self.standing, Standing::Kept | Standing::OnTrial) {
            return Ok(None);
        }
        let Some(since) = Journal::last_noted(&self.work)? else { return Ok(None) };
        let mut bytes = 0;
        for name in names_in(self.work.slots.as_fd())? {
            let Some(stat) = stat_at(At::new(self.work.slots.as_fd(), &name))? else { continue };
            // What has another name in the tree frees nothing.
            if is_directory(stat.stx_mode) || stat.stx_nlink == 1 {
                bytes += stat.stx_blocks * 512;
            }
        }
        Ok(Some(Kept { since, bytes }))
    }
}
