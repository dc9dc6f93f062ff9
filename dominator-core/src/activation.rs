//! Activation: what an update does to services, and when. Files are swapped between [`Activation::stop`] and
//! [`Activation::start`]; an update that does not stay is taken back between the two of its [`Withdrawal`].

use std::collections::{BTreeMap, BTreeSet};

use crate::path::ImagePath;
use crate::plan::{Operation, Plan, PlannedAction};
use crate::port::{ServiceAction, ServiceOutcome, ServiceRunner, ServiceState};
use crate::tree::Snapshot;
use crate::trigger::{BadTriggers, Trigger, Triggers, plain_name, version_order};

/// The agent's own service. It is never stopped, as nobody would start it again; to start it is to restart it without
/// waiting.
pub const AGENT_SERVICE: &str = "subd";

/// What an update does to services, and when: those whose files change are stopped before, and started or reloaded
/// after.
///
/// The triggers of the image before count, too: a service only it knew is stopped. A reload is left out for a service
/// that is restarted anyway. A reboot comes last, and only when everything else succeeded.
#[derive(Clone, Debug)]
pub struct Activation {
    /// Those that are stopped, in order.
    stopped: Vec<String>,
    /// Triggers of the current image that fire, or whose service is stopped, in order.
    after: Vec<Trigger>,
    high_impact: bool,
    /// What earlier updates owe.
    debts: Vec<Debt>,
    /// The services the current image knows.
    known: BTreeSet<String>,
    /// How services stood before the update, as far as it was asked.
    before: BTreeMap<String, ServiceState>,
}

impl Activation {
    /// What changes of `changed` fire.
    pub fn new<'a>(
        previous: &Triggers,
        current: &Triggers,
        changed: impl IntoIterator<Item = &'a ImagePath> + Clone,
    ) -> Self {
        // Who writes `web.service` where the image before had `web` means the same service.
        let (previous, current) = (&previous.by_plain_names(), &current.by_plain_names());
        let both = previous.merged(current);
        let before = both.fired_by(changed.clone());
        let stopped =
            once(before.iter().filter(|trigger| is_stopped(trigger)).map(|trigger| &trigger.service));
        let mut after: Vec<_> = current.fired_by(changed).into_iter().cloned().collect();
        // A service that is stopped for a path only the image before cared about must run again nevertheless.
        let mut again: Vec<_> = current.iter().filter(|trigger| stopped.contains(&trigger.service)).collect();
        again.sort_by(|a, b| version_order(&a.sort_name, &b.sort_name));
        for trigger in again {
            if !after.iter().any(|other| other.service == trigger.service) {
                after.push(Trigger { do_reboot: false, ..trigger.clone() });
            }
        }
        after.sort_by(|a, b| version_order(&a.sort_name, &b.sort_name));
        Self {
            stopped,
            after,
            high_impact: before.iter().any(|trigger| trigger.high_impact),
            debts: Vec::new(),
            known: current.iter().map(|trigger| trigger.service.clone()).collect(),
            before: BTreeMap::new(),
        }
    }

    /// What is done to services when the image has no say in it.
    pub fn nothing() -> Self {
        Self::new(&Triggers::default(), &Triggers::default(), [])
    }

    /// Takes note of how the services stand that are concerned: one that had failed before the update is no worse off when
    /// it does not start, and one that did not run is not started by taking the update back. To be called before
    /// [`Self::stop`].
    #[must_use]
    pub fn observing(mut self, services: &dyn ServiceRunner) -> Self {
        let after = self.afterwards();
        let concerned = self.stopped.iter().chain(after.iter().map(|debt| &debt.service));
        self.before = concerned.map(|service| (service.clone(), services.state(service))).collect();
        // They are down because of us, and must run whatever they look like.
        for debt in self.debts.iter().filter(|debt| debt.due == Due::Start) {
            self.before.remove(&debt.service);
        }
        self
    }

    /// Takes over what earlier updates owe. A service the current image does not know is nobody's concern once the
    /// machine is that image, but that it is stopped; one it does know is not.
    #[must_use]
    pub fn owing(mut self, debts: Vec<Debt>) -> Self {
        let plain = |debt: Debt| Debt { service: plain_name(&debt.service).to_owned(), ..debt };
        self.debts = debts.into_iter().map(plain).collect();
        self
    }

    /// What will be owed from the first stop on to whoever finds the update not made, should this process not come to its
    /// end: nothing to a service that is known not to have run before. Who finds it made goes by [`Self::afterwards`].
    pub fn owed(&self) -> Vec<Debt> {
        let ran = |service: &&String| self.before.get(*service) != Some(&ServiceState::Stopped);
        let mut owed: Vec<_> = self.stopped.iter().filter(ran).map(|service| Debt::start(service)).collect();
        let earlier = self.debts.iter().filter(|debt| !self.stopped.contains(&debt.service));
        owed.extend(earlier.cloned());
        owed
    }

    /// Whether the machine's users are disturbed.
    pub fn is_high_impact(&self) -> bool {
        self.high_impact
    }

    /// Stops what must not run while its files change.
    pub fn stop(&self, services: &dyn ServiceRunner) -> Vec<ServiceOutcome> {
        let stop = |service: &String| self.outcome(outcome(services, ServiceAction::Stop, service));
        self.stopped.iter().map(stop).collect()
    }

    /// Starts what was stopped and the current image knows, and reloads what only must read its files again; then what
    /// earlier updates owe to services it knows.
    pub fn start(&self, services: &dyn ServiceRunner) -> Vec<ServiceOutcome> {
        self.afterwards().iter().map(|debt| self.outcome(debt.pay(services))).collect()
    }

    /// What [`Self::start`] does, in order.
    pub fn afterwards(&self) -> Vec<Debt> {
        let wanted =
            self.after.iter().filter(|trigger| !is_of_agent(trigger) && trigger.service != REBOOT_SERVICE);
        let wanted = once(wanted.map(|trigger| &trigger.service));
        let due = |service: &String| {
            let is_down = self.stopped.contains(service) || self.debts.contains(&Debt::start(service));
            if is_down { Due::Start } else { Due::Reload }
        };
        let is_earlier = |debt: &&Debt| match debt.due {
            Due::Start | Due::Reload => self.known.contains(&debt.service) && !wanted.contains(&debt.service),
            Due::Stop => !self.known.contains(&debt.service) && !self.stopped.contains(&debt.service),
        };
        let earlier = self.debts.iter().filter(is_earlier).cloned();
        let now = wanted.iter().map(|service| Debt { service: service.clone(), due: due(service) });
        now.chain(earlier).collect()
    }

    /// Starts again what was stopped, when the update was not made, and does what earlier updates owe.
    pub fn restore(&self, services: &dyn ServiceRunner) -> Vec<ServiceOutcome> {
        self.owed().iter().map(|debt| self.outcome(debt.pay(services))).collect()
    }

    /// The services that had failed already before the update, as far as [`Self::observing`] could tell.
    pub fn failed_before(&self) -> Vec<String> {
        self.were(ServiceState::Failed)
    }

    /// The services that ran before the update, in the same way.
    pub fn ran_before(&self) -> Vec<String> {
        self.were(ServiceState::Running)
    }

    /// What is done to services when the update was made and is taken back.
    pub fn withdrawal(&self) -> Withdrawal {
        let after = self.afterwards();
        let started = after.iter().filter(|debt| debt.due == Due::Start).map(|debt| &debt.service);
        // Those who were started last are the first to go.
        let stop = started.rev().cloned().collect();
        let mut start = self.owed();
        let reloaded = after.into_iter().filter(|debt| debt.due == Due::Reload);
        let is_new = |debt: &Debt| !self.stopped.contains(&debt.service) && !self.debts.contains(debt);
        start.extend(reloaded.filter(is_new));
        Withdrawal { stop, start }
    }

    /// What is done to services, in order, for people to read before it is done.
    pub fn actions(&self) -> Vec<PlannedAction> {
        let action = |service: &str, action: ServiceAction| PlannedAction {
            service: service.to_owned(),
            action: action.verb().to_owned(),
        };
        let stops = self.stopped.iter().map(|service| action(service, ServiceAction::Stop));
        let after = self.afterwards();
        let after = after.iter().map(|debt| action(&debt.service, debt.due.action()));
        let last = self.conclusion().map(|conclusion| match conclusion {
            Conclusion::Reboot { service } => action(&service, ServiceAction::Reboot),
            Conclusion::RestartAgent => action(AGENT_SERVICE, ServiceAction::Restart),
        });
        stops.chain(after).chain(last).collect()
    }

    /// Restarts the machine, or at least the agent, if that is due: after everything else, when all of it succeeded.
    pub fn conclude(&self, services: &dyn ServiceRunner) -> Option<ServiceOutcome> {
        self.conclusion().map(|conclusion| conclusion.carry_out(services))
    }

    /// What [`Self::conclude`] does.
    pub fn conclusion(&self) -> Option<Conclusion> {
        if let Some(trigger) = self.after.iter().find(|trigger| trigger.do_reboot) {
            return Some(Conclusion::Reboot { service: trigger.service.clone() });
        }
        self.after.iter().any(is_of_agent).then_some(Conclusion::RestartAgent)
    }

    fn were(&self, state: ServiceState) -> Vec<String> {
        let such = self.before.iter().filter(|(_, before)| **before == state);
        such.map(|(service, _)| service.clone()).collect()
    }

    fn outcome(&self, outcome: ServiceOutcome) -> ServiceOutcome {
        let before = self.before.get(&outcome.service).copied().unwrap_or_default();
        ServiceOutcome { before, ..outcome }
    }
}

/// What is done to services when an update is taken back: all of this is known before the update is made, and is noted with
/// it, for whoever takes it back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Withdrawal {
    /// What must not run while its files change back, in order.
    pub stop: Vec<String>,
    /// What must run with the files as they were before, or read them again, in order; and what an update before this one
    /// could not stop.
    pub start: Vec<Debt>,
}

impl Withdrawal {
    /// Before files change back.
    pub fn stop(&self, services: &dyn ServiceRunner) -> Vec<ServiceOutcome> {
        self.stop.iter().map(|service| outcome(services, ServiceAction::Stop, service)).collect()
    }

    /// Afterwards.
    pub fn start(&self, services: &dyn ServiceRunner) -> Vec<ServiceOutcome> {
        self.start.iter().map(|debt| debt.pay(services)).collect()
    }
}

/// What comes after everything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conclusion {
    /// The machine is restarted, as the trigger of this service wants it.
    Reboot {
        /// Which.
        service: String,
    },
    /// The agent is.
    RestartAgent,
}

impl Conclusion {
    /// Does it, without waiting for it.
    pub fn carry_out(&self, services: &dyn ServiceRunner) -> ServiceOutcome {
        match self {
            Self::Reboot { service } => outcome(services, ServiceAction::Reboot, service),
            Self::RestartAgent => outcome(services, ServiceAction::Start, AGENT_SERVICE),
        }
    }
}

/// A service that must be started, reloaded or stopped, and was not yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debt {
    /// Which.
    pub service: String,
    /// What is owed to it.
    pub due: Due,
}

/// What can be owed to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// To run again.
    Start,
    /// To read its files again.
    Reload,
    /// To run no more: the image that knew it is gone, and it could not be stopped.
    Stop,
}

impl Due {
    /// How it is done.
    pub const fn action(self) -> ServiceAction {
        match self {
            Self::Start => ServiceAction::Start,
            Self::Reload => ServiceAction::Reload,
            Self::Stop => ServiceAction::Stop,
        }
    }

    /// What it is called where it is noted.
    pub const fn word(self) -> &'static str {
        self.action().verb()
    }

    /// What is called so.
    pub fn of_word(word: &str) -> Option<Self> {
        [Self::Start, Self::Reload, Self::Stop].into_iter().find(|due| due.word() == word)
    }
}

impl Debt {
    fn start(service: &str) -> Self {
        Self { service: service.to_owned(), due: Due::Start }
    }

    /// As strict as an image's triggers: what is read from a disk becomes an argument of a command.
    ///
    /// # Errors
    /// [`BadTriggers`] naming the first that can't be a service.
    pub fn check(owed: &[Self]) -> Result<(), BadTriggers> {
        let named = |debt: &Self| Trigger { service: debt.service.clone(), ..Trigger::default() };
        let check = |part: &[Self]| Triggers::new(part.iter().map(named).collect()).map(drop);
        owed.chunks(Triggers::MAX_COUNT).try_for_each(check)
    }

    /// Does what is owed.
    pub fn pay(&self, services: &dyn ServiceRunner) -> ServiceOutcome {
        outcome(services, self.due.action(), &self.service)
    }

    /// The same to a service that may run with files of which some were there before an update and some after it: the
    /// machine was started in between. One that does not run is none the worse.
    pub fn pay_anew(&self, services: &dyn ServiceRunner) -> ServiceOutcome {
        if self.due == Due::Start {
            // What counts is whether it starts.
            drop(outcome(services, ServiceAction::Stop, &self.service));
        }
        self.pay(services)
    }

    /// What is still owed after `outcomes`: each service that could not be started, reloaded or stopped, but for those that
    /// had failed already before, and for stops of what was to run again.
    pub fn unpaid(outcomes: &[ServiceOutcome]) -> Vec<Self> {
        let failed = outcomes.iter().enumerate().filter(|(_, outcome)| outcome.is_failure());
        let unpaid = failed.filter_map(|(number, outcome)| {
            let due = Due::of_word(&outcome.action)?;
            let mut later = outcomes.iter().skip(number + 1);
            let is_over = due == Due::Stop && later.any(|other| other.service == outcome.service);
            (!is_over).then(|| Self { service: outcome.service.clone(), due })
        });
        unpaid.collect()
    }
}

/// The paths that `plan` changes on a machine that is as `before`. A time that is set says nothing to a service.
pub fn changed<'a>(plan: &'a Plan, before: &Snapshot) -> Vec<&'a ImagePath> {
    let only_time = |operation: &Operation| match operation {
        Operation::SetMetadata { paths, inode } => paths.first().is_some_and(|path| {
            before.inode(path).is_some_and(|now| now.same_contents(inode) && now.same_attributes(inode))
        }),
        Operation::MakeDirectory { .. }
        | Operation::Put { .. }
        | Operation::Link { .. }
        | Operation::Delete { .. } => false,
    };
    plan.operations.iter().filter(|o| !only_time(o)).flat_map(Operation::paths).collect()
}

/// The service a trigger names when it only wants the machine restarted.
const REBOOT_SERVICE: &str = "reboot";

fn is_of_agent(trigger: &Trigger) -> bool {
    trigger.service == AGENT_SERVICE
}

fn is_stopped(trigger: &Trigger) -> bool {
    !trigger.do_reload && !is_of_agent(trigger) && trigger.service != REBOOT_SERVICE
}

/// Each service once, where it comes first.
fn once<'a>(services: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    services.filter(|service| seen.insert(*service)).cloned().collect()
}

fn outcome(services: &dyn ServiceRunner, action: ServiceAction, service: &str) -> ServiceOutcome {
    let error = services.run(action, service).err().map(|error| error.to_string());
    let (service, action) = (service.to_owned(), action.verb().to_owned());
    ServiceOutcome { service, action, before: ServiceState::Unknown, error }
}
