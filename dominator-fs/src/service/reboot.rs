use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use dominator_core::port::ServiceAction;
use nix::sys::signal::{SigHandler, Signal, signal};
use rustix::system::{RebootCommand, reboot};

use super::{Ended, Leftovers, Manager, SystemServices, run_limited};

/// The ways to restart a machine, from the gentlest on. The next is tried when the one before did not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// The service manager is asked. It stops everything in order.
    Ask,
    /// `reboot -f`: the manager restarts the machine without stopping everything in order.
    Force,
    /// What is not on the disk yet is written, as far as it can be.
    Sync,
    /// The kernel restarts the machine.
    Kernel,
}

/// What restarts a machine, or plays it.
pub trait Levers {
    /// Tries it, within [`Rung::limit`].
    ///
    /// # Errors
    /// Why it did not work.
    fn pull(&self, rung: Rung) -> Result<(), String>;

    /// Whether everything is being stopped: then it is the service manager's turn, which has limits of its own.
    fn is_going_down(&self) -> bool;

    /// Lets time pass.
    fn wait(&self, time: Duration);
}

impl Rung {
    /// All, in order.
    pub const ALL: [Self; 4] = [Self::Ask, Self::Force, Self::Sync, Self::Kernel];

    /// How long trying may take.
    pub const fn limit(self) -> Duration {
        Duration::from_secs(match self {
            Self::Ask | Self::Force => 15,
            // Three times.
            Self::Sync => 5,
            Self::Kernel => 0,
        })
    }

    /// How long the machine may take to go down then, before the next is tried.
    pub const fn patience(self) -> Duration {
        Duration::from_secs(match self {
            Self::Ask => 60,
            Self::Force => 15,
            Self::Sync | Self::Kernel => 0,
        })
    }
}

/// Restarts the machine: returns when everything is being stopped, as what is to be stopped may be this process.
///
/// # Errors
/// What each rung had to say, when none worked.
pub fn climb(levers: &impl Levers) -> Result<(), String> {
    const LOOK_EVERY: Duration = Duration::from_secs(1);
    let mut words = Vec::new();
    for rung in Rung::ALL {
        match levers.pull(rung) {
            Ok(()) => words.push(format!("{rung:?}: the machine still runs")),
            Err(why) => {
                tracing::warn!(?rung, why, "the machine is not restarted this way");
                words.push(format!("{rung:?}: {why}"));
                continue;
            }
        }
        let mut waited = Duration::ZERO;
        while waited < rung.patience() {
            if levers.is_going_down() {
                return Ok(());
            }
            levers.wait(LOOK_EVERY);
            waited += LOOK_EVERY;
        }
    }
    Err(words.join("; "))
}

/// The one this process runs on.
pub(super) struct Machine<'a> {
    pub(super) services: &'a SystemServices,
    pub(super) service: &'a str,
}

impl Levers for Machine<'_> {
    fn pull(&self, rung: Rung) -> Result<(), String> {
        match rung {
            Rung::Ask => {
                let services = self.services.clone().limit(rung.limit());
                services.carry_out(ServiceAction::Reboot, self.service).map_err(|error| error.to_string())
            }
            Rung::Force => {
                ignore_signals();
                let mut command = Command::new("reboot");
                command.arg("-f");
                run(command, rung.limit()).map(drop)
            }
            Rung::Sync => (0..3).try_for_each(|_| sync(rung.limit())),
            Rung::Kernel => reboot(RebootCommand::Restart).map_err(|error| error.to_string()),
        }
    }

    fn is_going_down(&self) -> bool {
        match &self.services.manager {
            Manager::Systemd { systemctl, .. } => {
                #[cfg(feature = "systemd")]
                if let Some(answer) = self.services.says_it_stops() {
                    return answer;
                }
                let mut command = Command::new(systemctl);
                command.arg("is-system-running");
                run(command, SystemServices::STATE_LIMIT).is_ok_and(|state| state == "stopping")
            }
            // The runlevel before and the one now; 0 is off, 6 is a reboot.
            Manager::SysV { .. } => run(Command::new("runlevel"), SystemServices::STATE_LIMIT)
                .is_ok_and(|levels| levels.ends_with(" 6") || levels.ends_with(" 0")),
        }
    }

    fn wait(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// What it printed, whatever its exit status.
fn run(command: Command, limit: Duration) -> Result<String, String> {
    match run_limited(command, limit, Leftovers::Stay) {
        Ok(Ended::Exited { output, .. }) => Ok(output),
        Ok(Ended::TooLate) => Err(format!("not done within {} s", limit.as_secs())),
        Err(error) => Err(error.to_string()),
    }
}

/// From now on nobody stops anything in order, and whoever ends this process would leave the machine half down.
fn ignore_signals() {
    for ignored in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: to ignore a signal runs no code of ours in a handler.
        #[expect(unsafe_code, reason = "dispositions of signals are the whole process's")]
        let set = unsafe { signal(ignored, SigHandler::SigIgn) };
        if let Err(error) = set {
            tracing::warn!(%error, %ignored, "can't be ignored");
        }
    }
}

/// A disk that does not answer any more must not keep the machine from being restarted: the thread that waits for it is
/// left behind.
fn sync(limit: Duration) -> Result<(), String> {
    let (done, ended) = mpsc::channel();
    let thread = std::thread::Builder::new().name("sync".to_owned());
    let spawned = thread.spawn(move || {
        rustix::fs::sync();
        done.send(()).is_ok()
    });
    spawned.map_err(|error| error.to_string())?;
    ended.recv_timeout(limit).map_err(|_| format!("not all is written within {} s", limit.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    /// A machine whose time passes when it is waited for.
    #[derive(Default)]
    struct Played {
        broken: Vec<Rung>,
        /// How long after which rung it goes down.
        works: Option<(Rung, Duration)>,
        pulled: RefCell<Vec<(Rung, Duration)>>,
        now: Cell<Duration>,
    }

    impl Levers for Played {
        fn pull(&self, rung: Rung) -> Result<(), String> {
            self.pulled.borrow_mut().push((rung, self.now.get()));
            if self.broken.contains(&rung) { Err(format!("no {rung:?} here")) } else { Ok(()) }
        }

        fn is_going_down(&self) -> bool {
            let pulled = self.pulled.borrow();
            self.works.is_some_and(|(works, after)| {
                pulled.iter().any(|(rung, at)| *rung == works && self.now.get() >= *at + after)
            })
        }

        fn wait(&self, time: Duration) {
            self.now.set(self.now.get() + time);
        }
    }

    fn rungs(machine: &Played) -> Vec<(Rung, u64)> {
        machine.pulled.borrow().iter().map(|(rung, at)| (*rung, at.as_secs())).collect()
    }

    #[test]
    fn a_machine_that_goes_down_when_asked_is_not_forced() {
        let slow = Duration::from_secs(59);
        let machine = Played { works: Some((Rung::Ask, slow)), ..Played::default() };
        assert_eq!(climb(&machine), Ok(()));
        assert_eq!(rungs(&machine), [(Rung::Ask, 0)]);
    }

    #[test]
    fn a_machine_that_stays_up_is_forced_after_a_minute() {
        let machine = Played { works: Some((Rung::Force, Duration::from_secs(3))), ..Played::default() };
        assert_eq!(climb(&machine), Ok(()));
        assert_eq!(rungs(&machine), [(Rung::Ask, 0), (Rung::Force, 60)]);
    }

    #[test]
    fn a_manager_that_can_not_be_asked_is_not_waited_for() {
        let machine = Played {
            broken: vec![Rung::Ask],
            works: Some((Rung::Force, Duration::ZERO)),
            ..Played::default()
        };
        assert_eq!(climb(&machine), Ok(()));
        assert_eq!(rungs(&machine), [(Rung::Ask, 0), (Rung::Force, 0)]);
    }

    #[test]
    fn the_kernel_comes_last_also_when_the_disks_do_not_answer_and_then_everybody_has_his_say() {
        let machine = Played { broken: vec![Rung::Force, Rung::Sync, Rung::Kernel], ..Played::default() };
        let words = climb(&machine).unwrap_err();
        assert_eq!(
            rungs(&machine),
            [(Rung::Ask, 0), (Rung::Force, 60), (Rung::Sync, 60), (Rung::Kernel, 60)]
        );
        assert_eq!(
            words,
            "Ask: the machine still runs; Force: no Force here; Sync: no Sync here; Kernel: no Kernel here"
        );
    }
}
