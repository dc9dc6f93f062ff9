use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use dominator_core::object::ObjectId;
use dominator_core::port::{
    Activity, AgentError, Cause, Chain, DisruptionGate, FetchReport, FetchRequest, GateAnswer, Piece, Pieces,
    StoreError, UpdateReport, UpdateRequest,
};
use dominator_core::view::View;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::Shared;
use crate::scan::Scan;
use crate::service::{self, Activation, Debt};
use crate::update::{Intake, ObjectCache, UpdateError};

/// How many pieces of objects are in memory at most, waiting for the disk.
const QUEUE: usize = 16;

/// An order under way; its end is the end of this.
struct Order {
    shared: Arc<Shared>,
}

impl Order {
    fn begin(shared: Arc<Shared>, activity: Activity) -> Result<Self, AgentError> {
        let mut state = shared.lock();
        state.begin(activity)?;
        shared.announce(state);
        Ok(Self { shared })
    }
}

impl Drop for Order {
    fn drop(&mut self) {
        self.shared.change(super::state::State::end);
    }
}

/// Gets the objects that are not here yet.
pub(super) async fn fetch(shared: Arc<Shared>, request: FetchRequest) -> Result<FetchReport, AgentError> {
    let order = Order::begin(shared, Activity::Fetching)?;
    let shared = Arc::clone(&order.shared);
    let requested = request.objects;
    let (cache, wanted) = super::blocking("look for objects", move || {
        let cache =
            shared.with_updater(|updater| updater.objects().clone()).map_err(|e| failed("fetch", e))?;
        let wanted = wanted(&cache, requested).map_err(AgentError::Fetch)?;
        Ok((cache, wanted))
    })
    .await?;
    if wanted.is_empty() {
        return Ok(FetchReport::default());
    }
    let source = order.shared.sources.source(&request.source).await.map_err(AgentError::Fetch)?;
    let pieces = source.objects(wanted.keys().copied().collect()).await.map_err(AgentError::Fetch)?;
    let report = take_in(cache, wanted, pieces).await?;
    let shared = Arc::clone(&order.shared);
    super::blocking("look at the disk", move || {
        shared.look_at_the_disk();
        Ok(())
    })
    .await?;
    drop(order);
    Ok(report)
}

/// Those that are not here, with their sizes, if there is room for them.
fn wanted(
    cache: &ObjectCache,
    requested: Vec<(ObjectId, u64)>,
) -> Result<BTreeMap<ObjectId, u64>, StoreError> {
    let fault = |error: std::io::Error| StoreError::Failed {
        what: "the objects kept beside the root can't be looked at".to_owned(),
        cause: Cause::new(error),
    };
    let (mut here, mut wanted) = (BTreeSet::new(), BTreeMap::new());
    for (id, size) in requested {
        // One of another length was damaged since; it is fetched again.
        if cache.size(&id).map_err(fault)? == Some(size) {
            here.insert(id);
        } else {
            wanted.insert(id, size);
        }
    }
    let room = || {
        let free = cache.free_space().map_err(fault)?;
        let need = free.needed(wanted.values().copied());
        if need > free.bytes { Err(StoreError::NoSpace { need, free: free.bytes }) } else { Ok(()) }
    };
    if room().is_err() {
        // What is kept for an image that is not wanted any more must not keep this one out.
        cache.retain(&here).map_err(fault)?;
        room()?;
    }
    Ok(wanted)
}

/// Takes a stream of objects to the disk, on a thread that may wait for it.
async fn take_in(
    cache: ObjectCache,
    wanted: BTreeMap<ObjectId, u64>,
    mut pieces: Pieces,
) -> Result<FetchReport, AgentError> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let writer = tokio::task::spawn_blocking(move || write(cache.intake(), wanted, receiver));
    while let Some(piece) = pieces.next().await {
        // The writer has given up: it says why when it is joined.
        if sender.send(piece).await.is_err() {
            break;
        }
    }
    drop(sender);
    let written = writer.await.map_err(|error| failed("write objects", error))?;
    written.map_err(AgentError::Fetch)
}

/// Writes what comes, and makes what was complete durable even when the rest fails.
fn write(
    mut intake: Intake,
    mut wanted: BTreeMap<ObjectId, u64>,
    mut pieces: mpsc::Receiver<Result<Piece, StoreError>>,
) -> Result<FetchReport, StoreError> {
    let mut report = FetchReport::default();
    let outcome = loop {
        match pieces.blocking_recv() {
            None if wanted.is_empty() => break Ok(()),
            None => break Err(StoreError::Protocol(format!("it ended {} objects too early", wanted.len()))),
            Some(piece) => {
                if let Err(error) = piece.and_then(|piece| one(&mut intake, &mut wanted, &mut report, piece))
                {
                    break Err(error);
                }
            }
        }
    };
    match outcome {
        Ok(()) => intake.finish().map(|_verified| report),
        Err(error) => {
            intake.abandon()?;
            Err(error)
        }
    }
}

fn one(
    intake: &mut Intake,
    wanted: &mut BTreeMap<ObjectId, u64>,
    report: &mut FetchReport,
    piece: Piece,
) -> Result<(), StoreError> {
    match piece {
        Piece::Begin { id, size } => {
            match wanted.remove(&id) {
                Some(expected) if expected == size => {}
                Some(expected) => {
                    let what = format!("object {id} announced with {size} bytes, it has {expected}");
                    return Err(StoreError::Protocol(what));
                }
                None => return Err(StoreError::Protocol(format!("object {id}, which nobody asked for"))),
            }
            report.objects += 1;
            intake.begin(id, size)
        }
        Piece::Data(bytes) => data(intake, report, &bytes),
    }
}

fn data(intake: &mut Intake, report: &mut FetchReport, bytes: &Bytes) -> Result<(), StoreError> {
    if bytes.len() > Piece::MAX_DATA {
        return Err(StoreError::Protocol(format!("a piece of {} bytes", bytes.len())));
    }
    report.bytes += bytes.len() as u64;
    intake.data(bytes)
}

/// Applies a plan, with what it does to services.
pub(super) async fn update(shared: Arc<Shared>, request: UpdateRequest) -> Result<UpdateReport, AgentError> {
    let order = Order::begin(shared, Activity::Updating)?;
    let shared = &order.shared;
    let (view, scan) = check(shared, &request)?;
    let previous = shared.memory.triggers().map_err(|error| failed("update", error))?;
    let owed = shared.memory.owed().map_err(|error| failed("update", error))?;
    let changed = service::changed(&request.plan, &scan.snapshot);
    let activation = Activation::new(&previous, &request.triggers, changed.iter().copied()).owing(owed);
    ask(shared.gate.as_deref(), &activation).await?;
    // From here on, what was scanned is no longer true, however this ends.
    shared.change(super::state::State::forget_scan);
    let theirs = Arc::clone(shared);
    let outcome = tokio::task::spawn_blocking(move || {
        let outcome = apply(&theirs, &request, &view, &activation);
        conclude(&theirs, &request, &activation, outcome)
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

async fn ask(gate: Option<&dyn DisruptionGate>, activation: &Activation) -> Result<(), AgentError> {
    let Some(gate) = gate else { return Ok(()) };
    if !activation.is_high_impact() {
        gate.release().await;
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

/// Stage, stop, swap, commit, start.
fn apply(
    shared: &Shared,
    request: &UpdateRequest,
    view: &View,
    activation: &Activation,
) -> Result<UpdateReport, AgentError> {
    let applied = shared.with_updater(|updater| {
        updater.probe().map_err(UpdateError::Work)?;
        updater.activate(&request.plan, view, activation, &*shared.services, &shared.memory)
    });
    match applied {
        Ok(outcome) => outcome.map_err(|error| failed("update", error)),
        Err(error) => Err(failed("update", error)),
    }
}

/// What the agent before owed to services: it died between stopping and starting them, or they would not start. No order
/// comes before it is tried again.
pub(super) struct Inherited {
    order: Order,
    owed: Vec<Debt>,
}

impl Inherited {
    pub(super) fn of(shared: &Arc<Shared>) -> Result<Option<Self>, super::MemoryError> {
        let owed = shared.memory.owed()?;
        if owed.is_empty() {
            return Ok(None);
        }
        let order = Order::begin(Arc::clone(shared), Activity::Updating)
            .expect("invariant: an agent that has not started has no orders");
        Ok(Some(Self { order, owed }))
    }

    /// What can't be done stays owed, and the agent says so until an update has done it.
    pub(super) fn repay(self) {
        let Self { order, owed } = self;
        let shared = &order.shared;
        let services: Vec<_> = owed.iter().map(|debt| debt.pay(&*shared.services)).collect();
        let unpaid = Debt::unpaid(&services);
        if unpaid != owed
            && let Err(error) = shared.memory.remember_owed(&unpaid)
        {
            tracing::warn!(%error, "services that run may be started once more with the next agent");
        }
        if let Some(error) = summary(&UpdateReport { services, ..UpdateReport::default() }) {
            shared.change(|state| state.inherited(error));
        }
    }
}

/// Remembers what came of it. What is remembered of an image is written only when all of it was made, so that services
/// only the image before knew are still stopped by a later attempt.
fn conclude(
    shared: &Shared,
    request: &UpdateRequest,
    activation: &Activation,
    outcome: Result<UpdateReport, AgentError>,
) -> Result<UpdateReport, AgentError> {
    let outcome = outcome.and_then(|mut report| {
        if report.is_success() {
            remember(shared, request)?;
            report.services.extend(activation.conclude(&*shared.services));
        }
        Ok(report)
    });
    let error = match &outcome {
        Ok(report) => summary(report),
        Err(error) => Some(Chain(error).to_string()),
    };
    tracing::info!(
        image = request.image.as_ref().map(|image| image.as_str()),
        operations = request.plan.operations.len(),
        error,
        "update"
    );
    let kept = outcome.as_ref().map(|report| report.kept.clone()).unwrap_or_default();
    shared.throttle.hurry();
    shared.change(|state| state.updated(kept, error));
    shared.look_at_the_disk();
    outcome
}

fn remember(shared: &Shared, request: &UpdateRequest) -> Result<(), AgentError> {
    let memory = &shared.memory;
    memory.remember_triggers(&request.triggers).map_err(|error| failed("remember the triggers", error))?;
    let Some(image) = &request.image else { return Ok(()) };
    memory.remember_image(image).map_err(|error| failed("remember the image", error))?;
    shared.change(|state| state.made(image.clone()));
    Ok(())
}

/// What went wrong, in one line.
fn summary(report: &UpdateReport) -> Option<String> {
    let paths = report.failures.iter().map(|failure| format!("{}: {}", failure.path, failure.reason));
    let services = report.services.iter().filter_map(|service| {
        service.error.as_ref().map(|error| format!("{} {}: {error}", service.action, service.service))
    });
    let mut all = paths.chain(services);
    let first = all.next()?;
    match all.count() {
        0 => Some(first),
        more => Some(format!("{first}, and {more} more")),
    }
}

/// Drops the objects that no update used, and gives the gate's leave back.
pub(super) async fn clean_up(shared: Arc<Shared>) -> Result<(), AgentError> {
    let order = Order::begin(shared, Activity::Fetching)?;
    let shared = Arc::clone(&order.shared);
    super::blocking("clean up", move || {
        let cleared = shared
            .with_updater(|updater| updater.objects().clear())
            .map_err(|error| failed("clean up", error))?;
        cleared.map_err(|error| failed("clean up", error))?;
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

fn failed(what: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> AgentError {
    AgentError::Failed { what: format!("could not {what}"), cause: Cause::new(error) }
}
