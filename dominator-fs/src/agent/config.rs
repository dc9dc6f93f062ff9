use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dominator_core::filter::Filter;
use dominator_core::health::Probe;
use dominator_core::path::{ImagePath, Name};
use dominator_core::port::{AgentMode, DisruptionGate, ObjectSources, Prober, ServiceRunner, Unhealthy};
use dominator_core::trigger::ServiceName;
use thiserror::Error;

use super::{Effort, MemoryError, UndoBudget};
use crate::note::NoteCommand;
use crate::root::RootError;
use crate::update::BootId;

/// What an agent is started with.
#[derive(Clone)]
#[non_exhaustive]
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
    /// What it is started to do.
    pub mode: AgentMode,
    /// Who makes the checks of an image's health.
    pub prober: Arc<dyn Prober>,
    /// How long what undoing the last update needs is kept.
    pub undo: UndoBudget,
    /// The service that watches over an agent which replaces itself, and takes that back when it does not come up; none,
    /// if somebody else does. An update of the agent is taken back when it can't be started.
    pub guard: Option<ServiceName>,
    /// How long services that an update started are looked at before it is judged, at least: one that dies as soon as it
    /// was started has not come up.
    pub settle: Duration,
    /// What is run when the agent starts and after each update that was made, for its words to be told; nothing, if not
    /// given.
    pub note: Option<NoteCommand>,
    /// Which start of the machine this is.
    pub boot: BootId,
}

impl AgentConfig {
    /// How long services are looked at unless said otherwise. What lives longer is for the image's checks.
    pub const SETTLE: Duration = Duration::from_secs(2);

    /// Of a root whose scans follow each other after a minute, with nothing excluded, nobody to be asked, and what else
    /// is usual; the fields change that.
    pub fn new(
        root: impl Into<PathBuf>,
        state: impl Into<PathBuf>,
        services: Arc<dyn ServiceRunner>,
        sources: Arc<dyn ObjectSources>,
    ) -> Self {
        Self {
            root: root.into(),
            state: state.into(),
            protected: Vec::new(),
            exclusions: Filter::Empty,
            scan_interval: Duration::from_secs(60),
            effort: Effort::default(),
            services,
            sources,
            gate: None,
            mode: AgentMode::Normal,
            prober: Arc::new(NoProber),
            undo: UndoBudget::default(),
            guard: None,
            settle: Self::SETTLE,
            note: None,
            // A machine that does not tell must be restarted by somebody else to be known to have been.
            boot: BootId::current().unwrap_or_else(|_| BootId::of(b"unknown")),
        }
    }

    /// What is protected as an image sees it: the state directory, and what else was named.
    pub(super) fn protected(&self) -> Result<BTreeSet<ImagePath>, StartError> {
        protected(&self.root, self.protected.iter().chain([&self.state]))
    }
}

/// Nobody who could look: what must be checked is not well.
#[derive(Debug)]
struct NoProber;

impl Prober for NoProber {
    fn probe(&self, _: &Probe, _: Duration) -> Result<(), Unhealthy> {
        Err(Unhealthy::Wrong(
            "this agent makes no checks; it does where its root is that of the running system".to_owned(),
        ))
    }
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
