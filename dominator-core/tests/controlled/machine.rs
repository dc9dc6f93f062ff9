use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dominator_core::filter::Filter;
use dominator_core::herd::{Action, Event, Leave, Required};
use dominator_core::image::ImageName;
use dominator_core::inode::Timestamp;
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::plan::{Comparison, Needs, Operation};
use dominator_core::port::{
    AgentDetails, AgentError, AgentStatus, BadImage, Cause, Disruption, FetchReport, MachineTraits,
    PathFailure, PollReply, PollRequest, Reboot, Refusal, ScanStatus, Scanned, ServiceOutcome, StoreError,
    TrialReason, TrialStatus, UndoReason, Unreachable, UpdateOutcome, UpdateReport,
};
use dominator_core::tree::Snapshot;
use dominator_core::view::{Granularity, Ownership, View, ViewId, XattrPolicy};

use crate::model::Model;

pub(crate) type Spec<'a> = [(&'a str, &'a str, &'a str, u32)];

/// A machine with an agent, and the network to it.
pub(crate) struct Machine {
    pub(crate) root: Model,
    pub(crate) view: Option<View>,
    pub(crate) scanned: bool,
    pub(crate) generation: u64,
    pub(crate) objects: BTreeSet<ObjectId>,
    pub(crate) last_image: Option<ImageName>,
    pub(crate) last_error: Option<String>,
    /// Directories that hold what is not in view.
    pub(crate) held: BTreeSet<ImagePath>,
    pub(crate) kept: BTreeSet<ImagePath>,
    pub(crate) free_space: u64,
    pub(crate) network: Network,
    /// What is wrong with the agent.
    pub(crate) fault: Fault,
    pub(crate) bad: Option<BadImage>,
    pub(crate) calls: Vec<&'static str>,
    /// What updates were allowed to do.
    pub(crate) leaves: Vec<Leave>,
    pub(crate) traits: MachineTraits,
}

/// What an agent does wrong.
#[derive(Default)]
pub(crate) enum Fault {
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
    /// It finds every update bad, takes it back and tries the image no more.
    Unwell,
    /// An administrator stopped it.
    Stopped,
    /// An update is not judged yet.
    OnTrial,
    /// Its users are not to be disturbed, and every update does.
    Undisturbed,
    /// Every update restarts it.
    Restarting,
    /// Somebody else has it for themselves.
    Locked,
}

/// What happens to calls.
pub(crate) enum Network {
    Up,
    Refusing,
    /// Loses each call for which the next bit is set; sometimes after it was carried out.
    Lossy(Vec<bool>),
}

impl Machine {
    pub(crate) fn new(root: Model) -> Self {
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
            bad: None,
            calls: Vec::new(),
            leaves: Vec::new(),
            traits: Self::traits(),
        }
    }

    pub(crate) fn traits() -> MachineTraits {
        MachineTraits {
            protected: BTreeSet::new(),
            exclusions: Filter::Empty,
            xattrs: XattrPolicy::ALL,
            ownership: Ownership::Kept,
            mtime: Granularity::FINE,
        }
    }

    pub(crate) fn lost(&mut self) -> Result<(), AgentError> {
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

    pub(crate) fn snapshot(&self) -> Option<Snapshot> {
        self.view.as_ref().map(|view| view.apply(&self.root.snapshot()))
    }

    pub(crate) fn poll(&mut self, request: &PollRequest) -> PollReply {
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
            bad_images: self.bad.iter().cloned().collect(),
            stopped: matches!(self.fault, Fault::Stopped).then(|| "do not touch".to_owned()),
            trial: matches!(self.fault, Fault::OnTrial).then(|| TrialStatus {
                image: None,
                why: TrialReason::Reboot,
                since: Timestamp::default(),
                deadline: Duration::from_secs(60),
            }),
            ..AgentDetails::new(Arc::new(self.traits.clone()))
        };
        PollReply { scanned, status, details: Arc::new(details) }
    }

    pub(crate) fn update(&mut self, required: &Required, plan: &dominator_core::plan::Plan) -> UpdateReport {
        for object in plan.needs().objects.keys() {
            assert!(self.objects.contains(object), "the agent was not made to fetch {object}");
        }
        let stays = |operation: &Operation| match operation {
            Operation::Delete { path, directory: true } => self.held.contains(path),
            _ => false,
        };
        let (kept, rest): (Vec<_>, Vec<_>) = plan.operations.iter().cloned().partition(stays);
        if matches!(self.fault, Fault::Unwell) {
            let (image, why) = (required.name.clone(), "web does not answer".to_owned());
            self.bad = Some(BadImage { image, why: why.clone(), since: Timestamp::default() });
            let why = UpdateOutcome::Undone { why: UndoReason::Unhealthy, detail: why, failures: Vec::new() };
            return UpdateReport { outcome: why, ..UpdateReport::default() };
        }
        self.kept = kept.iter().flat_map(|operation| operation.paths().to_vec()).collect();
        self.root.apply(&dominator_core::plan::Plan { operations: rest });
        self.scanned = false;
        if matches!(self.fault, Fault::Owing) {
            let error = Some("no licence".to_owned());
            self.last_error.clone_from(&error);
            let web = ServiceOutcome {
                service: "web".to_owned(),
                action: "start".to_owned(),
                error,
                ..ServiceOutcome::default()
            };
            return UpdateReport { services: vec![web], ..UpdateReport::default() };
        }
        self.last_error = None;
        self.last_image = (!required.is_sparse()).then(|| required.name.clone());
        UpdateReport::default()
    }

    /// Why an update with no more leave than that is not made.
    fn denied(&self, leave: Leave) -> Option<AgentError> {
        match self.fault {
            Fault::Undisturbed if leave.disruption == Disruption::Ask => {
                Some(AgentError::NotNow("disruption denied: at night".into()))
            }
            Fault::Restarting if leave.reboot == Reboot::Refused => Some(Refusal::Reboot.into()),
            _ => None,
        }
    }

    pub(crate) fn room_for(&self, needs: &Needs) -> Result<(), StoreError> {
        let lacking = needs.objects.iter().filter(|(id, _)| !self.objects.contains(id));
        let need = lacking.map(|(_, need)| need.size).sum();
        let free = self.free_space;
        if need > free { Err(StoreError::NoSpace { need, free }) } else { Ok(()) }
    }

    pub(crate) fn perform(&mut self, action: &Action) -> Option<Event> {
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
            if let (Action::Update(required, _, plan, _), Network::Lossy(_)) = (action, &self.network) {
                self.update(&required.clone(), plan); // carried out, but the answer was lost
            }
            return Some(lost(error));
        }
        let (call, event) = match action {
            Action::Dial => ("dial", Event::Dialed(Ok(()))),
            Action::Poll(request) => ("poll", Event::Polled(Ok(Box::new(self.poll(request))))),
            Action::Require(..) | Action::WakeAt(_) => return None,
            Action::SetView(_) if matches!(self.fault, Fault::Locked) => {
                let refusal = Refusal::Locked { by: "ann".into(), left: Duration::from_secs(9) };
                ("refused view", Event::ViewSet(Err(refusal.into())))
            }
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
            Action::Fetch(needs) if self.room_for(needs).is_err() => {
                let error = self.room_for(needs).unwrap_err();
                ("refused fetch", Event::Fetched(Err(AgentError::Fetch(error))))
            }
            Action::Update(..) if matches!(self.fault, Fault::Refusing(_)) => {
                let Fault::Refusing(why) = self.fault else { unreachable!() };
                ("refused update", Event::Updated(Err(AgentError::NotNow(why.into()))))
            }
            Action::Update(_, _, _, leave) if self.denied(*leave).is_some() => {
                ("refused update", Event::Updated(Err(self.denied(*leave).unwrap())))
            }
            Action::Fetch(needs) => {
                self.objects.extend(needs.objects.keys());
                let objects = needs.objects.len() as u64;
                ("fetch", Event::Fetched(Ok(FetchReport { objects, ..FetchReport::default() })))
            }
            Action::Update(required, base, plan, leave) => {
                assert_eq!(self.snapshot().unwrap().id(), *base);
                let report = self.update(required, plan);
                self.leaves.push(*leave);
                ("update", Event::Updated(Ok(Box::new(report))))
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
