//! The watch over an update whose judge may be the very thing that is broken.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dominator_core::port::Chain;
use dominator_fs::root::Root;
use dominator_fs::seam::Kernel;
use dominator_fs::update::{Judged, Reason, Trial, Updater, WorkError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::process::Pid;

use crate::machine::{Host, Machine};
use crate::{boot, say, spell};

/// What is watched over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The root of the machine.
    pub root: PathBuf,
    /// The service of the agent.
    pub agent: String,
    /// How long the trial may take; as the journal says, if not given.
    pub deadline: Option<Duration>,
    /// How long the agent may take to let go of the root once it was stopped, before it is killed.
    pub patience: Duration,
}

impl Watch {
    /// How long an agent may take that nobody knows more of.
    pub const PATIENCE: Duration = Duration::from_secs(20);
}

/// What came of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// There was no update on trial, or somebody decided.
    Decided,
    /// Nobody did: it is undone.
    Undone,
}

/// Waits until the update on trial is decided. When nobody decides in time: stops the agent, undoes the update, and starts
/// the agent again, or the machine, if it was started with what is undone.
///
/// # Errors
/// [`WorkError`] when it can't be undone; the agent is started again all the same.
pub fn guard(watch: &Watch, machine: &dyn Machine) -> Result<Watched, WorkError> {
    let root = boot::open(&watch.root)?;
    let began = Instant::now();
    let mut notice =
        Notice::new(&root).inspect_err(|error| say(&format!("changes are not heard of: {error}"))).ok();
    let pending = loop {
        let Some(pending) = Trial::pending(&root).map_err(WorkError::Journal)? else {
            return Ok(Watched::Decided);
        };
        let deadline = watch.deadline.unwrap_or(pending.trial.deadline);
        match deadline.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
            Some(left) => wait(&mut notice, left),
            None => break pending,
        }
    };
    say("nobody has judged the update in time");
    if let Err(error) = machine.stop(&watch.agent) {
        say(&Chain(&error).to_string());
    }
    let undone = undo(&root, watch.patience, machine);
    let anew = pending.trial.judged == Judged::AfterReboot && pending.booted.is_some();
    let done = match (&undone, anew) {
        (Ok(Watched::Undone), true) => machine.restart(),
        (Ok(Watched::Undone), false) => {
            // That of the agent may be one of those that changed back.
            machine.read_units_again();
            machine.start(&watch.agent)
        }
        (Ok(Watched::Decided) | Err(_), _) => machine.start(&watch.agent),
    };
    if let Err(error) = done {
        say(&Chain(&error).to_string());
    }
    undone
}

pub(crate) fn run(watch: &Watch) -> ExitCode {
    match guard(watch, &Host) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            say(&spell::failure(&error));
            ExitCode::FAILURE
        }
    }
}

/// How often it is tried to open the root.
const TRY: Duration = Duration::from_millis(100);
/// How long nothing is looked at, should changes not be heard of.
const LOOK: Duration = Duration::from_secs(5);

/// Undoes what is on trial still. An agent that holds on to the root is ended.
fn undo(root: &Root, patience: Duration, machine: &dyn Machine) -> Result<Watched, WorkError> {
    let began = Instant::now();
    let mut killed = false;
    let (mut updater, recovery) = loop {
        match Updater::open(root.clone(), Arc::new(Kernel)) {
            Err(WorkError::Busy) if began.elapsed() < patience => std::thread::sleep(TRY),
            Err(WorkError::Busy) if !killed => {
                killed = true;
                match holder(root).map(|process| machine.kill(process)) {
                    Some(Ok(())) => say("the agent would not stop, and was killed"),
                    Some(Err(error)) => say(&Chain(&error).to_string()),
                    None => say("the agent would not stop, and who it is can't be found out"),
                }
            }
            Err(WorkError::Busy) if began.elapsed() < patience + Watch::PATIENCE => std::thread::sleep(TRY),
            other => break other?,
        }
    };
    if !updater.is_on_trial() {
        say(&spell::recovery(&recovery));
        return Ok(Watched::Decided);
    }
    let report =
        updater.undo_on_record(Reason::Overdue).map_err(|error| WorkError::Recovery(Box::new(error)))?;
    say(&spell::undone(Reason::Overdue, &report));
    Ok(Watched::Undone)
}

/// Which process has the lock of the work directory, as the kernel lists it.
fn holder(root: &Root) -> Option<Pid> {
    let stat = rustix::fs::statat(root.as_fd(), ".subd", rustix::fs::AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    let place = format!("{major:02x}:{minor:02x}:{}", stat.st_ino);
    holder_in(&std::fs::read_to_string("/proc/locks").ok()?, &place)
}

/// As a line of `1: FLOCK  ADVISORY  WRITE 1234 08:01:131074 0 EOF` says. Some locks are of no process: -1.
fn holder_in(locks: &str, place: &str) -> Option<Pid> {
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1).filter(|word| *word != "->");
        let (kind, process) = (words.next()?, words.nth(2)?);
        let is_held = kind == "FLOCK" && words.next()? == place;
        let process = process.parse().ok().filter(|process| is_held && *process > 0)?;
        Pid::from_raw(process)
    })
}

fn wait(notice: &mut Option<Notice>, left: Duration) {
    let left = left.min(LOOK);
    match notice {
        Some(notice) => notice.wait(left),
        None => std::thread::sleep(left),
    }
}

/// Hears of what is done to the journal.
struct Notice(OwnedFd);

impl Notice {
    fn new(root: &Root) -> io::Result<Self> {
        let queue = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let place = CString::new(format!("/proc/self/fd/{}/.subd", root.as_fd().as_raw_fd()))?;
        let changes =
            inotify::WatchFlags::MODIFY | inotify::WatchFlags::DELETE | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&queue, &*place, changes)?;
        Ok(Self(queue))
    }

    fn wait(&mut self, left: Duration) {
        let limit = Timespec::try_from(left).ok();
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        // What goes wrong here only makes the next look later, or earlier.
        poll(&mut fds, limit.as_ref()).unwrap_or_default();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.0, &mut buffer);
        while reader.next().is_ok() {}
    }
}

impl fmt::Debug for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Notice")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_killed_for_a_lock_of_something_else() {
        let locks = "\
            1: OFDLCK ADVISORY  READ -1 fe:00:131074 201 201\n\
            2: FLOCK  ADVISORY  WRITE 11 08:01:131074 0 EOF\n\
            3: POSIX  ADVISORY  WRITE 12 fe:00:131074 0 EOF\n\
            4: FLOCK  ADVISORY  WRITE -1 fe:00:131074 0 EOF\n\
            5: FLOCK  ADVISORY  WRITE 13 fe:00:131074 0 EOF\n\
            5: -> FLOCK  ADVISORY  WRITE 14 fe:00:131074 0 EOF\n";
        assert_eq!(holder_in(locks, "fe:00:131074"), Pid::from_raw(13));
        assert_eq!(holder_in(locks, "fe:00:131075"), None);
    }
}
