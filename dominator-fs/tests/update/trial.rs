//! An update on trial is accepted, or else undone at the second start of the machine; whoever opens the root is told.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dominator_core::plan::{Operation, Plan};
use dominator_fs::seam::Kernel;
use dominator_fs::update::{BootId, Judged, Reason, Recovery, Trial, UpdateError, Updater, When};

use crate::support::*;

const TRIAL: Trial = Trial { deadline: Duration::from_millis(90_001), judged: Judged::AfterServices };

fn operations() -> Vec<Operation> {
    vec![put("/file", file(0o644, b"new")), delete("/gone")]
}

fn before() -> Machine {
    let machine = Machine::new();
    machine.write("/file", &[b'o'; 100_000]);
    machine.write("/gone", b"gone");
    machine.offer(b"new");
    machine
}

fn on_trial(trial: Trial) -> Machine {
    let mut machine = before();
    let plan = Plan { operations: operations() };
    let staged = machine.updater.begin(&plan, &machine.view).unwrap().stage().unwrap();
    let committed = staged.journal(b"image 7", Some(trial)).unwrap().swap().unwrap().commit().unwrap();
    assert!(committed.report.is_success());
    machine
}

/// A start of the machine: its recovery, and what it has left to tell.
fn boot(machine: &mut Machine, id: &[u8]) -> Recovery {
    machine.let_go();
    let (updater, recovery) =
        Updater::open_at_boot(machine.root.clone(), Arc::new(Kernel), BootId::of(id)).unwrap();
    machine.updater = updater;
    recovery
}

fn is_new(machine: &Machine) -> bool {
    let is_new = !machine.has("/gone");
    assert_eq!(machine.read("/file") == b"new", is_new);
    is_new
}

#[test]
fn an_update_on_trial_keeps_what_undoing_needs_until_it_is_accepted() {
    let mut machine = on_trial(TRIAL);
    assert!(machine.updater.is_on_trial() && machine.updater.is_undoable());
    let plan = Plan { operations: operations() };
    assert!(matches!(machine.updater.begin(&plan, &machine.view), Err(UpdateError::OnTrial)));
    assert!(matches!(machine.updater.clean_up(), Err(UpdateError::OnTrial)));
    let recovery = machine.try_restart_with(Arc::new(Kernel)).unwrap();
    assert!(
        matches!(&recovery, Recovery::OnTrial { note, totals, trial: TRIAL, booted: None }
            if note == b"image 7" && totals.applied == 2),
        "{recovery:?}"
    );
    machine.updater.accept().unwrap();
    assert!(matches!(machine.updater.accept(), Err(UpdateError::NotOnTrial)));
    for id in [b"one".as_slice(), b"two", b"three"] {
        assert!(matches!(boot(&mut machine, id), Recovery::Kept { .. }));
    }
    assert!(is_new(&machine));
    machine.updater.undo(Reason::Asked).unwrap();
    assert!(!is_new(&machine));
    machine.is_tidy();
}

#[test]
fn the_second_start_that_nobody_accepted_undoes_an_update_and_leaves_word() {
    let mut machine = on_trial(TRIAL);
    let one = BootId::of(b"one");
    for _ in 0..3 {
        let recovery = boot(&mut machine, b"one");
        let counted = matches!(recovery, Recovery::OnTrial { booted: Some(boot), .. } if boot == one);
        assert!(counted && is_new(&machine), "one start is one, however often it is looked at: {recovery:?}");
    }
    let recovery = boot(&mut machine, b"two");
    assert!(!is_new(&machine));
    let told = |recovery: &Recovery, now: When| match recovery {
        Recovery::Undone { note, reason, report, stopped, trial, when } => {
            assert_eq!((note.as_slice(), *reason, *when), (b"image 7".as_slice(), Reason::NeverHealthy, now));
            assert_eq!((report.undone, stopped, *trial), (2, &None, Some(TRIAL)));
        }
        other => panic!("{other:?}"),
    };
    told(&recovery, When::Now);
    assert!(!machine.updater.is_undoable() && !machine.updater.is_on_trial());
    assert!(matches!(machine.updater.undo(Reason::Asked), Err(UpdateError::NothingToUndo)));
    told(&boot(&mut machine, b"three"), When::Before);
    told(&machine.try_restart_with(Arc::new(Kernel)).unwrap(), When::Before);
    machine.is_tidy();
    assert!(matches!(machine.try_restart_with(Arc::new(Kernel)).unwrap(), Recovery::Clean));
    // And the next update finds its objects in the cache.
    assert!(machine.applied(operations()).is_success());
}

#[test]
fn a_start_with_half_an_update_is_not_the_one_that_it_is_judged_by() {
    for (judged, counted) in [(Judged::AfterServices, true), (Judged::AfterReboot, false)] {
        let mut machine = before();
        let plan = Plan { operations: operations() };
        let staged = machine.updater.begin(&plan, &machine.view).unwrap().stage().unwrap();
        drop(staged.journal(b"", Some(Trial { judged, ..TRIAL })).unwrap().swap().unwrap());
        let recovery = boot(&mut machine, b"one");
        assert!(matches!(recovery, Recovery::Finished { trial: Some(_), .. }), "{recovery:?}");
        assert!(machine.updater.is_on_trial());
        let recovery = boot(&mut machine, b"two");
        assert_eq!(matches!(recovery, Recovery::Undone { .. }), counted, "{judged:?}: {recovery:?}");
        assert_eq!(is_new(&machine), !counted);
        assert!(matches!(boot(&mut machine, b"three"), Recovery::Undone { .. }));
        assert!(!is_new(&machine));
    }
}

#[test]
fn a_trial_can_be_seen_by_who_does_not_have_the_root() {
    let mut machine = on_trial(TRIAL);
    let pending = || Trial::pending(&machine.root).unwrap().map(|pending| pending.trial);
    assert_eq!(pending(), Some(TRIAL), "while another has it open");
    machine.updater.accept().unwrap();
    let pending = || Trial::pending(&machine.root).unwrap();
    assert_eq!(pending(), None, "accepted");
    machine.is_tidy();
    assert_eq!(Trial::pending(&machine.root).unwrap(), None, "no journal");
    let bare = tempfile::tempdir().unwrap();
    let bare = dominator_fs::root::Root::open(bare.path()).unwrap();
    assert_eq!(Trial::pending(&bare).unwrap(), None, "no work directory");
    let mut machine = on_trial(TRIAL);
    machine.updater.undo_on_record(Reason::Unhealthy).unwrap();
    assert_eq!(Trial::pending(&machine.root).unwrap(), None, "undone");
}

#[test]
fn what_is_kept_to_undo_says_since_when_and_how_much_room_it_takes() {
    let began = SystemTime::now() - Duration::from_secs(1);
    let mut machine = before();
    assert_eq!(machine.updater.kept().unwrap(), None);
    std::fs::hard_link(machine.at("/gone"), machine.at("/stays")).unwrap();
    let plan = Plan { operations: operations() };
    let staged = machine.updater.begin(&plan, &machine.view).unwrap().stage().unwrap();
    drop(staged.journal(b"", None).unwrap().swap().unwrap().commit().unwrap());
    let kept = machine.updater.kept().unwrap().unwrap();
    assert!((100_000..110_000).contains(&kept.bytes), "what has another name frees nothing: {kept:?}");
    assert!(kept.since >= began && kept.since <= SystemTime::now() + Duration::from_secs(1), "{kept:?}");
    machine.updater.clean_up().unwrap();
    assert_eq!(machine.updater.kept().unwrap(), None);
}
