//! The local agent, from the first poll to the last, as a controller sees it.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::let_underscore_must_use)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dominator_core::filter::Filter;
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::plan::{Comparison, Plan};
use dominator_core::port::*;
use dominator_core::tree::{Directory, LinkSets, Snapshot, Tree};
use dominator_core::trigger::Triggers;
use dominator_core::view::View;
use dominator_fs::agent::{AgentConfig, Effort, LocalAgent, StartError};
use dominator_fs::root::Root;
use dominator_fs::scan::{Cancel, Scanner};
use dominator_fs_testkit::{left_out, needs_root};
use futures_util::stream;
use nix::mount::{MsFlags, mount};
use tempfile::TempDir;

/// Objects in memory, which lie if told to.
#[derive(Clone, Default)]
struct Source {
    objects: Arc<Mutex<HashMap<ObjectId, Bytes>>>,
    /// What is sent in place of what was asked for.
    pieces: Arc<Mutex<Option<Vec<Piece>>>>,
    /// Held while a fetch must not end.
    gate: Arc<tokio::sync::Mutex<()>>,
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
struct Services {
    calls: Mutex<Vec<String>>,
    /// The agent dies when it does this.
    fatal: Mutex<Option<&'static str>>,
    /// It can't do this.
    broken: Mutex<Option<&'static str>>,
    leave: Mutex<Option<mpsc::Receiver<()>>>,
}

impl ServiceRunner for Services {
    fn run(&self, action: ServiceAction, service: &str) -> Result<(), ServiceError> {
        self.calls.lock().unwrap().push(format!("{} {service}", action.verb()));
        let call = format!("{} {service}", action.verb());
        let fatal = *self.fatal.lock().unwrap();
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

struct Gate(Mutex<GateAnswer>);

#[async_trait]
impl DisruptionGate for Gate {
    async fn request(&self) -> GateAnswer {
        self.0.lock().unwrap().clone()
    }
    async fn release(&self) {}
}

struct Machine {
    root: TempDir,
    state: TempDir,
    source: Source,
    services: Arc<Services>,
    gate: Option<Arc<Gate>>,
    interval: Duration,
    protected: Vec<PathBuf>,
}

impl Machine {
    fn new() -> Self {
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

    fn config(&self) -> AgentConfig {
        AgentConfig {
            root: self.root.path().to_owned(),
            state: self.state.path().to_owned(),
            protected: self.protected.clone(),
            exclusions: Filter::Empty,
            scan_interval: self.interval,
            effort: Effort::default(),
            services: Arc::clone(&self.services) as Arc<dyn ServiceRunner>,
            sources: Arc::new(self.source.clone()),
            gate: self.gate.clone().map(|gate| gate as Arc<dyn DisruptionGate>),
        }
    }

    fn start(&self) -> LocalAgent {
        LocalAgent::start(self.config()).unwrap()
    }

    /// A started agent that has scanned.
    async fn ready(&self) -> LocalAgent {
        let agent = self.start();
        agent.set_view(view(&agent).await).await.unwrap();
        tree(&agent).await;
        agent
    }

    fn write(&self, name: &str, contents: &str) {
        std::fs::write(self.root.path().join(name), contents).unwrap();
    }

    fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.root.path().join(name)).ok()
    }

    fn offer(&self, contents: &str) -> (ObjectId, u64) {
        let id = ObjectId::of(contents.as_bytes());
        self.source.objects.lock().unwrap().insert(id, Bytes::copy_from_slice(contents.as_bytes()));
        (id, contents.len() as u64)
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.services.calls.lock().unwrap())
    }
}

async fn poll(agent: &LocalAgent) -> PollReply {
    agent.poll(PollRequest::default()).await.unwrap()
}

/// The view a controller would make of the machine's traits.
async fn view(agent: &LocalAgent) -> View {
    let traits = poll(agent).await.details.traits.clone();
    View {
        protected: traits.protected.clone(),
        xattrs: traits.xattrs,
        ownership: traits.ownership,
        ..View::everything()
    }
}

/// Polls until there is a tree.
async fn tree(agent: &LocalAgent) -> Tree {
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
fn required(view: &View, like: &Machine, files: &[(&str, &str)]) -> Snapshot {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), like.root.path().metadata().unwrap().permissions()).unwrap();
    for (name, contents) in files {
        std::fs::write(dir.path().join(name), contents).unwrap();
    }
    let root = Root::open(dir.path()).unwrap();
    Scanner::new(root, Arc::new(view.clone())).scan(&Cancel::default()).unwrap().snapshot
}

/// Makes a plan as a controller does: with the directories it asks the agent for.
async fn plan(agent: &LocalAgent, required: &Snapshot) -> (Tree, Plan) {
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

async fn order(agent: &LocalAgent, required: &Snapshot, triggers: &str) -> UpdateRequest {
    let (base, plan) = plan(agent, required).await;
    UpdateRequest {
        base: base.id(),
        view: base.view,
        plan,
        image: Some("web/1".parse().unwrap()),
        triggers: Triggers::from_json(triggers.as_bytes()).unwrap(),
    }
}

fn fetch(objects: &[(ObjectId, u64)]) -> FetchRequest {
    FetchRequest { objects: objects.to_vec(), source: "images:6971".to_owned() }
}

const WEB: &str = r#"[{"MatchLines": ["/conf"], "Service": "web", "HighImpact": true}]"#;

#[tokio::test]
async fn a_machine_becomes_what_it_must_be() {
    let machine = Machine::new();
    machine.write("conf", "old");
    machine.write("gone", "g");
    let agent = machine.start();
    assert_eq!(poll(&agent).await.scanned, Scanned::NeedView);
    let view = view(&agent).await;
    agent.set_view(view.clone()).await.unwrap();
    let required = required(&view, &machine, &[("conf", "new"), ("added", "a")]);
    let objects = [machine.offer("new"), machine.offer("a")];
    assert_eq!(agent.fetch(fetch(&objects)).await.unwrap(), FetchReport { objects: 2, bytes: 4 });
    assert_eq!(agent.fetch(fetch(&objects)).await.unwrap(), FetchReport::default(), "they are there");
    let report = agent.update(order(&agent, &required, WEB).await).await.unwrap();
    assert!(report.is_success(), "{report:?}");
    assert_eq!(tree(&agent).await.id(), required.id());
    assert_eq!(machine.calls(), ["stop web", "start web"]);
    let PollReply { status, details, .. } = poll(&agent).await;
    assert_eq!(details.last_image.as_ref().unwrap().as_str(), "web/1");
    assert_eq!(
        (&details.last_update_error, status.activity, &details.write_error),
        (&None, Activity::Idle, &None)
    );
    assert!(status.free_space > 0);
    let (_, plan) = plan(&agent, &required).await;
    assert!(plan.is_empty());
}

#[tokio::test]
async fn what_must_outlive_the_agent_does() {
    let machine = Machine::new();
    machine.write("conf", "old");
    let agent = machine.ready().await;
    let first = poll(&agent).await.status;
    let required = required(&view(&agent).await, &machine, &[("conf", "new")]);
    agent.fetch(fetch(&[machine.offer("new")])).await.unwrap();
    agent.update(order(&agent, &required, WEB).await).await.unwrap();
    drop(agent);
    machine.calls();
    let agent = machine.start();
    assert_eq!(tree(&agent).await.id(), required.id(), "the view is remembered");
    let PollReply { status, details, .. } = poll(&agent).await;
    assert_eq!(details.last_image.as_ref().unwrap().as_str(), "web/1");
    assert_ne!(status.instance, first.instance);
    // The next image knows nothing of the service; it is stopped nevertheless.
    let required = self::required(&view(&agent).await, &machine, &[]);
    agent.update(order(&agent, &required, "[]").await).await.unwrap();
    assert_eq!(machine.calls(), ["stop web"]);
}

#[tokio::test]
async fn an_update_that_fails_forgets_no_service_and_claims_no_image() {
    let machine = Machine::new();
    machine.write("conf", "old");
    let agent = machine.ready().await;
    let required = required(&view(&agent).await, &machine, &[("conf", "new")]);
    // Nothing was fetched.
    let error = agent.update(order(&agent, &required, WEB).await).await.unwrap_err();
    assert!(matches!(error, AgentError::Failed { .. }), "{error}");
    assert_eq!((machine.read("conf").unwrap().as_str(), machine.calls().len()), ("old", 0));
    tree(&agent).await;
    let details = poll(&agent).await.details;
    assert!(details.last_update_error.as_ref().unwrap().contains("were not fetched"));
    assert_eq!(details.last_image, None);
    assert!(!machine.state.path().join("triggers.previous").exists());
}

#[tokio::test]
async fn a_poll_waits_for_news_and_hears_of_them() {
    let mut machine = Machine::new();
    machine.interval = Duration::from_millis(20);
    machine.write("f", "1");
    let agent = machine.ready().await;
    let before = poll(&agent).await;
    let wait = Duration::from_secs(60);
    let request = PollRequest { known: Some(before.status.generation), wait, view: None };
    let (reply, ()) = tokio::join!(agent.poll(request), async { machine.write("f", "2 and more") });
    let reply = reply.unwrap();
    assert_ne!(reply.status.generation, before.status.generation);
    assert_ne!(reply.scanned, before.scanned);
    // An answer for another view need not wait.
    let other = View { xattrs: dominator_core::view::XattrPolicy::NONE, ..View::everything() };
    let request = PollRequest { known: Some(reply.status.generation), wait, view: Some(other.id()) };
    assert_eq!(agent.poll(request).await.unwrap().scanned, Scanned::NeedView);
}

#[tokio::test]
async fn an_order_for_another_state_of_the_machine_is_refused() {
    let machine = Machine::new();
    machine.write("conf", "old");
    let agent = machine.ready().await;
    let required = required(&view(&agent).await, &machine, &[]);
    let good = order(&agent, &required, "[]").await;
    let other = dominator_core::tree::TreeId(ObjectId::of(b"other"));
    let refused = [
        UpdateRequest { base: other, ..good.clone() },
        UpdateRequest { view: dominator_core::view::ViewId(ObjectId::of(b"other")), ..good.clone() },
    ];
    for request in refused {
        let error = agent.update(request).await.unwrap_err();
        assert!(matches!(error, AgentError::NotNow(_)), "{error}");
    }
    assert!(machine.read("conf").is_some());
    agent.update(good).await.unwrap();
    assert!(machine.read("conf").is_none());
}

#[tokio::test]
async fn one_order_at_a_time_is_carried_out() {
    let machine = Machine::new();
    let agent = Arc::new(machine.ready().await);
    let held = machine.source.gate.lock().await;
    let objects = [machine.offer("x")];
    let fetching = tokio::spawn({
        let agent = Arc::clone(&agent);
        async move { agent.fetch(fetch(&objects)).await }
    });
    let mut known = None;
    while poll(&agent).await.status.activity != Activity::Fetching {
        let wait = Duration::from_secs(60);
        known = Some(agent.poll(PollRequest { known, wait, view: None }).await.unwrap().status.generation);
    }
    assert!(matches!(agent.clean_up().await, Err(AgentError::NotNow(_))));
    drop(held);
    assert_eq!(fetching.await.unwrap().unwrap().objects, 1);
    let objects = machine.root.path().join(".subd/objects");
    assert_eq!(std::fs::read_dir(&objects).unwrap().count(), 1);
    agent.clean_up().await.unwrap();
    assert_eq!(std::fs::read_dir(&objects).unwrap().count(), 0);
}

#[tokio::test]
async fn nothing_wrong_is_kept_of_what_a_source_sends() {
    let machine = Machine::new();
    let agent = machine.ready().await;
    let (good, evil) = (machine.offer("good"), machine.offer("evil"));
    let begin = |(id, size)| Piece::Begin { id, size };
    let data = |text: &'static str| Piece::Data(Bytes::from_static(text.as_bytes()));
    type Expected = fn(&StoreError) -> bool;
    let cases: Vec<(Vec<Piece>, Expected)> = vec![
        (vec![begin(good), data("evil")], |e| matches!(e, StoreError::Corrupt { .. })),
        (vec![begin(good), data("goo")], |e| matches!(e, StoreError::Corrupt { .. })),
        (vec![begin(good), data("goods")], |e| matches!(e, StoreError::Protocol(_))),
        (vec![begin(evil), data("evil")], |e| matches!(e, StoreError::Protocol(_))),
        (vec![begin((good.0, 1 << 40))], |e| matches!(e, StoreError::Protocol(_))),
        (vec![data("good")], |e| matches!(e, StoreError::Protocol(_))),
        (vec![], |e| matches!(e, StoreError::Protocol(_))),
    ];
    for (pieces, expected) in cases {
        *machine.source.pieces.lock().unwrap() = Some(pieces.clone());
        let Err(AgentError::Fetch(error)) = agent.fetch(fetch(&[good])).await else { panic!("{pieces:?}") };
        assert!(expected(&error), "{pieces:?}: {error}");
        let left = std::fs::read_dir(machine.root.path().join(".subd/objects")).unwrap().count();
        assert_eq!(left, 0, "{pieces:?}");
    }
    // What was complete before the error stays.
    *machine.source.pieces.lock().unwrap() = Some(vec![begin(good), data("good"), begin(evil), data("good")]);
    assert!(agent.fetch(fetch(&[good, evil])).await.is_err());
    assert_eq!(agent.fetch(fetch(&[good, evil])).await.unwrap().objects, 1);
    let huge = agent.fetch(fetch(&[(ObjectId::of(b"huge"), u64::MAX)])).await.unwrap_err();
    assert!(matches!(huge, AgentError::Fetch(StoreError::NoSpace { .. })), "{huge}");
}

#[tokio::test]
async fn an_update_nobody_waits_for_any_more_is_carried_out() {
    let machine = Machine::new();
    machine.write("conf", "old");
    let agent = machine.ready().await;
    let required = required(&view(&agent).await, &machine, &[]);
    let request = order(&agent, &required, WEB).await;
    let (give, leave) = mpsc::channel();
    *machine.services.leave.lock().unwrap() = Some(leave);
    {
        let update = agent.update(request);
        tokio::pin!(update);
        let mut known = None;
        while poll(&agent).await.status.activity != Activity::Updating {
            let wait = Duration::from_secs(60);
            let changed = agent.poll(PollRequest { known, wait, view: None });
            tokio::select! {
                outcome = &mut update => panic!("{outcome:?}"),
                reply = changed => known = Some(reply.unwrap().status.generation),
            }
        }
    }
    assert!(matches!(poll(&agent).await.status.activity, Activity::Updating));
    give.send(()).unwrap();
    give.send(()).unwrap();
    agent.idle().await;
    assert_eq!(machine.read("conf"), None);
    assert_eq!(tree(&agent).await.id(), required.id());
}

#[tokio::test]
async fn users_are_not_disturbed_without_leave() {
    let mut machine = Machine::new();
    let gate = Arc::new(Gate(Mutex::new(GateAnswer::Requested)));
    machine.gate = Some(Arc::clone(&gate));
    machine.write("conf", "old");
    machine.write("other", "old");
    let agent = machine.ready().await;
    let both = required(&view(&agent).await, &machine, &[]);
    let pending = agent.update(order(&agent, &both, WEB).await).await.unwrap_err().to_string();
    assert!(pending.contains("disruption pending"), "{pending}");
    *gate.0.lock().unwrap() = GateAnswer::Denied("at night".to_owned());
    let denied = agent.update(order(&agent, &both, WEB).await).await.unwrap_err().to_string();
    assert!(denied.contains("disruption denied"), "{denied}");
    assert!(machine.read("conf").is_some() && machine.read("other").is_some());
    *gate.0.lock().unwrap() = GateAnswer::Permitted;
    agent.update(order(&agent, &both, WEB).await).await.unwrap();
    assert!(machine.read("conf").is_none());
}

#[tokio::test]
async fn the_agents_own_files_are_protected_and_no_view_shows_them() {
    let mut machine = Machine::new();
    let inner = machine.root.path().join("state");
    std::fs::create_dir(&inner).unwrap();
    machine.protected = vec![inner, machine.root.path().join("ssl/subd"), PathBuf::from("/elsewhere")];
    let agent = machine.start();
    let protected: Vec<_> = poll(&agent).await.details.traits.protected.iter().cloned().collect();
    let path = |text: &str| ImagePath::parse(text.as_bytes()).unwrap();
    assert_eq!(protected, [path("/ssl/subd"), path("/state")]);
    let error = agent.set_view(View::everything()).await.unwrap_err();
    assert!(matches!(error, AgentError::NotNow(_)), "{error}");
    agent.set_view(view(&agent).await).await.unwrap();
    drop(agent);
    machine.protected = vec![machine.root.path().to_owned()];
    assert!(matches!(LocalAgent::start(machine.config()), Err(StartError::Protected { .. })));
}

#[tokio::test]
async fn links_on_the_way_to_protected_files_are_protected_too() {
    let mut machine = Machine::new();
    let root = machine.root.path();
    std::fs::create_dir_all(root.join("keys/real")).unwrap();
    std::os::unix::fs::symlink("keys", root.join("ssl")).unwrap();
    std::os::unix::fs::symlink("real", root.join("keys/now")).unwrap();
    std::os::unix::fs::symlink("round", root.join("round")).unwrap();
    machine.protected = vec![root.join("ssl/now/CA.pem"), root.join("round")];
    let agent = machine.start();
    let protected: Vec<_> = poll(&agent).await.details.traits.protected.iter().cloned().collect();
    let expected = ["/keys/now", "/keys/real/CA.pem", "/round", "/ssl"];
    assert_eq!(protected, expected.map(|text| ImagePath::parse(text.as_bytes()).unwrap()));
}

#[tokio::test]
async fn an_agent_without_a_view_notices_when_its_root_can_be_written_to() {
    let mut machine = Machine::new();
    machine.interval = Duration::from_millis(20);
    let root = Root::open(machine.root.path()).unwrap();
    let other = dominator_fs::update::Updater::new(root, Arc::new(dominator_fs::seam::Kernel)).unwrap();
    let agent = machine.start();
    let PollReply { status, details, .. } = poll(&agent).await;
    assert!(details.write_error.as_ref().unwrap().contains("another agent"));
    drop(other);
    // Other things it finds out while it starts are told as well.
    let (wait, mut known) = (Duration::from_secs(60), status.generation);
    loop {
        let reply = agent.poll(PollRequest { known: Some(known), wait, view: None }).await.unwrap();
        if reply.details.write_error.is_none() {
            break;
        }
        assert_ne!(reply.status.generation, known, "nothing more is told");
        known = reply.status.generation;
    }
}

/// Runs a test where it may mount things that nobody else sees; without the privilege it says that it does not.
fn with_mounts<F: Future<Output = ()>>(name: &'static str, test: impl FnOnce() -> F + Send + 'static) {
    if !needs_root(name) {
        return;
    }
    let outcome = std::thread::spawn(move || {
        if let Err(error) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS) {
            return left_out(name, &format!("mounts of its own are refused: {error}"));
        }
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    })
    .join();
    outcome.unwrap();
}

fn mount_tmpfs(at: &Path) {
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some("size=20m")).unwrap();
}

#[test]
fn objects_for_another_image_make_room_for_those_that_are_wanted_now() {
    with_mounts("objects_for_another_image_make_room_for_those_that_are_wanted_now", async || {
        let machine = Machine::new();
        mount_tmpfs(machine.root.path());
        {
            let of = |letter: &str| machine.offer(&letter.repeat(2 * 1024 * 1024));
            let (old, more, new) = (of("o"), of("m"), of("n"));
            let agent = machine.ready().await;
            // Room for one and a half.
            machine.write("ballast", &"b".repeat(1024 * 1024));
            agent.fetch(fetch(&[old])).await.unwrap();
            agent.fetch(fetch(&[new])).await.unwrap();
            let error = agent.fetch(fetch(&[new, more])).await.unwrap_err();
            assert!(matches!(error, AgentError::Fetch(StoreError::NoSpace { .. })), "{error}");
            assert_eq!(agent.fetch(fetch(&[new])).await.unwrap(), FetchReport::default(), "it was kept");
        }
        nix::mount::umount2(machine.root.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    });
}

#[test]
fn a_running_machine_is_seen_beneath_what_is_mounted_on_it() {
    with_mounts("a_running_machine_is_seen_beneath_what_is_mounted_on_it", async || {
        let machine = Machine::new();
        for name in ["run", "disk", "disk/run"] {
            std::fs::create_dir(machine.root.path().join(name)).unwrap();
        }
        let at = |name: &str| machine.root.path().join(name);
        mount(Some(&at("disk")), &at("disk"), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        mount_tmpfs(&at("run"));
        mount_tmpfs(&at("disk/run"));
        machine.write("run/pid", "1");
        {
            let agent = machine.start();
            assert_eq!(poll(&agent).await.details.beneath_mounts, Works::Yes);
            let view = view(&agent).await;
            assert_eq!(view.protected, [].into());
            agent.set_view(view.clone()).await.unwrap();
            let root = tree(&agent).await.root.directory().unwrap().0;
            let encoded = agent.directories(vec![root]).await.unwrap();
            let directory = Directory::decode(encoded[0].clone()).unwrap();
            let names: Vec<_> = directory.iter().map(|entry| entry.name()).collect();
            assert_eq!(names, [&b"disk"[..], b"run"]);
            let run = directory.entry(b"run").unwrap().directory().unwrap().0;
            let encoded = agent.directories(vec![run]).await.unwrap();
            let run = Directory::decode(encoded[0].clone()).unwrap();
            assert_eq!(run.len(), 0, "what runs there is no image's concern");
        }
        for name in ["disk/run", "disk", "run"] {
            nix::mount::umount2(&at(name), nix::mount::MntFlags::MNT_DETACH).unwrap();
        }
    });
}

#[tokio::test]
async fn services_an_agent_stopped_and_did_not_live_to_start_are_started_by_the_next() {
    for last_words in ["stop web", "start web"] {
        let machine = Machine::new();
        machine.write("conf", "old");
        let agent = machine.ready().await;
        let required = required(&view(&agent).await, &machine, &[]);
        *machine.services.fatal.lock().unwrap() = Some(last_words);
        agent.update(order(&agent, &required, WEB).await).await.unwrap_err();
        drop(agent);
        assert_eq!(machine.calls().last().unwrap(), last_words);
        *machine.services.fatal.lock().unwrap() = None;
        let agent = machine.start();
        tree(&agent).await;
        assert_eq!(machine.calls(), ["start web"], "after {last_words}");
        drop(agent);
        tree(&machine.start()).await;
        assert_eq!(machine.calls(), <[String; 0]>::default(), "once is enough");
    }
}

#[tokio::test]
async fn a_service_that_would_not_start_is_started_again_and_told_of() {
    let reload = r#"[{"MatchLines": ["/conf"], "Service": "web", "DoReload": true}]"#;
    for (triggers, broken) in [(WEB, "start web"), (reload, "reload web")] {
        let machine = Machine::new();
        machine.write("conf", "old");
        let agent = machine.ready().await;
        let required = required(&view(&agent).await, &machine, &[]);
        *machine.services.broken.lock().unwrap() = Some(broken);
        let report = agent.update(order(&agent, &required, triggers).await).await.unwrap();
        assert!(!report.is_success());
        assert_eq!(machine.calls().last().unwrap(), broken);
        // Nothing is left to change on the machine, by this agent or the next.
        let again = agent.update(order(&agent, &required, triggers).await).await.unwrap();
        assert!(!again.is_success() && again.applied == 0, "{again:?}");
        assert_eq!(machine.calls(), [broken]);
        drop(agent);
        let agent = machine.start();
        assert_eq!(tree(&agent).await.id(), required.id());
        assert_eq!(machine.calls(), [broken]);
        let details = poll(&agent).await.details;
        assert!(details.last_update_error.as_ref().unwrap().contains("no licence"));
        assert_eq!(details.last_image, None);
        *machine.services.broken.lock().unwrap() = None;
        let repaired = agent.update(order(&agent, &required, triggers).await).await.unwrap();
        assert!(repaired.is_success(), "{repaired:?}");
        assert_eq!(machine.calls(), [broken]);
        tree(&agent).await;
        let details = poll(&agent).await.details;
        assert_eq!(
            (details.last_update_error.as_deref(), details.last_image.as_ref().unwrap().as_str()),
            (None, "web/1")
        );
        assert!(agent.update(order(&agent, &required, triggers).await).await.unwrap().is_success());
        assert_eq!(machine.calls(), <[String; 0]>::default(), "once is enough");
    }
}

#[tokio::test]
async fn nobody_waits_for_a_service_the_image_does_not_know() {
    let machine = Machine::new();
    machine.write("conf", "old");
    let agent = machine.ready().await;
    let required = required(&view(&agent).await, &machine, &[]);
    *machine.services.broken.lock().unwrap() = Some("start web");
    agent.update(order(&agent, &required, WEB).await).await.unwrap();
    machine.calls();
    assert!(agent.update(order(&agent, &required, "[]").await).await.unwrap().is_success());
    assert_eq!(machine.calls(), <[String; 0]>::default());
    drop(agent);
    tree(&machine.start()).await;
    assert_eq!(machine.calls(), <[String; 0]>::default());
}

#[tokio::test]
async fn directories_that_are_gone_are_said_to_be() {
    let machine = Machine::new();
    let agent = machine.ready().await;
    let id = ObjectId::of(b"none");
    let error = agent.directories(vec![id]).await.unwrap_err();
    assert!(matches!(error, AgentError::Gone { id: which } if which == id), "{error}");
}

#[tokio::test]
async fn a_directory_that_was_kept_is_told_until_it_is_free_to_go() {
    let mut machine = Machine::new();
    machine.interval = Duration::from_millis(20);
    let kept = machine.root.path().join("d");
    std::fs::create_dir(&kept).unwrap();
    let agent = machine.start();
    let hidden = ImagePath::parse(b"/d/mine").unwrap();
    let mut view = view(&agent).await;
    view.protected.insert(hidden);
    agent.set_view(view.clone()).await.unwrap();
    machine.write("d/mine", "m");
    let required = required(&view, &machine, &[]);
    // The scan under way may not have seen it: an update for an older tree would be refused.
    let report = loop {
        match agent.update(order(&agent, &required, "[]").await).await {
            Ok(report) => break report,
            Err(AgentError::NotNow(_)) => {}
            Err(error) => panic!("{error}"),
        }
    };
    let d = ImagePath::parse(b"/d").unwrap();
    assert_eq!(report.kept, std::slice::from_ref(&d));
    tree(&agent).await;
    assert!(poll(&agent).await.details.kept.contains(&d));
    // Also after an update that does not name it again.
    let recorded = loop {
        let request = UpdateRequest { plan: Plan::default(), ..order(&agent, &required, "[]").await };
        match agent.update(request).await {
            Ok(report) => break report,
            Err(AgentError::NotNow(_)) => {}
            Err(error) => panic!("{error}"),
        }
    };
    assert!(recorded.kept.is_empty());
    tree(&agent).await;
    assert!(poll(&agent).await.details.kept.contains(&d));
    machine.read("d/mine").unwrap();
    std::fs::remove_file(kept.join("mine")).unwrap();
    let mut known = None;
    while !poll(&agent).await.details.kept.is_empty() {
        let wait = Duration::from_secs(60);
        known = Some(agent.poll(PollRequest { known, wait, view: None }).await.unwrap().status.generation);
    }
}
