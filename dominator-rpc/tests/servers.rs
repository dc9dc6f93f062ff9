//! Which server a client believes, and what is left where nobody has to prove anything.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    dead_code,
    unreachable_pub,
    missing_docs
)]

mod support;

use std::time::{Duration, SystemTime};

use dominator_core::auth::Role;
use dominator_core::object::ObjectId;
use dominator_core::port::{
    Agent, AgentError, ObjectSources, ObjectStore, PollRequest, StoreError, Unreachable,
};
use dominator_pki::AlternativeName;
use dominator_rpc::client::{
    IntrospectError, RemoteAgent, RemoteImages, RemoteObjects, Sources, list_methods,
};
use dominator_rpc::server::Services;
use dominator_rpc::transport::{BindError, ConnectError, Server, Tls, danger};
use support::{Stores, World, chain, fake_agent, serve};

async fn refusal(tls: &Tls, address: &str) -> (Unreachable, String) {
    match RemoteAgent::connect(tls, address).await.unwrap_err() {
        error @ AgentError::Unreachable { why, .. } => (why, chain(&error)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_server_of_another_role_is_told_apart_from_one_nobody_trusts() {
    let world = World::new();
    let stores = Stores::new();
    let server = world.serve("imageserver", stores.services()).await;
    let tls = world.tls("dominator", "*.*");
    let (why, text) = refusal(&tls, &server.at()).await;
    assert_eq!(why, Unreachable::WrongRole, "{text}");
    assert!(text.contains("is no subd") && text.contains("imageserver"), "{text}");
    let error = list_methods(&tls, &server.at(), Role::Dominator).await.unwrap_err();
    assert!(
        matches!(
            &error,
            IntrospectError::Connect(ConnectError::WrongRole {
                expected: Role::Dominator,
                found: Some(Role::ImageServer),
                ..
            })
        ),
        "{error:?}"
    );
    server.stop().await;
}

#[tokio::test]
async fn whoever_fetches_objects_asks_who_the_source_is() {
    let (world, strangers) = (World::new(), World::new());
    let stores = Stores::new();
    let machine = world.serve("subd", stores.services()).await;
    let stranger = strangers.serve("imageserver", stores.services()).await;
    let sources = Sources::new(world.tls("subd", "ObjectServer.GetObjects"));
    for (address, words) in [(machine.at(), "is no imageserver"), (stranger.at(), "is not accepted")] {
        let Err(error) = sources.source(&address).await else { panic!("{address} was believed") };
        assert!(matches!(error, StoreError::Unreachable(_)), "{error:?}");
        assert!(chain(&error).contains(words), "{}", chain(&error));
    }
    machine.stop().await;
    stranger.stop().await;
}

#[tokio::test]
async fn a_certificate_that_names_machines_is_good_for_these_only_and_one_that_names_none_for_all_unless_they_must()
 {
    let world = World::new();
    let names = |name: &str| [AlternativeName::Ip(name.parse().unwrap())];
    let serving = async |credentials| {
        serve(Tls::new(world.trust(), credentials).unwrap(), Services::new("test").agent(fake_agent())).await
    };
    let anywhere = serving(world.credentials("subd", "")).await;
    let here = serving(world.credentials_named("subd", names("127.0.0.1"))).await;
    let elsewhere = serving(world.credentials_named("subd", names("192.0.2.1"))).await;
    let lenient = world.tls("dominator", "Subd.*");
    let strict = lenient.clone().require_machine_identity();
    for tls in [&lenient, &strict] {
        RemoteAgent::connect(tls, &here.at()).await.unwrap().poll(PollRequest::default()).await.unwrap();
        assert_eq!(refusal(tls, &elsewhere.at()).await.0, Unreachable::BadCertificate);
    }
    RemoteAgent::connect(&lenient, &anywhere.at()).await.unwrap();
    let (why, text) = refusal(&strict, &anywhere.at()).await;
    assert_eq!(why, Unreachable::BadCertificate);
    assert!(text.contains("names no machine"), "{text}");
    for server in [anywhere, here, elsewhere] {
        server.stop().await;
    }
}

#[tokio::test]
async fn image_servers_need_no_name_where_machines_do() {
    let world = World::new();
    let stores = Stores::new();
    let server = world.serve("imageserver", stores.services()).await;
    let tls = world.tls("dominator", "*.*").require_machine_identity();
    RemoteImages::connect(&tls, &server.at()).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn who_is_refused_as_expired_although_it_is_not_learns_that_a_clock_is_wrong() {
    let world = World::new();
    let ahead = world.trust().with_clock(std::sync::Arc::new(InAYear));
    let server_tls = Tls::new(ahead, world.credentials("subd", "")).unwrap();
    let server = serve(server_tls, Services::new("test").agent(fake_agent())).await;
    let (why, text) = refusal(&world.tls("dominator", "Subd.*"), &server.at()).await;
    assert_eq!(why, Unreachable::BadCertificate);
    assert!(text.contains("one of the two clocks is wrong"), "{text}");
    server.stop().await;
}

#[derive(Debug)]
struct InAYear;

impl rustls::time_provider::TimeProvider for InAYear {
    fn current_time(&self) -> Option<rustls_pki_types::UnixTime> {
        let then = SystemTime::now() + Duration::from_secs(366 * 86_400);
        Some(rustls_pki_types::UnixTime::since_unix_epoch(
            then.duration_since(SystemTime::UNIX_EPOCH).unwrap(),
        ))
    }
}

#[tokio::test]
async fn without_proof_everybody_on_the_machine_may_do_everything_and_nobody_else_anything() {
    let insecure = danger::permit_insecure();
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let bound = Server::bind(address.parse().unwrap(), insecure.clone(), Services::new("test")).await;
        assert!(matches!(bound, Err(BindError::Insecure { .. })), "{address}: {bound:?}");
    }
    for address in ["192.0.2.1:6969", "[2001:db8::1]:6969"] {
        let (why, text) = refusal(&insecure, address).await;
        assert_eq!(why, Unreachable::Other);
        assert!(text.contains("won't connect to") && text.contains("--danger-permit-insecure"), "{text}");
    }
    let stores = Stores::new();
    let server = serve(insecure.clone(), stores.services()).await;
    let objects = RemoteObjects::connect(&insecure, &server.at()).await.unwrap();
    assert_eq!(objects.sizes(&[ObjectId::of(b"")]).await.unwrap(), [None]);
    server.stop().await;
}

#[tokio::test]
async fn who_demands_proof_does_not_talk_to_who_gives_none() {
    let world = World::new();
    let insecure = danger::permit_insecure();
    let loose = serve(insecure.clone(), Services::new("test").agent(fake_agent())).await;
    let strict = world.serve("subd", Services::new("test").agent(fake_agent())).await;
    let (_, text) = refusal(&world.tls("dominator", "Subd.*"), &loose.at()).await;
    assert!(text.contains("does not speak TLS"), "{text}");
    let agent = RemoteAgent::connect(&insecure, &strict.at()).await.unwrap();
    agent.poll(PollRequest::default()).await.unwrap_err();
    assert_eq!(strict.metrics.connections_refused(), 1);
    loose.stop().await;
    strict.stop().await;
}
