//! An update on trial, cut off at any point: whatever is left, one more start of the machine judges it, or the one after
//! that undoes it; what was accepted stays accepted, and what was undone is told until it was heard.

use std::sync::Arc;
use std::time::Duration;

use dominator_fs::seam::Seam;
use dominator_fs::update::{BootId, Judged, Reason, Recovery, Trial, Updater, WorkError};
use dominator_fs_testkit::crash::{Crash, Fault, Sweep, require};

use crate::play::{NEW, OLD, Play};

const TRIAL: Trial = Trial { deadline: Duration::from_secs(60), judged: Judged::AfterServices };

/// What is cut off on a machine that is another start further each time.
struct Case {
    before: fn(&Play),
    work: fn(&Play, Arc<dyn Seam>),
    judge: fn(&Play, &Crash) -> Result<(), String>,
}

fn boot(play: &Play, seam: Arc<dyn Seam>, id: &str) -> Result<(Updater, Recovery), WorkError> {
    Updater::open_at_boot(play.root(), seam, BootId::of(id.as_bytes()))
}

/// Starts the machine, as often as it takes to know what becomes of an update that nobody judges any more.
fn starts(play: &Play) -> Result<Recovery, String> {
    for id in ["second", "third", "fourth"] {
        let recovery = boot(play, play.stage.seam(), id).map_err(|error| format!("{id}: {error:?}"))?.1;
        if !matches!(recovery, Recovery::OnTrial { .. } | Recovery::Finished { .. }) {
            return Ok(recovery);
        }
        play.must_be(NEW).map_err(|complaint| format!("on trial: {complaint}"))?;
    }
    Err("nobody accepted it, and three starts did not undo it".to_owned())
}

/// Nobody accepts what was left: it is undone, is told until it was heard, and no more.
fn ends_undone(play: &Play, reasons: &[Reason]) -> Result<(), String> {
    let told = starts(play)?;
    play.must_be(OLD)?;
    require(play.slots_are_empty(), || format!("something lies in slots after {told:?}"))?;
    match &told {
        // It had not begun, or was heard.
        Recovery::Clean | Recovery::Abandoned { .. } => return Ok(()),
        Recovery::Undone { reason, report, .. } => {
            let right = reasons.contains(reason) && report.not_as_before().is_empty();
            require(right, || format!("{told:?}"))?;
        }
        other => return Err(format!("{other:?}")),
    }
    let (mut updater, again) = play.open(play.stage.seam()).map_err(|error| format!("{error:?}"))?;
    let same = matches!((&told, &again), (Recovery::Undone { reason: one, note, .. }, Recovery::Undone { reason: two, note: noted, .. })
        if one == two && note == noted);
    require(same, || format!("first {told:?}, then {again:?}"))?;
    updater.clean_up().map_err(|error| format!("{error:?}"))?;
    drop(updater);
    let last = play.open(play.stage.seam()).map_err(|error| format!("{error:?}"))?.1;
    require(matches!(last, Recovery::Clean), || format!("heard, and told again: {last:?}"))?;
    require(!play.stage.fs.world().is_tidy()?, || "a journal is left".to_owned())
}

fn on_trial(play: &Play) {
    let (mut updater, _) = play.open(play.stage.seam()).unwrap();
    play.try_out(&mut updater, TRIAL);
}

fn booted(play: &Play) {
    on_trial(play);
    drop(boot(play, play.stage.seam(), "first").unwrap());
}

/// Nobody ever accepts it.
const UPDATE: Case = Case {
    before: |play| play.offer(&play.open(play.stage.seam()).unwrap().0),
    work: |play, seam| play.try_out_again(&mut play.open(seam).unwrap().0, TRIAL),
    judge: |play, crash| {
        play.one_or_other(&crash.world)?;
        ends_undone(play, &[Reason::NeverHealthy])
    },
};

const ACCEPT: Case = Case {
    before: booted,
    work: |play, seam| {
        play.open(seam).unwrap().0.accept().unwrap();
        play.stage.fs.promise(NEW);
    },
    judge: |play, crash| {
        let recovery = starts(play)?;
        match recovery {
            Recovery::Kept { .. } => play.must_be(NEW),
            Recovery::Undone { .. } if crash.promised.is_none() => play.must_be(OLD),
            other => Err(format!("{:?} promised: {other:?}", crash.promised)),
        }
    },
};

/// A start that was counted stays counted.
const BOOT: Case = Case {
    before: on_trial,
    work: |play, seam| {
        drop(boot(play, seam, "first").unwrap());
        play.stage.fs.promise(NEW);
    },
    judge: |play, crash| {
        let recovery = boot(play, play.stage.seam(), "second").map_err(|error| format!("{error:?}"))?.1;
        let counted = matches!(recovery, Recovery::Undone { reason: Reason::NeverHealthy, .. });
        require(counted || crash.promised.is_none(), || format!("counted, and then {recovery:?}"))?;
        ends_undone(play, &[Reason::NeverHealthy])
    },
};

const SECOND_BOOT: Case = Case {
    before: booted,
    work: |play, seam| {
        drop(boot(play, seam, "another").unwrap());
        play.stage.fs.promise(OLD);
    },
    judge: |play, crash| {
        play.one_or_other(&crash.world)?;
        let recovery = boot(play, play.stage.seam(), "second").map_err(|error| format!("{error:?}"))?.1;
        require(matches!(recovery, Recovery::Undone { .. }), || format!("{recovery:?}"))?;
        ends_undone(play, &[Reason::NeverHealthy])
    },
};

/// As who watches over it does.
const OVERDUE: Case = Case {
    before: on_trial,
    work: |play, seam| {
        let (mut updater, _) = play.open(seam).unwrap();
        assert_eq!(updater.undo_on_record(Reason::Overdue).unwrap().not_as_before(), []);
        play.stage.fs.promise(OLD);
    },
    judge: |play, crash| {
        play.one_or_other(&crash.world)?;
        let gone = crash.promised.is_none() || play.nothing_is_staged();
        require(gone, || "undone, and what was staged came back".to_owned())?;
        let late: &[_] = &[Reason::Overdue];
        let either: &[_] = &[Reason::Overdue, Reason::NeverHealthy];
        ends_undone(play, if crash.promised.is_some() { late } else { either })
    },
};

/// What comes of it, and of crashes of the first start after it for one of every `deep` states.
fn swept(case: &Case, deep: usize, seam: &dyn Fn(Arc<dyn Seam>) -> Arc<dyn Seam>) -> Sweep {
    let play = Play::new();
    (case.before)(&play);
    let (recording, ()) = play.stage.fs.record(|| (case.work)(&play, seam(play.stage.seam())));
    play.stage.fs.check();
    let mut number = 0;
    play.stage.sweep(&recording, |crash| {
        number += 1;
        if number % deep != 0 {
            return (case.judge)(&play, crash);
        }
        let (second, started) =
            play.stage.fs.record(|| boot(&play, seam(play.stage.seam()), "cut off").map(drop));
        started.map_err(|error| format!("{error:?}"))?;
        let swept = play.stage.sweep(&second, |again| {
            play.one_or_other(&again.world)?;
            let again = Crash { promised: crash.promised, ..again.clone() };
            (case.judge)(&play, &again).map_err(|complaint| format!("after a second: {complaint}"))
        });
        swept.complaints.into_iter().next().map_or(Ok(()), Err)
    })
}

fn survives(name: &str, case: &Case) {
    let deep = if crate::update::all() { 1 } else { 20 };
    let states = swept(case, deep, &|seam| seam).clean();
    println!("{name}: {states} states after a crash");
}

#[test]
fn an_update_on_trial_that_is_cut_off_is_judged_or_undone() {
    survives("update on trial", &UPDATE);
}

#[test]
fn what_was_accepted_stays_accepted_after_a_crash_at_any_point() {
    survives("accept", &ACCEPT);
}

#[test]
fn a_start_that_was_counted_stays_counted_after_a_crash_at_any_point() {
    survives("first start", &BOOT);
}

#[test]
fn an_update_that_a_second_start_undoes_is_undone_after_a_crash_at_any_point() {
    survives("second start", &SECOND_BOOT);
}

#[test]
fn what_was_undone_on_record_is_told_after_a_crash_at_any_point() {
    survives("overdue", &OVERDUE);
}

#[test]
fn the_sweep_finds_phases_that_are_not_waited_for() {
    for case in [&ACCEPT, &BOOT, &OVERDUE] {
        swept(case, usize::MAX, &Fault::NoSync.into_seams()).finds(Fault::NoSync);
    }
}
