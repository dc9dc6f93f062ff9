//! A service that is not of this crate behind our transport, with something for those who show no certificate.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use dominator_core::auth::{Access, Role, Rule};
use dominator_rpc::auth::{BadPolicy, Caller, Policy};
use dominator_rpc::server::Services;
use dominator_rpc::v1;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;
use tower::Service;

use crate::people::{Fleet, Says};
use crate::support::{Running, fake_agent, serve};

/// Tells everybody whom it takes him for.
#[derive(Clone)]
struct Greeter;

impl NamedService for Greeter {
    const NAME: &'static str = "acme.v1.Greeter";
}

impl UnaryService<v1::Empty> for Greeter {
    type Response = v1::EnableUpdatesRequest;
    type Future = BoxFuture<'static, Result<tonic::Response<Self::Response>, Status>>;

    fn call(&mut self, request: tonic::Request<v1::Empty>) -> Self::Future {
        let user = Caller::of(&request).map(|caller| caller.user().to_owned());
        async { user.map(|reason| tonic::Response::new(v1::EnableUpdatesRequest { reason })) }.boxed()
    }
}

impl Service<Request<Body>> for Greeter {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        async { Ok(tonic::server::Grpc::new(ProstCodec::default()).unary(Self, request).await) }.boxed()
    }
}

fn greeting() -> Policy {
    let open = Rule::READS.open_to(Access::Unauthenticated);
    let policy = Policy::new().method("/acme.v1.Greeter/Hello", open).unwrap();
    policy.method("/acme.v1.Greeter/Members", Rule::READS.open_to(Access::Public)).unwrap()
}

#[derive(Debug)]
struct ShowsNothing;

impl rustls::client::ResolvesClientCert for ShowsNothing {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// A connection of somebody who shows what he has been given, if anything.
async fn connect(
    fleet: &Fleet,
    server: &Running,
    shown: Option<dominator_pki::Credentials>,
) -> Option<Channel> {
    let own = shown.clone().unwrap_or_else(|| fleet.credentials("nobody", "", &Says::default()));
    let mut config = fleet.trust().client_config(&own, Role::Subd).unwrap();
    if shown.is_none() {
        config.client_auth_cert_resolver = Arc::new(ShowsNothing);
    }
    let (connector, address) = (tokio_rustls::TlsConnector::from(Arc::new(config)), server.address);
    let connect = tower::service_fn(move |_| {
        let connector = connector.clone();
        async move {
            let stream = tokio::net::TcpStream::connect(address).await?;
            let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
            connector.connect(name, stream).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://raw").connect_with_connector(connect).await.ok()
}

async fn greeted(channel: &Channel, method: &'static str) -> Result<String, Code> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.map_err(|_| Code::Unavailable)?;
    let codec = ProstCodec::<v1::Empty, v1::EnableUpdatesRequest>::default();
    let answer = client.unary(tonic::Request::new(v1::Empty {}), method.parse().unwrap(), codec).await;
    answer.map(|answer| answer.into_inner().reason).map_err(|status| status.code())
}

const HELLO: &str = "/acme.v1.Greeter/Hello";
const MEMBERS: &str = "/acme.v1.Greeter/Members";
const METHODS: &str = "/dominator.v1.Introspection/ListMethods";

#[tokio::test]
async fn who_shows_no_certificate_may_what_everybody_may_and_nothing_else() {
    let fleet = Fleet::new();
    let services = Services::new("test").agent(fake_agent()).foreign(Greeter, &greeting()).unwrap();
    let server = serve(fleet.tls("subd", ""), services).await;
    let unnamed = connect(&fleet, &server, None).await.unwrap();
    assert_eq!(greeted(&unnamed, HELLO).await, Ok(String::new()));
    for denied in [MEMBERS, METHODS, "/dominator.v1.Subd/Poll"] {
        assert_eq!(greeted(&unnamed, denied).await, Err(Code::Unauthenticated), "{denied}");
    }
    let alice = connect(&fleet, &server, Some(fleet.credentials("alice", "", &Says::default()))).await;
    let alice = alice.unwrap();
    for method in [HELLO, MEMBERS] {
        assert_eq!(greeted(&alice, method).await, Ok("alice".to_owned()), "{method}");
    }
    // Whoever shows a certificate shows a good one.
    let strangers = Fleet::new();
    let eve = connect(&fleet, &server, Some(strangers.credentials("eve", "*.*", &Says::default()))).await;
    let greeted = match eve {
        Some(eve) => greeted(&eve, HELLO).await,
        None => Err(Code::Unavailable),
    };
    assert!(greeted.is_err(), "{greeted:?}");
    assert_eq!(server.metrics.connections_refused(), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_server_with_nothing_for_everybody_lets_nobody_in_without_a_certificate() {
    let fleet = Fleet::new();
    let members = Policy::new().method(MEMBERS, Rule::READS.open_to(Access::Public)).unwrap();
    let services = Services::new("test").foreign(Greeter, &members).unwrap();
    let server = serve(fleet.tls("subd", ""), services).await;
    if let Some(unnamed) = connect(&fleet, &server, None).await {
        assert!(greeted(&unnamed, MEMBERS).await.is_err());
    }
    assert_eq!((server.metrics.connections_refused(), server.metrics.calls_denied()), (1, 0));
    server.stop().await;
}

#[tokio::test]
async fn no_foreign_method_takes_the_name_of_one_of_ours() {
    let policy = Policy::new().method("/acme.v1.Subd/Poll", Rule::READS).unwrap();
    let refused = Services::new("test").foreign(Greeter, &policy).unwrap_err();
    assert!(matches!(refused, BadPolicy::Twice { .. }), "{refused:?}");
}
