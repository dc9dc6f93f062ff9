use std::sync::Arc;
use std::time::Duration;

use dominator_core::herd::{
    self, Action, Event, FastUpdate, Leave, Moment, Sub, SubInfo, Updates as Allowed,
};
use dominator_core::machine::Machine;
use dominator_core::port::{Agent, AgentError, Boost, Cause, FetchRequest, Unreachable, UpdateRequest};
use futures_util::future::{BoxFuture, FutureExt as _, pending};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::compare::compare;
use super::control::{Stage, Standing, Switch};
use super::images::{ImageChanges, KnownImage};
use super::member::{Change, Member, Order, Stays};
use super::runtime::Shared;
use crate::limits;
use crate::wire::text;

/// Drives the state machine of one machine: performs its actions and tells it what came of them.
pub(super) struct Runner {
    shared: Arc<Shared>,
    member: Arc<Member>,
    machine: Arc<Machine>,
    updates: Allowed,
    sub: Sub,
    image: Option<(Arc<KnownImage>, ImageChanges)>,
    agent: Option<Arc<dyn Agent>>,
    /// The call being made, or the pause before the next. There is one at a time.
    call: Option<BoxFuture<'static, Done>>,
    /// Operators who wait for the machine.
    waiting: Vec<watch::Sender<Standing>>,
    effort: Effort,
}

/// Whether the agent was told to look at its machine as fast as it can, as somebody waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effort {
    Usual,
    /// It is being told, unless the call is given up for another.
    Boosting,
    Boosted,
}

/// What a call ended with.
enum Done {
    Dialed(Result<Arc<dyn Agent>, AgentError>),
    Told(Event),
}

impl Runner {
    /// On the heap at once: a task that moves it about holds room for it several times over.
    pub(super) fn new(shared: Arc<Shared>, member: Arc<Member>) -> Box<Self> {
        let machine = member.machine();
        let updates = allowed(&shared, &machine);
        let sub = Sub::new(shared.patience.clone()).named(&machine.hostname);
        let (image, agent, call) = (None, None, None);
        let (waiting, effort) = (Vec::new(), Effort::Usual);
        Box::new(Self { shared, member, machine, updates, sub, image, agent, call, waiting, effort })
    }

    /// Keeps the machine as it must be, until it leaves the fleet.
    pub(super) async fn run(mut self: Box<Self>) {
        self.look_up_image();
        self.tell_wanted();
        while self.heed() == Stays::In {
            tokio::select! {
                () = self.member.called() => {}
                () = next_change(&mut self.image) => self.tell_wanted(),
                done = ended(&mut self.call) => {
                    self.call = None;
                    self.take(done);
                }
            }
        }
    }

    /// Follows the orders there are for the machine, and what was decided for all.
    fn heed(&mut self) -> Stays {
        let (stays, orders, machine) = self.member.orders();
        if stays == Stays::Out {
            return Stays::Out;
        }
        // Before any change of the machine: what was agreed to is the plan for what it had to be.
        for order in orders {
            match order {
                Order::ClearSafety => self.tell(Event::ClearSafetyShutoff),
                Order::ForceDisruption => self.tell(Event::ForceDisruption),
                Order::Renewed => self.tell(Event::Renewed),
                Order::FastUpdate(order, told) => self.hurry(order, told),
            }
        }
        if !Arc::ptr_eq(&machine, &self.machine) {
            self.change_machine(machine);
        } else if allowed(&self.shared, &machine) != self.updates {
            self.tell_wanted();
        }
        Stays::In
    }

    fn change_machine(&mut self, machine: Arc<Machine>) {
        if machine.dial_host() != self.machine.dial_host() {
            // Nothing that was known holds for what stands at the other address.
            self.sub = Sub::new(self.shared.patience.clone()).named(&machine.hostname);
            (self.agent, self.call) = (None, None);
            self.waiting.clear();
        }
        self.machine = machine;
        self.look_up_image();
        self.tell_wanted();
    }

    fn look_up_image(&mut self) {
        let image = self.machine.required_image.as_ref().map(|name| self.shared.images.image(name));
        self.image = image.map(|image| {
            let changes = image.changes();
            (image, changes)
        });
    }

    fn tell_wanted(&mut self) {
        let wanted = self.image.as_ref().map(|(image, _)| image.wanted()).unwrap_or_default();
        self.updates = allowed(&self.shared, &self.machine);
        self.tell(Event::Wanted(wanted, self.updates));
    }

    fn take(&mut self, done: Done) {
        match done {
            Done::Told(event) => {
                if self.effort == Effort::Boosting {
                    self.effort = Effort::Boosted;
                }
                self.tell(event);
            }
            Done::Dialed(Ok(agent)) => {
                self.agent = Some(agent);
                self.tell(Event::Dialed(Ok(())));
            }
            Done::Dialed(Err(error)) => self.tell(Event::Dialed(Err(error))),
        }
    }

    fn tell(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.sub.step(self.shared.now(), event, &mut actions);
        self.show();
        for action in actions {
            self.perform(action);
        }
    }

    fn hurry(&mut self, order: FastUpdate, told: watch::Sender<Standing>) {
        self.effort = Effort::Usual;
        self.waiting.push(told);
        self.tell(Event::FastUpdate(order));
    }

    fn show(&mut self) {
        let info = self.sub.info();
        let change = self.member.show(info);
        if change == Change::Status {
            let (sub, detail) = (&self.machine.hostname, self.sub.detail().unwrap_or_default());
            tracing::info!(sub, status = self.sub.status().text(), detail, "status");
        }
        if change != Change::None {
            self.shared.ring();
        }
        if !self.waiting.is_empty() {
            self.tell_who_wait();
        }
    }

    fn tell_who_wait(&mut self) {
        let stage = if self.sub.is_hurried() { Stage::UnderWay } else { Stage::Over };
        let detail = self.sub.detail().unwrap_or_default().to_owned();
        let standing = Standing { status: self.sub.status(), detail, stage };
        self.waiting.retain(|told| !told.is_closed());
        for told in &self.waiting {
            told.send_if_modified(|last| {
                let news = *last != standing;
                last.clone_from(&standing);
                news
            });
        }
        if stage == Stage::Over {
            self.waiting.clear();
        } else if self.waiting.is_empty() {
            // Asks for nothing to be done.
            self.sub.step(self.shared.now(), Event::NoHurry, &mut Vec::new());
        }
    }

    fn perform(&mut self, action: Action) {
        // Whatever the state machine waited for is answered by the call it makes now.
        self.call = Some(match self.call_for(action) {
            Ok(call) => call,
            Err(event) => std::future::ready(Done::Told(event)).boxed(),
        });
    }

    /// The call that performs an action, or the event that it can't be made.
    fn call_for(&mut self, action: Action) -> Result<BoxFuture<'static, Done>, Event> {
        let shared = self.shared.clone();
        let agent = self.agent.clone().ok_or_else(not_connected);
        let hurried = self.sub.is_hurried();
        Ok(match action {
            Action::Dial => {
                self.agent = None;
                let machine = self.machine.clone();
                self.effort = Effort::Usual;
                async move { Done::Dialed(shared.dial(&machine, hurried).await) }.boxed()
            }
            Action::Poll(request) => {
                let agent = agent.map_err(|error| Event::Polled(Err(error)))?;
                let boost = hurried && self.effort != Effort::Boosted;
                if boost {
                    self.effort = Effort::Boosting;
                }
                told(async move {
                    if boost {
                        hasten(&*agent).await;
                    }
                    Event::Polled(agent.poll(request).await.map(Box::new))
                })
            }
            Action::Require(_, _, traits) => {
                let image = self.image.as_ref().map(|(image, _)| image.clone());
                let image = image.ok_or_else(|| Event::Required(Err(Cause::new("no image is wanted"))))?;
                told(async move { Event::Required(image.required(traits, &shared.computing).await) })
            }
            Action::SetView(required) => {
                let agent = agent.map_err(|error| Event::ViewSet(Err(error)))?;
                told(async move { Event::ViewSet(set_view(&*agent, &required).await) })
            }
            Action::Compare(required, tree) => {
                let agent = agent.map_err(|error| Event::Compared(Err(error.into())))?;
                told(async move {
                    let place = shared.place(&shared.comparing, hurried).await;
                    let (cache, room) = (&shared.directories, &shared.computing);
                    let compared =
                        timeout(limits::COMPARE, compare(&*agent, required, tree, cache, room)).await;
                    drop(place);
                    Event::Compared(compared.unwrap_or_else(|_| Err(too_slow().into())).map(Box::new))
                })
            }
            Action::Fetch(needs) => {
                let agent = agent.map_err(|error| Event::Fetched(Err(error)))?;
                let request = FetchRequest { needs, sources: shared.sources.clone(), lock: None };
                let sub = self.machine.hostname.clone();
                told(async move {
                    let fetched = agent.fetch(request).await;
                    for why in fetched.iter().flat_map(|report| &report.failed) {
                        tracing::warn!(sub, why, "a source of objects failed the machine; another had them");
                    }
                    Event::Fetched(fetched)
                })
            }
            Action::Update(required, base, plan, Leave { disruption, reboot }) => {
                let agent = agent.map_err(|error| Event::Updated(Err(error)))?;
                let request = UpdateRequest {
                    image: (!required.is_sparse()).then(|| required.name.clone()),
                    sparse: required.is_sparse().then(|| required.name.clone()),
                    triggers: required.image.triggers.clone(),
                    health: required.image.health.clone(),
                    disruption,
                    reboot,
                    ..UpdateRequest::new(base, required.view_id, plan)
                };
                let (sub, operations) = (&self.machine.hostname, request.plan.operations.len());
                tracing::info!(sub, image = %required.name, operations, "update");
                told(async move { Event::Updated(agent.update(request).await.map(Box::new)) })
            }
            Action::CleanUp => {
                let agent = agent.map_err(|error| Event::CleanedUp(Err(error)))?;
                told(async move { Event::CleanedUp(agent.clean_up(None).await) })
            }
            Action::WakeAt(moment) => {
                let instant = shared.instant(moment);
                told(async move {
                    sleep_until(instant).await;
                    Event::Wake
                })
            }
        })
    }
}

/// Whether the machine may be changed.
fn allowed(shared: &Shared, machine: &Machine) -> Allowed {
    match (shared.updates.borrow().switch, machine.disable_updates) {
        (Switch::Enabled, false) => Allowed::Enabled,
        (Switch::Disabled, _) | (_, true) => Allowed::Disabled,
    }
}

fn told(event: impl Future<Output = Event> + Send + 'static) -> BoxFuture<'static, Done> {
    event.map(Done::Told).boxed()
}

/// Whoever may give no such orders has the machine looked at as fast as it is set to.
async fn hasten(agent: &dyn Agent) {
    for boost in [Boost::Cpu, Boost::Scan] {
        if let Err(error) = agent.boost(boost).await {
            tracing::debug!(error = text(&error), "the machine is looked at no faster");
        }
    }
}

async fn set_view(agent: &dyn Agent, required: &herd::Required) -> Result<(), AgentError> {
    let id = agent.set_view(required.view.clone(), None).await?;
    if id == required.view_id {
        Ok(())
    } else {
        Err(AgentError::Protocol(Cause::new(format!("it took another view over than {}", required.view_id))))
    }
}

fn not_connected() -> AgentError {
    let cause = Cause::new("there is no connection to it");
    AgentError::Unreachable { why: Unreachable::Other, cause }
}

fn too_slow() -> AgentError {
    let limit = limits::COMPARE.as_secs();
    let cause = Cause::new(format!("its directories did not come within {limit} s"));
    AgentError::Unreachable { why: Unreachable::Timeout, cause }
}

async fn next_change(image: &mut Option<(Arc<KnownImage>, ImageChanges)>) {
    match image {
        Some((_, changes)) => changes.next().await,
        None => pending().await,
    }
}

async fn ended(call: &mut Option<BoxFuture<'static, Done>>) -> Done {
    match call {
        Some(call) => call.await,
        None => pending().await,
    }
}

impl Shared {
    /// Shows that nobody looks after the machine for a moment.
    pub(super) fn broke_down(&self, member: &Member) {
        let detail =
            Some("the controller failed on this machine, and will try again; its log says more".into());
        member.show(SubInfo { detail, ..SubInfo::default() });
        self.ring();
    }

    /// Tells that something is shown that was not shown before.
    fn ring(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// The time as the state machines count it.
    fn now(&self) -> Moment {
        Moment(self.begun.elapsed())
    }

    /// A turn in a queue. Those whom somebody waits for do not queue; there are never many of them.
    async fn place<'a>(&self, queue: &'a Semaphore, hurried: bool) -> Option<SemaphorePermit<'a>> {
        // A queue is never closed.
        if hurried { None } else { queue.acquire().await.ok() }
    }

    fn instant(&self, moment: Moment) -> Instant {
        // A moment too far for the clock is never reached anyway.
        self.begun.checked_add(moment.0).unwrap_or_else(|| Instant::now() + Duration::from_secs(86_400))
    }

    async fn dial(&self, machine: &Machine, hurried: bool) -> Result<Arc<dyn Agent>, AgentError> {
        let place = self.place(&self.dialing, hurried).await;
        let agent = self.dialer.dial(machine).await;
        drop(place);
        agent
    }
}
