//! Whether a server is ready is told over the port it serves at, by the protocol that others speak, too.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    dead_code,
    unreachable_pub,
    missing_docs
)]

mod support;

use dominator_core::auth::{Access, Role, Rule};
use dominator_rpc::auth::{BadPolicy, Policy};
use dominator_rpc::client::list_methods;
use dominator_rpc::readiness::Readiness;
use dominator_rpc::server::Services;
use support::{Running, World, raw};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus::{self, NotServing, ServiceUnknown, Serving};
use tonic_health::pb::health_client::HealthClient;

fn about(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.into() }
}

async fn started(world: &World, readiness: &Readiness) -> Running {
    let services = support::Stores::new().services().readiness(readiness.clone()).unwrap();
    world.serve("imageserver", services).await
}

#[tokio::test]
async fn anybody_with_an_identity_may_ask_about_each_service() {
    let (world, readiness) = (World::new(), Readiness::new());
    let stores = readiness.condition("stores", "they are being opened");
    let server = started(&world, &readiness).await;
    let mut client = HealthClient::new(raw(&world, &server, "", Role::ImageServer).await);
    let mut ask = async |service: &str| {
        let answer = client.check(about(service)).await.map_err(|status| status.code())?;
        Ok(ServingStatus::try_from(answer.into_inner().status).unwrap())
    };
    let known = ["", "dominator.v1.ImageServer", "dominator.v1.ObjectServer", "dominator.v1.Introspection"];
    for service in known {
        assert_eq!(ask(service).await, Ok(NotServing), "{service}");
    }
    stores.met();
    for service in known {
        assert_eq!(ask(service).await, Ok(Serving), "{service}");
    }
    for service in ["dominator.v1.Subd", "ImageServer", "grpc.health.v1.Health"] {
        assert_eq!(ask(service).await, Err(Code::NotFound), "{service}");
    }
    let listed = list_methods(&world.tls("x", ""), &server.at(), Role::ImageServer).await.unwrap();
    for method in ["Health.Check", "Health.Watch"] {
        assert!(listed.methods.contains(&(method.into(), Access::Public)), "{listed:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn who_watches_is_told_every_change_and_does_not_hold_up_the_end() {
    let (world, readiness) = (World::new(), Readiness::new());
    let server = started(&world, &readiness).await;
    let mut client = HealthClient::new(raw(&world, &server, "", Role::ImageServer).await);
    let mut standings = client.watch(about("")).await.unwrap().into_inner();
    let mut next = async || {
        let answer = standings.message().await.unwrap()?;
        Some(ServingStatus::try_from(answer.status).unwrap())
    };
    assert_eq!(next().await, Some(Serving));
    let certificate = readiness.condition("certificate", "it expired");
    assert_eq!(next().await, Some(NotServing));
    certificate.met();
    assert_eq!(next().await, Some(Serving));
    let mut unknown = client.watch(about("nothing")).await.unwrap().into_inner();
    assert_eq!(unknown.message().await.unwrap().unwrap().status, i32::from(ServiceUnknown));
    readiness.end();
    assert_eq!(next().await, Some(NotServing));
    assert_eq!(next().await, None, "the last word");
    assert_eq!(unknown.message().await.unwrap(), None);
    server.stop().await;
}

#[tokio::test]
async fn nobody_is_told_without_an_identity_or_of_a_server_that_does_not_say() {
    let world = World::new();
    let server = world.serve("imageserver", support::Stores::new().services()).await;
    let mut client = HealthClient::new(raw(&world, &server, "*.*", Role::ImageServer).await);
    let error = client.check(about("")).await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied, "{error}");
    server.stop().await;
    // Somebody else's service of that name can't stand beside it: certificates could not tell them apart.
    let theirs = Policy::new().method("/mine.Health/Check", Rule::READS).unwrap();
    let health = tonic_health::server::health_reporter().1;
    let services = Services::new("test").foreign(health, &theirs).unwrap();
    assert!(matches!(services.readiness(Readiness::new()), Err(BadPolicy::Twice { .. })));
}
