//! What is whose, and where powers end.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use dominator_core::auth::People;
use dominator_core::herd::FastUpdate;
use dominator_core::image::ImageName;
use dominator_core::machine::Machine;
use dominator_core::object::ObjectId;
use dominator_core::port::{
    Agent, Boost, ImageStore, ObjectStore, Percent, Piece, Pieces, PollRequest, Reconfiguration,
};
use dominator_core_testkit::{image_of, tree_of};
use dominator_rpc::client::{RemoteAgent, RemoteFleet, RemoteImages};
use dominator_rpc::controller::{Consent, FleetControl, FleetError, Progress, SubInfo, Switch, Updates};
use dominator_rpc::server::Services;
use dominator_rpc::transport::Tls;
use futures_util::{StreamExt as _, stream};

use crate::people::{Fleet, Says, at_images, at_tier, in_groups, refusal, tier};
use crate::support::{Stores, fake_agent, serve};

fn named(name: &str) -> ImageName {
    name.parse().unwrap()
}

#[tokio::test]
async fn powers_over_images_end_at_the_directories_of_a_certificate() {
    let (fleet, stores) = (Fleet::new(), Stores::new());
    let server = serve(fleet.tls("imageserver", ""), stores.services()).await;
    let tree = tree_of(&[("/etc/motd", b"hello")]);
    stores.objects.put_tree(&tree);
    stores.objects.put("hello");
    let images = async |tls: &Tls| RemoteImages::connect(tls, &server.at()).await.unwrap();
    let everywhere = images(&fleet.tls("root", "ImageServer.*")).await;
    for name in ["web/1", "web/2", "base/1"] {
        everywhere.add(&named(name), image_of(&tree)).await.unwrap();
    }
    let alice = images(&fleet.tls_of("alice", "ImageServer.*", &at_images("web"))).await;
    alice.add(&named("web/new/3"), image_of(&tree)).await.unwrap();
    for beyond in ["base/2", "webmail/1"] {
        let text = refusal(alice.add(&named(beyond), image_of(&tree)).await);
        assert!(text.contains(&format!("may not call ImageServer.AddImage for image {beyond}")), "{text}");
        assert!(!stores.images.list().await.unwrap().contains(&named(beyond)));
    }
    alice.delete(&named("web/1")).await.unwrap();
    let text = refusal(alice.delete(&named("base/1")).await);
    assert!(text.contains("\"alice\" does not own image base/1"), "{text}");
    // A scope ends powers. What needs none, everybody with a certificate may.
    assert!(alice.image(&named("base/1")).await.is_ok());
    assert_eq!(alice.list().await.unwrap().len(), 3);
    // What is somebody's own stays so wherever it is.
    let mut own = image_of(&tree);
    own.owner_users = vec!["alice".into()];
    everywhere.add(&named("base/hers"), own).await.unwrap();
    alice.delete(&named("base/hers")).await.unwrap();
    server.stop().await;
}

fn pushed() -> Pieces {
    let begin = Piece::Begin { id: ObjectId::of(b"x"), size: 1 };
    Pieces::new(stream::iter([Ok(begin), Ok(Piece::Data("x".into()))]))
}

#[tokio::test]
async fn powers_over_machines_end_at_the_tags_of_a_certificate() {
    let fleet = Fleet::new();
    let objects = Arc::new(dominator_core_testkit::MemoryObjects::default());
    let machine = |tags| {
        let services = Services::new("test").agent(fake_agent()).intake(objects.clone());
        serve(fleet.tls("subd", ""), services.machine(People::default(), tags))
    };
    let (front, back, bare) =
        (machine(tier("front")).await, machine(tier("back")).await, machine(BTreeMap::new()).await);
    let scoped = fleet.tls_of("alice", "*.*", &at_tier("front"));
    let works = RemoteAgent::connect(&scoped, &front.at()).await.unwrap();
    works.poll(PollRequest::default()).await.unwrap();
    works.boost(Boost::Scan).await.unwrap();
    assert_eq!(works.objects().add(pushed()).await.unwrap().len(), 1);
    for elsewhere in [&back, &bare] {
        let agent = RemoteAgent::connect(&scoped, &elsewhere.at()).await.unwrap();
        let text = refusal(agent.poll(PollRequest::default()).await);
        assert!(text.contains("may not call Subd.Poll for this machine"), "{text}");
        let change = Reconfiguration { scan_speed: Some(Percent::ALL), ..Reconfiguration::default() };
        refusal(agent.configure(change).await);
        refusal(agent.boost(Boost::Cpu).await);
        assert!(agent.configuration().await.is_ok(), "that is for everybody");
        // What is pushed to an agent is for its machine.
        refusal(agent.objects().add(pushed()).await);
    }
    let unlimited = RemoteAgent::connect(&fleet.tls("root", "Subd.*"), &bare.at()).await.unwrap();
    unlimited.poll(PollRequest::default()).await.unwrap();
    for server in [front, back, bare] {
        server.stop().await;
    }
}

#[tokio::test]
async fn owners_of_a_machine_call_every_method_of_its_agent_and_of_nothing_else() {
    let fleet = Fleet::new();
    let owners = People::new(["alice"], ["web"]);
    let stores = Stores::new();
    let services = stores.services().agent(fake_agent()).machine(owners, tier("front"));
    let server = serve(fleet.tls("subd", ""), services).await;
    let agent = async |tls: Tls| RemoteAgent::connect(&tls, &server.at()).await.unwrap();
    for tls in [fleet.tls("alice", ""), fleet.tls_of("bob", "", &in_groups(&["dev", "web"]))] {
        let owner = agent(tls).await;
        owner.poll(PollRequest::default()).await.unwrap();
        owner.clean_up(None).await.unwrap();
    }
    refusal(agent(fleet.tls_of("carol", "", &in_groups(&["dev"]))).await.poll(PollRequest::default()).await);
    refusal(agent(fleet.tls_of("alice", "", &at_tier("back"))).await.poll(PollRequest::default()).await);
    let waived = fleet.tls("alice", "Subd.*").waiving_powers();
    let text = refusal(agent(waived).await.poll(PollRequest::default()).await);
    assert!(text.contains("asked not to use its powers"), "{text}");
    server.stop().await;
}

#[tokio::test]
async fn whom_a_server_trusts_calls_everything_within_the_scope_of_his_certificate() {
    let (fleet, stores) = (Fleet::new(), Stores::new());
    let services = stores.services().trusting(People::new(["alice"], ["admins"]));
    let server = serve(fleet.tls("imageserver", ""), services).await;
    let tree = tree_of(&[]);
    stores.objects.put_tree(&tree);
    let add = async |tls: Tls, name: &str| {
        let images = RemoteImages::connect(&tls, &server.at()).await.unwrap();
        images.add(&named(name), image_of(&tree)).await
    };
    add(fleet.tls("alice", ""), "a/1").await.unwrap();
    add(fleet.tls_of("bob", "", &in_groups(&["admins"])), "a/2").await.unwrap();
    refusal(add(fleet.tls("carol", ""), "a/3").await);
    refusal(add(fleet.tls_of("alice", "", &at_images("b")), "a/3").await);
    refusal(add(fleet.tls("alice", "*.*").waiving_powers(), "a/3").await);
    server.stop().await;
}

#[tokio::test]
async fn who_waives_his_powers_is_as_everybody() {
    let (fleet, stores) = (Fleet::new(), Stores::new());
    let server = serve(fleet.tls("imageserver", ""), stores.services()).await;
    let tree = tree_of(&[]);
    stores.objects.put_tree(&tree);
    let powerful = RemoteImages::connect(&fleet.tls("root", "*.*"), &server.at()).await.unwrap();
    powerful.add(&named("a/1"), image_of(&tree)).await.unwrap();
    let waived = fleet.tls("bob", "*.*").waiving_powers();
    let modest = RemoteImages::connect(&waived, &server.at()).await.unwrap();
    assert_eq!(modest.list().await.unwrap(), [named("a/1")]);
    let text = refusal(modest.delete(&named("a/1")).await);
    assert!(text.contains("\"bob\" does not own image a/1"), "{text}");
    server.stop().await;
}

/// A fleet of two machines, one of them alice's and of group web.
struct Two;

fn machine(name: &str) -> Option<Machine> {
    let owned = |name| Machine { tags: tier(name), ..Machine::named(name) };
    match name {
        "front" => Some(Machine {
            owner_users: vec!["alice".into()],
            owner_groups: vec!["web".into()],
            ..owned("front")
        }),
        "back" => Some(owned("back")),
        _ => None,
    }
}

#[async_trait]
impl FleetControl for Two {
    fn machine(&self, hostname: &str) -> Option<Arc<Machine>> {
        machine(hostname).map(Arc::new)
    }

    async fn subs(&self) -> Result<Vec<String>, FleetError> {
        Ok(vec!["back".into(), "front".into()])
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

    async fn clear_safety_shutoff(&self, hostname: &str) -> Result<Consent, FleetError> {
        Ok(machine(hostname).map_or(Consent::NoSuchMachine, |_| Consent::Given))
    }

    async fn force_disruptive_update(&self, hostname: &str) -> Result<Consent, FleetError> {
        self.clear_safety_shutoff(hostname).await
    }

    async fn fast_update(&self, hostname: &str, _: FastUpdate) -> Result<Option<Progress>, FleetError> {
        Ok(machine(hostname).map(|_| stream::empty().boxed()))
    }
}

/// Whether somebody is let do each of the things that are done to one machine.
async fn may(fleet: &RemoteFleet, machine: &str) -> bool {
    let done = [
        fleet.clear_safety_shutoff(machine).await.map(drop),
        fleet.force_disruptive_update(machine).await.map(drop),
        fleet.fast_update(machine, FastUpdate::default()).await.map(drop),
    ];
    let denied: Vec<bool> = done.iter().map(|it| matches!(it, Err(FleetError::Denied(_)))).collect();
    assert!(denied.iter().all(|it| *it == denied[0]), "{done:?}");
    !denied[0]
}

#[tokio::test]
async fn what_is_done_to_one_machine_its_owners_may_and_those_whose_powers_reach_it() {
    let fleet = Fleet::new();
    let server = serve(fleet.tls("dominator", ""), Services::new("test").fleet(Arc::new(Two))).await;
    let none = Says::default();
    let rows = [
        ("alice", "", &none, [true, false, false]),
        ("bob", "", &in_groups(&["web"]), [true, false, false]),
        ("carol", "", &in_groups(&["dev"]), [false, false, false]),
        ("carol", "Dominator.*", &none, [true, true, true]),
        ("carol", "Dominator.*", &at_tier("back"), [false, true, false]),
        ("alice", "Dominator.*", &at_tier("back"), [true, true, false]),
    ];
    for (user, methods, says, expected) in rows {
        let remote = RemoteFleet::connect(&fleet.tls_of(user, methods, says), &server.at()).await.unwrap();
        for (machine, expected) in ["front", "back", "nowhere"].into_iter().zip(expected) {
            assert_eq!(may(&remote, machine).await, expected, "{user} {methods} {machine}");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_done_to_all_machines_is_out_of_every_scope() {
    let fleet = Fleet::new();
    let server = serve(fleet.tls("dominator", ""), Services::new("test").fleet(Arc::new(Two))).await;
    let connect = async |tls: Tls| RemoteFleet::connect(&tls, &server.at()).await.unwrap();
    let scoped = connect(fleet.tls_of("alice", "Dominator.*", &at_tier("front"))).await;
    for switch in [Switch::Disabled, Switch::Enabled] {
        let text = refusal(scoped.switch_updates(switch, "why", "").await);
        assert!(text.contains("for all machines"), "{text}");
    }
    assert_eq!(scoped.subs().await.unwrap(), ["back", "front"], "that is for everybody");
    let images_only = connect(fleet.tls_of("bob", "Dominator.*", &at_images("web"))).await;
    images_only.switch_updates(Switch::Disabled, "why", "").await.unwrap();
    server.stop().await;
}
