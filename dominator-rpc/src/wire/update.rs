//! What became of updates.

use std::time::Duration;

use dominator_core::health::{HealthChecks, HealthOutcome};
use dominator_core::plan::{PlanSummary, PlannedAction};
use dominator_core::port::{
    Note, PathFailure, ServiceOutcome, ServiceState, UndoReason, UpdateOutcome, UpdateRecord, UpdateReport,
};
use tonic::Status;

use super::agent::{failure, failure_from, micros, path, path_from};
use super::condition::{name_from, trial_reason, trial_reason_from};
use super::poll::{seconds, time};
use super::{invalid, readable};
use crate::v1::update_outcome::Outcome;
use crate::{limits, v1};

pub(crate) fn update_reply(report: &UpdateReport) -> v1::UpdateReply {
    let left_out = report.failures.len().saturating_sub(limits::FAILURES);
    v1::UpdateReply {
        applied: report.applied,
        kept: report.kept.iter().map(path).collect(),
        failures: failures(&report.failures),
        more_failures: report.more_failures.saturating_add(left_out as u64),
        services: report.services.iter().map(service_outcome).collect(),
        window_micros: micros(report.window),
        health: report.health.iter().map(health).collect(),
        outcome: Some(outcome(&report.outcome)),
    }
}

pub(crate) fn update_reply_from(reply: v1::UpdateReply) -> Result<UpdateReport, Status> {
    Ok(UpdateReport {
        applied: reply.applied,
        kept: reply.kept.iter().map(path_from).collect::<Result<_, _>>()?,
        failures: reply.failures.into_iter().map(failure_from).collect::<Result<_, _>>()?,
        more_failures: reply.more_failures,
        services: reply.services.into_iter().map(service_outcome_from).collect(),
        window: Duration::from_micros(reply.window_micros),
        health: health_from(&reply.health)?,
        outcome: reply.outcome.map(outcome_from).transpose()?.unwrap_or_default(),
    })
}

pub(crate) fn service_outcome(outcome: &ServiceOutcome) -> v1::ServiceOutcome {
    let ServiceOutcome { service, action, before, error } = outcome.clone();
    let before = match before {
        ServiceState::Unknown => v1::ServiceState::Unknown,
        ServiceState::Running => v1::ServiceState::Running,
        ServiceState::Stopped => v1::ServiceState::Stopped,
        ServiceState::Failed => v1::ServiceState::Failed,
    };
    v1::ServiceOutcome { service, action, before: before.into(), error }
}

pub(crate) fn service_outcome_from(outcome: v1::ServiceOutcome) -> ServiceOutcome {
    let before = match outcome.before() {
        v1::ServiceState::Unknown => ServiceState::Unknown,
        v1::ServiceState::Running => ServiceState::Running,
        v1::ServiceState::Stopped => ServiceState::Stopped,
        v1::ServiceState::Failed => ServiceState::Failed,
    };
    ServiceOutcome {
        service: readable(&outcome.service),
        action: readable(&outcome.action),
        before,
        error: outcome.error.as_deref().map(readable),
    }
}

pub(crate) fn record(record: &UpdateRecord) -> v1::UpdateRecord {
    v1::UpdateRecord {
        number: record.number,
        image: record.image.as_ref().map(ToString::to_string),
        previous: record.previous.as_ref().map(ToString::to_string),
        began: seconds(record.began),
        ended: record.ended.map(seconds),
        plan: Some(summary(&record.plan)),
        services: record.services.iter().map(service_outcome).collect(),
        health: record.health.iter().map(health).collect(),
        window_micros: micros(record.window),
        outcome: Some(outcome(&record.outcome)),
        note: record.note.as_ref().map(ToString::to_string),
    }
}

pub(crate) fn record_from(record: v1::UpdateRecord) -> Result<UpdateRecord, Status> {
    let plan = record.plan.as_ref().ok_or_else(|| invalid("a record without a plan"))?;
    Ok(UpdateRecord {
        number: record.number,
        image: name_from(record.image.as_ref())?,
        previous: name_from(record.previous.as_ref())?,
        began: time(record.began),
        ended: record.ended.map(time),
        plan: summary_from(plan)?,
        services: record.services.into_iter().map(service_outcome_from).collect(),
        health: health_from(&record.health)?,
        window: Duration::from_micros(record.window_micros),
        outcome: record.outcome.map(outcome_from).transpose()?.unwrap_or_default(),
        note: record.note.as_deref().and_then(Note::cut),
    })
}

fn summary(plan: &PlanSummary) -> v1::PlanSummary {
    let action = |planned: &PlannedAction| v1::PlannedAction {
        service: planned.service.clone(),
        action: planned.action.clone(),
    };
    v1::PlanSummary {
        directories: plan.directories,
        files: plan.files,
        symlinks: plan.symlinks,
        specials: plan.specials,
        links: plan.links,
        metadata: plan.metadata,
        deletions: plan.deletions,
        bytes: plan.bytes,
        services: plan.services.iter().take(PlanSummary::MAX_ACTIONS).map(action).collect(),
        kept: plan.kept.iter().take(PlanSummary::MAX_PATHS).map(path).collect(),
        protected: plan.protected.iter().take(PlanSummary::MAX_PATHS).map(path).collect(),
        window_micros: micros(plan.window),
    }
}

fn summary_from(plan: &v1::PlanSummary) -> Result<PlanSummary, Status> {
    let most = plan.kept.len().max(plan.protected.len());
    if most > PlanSummary::MAX_PATHS || plan.services.len() > PlanSummary::MAX_ACTIONS {
        return Err(invalid("a summary of a plan that is longer than one"));
    }
    let action = |planned: &v1::PlannedAction| PlannedAction {
        service: readable(&planned.service),
        action: readable(&planned.action),
    };
    Ok(PlanSummary {
        directories: plan.directories,
        files: plan.files,
        symlinks: plan.symlinks,
        specials: plan.specials,
        links: plan.links,
        metadata: plan.metadata,
        deletions: plan.deletions,
        bytes: plan.bytes,
        services: plan.services.iter().map(action).collect(),
        kept: plan.kept.iter().map(path_from).collect::<Result<_, _>>()?,
        protected: plan.protected.iter().map(path_from).collect::<Result<_, _>>()?,
        window: Duration::from_micros(plan.window_micros),
    })
}

fn health(outcome: &HealthOutcome) -> v1::HealthOutcome {
    v1::HealthOutcome {
        name: outcome.name.clone(),
        attempts: outcome.attempts,
        error: outcome.error.as_deref().map(readable),
        took_millis: u64::try_from(outcome.took.as_millis()).unwrap_or(u64::MAX),
    }
}

fn health_from(outcomes: &[v1::HealthOutcome]) -> Result<Vec<HealthOutcome>, Status> {
    if outcomes.len() > HealthChecks::MAX_COUNT {
        return Err(invalid("more health checks than an image has"));
    }
    let outcome = |outcome: &v1::HealthOutcome| HealthOutcome {
        name: readable(&outcome.name),
        attempts: outcome.attempts,
        error: outcome.error.as_deref().map(readable),
        took: Duration::from_millis(outcome.took_millis),
    };
    Ok(outcomes.iter().map(outcome).collect())
}

fn outcome(outcome: &UpdateOutcome) -> v1::UpdateOutcome {
    let outcome = match outcome {
        UpdateOutcome::Made => Outcome::Made(v1::Empty {}),
        UpdateOutcome::OnTrial { why } => Outcome::OnTrial(trial_reason(*why).into()),
        UpdateOutcome::Undone { why, detail, failures: left } => Outcome::Undone(v1::Undone {
            why: undo_reason(*why).into(),
            detail: readable(detail),
            failures: failures(left),
        }),
        UpdateOutcome::NotMade { why } => Outcome::NotMade(readable(why)),
    };
    v1::UpdateOutcome { outcome: Some(outcome) }
}

fn outcome_from(outcome: v1::UpdateOutcome) -> Result<UpdateOutcome, Status> {
    let unknown = || invalid("an outcome of an update not known here");
    Ok(match outcome.outcome.ok_or_else(unknown)? {
        Outcome::Made(_) => UpdateOutcome::Made,
        Outcome::OnTrial(why) => {
            let why = v1::TrialReason::try_from(why).map_err(|_| unknown())?;
            UpdateOutcome::OnTrial { why: trial_reason_from(why)? }
        }
        Outcome::Undone(undone) => UpdateOutcome::Undone {
            why: undo_reason_from(undone.why())?,
            detail: readable(&undone.detail),
            failures: undone.failures.into_iter().map(failure_from).collect::<Result<_, _>>()?,
        },
        Outcome::NotMade(why) => UpdateOutcome::NotMade { why: readable(&why) },
    })
}

fn undo_reason(why: UndoReason) -> v1::UndoReason {
    match why {
        UndoReason::Halted => v1::UndoReason::Halted,
        UndoReason::Unhealthy => v1::UndoReason::Unhealthy,
        UndoReason::NeverHealthy => v1::UndoReason::NeverHealthy,
        UndoReason::Overdue => v1::UndoReason::Overdue,
        UndoReason::Asked => v1::UndoReason::Asked,
        UndoReason::Unjudged => v1::UndoReason::Unjudged,
    }
}

fn undo_reason_from(why: v1::UndoReason) -> Result<UndoReason, Status> {
    match why {
        v1::UndoReason::Halted => Ok(UndoReason::Halted),
        v1::UndoReason::Unhealthy => Ok(UndoReason::Unhealthy),
        v1::UndoReason::NeverHealthy => Ok(UndoReason::NeverHealthy),
        v1::UndoReason::Overdue => Ok(UndoReason::Overdue),
        v1::UndoReason::Asked => Ok(UndoReason::Asked),
        v1::UndoReason::Unjudged => Ok(UndoReason::Unjudged),
        v1::UndoReason::Unspecified => Err(invalid("an update taken back for a reason not known here")),
    }
}

fn failures(failures: &[PathFailure]) -> Vec<v1::PathFailure> {
    failures.iter().take(limits::FAILURES).map(failure).collect()
}
