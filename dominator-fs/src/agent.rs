//! The agent of the machine this process runs on: scans without end, answers what it saw, and carries out orders.
//!
//! A thread of its own scans; orders run on the runtime's blocking pool, one at a time. Answers come from memory, so that
//! ten thousand waiting polls cost nothing. What must outlive the process (the view, the triggers of the image before,
//! the name of the image) is in the state directory; what must be on the file-system of the root is in `/.subd` there.
//!
//! What is not here: authorisation, which is for whoever puts this on a network, and any decision what to do.

mod effort;
mod hints;
mod listen;
mod memory;
mod observer;
mod order;
mod scanning;
mod state;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dominator_core::filter::Filter;
use dominator_core::object::ObjectId;
use dominator_core::path::{ImagePath, Name};
use dominator_core::port::{
    Agent, AgentError, AgentStatus, Boost, Cause, Chain, Configuration, DisruptionGate, FetchReport,
    FetchRequest, MachineTraits, ObjectSources, PollReply, PollRequest, Reconfiguration, Scanned,
    ServiceRunner, UpdateReport, UpdateRequest, Works,
};
use dominator_core::view::{View, ViewId};
use thiserror::Error;
use tokio::sync::watch;

use crate::root::{Beneath, Root, RootError};
use crate::seam::{Kernel, Seam};
use crate::traits::{granularity_of, traits_of};
use crate::update::Updater;
use effort::Throttle;
use listen::Bell;
use memory::Memory;
use order::Inherited;
use scanning::ScanThread;
use state::State;

pub use effort::Effort;
pub use memory::MemoryError;

/// What an agent is started with.
pub struct AgentConfig {
    /// The directory that must be as the image says, usually `/`.
    pub root: PathBuf,
    /// Where it remembers what must outlive it; made if missing, one agent each. Protected when within the root.
    pub state: PathBuf,
    /// What else is protected when within the root: keys and configuration of the agent. Paths of this machine.
    pub protected: Vec<PathBuf>,
    /// What the machine's operator wants left alone.
    pub exclusions: Filter,
    /// How long after the end of a scan the next begins.
    pub scan_interval: Duration,
    /// How hard it works at that.
    pub effort: Effort,
    /// Who starts and stops services.
    pub services: Arc<dyn ServiceRunner>,
    /// Where objects are fetched from.
    pub sources: Arc<dyn ObjectSources>,
    /// Who is asked before users are disturbed; nobody, if not given.
    pub gate: Option<Arc<dyn DisruptionGate>>,
}

/// An agent that can't start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The root can't be opened.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The state directory can't be used.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A path that must be protected has no place in an image.
    #[error("{} can't be protected: it is the root itself or no plain path", path.display())]
    Protected {
        /// Which.
        path: PathBuf,
    },
    /// No thread for scans.
    #[error("the scanning thread can't be started")]
    Thread(#[source] std::io::Error),
}

/// The agent of a root. Dropping it ends the scans; an order under way is carried out to its end by the runtime.
pub struct LocalAgent {
    shared: Arc<Shared>,
    _scans: ScanThread,
}

/// What orders, answers and scans share.
struct Shared {
    root: Root,
    seam: Arc<dyn Seam>,
    services: Arc<dyn ServiceRunner>,
    sources: Arc<dyn ObjectSources>,
    gate: Option<Arc<dyn DisruptionGate>>,
    memory: Memory,
    /// Nothing while the root can't be written to. Locked for as long as an order uses it.
    updater: Mutex<Option<Updater>>,
    state: Mutex<State>,
    /// The generation; sent to after every change of the state that an answer shows.
    generation: watch::Sender<u64>,
    /// Wakes the scanning thread.
    bell: Bell,
    /// What the scanning threads keep to.
    throttle: Throttle,
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
        let (root, beneath) = Root::open_beneath_mounts(&config.root)?;
        let memory = Memory::open(&config.state)?;
        let mut traits = traits_of(&root);
        traits.exclusions = config.exclusions;
        traits.mtime = granularity_of(&root).unwrap_or(traits.mtime);
        traits.protected.extend(protected(&config.root, config.protected.iter().chain([&config.state]))?);
        let view = memory.view().filter(|view| respects(view, &traits));
        let mut state = State::new(view, memory.last_image()?, traits);
        state.set_beneath_mounts(match beneath {
            Beneath::Yes => Works::Yes,
            no @ Beneath::No { .. } => {
                tracing::info!("{no}");
                Works::No(no.to_string())
            }
        });
        state.advance();
        let shared = Arc::new(Shared {
            root,
            seam,
            services: config.services,
            sources: config.sources,
            gate: config.gate,
            memory,
            updater: Mutex::new(None),
            generation: watch::Sender::new(state.generation()),
            state: Mutex::new(state),
            bell: Bell::default(),
            throttle: Throttle::new(config.effort),
        });
        shared.memory.triggers()?;
        shared.look_at_the_disk();
        let inherited = Inherited::of(&shared)?;
        let scans = ScanThread::start(Arc::clone(&shared), config.scan_interval, inherited)
            .map_err(StartError::Thread)?;
        Ok(Self { shared, _scans: scans })
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
    async fn set_view(&self, view: View) -> Result<ViewId, AgentError> {
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

    /// Goes on when the future is dropped.
    async fn fetch(&self, request: FetchRequest) -> Result<FetchReport, AgentError> {
        joined(tokio::spawn(order::fetch(Arc::clone(&self.shared), request)), "fetch objects").await
    }

    /// Goes on when the future is dropped.
    async fn update(&self, request: UpdateRequest) -> Result<UpdateReport, AgentError> {
        joined(tokio::spawn(order::update(Arc::clone(&self.shared), request)), "update").await
    }

    /// Goes on when the future is dropped.
    async fn clean_up(&self) -> Result<(), AgentError> {
        joined(tokio::spawn(order::clean_up(Arc::clone(&self.shared))), "clean up").await
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
}

impl Shared {
    /// A poisoned lock is a bug elsewhere that must not spread: the state is valid after every statement.
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
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

    /// Calls `work` with the updater, which is set up if it was not possible before.
    fn with_updater<T>(&self, work: impl FnOnce(&mut Updater) -> T) -> Result<T, crate::update::WorkError> {
        let mut updater = self.updater.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let ready = match updater.take() {
            Some(ready) => ready,
            None => Updater::new(self.root.clone(), Arc::clone(&self.seam))?,
        };
        Ok(work(updater.insert(ready)))
    }

    /// Finds out whether the root can be written to and how much room it has.
    fn look_at_the_disk(&self) {
        if let Err(error) = self.root.follow_machine() {
            tracing::debug!(%error, "the root stays as writable as it was when the agent started");
        }
        let looked = self.with_updater(|updater| {
            updater.probe().map(|()| updater.objects().free_space().map(|free| free.bytes).unwrap_or(0))
        });
        let (free, error) = match looked {
            Ok(Ok(free)) => (free, None),
            Ok(Err(error)) => (0, Some(format!("the root can't be written to: {error}"))),
            Err(error) => (0, Some(Chain(&error).to_string())),
        };
        let mut state = self.lock();
        if state.set_disk(free, error) {
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

/// The paths of an image that `paths` of the machine are, as far as they are within `root`.
fn protected<'a>(
    root: &Path,
    paths: impl Iterator<Item = &'a PathBuf>,
) -> Result<BTreeSet<ImagePath>, StartError> {
    let root = resolved(root);
    let mut protected = BTreeSet::new();
    for (path, place) in paths.flat_map(|path| places(path).into_iter().map(move |place| (path, place))) {
        let Ok(relative) = place.strip_prefix(&root) else { continue };
        let refused = || StartError::Protected { path: path.clone() };
        let mut inside = ImagePath::root();
        for part in relative {
            let name = Name::parse(part.as_encoded_bytes()).map_err(|_| refused())?;
            inside = inside.join(&name).map_err(|_| refused())?;
        }
        if inside.is_root() {
            return Err(refused());
        }
        protected.insert(inside);
    }
    Ok(protected)
}

/// All that must stay for `path` to lead where it leads: its end, and the symbolic links on the way there.
fn places(path: &Path) -> Vec<PathBuf> {
    let mut places = vec![resolved(path)];
    let mut ways = vec![path.to_owned()];
    // As many links as the kernel follows.
    for _ in 0..40 {
        let Some(way) = ways.pop() else { break };
        let way = std::path::absolute(&way).unwrap_or(way);
        for link in way.ancestors() {
            if let (Ok(target), Some(parent), Some(name)) =
                (link.read_link(), link.parent(), link.file_name())
            {
                places.push(resolved(parent).join(name));
                ways.push(resolved(parent).join(target));
            }
        }
    }
    places
}

/// The path with symbolic links resolved, as far as it exists: what is protected may be made later.
fn resolved(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.ancestors()
        .find_map(|ancestor| {
            let real = ancestor.canonicalize().ok()?;
            Some(real.join(path.strip_prefix(ancestor).ok()?))
        })
        // `join` with nothing leaves a slash at the end.
        .map(|path| path.components().collect())
        .unwrap_or(path)
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
