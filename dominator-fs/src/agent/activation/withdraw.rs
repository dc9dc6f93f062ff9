//! An update that was in place is taken back, with its services.

use dominator_core::port::{
    AgentError, Blame, Chain, Refusal, UndoReason, UndoRequest, UpdateOutcome, UpdateReport,
};

use super::super::Shared;
use super::super::order::failed;
use super::{Course, Unmade, record, settle};
use crate::service::Debt;
use crate::update::{ActivatedError, Reason, UndoReport, UpdateError, Updater};

/// Takes back the update that was made last, as somebody wants it.
pub(in crate::agent) fn undo(shared: &Shared, request: UndoRequest) -> Result<UpdateReport, AgentError> {
    let course = shared.kept().ok_or(Refusal::NothingToUndo)?;
    let cause = Cause { why: UndoReason::Asked, detail: "it was asked for".to_owned(), runs: Runs::New };
    let undone = shared.with_updater(|updater| {
        if !updater.is_undoable() {
            return Err(Unmade::Refused(Refusal::NothingToUndo));
        }
        if request.blame == Blame::Image {
            shared.blame(&course.note, "somebody took it back and called it bad");
        }
        withdraw(shared, updater, &course, cause, UpdateReport::default())
    });
    shared.change(super::super::state::State::forget_scan);
    match undone.map_err(|error| failed("undo", error))? {
        Err(Unmade::Refused(refusal)) => Err(refusal.into()),
        other => {
            let settled = settle(shared, &course, other);
            if settled.is_ok() {
                shared.restart_if_owed();
            }
            settled
        }
    }
}

/// Why an update is taken back, and with what.
pub(super) struct Cause {
    pub(super) why: UndoReason,
    /// For people.
    pub(super) detail: String,
    pub(super) runs: Runs,
}

/// What runs when an update is taken back that restarts the machine, or the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Runs {
    /// What was there before it: the restart did not come.
    Before,
    /// What came with it: another restart is owed then.
    New,
}

/// Takes an update back that is in place. What is to be done is on the disk before each step of it: that the image is bad,
/// what services are owed, that a restart is, and that paths change back. The journal goes last, so that whoever comes in between
/// knows.
pub(super) fn withdraw(
    shared: &Shared,
    updater: &mut Updater,
    course: &Course,
    Cause { why, detail, runs }: Cause,
    mut report: UpdateReport,
) -> Result<UpdateReport, Unmade> {
    tracing::error!(%why, detail, "an update is taken back");
    blame(shared, course, why, &detail);
    // What can't be taken back now is better off with services than without.
    updater.probe().map_err(UpdateError::Work)?;
    shared.owe_or_warn(&course.note.back.start);
    if runs == Runs::New {
        shared.owe_restart(course);
    }
    report.services.extend(course.note.known(course.note.back.stop(&*shared.services)));
    match updater.undo_on_record(reason(why)) {
        Ok(undone) => Ok(finish(shared, updater, course, Undone { why, detail, undone }, report)),
        Err(error @ UpdateError::Work(_)) => {
            // Nothing was taken back.
            shared.owe_no_restart_for(course);
            report.services.extend(course.note.after.iter().map(|debt| debt.pay(&*shared.services)));
            Err(ActivatedError { error, services: report.services }.into())
        }
        // Half of it is there: nothing is started with that.
        Err(error) => Err(ActivatedError { error, services: report.services }.into()),
    }
}

/// Paths are as before.
pub(super) struct Undone {
    pub(super) why: UndoReason,
    pub(super) detail: String,
    pub(super) undone: UndoReport,
}

/// What comes after paths are as before.
pub(super) fn finish(
    shared: &Shared,
    updater: &mut Updater,
    course: &Course,
    Undone { why, detail, undone }: Undone,
    mut report: UpdateReport,
) -> UpdateReport {
    // One that had failed before is as before when it fails again.
    let started = course.note.known(course.note.back.start(&*shared.services));
    shared.owe_or_warn(&Debt::unpaid(&started));
    report.services.extend(started);
    shared.remember_before(&course.note, why);
    let failures = undone.not_as_before();
    let report = UpdateReport { outcome: UpdateOutcome::Undone { why, detail, failures }, ..report };
    record::note(shared, course.note.record, Ok(&report));
    shared.let_go();
    if let Err(error) = updater.clean_up() {
        tracing::warn!(error = %Chain(&error), "services may be restarted once more with the next agent");
    }
    report
}

/// The image is not tried again, unless nothing was found wrong with it.
pub(super) fn blame(shared: &Shared, course: &Course, why: UndoReason, detail: &str) {
    match why {
        UndoReason::Unhealthy | UndoReason::NeverHealthy | UndoReason::Overdue | UndoReason::Unjudged => {
            shared.blame(&course.note, &format!("{why}: {detail}"));
        }
        UndoReason::Halted | UndoReason::Asked => {}
    }
}

/// Why an update is taken back whose image was found bad, and what was said of that.
pub(super) fn read_blame(said: &str) -> (UndoReason, String) {
    let read = |why: UndoReason| Some((why, said.strip_prefix(&format!("{why}: "))?.to_owned()));
    UndoReason::ALL.into_iter().find_map(read).unwrap_or_else(|| (UndoReason::Unhealthy, said.to_owned()))
}

pub(super) const fn reason(why: UndoReason) -> Reason {
    match why {
        UndoReason::Halted => Reason::Halted,
        UndoReason::Unhealthy => Reason::Unhealthy,
        UndoReason::NeverHealthy => Reason::NeverHealthy,
        UndoReason::Overdue => Reason::Overdue,
        UndoReason::Asked => Reason::Asked,
        UndoReason::Unjudged => Reason::Unjudged,
    }
}

pub(super) const fn why(reason: Reason) -> UndoReason {
    match reason {
        Reason::Halted => UndoReason::Halted,
        Reason::Unhealthy => UndoReason::Unhealthy,
        Reason::NeverHealthy => UndoReason::NeverHealthy,
        Reason::Overdue => UndoReason::Overdue,
        Reason::Asked => UndoReason::Asked,
        Reason::Unjudged => UndoReason::Unjudged,
    }
}
