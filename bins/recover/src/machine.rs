//! What is done to the machine itself: never in tests.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use thiserror::Error;

use crate::say;

/// What could not be done.
#[derive(Debug, Error)]
pub enum MachineError {
    /// No program that rules services could do it.
    #[error("neither systemctl nor service could {action} {agent}")]
    Service {
        /// What was to be done.
        action: &'static str,
        /// To which service.
        agent: String,
    },
    /// The kernel would not.
    #[error("the kernel refuses")]
    Kernel(#[from] io::Error),
}

/// What is done to a machine when an update was taken back.
pub trait Machine {
    /// Stops the agent's service.
    ///
    /// # Errors
    /// [`MachineError`].
    fn stop(&self, agent: &str) -> Result<(), MachineError>;
    /// Starts it.
    ///
    /// # Errors
    /// [`MachineError`].
    fn start(&self, agent: &str) -> Result<(), MachineError>;
    /// Ends a process that would not.
    ///
    /// # Errors
    /// [`MachineError`].
    fn kill(&self, process: Pid) -> Result<(), MachineError>;
    /// Has whoever rules services read their files again: some may have changed since. Before anything is started that it
    /// is asked for after this.
    fn read_units_again(&self);
    /// Starts the machine anew, services in good order if that is possible.
    ///
    /// # Errors
    /// [`MachineError`].
    fn restart(&self) -> Result<(), MachineError>;
}

/// The machine this process runs on.
#[derive(Clone, Copy, Debug)]
pub struct Host;

impl Host {
    /// How long a program may take that rules services.
    const LIMIT: Duration = Duration::from_secs(90);
    /// Starts the machine anew, while nothing runs yet that would have to be stopped.
    ///
    /// # Errors
    /// [`MachineError::Kernel`].
    pub fn restart_at_once(self) -> Result<(), MachineError> {
        rustix::fs::sync();
        let restarted = rustix::system::reboot(rustix::system::RebootCommand::Restart);
        restarted.map_err(|error| MachineError::Kernel(error.into()))
    }

    fn service(action: &'static str, agent: &str) -> Result<(), MachineError> {
        let init = agent.strip_suffix(".service").unwrap_or(agent);
        let done = Self::done(Command::new("systemctl").args([action, "--", agent]))
            || Self::done(Command::new("service").args([init, action]));
        if done { Ok(()) } else { Err(MachineError::Service { action, agent: agent.to_owned() }) }
    }

    /// Whether a program did what it was asked, in time.
    fn done(command: &mut Command) -> bool {
        ended(command.stdin(Stdio::null()).stdout(Stdio::null()), Self::LIMIT) == Ended::With(0)
    }
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    With(i32),
    /// It was not there, or was killed.
    Died,
    /// It did not end in time, and was killed; the kernel may not have ended it yet.
    Late,
}

/// Runs a program, for so long at most.
pub(crate) fn ended(command: &mut Command, limit: Duration) -> Ended {
    /// How often it is looked at.
    const LOOK: Duration = Duration::from_millis(20);
    let Ok(mut child) = command.spawn() else { return Ended::Died };
    let began = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.code().map_or(Ended::Died, Ended::With),
            Ok(None) if began.elapsed() < limit => std::thread::sleep(LOOK),
            Ok(None) | Err(_) => {
                // Not waited for: what the disk does not let go of can't be killed either.
                drop(child.kill());
                return Ended::Late;
            }
        }
    }
}

impl Machine for Host {
    fn stop(&self, agent: &str) -> Result<(), MachineError> {
        Self::service("stop", agent)
    }

    fn start(&self, agent: &str) -> Result<(), MachineError> {
        Self::service("start", agent)
    }

    fn kill(&self, process: Pid) -> Result<(), MachineError> {
        rustix::process::kill_process(process, Signal::KILL)
            .map_err(|error| MachineError::Kernel(error.into()))
    }

    /// systemd read them before this program was started, or long ago. The signal is what its manual has for
    /// `daemon-reload`, and needs neither a bus nor a program that may be half there.
    fn read_units_again(&self) {
        if !Path::new("/run/systemd/system").is_dir() {
            return;
        }
        match rustix::process::kill_process(Pid::INIT, Signal::HUP) {
            Ok(()) => say("systemd reads unit files again"),
            Err(error) => say(&format!("systemd can't be told to read unit files again: {error}")),
        }
    }

    /// By the service manager, and when that is not there, at once.
    fn restart(&self) -> Result<(), MachineError> {
        if Self::done(Command::new("systemctl").args(["--no-block", "reboot"])) {
            return Ok(());
        }
        self.restart_at_once()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_waited_for_longer_than_he_may_take() {
        let run = |script, limit| ended(Command::new("sh").args(["-c", script]), limit);
        let hour = Duration::from_secs(3600);
        assert_eq!(run("exit 100", hour), Ended::With(100));
        assert_eq!(run("kill -ABRT $$", hour), Ended::Died);
        assert_eq!(ended(&mut Command::new("/nothing/of/that/name"), hour), Ended::Died);
        assert_eq!(run("exec sleep 3600", Duration::ZERO), Ended::Late);
    }
}
