use std::cell::RefCell;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::{Arc, Mutex};

use dominator_core::object::ObjectId;
use dominator_core::plan::{Operation, Plan};
use dominator_core::port::{ServiceAction, ServiceError, ServiceRunner};
use dominator_core::trigger::Triggers;
use dominator_fs::root::Root;
use dominator_fs::seam::Kernel;
use dominator_fs::service::{Activation, Debt, Due, changed};
use dominator_fs::update::{JournalError, Reason, Recovery, UpdateError, Updater, WorkError};
use dominator_fs_testkit::{Fault, Faults, Lasting};
use rustix::io::Errno;

use crate::support::*;

/// One of everything an update does.
fn operations() -> Vec<Operation> {
    vec![
        set(&["/"], directory(0o751)),
        make("/was-file", 0o755),
        set(&["/dir"], directory(0o700)),
        put("/was-file/new", symlink("x")),
        put("/was-dir", file(0o600, b"tool")),
        put("/tool", file(0o755, b"tool")),
        set(&["/noted"], file(0o640, b"n")),
        link("/link", "/tool"),
        link("/other-link", "/old-target"),
        delete("/was-dir/inner"),
        delete("/dir/deleted"),
        delete_directory("/dir/empty"),
    ]
}

fn before() -> Machine {
    let machine = Machine::new();
    for at in ["/was-file", "/was-dir/inner", "/noted", "/link", "/dir/deleted", "/old-target", "/tool"] {
        machine.write(at, b"n");
        std::fs::set_permissions(machine.at(at), PermissionsExt::from_mode(0o644)).unwrap();
    }
    std::fs::create_dir(machine.at("/dir/empty")).unwrap();
    machine.offer(b"tool");
    machine
}

/// The disk of a machine that dies at the `nth` call: nothing reaches it from then on.
fn dying(nth: usize) -> Fault {
    Fault { kind: None, nth, errno: Errno::IO, lasting: Lasting::Everything }
}

/// Lets go of the updater as a process that dies does, and starts anew.
fn reopened(machine: &mut Machine) -> Recovery {
    machine.try_restart_with(Arc::new(Kernel)).unwrap()
}

#[test]
fn whenever_a_process_dies_the_next_one_finishes_or_undoes_what_it_was_at() {
    let mut seen = [0; 5];
    for nth in 1.. {
        let mut machine = before();
        let old = machine.scan();
        let faults = Faults::none();
        machine.restart_with(faults.disk());
        faults.breaks(dying(nth));
        let outcome = machine.apply(operations());
        let died = faults.mend() > 0;
        let recovery = reopened(&mut machine);
        let now = machine.scan().id();
        let (is_new, which) = match &recovery {
            Recovery::Clean => (false, 0),
            Recovery::Abandoned { .. } => (false, 1),
            Recovery::Finished { report, .. } => {
                assert!(report.is_success(), "call {nth}: {:?}", report.failures);
                assert_eq!(report.applied, 12, "call {nth}");
                (true, 2)
            }
            Recovery::Undone { report, .. } => {
                assert!(report.not_as_before().is_empty(), "call {nth}: {report:?}");
                (false, 3)
            }
            Recovery::Kept { totals, .. } => {
                assert_eq!((totals.applied, totals.failed), (12, 0), "call {nth}");
                (true, 4)
            }
            other => panic!("{other:?}"),
        };
        seen[which] += 1;
        assert!(outcome.is_err() || is_new, "call {nth}: it was told to be made, and is not: {recovery:?}");
        assert_eq!(now == old.id(), !is_new, "call {nth}: {recovery:?}");
        if is_new {
            assert_eq!(machine.plan_of(&operations()), [], "call {nth}");
            // And from there all the way back.
            let undone = machine.updater.undo(Reason::Asked).unwrap();
            assert!(undone.not_as_before().is_empty(), "call {nth}: {undone:?}");
            assert_eq!(machine.scan().id(), old.id(), "call {nth}");
        }
        if which == 1 {
            let object = dominator_core::object::ObjectId::of(b"tool");
            assert_eq!(machine.updater.objects().size(&object).unwrap(), Some(4), "call {nth}");
        }
        machine.is_tidy();
        if !died {
            assert!(outcome.is_ok(), "{outcome:?}");
            break;
        }
    }
    // What was cut off between the first rename and the last, before, and after.
    assert!(seen[0] > 10 && seen[1] > 0 && seen[2] > 10 && seen[4] > 0, "{seen:?}");
}

#[test]
fn whenever_an_undoing_process_dies_the_next_one_undoes_the_rest() {
    let mut went_on = 0;
    for nth in 1.. {
        let mut machine = before();
        let old = machine.scan().id();
        let faults = Faults::none();
        machine.restart_with(faults.disk());
        machine.apply(operations()).unwrap();
        let new = machine.scan().id();
        faults.breaks(dying(nth));
        let outcome = machine.updater.undo(Reason::Asked);
        let died = faults.mend() > 0;
        match reopened(&mut machine) {
            Recovery::Kept { .. } => {
                assert!(outcome.is_err(), "call {nth}");
                assert_eq!(machine.scan().id(), new, "call {nth}: nothing was undone yet");
                assert!(
                    machine.updater.undo(Reason::Asked).unwrap().not_as_before().is_empty(),
                    "call {nth}"
                );
            }
            Recovery::Undone { report, .. } => {
                assert!(report.not_as_before().is_empty(), "call {nth}: {report:?}");
                went_on += 1;
            }
            Recovery::Clean => {}
            other => panic!("call {nth}: {other:?}"),
        }
        assert_eq!(machine.scan().id(), old, "call {nth}");
        machine.is_tidy();
        if !died {
            assert!(outcome.is_ok());
            break;
        }
    }
    assert!(went_on > 10, "only {went_on}");
}

#[test]
fn recovery_that_dies_is_gone_on_with() {
    // How far a first process comes, from where the second has much to do, or little.
    for nth in [44, 48, 52, 56] {
        for again in 1.. {
            let mut machine = before();
            let old = machine.scan().id();
            let faults = Faults::none();
            machine.restart_with(faults.disk());
            faults.breaks(dying(nth));
            drop(machine.apply(operations()));
            machine.let_go();
            faults.breaks(dying(again));
            let recovered = Updater::open(machine.root.clone(), faults.disk());
            let died = faults.mend() > 0;
            assert!(died || recovered.is_ok(), "call {nth}, {again}: {:?}", recovered.err());
            drop(recovered);
            let recovery = reopened(&mut machine);
            if machine.scan().id() != old {
                assert!(
                    matches!(recovery, Recovery::Finished { .. } | Recovery::Kept { .. }),
                    "call {nth}, {again}: {recovery:?}"
                );
                assert_eq!(machine.plan_of(&operations()), [], "call {nth}, {again}");
            }
            machine.is_tidy();
            if !died {
                break;
            }
        }
    }
}

#[test]
fn where_the_disk_takes_nothing_more_an_update_is_half_made_and_says_so() {
    let mut machine = before();
    let old = machine.scan().id();
    let faults = Faults::none();
    machine.restart_with(faults.disk());
    let journalled = machine.journalled(operations());
    // Two for the journal, four changes, and then the disk is read-only.
    faults.breaks(Fault { errno: Errno::ROFS, ..dying(9) });
    let error = journalled.swap().unwrap_err();
    let words = error.to_string();
    let UpdateError::HalfMade { changed, of, .. } = error else { panic!("{error}") };
    assert!(changed > 0 && changed < of, "{changed} of {of}");
    assert!(words.contains(&format!("{changed} of {of} paths")), "{words}");
    assert_ne!(machine.scan().id(), old);
    assert!(machine.updater.is_unfinished());
    let refused = machine.apply(operations()).unwrap_err();
    assert!(matches!(refused, UpdateError::Unfinished), "{refused}");
    machine.let_go();
    let refused = Updater::open(machine.root.clone(), faults.disk()).unwrap_err();
    assert!(matches!(refused, WorkError::Recovery(_)), "{refused}");
    faults.mend();
    let (updater, recovery) = Updater::open(machine.root.clone(), faults.disk()).unwrap();
    machine.updater = updater;
    assert!(matches!(recovery, Recovery::Finished { .. }), "{recovery:?}");
    assert_eq!(machine.plan_of(&operations()), []);
    machine.is_tidy();
}

/// Services on a machine whose disk is read-only some changes after the first is stopped.
struct Stopping {
    faults: Arc<Faults>,
    asked: Mutex<Vec<String>>,
}

impl ServiceRunner for Stopping {
    fn run(&self, action: ServiceAction, service: &str) -> Result<(), ServiceError> {
        self.asked.lock().unwrap().push(format!("{} {service}", action.verb()));
        if action == ServiceAction::Stop {
            self.faults.breaks(Fault { errno: Errno::ROFS, ..dying(9) });
        }
        Ok(())
    }
}

#[test]
fn no_service_is_started_with_an_update_that_is_half_made_and_what_was_stopped_stays_owed() {
    let mut machine = before();
    let faults = Faults::none();
    machine.restart_with(faults.disk());
    let plan = Plan { operations: operations() };
    let triggers = Triggers::from_json(br#"[{"MatchLines": ["/tool"], "Service": "web"}]"#).unwrap();
    let before = machine.scan();
    let changed = changed(&plan, &before);
    let activation = Activation::new(&Triggers::default(), &triggers, changed.iter().copied());
    let (services, ledger) = (Stopping { faults, asked: Mutex::default() }, RefCell::default());
    let made = machine.updater.activate(&plan, &machine.view, b"", &activation, &services, &ledger);
    let error = made.unwrap_err();
    assert!(matches!(error.error, UpdateError::HalfMade { changed: 1.., .. }), "{error}");
    assert_eq!(*services.asked.lock().unwrap(), ["stop web"]);
    assert_eq!(ledger.into_inner(), [Debt { service: "web".to_owned(), due: Due::Start }]);
}

#[test]
fn a_journal_that_can_not_be_gone_by_is_refused_and_nothing_is_touched() {
    let mut machine = before();
    machine.apply(operations()).unwrap();
    let journal = machine.at("/.subd/journal");
    let sound = std::fs::read(&journal).unwrap();
    let now = machine.scan().id();
    machine.let_go();
    let refused = |bytes: &[u8], word: &str| {
        std::fs::write(&journal, bytes).unwrap();
        let error = Updater::open(machine.root.clone(), Arc::new(Kernel)).unwrap_err();
        let words = dominator_core::port::Chain(&error).to_string();
        assert!(matches!(error, WorkError::Journal(_)) && words.contains(word), "{words}");
        assert!(words.contains("/.subd/slots"), "it says where to look: {words}");
        assert_eq!(scan(&machine.root, &machine.view).id(), now);
        assert!(std::fs::read_dir(machine.at("/.subd/slots")).unwrap().count() > 0);
    };
    refused(b"", "cut short");
    refused(&sound[..sound.len() - 1], "longer or shorter");
    let mut flipped = sound.clone();
    flipped[40] ^= 1;
    refused(&flipped, "");
    // As on a disk that was restored from a backup, file by file.
    let copy = tempfile::tempdir().unwrap();
    let copied = copy.path().join(".subd");
    for part in ["", "slots", "objects", "conflicts"] {
        std::fs::create_dir(copied.join(part)).unwrap();
        std::fs::set_permissions(copied.join(part), PermissionsExt::from_mode(0o700)).unwrap();
    }
    let phases = sound.len() - 13 * 4096;
    let mut half_made = sound.clone();
    half_made[phases + 4096..].fill(0);
    std::fs::write(copied.join("journal"), &half_made).unwrap();
    std::fs::write(copied.join("slots/7"), b"what was displaced").unwrap();
    let error = Updater::open(Root::open(copy.path()).unwrap(), Arc::new(Kernel)).unwrap_err();
    let words = dominator_core::port::Chain(&error).to_string();
    assert!(words.contains("another root"), "{words}");
    assert!(copied.join("slots/7").exists());
    // An update that was complete by then is over: there is nothing to finish, and undoing it is for the other root.
    std::fs::write(copied.join("journal"), &sound).unwrap();
    let (_, recovery) = Updater::open(Root::open(copy.path()).unwrap(), Arc::new(Kernel)).unwrap();
    assert!(matches!(recovery, Recovery::Clean), "{recovery:?}");
    assert!(!copied.join("journal").exists() && !copied.join("slots/7").exists());
    // Every phase that was damaged after it was reached is found out by what lies in the slots.
    let mut none = sound.clone();
    none[phases..].fill(0);
    refused(&none, "nothing was changed, and something was");
    std::fs::write(&journal, &sound).unwrap();
    let recovery = reopened(&mut machine);
    assert!(matches!(recovery, Recovery::Kept { .. }), "{recovery:?}");
}

#[test]
fn the_note_of_an_update_comes_back_with_it() {
    let mut machine = before();
    let journalled = |machine: &mut Machine, note: &[u8]| {
        let plan = dominator_core::plan::Plan { operations: operations() };
        let staged = machine.updater.begin(&plan, &machine.view).unwrap().stage().unwrap();
        drop(staged.journal(note, None).unwrap());
    };
    journalled(&mut machine, b"image 1");
    let recovery = reopened(&mut machine);
    assert!(matches!(&recovery, Recovery::Abandoned { note } if note == b"image 1"), "{recovery:?}");
    let plan = dominator_core::plan::Plan { operations: operations() };
    let staged = machine.updater.begin(&plan, &machine.view).unwrap().stage().unwrap();
    drop(staged.journal(b"image 2", None).unwrap().swap().unwrap());
    let recovery = reopened(&mut machine);
    assert!(matches!(&recovery, Recovery::Finished { note, .. } if note == b"image 2"), "{recovery:?}");
    let recovery = reopened(&mut machine);
    assert!(matches!(&recovery, Recovery::Kept { note, .. } if note == b"image 2"), "{recovery:?}");
    machine.updater.clean_up().unwrap();
    let recovery = reopened(&mut machine);
    assert!(matches!(recovery, Recovery::Clean), "{recovery:?}");
    let nothing = machine.updater.undo(Reason::Asked).unwrap_err();
    assert!(matches!(nothing, UpdateError::NothingToUndo), "{nothing}");
}

#[test]
fn what_failed_while_staging_is_still_told_after_a_crash() {
    let mut machine = before();
    machine.view.protected.insert(path("/keys"));
    let plan = vec![put("/keys", symlink("x")), put("/fine", symlink("x"))];
    drop(machine.journalled(plan).swap().unwrap());
    let recovery = reopened(&mut machine);
    let Recovery::Finished { report, .. } = &recovery else { panic!("{recovery:?}") };
    assert_eq!((failed_paths(report), report.applied), (vec!["/keys".into()], 1));
    let recovery = reopened(&mut machine);
    assert!(matches!(&recovery, Recovery::Kept { totals, .. } if totals.failed == 1), "{recovery:?}");
}

#[test]
fn an_object_that_was_in_the_tree_is_one_again_only_if_nobody_else_could_write_to_it() {
    let mut machine = Machine::new();
    machine.offer(b"closed");
    machine.offer(b"open");
    machine.apply(vec![put("/closed", file(0o644, b"closed")), put("/open", file(0o666, b"open"))]).unwrap();
    let inode = machine.at("/closed").metadata().unwrap().ino();
    machine.updater.undo(Reason::Asked).unwrap();
    let size = |of: &[u8]| machine.updater.objects().size(&dominator_core::object::ObjectId::of(of)).unwrap();
    assert_eq!((size(b"closed"), size(b"open")), (Some(6), None));
    let id = dominator_core::object::ObjectId::of(b"closed").to_string();
    assert_eq!(machine.at("/.subd/objects").join(id).metadata().unwrap().ino(), inode);
    machine.is_tidy();
}

#[test]
fn what_somebody_changes_before_the_next_process_comes_is_left_alone_and_told_of() {
    let mut machine = before();
    drop(machine.journalled(operations()).swap().unwrap());
    machine.let_go();
    std::fs::remove_file(machine.at("/tool")).unwrap();
    machine.write("/tool", b"precious");
    let recovery = reopened(&mut machine);
    let Recovery::Finished { report, .. } = &recovery else { panic!("{recovery:?}") };
    // The name that should be of the same inode is of it.
    assert_eq!(failed_paths(report), ["/tool", "/link"]);
    assert_eq!((machine.read("/tool"), machine.read("/link")), (b"precious".to_vec(), b"tool".to_vec()));
    let undone = machine.updater.undo(Reason::Asked).unwrap();
    let kept = undone.conflicts.iter().find(|conflict| conflict.path == path("/tool")).unwrap();
    assert_eq!(machine.read(&kept.kept.as_ref().unwrap().to_string()), b"precious");
    assert_eq!((machine.read("/tool"), machine.read("/link")), (b"n".to_vec(), b"n".to_vec()));
}

#[test]
fn what_came_into_a_directory_while_it_was_displaced_is_found_after_a_crash_as_well() {
    let mut machine = Machine::new();
    for at in ["/deleted", "/replaced"] {
        std::fs::create_dir(machine.at(at)).unwrap();
    }
    drop(
        machine
            .journalled(vec![put("/replaced", symlink("x")), delete_directory("/deleted")])
            .swap()
            .unwrap(),
    );
    assert!(!machine.has("/deleted"));
    machine.let_go();
    // As somebody can who had it open, until the process that died would have looked into it.
    for slot in std::fs::read_dir(machine.at("/.subd/slots")).unwrap() {
        std::fs::write(slot.unwrap().path().join("late"), b"precious").unwrap();
    }
    let recovery = reopened(&mut machine);
    let Recovery::Finished { report, .. } = &recovery else { panic!("{recovery:?}") };
    assert_eq!((failed_paths(report), &report.kept), (vec!["/replaced".into()], &vec![path("/deleted")]));
    for at in ["/deleted/late", "/replaced/late"] {
        assert_eq!(machine.read(at), b"precious");
    }
    machine.is_tidy();
}

#[test]
fn a_journal_of_another_version_is_in_nobodys_way_once_its_update_is_at_its_end() {
    let mut machine = before();
    machine.apply(operations()).unwrap();
    let journal = machine.at("/.subd/journal");
    let sound = std::fs::read(&journal).unwrap();
    let now = machine.scan().id();
    machine.let_go();
    let phases = sound.len() - 13 * 4096;
    // As another program would have it: other magics, and other things said.
    let renumbered = |numbers: &[u8]| {
        let mut bytes = sound.clone();
        bytes[3] = b'7';
        bytes[4..100].fill(0xff);
        bytes[phases..].fill(0);
        for number in numbers {
            let update = ObjectId::of(b"an update");
            let mut record = [b"DJP7".as_slice(), &[*number], &[0, 3], b"new", update.as_bytes()].concat();
            let digest = ObjectId::of(&record);
            record.extend(digest.as_bytes());
            let at = phases + 4096 * usize::from(*number);
            bytes[at..at + record.len()].copy_from_slice(&record);
        }
        bytes
    };
    let torn = |mut bytes: Vec<u8>, number: usize| {
        bytes[phases + 4096 * number + 8] ^= 1;
        bytes
    };
    let unfinished = [
        renumbered(&[]),
        renumbered(&[0]),
        renumbered(&[0, 1, 4]),
        renumbered(&[0, 1, 6]),
        torn(renumbered(&[0, 1]), 1),
    ];
    for bytes in unfinished {
        std::fs::write(&journal, &bytes).unwrap();
        let error = Updater::open(machine.root.clone(), Arc::new(Kernel)).unwrap_err();
        assert!(matches!(error, WorkError::Journal(JournalError::Version)), "{error:?}");
        assert_eq!(std::fs::read(&journal).unwrap(), bytes);
        assert!(std::fs::read_dir(machine.at("/.subd/slots")).unwrap().count() > 0);
    }
    for numbers in [&[0, 1][..], &[0, 1, 2], &[0, 1, 2, 3], &[0, 1, 4, 5], &[0, 4, 5]] {
        std::fs::write(&journal, renumbered(numbers)).unwrap();
        let recovery = reopened(&mut machine);
        assert!(matches!(recovery, Recovery::Clean), "{recovery:?}");
        assert!(!journal.exists());
        machine.let_go();
    }
    assert_eq!(scan(&machine.root, &machine.view).id(), now);
}
