//! Services: what triggers ask for, done by the machine's own service manager; and the order of it in an update.

mod activation;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use dominator_core::port::{ServiceAction, ServiceError, ServiceRunner};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags};

pub use activation::{Activation, Debt, Due, changed};

/// The agent's own service. It is never stopped, as nobody would start it again; to start it is to restart it without
/// waiting.
pub const AGENT_SERVICE: &str = "subd";

/// The services of the running system: `systemctl`, or `service` where systemd does not run. Each action has a time
/// limit, no terminal, no environment but a search path, and its last words are kept.
#[derive(Clone, Debug)]
pub struct SystemServices {
    manager: Manager,
    limit: Duration,
}

/// What carries actions out.
#[derive(Clone, Debug)]
enum Manager {
    Systemd { systemctl: PathBuf },
    SysV { service: PathBuf, reboot: PathBuf },
}

impl SystemServices {
    /// How long an action may take unless said otherwise: what systemd gives a service to stop.
    pub const LIMIT: Duration = Duration::from_secs(90);
    /// How much of what an action prints is kept, in bytes: the last of it.
    pub const MAX_OUTPUT: usize = 4096;

    /// Finds out who manages services here.
    pub fn detect() -> Self {
        let manager = if Path::new("/run/systemd/system").is_dir() {
            Manager::Systemd { systemctl: "systemctl".into() }
        } else {
            Manager::SysV { service: "service".into(), reboot: "reboot".into() }
        };
        Self { manager, limit: Self::LIMIT }
    }

    /// Gives actions `limit` instead of [`SystemServices::LIMIT`].
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    fn command(&self, action: ServiceAction, service: &str) -> Command {
        let itself = service == AGENT_SERVICE && action == ServiceAction::Start;
        match &self.manager {
            Manager::Systemd { systemctl } => {
                let mut command = Command::new(systemctl);
                command.arg("--no-ask-password");
                match action {
                    ServiceAction::Reboot => command.arg(action.verb()),
                    // Whoever waits for its own end waits for ever.
                    ServiceAction::Start if itself => command.args(["--no-block", "restart", service]),
                    ServiceAction::Start | ServiceAction::Stop | ServiceAction::Reload => {
                        command.args([action.verb(), service])
                    }
                };
                command
            }
            Manager::SysV { reboot, .. } if action == ServiceAction::Reboot => Command::new(reboot),
            Manager::SysV { service: program, .. } => {
                let mut command = Command::new(program);
                command.args([service, if itself { "restart" } else { action.verb() }]);
                command
            }
        }
    }
}

impl ServiceRunner for SystemServices {
    fn run(&self, action: ServiceAction, service: &str) -> Result<(), ServiceError> {
        let failed = |output: String| ServiceError::Failed {
            action: action.verb(),
            service: service.to_owned(),
            output,
        };
        match run_limited(self.command(action, service), self.limit) {
            Ok(Ended::Exited { status, .. }) if status.success() => Ok(()),
            Ok(Ended::Exited { status, output }) => Err(failed(format!("{status}: {output}"))),
            Ok(Ended::TooLate) => Err(ServiceError::Timeout {
                action: action.verb(),
                service: service.to_owned(),
                limit: self.limit,
            }),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

/// For roots that are not the running system: there is nothing to start or stop.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoServices;

impl ServiceRunner for NoServices {
    fn run(&self, action: ServiceAction, service: &str) -> Result<(), ServiceError> {
        tracing::info!(action = action.verb(), service, "no services in this root; passed over");
        Ok(())
    }
}

/// How a process ended.
enum Ended {
    Exited { status: ExitStatus, output: String },
    TooLate,
}

/// Runs a command until it ends or the limit is over; then it and all it started in its group is killed. A daemon that
/// it leaves behind may hold its output open for ever, so the end of the process counts, not that of the output.
fn run_limited(mut command: Command, limit: Duration) -> io::Result<Ended> {
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

fn kill(child: &mut Child) -> io::Result<()> {
    let group = nix::unistd::Pid::from_raw(Pid::from_child(child).as_raw_pid());
    match nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
        Err(error) => return Err(error.into()),
    }
    child.wait().map(drop)
}

/// The end of what a process prints.
struct Output {
    reader: File,
    kept: Vec<u8>,
}

impl Output {
    /// Reads what is there now, but not for ever; whether there may be more later.
    fn take(&mut self) -> bool {
        let mut buffer = [0; SystemServices::MAX_OUTPUT];
        for _ in 0..64 {
            match (&self.reader).read(&mut buffer) {
                Ok(0) => return false,
                Ok(read) => {
                    self.kept.extend_from_slice(buffer.get(..read).unwrap_or_default());
                    let surplus = self.kept.len().saturating_sub(SystemServices::MAX_OUTPUT);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A manager that is a shell script.
    fn scripted(script: &str) -> (tempfile::TempDir, SystemServices) {
        let dir = tempfile::tempdir().unwrap();
        let systemctl = dir.path().join("systemctl");
        std::fs::write(&systemctl, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&systemctl, PermissionsExt::from_mode(0o755)).unwrap();
        let limit = SystemServices::LIMIT;
        (dir, SystemServices { manager: Manager::Systemd { systemctl }, limit })
    }

    #[test]
    fn the_verb_and_the_unit_reach_the_service_manager_and_nothing_of_our_environment() {
        let (dir, services) = scripted(r#"echo "$@ ${CARGO_PKG_NAME-unset}" >> "$(dirname "$0")/log""#);
        services.run(ServiceAction::Stop, "nginx").unwrap();
        services.run(ServiceAction::Start, AGENT_SERVICE).unwrap();
        services.run(ServiceAction::Reboot, "reboot").unwrap();
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
        let expected = [
            "--no-ask-password stop nginx unset",
            "--no-ask-password --no-block restart subd unset",
            "--no-ask-password reboot unset",
        ];
        assert_eq!(log.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_failure_says_how_it_ended_and_keeps_the_last_words() {
        let (_dir, services) =
            scripted("head -c 100000 /dev/zero | tr '\\0' x; echo 'unit is masked' >&2; exit 3");
        let error = services.run(ServiceAction::Start, "s").unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.ends_with("unit is masked"), "{error}");
        assert!(error.len() < 2 * SystemServices::MAX_OUTPUT);
    }

    #[test]
    fn a_service_that_hangs_is_given_up_with_all_it_started() {
        let (dir, services) = scripted(r#"sleep 1000 & echo $! > "$(dirname "$0")/pid"; wait"#);
        let services = services.limit(Duration::from_millis(300));
        let error = services.run(ServiceAction::Stop, "s").unwrap_err();
        assert!(matches!(error, ServiceError::Timeout { .. }), "{error}");
        if let Ok(pid) = std::fs::read_to_string(dir.path().join("pid")) {
            // It is killed, though perhaps it has not been given the time to die, or nobody has collected it yet.
            let end = std::time::Instant::now() + Duration::from_secs(100);
            loop {
                let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
                let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
                if matches!(state, None | Some("Z" | "X")) {
                    break;
                }
                assert!(std::time::Instant::now() < end, "{stat}");
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn a_daemon_that_keeps_the_output_open_is_not_waited_for() {
        let (dir, services) = scripted(r#"sleep 1000 & echo $! > "$(dirname "$0")/pid""#);
        services.run(ServiceAction::Start, "s").unwrap();
        let pid = std::fs::read_to_string(dir.path().join("pid")).unwrap().trim().parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    }
}
