use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::required::danger;
use super::spread::Spread;
use super::{Action, CompareError, Event, Moment, Required, Settings, Status, SubInfo, Updates, Wanted};
use crate::path::ImagePath;
use crate::plan::{Compared, Plan};
use crate::port::{
    Activity, AgentDetails, AgentError, AgentStatus, Chain, FetchReport, PollReply, PollRequest, Scanned,
    StoreError, Unreachable, UpdateReport,
};
use crate::tree::TreeId;

/// The call that is being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// None; waiting for [`Event::Wake`], to dial or to poll.
    Resting(Connection),
    Dialing,
    Polling,
    Requiring,
    SettingView,
    Comparing,
    Fetching,
    Updating,
    CleaningUp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Connection {
    Down,
    Up,
}

/// Whether an operator agreed to a plan that deletes much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Safety {
    Guarded,
    ClearedOnce,
}

/// What a comparison found acceptable: nothing needs doing although the trees differ.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Accepted {
    required: TreeId,
    actual: TreeId,
    kept: BTreeSet<ImagePath>,
}

/// What the last poll answered, but for the tree.
#[derive(Clone, Debug)]
struct Last {
    instance: u64,
    generation: u64,
    unknown: u64,
    scan_count: u64,
    scan_duration: Duration,
    details: Arc<AgentDetails>,
}

impl Last {
    /// No more of the numbers than is needed: there are as many of these as machines.
    fn of(status: &AgentStatus, details: &Arc<AgentDetails>) -> Self {
        Self {
            instance: status.instance,
            generation: status.generation,
            unknown: status.unknown,
            scan_count: status.scans.count,
            scan_duration: status.scans.duration,
            details: Arc::clone(details),
        }
    }
}

/// What was counted and noted since the machine joined the fleet.
#[derive(Debug, Default)]
struct Tally {
    last_sync: Option<Moment>,
    last_reply: Option<Moment>,
    updates: u64,
    objects_fetched: u64,
}

/// One machine: what is known of it and what is to be done next. There is one for each machine of the fleet: what is the
/// same for all is shared, and what a machine in sync has no use for is on the heap while there is some.
#[derive(Debug)]
pub struct Sub {
    settings: Arc<Settings>,
    wanted: Wanted,
    updates: Updates,
    phase: Phase,
    status: Status,
    /// More about the status.
    detail: Option<String>,
    tally: Tally,
    last: Option<Last>,
    required: Option<Arc<Required>>,
    /// The tree and the plan that are being worked on.
    pending: Option<Box<(TreeId, Plan)>>,
    accepted: Option<Box<Accepted>>,
    safety: Safety,
    /// The wish changed while a call was being made.
    stale: bool,
    /// The machine was changed and has not been seen since.
    updated: bool,
    /// Objects may be left over on the machine.
    leftover_objects: bool,
    failures: u32,
    last_poll: Moment,
    /// How many polls were made one right after the other.
    hasty_polls: u32,
    spread: Spread,
}

impl Sub {
    /// How many polls in a row need not keep the least time between polls: more than any step towards an image takes.
    /// An agent that never comes to rest, by fault or on purpose, is asked no more often than one that does.
    const POLLS_WITHOUT_PAUSE: u32 = 8;

    /// A machine nothing is known of. Give it [`Event::Wanted`] to begin.
    pub fn new(settings: impl Into<Arc<Settings>>) -> Self {
        Self {
            settings: settings.into(),
            wanted: Wanted::Undefined,
            updates: Updates::Enabled,
            phase: Phase::Resting(Connection::Down),
            status: Status::Unknown,
            detail: None,
            tally: Tally::default(),
            last: None,
            required: None,
            pending: None,
            accepted: None,
            safety: Safety::Guarded,
            stale: false,
            updated: false,
            leftover_objects: false,
            failures: 0,
            last_poll: Moment::default(),
            hasty_polls: 0,
            spread: Spread::default(),
        }
    }

    /// Tells this machine's pauses from those of others: machines that failed together are not tried again together.
    #[must_use]
    pub fn named(self, hostname: &str) -> Self {
        Self { spread: Spread::of(hostname), ..self }
    }

    /// How the machine stands.
    pub fn status(&self) -> Status {
        self.status
    }

    /// More about that: the error, or what is unsafe.
    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    /// What people are told of it.
    pub fn info(&self) -> SubInfo {
        let last = self.last.as_ref();
        SubInfo {
            status: self.status,
            detail: self.detail.clone(),
            required_image: match &self.wanted {
                Wanted::Undefined => None,
                Wanted::NotReady(name, _) | Wanted::Ready(name, _) => Some(name.clone()),
            },
            last_image: last.and_then(|last| last.details.last_image.clone()),
            unknown: last.map_or(0, |last| last.unknown),
            kept: last.map(|last| last.details.kept.clone()).unwrap_or_default(),
            scan_count: last.map_or(0, |last| last.scan_count),
            scan_duration: last.map_or(Duration::ZERO, |last| last.scan_duration),
            last_sync: self.tally.last_sync,
            last_reply: self.tally.last_reply,
            updates: self.tally.updates,
            objects_fetched: self.tally.objects_fetched,
        }
    }

    /// Takes in what happened and says what to do next.
    pub fn step(&mut self, now: Moment, event: Event, out: &mut Vec<Action>) {
        match event {
            Event::Wanted(wanted, updates) => self.on_wanted(now, wanted, updates, out),
            Event::ClearSafetyShutoff => {
                if self.status == Status::UnsafeUpdate {
                    self.safety = Safety::ClearedOnce;
                    self.interrupt(now, out);
                }
            }
            Event::Wake => {
                if let Phase::Resting(connection) = self.phase {
                    self.resume(now, connection, out);
                }
            }
            Event::Dialed(Ok(())) => self.poll(now, Duration::ZERO, out),
            Event::Dialed(Err(error)) => self.lost(now, &error, Status::FailedToConnect, out),
            Event::Polled(Ok(reply)) => self.on_polled(now, *reply, out),
            Event::Polled(Err(error)) => self.lost(now, &error, Status::FailedToPoll, out),
            Event::Required(Ok(required)) => {
                // The wish may have changed meanwhile.
                let wanted =
                    matches!(&self.wanted, Wanted::Ready(_, image) if Arc::ptr_eq(image, &required.image));
                self.required = Some(required).filter(|_| wanted);
                // Even a machine in sync is asked at once: its traits have changed, and so has the view.
                self.stale = true;
                self.poll(now, Duration::ZERO, out);
            }
            Event::Required(Err(cause)) => {
                self.rest(now, Status::ImageNotReady, Some(cause.to_string()), out)
            }
            Event::ViewSet(Ok(())) => self.poll(now, Duration::ZERO, out),
            Event::ViewSet(Err(error)) => self.lost(now, &error, Status::FailedToPoll, out),
            Event::Compared(Ok(compared)) => self.on_compared(now, *compared, out),
            Event::Compared(Err(CompareError::Agent(error))) => self.on_compare_lost(now, &error, out),
            Event::Compared(Err(error)) => {
                self.rest(now, Status::FailedToPoll, Some(Chain(&error).to_string()), out)
            }
            Event::Fetched(result) => self.on_fetched(now, result, out),
            Event::Updated(result) => self.on_updated(now, result, out),
            Event::CleanedUp(result) => {
                self.leftover_objects = result.is_err();
                self.poll(now, self.settings.poll_wait, out);
            }
        }
    }

    fn on_wanted(&mut self, now: Moment, wanted: Wanted, updates: Updates, out: &mut Vec<Action>) {
        let same_image = match (&self.wanted, &wanted) {
            (Wanted::Ready(a, x), Wanted::Ready(b, y)) => a == b && Arc::ptr_eq(x, y),
            _ => false,
        };
        if !same_image {
            self.required = None;
            self.accepted = None;
            self.safety = Safety::Guarded;
            self.failures = 0;
        }
        (self.wanted, self.updates) = (wanted, updates);
        if self.status == Status::Unknown {
            self.dial(out);
        } else {
            self.interrupt(now, out);
        }
    }

    /// The wish changed: look again as soon as the call that is being made allows.
    fn interrupt(&mut self, now: Moment, out: &mut Vec<Action>) {
        let connection = match self.phase {
            Phase::Resting(connection) => Some(connection),
            Phase::Polling => Some(Connection::Up),
            Phase::Dialing
            | Phase::Requiring
            | Phase::SettingView
            | Phase::Comparing
            | Phase::Fetching
            | Phase::Updating
            | Phase::CleaningUp => None,
        };
        match connection {
            Some(connection) => {
                if connection == Connection::Up {
                    self.set(Status::WaitingToPoll, None);
                }
                self.resume(now, connection, out);
            }
            None => self.stale = true,
        }
    }

    fn resume(&mut self, now: Moment, connection: Connection, out: &mut Vec<Action>) {
        match connection {
            Connection::Down => self.dial(out),
            Connection::Up => self.poll(now, Duration::ZERO, out),
        }
    }

    fn dial(&mut self, out: &mut Vec<Action>) {
        self.phase = Phase::Dialing;
        // A machine that is down keeps saying why; "connecting" would only flicker.
        if self.status == Status::Unknown {
            self.set(Status::Connecting, None);
        }
        out.push(Action::Dial);
    }

    /// Polls now, or when it is time again. With `wait`, the agent answers when something changes.
    fn poll(&mut self, now: Moment, wait: Duration, out: &mut Vec<Action>) {
        let due = self.last_poll.after(self.settings.min_interval);
        // The poll that is being made when the wish changes is replaced, whatever the time.
        let hurried = self.hasty_polls >= Self::POLLS_WITHOUT_PAUSE && self.phase != Phase::Polling;
        if now < due && (hurried || !wait.is_zero()) {
            self.phase = Phase::Resting(Connection::Up);
            // The generation makes the poll that follows wait or answer at once, as the case may be.
            out.push(Action::WakeAt(due));
            return;
        }
        if matches!(self.status, Status::Connecting | Status::WaitingToPoll) || !self.status.is_alive() {
            self.set(Status::Polling, None);
        }
        // A wish that changed while another call was made is looked into at once: no machine tells of it.
        let wait = match (self.stale, self.is_settled()) {
            (true, _) => Duration::ZERO,
            (false, true) => self.settings.poll_wait,
            (false, false) => wait,
        };
        self.hasty_polls = if wait.is_zero() { self.hasty_polls.saturating_add(1) } else { 0 };
        self.stale = false;
        self.phase = Phase::Polling;
        self.last_poll = now;
        out.push(Action::Poll(PollRequest {
            view: self.required.as_ref().map(|required| required.view_id),
            known: self.last.as_ref().map(|last| last.generation).filter(|_| !wait.is_zero()),
            wait,
        }));
    }

    /// Whether nothing is to be done until something changes.
    fn is_settled(&self) -> bool {
        matches!(
            self.status,
            Status::Synced
                | Status::WaitingForNextFullPoll
                | Status::SubNotReady
                | Status::Fetching
                | Status::Updating
                | Status::ImageUndefined
        ) && !self.stale
    }

    fn on_polled(&mut self, now: Moment, reply: PollReply, out: &mut Vec<Action>) {
        self.tally.last_reply = Some(now);
        let PollReply { scanned, status, details } = reply;
        if self.last.as_ref().is_some_and(|last| last.instance != status.instance) {
            // The agent began anew and may have been anything in between.
            self.updated = false;
            self.accepted = None;
        }
        self.last = Some(Last::of(&status, &details));
        if let Some(error) = &details.write_error {
            return self.rest(now, Status::Unwritable, Some(error.clone()), out);
        }
        match status.activity {
            Activity::Fetching => return self.settle(now, Status::Fetching, out),
            Activity::Updating => return self.settle(now, Status::Updating, out),
            Activity::Idle => {}
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

    fn on_scanned(&mut self, now: Moment, required: Arc<Required>, scanned: Scanned, out: &mut Vec<Action>) {
        let tree = match scanned {
            Scanned::Tree(tree) if tree.view == required.view_id => tree,
            Scanned::NotYet if self.status == Status::FailedToUpdate => {
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
    fn is_recorded(&self, required: &Required) -> bool {
        self.last.as_ref().is_some_and(|Last { details, .. }| {
            let known = required.is_sparse() || details.last_image.as_ref() == Some(&required.name);
            known && details.last_update_error.is_none()
        })
    }

    fn on_compared(&mut self, now: Moment, compared: Compared, out: &mut Vec<Action>) {
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
        if self.safety == Safety::Guarded
            && self.updates == Updates::Enabled
            && let Some(danger) = danger(&required, compared.added, compared.deleted)
        {
            return self.rest(now, Status::UnsafeUpdate, Some(danger), out);
        }
        self.pending = Some(Box::new((actual, plan)));
        self.on_plan(now, required, out);
    }

    /// A plan is to be carried out, possibly an empty one that only records the image.
    fn on_plan(&mut self, now: Moment, required: Arc<Required>, out: &mut Vec<Action>) {
        let Some((_, plan)) = self.pending.as_deref() else { return self.poll(now, Duration::ZERO, out) };
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
        let objects = plan.objects();
        if objects.is_empty() {
            return self.send(now, out);
        }
        // Whether there is room for them only the agent can tell: it may have most of them from an earlier attempt.
        self.phase = Phase::Fetching;
        self.leftover_objects = true;
        self.set(Status::Fetching, None);
        out.push(Action::Fetch(objects));
    }

    fn on_fetched(&mut self, now: Moment, result: Result<FetchReport, AgentError>, out: &mut Vec<Action>) {
        match result {
            Ok(report) => {
                self.tally.objects_fetched += report.objects;
                self.send(now, out);
            }
            Err(AgentError::Denied(text)) => self.rest(now, Status::FetchDenied, Some(text), out),
            Err(AgentError::NotNow(text)) => self.rest(now, Status::Locked, Some(text), out),
            Err(error @ AgentError::Fetch(StoreError::NoSpace { .. })) => {
                self.rest(now, Status::NotEnoughFreeSpace, Some(Chain(&error).to_string()), out);
            }
            Err(error) => self.lost(now, &error, Status::FailedToFetch, out),
        }
    }

    fn send(&mut self, now: Moment, out: &mut Vec<Action>) {
        let (Some((base, plan)), Some(required), false) =
            (self.pending.take().map(|pending| *pending), self.required.clone(), self.stale)
        else {
            return self.poll(now, Duration::ZERO, out);
        };
        self.phase = Phase::Updating;
        self.safety = Safety::Guarded;
        self.set(Status::Updating, None);
        out.push(Action::Update(required, base, plan));
    }

    fn on_updated(&mut self, now: Moment, result: Result<UpdateReport, AgentError>, out: &mut Vec<Action>) {
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
            Err(error) => self.lost(now, &error, Status::FailedToUpdate, out),
        }
    }

    fn on_compare_lost(&mut self, now: Moment, error: &AgentError, out: &mut Vec<Action>) {
        if matches!(error, AgentError::Gone { .. } | AgentError::NotNow(_)) {
            // The machine moved on while it was looked at.
            self.rest(now, Status::WaitingToPoll, None, out);
        } else {
            self.lost(now, error, Status::FailedToPoll, out);
        }
    }

    fn synced(&mut self, now: Moment, out: &mut Vec<Action>) {
        self.tally.last_sync = Some(now);
        self.failures = 0;
        self.pending = None;
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
    fn first_fact(&self) -> Option<String> {
        let fact = self.last.as_ref()?.details.facts.first()?;
        Some(format!("{}: {}", fact.path, fact.reason))
    }

    /// There is nothing to do until the machine changes.
    fn settle(&mut self, now: Moment, status: Status, out: &mut Vec<Action>) {
        self.set(status, None);
        self.poll(now, self.settings.poll_wait, out);
    }

    /// There is no tree, and why there is none if the agent says so.
    fn not_ready(&mut self, now: Moment, out: &mut Vec<Action>) {
        let detail = self.first_fact();
        self.set(Status::SubNotReady, detail);
        self.poll(now, self.settings.poll_wait, out);
    }

    /// There is something to do, but not now: look again after a pause that grows.
    fn rest(&mut self, now: Moment, status: Status, detail: Option<String>, out: &mut Vec<Action>) {
        self.set(status, detail);
        self.pending = None;
        self.phase = Phase::Resting(Connection::Up);
        out.push(Action::WakeAt(now.after(self.pause())));
    }

    /// The call failed: say why, and connect again after a pause if the connection is to blame.
    fn lost(&mut self, now: Moment, error: &AgentError, otherwise: Status, out: &mut Vec<Action>) {
        let status = match error {
            AgentError::Denied(_) => Status::PollDenied,
            AgentError::Unreachable { why: Unreachable::BadCertificate, .. } => Status::BadCertificate,
            AgentError::Unreachable { why: Unreachable::MissingCertificate, .. } => {
                Status::MissingCertificate
            }
            AgentError::Unreachable { why, .. } if self.phase == Phase::Dialing => unreachable_status(*why),
            // The other words are for connections that never were.
            AgentError::Unreachable { .. } => otherwise,
            AgentError::NotNow(_)
            | AgentError::Gone { .. }
            | AgentError::Fetch(_)
            | AgentError::Protocol(_)
            | AgentError::Failed { .. } => otherwise,
        };
        self.rest(now, status, Some(Chain(error).to_string()), out);
        if matches!(error, AgentError::Unreachable { .. } | AgentError::Protocol(_)) {
            self.phase = Phase::Resting(Connection::Down);
        }
    }

    fn pause(&mut self) -> Duration {
        let doubled = self.settings.retry_min.saturating_mul(1 << self.failures.min(20));
        self.failures = self.failures.saturating_add(1);
        self.spread.within(doubled.min(self.settings.retry_max), self.failures)
    }

    fn set(&mut self, status: Status, detail: Option<String>) {
        self.status = status;
        self.detail = detail;
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

fn unreachable_status(why: Unreachable) -> Status {
    match why {
        Unreachable::Dns => Status::DnsError,
        Unreachable::Refused => Status::ConnectionRefused,
        Unreachable::NoRoute => Status::NoRouteToHost,
        Unreachable::Timeout => Status::ConnectTimeout,
        Unreachable::MissingCertificate => Status::MissingCertificate,
        Unreachable::BadCertificate => Status::BadCertificate,
        Unreachable::Other => Status::FailedToConnect,
    }
}

/// The first few things an update could not do.
fn failures(report: &UpdateReport) -> String {
    let paths = report.failures.iter().map(|failure| format!("{}: {}", failure.path, failure.reason));
    let services = report.services.iter().filter_map(|outcome| {
        outcome.error.as_ref().map(|error| format!("{} {}: {error}", outcome.action, outcome.service))
    });
    let all: Vec<_> = paths.chain(services).collect();
    let more = all.len().saturating_sub(3);
    let first = all.into_iter().take(3).collect::<Vec<_>>().join("; ");
    if more == 0 { first } else { format!("{first}; and {more} more") }
}
