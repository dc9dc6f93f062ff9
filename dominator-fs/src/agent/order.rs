use std::sync::Arc;
use std::time::Instant;

use dominator_core::activation::Conclusion;
use dominator_core::plan::Needs;
use dominator_core::port::{
    Activity, AgentDetails, AgentError, AgentMode, Cause, Disruption, DisruptionGate, GateAnswer, LockToken,
    Reboot, Refusal, RemovedConflicts, RestartRequest, Rules, ServiceAction, ServiceOutcome, UndoRequest,
    UpdateReport, UpdateRequest,
};
use dominator_core::view::View;

use super::Shared;
use super::activation::{self, Before};
use super::fetch::Stop;
use crate::scan::Scan;
use crate::service::{self, Activation};
use crate::update::UpdateError;

/// An order under way; its end is the end of this.
pub(super) struct Order {
    pub(super) shared: Arc<Shared>,
}

impl Order {
    pub(super) fn begin(shared: Arc<Shared>, activity: Activity) -> Result<Self, AgentError> {
        let mut state = shared.lock();
        state.begin(activity)?;
        shared.announce(state);
        Ok(Self { shared })
    }

    /// An update. A fetch that is under way ends first: whoever orders now wants something else.
    async fn update(shared: Arc<Shared>, lock: Option<LockToken>) -> Result<Self, AgentError> {
        Self::instead(shared, Activity::Updating, None, lock).await
    }

    /// A fetch of `needs`, until `stop` is said.
    pub(super) async fn fetch(
        shared: Arc<Shared>,
        needs: &Arc<Needs>,
        lock: Option<LockToken>,
        stop: &Stop,
    ) -> Result<Self, AgentError> {
        let order = Self::instead(shared, Activity::Fetching, Some(needs), lock).await?;
        order.shared.lock().fetches(Arc::clone(needs), stop.clone());
        Ok(order)
    }

    /// Begins after the end of a fetch of something else than is wanted now.
    async fn instead(
        shared: Arc<Shared>,
        activity: Activity,
        wanted: Option<&Needs>,
        lock: Option<LockToken>,
    ) -> Result<Self, AgentError> {
        let mut changes = shared.generation.subscribe();
        loop {
            // Each time: somebody may have taken the lock while the fetch came to its end.
            shared.admit(lock)?;
            match Self::begin(Arc::clone(&shared), activity) {
                Err(_) if shared.lock().end_fetch_but_of(wanted) => {
                    // The sender lives as long as what is shared.
                    drop(changes.changed().await);
                }
                begun => return begun,
            }
        }
    }
}

impl Drop for Order {
    fn drop(&mut self) {
        self.shared.change(super::state::State::end);
    }
}

impl Shared {
    /// Whether somebody else has the machine for themselves.
    pub(super) fn admit(&self, lock: Option<LockToken>) -> Result<(), Refusal> {
        self.client.admit(lock, Instant::now())
    }

    /// An agent that only looks changes nothing, and one that was stopped does not begin to: people may still take back
    /// what it did.
    pub(super) fn may_write(&self) -> Result<(), Refusal> {
        match self.mode {
            mode @ AgentMode::ReadOnly => Err(Refusal::Mode(mode)),
            AgentMode::Normal | AgentMode::UpdatesDisabled | AgentMode::TriggersDisabled => Ok(()),
        }
    }
}

/// Applies a plan, with what it does to services, and judges it.
pub(super) async fn update(shared: Arc<Shared>, request: UpdateRequest) -> Result<UpdateReport, AgentError> {
    shared.admit(request.lock)?;
    shared.look_at_the_switch();
    if let Some(refusal) = shared.lock().details().refusal(request.blamed()) {
        return Err(refusal.into());
    }
    let order = Order::update(shared, request.lock).await?;
    let shared = &order.shared;
    let theirs = Arc::clone(shared);
    super::blocking("update", move || theirs.make_ready("update")).await?;
    let (view, scan) = check(shared, &request)?;
    let triggers = shared.memory.triggers().map_err(|error| failed("update", error))?;
    let owed = shared.memory.owed().map_err(|error| failed("update", error))?;
    let changed = service::changed(&request.plan, &scan.snapshot);
    let activation = match shared.services.rules() {
        Rules::Services => Activation::new(&triggers, &request.triggers, changed.iter().copied()),
        Rules::Nothing => Activation::nothing(),
    };
    let activation = activation.owing(owed.clone());
    if request.reboot == Reboot::Refused && matches!(activation.conclusion(), Some(Conclusion::Reboot { .. }))
    {
        return Err(Refusal::Reboot.into());
    }
    ask(shared.gate.as_deref(), request.disruption, &activation).await?;
    // From here on, what was scanned is no longer true, however this ends.
    shared.change(super::state::State::forget_scan);
    let (theirs, before) = (Arc::clone(shared), Before { triggers, owed });
    let outcome = tokio::task::spawn_blocking(move || {
        let activation = activation.observing(&*theirs.services);
        activation::carry_out(&theirs, &request, before, (&view, &scan), &activation)
    })
    .await;
    drop(order);
    outcome.map_err(|error| failed("update", error))?
}

/// An order is for one state of the machine.
fn check(shared: &Shared, request: &UpdateRequest) -> Result<(Arc<View>, Arc<Scan>), AgentError> {
    let refuse = |why: &str| Err(AgentError::NotNow(why.to_owned()));
    let Some((id, view, scan)) = shared.lock().base() else {
        return refuse("no scan has been completed yet");
    };
    if id != request.view {
        return refuse("it looks through another view");
    }
    if scan.snapshot.id() != request.base {
        return refuse("the machine is no longer what the plan was made for");
    }
    Ok((view, scan))
}

async fn ask(
    gate: Option<&dyn DisruptionGate>,
    disruption: Disruption,
    activation: &Activation,
) -> Result<(), AgentError> {
    let Some(gate) = gate else { return Ok(()) };
    if !activation.is_high_impact() {
        gate.release().await;
        return Ok(());
    }
    if disruption == Disruption::Force {
        return Ok(());
    }
    match gate.request().await {
        GateAnswer::Permitted => Ok(()),
        GateAnswer::Requested => Err(AgentError::NotNow(AgentError::DISRUPTION_PENDING.to_owned())),
        GateAnswer::Denied(why) => {
            Err(AgentError::NotNow(format!("{}: {why}", AgentError::DISRUPTION_DENIED)))
        }
    }
}

/// Takes the last update back.
pub(super) async fn undo(shared: Arc<Shared>, request: UndoRequest) -> Result<UpdateReport, AgentError> {
    shared.admit(request.lock)?;
    shared.may_write()?;
    let order = Order::update(shared, request.lock).await?;
    let shared = Arc::clone(&order.shared);
    let outcome = super::blocking("undo", move || {
        shared.make_ready("undo")?;
        activation::undo(&shared, request)
    });
    let outcome = outcome.await;
    drop(order);
    outcome
}

/// Restarts a service. What came of it is in the answer.
pub(super) async fn restart_service(
    shared: Arc<Shared>,
    request: RestartRequest,
) -> Result<ServiceOutcome, AgentError> {
    shared.admit(request.lock)?;
    shared.may_write()?;
    if shared.mode == AgentMode::TriggersDisabled {
        return Err(Refusal::Mode(shared.mode).into());
    }
    let order = Order::update(shared, request.lock).await?;
    let shared = Arc::clone(&order.shared);
    let restarted = super::blocking("restart a service", move || {
        let service = request.service.as_str();
        let before = shared.services.state(service);
        let error = shared.services.run(ServiceAction::Restart, service).err().map(|error| error.to_string());
        let action = ServiceAction::Restart.verb().to_owned();
        Ok(ServiceOutcome { service: service.to_owned(), action, before, error })
    });
    let restarted = restarted.await;
    drop(order);
    restarted
}

/// Drops the objects that no update used, and gives the gate's leave back. What is kept to undo the last update stays for
/// as long as the machine has room and time for it.
pub(super) async fn clean_up(shared: Arc<Shared>, lock: Option<LockToken>) -> Result<(), AgentError> {
    shared.admit(lock)?;
    shared.may_write()?;
    let order = Order::begin(shared, Activity::Fetching)?;
    let shared = Arc::clone(&order.shared);
    super::blocking("clean up", move || {
        shared.make_ready("clean up")?;
        let cleared = shared.with_updater(|updater| updater.objects().clear().map_err(UpdateError::Work));
        cleared.map_err(|error| failed("clean up", error))?.map_err(|error| failed("clean up", error))?;
        shared.look_at_the_disk();
        Ok(())
    })
    .await?;
    if let Some(gate) = &order.shared.gate {
        gate.release().await;
    }
    drop(order);
    Ok(())
}

/// Removes what undoing moved out of the way, for good.
pub(super) async fn remove_conflicts(
    shared: Arc<Shared>,
    lock: Option<LockToken>,
) -> Result<RemovedConflicts, AgentError> {
    shared.admit(lock)?;
    shared.may_write()?;
    let order = Order::begin(shared, Activity::Updating)?;
    let shared = Arc::clone(&order.shared);
    let removed = super::blocking("remove conflicts", move || {
        let what = "remove conflicts";
        let removed = shared.with_updater(|updater| updater.remove_conflicts(AgentDetails::MAX_CONFLICTS));
        let removed = removed.map_err(|error| failed(what, error))?.map_err(|error| failed(what, error))?;
        shared.look_at_the_disk();
        Ok(RemovedConflicts { paths: removed.paths, more: removed.more, bytes: removed.bytes })
    });
    let removed = removed.await;
    drop(order);
    removed
}

pub(super) fn failed(what: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> AgentError {
    AgentError::Failed { what: format!("could not {what}"), cause: Cause::new(error) }
}
