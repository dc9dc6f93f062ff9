//! Who gets in, and what is said to those who don't.
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

use dominator_core::auth::{Access, Role};
use dominator_core::port::{
    Agent, AgentError, Boost, ImageError, ImageStore, ObjectStore, Percent, PollRequest, Reconfiguration,
    StoreError, Unreachable,
};
use dominator_core_testkit::{image_of, tree_of};
use dominator_rpc::auth::methods;
use dominator_rpc::client::{RemoteAgent, RemoteImages, RemoteObjects, list_methods};
use dominator_rpc::server::Services;
use dominator_rpc::transport::Tls;
use support::{Stores, World, chain, fake_agent, serve};

fn unreachable(error: AgentError) -> (Unreachable, String) {
    match &error {
        AgentError::Unreachable { why, .. } => (*why, chain(&error)),
        other => panic!("{other:?}"),
    }
}

async fn refusal(tls: &Tls, address: &str) -> (Unreachable, String) {
    unreachable(RemoteAgent::connect(tls, address).await.unwrap_err())
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_by_both_ends() {
    let (world, strangers) = (World::new(), World::new());
    let server = world.serve("subd", Services::new("test").agent(fake_agent())).await;
    // The client trusts the server, but not the other way round.
    let stranger = Tls::new(world.trust(), strangers.credentials("eve", "*.*")).unwrap();
    let (why, text) = refusal(&stranger, &server.at()).await;
    assert_eq!(why, Unreachable::BadCertificate, "{text}");
    assert!(text.contains("did not accept our certificate"), "{text}");
    assert_eq!(server.metrics.connections_refused(), 1);
    // The client does not trust the server.
    let (why, text) = refusal(&strangers.tls("eve", "*.*"), &server.at()).await;
    assert_eq!(why, Unreachable::BadCertificate, "{text}");
    assert!(text.contains("the certificate of 127.0.0.1"), "{text}");
    server.stop().await;
}

#[tokio::test]
async fn an_expired_certificate_is_refused_and_its_owner_is_told_so() {
    let world = World::new();
    let server = world.serve("subd", Services::new("test").agent(fake_agent())).await;
    let long_ago = SystemTime::now() - Duration::from_secs(60 * 86_400);
    let expired = Tls::new(world.trust(), world.credentials_at("dominator", "Subd.*", long_ago)).unwrap();
    let (why, text) = refusal(&expired, &server.at()).await;
    assert_eq!(why, Unreachable::BadCertificate, "{text}");
    assert!(text.contains("expired"), "{text}");
    server.stop().await;
}

#[tokio::test]
async fn a_machine_can_not_pose_as_an_image_server() {
    let world = World::new();
    let stores = Stores::new();
    let machine = world.serve("subd", stores.services()).await;
    let error = RemoteObjects::connect(&world.tls("subd", "*.*"), &machine.at()).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable(_)), "{error:?}");
    assert!(chain(&error).contains("imageserver"), "{}", chain(&error));
    machine.stop().await;
}

#[derive(Debug)]
struct ShowsNothing;

impl rustls::client::ResolvesClientCert for ShowsNothing {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[rustls::SignatureScheme],
    ) -> Option<std::sync::Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn who_shows_no_certificate_is_refused() {
    let world = World::new();
    let server = world.serve("subd", Services::new("test").agent(fake_agent())).await;
    let mut config = world.trust().client_config(&world.credentials("eve", ""), Role::Subd).unwrap();
    config.client_auth_cert_resolver = std::sync::Arc::new(ShowsNothing);
    let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let mut stream = connector.connect(name, stream).await.unwrap();
    let error = tokio::io::AsyncReadExt::read_u8(&mut stream).await.unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    assert_eq!(server.metrics.connections_refused(), 1);
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_there_is_told_apart() {
    let world = World::new();
    let tls = world.tls("dominator", "Subd.*");
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    assert_eq!(refusal(&tls, &nobody).await.0, Unreachable::Refused);
    assert_eq!(refusal(&tls, "no such name:1").await.0, Unreachable::Dns);
    let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = other.local_addr().unwrap().to_string();
    let talk = async {
        let (mut stream, _) = other.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"220 mail.example.org ESMTP\r\n").await.unwrap();
    };
    let ((_, text), ()) = tokio::join!(refusal(&tls, &address), talk);
    assert!(text.contains("does not speak TLS"), "{text}");
    // A lazy client says so with its first call, again and again.
    let images = RemoteImages::lazy(&tls, &nobody);
    for _ in 0..2 {
        let error = images.list().await.unwrap_err();
        assert!(matches!(error, ImageError::Unreachable(_)), "{error:?}");
        let expected =
            format!("the image server can't be reached: {nobody} refuses connections: nothing listens there");
        assert_eq!(chain(&error), expected, "once, and for people");
    }
}

#[tokio::test]
async fn a_method_is_open_to_those_whose_certificate_lists_it_and_to_nobody_else() {
    let world = World::new();
    let server = world.serve("subd", Services::new("test").agent(fake_agent())).await;
    for (listed, poll, clean_up) in
        [("Subd.Poll", true, false), ("Subd.Cleanup", false, true), ("Subd.*", true, true)]
    {
        let agent = RemoteAgent::connect(&world.tls("alice", listed), &server.at()).await.unwrap();
        let polled = agent.poll(PollRequest::default()).await;
        assert_eq!(polled.is_ok(), poll, "{listed}: {polled:?}");
        let cleaned = agent.clean_up(None).await;
        assert_eq!(cleaned.is_ok(), clean_up, "{listed}: {cleaned:?}");
        for error in [polled.err(), cleaned.err()].into_iter().flatten() {
            assert!(
                matches!(&error, AgentError::Denied(text) if text.contains("access to method denied")),
                "{error:?}"
            );
        }
    }
    assert_eq!(server.metrics.calls_denied(), 2);
    server.stop().await;
}

#[tokio::test]
async fn the_limits_of_an_agent_are_shown_to_all_and_changed_by_those_who_may() {
    let world = World::new();
    let fake = fake_agent();
    let server = world.serve("subd", Services::new("test").agent(fake.clone())).await;
    let agent = RemoteAgent::connect(&world.tls("alice", "Subd.BoostScanLimit"), &server.at()).await.unwrap();
    assert!(agent.configuration().await.is_ok());
    assert!(agent.boost(Boost::Scan).await.is_ok());
    let change = Reconfiguration { scan_speed: Some(Percent::ALL), ..Reconfiguration::default() };
    for error in [agent.boost(Boost::Cpu).await, agent.configure(change).await] {
        assert!(matches!(&error, Err(AgentError::Denied(_))), "{error:?}");
    }
    assert_eq!(fake.boosts(), [Boost::Scan]);
    server.stop().await;
}

#[tokio::test]
async fn what_a_server_does_not_offer_is_denied_even_to_the_all_powerful() {
    let world = World::new();
    let stores = Stores::new();
    let server =
        world.serve("imageserver", Services::new("test").images(stores.images.clone(), support::noon)).await;
    let objects = RemoteObjects::connect(&world.tls("root", "*.*"), &server.at()).await.unwrap();
    let error = objects.sizes(&[]).await;
    assert_eq!(error.unwrap(), Vec::new(), "nothing was asked");
    let error = objects.sizes(&[dominator_core::object::ObjectId::of(b"")]).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied(_)), "{error:?}");
    server.stop().await;
}

#[tokio::test]
async fn every_method_of_the_protocol_is_in_the_table() {
    let world = World::new();
    let stores = Stores::new();
    let services = stores.services().agent(fake_agent());
    let server = world.serve("imageserver", services).await;
    let known = list_methods(&world.tls("nobody", ""), &server.at(), Role::ImageServer).await.unwrap();
    assert_eq!(known.version, "test");
    let expected = methods().filter(|(method, _)| !["Dominator", "Logger"].contains(&method.service()));
    let expected: Vec<_> = expected.map(|(method, rule)| (method.to_string(), rule.access)).collect();
    assert_eq!(known.methods, expected);
    assert!(known.methods.contains(&("Subd.Poll".into(), Access::Listed)));
    server.stop().await;
}

#[tokio::test]
async fn images_are_deleted_by_their_makers_and_owners_only() {
    let world = World::new();
    let stores = Stores::new();
    let server = world.serve("imageserver", stores.services()).await;
    let tree = tree_of(&[("/etc/motd", b"hello")]);
    stores.objects.put_tree(&tree);
    stores.objects.put("hello");
    let mut image = image_of(&tree);
    // What the client claims about the maker does not count.
    image.created_by = "mallory".into();
    image.owner_users = vec!["carol".into()];
    let alice =
        RemoteImages::connect(&world.tls("alice", "ImageServer.AddImage"), &server.at()).await.unwrap();
    for number in ["a/1", "a/2", "a/3"] {
        alice.add(&number.parse().unwrap(), image.clone()).await.unwrap();
    }
    let name = "a/1".parse().unwrap();
    let added = alice.image(&name).await.unwrap();
    assert_eq!((added.created_by.as_str(), added.created_on), ("alice", 1_800_000_000));
    let delete = async |user: &str, listed: &str, name: &str| {
        let images = RemoteImages::connect(&world.tls(user, listed), &server.at()).await.unwrap();
        images.delete(&name.parse().unwrap()).await
    };
    let error = delete("mallory", "ImageServer.AddImage", "a/1").await.unwrap_err();
    assert!(matches!(&error, ImageError::Denied(text) if text.contains("mallory")), "{error:?}");
    delete("alice", "Subd.Poll", "a/1").await.unwrap();
    delete("carol", "Subd.Poll", "a/2").await.unwrap();
    delete("dave", "ImageServer.DeleteImage", "a/3").await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn replaced_credentials_count_for_new_connections() {
    let (old, new) = (World::new(), World::new());
    let tls = old.tls("subd", "");
    let server = serve(tls.clone(), Services::new("test").agent(fake_agent())).await;
    drop(RemoteAgent::connect(&old.tls("dominator", "Subd.*"), &server.at()).await.unwrap());
    tls.replace(new.trust(), new.credentials("subd", "")).unwrap();
    drop(RemoteAgent::connect(&new.tls("dominator", "Subd.*"), &server.at()).await.unwrap());
    assert_eq!(refusal(&old.tls("dominator", "Subd.*"), &server.at()).await.0, Unreachable::BadCertificate);
    server.stop().await;
}
