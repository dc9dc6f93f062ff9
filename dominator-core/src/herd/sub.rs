use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::Status;
use crate::image::{Image, ImageName};
use crate::inode::Kind;
use crate::object::ObjectId;
use crate::path::ImagePath;
use crate::plan::{Compared, Operation, Plan};
use crate::port::{
    Activity, AgentError, AgentStatus, Cause, FetchReport, MachineTraits, PollReply, PollRequest, Scanned,
    StoreError, Unreachable, UpdateReport,
};
use crate::tree::{Snapshot, Tree, TreeId};
use crate::view::{View, ViewId};

/// A point in time: how long after the runtime's beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub Duration);

impl Moment {
    /// So much later.
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }
}

/// How patient the controller is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The least time between the beginnings of two polls of one machine.
    pub min_interval: Duration,
    /// How long an agent may wait for a change before it answers a poll.
    pub poll_wait: Duration,
    /// The first pause after a failure; doubled with each that follows.
    pub retry_min: Duration,
    /// The longest pause.
    pub retry_max: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            min_interval: Duration::from_secs(1),
            poll_wait: Duration::from_secs(30),
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(60),
        }
    }
}

/// Which image a machine must be, as far as the controller has it.
#[derive(Clone, Debug, Default)]
pub enum Wanted {
    /// The machine data base names none.
    #[default]
    Undefined,
    /// The one named is not here, for the reason given.
    NotReady(ImageName, String),
    /// The one named.
    Ready(ImageName, Arc<Image>),
}

/// What a machine must be, under the view that suits it.
#[derive(Clone, Debug)]
pub struct Required {
    /// Which image this is.
    pub name: ImageName,
    /// Its manifest.
    pub image: Arc<Image>,
    /// The machine's part in the view.
    pub traits: MachineTraits,
    /// The view.
    pub view: View,
    /// The id of the view.
    pub view_id: ViewId,
    /// The image's tree under it.
    pub tree: Snapshot,
    /// The id of that.
    pub tree_id: TreeId,
    /// How many entries that has.
    pub inodes: u64,
    /// Files in view that a generator must make.
    pub computed: BTreeSet<ImagePath>,
}

impl Required {
    /// What a machine of these traits must be. `tree` is the image's own tree. Takes time in proportion to the tree:
    /// keep the result for all machines alike.
    pub fn new(name: ImageName, image: Arc<Image>, tree: &Snapshot, traits: MachineTraits) -> Self {
        let view = traits.view(&image, tree);
        let tree = view.apply(tree);
        let (mut inodes, mut computed) = (0, BTreeSet::new());
        tree.walk(|path, inode| {
            inodes += 1;
            if matches!(inode.kind, Kind::Computed { .. }) {
                computed.insert(path.clone());
            }
        });
        let (view_id, tree_id) = (view.id(), tree.id());
        Self { name, image, traits, view, view_id, tree, tree_id, inodes, computed }
    }

    /// Whether only the paths of the image are looked at, and its name is not recorded on the machine.
    pub fn is_sparse(&self) -> bool {
        self.view.only.is_some()
    }
}

/// Whether a machine may be changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Updates {
    /// It may.
    #[default]
    Enabled,
    /// It is only looked at.
    Disabled,
}

/// What the runtime is to do. One call at a time: a [`Action::Poll`] takes the place of a poll that is still waiting,
/// whose answer must not be told any more.
#[derive(Clone, Debug)]
pub enum Action {
    /// Connect to the agent, dropping the connection there may be; answer with [`Event::Dialed`].
    Dial,
    /// Poll; answer with [`Event::Polled`].
    Poll(PollRequest),
    /// Make [`Required`] of the wanted image for these traits; answer with [`Event::Required`].
    Require(ImageName, Arc<Image>, MachineTraits),
    /// Send the view; answer with [`Event::ViewSet`].
    SetView(Arc<Required>),
    /// Compare the machine's tree with the required one, getting directories that differ; answer with
    /// [`Event::Compared`].
    Compare(Arc<Required>, Tree),
    /// Make the agent fetch objects, given with their lengths in bytes; answer with [`Event::Fetched`].
    Fetch(BTreeMap<ObjectId, u64>),
    /// Make the agent carry out a plan made for that tree; answer with [`Event::Updated`].
    Update(Arc<Required>, TreeId, Plan),
    /// Make the agent drop fetched objects; answer with [`Event::CleanedUp`].
    CleanUp,
    /// Tell [`Event::Wake`] at that time, unless told otherwise before.
    WakeAt(Moment),
}

/// What the runtime tells.
#[derive(Clone, Debug)]
pub enum Event {
    /// The machine data base, the images or the controller's switch changed.
    Wanted(Wanted, Updates),
    /// Of [`Action::Dial`].
    Dialed(Result<(), AgentError>),
    /// Of [`Action::Poll`].
    Polled(Result<Box<PollReply>, AgentError>),
    /// Of [`Action::Require`].
    Required(Result<Arc<Required>, Cause>),
    /// Of [`Action::SetView`].
    ViewSet(Result<(), AgentError>),
    /// Of [`Action::Compare`].
    Compared(Result<Box<Compared>, CompareError>),
    /// Of [`Action::Fetch`].
    Fetched(Result<FetchReport, AgentError>),
    /// Of [`Action::Update`].
    Updated(Result<UpdateReport, AgentError>),
    /// Of [`Action::CleanUp`].
    CleanedUp(Result<(), AgentError>),
    /// Of [`Action::WakeAt`].
    Wake,
    /// An operator agrees to the plan that was found unsafe, once.
    ClearSafetyShutoff,
}

/// A comparison that could not be made.
#[derive(Clone, Debug, Error)]
pub enum CompareError {
    /// The agent could not be asked.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The machine's tree makes no sense.
    #[error("the machine's tree makes no sense")]
    Tree(#[source] Cause),
}

/// What people are told of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubInfo {
    /// How it stands.
    pub status: Status,
    /// More about that: the error, or what is unsafe.
    pub detail: Option<String>,
    /// What it must be.
    pub required_image: Option<ImageName>,
    /// What the agent last made it be.
    pub last_image: Option<ImageName>,
    /// How many paths could not be looked at.
    pub unknown: u64,
    /// Directories that would have to go but hold what is not in view.
    pub kept: BTreeSet<ImagePath>,
    /// How many scans the agent has completed.
    pub scan_count: u64,
    /// How long the last one took.
    pub scan_duration: Duration,
    /// When it was last found to be what it must be.
    pub last_sync: Option<Moment>,
    /// When it last answered.
    pub last_reply: Option<Moment>,
    /// How many updates were carried out.
    pub updates: u64,
    /// How many objects it was made to fetch.
    pub objects_fetched: u64,
}

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

/// One machine: what is known of it and what is to be done next.
#[derive(Debug)]
pub struct Sub {
    settings: Settings,
    wanted: Wanted,
    updates: Updates,
    phase: Phase,
    status: Status,
    info: SubInfo,
    /// What the last poll answered, but for the tree.
    last: Option<AgentStatus>,
    required: Option<Arc<Required>>,
    /// The tree and the plan that are being worked on.
    pending: Option<(TreeId, Plan)>,
    accepted: Option<Accepted>,
    safety: Safety,
    /// The wish changed while a call was being made.
    stale: bool,
    /// The machine was changed and has not been seen since.
    updated: bool,
    /// Objects may be left over on the machine.
    litter: bool,
    failures: u32,
    last_poll: Moment,
}

impl Sub {
    /// A machine nothing is known of. Give it [`Event::Wanted`] to begin.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            wanted: Wanted::Undefined,
            updates: Updates::Enabled,
            phase: Phase::Resting(Connection::Down),
            status: Status::Unknown,
            info: SubInfo::default(),
            last: None,
            required: None,
            pending: None,
            accepted: None,
            safety: Safety::Guarded,
            stale: false,
            updated: false,
            litter: false,
            failures: 0,
            last_poll: Moment::default(),
        }
    }

    /// How the machine stands.
    pub fn status(&self) -> Status {
        self.status
    }

    /// What people are told of it.
    pub fn info(&self) -> SubInfo {
        let last = self.last.as_ref();
        SubInfo {
            status: self.status,
            required_image: match &self.wanted {
                Wanted::Undefined => None,
                Wanted::NotReady(name, _) | Wanted::Ready(name, _) => Some(name.clone()),
            },
            last_image: last.and_then(|status| status.last_image.clone()),
            unknown: last.map_or(0, |status| status.unknown),
            kept: last.map(|status| status.kept.clone()).unwrap_or_default(),
            scan_count: last.map_or(0, |status| status.scan_count),
            scan_duration: last.map_or(Duration::ZERO, |status| status.scan_duration),
            ..self.info.clone()
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
            Event::Wake => match self.phase {
                Phase::Resting(Connection::Down) => self.dial(out),
                Phase::Resting(Connection::Up) => self.poll(now, Duration::ZERO, out),
                _ => {}
            },
            Event::Dialed(Ok(())) => self.poll(now, Duration::ZERO, out),
            Event::Dialed(Err(error)) => self.lost(now, &error, Status::FailedToConnect, out),
            Event::Polled(Ok(reply)) => self.on_polled(now, *reply, out),
            Event::Polled(Err(error)) => self.lost(now, &error, Status::FailedToPoll, out),
            Event::Required(Ok(required)) => {
                // The wish may have changed meanwhile.
                let wanted =
                    matches!(&self.wanted, Wanted::Ready(_, image) if Arc::ptr_eq(image, &required.image));
                self.required = Some(required).filter(|_| wanted);
                self.poll(now, Duration::ZERO, out);
            }
            Event::Required(Err(cause)) => {
                self.rest(now, Status::ImageNotReady, Some(cause.to_string()), out)
            }
            Event::ViewSet(Ok(())) => self.poll(now, Duration::ZERO, out),
            Event::ViewSet(Err(error)) => self.lost(now, &error, Status::FailedToPoll, out),
            Event::Compared(Ok(compared)) => self.on_compared(now, *compared, out),
            Event::Compared(Err(CompareError::Agent(error))) => self.on_compare_lost(now, &error, out),
            Event::Compared(Err(error)) => self.rest(now, Status::FailedToPoll, Some(chain(&error)), out),
            Event::Fetched(result) => self.on_fetched(now, result, out),
            Event::Updated(result) => self.on_updated(now, result, out),
            Event::CleanedUp(result) => {
                self.litter = result.is_err();
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
        match self.phase {
            Phase::Polling | Phase::Resting(Connection::Up) => {
                self.set(Status::WaitingToPoll, None);
                self.poll(now, Duration::ZERO, out);
            }
            Phase::Resting(Connection::Down) => self.dial(out),
            _ => self.stale = true,
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
        if !wait.is_zero() && now < due {
            self.phase = Phase::Resting(Connection::Up);
            // The generation makes the poll that follows wait or answer at once, as the case may be.
            out.push(Action::WakeAt(due));
            return;
        }
        if matches!(self.status, Status::Connecting | Status::WaitingToPoll) || !self.status.is_alive() {
            self.set(Status::Polling, None);
        }
        self.stale = false;
        self.phase = Phase::Polling;
        self.last_poll = now;
        let wait = if self.is_settled() { self.settings.poll_wait } else { wait };
        out.push(Action::Poll(PollRequest {
            view: self.required.as_ref().map(|required| required.view_id),
            known: self.last.as_ref().map(|status| status.generation).filter(|_| !wait.is_zero()),
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
        self.info.last_reply = Some(now);
        let status = reply.status;
        if self.last.as_ref().is_some_and(|last| last.instance != status.instance) {
            // The agent began anew and may have been anything in between.
            self.updated = false;
            self.accepted = None;
        }
        self.last = Some(status.clone());
        if let Some(error) = status.write_error {
            return self.rest(now, Status::Unwritable, Some(error), out);
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
        let suits = |required: &&Arc<Required>| required.traits == status.traits;
        let Some(required) = self.required.as_ref().filter(suits).cloned() else {
            self.phase = Phase::Requiring;
            return out.push(Action::Require(name, image, status.traits));
        };
        self.on_scanned(now, required, reply.scanned, out);
    }

    fn on_scanned(&mut self, now: Moment, required: Arc<Required>, scanned: Scanned, out: &mut Vec<Action>) {
        let tree = match scanned {
            Scanned::Tree(tree) if tree.view == required.view_id => tree,
            Scanned::NotYet if self.status == Status::FailedToUpdate => {
                let detail = self.info.detail.take();
                return self.rest(now, Status::FailedToUpdate, detail, out);
            }
            Scanned::NotYet if self.updated => return self.settle(now, Status::WaitingForNextFullPoll, out),
            Scanned::NotYet => return self.settle(now, Status::SubNotReady, out),
            Scanned::Tree(_) | Scanned::NeedView => {
                self.phase = Phase::SettingView;
                return out.push(Action::SetView(required));
            }
        };
        self.updated = false;
        let actual = tree.id();
        let last = self.last.as_ref();
        let recorded =
            required.is_sparse() || last.is_some_and(|s| s.last_image.as_ref() == Some(&required.name));
        let kept = last.map(|status| status.kept.clone()).unwrap_or_default();
        let accepted = Some(Accepted { required: required.tree_id, actual, kept });
        if recorded && (actual == required.tree_id || accepted == self.accepted) {
            return self.synced(now, out);
        }
        if actual == required.tree_id {
            // Nothing differs, but the machine does not know yet which image it is.
            self.pending = Some((actual, Plan::default()));
            return self.on_plan(now, required, out);
        }
        self.phase = Phase::Comparing;
        if self.status != Status::UpdatesDisabled && self.status != Status::UnsafeUpdate {
            self.set(Status::ComputingUpdate, None);
        }
        self.pending = Some((actual, Plan::default()));
        out.push(Action::Compare(required, tree));
    }

    fn on_compared(&mut self, now: Moment, compared: Compared, out: &mut Vec<Action>) {
        let (Some((actual, _)), Some(required), false) =
            (self.pending.take(), self.required.clone(), self.stale)
        else {
            return self.poll(now, Duration::ZERO, out);
        };
        let kept = self.last.as_ref().map(|status| status.kept.clone()).unwrap_or_default();
        let mut plan = compared.plan;
        plan.operations.retain(|operation| match operation {
            Operation::Delete { path, directory: true } => !kept.contains(path),
            _ => true,
        });
        if plan.is_empty() {
            self.accepted = Some(Accepted { required: required.tree_id, actual, kept });
            let known =
                self.last.as_ref().and_then(|status| status.last_image.as_ref()) == Some(&required.name);
            if required.is_sparse() || known {
                return self.synced(now, out);
            }
        }
        if self.safety == Safety::Guarded
            && let Some(danger) = danger(&required, compared.added, compared.deleted)
        {
            return self.rest(now, Status::UnsafeUpdate, Some(danger), out);
        }
        self.pending = Some((actual, plan));
        self.on_plan(now, required, out);
    }

    /// A plan is to be carried out, possibly an empty one that only records the image.
    fn on_plan(&mut self, now: Moment, required: Arc<Required>, out: &mut Vec<Action>) {
        let Some((_, plan)) = &self.pending else { return self.poll(now, Duration::ZERO, out) };
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
        let need = objects.values().map(|size| size.next_multiple_of(BLOCK)).fold(0, u64::saturating_add);
        let free = self.last.as_ref().map_or(0, |status| status.free_space);
        if need >= free {
            let detail = format!("{need} bytes needed, {free} free");
            return self.rest(now, Status::NotEnoughFreeSpace, Some(detail), out);
        }
        self.phase = Phase::Fetching;
        self.litter = true;
        self.set(Status::Fetching, None);
        out.push(Action::Fetch(objects));
    }

    fn on_fetched(&mut self, now: Moment, result: Result<FetchReport, AgentError>, out: &mut Vec<Action>) {
        match result {
            Ok(report) => {
                self.info.objects_fetched += report.objects;
                self.send(now, out);
            }
            Err(AgentError::Denied(text)) => self.rest(now, Status::FetchDenied, Some(text), out),
            Err(AgentError::NotNow(text)) => self.rest(now, Status::Locked, Some(text), out),
            Err(error @ AgentError::Fetch(StoreError::NoSpace { .. })) => {
                self.rest(now, Status::NotEnoughFreeSpace, Some(chain(&error)), out);
            }
            Err(error) => self.lost(now, &error, Status::FailedToFetch, out),
        }
    }

    fn send(&mut self, now: Moment, out: &mut Vec<Action>) {
        let (Some((base, plan)), Some(required), false) =
            (self.pending.take(), self.required.clone(), self.stale)
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
                self.info.updates += 1;
                self.failures = 0;
                self.updated = true;
                self.set(Status::WaitingForNextFullPoll, None);
                self.poll(now, Duration::ZERO, out);
            }
            Ok(report) => self.rest(now, Status::FailedToUpdate, Some(failures(&report)), out),
            Err(AgentError::Denied(text)) => self.rest(now, Status::UpdateDenied, Some(text), out),
            Err(AgentError::NotNow(text)) => {
                let status = match text.as_str() {
                    DISRUPTION_PENDING => Status::DisruptionRequested,
                    DISRUPTION_DENIED => Status::DisruptionDenied,
                    _ => Status::Locked,
                };
                self.rest(now, status, Some(text), out);
            }
            Err(error) => self.lost(now, &error, Status::FailedToUpdate, out),
        }
    }

    fn on_compare_lost(&mut self, now: Moment, error: &AgentError, out: &mut Vec<Action>) {
        match error {
            // The machine moved on while it was looked at.
            AgentError::Gone { .. } | AgentError::NotNow(_) => {
                self.rest(now, Status::WaitingToPoll, None, out)
            }
            _ => self.lost(now, error, Status::FailedToPoll, out),
        }
    }

    fn synced(&mut self, now: Moment, out: &mut Vec<Action>) {
        self.info.last_sync = Some(now);
        self.failures = 0;
        self.pending = None;
        if self.litter {
            self.set(Status::Synced, None);
            self.phase = Phase::CleaningUp;
            return out.push(Action::CleanUp);
        }
        self.settle(now, Status::Synced, out);
    }

    /// There is nothing to do until the machine changes.
    fn settle(&mut self, now: Moment, status: Status, out: &mut Vec<Action>) {
        self.set(status, None);
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
            AgentError::Unreachable { why, .. } if self.phase == Phase::Dialing => unreachable_status(*why),
            AgentError::Unreachable { why: Unreachable::BadCertificate, .. } => Status::BadCertificate,
            AgentError::Unreachable { why: Unreachable::MissingCertificate, .. } => {
                Status::MissingCertificate
            }
            AgentError::Denied(_) => Status::PollDenied,
            _ => otherwise,
        };
        self.rest(now, status, Some(chain(error)), out);
        if matches!(error, AgentError::Unreachable { .. } | AgentError::Protocol(_)) {
            self.phase = Phase::Resting(Connection::Down);
        }
    }

    fn pause(&mut self) -> Duration {
        let doubled = self.settings.retry_min.saturating_mul(1 << self.failures.min(20));
        self.failures = self.failures.saturating_add(1);
        doubled.min(self.settings.retry_max)
    }

    fn set(&mut self, status: Status, detail: Option<String>) {
        self.status = status;
        self.info.detail = detail;
    }
}

/// What files take on a disk comes in blocks of so many bytes.
const BLOCK: u64 = 4096;

/// What an agent says when an update waits for leave to disturb.
pub(crate) const DISRUPTION_PENDING: &str = "disruption pending";
/// What an agent says when that leave was refused.
pub(crate) const DISRUPTION_DENIED: &str = "disruption denied";

/// What speaks against an update: a machine that loses more than half of what it has was given the wrong image, or an
/// image that came out wrong.
fn danger(required: &Required, added: u64, deleted: u64) -> Option<String> {
    let has = required.inodes.saturating_add(deleted).saturating_sub(added);
    if required.is_sparse() {
        None
    } else if required.inodes < has / 2 {
        Some(format!("the image has {} inodes, less than half of the machine's {has}", required.inodes))
    } else if deleted > has / 2 {
        Some(format!("{deleted} paths would be deleted, more than half of the machine's {has}"))
    } else {
        None
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

/// An error with its sources.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
