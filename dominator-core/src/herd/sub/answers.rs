//! What a machine answers when it is looked at, and what that means.

use std::sync::Arc;
use std::time::Duration;

use super::{Accepted, Last, Phase, Sub};
use crate::herd::{Action, Leave, Moment, Required, Safety, Status, Updates, Wanted};
use crate::plan::{Compared, Plan};
use crate::port::{Activity, AgentError, PollReply, Scanned};

impl Sub {
    pub(super) fn on_polled(&mut self, now: Moment, reply: PollReply, out: &mut Vec<Action>) {
        self.tally.last_reply = Some(now);
        let PollReply { scanned, status, details } = reply;
        if self.last.as_ref().is_some_and(|last| last.instance != status.instance) {
            // The agent began anew and may have been anything in between.
            self.updated = false;
            self.accepted = None;
        }
        self.last = Some(Last::of(&status, &details));
        self.has_looked();
        if let Some(error) = &details.write_error {
            return self.rest(now, Status::Unwritable, Some(error.clone()), out);
        }
        match status.activity {
            Activity::Fetching => return self.settle(now, Status::Fetching, out),
            Activity::Updating => return self.settle(now, Status::Updating, out),
            Activity::Idle => {}
        }
        if let Some(trial) = &details.trial {
            // Another update would leave nothing to go back to.
            let detail = format!("on trial: {}", trial.why);
            return self.stand_by(now, Status::Updating, Some(detail), out);
        }
        let (name, image) = match &self.wanted {
            Wanted::Undefined => return self.settle(now, Status::ImageUndefined, out),
            Wanted::NotReady(_, why) => {
                let why = why.clone();
                return self.rest(now, Status::ImageNotReady, Some(why), out);
            }
            Wanted::Ready(name, image) => (name.clone(), Arc::clone(image)),
        };
        let suits = |required: &&Arc<Required>| required.traits == details.traits;
        let Some(required) = self.required.as_ref().filter(suits).cloned() else {
            self.phase = Phase::Requiring;
            return out.push(Action::Require(name, image, Arc::clone(&details.traits)));
        };
        self.on_scanned(now, required, scanned, out);
    }

    pub(super) fn on_scanned(
        &mut self,
        now: Moment,
        required: Arc<Required>,
        scanned: Scanned,
        out: &mut Vec<Action>,
    ) {
        let tree = match scanned {
            Scanned::Tree(tree) if tree.view == required.view_id => tree,
            Scanned::NotYet if self.status == Status::FailedToUpdate && !self.is_hurried() => {
                let detail = self.detail.take();
                return self.rest(now, Status::FailedToUpdate, detail, out);
            }
            Scanned::NotYet if self.updated => return self.settle(now, Status::WaitingForNextFullPoll, out),
            Scanned::NotYet => return self.not_ready(now, out),
            Scanned::Tree(_) | Scanned::NeedView => {
                self.phase = Phase::SettingView;
                return out.push(Action::SetView(required));
            }
        };
        self.updated = false;
        let actual = tree.id();
        let last = self.last.as_ref();
        let recorded = self.is_recorded(&required);
        let kept = last.map(|last| last.details.kept.clone()).unwrap_or_default();
        let accepted = Some(Box::new(Accepted { required: required.tree_id, actual, kept }));
        if recorded && (actual == required.tree_id || accepted == self.accepted) {
            return self.synced(now, out);
        }
        if actual == required.tree_id {
            // Nothing differs, but the machine does not know yet which image it is.
            self.pending = Some(Box::new((actual, Plan::default())));
            return self.on_plan(now, required, out);
        }
        self.phase = Phase::Comparing;
        if self.status != Status::UpdatesDisabled && self.status != Status::UnsafeUpdate {
            self.set(Status::ComputingUpdate, None);
        }
        self.pending = Some(Box::new((actual, Plan::default())));
        out.push(Action::Compare(required, tree));
    }

    /// Whether the machine says itself that it was wholly made to be the image. One whose last update failed does not,
    /// whatever its tree: a service may be owed its start. Another update, even an empty one, pays that.
    pub(super) fn is_recorded(&self, required: &Required) -> bool {
        self.last.as_ref().is_some_and(|Last { details, .. }| {
            let known = required.is_sparse() || details.last_image.as_ref() == Some(&required.name);
            known && details.last_update_error.is_none()
        })
    }

    pub(super) fn on_compared(&mut self, now: Moment, compared: Compared, out: &mut Vec<Action>) {
        let (Some((actual, _)), Some(required), false) =
            (self.pending.take().map(|pending| *pending), self.required.clone(), self.stale)
        else {
            return self.poll(now, Duration::ZERO, out);
        };
        let kept = self.last.as_ref().map(|last| last.details.kept.clone()).unwrap_or_default();
        let (plan, _) = compared.plan.without_kept(&kept);
        if plan.is_empty() {
            self.accepted = Some(Box::new(Accepted { required: required.tree_id, actual, kept }));
            if self.is_recorded(&required) {
                return self.synced(now, out);
            }
        }
        if self.safety() == Safety::Guarded
            && self.updates == Updates::Enabled
            && let Some(danger) = required.danger(compared.added, compared.deleted)
        {
            return self.rest(now, Status::UnsafeUpdate, Some(danger), out);
        }
        self.pending = Some(Box::new((actual, plan)));
        self.on_plan(now, required, out);
    }

    pub(super) fn on_compare_lost(&mut self, now: Moment, error: &AgentError, out: &mut Vec<Action>) {
        if matches!(error, AgentError::Gone { .. } | AgentError::NotNow(_)) {
            // The machine moved on while it was looked at.
            self.rest(now, Status::WaitingToPoll, None, out);
        } else {
            self.lost(now, error, Status::FailedToPoll, out);
        }
    }

    pub(super) fn synced(&mut self, now: Moment, out: &mut Vec<Action>) {
        self.tally.last_sync = Some(now);
        self.failures = 0;
        self.pending = None;
        self.leave = Leave::default();
        // It is what it must be as far as anybody can see, which is said.
        let unknown = self.last.as_ref().map_or(0, |last| last.unknown);
        let first = self.first_fact().unwrap_or_default();
        let detail = (unknown > 0).then(|| format!("not looked at: {unknown}, first {first}"));
        self.set(Status::Synced, detail);
        if self.leftover_objects {
            self.phase = Phase::CleaningUp;
            return out.push(Action::CleanUp);
        }
        self.poll(now, self.settings.poll_wait, out);
    }

    /// The first thing the agent could not look at.
    pub(super) fn first_fact(&self) -> Option<String> {
        let fact = self.last.as_ref()?.details.facts.first()?;
        Some(format!("{}: {}", fact.path, fact.reason))
    }

    /// There is nothing to do until the machine changes.
    pub(super) fn settle(&mut self, now: Moment, status: Status, out: &mut Vec<Action>) {
        self.stand_by(now, status, None, out);
    }

    /// The same, and there is something to say about it.
    pub(super) fn stand_by(
        &mut self,
        now: Moment,
        status: Status,
        detail: Option<String>,
        out: &mut Vec<Action>,
    ) {
        self.set(status, detail);
        self.poll(now, self.settings.poll_wait, out);
    }

    /// There is no tree, and why there is none if the agent says so.
    pub(super) fn not_ready(&mut self, now: Moment, out: &mut Vec<Action>) {
        let detail = self.first_fact();
        self.stand_by(now, Status::SubNotReady, detail, out);
    }
}
