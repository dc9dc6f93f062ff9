//! What is remembered of an update: what the machine is, and its history.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dominator_core::inode::Timestamp;
use dominator_core::plan::{Operation, PlanSummary};
use dominator_core::port::{
    AgentError, Chain, UndoReason, UpdateOutcome, UpdateRecord, UpdateReport, UpdateRequest,
};

use super::super::Shared;
use super::super::note::Note;
use super::super::state::Shortfall;
use super::{Course, Unmade, trial};
use crate::scan::Scan;
use crate::service::{Activation, Debt};

/// What a record says until it says something else.
const UNDER_WAY: &str = "it is under way, or was cut off before it was in place";

/// What is noted of an update that is about to be prepared. Its record is begun.
pub(super) fn begin(
    shared: &Shared,
    request: &UpdateRequest,
    before: Before,
    activation: &Activation,
    scan: &Scan,
) -> Course {
    let (details, protected) = {
        let state = shared.lock();
        (state.details(), state.traits().protected.clone())
    };
    let previous = details.last_image.clone();
    let plan = PlanSummary::of(&request.plan).with_services(activation.actions());
    // What is held and has a place in the image is there for good, and no news.
    let held = |operation: &Operation| {
        let Operation::Delete { path, directory: true } = operation else { return None };
        scan.held.get(path)
    };
    let stays = request.plan.operations.iter().filter_map(held);
    let record = UpdateRecord {
        number: shared.history.next(),
        image: request.image.clone(),
        previous: previous.clone(),
        began: now(),
        ended: None,
        plan: plan.with_paths(stays, &protected),
        services: Vec::new(),
        health: Vec::new(),
        window: Duration::ZERO,
        outcome: UpdateOutcome::NotMade { why: UNDER_WAY.to_owned() },
        note: None,
    };
    shared.history.note(&record);
    let note = Note {
        number: Note::draw(),
        record: record.number,
        image: request.image.clone(),
        previous,
        sparse: request.sparse.clone(),
        triggers: request.triggers.clone(),
        triggers_before: before.triggers,
        health: request.health.clone(),
        after: activation.afterwards(),
        inherited: before.owed.into_iter().map(|debt| debt.service).collect(),
        failed: activation.failed_before(),
        ran: activation.ran_before(),
        conclusion: activation.conclusion(),
        back: activation.withdrawal(),
    };
    Course::new(note, !request.plan.is_empty())
}

/// What an update finds.
pub(in crate::agent) struct Before {
    /// Of the image before.
    pub(in crate::agent) triggers: dominator_core::trigger::Triggers,
    /// What earlier updates owe.
    pub(in crate::agent) owed: Vec<Debt>,
}

/// Remembers what came of an update, now or once it is judged.
pub(in crate::agent) fn settle(
    shared: &Shared,
    course: &Course,
    outcome: Result<UpdateReport, Unmade>,
) -> Result<UpdateReport, AgentError> {
    let outcome = outcome.map_err(|unmade| (unmade.failures(), unmade.into_error()));
    let outcome = outcome.and_then(|report| match remember(shared, course, &report) {
        Ok(()) => Ok(report),
        Err(error) => Err((Vec::new(), error)),
    });
    let image = course.note.image.as_ref();
    let shortfall = match &outcome {
        Ok(report) => Shortfall::of(image, report),
        Err((failures, error)) => Some(Shortfall::new(Chain(error).to_string(), failures.clone())),
    };
    tracing::info!(
        image = image.map(|image| image.as_str()),
        window = outcome.as_ref().ok().map(|report| report.window.as_secs_f64()),
        error = shortfall.as_ref().map(|shortfall| shortfall.error.as_str()),
        "update"
    );
    match &outcome {
        // That was noted before its journal went.
        Ok(UpdateReport { outcome: UpdateOutcome::Undone { .. }, .. }) => {}
        other => note(shared, course.note.record, other.as_ref().map_err(|(_, error)| error)),
    }
    if let Ok(UpdateReport { outcome: UpdateOutcome::Made, .. }) = &outcome {
        conclude(shared, course);
    }
    let kept = outcome.as_ref().map(|report| report.kept.clone()).unwrap_or_default();
    shared.throttle.hurry();
    shared.change(|state| state.updated(kept, shortfall));
    shared.remember_kept();
    if outcome.is_err() {
        shared.open_again();
    }
    // One that was left half-way is brought to its end here, if the disk lets it by now.
    shared.look_at_the_disk();
    shared.see_to_the_rest();
    outcome.map_err(|(_, error)| error)
}

/// What the machine is by now.
fn remember(shared: &Shared, course: &Course, report: &UpdateReport) -> Result<(), AgentError> {
    let note = &course.note;
    match &report.outcome {
        UpdateOutcome::Made => {
            if report.is_success() {
                shared.remember(note.image.as_ref(), &note.triggers)?;
            }
            shared.change(|state| state.condition().trial = None);
        }
        UpdateOutcome::OnTrial { .. } => shared.wait_for(trial::Waiting::of(course.clone())),
        UpdateOutcome::Undone { .. } | UpdateOutcome::NotMade { .. } => {
            shared.change(|state| state.condition().trial = None);
            shared.keep(None);
        }
    }
    Ok(())
}

/// All was done about an update that stays: nothing of it is done again, nor noted.
fn conclude(shared: &Shared, course: &Course) {
    // An update of nothing leaves the one before as it is.
    if course.is_journalled {
        shared.remember_concluded(course.digest());
        shared.keep(Some(course.clone()));
    }
}

/// The record says it, too. Without what is known of its beginning there is none. What it says already of how it ended is
/// from somebody who knew more: he died before he had noted that all was done.
pub(super) fn note(shared: &Shared, number: u64, outcome: Result<&UpdateReport, &AgentError>) {
    let Some(mut record) = shared.history.record(number) else { return };
    match outcome {
        Ok(report) => {
            record.services.extend(report.services.iter().cloned());
            // Also what came to be held after the scan that the plan was made from.
            let stayed: BTreeSet<_> = record.plan.kept.iter().chain(&report.kept).cloned().collect();
            record.plan.kept = stayed.into_iter().take(PlanSummary::MAX_PATHS).collect();
            // Whoever judges it later knows nothing of that.
            record.window = record.window.max(report.window);
            let is_told = record.ended.is_some() && record.outcome.text() == report.outcome.text();
            if !is_told {
                let is_decided = !matches!(report.outcome, UpdateOutcome::OnTrial { .. });
                record.ended = is_decided.then(now);
                record.health.clone_from(&report.health);
                record.outcome = report.outcome.clone();
            }
            if matches!(report.outcome, UpdateOutcome::Made) && report.is_success() {
                record.note = shared.take_note();
            }
        }
        Err(error) => {
            record.ended = Some(now());
            record.outcome = UpdateOutcome::NotMade { why: Chain(error).to_string() };
        }
    }
    shared.history.note(&record);
}

/// The machine's clock. One that is before 1970 is at its beginning.
pub(in crate::agent) fn now() -> Timestamp {
    of_clock(SystemTime::now())
}

pub(in crate::agent) fn of_clock(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    Timestamp::new(seconds, since.subsec_nanos()).unwrap_or_default()
}

impl Course {
    /// It stays, which was noted, and perhaps not remembered. The root may be being opened: nothing of it is asked.
    pub(in crate::agent) fn record_made(self, shared: &Shared, report: &UpdateReport) {
        if report.is_success()
            && let Err(error) = shared.remember(self.note.image.as_ref(), &self.note.triggers)
        {
            tracing::warn!(error = %Chain(&error), "an update that was cut off can't be recorded");
            return;
        }
        note(shared, self.note.record, Ok(report));
        shared.remember_concluded(self.digest());
        shared.keep(Some(self));
    }
}

impl Shared {
    /// The update that can be taken back.
    pub(in crate::agent) fn keep(&self, course: Option<Course>) {
        *self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = course;
    }

    pub(in crate::agent) fn kept(&self) -> Option<Course> {
        self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// An image that is not tried again. A machine on which that can't be noted is told to be so for as long as the agent
    /// runs.
    pub(in crate::agent) fn blame(&self, note: &Note, why: &str) {
        let Some(image) = note.blamed().cloned() else { return };
        let bad = dominator_core::port::BadImage { image, why: why.to_owned(), since: now() };
        match self.memory.remember_bad(bad.clone()) {
            Ok(all) => self.change(|state| state.condition().bad_images = all),
            Err(error) => {
                tracing::error!(error = %Chain(&error), "a bad image can't be noted, and may come again after a restart");
                self.change(|state| state.condition().adds_bad_image(bad));
            }
        }
    }

    /// The machine is what it was before an update that somebody wanted back.
    pub(super) fn remember_before(&self, note: &Note, why: UndoReason) {
        if why != UndoReason::Asked {
            // Nothing was remembered of it.
            return;
        }
        let remembered =
            self.memory.remember_triggers(&note.triggers_before).and_then(|()| match &note.previous {
                Some(image) => self.memory.remember_image(image),
                None => self.memory.forget_image(),
            });
        if let Err(error) = remembered {
            tracing::error!(error = %Chain(&error), "what the machine is can't be noted");
        }
        self.change(|state| state.made(note.previous.clone()));
    }
}
