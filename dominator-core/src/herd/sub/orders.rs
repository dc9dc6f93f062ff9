//! What a machine is told to do, and what comes of it.

use std::sync::Arc;
use std::time::Duration;

use super::{Phase, Sub};
use crate::herd::{Action, Moment, Required, Safety, Status, Updates};
use crate::port::{
    AgentError, Chain, Disruption, FetchReport, Refusal, StoreError, UpdateOutcome, UpdateReport,
};

impl Sub {
    /// A plan is to be carried out, possibly an empty one that only records the image.
    pub(super) fn on_plan(&mut self, now: Moment, required: Arc<Required>, out: &mut Vec<Action>) {
        let Some((_, plan)) = self.pending.as_deref() else { return self.poll(now, Duration::ZERO, out) };
        if let Some(refusal) = self.refusal(&required) {
            self.pending = None;
            return self.stand_by(now, refusal_status(&refusal), Some(refusal.to_string()), out);
        }
        if self.updates == Updates::Disabled {
            let count = plan.operations.len();
            return self.rest(
                now,
                Status::UpdatesDisabled,
                Some(format!("{count} operations are held back")),
                out,
            );
        }
        let ungenerated = plan.paths().find(|path| required.computed.contains(*path));
        if let Some(detail) = ungenerated.map(|path| format!("{path} has no generator")) {
            return self.rest(now, Status::MissingComputedFile, Some(detail), out);
        }
        let needs = plan.needs();
        if needs.objects.is_empty() {
            return self.send(now, out);
        }
        // Whether there is room for them only the agent can tell: it may have most of them from an earlier attempt.
        self.phase = Phase::Fetching;
        self.leftover_objects = true;
        self.set(Status::Fetching, None);
        out.push(Action::Fetch(needs));
    }

    /// Why the machine would not be made the image, as it said itself.
    pub(super) fn refusal(&self, required: &Required) -> Option<Refusal> {
        self.last.as_ref().and_then(|last| last.details.refusal(Some(&required.name)))
    }

    pub(super) fn on_fetched(
        &mut self,
        now: Moment,
        result: Result<FetchReport, AgentError>,
        out: &mut Vec<Action>,
    ) {
        match result {
            Ok(report) => {
                self.tally.objects_fetched += report.objects;
                self.send(now, out);
            }
            Err(AgentError::Denied(text)) => self.rest(now, Status::FetchDenied, Some(text), out),
            Err(AgentError::NotNow(text)) => self.rest(now, Status::Locked, Some(text), out),
            Err(AgentError::Refused(refusal)) => self.refused(now, &refusal, out),
            Err(error @ AgentError::Fetch(StoreError::NoSpace { .. } | StoreError::NoInodes { .. })) => {
                self.rest(now, Status::NotEnoughFreeSpace, Some(Chain(&error).to_string()), out);
            }
            Err(error) => self.lost(now, &error, Status::FailedToFetch, out),
        }
    }

    pub(super) fn send(&mut self, now: Moment, out: &mut Vec<Action>) {
        let (Some((base, plan)), Some(required), false) =
            (self.pending.take().map(|pending| *pending), self.required.clone(), self.stale)
        else {
            return self.poll(now, Duration::ZERO, out);
        };
        self.phase = Phase::Updating;
        let leave = self.leave();
        // Agreed to once.
        (self.safety, self.leave.disruption) = (Safety::Guarded, Disruption::Ask);
        self.set(Status::Updating, None);
        out.push(Action::Update(required, base, plan, leave));
    }

    pub(super) fn on_updated(
        &mut self,
        now: Moment,
        result: Result<Box<UpdateReport>, AgentError>,
        out: &mut Vec<Action>,
    ) {
        match result {
            Ok(report) if report.is_success() => {
                self.tally.updates += 1;
                self.failures = 0;
                self.updated = true;
                self.set(Status::WaitingForNextFullPoll, None);
                self.poll(now, Duration::ZERO, out);
            }
            Ok(report) => self.rest(now, Status::FailedToUpdate, Some(failures(&report)), out),
            Err(AgentError::Denied(text)) => self.rest(now, Status::UpdateDenied, Some(text), out),
            Err(AgentError::NotNow(text)) => {
                self.rest(now, not_now_status(&text), Some(text), out);
            }
            Err(AgentError::Refused(refusal)) => self.refused(now, &refusal, out),
            Err(error) => self.lost(now, &error, Status::FailedToUpdate, out),
        }
    }

    /// The machine won't have an order; what stands against it comes with the next poll.
    pub(super) fn refused(&mut self, now: Moment, refusal: &Refusal, out: &mut Vec<Action>) {
        self.rest(now, refusal_status(refusal), Some(refusal.to_string()), out);
    }
}

/// An agent that can't carry an update out now says why at the beginning of its answer; reasons of its own may follow.
fn not_now_status(text: &str) -> Status {
    if text.starts_with(AgentError::DISRUPTION_PENDING) {
        Status::DisruptionRequested
    } else if text.starts_with(AgentError::DISRUPTION_DENIED) {
        Status::DisruptionDenied
    } else {
        Status::Locked
    }
}

/// What stands against an update, in the reference's words where it has some.
fn refusal_status(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::Stopped(_) | Refusal::Mode(_) => Status::UpdatesDisabled,
        Refusal::BadImage { .. } => Status::BadImage,
        Refusal::Locked { .. } => Status::Locked,
        Refusal::NothingToUndo => Status::FailedToUpdate,
        Refusal::Reboot => Status::RebootBlocked,
    }
}

/// The first few things an update could not do.
fn failures(report: &UpdateReport) -> String {
    let paths = report.failures.iter().map(|failure| format!("{}: {}", failure.path, failure.reason));
    let services = report.services.iter().filter(|outcome| outcome.is_failure()).filter_map(|outcome| {
        outcome.error.as_ref().map(|error| format!("{} {}: {error}", outcome.action, outcome.service))
    });
    let undone = match &report.outcome {
        UpdateOutcome::Undone { why, detail, failures } => {
            let but = failures.iter().map(|failure| format!("{}: {}", failure.path, failure.reason));
            let why = if detail.is_empty() { why.to_string() } else { detail.clone() };
            std::iter::once(format!("undone: {why}")).chain(but).collect()
        }
        UpdateOutcome::Made | UpdateOutcome::OnTrial { .. } | UpdateOutcome::NotMade { .. } => Vec::new(),
    };
    let all: Vec<_> = undone.into_iter().chain(paths).chain(services).collect();
    let more = (all.len().saturating_sub(3) as u64).saturating_add(report.more_failures);
    let first = all.into_iter().take(3).collect::<Vec<_>>().join("; ");
    if more == 0 {
        first
    } else {
        format!("{first}; and {more} more, which the machine tells when it is polled")
    }
}
