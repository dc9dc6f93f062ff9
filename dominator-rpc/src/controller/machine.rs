use std::sync::Arc;
use std::time::Duration;

use dominator_core::herd::{self, Action, Event, Moment, Sub, SubInfo, Updates as Allowed};
use dominator_core::machine::Machine;
use dominator_core::port::{Agent, AgentError, Cause, FetchRequest, Unreachable, UpdateRequest};
use futures_util::future::{BoxFuture, FutureExt as _, pending};
use tokio::time::{Instant, sleep_until, timeout};

use super::compare::compare;
use super::control::Switch;
use super::images::{ImageChanges, KnownImage};
use super::member::{Change, Member, Orders};
use super::runtime::Shared;
use crate::limits;

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
}

/// Whether the machine is of the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stays {
    In,
    Out,
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
        Box::new(Self { shared, member, machine, updates, sub, image, agent, call })
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
        let (orders, machine) = self.member.orders();
        match orders {
            Orders::Leave => return Stays::Out,
            // Before any change of the machine: what was agreed to is the plan for what it had to be.
            Orders::Clear => self.tell(Event::ClearSafetyShutoff),
            Orders::None => {}
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
            Done::Told(event) => self.tell(event),
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

    fn show(&self) {
        let info = self.sub.info();
        let change = self.member.show(info);
        if change == Change::Status {
            let (sub, detail) = (&self.machine.hostname, self.sub.detail().unwrap_or_default());
            tracing::info!(sub, status = self.sub.status().text(), detail, "status");
        }
        if change != Change::None {
            self.shared.ring();
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
        Ok(match action {
            Action::Dial => {
                self.agent = None;
                let machine = self.machine.clone();
                async move { Done::Dialed(shared.dial(&machine).await) }.boxed()
            }
            Action::Poll(request) => {
                let agent = agent.map_err(|error| Event::Polled(Err(error)))?;
                told(async move { Event::Polled(agent.poll(request).await.map(Box::new)) })
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
                    let place = shared.comparing.acquire().await;
                    let (cache, room) = (&shared.directories, &shared.computing);
                    let compared =
                        timeout(limits::COMPARE, compare(&*agent, required, tree, cache, room)).await;
                    drop(place);
                    Event::Compared(compared.unwrap_or_else(|_| Err(too_slow().into())).map(Box::new))
                })
            }
            Action::Fetch(objects) => {
                let agent = agent.map_err(|error| Event::Fetched(Err(error)))?;
                let request =
                    FetchRequest { objects: objects.into_iter().collect(), source: shared.source.clone() };
                told(async move { Event::Fetched(agent.fetch(request).await) })
            }
            Action::Update(required, base, plan) => {
                let agent = agent.map_err(|error| Event::Updated(Err(error)))?;
                let request = UpdateRequest {
                    base,
                    view: required.view_id,
                    plan,
                    image: (!required.is_sparse()).then(|| required.name.clone()),
                    triggers: required.image.triggers.clone(),
                };
                let (sub, operations) = (&self.machine.hostname, request.plan.operations.len());
                tracing::info!(sub, image = %required.name, operations, "update");
                told(async move { Event::Updated(agent.update(request).await) })
            }
            Action::CleanUp => {
                let agent = agent.map_err(|error| Event::CleanedUp(Err(error)))?;
                told(async move { Event::CleanedUp(agent.clean_up().await) })
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

async fn set_view(agent: &dyn Agent, required: &herd::Required) -> Result<(), AgentError> {
    let id = agent.set_view(required.view.clone()).await?;
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

    fn instant(&self, moment: Moment) -> Instant {
        // A moment too far for the clock is never reached anyway.
        self.begun.checked_add(moment.0).unwrap_or_else(|| Instant::now() + Duration::from_secs(86_400))
    }

    async fn dial(&self, machine: &Machine) -> Result<Arc<dyn Agent>, AgentError> {
        let place = self.dialing.acquire().await;
        let agent = self.dialer.dial(machine).await;
        drop(place);
        agent
    }
}
