//! A machine for an agent, with all that is around it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dominator_core::object::ObjectId;
use dominator_core::plan::{Comparison, Needs, Plan};
use dominator_core::port::*;
use dominator_core::tree::{Directory, LinkSets, Snapshot, Tree};
use dominator_core::trigger::Triggers;
use dominator_core::view::View;
use dominator_fs::agent::{AgentConfig, LocalAgent};
use dominator_fs::root::Root;
use dominator_fs::scan::{Cancel, Scanner};
use dominator_fs_testkit::scenario::view_by;
use futures_util::stream;
use tempfile::TempDir;

/// Objects in memory, which lie if told to.
#[derive(Clone, Default)]
pub(crate) struct Source {
    pub(crate) objects: Arc<Mutex<HashMap<ObjectId, Bytes>>>,
    /// What is sent in place of what was asked for.
    pub(crate) pieces: Arc<Mutex<Option<Vec<Piece>>>>,
    /// Held while a fetch must not end.
    pub(crate) gate: Arc<tokio::sync::Mutex<()>>,
}

#[async_trait]
impl ObjectSources for Source {
    async fn source(&self, address: &str) -> Result<Arc<dyn ObjectSource>, StoreError> {
        assert_eq!(address, "images:6971");
        Ok(Arc::new(self.clone()))
    }
}

#[async_trait]
impl ObjectSource for Source {
    async fn objects(&self, wanted: Vec<ObjectId>) -> Result<Pieces, StoreError> {
        drop(self.gate.lock().await);
        if let Some(pieces) = self.pieces.lock().unwrap().take() {
            return Ok(Pieces::new(stream::iter(pieces.into_iter().map(Ok))));
        }
        let objects = self.objects.lock().unwrap();
        let mut pieces = Vec::new();
        for id in wanted {
            let bytes = objects.get(&id).ok_or(StoreError::NotFound { id })?.clone();
            pieces.push(Ok(Piece::Begin { id, size: bytes.len() as u64 }));
            pieces.extend(bytes.chunks(3).map(|part| Ok(Piece::Data(Bytes::copy_from_slice(part)))));
        }
        Ok(Pieces::new(stream::iter(pieces)))
    }
}

/// Notes what is asked of it; waits for leave when it was given someone to ask.
#[derive(Default)]
pub(crate) struct Services {
    pub(crate) calls: Mutex<Vec<String>>,
    /// The agent dies when it does this.
    pub(crate) fatal: Mutex<Option<&'static str>>,
    /// It can't do this.
    pub(crate) broken: Mutex<Option<&'static str>>,
    pub(crate) leave: Mutex<Option<mpsc::Receiver<()>>>,
}

impl ServiceRunner for Services {
    fn run(&self, action: ServiceAction, service: &str) -> Result<(), ServiceError> {
        let call = format!("{} {service}", action.verb());
        let fatal = *self.fatal.lock().unwrap();
        // Nothing of a dead agent does anything any more, also not what comes to know of the death.
        assert!(fatal.is_none() || self.calls.lock().unwrap().last().map(String::as_str) != fatal);
        self.calls.lock().unwrap().push(call.clone());
        assert_ne!(fatal, Some(call.as_str()), "the end of the agent");
        if let Some(leave) = &*self.leave.lock().unwrap() {
            leave.recv().unwrap();
        }
        if *self.broken.lock().unwrap() == Some(call.as_str()) {
            let (action, service) = (action.verb(), service.to_owned());
            return Err(ServiceError::Failed { action, service, output: "no licence".to_owned() });
        }
        Ok(())
    }
}

pub(crate) struct Gate(pub(crate) Mutex<GateAnswer>);

#[async_trait]
impl DisruptionGate for Gate {
    async fn request(&self) -> GateAnswer {
        self.0.lock().unwrap().clone()
    }
    async fn release(&self) {}
    fn state(&self) -> DisruptionState {
        DisruptionState::Anytime
    }
}

pub(crate) struct Machine {
    pub(crate) root: TempDir,
    pub(crate) state: TempDir,
    pub(crate) source: Source,
    pub(crate) services: Arc<Services>,
    pub(crate) gate: Option<Arc<Gate>>,
    pub(crate) interval: Duration,
    pub(crate) protected: Vec<PathBuf>,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
            state: tempfile::tempdir().unwrap(),
            source: Source::default(),
            services: Arc::default(),
            gate: None,
            interval: Duration::from_secs(3600),
            protected: Vec::new(),
        }
    }

    pub(crate) fn config(&self) -> AgentConfig {
        let services = Arc::clone(&self.services) as Arc<dyn ServiceRunner>;
        let sources = Arc::new(self.source.clone());
        let mut config = AgentConfig::new(self.root.path(), self.state.path(), services, sources);
        config.protected.clone_from(&self.protected);
        config.scan_interval = self.interval;
        config.settle = Duration::ZERO;
        config.gate = self.gate.clone().map(|gate| gate as Arc<dyn DisruptionGate>);
        config
    }

    pub(crate) fn start(&self) -> LocalAgent {
        LocalAgent::start(self.config()).unwrap()
    }

    /// A started agent that has scanned.
    pub(crate) async fn ready(&self) -> LocalAgent {
        let agent = self.start();
        agent.set_view(view(&agent).await, None).await.unwrap();
        tree(&agent).await;
        agent
    }

    pub(crate) fn write(&self, name: &str, contents: &str) {
        std::fs::write(self.root.path().join(name), contents).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.root.path().join(name)).ok()
    }

    pub(crate) fn offer(&self, contents: &str) -> (ObjectId, u64) {
        let id = ObjectId::of(contents.as_bytes());
        self.source.objects.lock().unwrap().insert(id, Bytes::copy_from_slice(contents.as_bytes()));
        (id, contents.len() as u64)
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.services.calls.lock().unwrap())
    }
}

pub(crate) async fn poll(agent: &LocalAgent) -> PollReply {
    agent.poll(PollRequest::default()).await.unwrap()
}

/// The view a controller would make of the machine's traits.
pub(crate) async fn view(agent: &LocalAgent) -> View {
    view_by(&poll(agent).await.details.traits)
}

/// Polls until there is a tree.
pub(crate) async fn tree(agent: &LocalAgent) -> Tree {
    let mut known = None;
    loop {
        let wait = Duration::from_secs(60);
        let reply = agent.poll(PollRequest { known, wait, view: None }).await.unwrap();
        match reply.scanned {
            Scanned::Tree(tree) => return tree,
            Scanned::NotYet => known = Some(reply.status.generation),
            Scanned::NeedView => panic!("the view is set"),
        }
    }
}

/// What a machine must be that looks like a directory with these files.
pub(crate) fn required(view: &View, like: &Machine, files: &[(&str, &str)]) -> Snapshot {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), like.root.path().metadata().unwrap().permissions()).unwrap();
    for (name, contents) in files {
        std::fs::write(dir.path().join(name), contents).unwrap();
    }
    let root = Root::open(dir.path()).unwrap();
    Scanner::new(root, Arc::new(view.clone())).scan(&Cancel::default()).unwrap().snapshot
}

/// Makes a plan as a controller does: with the directories it asks the agent for.
pub(crate) async fn plan(agent: &LocalAgent, required: &Snapshot) -> (Tree, Plan) {
    let actual = tree(agent).await;
    let root = actual.root.directory().unwrap().0;
    let encoded = agent.directories(vec![root, actual.links.0]).await.unwrap();
    let mut directories = dominator_core::tree::DirectoryMap::default();
    assert_eq!(directories.insert(Directory::decode(encoded[0].clone()).unwrap()).0, root);
    let links = LinkSets::decode(&encoded[1]).unwrap();
    let comparison = Comparison { required, actual: &actual, links: Some(&links), directories: &directories };
    let plan = comparison.plan().unwrap().plan;
    (actual, plan)
}

pub(crate) async fn order(agent: &LocalAgent, required: &Snapshot, triggers: &str) -> UpdateRequest {
    let (base, plan) = plan(agent, required).await;
    UpdateRequest {
        image: Some("web/1".parse().unwrap()),
        triggers: Triggers::from_json(triggers.as_bytes()).unwrap(),
        ..UpdateRequest::new(base.id(), base.view, plan)
    }
}

pub(crate) fn fetched(objects: u64, bytes: u64) -> FetchReport {
    FetchReport { objects, bytes, ..FetchReport::default() }
}

pub(crate) fn fetch(objects: &[(ObjectId, u64)]) -> FetchRequest {
    FetchRequest {
        needs: Needs::of(objects.iter().copied()),
        sources: vec!["images:6971".to_owned()],
        lock: None,
    }
}

pub(crate) const WEB: &str = r#"[{"MatchLines": ["/conf"], "Service": "web", "HighImpact": true}]"#;
