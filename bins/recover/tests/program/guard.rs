use std::cell::RefCell;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dominator_fs::seam::Kernel;
use dominator_fs::update::{BootId, Judged, Reason, Recovery, Updater};
use rustix::process::Pid;
use subd_recover::{Machine as Control, MachineError, Watch, Watched, guard};

use crate::root::Machine;

const HOUR: Duration = Duration::from_secs(3600);

/// What was done to the machine.
#[derive(Default)]
struct Host {
    calls: RefCell<Vec<String>>,
    /// The agent, which has the root until it is stopped.
    agent: RefCell<Option<Updater>>,
    /// One that does not stop.
    stubborn: RefCell<Option<Child>>,
    /// One that stops in its own time.
    slow: RefCell<Option<Child>>,
    /// What the agent does when it is stopped.
    at_last: Option<fn(&mut Updater)>,
    /// There is nobody who could stop it.
    alone: bool,
}

impl Host {
    fn with(agent: Updater) -> Self {
        Self { agent: RefCell::new(Some(agent)), ..Self::default() }
    }

    fn call(&self, what: &str, agent: &str) -> Result<(), MachineError> {
        self.calls.borrow_mut().push(format!("{what} {agent}"));
        Ok(())
    }
}

impl Control for Host {
    fn stop(&self, agent: &str) -> Result<(), MachineError> {
        let mut updater = self.agent.borrow_mut().take();
        updater.as_mut().zip(self.at_last).into_iter().for_each(|(updater, at_last)| at_last(updater));
        if let Some(slow) = &mut *self.slow.borrow_mut() {
            drop(slow.stdin.take());
        }
        self.call("stop", agent)?;
        if self.alone {
            Err(MachineError::Service { action: "stop", agent: agent.to_owned() })
        } else {
            Ok(())
        }
    }

    fn start(&self, agent: &str) -> Result<(), MachineError> {
        self.call("start", agent)
    }

    fn kill(&self, process: Pid) -> Result<(), MachineError> {
        let mut stubborn = self.stubborn.borrow_mut();
        let child = stubborn.as_mut().expect("nobody else is killed");
        assert_eq!(process, Pid::from_child(child));
        child.kill().unwrap();
        child.wait().unwrap();
        self.call("kill", "it")
    }

    fn read_units_again(&self) {
        drop(self.call("read", "units"));
    }

    fn restart(&self) -> Result<(), MachineError> {
        self.call("restart", "the machine")
    }
}

fn watch(root: &Path) -> Watch {
    Watch { root: root.to_owned(), agent: "subd".to_owned(), deadline: None, patience: HOUR }
}

fn is_overdue(machine: &Machine) {
    assert!(!machine.is_new());
    let recovery = machine.open(Arc::new(Kernel)).1;
    assert!(matches!(recovery, Recovery::Undone { reason: Reason::Overdue, .. }), "{recovery:?}");
}

#[test]
fn an_agent_that_does_not_judge_an_update_in_time_is_stopped_and_the_update_undone() {
    let machine = Machine::new();
    let host = Host::with(machine.on_trial(Judged::AfterServices, Duration::ZERO));
    assert_eq!(guard(&watch(machine.path()), &host).unwrap(), Watched::Undone);
    assert_eq!(*host.calls.borrow(), ["stop subd", "read units", "start subd"]);
    is_overdue(&machine);
}

#[test]
fn a_machine_that_was_started_with_what_is_undone_is_started_anew_and_no_agent_with_it() {
    let again = &["read units", "start subd"][..];
    for (judged, booted, last) in [
        (Judged::AfterReboot, false, again),
        (Judged::AfterReboot, true, &["restart the machine"]),
        (Judged::AfterServices, true, again),
    ] {
        let machine = Machine::new();
        drop(machine.on_trial(judged, Duration::ZERO));
        if booted {
            let one = BootId::of(b"one");
            drop(Updater::open_at_boot(machine.root.clone(), Arc::new(Kernel), one).unwrap());
        }
        let host = Host::default();
        assert_eq!(guard(&watch(machine.path()), &host).unwrap(), Watched::Undone);
        assert_eq!(*host.calls.borrow(), [&["stop subd"], last].concat());
        is_overdue(&machine);
    }
}

#[test]
fn an_update_that_is_decided_is_nobodys_business() {
    let machine = Machine::new();
    let mut agent = machine.on_trial(Judged::AfterServices, HOUR);
    let host = Host::default();
    std::thread::scope(|scope| {
        scope.spawn(|| agent.accept().unwrap());
        assert_eq!(guard(&watch(machine.path()), &host).unwrap(), Watched::Decided);
    });
    assert_eq!(*host.calls.borrow(), <[String; 0]>::default());
    assert!(machine.is_new() && agent.is_undoable());
}

/// A process that has the root.
fn holds(machine: &Machine, script: &str) -> Child {
    let mut holder = Command::new("flock");
    holder.arg("--no-fork").arg(machine.path().join(".subd")).args(["sh", "-c", script]);
    let mut child = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut held = [0; 5];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut held).unwrap();
    child
}

#[test]
fn an_agent_that_holds_on_to_the_root_is_killed() {
    let machine = Machine::new();
    drop(machine.on_trial(Judged::AfterServices, Duration::ZERO));
    let child = holds(&machine, "echo held; exec sleep 3600");
    let host = Host { stubborn: RefCell::new(Some(child)), ..Host::default() };
    let watch = Watch { patience: Duration::ZERO, ..watch(machine.path()) };
    assert_eq!(guard(&watch, &host).unwrap(), Watched::Undone);
    assert_eq!(*host.calls.borrow(), ["stop subd", "kill it", "read units", "start subd"]);
    is_overdue(&machine);
}

#[test]
fn an_agent_that_takes_its_time_to_stop_is_waited_for_and_not_killed() {
    let machine = Machine::new();
    drop(machine.on_trial(Judged::AfterServices, Duration::ZERO));
    let slow = holds(&machine, "echo held; cat; sleep 0.3");
    let host = Host { slow: RefCell::new(Some(slow)), ..Host::default() };
    assert_eq!(guard(&watch(machine.path()), &host).unwrap(), Watched::Undone);
    assert_eq!(*host.calls.borrow(), ["stop subd", "read units", "start subd"]);
    is_overdue(&machine);
    host.slow.borrow_mut().as_mut().unwrap().wait().unwrap();
}

#[test]
fn an_agent_that_accepts_an_update_at_the_last_moment_keeps_it_and_is_started_again() {
    let machine = Machine::new();
    let agent = machine.on_trial(Judged::AfterServices, Duration::ZERO);
    let host = Host { at_last: Some(|updater| updater.accept().unwrap()), ..Host::with(agent) };
    assert_eq!(guard(&watch(machine.path()), &host).unwrap(), Watched::Decided);
    assert_eq!(*host.calls.borrow(), ["stop subd", "start subd"]);
    assert!(machine.is_new());
}

#[test]
fn where_nobody_can_stop_services_the_update_is_undone_all_the_same() {
    let machine = Machine::new();
    let agent = machine.on_trial(Judged::AfterServices, Duration::ZERO);
    let host = Host { alone: true, ..Host::with(agent) };
    assert_eq!(guard(&watch(machine.path()), &host).unwrap(), Watched::Undone);
    assert_eq!(*host.calls.borrow(), ["stop subd", "read units", "start subd"]);
    is_overdue(&machine);
}

#[test]
fn the_agent_is_started_again_also_when_undoing_fails() {
    let machine = Machine::new();
    drop(machine.on_trial(Judged::AfterServices, Duration::ZERO));
    // By now nothing of ours may be in it.
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(machine.path().join(".subd/slots"), open).unwrap();
    let host = Host::default();
    guard(&watch(machine.path()), &host).unwrap_err();
    assert_eq!(*host.calls.borrow(), ["stop subd", "start subd"]);
    assert!(machine.is_new());
}

#[test]
fn a_deadline_that_was_given_counts_and_not_that_of_the_journal() {
    let machine = Machine::new();
    drop(machine.on_trial(Judged::AfterServices, HOUR));
    let (host, soon, began) = (Host::default(), Duration::from_millis(200), Instant::now());
    let watched = guard(&Watch { deadline: Some(soon), ..watch(machine.path()) }, &host).unwrap();
    assert_eq!(watched, Watched::Undone);
    assert!(began.elapsed() >= soon, "it was not waited for");
    is_overdue(&machine);
}

#[test]
fn where_there_is_nothing_to_watch_over_nothing_is_done() {
    let machine = Machine::new();
    let host = Host::default();
    assert_eq!(guard(&watch(machine.path()), &host).unwrap(), Watched::Decided);
    let bare = tempfile::tempdir().unwrap();
    assert_eq!(guard(&watch(bare.path()), &host).unwrap(), Watched::Decided);
    assert_eq!(*host.calls.borrow(), <[String; 0]>::default());
    assert_eq!(std::fs::read_dir(bare.path()).unwrap().count(), 0);
}
