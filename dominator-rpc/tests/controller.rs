//! A fleet, a controller and an image server in one process, with the network between them.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    dead_code,
    unreachable_pub,
    missing_docs
)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use dominator_core::herd::{self, FastUpdate, Status};
use dominator_core::machine::{Machine, Mdb};
use dominator_core::port::{
    Agent, AgentDialer, AgentError, ClusterStore, ClusterStoreError, ImageStore, Revision,
};
use dominator_core::tree::Snapshot;
use dominator_core_testkit::{FakeAgent, MemoryCluster, MemoryMachines, image_of, tree_of};
use dominator_rpc::client::{RemoteAgent, RemoteFleet, RemoteImages, Sources};
use dominator_rpc::controller::{
    Consent, Controller, FixedMachines, Fleet, FleetControl, FleetError, Parts, Progress, SubInfo, Switch,
    Tuning, Updates,
};
use dominator_rpc::server::Services;
use dominator_rpc::transport::Tls;
use support::{Running, Stores, World};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// Every machine is at an address of its own.
struct Addresses {
    tls: Tls,
    agents: BTreeMap<String, String>,
}

#[async_trait]
impl AgentDialer for Addresses {
    async fn dial(&self, machine: &Machine) -> Result<Arc<dyn Agent>, AgentError> {
        Ok(Arc::new(RemoteAgent::connect(&self.tls, &self.agents[&machine.hostname]).await?))
    }
}

struct Plant {
    world: World,
    stores: Stores,
    image_server: Running,
    agents: BTreeMap<String, (Arc<FakeAgent>, Running)>,
    cluster: Arc<MemoryCluster>,
    mdb: watch::Sender<Mdb>,
    fleet: Fleet,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

fn impatient() -> Tuning {
    let quick = Duration::from_millis(5);
    let herd = herd::Settings {
        min_interval: quick,
        poll_wait: Duration::from_secs(30),
        retry_min: quick,
        retry_max: Duration::from_millis(50),
        refused: Duration::from_millis(50),
    };
    Tuning { herd, ..Tuning::default() }
}

fn machine(name: &str, image: &str) -> Machine {
    Machine { required_image: Some(image.parse().unwrap()), ..Machine::named(name) }
}

impl Plant {
    async fn new(machines: &[(&str, &str)], switch: Switch) -> Self {
        let (world, stores) = (World::new(), Stores::new());
        let image_server = world.serve("imageserver", stores.services()).await;
        let sources = Sources::new(world.tls("subd", "ObjectServer.GetObjects"));
        let mut agents = BTreeMap::new();
        for (name, _) in machines {
            let agent = Arc::new(FakeAgent::new(Arc::new(sources.clone())));
            let server = world.serve("subd", Services::new("test").agent(agent.clone())).await;
            agents.insert((*name).to_owned(), (agent, server));
        }
        let addresses = agents.iter().map(|(name, (_, server))| (name.clone(), server.at())).collect();
        let tls = world.tls("dominator", "ImageServer.GetImage, ObjectServer.AddObjects, Subd.*");
        let cluster = Arc::new(MemoryCluster::default());
        let (source, mdb) = MemoryMachines::new(machines.iter().map(|(name, image)| machine(name, image)));
        let parts = Parts {
            machines: Box::new(source),
            dialer: Arc::new(Addresses { tls: tls.clone(), agents: addresses }),
            images: Arc::new(RemoteImages::lazy(&tls, &image_server.at())),
            sources: vec![image_server.at()],
            cluster: cluster.clone(),
        };
        let controller = Controller::new(parts, impatient()).await.unwrap();
        let fleet = controller.fleet();
        fleet.switch_updates(switch, "to begin with", "test").await.unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = tokio::spawn(controller.run(async { drop(stopped.await) }));
        Self { world, stores, image_server, agents, cluster, mdb, fleet, stop, ended }
    }

    async fn add_image(&self, name: &str, files: &[(&str, &[u8])]) -> Snapshot {
        let tree = tree_of(files);
        self.stores.objects.put_tree(&tree);
        for (_, contents) in files {
            self.stores.objects.put(contents.to_vec());
        }
        self.stores.images.add(&name.parse().unwrap(), image_of(&tree)).await.unwrap();
        tree
    }

    /// Waits until a machine has been updated so often, and is what `tree` says.
    async fn updated(&self, name: &str, times: u64, tree: &Snapshot) {
        let agent = &self.agents[name].0;
        agent.updates().wait_for(|updates| *updates >= times).await.unwrap();
        assert_eq!(agent.snapshot().id(), tree.id());
    }

    /// Waits until a machine stands so.
    async fn standing(&self, name: &str, status: Status) {
        let stands = |sub: &SubInfo| sub.hostname == name && sub.status == status;
        self.fleet.wait_until(|subs| subs.iter().any(stands)).await;
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.ended.await.unwrap();
        for (_, server) in self.agents.into_values() {
            server.stop().await;
        }
        self.image_server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_machine_is_made_what_it_must_be_and_kept_so() {
    let plant = Plant::new(&[("web1", "web/1"), ("web2", "web/1"), ("db1", "db/1")], Switch::Enabled).await;
    let web = plant.add_image("web/1", &[("/etc/motd", b"web"), ("/bin/sh", b"#!")]).await;
    let db = plant.add_image("db/1", &[("/etc/motd", b"db"), ("/var/lib/db/x", b"")]).await;
    for (name, tree) in [("web1", &web), ("web2", &web), ("db1", &db)] {
        plant.updated(name, 1, tree).await;
        plant.standing(name, Status::Synced).await;
    }
    // Somebody logs in and changes a machine.
    let drifted = tree_of(&[("/etc/motd", b"pwned"), ("/bin/sh", b"#!"), ("/tmp/rootkit", b"x")]);
    plant.agents["web1"].0.become_like(&drifted);
    plant.updated("web1", 2, &web).await;
    assert_eq!(*plant.agents["web2"].0.updates().borrow(), 1, "the others are left in peace");
    plant.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_comes_later_and_a_machine_that_gets_another() {
    let plant = Plant::new(&[("web1", "web/1")], Switch::Enabled).await;
    plant.standing("web1", Status::ImageNotReady).await;
    let one = plant.add_image("web/1", &[("/a", b"1"), ("/b", b"1"), ("/c", b"1")]).await;
    plant.updated("web1", 1, &one).await;
    let two = plant.add_image("web/2", &[("/a", b"2"), ("/b", b"1"), ("/d/e/f", b"1")]).await;
    plant.mdb.send_replace(MemoryMachines::mdb([machine("web1", "web/2")]));
    plant.updated("web1", 2, &two).await;
    plant.mdb.send_replace(Mdb::default());
    plant.fleet.wait_until(<[_]>::is_empty).await;
    plant.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_changed_while_updates_are_disabled() {
    let plant = Plant::new(&[("web1", "web/1")], Switch::Disabled).await;
    let tree = plant.add_image("web/1", &[("/etc/motd", b"web")]).await;
    plant.standing("web1", Status::UpdatesDisabled).await;
    assert_eq!(*plant.agents["web1"].0.updates().borrow(), 0);
    // The decision outlives the controller.
    let kept = plant.cluster.value("dominator/updates").await.unwrap();
    assert!(String::from_utf8_lossy(&kept.unwrap().0).contains("to begin with"));
    // And can be changed from afar.
    let services = Services::new("test").fleet(Arc::new(plant.fleet.clone()));
    let dominator = plant.world.serve("dominator", services).await;
    let remote =
        RemoteFleet::connect(&plant.world.tls("alice", "Dominator.*"), &dominator.at()).await.unwrap();
    assert_eq!(remote.subs().await.unwrap(), ["web1"]);
    let info = remote.info(&[]).await.unwrap();
    assert_eq!((info[0].hostname.as_str(), info[0].status), ("web1", Status::UpdatesDisabled));
    let error = remote.switch_updates(Switch::Disabled, " ", "").await.unwrap_err();
    assert!(support::chain(&error).contains("reason"), "{error:?}");
    remote.switch_updates(Switch::Enabled, "all is well", "").await.unwrap();
    let updates = remote.updates().await.unwrap();
    assert_eq!((updates.switch, updates.who.as_str()), (Switch::Enabled, "alice"));
    plant.updated("web1", 1, &tree).await;
    assert_eq!(remote.clear_safety_shutoff("nobody").await.unwrap(), Consent::NoSuchMachine);
    let bob = RemoteFleet::connect(&plant.world.tls("bob", ""), &dominator.at()).await.unwrap();
    assert_eq!(bob.info(&["web1".into()]).await.unwrap().len(), 1);
    assert!(bob.switch_updates(Switch::Disabled, "because", "").await.is_err());
    dominator.stop().await;
    plant.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_deletes_too_much_waits_for_a_person() {
    let plant = Plant::new(&[("web1", "web/1")], Switch::Disabled).await;
    let names: Vec<String> = (0..40).map(|number| format!("/data/{number}")).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), b"x".as_slice())).collect();
    plant.agents["web1"].0.become_like(&tree_of(&files));
    let tree = plant.add_image("web/1", &[("/etc/motd", b"web")]).await;
    plant.fleet.switch_updates(Switch::Enabled, "", "test").await.unwrap();
    plant.standing("web1", Status::UnsafeUpdate).await;
    assert_eq!(*plant.agents["web1"].0.updates().borrow(), 0);
    assert_eq!(plant.fleet.clear_safety_shutoff("web1").await.unwrap(), Consent::Given);
    plant.updated("web1", 1, &tree).await;
    plant.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_is_away_says_why_and_is_caught_up_when_it_is_back() {
    let mut plant = Plant::new(&[("web1", "web/1")], Switch::Enabled).await;
    let one = plant.add_image("web/1", &[("/a", b"1")]).await;
    plant.updated("web1", 1, &one).await;
    let (agent, server) = plant.agents.remove("web1").unwrap();
    let address = server.address;
    server.stop().await;
    plant.standing("web1", Status::ConnectionRefused).await;
    let tls = plant.world.tls("subd", "");
    let services = Services::new("test").agent(agent.clone());
    let back = dominator_rpc::transport::Server::bind(address, tls, services).await.unwrap();
    agent.become_like(&tree_of(&[("/a", b"other")]));
    let serving = tokio::spawn(back.serve(std::future::pending()));
    agent.updates().wait_for(|updates| *updates >= 2).await.unwrap();
    assert_eq!(agent.snapshot().id(), one.id());
    plant.standing("web1", Status::Synced).await;
    serving.abort();
    plant.stop().await;
}

#[tokio::test]
async fn a_decision_that_can_not_be_read_is_not_guessed() {
    let cluster = Arc::new(MemoryCluster::default());
    cluster.set("dominator/updates", "{\"enabled\": maybe}".into(), None).await.unwrap();
    let world = World::new();
    let tls = world.tls("dominator", "");
    let parts = Parts {
        machines: Box::new(MemoryMachines::new([]).0),
        dialer: Arc::new(Addresses { tls: tls.clone(), agents: BTreeMap::new() }),
        images: Arc::new(RemoteImages::lazy(&tls, "127.0.0.1:1")),
        sources: Vec::new(),
        cluster,
    };
    assert!(Controller::new(parts, Tuning::default()).await.is_err());
}

/// Breaks down when the first machine is dialled for the first time.
struct Clumsy {
    agent: Arc<FakeAgent>,
    stumbled: AtomicBool,
}

#[async_trait]
impl AgentDialer for Clumsy {
    async fn dial(&self, machine: &Machine) -> Result<Arc<dyn Agent>, AgentError> {
        if machine.hostname == "web1" {
            assert!(self.stumbled.swap(true, Ordering::Relaxed), "a fault that was overlooked");
        }
        Ok(self.agent.clone())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_in_the_care_of_one_machine_does_not_leave_it_alone_for_good() {
    let stores = Stores::new();
    let parts = Parts {
        machines: Box::new(FixedMachines::new(["web1", "web2"].map(Machine::named))),
        dialer: Arc::new(Clumsy { agent: support::fake_agent(), stumbled: AtomicBool::default() }),
        images: stores.images.clone(),
        sources: Vec::new(),
        cluster: Arc::new(MemoryCluster::default()),
    };
    let controller = Controller::new(parts, impatient()).await.unwrap();
    let fleet = controller.fleet();
    let (stop, stopped) = oneshot::channel::<()>();
    let ended = tokio::spawn(controller.run(async { drop(stopped.await) }));
    let undefined = |sub: &SubInfo| sub.status == Status::ImageUndefined;
    fleet.wait_until(|subs| subs.len() == 2 && subs.iter().all(undefined)).await;
    stop.send(()).unwrap();
    ended.await.unwrap();
}

/// A store in which nothing can be kept, and that takes its time to say so.
struct Stuck;

#[async_trait]
impl ClusterStore for Stuck {
    async fn value(&self, _: &str) -> Result<Option<(bytes::Bytes, Revision)>, ClusterStoreError> {
        Ok(None)
    }

    async fn set(
        &self,
        _: &str,
        _: bytes::Bytes,
        _: Option<Revision>,
    ) -> Result<Revision, ClusterStoreError> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn whoever_says_stop_and_goes_away_has_stopped_the_updates() {
    let parts = Parts {
        machines: Box::new(FixedMachines::new([])),
        dialer: Arc::new(Clumsy { agent: support::fake_agent(), stumbled: AtomicBool::default() }),
        images: Stores::new().images,
        sources: Vec::new(),
        cluster: Arc::new(Stuck),
    };
    let fleet = Controller::new(parts, impatient()).await.unwrap().fleet();
    let stop = fleet.switch_updates(Switch::Disabled, "fire", "alice");
    assert!(futures_util::FutureExt::now_or_never(stop).is_none(), "the disk is slow");
    assert_eq!(fleet.updates().await.unwrap().switch, Switch::Disabled);
    // To let go on is never assumed.
    let start = fleet.switch_updates(Switch::Enabled, "out", "alice");
    assert!(futures_util::FutureExt::now_or_never(start).is_none());
    assert_eq!(fleet.updates().await.unwrap().switch, Switch::Disabled);
}

/// A fleet of which there is much to say.
struct Wordy(Vec<SubInfo>);

#[async_trait]
impl FleetControl for Wordy {
    async fn subs(&self) -> Result<Vec<String>, FleetError> {
        Ok(self.0.iter().map(|sub| sub.hostname.clone()).collect())
    }

    async fn info(&self, _: &[String]) -> Result<Vec<SubInfo>, FleetError> {
        Ok(self.0.clone())
    }

    async fn updates(&self) -> Result<Updates, FleetError> {
        Ok(Updates::default())
    }

    async fn switch_updates(&self, _: Switch, _: &str, _: &str) -> Result<(), FleetError> {
        Ok(())
    }

    async fn clear_safety_shutoff(&self, _: &str) -> Result<Consent, FleetError> {
        Ok(Consent::NoSuchMachine)
    }

    async fn force_disruptive_update(&self, _: &str) -> Result<Consent, FleetError> {
        Ok(Consent::NoSuchMachine)
    }

    async fn fast_update(&self, _: &str, _: FastUpdate) -> Result<Option<Progress>, FleetError> {
        Ok(None)
    }
}

#[tokio::test]
async fn what_machines_complain_of_at_length_does_not_keep_the_others_from_being_listed() {
    let wordy = |number: u32| SubInfo {
        hostname: format!("web{number:04}"),
        required_image: None,
        planned_image: None,
        last_image: None,
        status: Status::FailedToUpdate,
        detail: "no! ".repeat(5_000),
        since: support::noon(),
        last_heard: None,
        unknown: 0,
    };
    let subs: Vec<_> = (0..1_000).map(wordy).collect();
    let world = World::new();
    let services = Services::new("test").fleet(Arc::new(Wordy(subs.clone())));
    let dominator = world.serve("dominator", services).await;
    let remote = RemoteFleet::connect(&world.tls("alice", ""), &dominator.at()).await.unwrap();
    assert_eq!(remote.info(&[]).await.unwrap(), subs);
    dominator.stop().await;
}
