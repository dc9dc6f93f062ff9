mod answers;
mod hurry;
mod orders;
mod trouble;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use self::hurry::Hurry;
use super::{
    Action, CompareError, Event, Leave, Moment, Required, Safety, Settings, Status, SubInfo, Updates, Wanted,
};
use crate::backoff::Spread;
use crate::path::ImagePath;
use crate::plan::Plan;
use crate::port::{AgentDetails, AgentError, AgentStatus, Chain, Disruption, PollRequest};
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
    /// What the next update may do to those who use the machine.
    leave: Leave,
    /// The operator who waits for it.
    hurry: Option<Box<Hurry>>,
    /// The wish changed while a call was being made.
    stale: bool,
    /// The machine was changed and has not been seen since.
    updated: bool,
    /// Objects may be left over on the machine.
    leftover_objects: bool,
    failures: u32,
    /// Whether what refused us while a call was made may not do so any more.
    renewed: bool,
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
            leave: Leave::default(),
            hurry: None,
            stale: false,
            updated: false,
            leftover_objects: false,
            failures: 0,
            renewed: false,
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
            Event::ForceDisruption => {
                if matches!(self.status, Status::DisruptionRequested | Status::DisruptionDenied) {
                    self.leave.disruption = Disruption::Force;
                    self.interrupt(now, out);
                }
            }
            Event::FastUpdate(order) => self.on_fast_update(now, order, out),
            Event::NoHurry => self.hurry = None,
            Event::Renewed => self.on_renewed(out),
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
            // Somebody has the machine for themselves, and looks through a view of their own.
            Event::ViewSet(Err(AgentError::Refused(refusal))) => self.refused(now, &refusal, out),
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
            self.leave = Leave::default();
            self.failures = 0;
            // Whoever wishes is not the machine, whatever it is up to.
            self.hasty_polls = 0;
        }
        if !same_image && self.phase == Phase::Fetching {
            // The poll takes the place of the call, and an agent that nobody waits for fetches no further.
            self.phase = Phase::Polling;
            self.pending = None;
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
        let (early, spent) = (now < due, self.hasty_polls >= Self::POLLS_WITHOUT_PAUSE);
        let pause = if wait.is_zero() {
            // The poll that is being made when the wish changes is replaced, whatever the time.
            spent && self.phase != Phase::Polling
        } else {
            spent || !self.is_looking()
        };
        if early && pause {
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
        // Who was made to pause has not come to rest by pausing.
        let rested = now >= due.after(self.settings.min_interval);
        self.hasty_polls = match early || wait.is_zero() {
            true => self.hasty_polls.saturating_add(1),
            false if rested => 0,
            false => self.hasty_polls,
        };
        self.stale = false;
        self.phase = Phase::Polling;
        self.last_poll = now;
        out.push(Action::Poll(PollRequest {
            view: self.required.as_ref().map(|required| required.view_id),
            known: self.last.as_ref().map(|last| last.generation).filter(|_| !wait.is_zero()),
            wait,
        }));
    }

    /// Whether the machine looks at itself because of what it was just told: it answers when it has, once.
    fn is_looking(&self) -> bool {
        matches!(self.status, Status::SubNotReady | Status::WaitingForNextFullPoll)
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
                // The machine tells when what stands against an update has gone.
                | Status::BadImage
                | Status::UpdatesDisabled
        ) && !self.stale
    }

    fn set(&mut self, status: Status, detail: Option<String>) {
        self.status = status;
        self.detail = detail;
        self.end_hurry();
    }
}
