//! Operators who wait for one machine, over real TLS.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    dead_code,
    unreachable_pub,
    missing_docs
)]

mod support;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use dominator_core::herd::{FastUpdate, Leave, Safety, Status};
use dominator_core::machine::Machine;
use dominator_core::port::{Agent, AgentDialer, AgentError, Boost, Disruption, ImageStore as _, Reboot};
use dominator_core_testkit::{FakeAgent, MemoryCluster, MemoryMachines, image_of, tree_of};
use dominator_rpc::client::{RemoteAgent, RemoteFleet, RemoteImages, Sources};
use dominator_rpc::controller::{
    Consent, Controller, FleetControl, FleetError, Parts, Progress, Stage, Standing, SubInfo, Switch, Tuning,
    Updates,
};
use dominator_rpc::server::Services;
use dominator_rpc::transport::Tls;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use support::{Stores, World};
use tokio::sync::watch;

/// Nobody gets through to the machine called deaf; the other is at this address.
struct Half {
    tls: Tls,
    agent: String,
    /// Which have been dialled.
    dialled: watch::Sender<Vec<String>>,
}

#[async_trait]
impl AgentDialer for Half {
    async fn dial(&self, machine: &Machine) -> Result<Arc<dyn Agent>, AgentError> {
        self.dialled.send_modify(|names| names.push(machine.hostname.clone()));
        if machine.hostname == "deaf" {
            std::future::pending::<()>().await;
        }
        Ok(Arc::new(RemoteAgent::connect(&self.tls, &self.agent).await?))
    }
}

fn machine(name: &str) -> Machine {
    Machine { required_image: Some("web/1".parse().unwrap()), ..Machine::named(name) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_somebody_waits_for_does_not_queue_behind_others_and_works_its_hardest() {
    let (world, stores) = (World::new(), Stores::new());
    let image_server = world.serve("imageserver", stores.services()).await;
    let tree = tree_of(&[("/etc/motd", b"web")]);
    stores.objects.put_tree(&tree);
    stores.objects.put(b"web".to_vec());
    stores.images.add(&"web/1".parse().unwrap(), image_of(&tree)).await.unwrap();
    let sources = Sources::new(world.tls("subd", "ObjectServer.GetObjects"));
    let agent = Arc::new(FakeAgent::new(Arc::new(sources)));
    let subd = world.serve("subd", Services::new("test").agent(agent.clone())).await;
    let tls = world.tls("dominator", "ImageServer.GetImage, Subd.*");
    let (dialled, mut dialling) = watch::channel(Vec::new());
    let (machines, mdb) = MemoryMachines::new([machine("deaf")]);
    let parts = Parts {
        machines: Box::new(machines),
        dialer: Arc::new(Half { tls: tls.clone(), agent: subd.at(), dialled }),
        images: Arc::new(RemoteImages::lazy(&tls, &image_server.at())),
        sources: vec![image_server.at()],
        cluster: Arc::new(MemoryCluster::default()),
    };
    // One is dialled at a time, and that takes for ever.
    let controller = Controller::new(parts, Tuning { dials: 1, ..Tuning::default() }).await.unwrap();
    let fleet = controller.fleet();
    let running = tokio::spawn(controller.run(std::future::pending()));
    dialling.wait_for(|names| !names.is_empty()).await.unwrap();
    mdb.send_replace(MemoryMachines::mdb(["deaf", "web1"].map(machine)));
    fleet.wait_until(|subs| subs.len() == 2).await;
    let services = Services::new("test").fleet(Arc::new(fleet.clone()));
    let dominator = world.serve("dominator", services).await;
    let alice = RemoteFleet::connect(&world.tls("alice", "Dominator.*"), &dominator.at()).await.unwrap();
    let progress = alice.fast_update("web1", FastUpdate::default()).await.unwrap().unwrap();
    let standings: Vec<_> = progress.try_collect().await.unwrap();
    let last = standings.last().unwrap();
    assert_eq!((last.status, last.stage), (Status::Synced, Stage::Over), "{standings:?}");
    assert!(standings.iter().rev().skip(1).all(|standing| standing.stage == Stage::UnderWay));
    assert_eq!(agent.snapshot().id(), tree.id());
    assert_eq!(agent.boosts()[..2], [Boost::Cpu, Boost::Scan]);
    assert_eq!(alice.fast_update("nobody", FastUpdate::default()).await.unwrap().map(drop), None);
    let synced = Consent::NotWaiting(Status::Synced);
    assert_eq!(alice.force_disruptive_update("web1").await.unwrap(), synced);
    assert_eq!(alice.clear_safety_shutoff("web1").await.unwrap(), synced);
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    for server in [dominator, subd, image_server] {
        server.stop().await;
    }
}

/// A fleet that does what it is told to.
#[derive(Default)]
struct Obedient {
    orders: Mutex<Vec<FastUpdate>>,
    told: Mutex<Vec<Result<Standing, FleetError>>>,
}

#[async_trait]
impl FleetControl for Obedient {
    async fn subs(&self) -> Result<Vec<String>, FleetError> {
        Ok(Vec::new())
    }

    async fn info(&self, _: &[String]) -> Result<Vec<SubInfo>, FleetError> {
        Ok(Vec::new())
    }

    async fn updates(&self) -> Result<Updates, FleetError> {
        Ok(Updates::default())
    }

    async fn switch_updates(&self, _: Switch, _: &str, _: &str) -> Result<(), FleetError> {
        Ok(())
    }

    async fn clear_safety_shutoff(&self, _: &str) -> Result<Consent, FleetError> {
        Ok(Consent::Given)
    }

    async fn force_disruptive_update(&self, hostname: &str) -> Result<Consent, FleetError> {
        Ok(if hostname == "web1" { Consent::Given } else { Consent::NoSuchMachine })
    }

    async fn fast_update(&self, _: &str, order: FastUpdate) -> Result<Option<Progress>, FleetError> {
        self.orders.lock().unwrap().push(order);
        let told = std::mem::take(&mut *self.told.lock().unwrap());
        Ok(Some(stream::iter(told).boxed()))
    }
}

fn standing(status: Status, stage: Stage) -> Standing {
    Standing { status, detail: "as it is".into(), stage }
}

#[tokio::test]
async fn how_far_a_fast_update_may_go_and_how_it_goes_arrive_whole() {
    let world = World::new();
    let fleet = Arc::new(Obedient::default());
    let dominator = world.serve("dominator", Services::new("test").fleet(fleet.clone())).await;
    let alice = RemoteFleet::connect(&world.tls("alice", "Dominator.*"), &dominator.at()).await.unwrap();
    let leave = |disruption, reboot| Leave { disruption, reboot };
    let orders = [
        FastUpdate { leave: leave(Disruption::Force, Reboot::Allowed), safety: Safety::Guarded },
        FastUpdate { leave: leave(Disruption::Ask, Reboot::Refused), safety: Safety::Guarded },
        FastUpdate { leave: leave(Disruption::Ask, Reboot::Allowed), safety: Safety::ClearedOnce },
    ];
    let told = [standing(Status::Updating, Stage::UnderWay), standing(Status::RebootBlocked, Stage::Over)];
    for order in orders {
        *fleet.told.lock().unwrap() = told.iter().cloned().map(Ok).collect();
        let progress = alice.fast_update("web1", order).await.unwrap().unwrap();
        assert_eq!(progress.try_collect::<Vec<_>>().await.unwrap(), told);
    }
    assert_eq!(*fleet.orders.lock().unwrap(), orders);
    assert_eq!(alice.force_disruptive_update("web1").await.unwrap(), Consent::Given);
    assert_eq!(alice.force_disruptive_update("web2").await.unwrap(), Consent::NoSuchMachine);
    // What breaks off is no end.
    *fleet.told.lock().unwrap() = vec![Ok(told[0].clone())];
    let mut progress = alice.fast_update("web1", orders[0]).await.unwrap().unwrap();
    assert!(progress.next().await.unwrap().is_ok());
    assert!(matches!(progress.next().await, Some(Err(FleetError::Unreachable(_)))));
    assert!(progress.next().now_or_never().unwrap().is_none());
    dominator.stop().await;
}

#[tokio::test]
async fn nobody_disturbs_a_machine_s_users_or_jumps_the_queue_without_the_right() {
    let world = World::new();
    let dominator =
        world.serve("dominator", Services::new("test").fleet(Arc::new(Obedient::default()))).await;
    let bob =
        RemoteFleet::connect(&world.tls("bob", "Dominator.EnableUpdates"), &dominator.at()).await.unwrap();
    let refused = bob.force_disruptive_update("web1").await.unwrap_err();
    assert!(matches!(refused, FleetError::Denied(_)), "{refused:?}");
    let refused = bob.fast_update("web1", FastUpdate::default()).await.map(drop).unwrap_err();
    assert!(matches!(refused, FleetError::Denied(_)), "{refused:?}");
    dominator.stop().await;
}
