//! What must be done before services run.

use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use dominator_fs::root::Root;
use dominator_fs::seam::Kernel;
use dominator_fs::update::{BootId, Judged, Recovery, Updater, When, WorkError};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::command::Reboot;
use crate::machine::{Host, Machine};
use crate::{REBOOT_NEEDED, say, spell};

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The machine can go on starting.
    GoOn,
    /// It can, with what is on the disk now: whoever read files of it earlier, as those of services, must read them again.
    ReadAgain,
    /// It must be started anew: what it was started with is no longer what it is.
    StartAnew,
}

/// What was decided, and is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How the machine goes on.
    pub decision: Decision,
    /// What was found and done; nothing where there is nothing to tell.
    pub told: Option<String>,
}

/// Brings what was cut off to its end, and takes back what nobody accepted since the last start of the machine. Where
/// there is no journal, nothing is made and nothing written.
///
/// # Errors
/// [`WorkError`]: the machine stays as it is.
pub fn boot(root: &Path, boot: BootId) -> Result<Outcome, WorkError> {
    if !may_have_journal(root) {
        return Ok(Outcome { decision: Decision::GoOn, told: None });
    }
    let root = open(root)?;
    let (_updater, recovery) = Updater::open_at_boot(root, Arc::new(Kernel), boot)?;
    let trial = match &recovery {
        Recovery::Finished { trial, .. } | Recovery::Undone { trial, when: When::Now, .. } => *trial,
        Recovery::Clean
        | Recovery::Abandoned { .. }
        | Recovery::Undone { .. }
        | Recovery::OnTrial { .. }
        | Recovery::Kept { .. }
        | _ => None,
    };
    let anew = trial.is_some_and(|trial| trial.judged == Judged::AfterReboot);
    let changed = matches!(&recovery, Recovery::Finished { .. } | Recovery::Undone { when: When::Now, .. });
    let decision = match (anew, changed) {
        (true, _) => Decision::StartAnew,
        (false, true) => Decision::ReadAgain,
        (false, false) => Decision::GoOn,
    };
    Ok(Outcome { decision, told: Some(spell::recovery(&recovery)) })
}

/// As the agent opens it, so that it is the same directory to both.
pub(crate) fn open(root: &Path) -> Result<Root, WorkError> {
    let opened = Root::open_beneath_mounts(root).map(|(root, _)| root);
    opened.map_err(|error| WorkError::Io(std::io::Error::other(error)))
}

pub(crate) fn run(root: &Path, reboot: Reboot) -> ExitCode {
    let outcome = match BootId::current().map_err(WorkError::Io).and_then(|id| boot(root, id)) {
        Ok(outcome) => outcome,
        Err(error) => {
            say(&spell::failure(&error));
            return ExitCode::FAILURE;
        }
    };
    outcome.told.iter().for_each(|told| say(told));
    match (outcome.decision, reboot) {
        (Decision::GoOn, _) => ExitCode::SUCCESS,
        (Decision::ReadAgain, _) => {
            // Another root is of a machine that is not running.
            if root == Path::new("/") {
                Host.read_units_again();
            }
            ExitCode::SUCCESS
        }
        (Decision::StartAnew, Reboot::Tell) => {
            say("the machine must be started anew");
            ExitCode::from(REBOOT_NEEDED)
        }
        (Decision::StartAnew, Reboot::Now) => {
            say("the machine is started anew");
            match Host.restart_at_once() {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    say(&format!("it can't be: {error}"));
                    ExitCode::from(REBOOT_NEEDED)
                }
            }
        }
    }
}

/// Whether there is a journal, or it can't be found out: then opening it tells why.
pub(crate) fn may_have_journal(root: &Path) -> bool {
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    let Ok(root) = rustix::fs::openat(CWD, root, flags, Mode::empty()) else { return true };
    let journal = rustix::fs::openat(root.as_fd(), ".subd", flags | OFlags::NOFOLLOW, Mode::empty())
        .and_then(|top| rustix::fs::statat(&top, "journal", AtFlags::SYMLINK_NOFOLLOW));
    !matches!(journal, Err(Errno::NOENT | Errno::NOTDIR))
}
