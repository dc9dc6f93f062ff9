//! Services: what triggers ask for, done by the machine's own service manager; and the order of it in an update.

mod command;
mod reboot;
#[cfg(feature = "systemd")]
mod systemd;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use dominator_core::port::{Rules, ServiceAction, ServiceError, ServiceRunner, ServiceState};

pub(crate) use command::{Ended, Leftovers, run_limited};
pub use dominator_core::activation::{AGENT_SERVICE, Activation, Conclusion, Debt, Due, Withdrawal, changed};
pub use reboot::{Levers, Rung, climb};
#[cfg(feature = "systemd")]
pub use systemd::Systemd;

/// The services of the running system. systemd is spoken to directly (feature `systemd`); where that can't be done,
/// `systemctl` is used, and `service` where systemd does not run. Each action has a time limit. Programs get no terminal
/// and no environment but a search path, and their last words are kept.
#[derive(Clone, Debug)]
pub struct SystemServices {
    manager: Manager,
    limit: Duration,
    reach: Reach,
}

/// What carries actions out.
#[derive(Clone, Debug)]
enum Manager {
    Systemd {
        #[cfg(feature = "systemd")]
        direct: Systemd,
        systemctl: PathBuf,
    },
    SysV {
        service: PathBuf,
        reboot: PathBuf,
    },
}

/// How far a reboot may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// The service manager is asked: that of tests, and one that was named.
    #[cfg(any(test, feature = "systemd"))]
    Manager,
    /// If it does not do it, the machine is restarted without it.
    Machine,
}

impl SystemServices {
    /// How long an action may take unless said otherwise: what systemd gives a service to stop.
    pub const LIMIT: Duration = Duration::from_secs(90);
    /// How long it may take to say what a service is doing.
    pub const STATE_LIMIT: Duration = Duration::from_secs(10);
    /// How much of what an action prints is kept, in bytes: the last of it.
    pub const MAX_OUTPUT: usize = command::MAX_OUTPUT;

    /// Finds out who manages services here.
    pub fn detect() -> Self {
        let manager = if Path::new("/run/systemd/system").is_dir() {
            Manager::Systemd {
                #[cfg(feature = "systemd")]
                direct: Systemd::of_machine(),
                systemctl: "systemctl".into(),
            }
        } else {
            Manager::SysV { service: "service".into(), reboot: "reboot".into() }
        };
        Self { manager, limit: Self::LIMIT, reach: Reach::Machine }
    }

    /// Those that `direct` manages; when it can't be spoken to, the program `systemctl` is used. A reboot asks it, and does
    /// no more than that.
    #[cfg(feature = "systemd")]
    pub fn systemd(direct: Systemd, systemctl: impl Into<PathBuf>) -> Self {
        let manager = Manager::Systemd { direct, systemctl: systemctl.into() };
        Self { manager, limit: Self::LIMIT, reach: Reach::Manager }
    }

    /// Gives actions `limit` instead of [`SystemServices::LIMIT`]. Where systemd is spoken to directly, a unit that says it may
    /// take longer is given what it says, and a quarter of an hour at most.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Has the manager do it, and waits for that.
    fn carry_out(&self, action: ServiceAction, service: &str) -> Result<(), ServiceError> {
        let deadline = Instant::now() + self.limit;
        #[cfg(feature = "systemd")]
        if let Manager::Systemd { direct, .. } = &self.manager {
            match direct.run(action, service, deadline) {
                Err(systemd::Trouble::NoContact(why)) => {
                    tracing::warn!(why, "systemd is reached by systemctl only")
                }
                Err(systemd::Trouble::TooLate) => return Err(self.too_late(action, service)),
                Err(systemd::Trouble::NoSuchUnit(why) | systemd::Trouble::Failed(why)) => {
                    return Err(failed(action, service, why));
                }
                Ok(()) => return Ok(()),
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        match run_limited(self.command(action, service), left, Leftovers::Stay) {
            Ok(Ended::Exited { status, .. }) if status.success() => Ok(()),
            Ok(Ended::Exited { status, output }) => {
                Err(failed(action, service, format!("{status}: {output}")))
            }
            Ok(Ended::TooLate) => Err(self.too_late(action, service)),
            Err(error) => Err(failed(action, service, error.to_string())),
        }
    }

    fn command(&self, action: ServiceAction, service: &str) -> Command {
        let itself = is_of_agent(service) && matches!(action, ServiceAction::Start | ServiceAction::Restart);
        match &self.manager {
            Manager::Systemd { systemctl, .. } => {
                let mut command = Command::new(systemctl);
                command.arg("--no-ask-password");
                match action {
                    ServiceAction::Reboot => command.arg(action.verb()),
                    // Whoever waits for its own end waits for ever.
                    ServiceAction::Start | ServiceAction::Restart if itself => {
                        command.args(["--no-block", "restart", service])
                    }
                    ServiceAction::Start
                    | ServiceAction::Stop
                    | ServiceAction::Reload
                    | ServiceAction::Restart => command.args([action.verb(), service]),
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

    fn too_late(&self, action: ServiceAction, service: &str) -> ServiceError {
        ServiceError::Timeout { action: action.verb(), service: service.to_owned(), limit: self.limit }
    }

    /// Whether systemd says that everything is being stopped, if it says anything.
    #[cfg(feature = "systemd")]
    fn says_it_stops(&self) -> Option<bool> {
        match &self.manager {
            Manager::Systemd { direct, .. } => {
                direct.of_all(Instant::now() + Self::STATE_LIMIT).ok().map(|state| state == "stopping")
            }
            Manager::SysV { .. } => None,
        }
    }

    /// What a program says a service is doing.
    fn told_state(&self, service: &str) -> ServiceState {
        let (program, arguments): (_, &[&str]) = match &self.manager {
            Manager::Systemd { systemctl, .. } => {
                (systemctl, &["show", "--property=ActiveState", "--property=SubState", service])
            }
            Manager::SysV { service: program, .. } => (program, &[service, "status"]),
        };
        let mut command = Command::new(program);
        command.args(arguments);
        match run_limited(command, Self::STATE_LIMIT, Leftovers::Killed) {
            Ok(Ended::Exited { status, output }) => match self.manager {
                Manager::Systemd { .. } if status.success() => state_shown(&output),
                Manager::Systemd { .. } => ServiceState::Unknown,
                Manager::SysV { .. } => state_by_status(status.code()),
            },
            Ok(Ended::TooLate) | Err(_) => ServiceState::Unknown,
        }
    }
}

impl ServiceRunner for SystemServices {
    /// Restarting the machine is done when everything is being stopped, or, where that can't be seen, when the machine
    /// goes down.
    fn run(&self, action: ServiceAction, service: &str) -> Result<(), ServiceError> {
        let done = match action {
            ServiceAction::Reboot if self.reach == Reach::Machine => {
                climb(&reboot::Machine { services: self, service })
                    .map_err(|why| failed(action, service, why))
            }
            ServiceAction::Reboot
            | ServiceAction::Start
            | ServiceAction::Stop
            | ServiceAction::Reload
            | ServiceAction::Restart => self.carry_out(action, service),
        };
        let error = done.as_ref().err().map(tracing::field::display);
        tracing::info!(service, action = action.verb(), error, "service");
        done
    }

    fn is_coming_up(&self) -> bool {
        let is_early = |state: &str| matches!(state, "initializing" | "starting");
        let Manager::Systemd {
            #[cfg(feature = "systemd")]
            direct,
            systemctl,
        } = &self.manager
        else {
            return false;
        };
        #[cfg(feature = "systemd")]
        if let Ok(state) = direct.of_all(Instant::now() + Self::STATE_LIMIT) {
            return is_early(&state);
        }
        let mut command = Command::new(systemctl);
        command.arg("is-system-running");
        match run_limited(command, Self::STATE_LIMIT, Leftovers::Killed) {
            Ok(Ended::Exited { output, .. }) => is_early(&output),
            Ok(Ended::TooLate) | Err(_) => false,
        }
    }

    fn state(&self, service: &str) -> ServiceState {
        #[cfg(feature = "systemd")]
        if let Manager::Systemd { direct, .. } = &self.manager
            && let Ok(state) = direct.state(service, Instant::now() + Self::STATE_LIMIT)
        {
            return state;
        }
        self.told_state(service)
    }
}

fn failed(action: ServiceAction, service: &str, output: String) -> ServiceError {
    ServiceError::Failed { action: action.verb(), service: service.to_owned(), output }
}

fn is_of_agent(service: &str) -> bool {
    service.strip_suffix(".service").unwrap_or(service) == AGENT_SERVICE
}

/// What `systemctl show` says.
fn state_shown(output: &str) -> ServiceState {
    let value = |name: &str| output.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    systemd_state(value("ActiveState="), value("SubState="))
}

/// What systemd's words for the state of a unit come to.
fn systemd_state(active: &str, sub: &str) -> ServiceState {
    match (active, sub) {
        ("active" | "reloading" | "refreshing", _) => ServiceState::Running,
        ("inactive" | "deactivating", _) => ServiceState::Stopped,
        // Between two attempts it looks as if it were about to run.
        ("failed" | "maintenance", _) | ("activating", "auto-restart" | "auto-restart-queued") => {
            ServiceState::Failed
        }
        _ => ServiceState::Unknown,
    }
}

/// What the exit status of an init script's `status` means, by the Linux Standard Base.
fn state_by_status(status: Option<i32>) -> ServiceState {
    match status {
        Some(0) => ServiceState::Running,
        // Dead, and its lock or PID file is still there.
        Some(1 | 2) => ServiceState::Failed,
        Some(3) => ServiceState::Stopped,
        _ => ServiceState::Unknown,
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

    fn state(&self, _service: &str) -> ServiceState {
        ServiceState::Unknown
    }

    fn rules(&self) -> Rules {
        Rules::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dominator_fs_testkit::write_script;

    /// A manager that is a shell script.
    fn scripted(script: &str) -> (tempfile::TempDir, SystemServices) {
        let dir = tempfile::tempdir().unwrap();
        let systemctl = dir.path().join("systemctl");
        write_script(&systemctl, &format!("#!/bin/sh\n{script}\n"));
        let manager = Manager::Systemd {
            #[cfg(feature = "systemd")]
            direct: Systemd::on("/nowhere/bus"),
            systemctl,
        };
        (dir, SystemServices { manager, limit: SystemServices::LIMIT, reach: Reach::Manager })
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
