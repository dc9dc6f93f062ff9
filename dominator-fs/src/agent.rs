//! The agent of the machine this process runs on: scans without end, answers what it saw, and carries out orders.
//!
//! A thread of its own scans; orders run on the runtime's blocking pool, one at a time. Answers come from memory, so that
//! ten thousand waiting polls cost nothing. What must outlive the process (the view, the triggers of the image before,
//! the name of the image) is in the state directory; what must be on the file-system of the root is in `/.subd` there.
//!
//! An update is judged by the agent that made it, or the one that comes after it, and taken back when the machine is not well
//! with it.
//!
//! What is not here: authorisation, which is for whoever puts this on a network, and any decision what to do.

mod activation;
mod attention;
mod bad;
mod brought;
mod budget;
mod condition;
mod config;
mod effort;
mod fetch;
mod files;
mod hints;
mod history;
mod listen;
mod lock;
mod memory;
mod note;
mod observer;
mod order;
mod progress;
mod recovery;
mod restart;
mod scanning;
mod served;
mod state;
mod switch;

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use dominator_core::filter::Filter;
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::port::{
    Agent, AgentDetails, AgentError, AgentMode, AgentStatus, Boost, Cause, Chain, Configuration,
    DisruptionGate, FetchReport, FetchRequest, FileContents, ForgiveRequest, LockRequest, LockToken,
    MachineTraits, ObjectSources, ObjectStore, PollReply, PollRequest, Prober, Reconfiguration,
    RemovedConflicts, RestartRequest, Rules, Scanned, ServiceOutcome, ServiceRunner, UndoRequest,
    UpdateRecord, UpdateReport, UpdateRequest, Works,
};
use dominator_core::trigger::ServiceName;
use dominator_core::view::{View, ViewId};
use tokio::sync::watch;

use crate::note::NoteCommand;
use crate::root::{Beneath, Root};
use crate::scan::Installed;
use crate::seam::{Kernel, Seam};
use crate::service::NoServices;
use crate::traits::{granularity_of, traits_of};
use crate::update::{BootId, Updater};
use activation::Course;
use attention::Attention;
use effort::Throttle;
use history::History;
use listen::Bell;
use lock::Lock;
use memory::Memory;
use recovery::{Aftermath, Inherited};
use scanning::ScanThread;
use served::Served;
use state::State;

pub use budget::UndoBudget;
pub use config::{AgentConfig, StartError};
pub use effort::Effort;
pub use fetch::Patience;
pub use memory::MemoryError;

/// The agent of a root. Dropping it ends the scans; an order under way is carried out to its end by the runtime.
pub struct LocalAgent {
    shared: Arc<Shared>,
    _scans: ScanThread,
    _attention: Option<Attention>,
}

/// What orders, answers and scans share.
struct Shared {
    root: Root,
    seam: Arc<dyn Seam>,
    services: Arc<dyn ServiceRunner>,
    sources: Arc<dyn ObjectSources>,
    gate: Option<Arc<dyn DisruptionGate>>,
    mode: AgentMode,
    prober: Arc<dyn Prober>,
    undo: UndoBudget,
    guard: Option<ServiceName>,
    settle: Duration,
    boot: BootId,
    /// Whether the restart that is on record was ordered by this process.
    restarting: AtomicBool,
    noting: Option<NoteCommand>,
    memory: Memory,
    history: History,
    /// Nothing while the root can't be written to. Locked for as long as an order uses it.
    updater: Mutex<Option<Updater>>,
    /// Held while it is found out how the disk is, until that is told: what is told last must have been found last.
    looking: Mutex<()>,
    /// The same of the stop switch.
    looking_at_switch: Mutex<()>,
    /// What is to be done about an update that was cut off, or is not judged.
    aftermath: Aftermath,
    /// The update that can be taken back.
    kept: Mutex<Option<Course>>,
    /// Who has the machine for themselves.
    client: Lock,
    /// Whether this agent can be reached.
    served: Served,
    /// What the last update put in place, until a scan knows of it.
    installed: Mutex<Installed>,
    state: Mutex<State>,
    /// The generation; sent to after every change of the state that an answer shows.
    generation: watch::Sender<u64>,
    /// Wakes the scanning thread.
    bell: Bell,
    /// What the scanning threads keep to.
    throttle: Throttle,
    /// Objects that files of the machine were said to have and turned out not to: they are fetched.
    distrusted: Mutex<BTreeSet<ObjectId>>,
}

impl LocalAgent {
    /// The longest a poll waits, whatever it asks for.
    pub const MAX_WAIT: Duration = Duration::from_secs(600);

    /// Opens root and state, and begins to scan as soon as there is a view.
    ///
    /// # Errors
    /// [`StartError`]. A root that can't be written to is none: the agent says so in its status.
    pub fn start(config: AgentConfig) -> Result<Self, StartError> {
        Self::start_with(config, Arc::new(Kernel))
    }

    /// As [`LocalAgent::start`], with every change of the root going through `seam`.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start_with(config: AgentConfig, seam: Arc<dyn Seam>) -> Result<Self, StartError> {
        Self::start_between(config, seam, Arc::new(Kernel))
    }

    /// As [`LocalAgent::start_with`], with what is remembered beyond the life of an agent going through `state`.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start_between(
        config: AgentConfig,
        seam: Arc<dyn Seam>,
        state: Arc<dyn Seam>,
    ) -> Result<Self, StartError> {
        let (root, beneath) = Root::open_beneath_mounts(&config.root)?;
        let memory = Memory::open_with(&config.state, state)?;
        let mut traits = traits_of(&root);
        traits.protected.extend(config.protected()?);
        traits.exclusions = config.exclusions;
        traits.mtime = granularity_of(&root).unwrap_or(traits.mtime);
        let view = memory.view().filter(|view| respects(view, &traits));
        let mut state = State::new(view, memory.last_image()?, traits);
        let services: Arc<dyn ServiceRunner> = match config.mode {
            AgentMode::TriggersDisabled => Arc::new(NoServices),
            AgentMode::Normal | AgentMode::ReadOnly | AgentMode::UpdatesDisabled => config.services,
        };
        // Whoever asks what it does is told the same.
        let mode = match (config.mode, services.rules()) {
            (AgentMode::Normal, Rules::Nothing) => AgentMode::TriggersDisabled,
            (mode, Rules::Nothing | Rules::Services) => mode,
        };
        state.condition().mode = mode;
        state.condition().bad_images = memory.bad_images()?;
        state.set_beneath_mounts(match beneath {
            Beneath::Yes => Works::Yes,
            no @ Beneath::No { .. } => {
                tracing::info!("{no}");
                Works::No(no.to_string())
            }
        });
        if let Some(view) = state.view_id() {
            state.still_kept(memory.kept(view));
        }
        state.advance();
        let shared = Arc::new(Shared {
            root,
            seam,
            services,
            sources: config.sources,
            gate: config.gate,
            mode,
            prober: config.prober,
            undo: config.undo,
            guard: config.guard,
            settle: config.settle,
            boot: config.boot,
            restarting: AtomicBool::new(false),
            noting: config.note,
            history: History::open(&memory).map_err(|source| memory.fault(source))?,
            memory,
            updater: Mutex::new(None),
            looking: Mutex::default(),
            looking_at_switch: Mutex::default(),
            aftermath: Aftermath::default(),
            kept: Mutex::default(),
            client: Lock::default(),
            served: Served::default(),
            installed: Mutex::default(),
            generation: watch::Sender::new(state.generation()),
            state: Mutex::new(state),
            bell: Bell::default(),
            throttle: Throttle::new(config.effort),
            distrusted: Mutex::default(),
        });
        shared.memory.triggers()?;
        shared.look_at_the_switch();
        // An update that was cut off is brought to its end before there is an answer or a scan.
        shared.look_at_the_disk();
        let inherited = Inherited::of(&shared)?;
        let scans = ScanThread::start(Arc::clone(&shared), config.scan_interval, inherited)
            .map_err(StartError::Thread)?;
        let attention = Attention::start(&shared, &config.state);
        Ok(Self { shared, _scans: scans, _attention: attention })
    }

    /// To be called once this agent can be reached by those who give orders. An update that restarted it, or the machine,
    /// is taken back when that does not come to pass in time; a poll that is answered counts as well.
    pub fn is_served(&self) {
        self.shared.served.yes();
    }

    /// What this agent keeps beside its root for updates, to be added to by others. Nothing is handed out.
    pub fn objects(&self) -> Arc<dyn ObjectStore> {
        Arc::new(brought::Brought(Arc::clone(&self.shared)))
    }

    /// Waits until no order is under way.
    pub async fn idle(&self) {
        let mut changes = self.shared.generation.subscribe();
        while !self.shared.lock().is_idle() {
            // The sender lives as long as this agent.
            drop(changes.changed().await);
        }
    }

    fn reply(&self, request: &PollRequest) -> PollReply {
        let state = self.shared.lock();
        let scanned = match (state.view_id(), request.view) {
            (None, _) => Scanned::NeedView,
            (Some(ours), Some(theirs)) if ours != theirs => Scanned::NeedView,
            (Some(_), _) => state.scanned(),
        };
        let status = AgentStatus { pacing: self.shared.throttle.pacing(), ..state.status() };
        PollReply { scanned, status, details: state.details() }
    }
}

#[async_trait]
impl Agent for LocalAgent {
    /// Answers from memory. Safe to cancel.
    async fn poll(&self, request: PollRequest) -> Result<PollReply, AgentError> {
        self.is_served();
        self.shared.look_at_the_switch();
        let ours = self.shared.lock().view_id();
        // Who means another view has something to send first.
        let same_view = request.view.is_none_or(|view| Some(view) == ours);
        if let Some(known) = request.known.filter(|_| same_view) {
            let mut changes = self.shared.generation.subscribe();
            let changed = changes.wait_for(|generation| *generation != known);
            // Either it changed or the time is over: the answer is the same.
            drop(tokio::time::timeout(request.wait.min(Self::MAX_WAIT), changed).await);
        }
        Ok(self.reply(&request))
    }

    /// Takes effect at once; the scan under way is given up. Refused when the view shows what the machine protects.
    async fn set_view(&self, view: View, lock: Option<LockToken>) -> Result<ViewId, AgentError> {
        self.shared.admit(lock)?;
        if !respects(&view, self.shared.lock().traits()) {
            return Err(AgentError::NotNow(
                "the view shows what this machine protects or excludes; make it of the traits in its status"
                    .to_owned(),
            ));
        }
        let shared = Arc::clone(&self.shared);
        blocking("set the view", move || shared.set_view(view)).await
    }

    async fn directories(&self, ids: Vec<ObjectId>) -> Result<Vec<Bytes>, AgentError> {
        let scans = self.shared.lock().scans();
        blocking("encode directories", move || {
            ids.iter().map(|id| state::encoded(&scans, id).ok_or(AgentError::Gone { id: *id })).collect()
        })
        .await
    }

    /// Ends when the future is dropped, or when an update or a fetch of something else is ordered. What came whole stays,
    /// and the beginning of what did not.
    async fn fetch(&self, request: FetchRequest) -> Result<FetchReport, AgentError> {
        let stop = fetch::Stop::new();
        let _waiting = stop.waiting();
        joined(tokio::spawn(fetch::fetch(Arc::clone(&self.shared), request, stop)), "fetch objects").await
    }

    /// Goes on when the future is dropped.
    async fn update(&self, request: UpdateRequest) -> Result<UpdateReport, AgentError> {
        joined(tokio::spawn(order::update(Arc::clone(&self.shared), request)), "update").await
    }

    /// Goes on when the future is dropped.
    async fn clean_up(&self, lock: Option<LockToken>) -> Result<(), AgentError> {
        joined(tokio::spawn(order::clean_up(Arc::clone(&self.shared), lock)), "clean up").await
    }

    async fn configuration(&self) -> Result<Configuration, AgentError> {
        Ok(self.shared.throttle.configuration(self.shared.lock().traits()))
    }

    async fn configure(&self, change: Reconfiguration) -> Result<(), AgentError> {
        self.shared.throttle.configure(change);
        Ok(())
    }

    /// Takes effect at once when a scan is under way.
    async fn boost(&self, boost: Boost) -> Result<(), AgentError> {
        self.shared.throttle.boost(boost);
        Ok(())
    }

    /// Goes on when the future is dropped.
    async fn undo(&self, request: UndoRequest) -> Result<UpdateReport, AgentError> {
        joined(tokio::spawn(order::undo(Arc::clone(&self.shared), request)), "undo").await
    }

    async fn history(&self, limit: usize) -> Result<Vec<UpdateRecord>, AgentError> {
        let shared = Arc::clone(&self.shared);
        let read =
            move || shared.history.latest(limit).map_err(|error| order::failed("read the history", error));
        blocking("read the history", read).await
    }

    async fn forgive(&self, request: ForgiveRequest) -> Result<(), AgentError> {
        let ForgiveRequest { image, lock } = request;
        self.shared.admit(lock)?;
        let shared = Arc::clone(&self.shared);
        let forgive = move || {
            let left =
                shared.memory.forgive(image.as_ref()).map_err(|error| order::failed("forgive", error))?;
            shared.change(|state| state.condition().bad_images = left);
            Ok(())
        };
        blocking("forgive", forgive).await
    }

    /// Goes on when the future is dropped.
    async fn restart_service(&self, request: RestartRequest) -> Result<ServiceOutcome, AgentError> {
        let restart = order::restart_service(Arc::clone(&self.shared), request);
        joined(tokio::spawn(restart), "restart a service").await
    }

    async fn files(&self, paths: Vec<ImagePath>) -> Result<Vec<FileContents>, AgentError> {
        let shared = Arc::clone(&self.shared);
        blocking("read files", move || files::contents(&shared, paths)).await
    }

    async fn remove_conflicts(&self, lock: Option<LockToken>) -> Result<RemovedConflicts, AgentError> {
        joined(tokio::spawn(order::remove_conflicts(Arc::clone(&self.shared), lock)), "remove conflicts")
            .await
    }

    async fn lock(&self, request: LockRequest) -> Result<(), AgentError> {
        Ok(self.shared.client.take(&request, Instant::now())?)
    }
}

impl Shared {
    /// A poisoned lock is a bug elsewhere that must not spread: the state is valid after every statement.
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Objects that are not found where a scan saw them.
    fn distrusted(&self) -> std::sync::MutexGuard<'_, BTreeSet<ObjectId>> {
        self.distrusted.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn is_distrusted(&self, id: &ObjectId) -> bool {
        self.distrusted().contains(id)
    }

    /// Changes the state and lets everybody know.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let outcome = change(&mut state);
        self.announce(state);
        self.bell.ring();
        outcome
    }

    /// Lets those who wait know of a change. The lock is held meanwhile: generations must be told in order, or a poll
    /// would see one that is over and never wait again.
    fn announce(&self, mut state: std::sync::MutexGuard<'_, State>) {
        self.generation.send_replace(state.advance());
    }

    fn set_view(&self, view: View) -> Result<ViewId, AgentError> {
        let id = view.id();
        if self.lock().view_id() == Some(id) {
            return Ok(id);
        }
        // Only a cache: an agent that lost it is sent the view again.
        if let Err(error) = self.memory.remember_view(&view) {
            tracing::warn!(%error, "the view can't be remembered");
        }
        self.change(|state| state.set_view(id, Arc::new(view)));
        Ok(id)
    }

    /// A controller must not send what can't be done once more because the agent was started anew.
    fn remember_kept(&self) {
        let Some((view, kept)) = self.lock().kept().map(|(view, kept)| (view, kept.clone())) else { return };
        if kept == self.memory.kept(view) {
            return;
        }
        if let Err(error) = self.memory.remember_kept(view, &kept) {
            tracing::warn!(error = %Chain(&error), "what is kept will be planned to be deleted once more by the next agent");
        }
    }

    /// The next scan need not open these.
    fn installed(&self, installed: Installed) {
        *self.installed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = installed;
    }

    fn take_installed(&self) -> Installed {
        std::mem::take(&mut *self.installed.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Calls `work` with the updater, which is set up if it was not possible before, or an update was left half-way: that is
    /// brought to its end first.
    fn with_updater<T>(&self, work: impl FnOnce(&mut Updater) -> T) -> Result<T, crate::update::WorkError> {
        let mut updater = self.updater.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut ready = match updater.take().filter(|ready| !ready.is_unfinished()) {
            Some(ready) => ready,
            None => match Updater::open(self.root.clone(), Arc::clone(&self.seam)) {
                Ok((ready, recovery)) => {
                    self.recovered(Ok(recovery));
                    ready
                }
                Err(error) => {
                    self.recovered(Err(&error));
                    return Err(error);
                }
            },
        };
        // Who panics puts nothing back: what it was at is found on the disk, as after the death of an agent.
        let outcome = work(&mut ready);
        *updater = Some(ready);
        Ok(outcome)
    }

    /// Has an update that is on trial found again, with what is to be done about it: it was not decided, or that could not be
    /// noted.
    fn open_again(&self) {
        let mut updater = self.updater.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        drop(updater.take_if(|updater| updater.is_on_trial()));
    }

    /// Finds out whether the root can be written to and how much room it has.
    fn look_at_the_disk(&self) {
        // Whoever only looks does not bring an update to its end either.
        if self.may_write().is_err() {
            return;
        }
        let _until_told = self.looking.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Err(error) = self.root.follow_machine() {
            tracing::debug!(%error, "the root stays as writable as it was when the agent started");
        }
        let mut found = None;
        let looked = self.with_updater(|updater| {
            let undoable = self.keep_within_budget(updater);
            if let Ok(conflicts) = updater.conflicts(AgentDetails::MAX_CONFLICTS) {
                found = Some(conflicts);
            }
            let free = updater.probe();
            let free = free.map(|()| updater.objects().free_space().map(|free| free.bytes).unwrap_or(0));
            (free, undoable)
        });
        let (free, error, undoable) = match looked {
            Ok((Ok(free), undoable)) => (free, None, undoable),
            Ok((Err(error), undoable)) => {
                (0, Some(format!("the root can't be written to: {error}")), undoable)
            }
            Err(error) => (0, Some(Chain(&error).to_string()), None),
        };
        let mut state = self.lock();
        let was_undoable = std::mem::replace(&mut state.condition().undoable, undoable.clone());
        let news = found.is_some_and(|conflicts| state.condition().notice(conflicts));
        if state.set_disk(free, error) || was_undoable != undoable || news {
            self.announce(state);
        }
    }
}

/// Whether a view looks at nothing the machine wants left alone.
fn respects(view: &View, traits: &MachineTraits) -> bool {
    let excludes = match &traits.exclusions {
        Filter::Lines(_) => view.filters.contains(&traits.exclusions),
        Filter::Empty | Filter::Sparse => true,
    };
    excludes && traits.protected.is_subset(&view.protected)
}

async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, AgentError> + Send + 'static,
) -> Result<T, AgentError> {
    joined(tokio::task::spawn_blocking(work), what).await
}

async fn joined<T>(
    task: tokio::task::JoinHandle<Result<T, AgentError>>,
    what: &'static str,
) -> Result<T, AgentError> {
    task.await.unwrap_or_else(|error| {
        Err(AgentError::Failed { what: format!("could not {what}"), cause: Cause::new(error) })
    })
}
