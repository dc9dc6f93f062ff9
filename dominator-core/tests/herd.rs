//! Machines under control become what they must be and stay it, through failures, in virtual time.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::wildcard_enum_match_arm, missing_docs)]

mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dominator_core::filter::Filter;
use dominator_core::herd::{Action, Event, Moment, Required, Settings, Status, Sub, Updates, Wanted};
use dominator_core::image::{Image, ImageName};
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::plan::{Comparison, Operation};
use dominator_core::port::{
    AgentDetails, AgentError, AgentStatus, Cause, FetchReport, MachineTraits, PathFailure, PollReply,
    PollRequest, ScanStatus, Scanned, ServiceOutcome, StoreError, Unreachable, UpdateReport,
};
use dominator_core::tree::Snapshot;
use dominator_core::trigger::Triggers;
use dominator_core::view::{Granularity, Ownership, View, ViewId, XattrPolicy};
use model::{Model, model, path};
use proptest::prelude::*;

type Spec<'a> = [(&'a str, &'a str, &'a str, u32)];

/// A machine with an agent, and the network to it.
struct Machine {
    root: Model,
    view: Option<View>,
    scanned: bool,
    generation: u64,
    objects: BTreeSet<ObjectId>,
    last_image: Option<ImageName>,
    last_error: Option<String>,
    /// Directories that hold what is not in view.
    held: BTreeSet<ImagePath>,
    kept: BTreeSet<ImagePath>,
    free_space: u64,
    network: Network,
    /// What is wrong with the agent.
    fault: Fault,
    calls: Vec<&'static str>,
    traits: MachineTraits,
}

/// What an agent does wrong.
#[derive(Default)]
enum Fault {
    #[default]
    None,
    /// It asks for a view, whatever view it was sent.
    Forgetful,
    /// It does not get to the end of a scan.
    Blind,
    /// It can't read everything.
    ShortSighted,
    /// It refuses updates.
    Refusing(&'static str),
    /// A service does not start, however often it is tried.
    Owing,
}

/// What happens to calls.
enum Network {
    Up,
    Refusing,
    /// Loses each call for which the next bit is set; sometimes after it was carried out.
    Lossy(Vec<bool>),
}

impl Machine {
    fn new(root: Model) -> Self {
        Self {
            root,
            view: None,
            scanned: false,
            generation: 0,
            objects: BTreeSet::new(),
            last_image: None,
            last_error: None,
            held: BTreeSet::new(),
            kept: BTreeSet::new(),
            free_space: 1 << 30,
            network: Network::Up,
            fault: Fault::None,
            calls: Vec::new(),
            traits: Self::traits(),
        }
    }

    fn traits() -> MachineTraits {
        MachineTraits {
            protected: BTreeSet::new(),
            exclusions: Filter::Empty,
            xattrs: XattrPolicy::ALL,
            ownership: Ownership::Kept,
            mtime: Granularity::FINE,
        }
    }

    fn lost(&mut self) -> Result<(), AgentError> {
        let why = match &mut self.network {
            Network::Up => return Ok(()),
            Network::Refusing => Unreachable::Refused,
            Network::Lossy(bits) => match bits.pop() {
                Some(true) => Unreachable::Other,
                Some(false) | None => return Ok(()),
            },
        };
        Err(AgentError::Unreachable { why, cause: Cause::new("injected") })
    }

    fn snapshot(&self) -> Option<Snapshot> {
        self.view.as_ref().map(|view| view.apply(&self.root.snapshot()))
    }

    fn poll(&mut self, request: &PollRequest) -> PollReply {
        let known = |view: &View| request.view.is_none_or(|asked: ViewId| asked == view.id());
        let scanned = match self.snapshot() {
            _ if matches!(self.fault, Fault::Forgetful) => Scanned::NeedView,
            Some(_) if matches!(self.fault, Fault::Blind) => Scanned::NotYet,
            Some(_) if !self.view.as_ref().is_some_and(known) => Scanned::NeedView,
            None => Scanned::NeedView,
            Some(snapshot) if self.scanned => Scanned::Tree(snapshot.tree),
            Some(_) => Scanned::NotYet,
        };
        // The agent scans between polls.
        self.scanned = true;
        self.generation += 1;
        let fact = |reason: &str| PathFailure { path: ImagePath::root(), reason: reason.into() };
        let status = AgentStatus {
            instance: 1,
            generation: self.generation,
            details: self.generation,
            scans: ScanStatus { count: self.generation, ..ScanStatus::default() },
            unknown: u64::from(matches!(self.fault, Fault::ShortSighted)),
            free_space: self.free_space,
            ..AgentStatus::default()
        };
        let details = AgentDetails {
            facts: match self.fault {
                Fault::Blind => vec![fact("out of handles")],
                Fault::ShortSighted => vec![fact("input/output error")],
                _ => Vec::new(),
            },
            kept: self.kept.clone(),
            last_update_error: self.last_error.clone(),
            last_image: self.last_image.clone(),
            ..AgentDetails::new(Arc::new(self.traits.clone()))
        };
        PollReply { scanned, status, details: Arc::new(details) }
    }

    fn update(&mut self, required: &Required, plan: &dominator_core::plan::Plan) -> UpdateReport {
        for (object, _) in plan.objects() {
            assert!(self.objects.contains(&object), "the agent was not made to fetch {object}");
        }
        let stays = |operation: &Operation| match operation {
            Operation::Delete { path, directory: true } => self.held.contains(path),
            _ => false,
        };
        let (kept, rest): (Vec<_>, Vec<_>) = plan.operations.iter().cloned().partition(stays);
        self.kept = kept.iter().flat_map(|operation| operation.paths().to_vec()).collect();
        self.root.apply(&dominator_core::plan::Plan { operations: rest });
        self.scanned = false;
        if matches!(self.fault, Fault::Owing) {
            let error = Some("no licence".to_owned());
            self.last_error.clone_from(&error);
            let web = ServiceOutcome { service: "web".to_owned(), action: "start".to_owned(), error };
            return UpdateReport { services: vec![web], ..UpdateReport::default() };
        }
        self.last_error = None;
        self.last_image = (!required.is_sparse()).then(|| required.name.clone());
        UpdateReport::default()
    }

    fn room_for(&self, objects: &BTreeMap<ObjectId, u64>) -> Result<(), StoreError> {
        let need = objects.iter().filter(|(id, _)| !self.objects.contains(id)).map(|(_, size)| *size).sum();
        let free = self.free_space;
        if need > free { Err(StoreError::NoSpace { need, free }) } else { Ok(()) }
    }

    fn perform(&mut self, action: &Action) -> Option<Event> {
        let lost = |error| match action {
            Action::Dial => Event::Dialed(Err(error)),
            Action::Poll(_) => Event::Polled(Err(error)),
            Action::SetView(_) => Event::ViewSet(Err(error)),
            Action::Compare(..) => Event::Compared(Err(error.into())),
            Action::Fetch(_) => Event::Fetched(Err(error)),
            Action::Update(..) => Event::Updated(Err(error)),
            _ => Event::CleanedUp(Err(error)),
        };
        let local = matches!(action, Action::Require(..) | Action::WakeAt(_));
        if let (false, Err(error)) = (local, self.lost()) {
            if let (Action::Update(required, _, plan), Network::Lossy(_)) = (action, &self.network) {
                self.update(&required.clone(), plan); // carried out, but the answer was lost
            }
            return Some(lost(error));
        }
        let (call, event) = match action {
            Action::Dial => ("dial", Event::Dialed(Ok(()))),
            Action::Poll(request) => ("poll", Event::Polled(Ok(Box::new(self.poll(request))))),
            Action::Require(..) | Action::WakeAt(_) => return None,
            Action::SetView(required) => {
                self.view = Some(required.view.clone());
                self.scanned = false;
                ("set view", Event::ViewSet(Ok(())))
            }
            Action::Compare(required, tree) => {
                let actual = self.snapshot().unwrap();
                assert_eq!(actual.tree, *tree);
                let compared = Comparison {
                    required: &required.tree,
                    actual: tree,
                    links: Some(&actual.links),
                    directories: &actual.directories,
                };
                ("compare", Event::Compared(Ok(Box::new(compared.plan().unwrap()))))
            }
            Action::Fetch(objects) if self.room_for(objects).is_err() => {
                let error = self.room_for(objects).unwrap_err();
                ("refused fetch", Event::Fetched(Err(AgentError::Fetch(error))))
            }
            Action::Update(..) if matches!(self.fault, Fault::Refusing(_)) => {
                let Fault::Refusing(why) = self.fault else { unreachable!() };
                ("refused update", Event::Updated(Err(AgentError::NotNow(why.into()))))
            }
            Action::Fetch(objects) => {
                self.objects.extend(objects.keys());
                ("fetch", Event::Fetched(Ok(FetchReport { objects: objects.len() as u64, bytes: 0 })))
            }
            Action::Update(required, base, plan) => {
                assert_eq!(self.snapshot().unwrap().id(), *base);
                let report = self.update(required, plan);
                ("update", Event::Updated(Ok(report)))
            }
            Action::CleanUp => {
                self.objects.clear();
                ("clean up", Event::CleanedUp(Ok(())))
            }
        };
        self.calls.push(call);
        Some(event)
    }
}

/// A controller of one machine, in virtual time.
struct World {
    now: Moment,
    sub: Sub,
    machine: Machine,
    image: (ImageName, Arc<Image>, Snapshot),
    updates: Updates,
}

impl World {
    fn new(machine: &Spec<'_>, image: &Spec<'_>, filter: &str) -> Self {
        let filter = if filter == "sparse" { Filter::Sparse } else { Filter::parse(filter).unwrap() };
        let (settings, image) = (Settings::default(), Self::image("test/1", model(image), filter));
        Self {
            now: Moment::default(),
            sub: Sub::new(settings),
            machine: Machine::new(model(machine)),
            image,
            updates: Updates::Enabled,
        }
    }

    fn image(name: &str, tree: Model, filter: Filter) -> (ImageName, Arc<Image>, Snapshot) {
        let tree = tree.snapshot();
        let image = Image::new(tree.tree.clone(), filter, Triggers::default(), XattrPolicy::ALL);
        (name.parse().unwrap(), Arc::new(image), tree)
    }

    fn want(&self) -> Event {
        Event::Wanted(Wanted::Ready(self.image.0.clone(), Arc::clone(&self.image.1)), self.updates)
    }

    /// Tells the machine's controller of the wish and lets `time` pass.
    fn run(&mut self, event: Event, time: Duration) {
        let end = self.now.after(time);
        let mut actions = Vec::new();
        self.sub.step(self.now, event, &mut actions);
        for _ in 0..10_000 {
            assert!(actions.len() <= 1, "one call at a time: {actions:?}");
            let action = actions.pop().expect("there is always a next thing to do");
            let event = match &action {
                Action::WakeAt(moment) => {
                    if *moment > end {
                        self.now = end;
                        return;
                    }
                    self.now = (*moment).max(self.now);
                    Event::Wake
                }
                Action::Require(name, image, traits) => {
                    let required =
                        Required::new(name.clone(), Arc::clone(image), &self.image.2, traits.clone());
                    Event::Required(Ok(Arc::new(required)))
                }
                Action::Poll(request) if !request.wait.is_zero() => {
                    // Nothing changes while the agent waits, but for a scan that is due.
                    self.now = if self.machine.scanned { self.now.after(request.wait) } else { self.now };
                    if self.now > end {
                        return;
                    }
                    self.machine.perform(&action).unwrap()
                }
                _ => self.machine.perform(&action).unwrap(),
            };
            self.sub.step(self.now, event, &mut actions);
        }
        panic!("the controller spins: {:?}", &self.machine.calls[self.machine.calls.len() - 20..]);
    }

    /// Tells of the wish and performs what is to be done, up to the action meant, which is left undone.
    fn drive_to(&mut self, meant: fn(&Action) -> bool) -> Action {
        let mut actions = Vec::new();
        self.sub.step(self.now, self.want(), &mut actions);
        loop {
            let action = actions.pop().unwrap();
            if meant(&action) {
                return action;
            }
            let event = match &action {
                Action::Require(name, image, traits) => Event::Required(Ok(Arc::new(Required::new(
                    name.clone(),
                    Arc::clone(image),
                    &self.image.2,
                    traits.clone(),
                )))),
                Action::WakeAt(moment) => {
                    self.now = *moment;
                    Event::Wake
                }
                _ => self.machine.perform(&action).unwrap(),
            };
            self.sub.step(self.now, event, &mut actions);
        }
    }

    fn settle(&mut self) {
        self.run(self.want(), Duration::from_secs(600));
    }

    fn is_as_required(&self) -> bool {
        let required = Required::new(
            self.image.0.clone(),
            Arc::clone(&self.image.1),
            &self.image.2,
            Arc::new(Machine::traits()),
        );
        self.machine.snapshot().unwrap().id() == required.tree_id
    }
}

const IMAGE: &Spec<'_> = &[
    ("/etc", "", "/", 0o755),
    ("/etc/a", "1", "x", 0o644),
    ("/etc/b", "1", "x", 0o644),
    ("/etc/c", "2", "y", 0o600),
];

#[test]
fn a_machine_becomes_its_image_and_costs_nothing_after_that() {
    let mut world = World::new(&[], IMAGE, "");
    world.settle();
    assert_eq!(world.sub.status(), Status::Synced);
    assert!(world.is_as_required());
    assert_eq!(world.machine.last_image.as_ref().unwrap().as_str(), "test/1");
    let once = |call| world.machine.calls.iter().filter(|c| **c == call).count();
    assert_eq!([once("compare"), once("fetch"), once("update"), once("clean up")], [1, 1, 1, 1]);
    world.machine.calls.clear();
    world.run(world.want(), Duration::from_secs(3600));
    assert!(world.machine.calls.iter().all(|call| *call == "poll"));
    assert!(world.machine.calls.len() <= 121, "{} polls in an hour", world.machine.calls.len());
}

#[test]
fn an_image_that_is_met_already_is_only_recorded() {
    let mut world = World::new(IMAGE, IMAGE, "");
    world.settle();
    assert_eq!(world.sub.status(), Status::Synced);
    assert_eq!(
        world.machine.calls,
        ["dial", "poll", "poll", "set view", "poll", "poll", "update", "poll", "poll"]
            .iter()
            .copied()
            .chain(world.machine.calls[9..].iter().copied())
            .collect::<Vec<_>>()
    );
    assert_eq!(world.machine.last_image.as_ref().unwrap().as_str(), "test/1");
}

#[test]
fn a_sparse_image_deletes_nothing_and_is_not_recorded() {
    let mut world = World::new(&[("/srv", "1", "x", 0o644)], IMAGE, "sparse");
    world.settle();
    assert_eq!(world.sub.status(), Status::Synced);
    assert!(
        world.machine.root.at(&path("/srv")).is_some() && world.machine.root.at(&path("/etc/c")).is_some()
    );
    assert_eq!(world.machine.last_image, None);
}

#[test]
fn a_machine_whose_service_would_not_start_is_never_called_synced() {
    for filter in ["", "sparse"] {
        let mut world = World::new(IMAGE, IMAGE, filter);
        world.settle();
        assert_eq!(world.sub.status(), Status::Synced);
        // Somebody changes what the image says; the update that mends it can't start the service again.
        world.machine.root = model(&IMAGE[..3]);
        world.machine.fault = Fault::Owing;
        world.settle();
        assert!(world.is_as_required(), "but for the service");
        assert_eq!(world.sub.status(), Status::FailedToUpdate);
        assert_eq!(world.sub.info().detail.unwrap(), "start web: no licence");
        world.machine.fault = Fault::None;
        world.settle();
        assert_eq!(world.sub.status(), Status::Synced);
    }
}

#[test]
fn a_machine_whose_traits_changed_is_looked_at_anew_at_once() {
    let mut world = World::new(IMAGE, IMAGE, "");
    world.settle();
    assert_eq!(world.sub.status(), Status::Synced);
    world.machine.traits.exclusions = Filter::parse("/etc/c").unwrap();
    let reply = world.machine.poll(&PollRequest::default());
    // A poll that waits would not be over in that time.
    world.run(Event::Polled(Ok(Box::new(reply))), Settings::default().poll_wait / 2);
    let view = world.machine.view.as_ref().unwrap();
    assert!(view.filters.contains(&world.machine.traits.exclusions));
}

#[test]
fn filtered_paths_are_left_alone_and_the_directory_that_holds_them_is_told_of() {
    let mut machine = IMAGE.to_vec();
    machine.extend([("/opt", "", "/", 0o755), ("/opt/keep", "8", "k", 0o600), ("/opt/go", "9", "g", 0o600)]);
    let mut world = World::new(&machine, IMAGE, "/opt/keep$");
    world.machine.held = BTreeSet::from([path("/opt")]);
    world.settle();
    assert_eq!(world.sub.status(), Status::Synced);
    assert_eq!(world.sub.info().kept, BTreeSet::from([path("/opt")]));
    assert!(world.machine.root.at(&path("/opt/keep")).is_some());
    assert!(world.machine.root.at(&path("/opt/go")).is_none());
    assert_eq!(world.machine.calls.iter().filter(|call| **call == "update").count(), 1);
}

#[test]
fn a_machine_that_would_lose_most_of_itself_waits_for_a_person() {
    let files: Vec<String> = (0..20).map(|n| format!("/f{n}")).collect();
    let machine: Vec<_> = files.iter().map(|name| (name.as_str(), name.as_str(), "x", 0o644)).collect();
    let mut world = World::new(&machine, IMAGE, "");
    world.settle();
    assert_eq!(world.sub.status(), Status::UnsafeUpdate);
    assert!(!world.machine.calls.contains(&"update"));
    world.run(Event::ClearSafetyShutoff, Duration::from_secs(600));
    assert_eq!(world.sub.status(), Status::Synced);
    assert!(world.is_as_required());
}

#[test]
fn a_machine_is_only_looked_at_while_updates_are_disabled() {
    let mut world = World::new(&[], IMAGE, "");
    world.updates = Updates::Disabled;
    world.settle();
    assert_eq!(world.sub.status(), Status::UpdatesDisabled);
    assert!(!world.machine.calls.contains(&"fetch") && !world.machine.calls.contains(&"update"));
    world.updates = Updates::Enabled;
    world.settle();
    assert_eq!(world.sub.status(), Status::Synced);
}

#[test]
fn disabled_updates_are_told_of_before_unsafe_ones() {
    let files: Vec<String> = (0..20).map(|n| format!("/f{n}")).collect();
    let machine: Vec<_> = files.iter().map(|name| (name.as_str(), name.as_str(), "x", 0o644)).collect();
    let mut world = World::new(&machine, IMAGE, "");
    world.updates = Updates::Disabled;
    world.settle();
    assert_eq!(world.sub.status(), Status::UpdatesDisabled);
    world.updates = Updates::Enabled;
    world.settle();
    assert_eq!(world.sub.status(), Status::UnsafeUpdate);
}

#[test]
fn a_machine_without_room_is_not_begun_with() {
    let mut world = World::new(&[], IMAGE, "");
    world.machine.free_space = 1;
    world.settle();
    assert_eq!(world.sub.status(), Status::NotEnoughFreeSpace);
    assert!(!world.machine.calls.contains(&"fetch"));
    world.machine.free_space = 1 << 20;
    world.settle();
    assert_eq!(world.sub.status(), Status::Synced);
}

#[test]
fn what_an_earlier_attempt_fetched_needs_no_room_again() {
    let mut world = World::new(&[], IMAGE, "");
    world.machine.objects = world.image.2.objects().into_keys().collect();
    world.machine.free_space = 0;
    world.settle();
    assert_eq!(world.sub.status(), Status::Synced, "{:?}", world.sub.info());
}

#[test]
fn an_agent_that_never_comes_to_rest_is_asked_no_more_often_than_another() {
    let mut world = World::new(&[], IMAGE, "");
    world.machine.fault = Fault::Forgetful;
    world.settle();
    let polls = world.machine.calls.iter().filter(|call| **call == "poll").count();
    assert!(polls <= 620, "{polls} polls in 600 seconds");
    world.machine.fault = Fault::None;
    world.settle();
    assert_eq!(world.sub.status(), Status::Synced);
}

#[test]
fn whoever_waits_for_leave_to_disturb_is_told_so() {
    let cases = [
        ("disruption pending", Status::DisruptionRequested),
        ("disruption denied: at night", Status::DisruptionDenied),
        ("it is fetching objects", Status::Locked),
    ];
    for (why, expected) in cases {
        let mut world = World::new(&[], IMAGE, "");
        world.machine.fault = Fault::Refusing(why);
        world.settle();
        assert_eq!(world.sub.status(), expected);
        assert_eq!(world.sub.info().detail.as_deref(), Some(why));
    }
}

#[test]
fn a_machine_in_sync_says_what_could_not_be_looked_at() {
    let mut world = World::new(&[], IMAGE, "");
    world.machine.fault = Fault::ShortSighted;
    world.settle();
    let info = world.sub.info();
    assert_eq!((info.status, info.unknown), (Status::Synced, 1));
    assert_eq!(info.detail.as_deref(), Some("not looked at: 1, first /: input/output error"));
}

#[test]
fn a_machine_that_can_not_be_scanned_says_why() {
    let mut world = World::new(&[], IMAGE, "");
    world.machine.fault = Fault::Blind;
    world.settle();
    assert_eq!(world.sub.status(), Status::SubNotReady);
    assert_eq!(world.sub.info().detail.as_deref(), Some("/: out of handles"));
}

#[test]
fn a_machine_that_is_down_is_tried_ever_more_rarely_and_taken_up_again() {
    let mut world = World::new(&[], IMAGE, "");
    world.machine.network = Network::Refusing;
    world.settle();
    assert_eq!(world.sub.status(), Status::ConnectionRefused);
    let mut actions = Vec::new();
    world.sub.step(world.now, Event::Wake, &mut actions);
    assert!(matches!(actions[..], [Action::Dial]));
    world.machine.network = Network::Up;
    world.run(Event::Dialed(Ok(())), Duration::from_secs(600));
    assert_eq!(world.sub.status(), Status::Synced);
}

#[test]
fn the_wish_may_change_at_any_time() {
    let mut world = World::new(&[], IMAGE, "");
    world.settle();
    let other = [("/etc", "", "/", 0o755), ("/etc/a", "1", "z", 0o644), ("/etc/d", "2", "y", 0o600)];
    world.image = World::image("test/2", model(&other), Filter::Empty);
    // Told in the middle of a compare: the plan for the old image is not sent.
    world.settle();
    assert_eq!(world.sub.status(), Status::Synced);
    assert!(world.is_as_required());
    assert_eq!(world.machine.last_image.as_ref().unwrap().as_str(), "test/2");
}

#[test]
fn an_update_for_a_wish_that_is_over_is_not_sent() {
    let mut world = World::new(&[], IMAGE, "");
    let compare = world.drive_to(|action| matches!(action, Action::Compare(..)));
    let compared = world.machine.perform(&compare).unwrap();
    let mut actions = Vec::new();
    world.sub.step(world.now, Event::Wanted(Wanted::Undefined, Updates::Enabled), &mut actions);
    assert!(actions.is_empty());
    world.sub.step(world.now, compared, &mut actions);
    assert!(matches!(actions[..], [Action::Poll(_)]), "{actions:?}");
}

#[test]
fn a_wish_that_changes_during_a_call_is_not_slept_over() {
    for pause in [Duration::ZERO, Duration::from_secs(60)] {
        let mut world = World::new(&[], IMAGE, "");
        let clean_up = world.drive_to(|action| matches!(action, Action::CleanUp));
        let mut actions = Vec::new();
        world.image = World::image("test/2", model(IMAGE), Filter::Empty);
        world.sub.step(world.now, world.want(), &mut actions);
        assert!(actions.is_empty(), "one call at a time: {actions:?}");
        world.now = world.now.after(pause);
        let cleaned_up = world.machine.perform(&clean_up).unwrap();
        world.sub.step(world.now, cleaned_up, &mut actions);
        if let [Action::WakeAt(moment)] = actions[..] {
            actions.clear();
            world.sub.step(moment, Event::Wake, &mut actions);
        }
        assert!(matches!(&actions[..], [Action::Poll(request)] if request.wait.is_zero()), "{actions:?}");
    }
}

proptest! {
    #[test]
    fn calls_may_be_lost_at_any_time(losses in prop::collection::vec(any::<bool>(), 0..60)) {
        let mut world = World::new(&[("/etc", "5", "was a file", 0o644)], IMAGE, "");
        world.machine.network = Network::Lossy(losses);
        let event = world.want();
        world.run(event, Duration::from_secs(4 * 3600));
        prop_assert_eq!(world.sub.status(), Status::Synced, "{:?}", world.sub.info());
        prop_assert!(world.is_as_required());
        prop_assert!(BTreeMap::from_iter(world.machine.objects.iter().map(|o| (o, ()))).is_empty());
    }
}
