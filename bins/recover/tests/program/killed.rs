use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use dominator_fs::seam::Kernel;
use dominator_fs::update::{BootId, Judged, Recovery};
use dominator_fs_testkit::killing::{Which, killed_at, points_until};
use subd_recover::{Decision, REBOOT_NEEDED, boot};

use crate::root::{Machine, has_strace};

const MINUTE: Duration = Duration::from_secs(60);

/// What the program finds when it is killed.
#[derive(Clone, Copy, Debug)]
enum Found {
    HalfSwapped(Judged),
    /// This is the first start with it.
    Committed,
    /// This is the second.
    Booted(Judged),
    HalfUndone,
}

impl Found {
    const ALL: [Self; 6] = [
        Self::HalfSwapped(Judged::AfterServices),
        Self::HalfSwapped(Judged::AfterReboot),
        Self::Committed,
        Self::Booted(Judged::AfterServices),
        Self::Booted(Judged::AfterReboot),
        Self::HalfUndone,
    ];

    fn machine(self) -> Machine {
        let machine = Machine::new();
        match self {
            Self::HalfSwapped(judged) => machine.half_swapped(judged),
            Self::Committed => drop(machine.on_trial(Judged::AfterServices, MINUTE)),
            Self::Booted(judged) => {
                drop(machine.on_trial(judged, MINUTE));
                assert_eq!(start(&machine, "before").1, Decision::GoOn);
            }
            Self::HalfUndone => machine.half_undone(),
        }
        machine
    }

    fn judged(self) -> Judged {
        match self {
            Self::HalfSwapped(judged) | Self::Booted(judged) => judged,
            Self::Committed | Self::HalfUndone => Judged::AfterServices,
        }
    }

    /// What the program says when it lives.
    fn status(self) -> u8 {
        if self.judged() == Judged::AfterReboot { REBOOT_NEEDED } else { 0 }
    }

    /// How many starts there may be, none of which the agent lives to see, until the update is undone.
    fn starts(self) -> usize {
        match self {
            // One that goes on with it and is none itself, and one that is counted.
            Self::HalfSwapped(Judged::AfterReboot) => 3,
            Self::HalfSwapped(Judged::AfterServices) | Self::Committed => 2,
            Self::Booted(_) | Self::HalfUndone => 1,
        }
    }

    /// What the next starts of the machine do to what was left.
    fn judge(self, machine: &Machine) {
        let mut starts = 0;
        loop {
            starts += 1;
            assert!(starts <= self.starts(), "{starts} starts, and it is not undone");
            let (changed, decision) = start(machine, &starts.to_string());
            let anew = changed && self.judged() == Judged::AfterReboot;
            assert!(!changed || decision != Decision::GoOn, "units that were read before may be others now");
            assert!(!anew || decision == Decision::StartAnew, "it runs with what is no longer there");
            if !machine.is_new() {
                break;
            }
        }
        let recovery = machine.open(Arc::new(Kernel)).1;
        assert!(matches!(recovery, Recovery::Undone { .. }), "{recovery:?}");
        assert_eq!(start(machine, "last"), (false, Decision::GoOn), "once is enough");
        assert!(!machine.is_new());
    }
}

/// Whether the tree changed, and what was decided.
fn start(machine: &Machine, id: &str) -> (bool, Decision) {
    let before = machine.tree();
    let decision = boot(machine.path(), BootId::of(id.as_bytes())).unwrap().decision;
    (machine.tree() != before, decision)
}

fn program(machine: &Machine) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_subd-recover"));
    program.args(["boot", "--root"]).arg(machine.path());
    program
}

#[test]
fn a_recovery_that_is_killed_at_any_call_is_gone_on_with_at_the_next_start() {
    const TEST: &str = "a_recovery_that_is_killed_at_any_call_is_gone_on_with_at_the_next_start";
    if !has_strace(TEST) {
        return;
    }
    let mut all = 0;
    for found in Found::ALL {
        let machine = found.machine();
        let points = points_until(&mut program(&machine), found.status(), machine.path(), Which::Changes);
        all += points.len();
        for point in points {
            let machine = found.machine();
            killed_at(&point, &mut program(&machine));
            println!("{found:?} killed at {point:?}");
            found.judge(&machine);
        }
    }
    println!("{all} calls at which the program was killed");
    assert!(all > 100, "only {all}; are the names of the calls still right?");
}
