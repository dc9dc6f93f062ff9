//! Whatever of an update is cut off, each path is as it was or as it must be, and the recovery has all of it the one way
//! or all of it the other; and what was promised is kept.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use dominator_fs::publish::MANY;
use dominator_fs::seam::Seam;
use dominator_fs::update::{Reason, UpdateError};
use dominator_fs_testkit::crash::Fault;
use dominator_fs_testkit::left_out;

use crate::play::{Case, LATER, NEW, OLD, Play};

pub(crate) const UPDATE: Case = Case {
    name: "update",
    before: |_, _| {},
    work: |play, updater| play.update_again(updater, NEW),
    clean: &[OLD],
    finished: &[NEW],
    undone: &[],
    kept: &[NEW],
};

pub(crate) const UNDO: Case = Case {
    name: "undo",
    before: |play, updater| play.update(updater, NEW),
    work: |play, updater| {
        let report = updater.undo(Reason::Asked).unwrap();
        assert_eq!(report.not_as_before(), []);
        play.stage.fs.promise(OLD);
    },
    clean: &[OLD],
    finished: &[],
    undone: &[OLD],
    kept: &[NEW],
};

const CLEAN_UP: Case = Case {
    name: "clean-up",
    before: |play, updater| play.update(updater, NEW),
    work: |play, updater| {
        play.stage.fs.promise(NEW);
        updater.clean_up().unwrap();
    },
    clean: &[NEW],
    finished: &[],
    undone: &[],
    kept: &[NEW],
};

const ABANDON: Case = Case {
    name: "abandon",
    before: |_, _| {},
    work: |play, updater| {
        play.stage.fs.promise(OLD);
        let update = updater.begin(play.plan(NEW), &play.view).unwrap().stage().unwrap();
        update.abandon().unwrap();
        let update = updater.begin(play.plan(NEW), &play.view).unwrap().stage().unwrap();
        update.journal(b"", None).unwrap().abandon().unwrap();
    },
    clean: &[OLD],
    finished: &[],
    undone: &[],
    kept: &[],
};

const NEXT: Case = Case {
    name: "next update",
    before: |play, updater| play.update(updater, NEW),
    work: |play, updater| play.update_again(updater, LATER),
    clean: &[NEW],
    finished: &[LATER],
    undone: &[],
    kept: &[NEW, LATER],
};

/// The disk fails once, and the update is undone.
const HALT: Case = Case {
    name: "halted update",
    before: |_, _| {},
    work: |play, updater| {
        let update = updater.begin(play.plan(NEW), &play.view).unwrap().stage().unwrap();
        let halted = update.journal(b"", None).unwrap().swap().unwrap_err();
        assert!(
            matches!(&halted, UpdateError::Halted { not_undone, .. } if not_undone.is_empty()),
            "{halted:?}"
        );
        play.stage.fs.promise(OLD);
    },
    clean: &[OLD],
    finished: &[NEW],
    undone: &[OLD],
    kept: &[NEW],
};

/// The disk takes nothing any more, until the machine is started anew.
const BREAK: Case = Case {
    name: "broken update",
    before: |_, _| {},
    work: |play, updater| {
        let update = updater.begin(play.plan(NEW), &play.view).unwrap().stage().unwrap();
        let broken = update.journal(b"", None).unwrap().swap().unwrap_err();
        assert!(matches!(&broken, UpdateError::HalfMade { .. }), "{broken:?}");
    },
    clean: &[OLD],
    finished: &[NEW],
    undone: &[OLD],
    kept: &[NEW],
};

fn survives(case: &Case) {
    survives_on(&Play::new(), case, every());
}

/// Crashes of the recovery itself are played for some of the states, or for each when asked for all.
fn every() -> usize {
    if all() { 1 } else { 20 }
}

pub(crate) fn all() -> bool {
    std::env::var_os("DOMINATOR_CRASHES").is_some_and(|all| all == "all")
}

fn survives_on(play: &Play, case: &Case, every: usize) {
    let states = play.sweep(case, every, &|seam| seam).clean();
    let again = play.judged();
    println!("{}: {states} states after a crash, {again} after a second", case.name);
    assert!(states > 20, "{}: only {states} states", case.name);
}

#[test]
fn an_update_survives_a_crash_at_any_point() {
    survives(&UPDATE);
}

#[test]
fn undoing_survives_a_crash_at_any_point() {
    survives(&UNDO);
}

#[test]
fn cleaning_up_survives_a_crash_at_any_point() {
    survives(&CLEAN_UP);
}

#[test]
fn giving_up_survives_a_crash_at_any_point() {
    survives(&ABANDON);
}

#[test]
fn an_update_right_after_another_survives_a_crash_at_any_point() {
    survives(&NEXT);
    survives_on(&Play::growing(), &NEXT, every());
}

/// A seam with a fault the first time, and none for who comes after.
fn once(fault: Fault) -> impl Fn(Arc<dyn Seam>) -> Arc<dyn Seam> {
    let first = Cell::new(true);
    move |seam| if first.replace(false) { fault.into_seams()(seam) } else { seam }
}

#[test]
fn an_update_the_disk_fails_survives_a_crash_at_any_point() {
    // Seven renamings come before the swap: those of objects and of the journal.
    let all_of_them: &[usize] = if all() { &[9, 14, 20, 27] } else { &[14, 27] };
    for nth in all_of_them.iter().copied() {
        for (case, fault) in [(&HALT, Fault::Fails(nth)), (&BREAK, Fault::Breaks(nth))] {
            let some = if all() { 1 } else { 15 };
            let states = Play::new().sweep_some(case, some, 20, &once(fault)).clean();
            println!("{} at renaming {nth}: {states} states", case.name);
        }
    }
}

/// So many files that one wait for all is cheaper than one for each, and that more than one thread reads them.
#[test]
fn an_update_of_many_files_survives_a_crash_at_any_point() {
    let fill = |root: &Path, what: &str| {
        fs::create_dir(root.join(what)).unwrap();
        for number in 0..MANY + 6 {
            fs::write(root.join(format!("file-{number}")), format!("{number}, {what}")).unwrap();
            fs::write(root.join(what).join(number.to_string()), number.to_string()).unwrap();
        }
    };
    for case in [&UPDATE, &UNDO] {
        let play = Play::of(&|root| fill(root, "old"), &|root| fill(root, "new"));
        let states = play.sweep_some(case, if all() { 10 } else { 150 }, 50, &|seam| seam).clean();
        println!("{} of many: {states} states", case.name);
    }
}

#[test]
fn what_is_immutable_is_so_again_after_a_crash_at_any_point() {
    let Some(play) = Play::pinned() else {
        return left_out(
            "what_is_immutable_is_so_again_after_a_crash_at_any_point",
            "nothing can be made immutable here",
        );
    };
    survives_on(&play, &UPDATE, every());
    survives_on(&Play::pinned().unwrap(), &UNDO, every());
}

#[test]
fn what_is_immutable_and_gets_another_name_is_so_again_after_a_crash_at_any_point() {
    let Some(play) = Play::linking() else {
        return left_out(
            "what_is_immutable_and_gets_another_name_is_so_again_after_a_crash_at_any_point",
            "nothing can be made immutable here",
        );
    };
    survives_on(&play, &UPDATE, every());
    survives_on(&Play::linking().unwrap(), &UNDO, every());
}

fn finds(case: &Case, fault: Fault) {
    let swept = Play::new().sweep(case, usize::MAX, &fault.into_seams());
    swept.finds(fault);
}

#[test]
fn the_sweep_finds_an_update_that_waits_for_nothing() {
    finds(&UPDATE, Fault::NoSync);
    finds(&UPDATE, Fault::NoSyncOfFiles);
    // Where a directory was opened up, which only takes who has no privileges, all is waited for at once.
    if rustix::process::geteuid().is_root() {
        finds(&UPDATE, Fault::NoSyncOfDirectories);
    }
    finds(&UNDO, Fault::NoSync);
}

#[test]
fn the_sweep_finds_metadata_that_come_after_the_name() {
    finds(&UPDATE, Fault::LateMetadata);
}

#[test]
fn the_sweep_finds_a_journal_that_comes_after_the_first_change() {
    finds(&UPDATE, Fault::LateJournal);
}

#[test]
fn the_sweep_finds_a_recovery_that_replays_exchanges_without_looking() {
    finds(&UPDATE, Fault::Replay);
}
