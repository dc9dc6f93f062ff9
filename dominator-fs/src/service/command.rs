use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags};

/// How much of what a process prints is kept, in bytes: the last of it.
pub(crate) const MAX_OUTPUT: usize = 4096;

/// How long what was killed may take to die.
const DEATH: Duration = Duration::from_secs(5);

/// How a process ended.
pub(crate) enum Ended {
    /// By itself.
    Exited {
        /// How.
        status: ExitStatus,
        /// The end of what it printed.
        output: String,
    },
    /// By us.
    TooLate,
}

/// What becomes of what a process leaves behind in its group when it ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leftovers {
    /// It stays: to start a daemon may have been the point.
    Stay,
    /// It is killed.
    Killed,
}

/// Runs a command until it ends or the limit is over; then it and all it started in its group is killed. A daemon that
/// it leaves behind may hold its output open for ever, so the end of the process counts, not that of the output.
pub(crate) fn run_limited(mut command: Command, limit: Duration, leftovers: Leftovers) -> io::Result<Ended> {
    let (reader, writer) = io::pipe()?;
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    let mut child = command
        .env_clear()
        .env("PATH", path)
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0)
        .spawn()?;
    // The command keeps copies of the writing end.
    drop(command);
    let mut output = Output { reader: File::from(OwnedFd::from(reader)), kept: Vec::new() };
    rustix::io::ioctl_fionbio(&output.reader, true)?;
    let ended = wait(&child, &mut output, limit);
    if !matches!(ended, Ok(true)) {
        kill(&mut child)?;
        return ended.map(|_| Ended::TooLate);
    }
    if leftovers == Leftovers::Killed {
        // Nobody has collected it yet, so the number of its group is still its own.
        kill_group(&child)?;
    }
    let status = child.wait()?;
    output.take();
    Ok(Ended::Exited { status, output: output.text() })
}

/// Waits for the end of the process, reading what it prints meanwhile. Whether it ended in time.
fn wait(child: &Child, output: &mut Output, limit: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + limit;
    let process = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let mut is_open = true;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        let (ended, printed) = {
            let mut waited = vec![PollFd::new(&process, PollFlags::IN)];
            if is_open {
                waited.push(PollFd::new(&output.reader, PollFlags::IN));
            }
            match poll(&mut waited, Some(&timeout)) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            let ready = |index: usize| waited.get(index).is_some_and(|fd| !fd.revents().is_empty());
            (ready(0), ready(1))
        };
        if printed {
            is_open = output.take();
        }
        if ended {
            return Ok(true);
        }
    }
}

/// Nobody waits for ever for what the kernel can't end, as what waits for a disk or a server that is gone: it is left behind.
fn kill(child: &mut Child) -> io::Result<()> {
    let process = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    kill_group(child)?;
    let limit = Timespec::try_from(DEATH).map_err(io::Error::other)?;
    loop {
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit)) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(0) => {
                tracing::warn!(process = child.id(), "it was killed, and does not die");
                return Ok(());
            }
            other => return other.map_err(io::Error::from).and_then(|_| child.wait()).map(drop),
        }
    }
}

fn kill_group(child: &Child) -> io::Result<()> {
    let group = nix::unistd::Pid::from_raw(Pid::from_child(child).as_raw_pid());
    match nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL) {
        // EPERM: only the process itself is left, and it has ended.
        Ok(()) | Err(nix::errno::Errno::ESRCH | nix::errno::Errno::EPERM) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The end of what a process prints.
struct Output {
    reader: File,
    kept: Vec<u8>,
}

impl Output {
    /// Reads what is there now, but not for ever; whether there may be more later.
    fn take(&mut self) -> bool {
        let mut buffer = [0; MAX_OUTPUT];
        for _ in 0..64 {
            match (&self.reader).read(&mut buffer) {
                Ok(0) => return false,
                Ok(read) => {
                    self.kept.extend_from_slice(buffer.get(..read).unwrap_or_default());
                    let surplus = self.kept.len().saturating_sub(MAX_OUTPUT);
                    self.kept.drain(..surplus);
                }
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
        true
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.kept).trim().to_owned()
    }
}
