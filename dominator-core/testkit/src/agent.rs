use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dominator_core::filter::Filter;
use dominator_core::image::Image;
use dominator_core::inode::{Inode, Kind, Mode, Timestamp, Xattrs};
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::plan::Operation;
use dominator_core::port::{
    Agent, AgentDetails, AgentError, AgentStatus, Boost, Configuration, FetchReport, FetchRequest, LockToken,
    MachineTraits, ObjectSources, ObjectStore as _, Percent, PollReply, PollRequest, Reconfiguration,
    ScanStatus, Scanned, SourceFailure, StoreError, UpdateReport, UpdateRequest, Verified,
};
use dominator_core::tree::{Builder, Directories as _, DirectoryId, Snapshot};
use dominator_core::trigger::Triggers;
use dominator_core::view::{Granularity, Ownership, View, ViewId, XattrPolicy};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::MemoryObjects;

/// A machine in memory: it scans, fetches and applies plans, all at once and without failing.
pub struct FakeAgent {
    sources: Arc<dyn ObjectSources>,
    fetched: MemoryObjects,
    state: Mutex<State>,
    generation: watch::Sender<u64>,
    updates: watch::Sender<u64>,
}

struct State {
    files: BTreeMap<ImagePath, Inode>,
    view: Option<View>,
    details: Arc<AgentDetails>,
    /// Counts their changes.
    details_version: u64,
    configuration: Configuration,
    boosts: Vec<Boost>,
}

impl FakeAgent {
    /// A machine with nothing but a root, that fetches from `sources`.
    pub fn new(sources: Arc<dyn ObjectSources>) -> Self {
        let files = [(ImagePath::root(), directory())].into_iter().collect();
        Self {
            sources,
            fetched: MemoryObjects::default(),
            state: Mutex::new(State::new(files)),
            generation: watch::Sender::new(0),
            updates: watch::Sender::new(0),
        }
    }

    /// Makes the machine have these files, and nothing else.
    pub fn become_like(&self, tree: &Snapshot) {
        let mut files = BTreeMap::new();
        tree.walk(|path, inode| drop(files.insert(path.clone(), inode.clone())));
        self.change(|state| state.files = files);
    }

    /// Makes the machine tell these details.
    pub fn tell(&self, details: AgentDetails) {
        self.change(|state| state.tell(details));
    }

    /// The limits it was made to lift, in order.
    pub fn boosts(&self) -> Vec<Boost> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).boosts.clone()
    }

    /// How many updates were applied; changes are told.
    pub fn updates(&self) -> watch::Receiver<u64> {
        self.updates.subscribe()
    }

    /// All of the machine.
    pub fn snapshot(&self) -> Snapshot {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.snapshot(&View::everything())
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.generation.send_modify(|generation| *generation += 1);
    }

    fn reply(&self, request: &PollRequest) -> PollReply {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let scanned = match &state.view {
            Some(view) if request.view.is_none_or(|id| id == view.id()) => {
                Scanned::Tree(state.snapshot(view).tree)
            }
            Some(_) | None => Scanned::NeedView,
        };
        let generation = *self.generation.borrow();
        let status = AgentStatus {
            instance: 1,
            generation,
            details: state.details_version,
            scans: ScanStatus {
                count: generation,
                duration: Duration::from_millis(3),
                ..ScanStatus::default()
            },
            free_space: 1 << 40,
            ..AgentStatus::default()
        };
        PollReply { scanned, status, details: Arc::clone(&state.details) }
    }
}

impl FakeAgent {
    async fn fetch_from(&self, source: &str, wanted: Vec<ObjectId>) -> Result<Vec<Verified>, StoreError> {
        let pieces = self.sources.source(source).await?.objects(wanted).await?;
        self.fetched.add(pieces).await
    }
}

#[async_trait]
impl Agent for FakeAgent {
    async fn poll(&self, request: PollRequest) -> Result<PollReply, AgentError> {
        if let Some(known) = request.known {
            let mut generation = self.generation.subscribe();
            let changed = generation.wait_for(|generation| *generation != known);
            // What counts is how it stands afterwards, be it changed or not.
            drop(timeout(request.wait, changed).await);
        }
        Ok(self.reply(&request))
    }

    async fn set_view(&self, view: View, _lock: Option<LockToken>) -> Result<ViewId, AgentError> {
        let id = view.id();
        self.change(|state| state.view = Some(view));
        Ok(id)
    }

    async fn directories(&self, ids: Vec<ObjectId>) -> Result<Vec<Bytes>, AgentError> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let not_now = || AgentError::NotNow("no view".into());
        let snapshot = state.snapshot(state.view.as_ref().ok_or_else(not_now)?);
        let encoding = |id: ObjectId| match snapshot.directories.directory(&DirectoryId(id)) {
            Some(directory) => Ok(directory.encoded().clone()),
            None if id == snapshot.tree.links.0 => Ok(snapshot.links.encode().into()),
            None => Err(AgentError::Gone { id }),
        };
        ids.into_iter().map(encoding).collect()
    }

    async fn fetch(&self, request: FetchRequest) -> Result<FetchReport, AgentError> {
        let wanted: Vec<_> = request.needs.objects.keys().copied().collect();
        let mut failed = Vec::new();
        for source in request.sources {
            match self.fetch_from(&source, wanted.clone()).await {
                Ok(added) => {
                    let objects = u64::try_from(added.len()).unwrap_or(u64::MAX);
                    let bytes = added.iter().map(|object| object.size()).sum();
                    let failed = failed.iter().map(ToString::to_string).collect();
                    return Ok(FetchReport { objects, bytes, failed, ..FetchReport::default() });
                }
                Err(error) => failed.push(SourceFailure { source, object: None, error }),
            }
        }
        Err(AgentError::Fetch(StoreError::Sources(failed)))
    }

    async fn update(&self, request: UpdateRequest) -> Result<UpdateReport, AgentError> {
        for id in request.plan.needs().objects.into_keys() {
            if self.fetched.bytes(&id).is_none() {
                return Err(AgentError::Fetch(StoreError::NotFound { id }));
            }
        }
        let applied = u64::try_from(request.plan.operations.len()).unwrap_or(u64::MAX);
        let mut moved_on = false;
        self.change(|state| {
            let base = state.view.as_ref().map(|view| state.snapshot(view).id());
            moved_on = base != Some(request.base);
            if !moved_on {
                request.plan.operations.iter().for_each(|operation| state.apply(operation));
                let last_image = request.image.clone();
                state.tell(AgentDetails { last_image, ..AgentDetails::clone(&state.details) });
            }
        });
        if moved_on {
            return Err(AgentError::NotNow("the machine is another by now".into()));
        }
        self.updates.send_modify(|updates| *updates += 1);
        Ok(UpdateReport { applied, ..UpdateReport::default() })
    }

    async fn clean_up(&self, _lock: Option<LockToken>) -> Result<(), AgentError> {
        Ok(())
    }

    async fn configuration(&self) -> Result<Configuration, AgentError> {
        Ok(self.state.lock().unwrap_or_else(PoisonError::into_inner).configuration.clone())
    }

    async fn configure(&self, change: Reconfiguration) -> Result<(), AgentError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Configuration { cpu, scan_speed, network_speed, network_bytes, .. } = &mut state.configuration;
        *cpu = change.cpu.unwrap_or(*cpu);
        *scan_speed = change.scan_speed.unwrap_or(*scan_speed);
        *network_speed = change.network_speed.unwrap_or(*network_speed);
        *network_bytes = change.network_bytes.map_or(*network_bytes, NonZeroU64::new);
        Ok(())
    }

    async fn boost(&self, boost: Boost) -> Result<(), AgentError> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).boosts.push(boost);
        Ok(())
    }
}

impl State {
    fn new(files: BTreeMap<ImagePath, Inode>) -> Self {
        let traits = traits();
        let exclusions = traits.exclusions.clone();
        Self {
            files,
            view: None,
            details: Arc::new(AgentDetails::new(Arc::new(traits))),
            details_version: 0,
            configuration: Configuration {
                cpu: Percent::ALL,
                scan_speed: Percent::ALL,
                network_speed: Percent::ALL,
                network_bytes: None,
                exclusions,
            },
            boosts: Vec::new(),
        }
    }

    fn tell(&mut self, details: AgentDetails) {
        self.details = Arc::new(details);
        self.details_version += 1;
    }

    fn snapshot(&self, view: &View) -> Snapshot {
        let mut builder = Builder::new(directory()).expect("invariant: a directory is a root");
        for (path, inode) in &self.files {
            builder.insert(path, inode.clone()).expect("invariant: parents come before their children");
        }
        view.apply(&builder.finish(view.id()))
    }

    fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::MakeDirectory { path, inode } | Operation::Put { path, inode } => {
                self.files.insert(path.clone(), inode.clone());
            }
            Operation::SetMetadata { paths, inode } => {
                self.files.extend(paths.iter().map(|path| (path.clone(), inode.clone())));
            }
            Operation::Delete { path, .. } => drop(self.files.remove(path)),
            // This machine has no hard links: another name is another file.
            Operation::Link { path, target } => {
                if let Some(inode) = self.files.get(target).cloned() {
                    self.files.insert(path.clone(), inode);
                }
            }
            other => unreachable!("a plan holds {other}, which is not known here"),
        }
    }
}

fn traits() -> MachineTraits {
    MachineTraits {
        protected: BTreeSet::new(),
        exclusions: Filter::parse("/proc/.*\n").expect("invariant: this is a filter"),
        xattrs: XattrPolicy::ALL,
        ownership: Ownership::Kept,
        mtime: Granularity::FINE,
    }
}

/// A tree of files with these contents; the directories on the way are made.
pub fn tree_of(files: &[(&str, &[u8])]) -> Snapshot {
    let mut builder = Builder::new(directory()).expect("invariant: a directory is a root");
    for (path, contents) in files {
        let path = ImagePath::parse(path.as_bytes()).expect("invariant: tests name paths");
        let mut missing = Vec::new();
        let mut parent = path.parent();
        while let Some(directory) = parent.filter(|directory| !builder.contains(directory)) {
            parent = directory.parent();
            missing.push(directory);
        }
        for made in missing.iter().rev() {
            builder.insert(made, directory()).expect("invariant: it was missing and its parent is there");
        }
        builder.insert(&path, file(contents)).expect("invariant: its directory is there");
    }
    builder.finish(View::everything().id())
}

/// An image of a tree, which looks at everything.
pub fn image_of(tree: &Snapshot) -> Image {
    Image::new(tree.tree.clone(), Filter::Empty, Triggers::default(), XattrPolicy::ALL)
}

fn directory() -> Inode {
    inode(0o755, Kind::Directory { id: Builder::placeholder() })
}

fn file(contents: &[u8]) -> Inode {
    let mtime = Timestamp::new(1_700_000_000, 0).expect("invariant: whole seconds are times");
    let size = u64::try_from(contents.len()).unwrap_or(u64::MAX);
    inode(0o644, Kind::Regular { mtime, size, object: ObjectId::of(contents) })
}

fn inode(mode: u32, kind: Kind) -> Inode {
    Inode { mode: Mode::from_st_mode(mode), uid: 0, gid: 0, xattrs: Xattrs::default(), kind }
}
