//! A tonic service that knows nothing of us, behind the door: its own rules, in the words of its own methods, for those
//! whose certificates list them, for everybody with a certificate, and for anybody.
//!
//! The certificates are made in memory here; in earnest `make-cert` makes them. The service is written by hand, where
//! otherwise tonic-build makes it.
#![allow(clippy::print_stdout, reason = "an example shows what it finds")]

use std::convert::Infallible;
use std::error::Error;
use std::future::{Ready, ready};
use std::task::{Context, Poll};
use std::time::SystemTime;

use dominator_core::auth::{Access, MethodPattern, Role, Rule};
use dominator_pki::Trust;
use dominator_pki::ca::{Authority, Leaf};
use dominator_rpc::auth::{Caller, Policy};
use dominator_rpc::server::Services;
use dominator_rpc::transport::{Server, Tls, connect};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response, uri::PathAndQuery};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Status, client};
use tonic_prost::ProstCodec;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Certificates list these as Greeter.Hello, Greeter.Members and Greeter.Rename.
    let policy = Policy::new()
        .method("/acme.v1.Greeter/Hello", Rule::READS.open_to(Access::Unauthenticated))?
        .method("/acme.v1.Greeter/Members", Rule::READS.open_to(Access::Public))?
        .method("/acme.v1.Greeter/Rename", Rule::CHANGES)?;
    let authority = Authority::create("Acme", SystemTime::now())?;
    let services = Services::new("1.0").foreign(Greeter, &policy)?;
    let server = Server::bind(([127, 0, 0, 1], 0).into(), tls(&authority, "mdbd", "")?, services).await?;
    let (address, metrics) = (server.local_address().to_string(), server.metrics());
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve(async { drop(stopped.await) }));

    let alice = tls(&authority, "alice", "Greeter.*")?;
    let bob = tls(&authority, "bob", "Other.*")?;
    for (who, tls) in
        [("bob", bob), ("alice", alice.clone()), ("alice, without her powers", alice.waiving_powers())]
    {
        for method in ["Hello", "Members", "Rename", "Delete"] {
            println!("{who} calls {method}: {}", call(&tls, &address, method).await?);
        }
    }
    println!("refused: {} calls", metrics.calls_denied());

    drop(stop);
    Ok(serving.await??)
}

/// Whom our authority has signed is believed; this end shows a certificate for `user`.
fn tls(authority: &Authority, user: &str, methods: &str) -> Result<Tls, Box<dyn Error>> {
    let trust = Trust::new(vec![authority.certificate_der().clone()], Vec::new())?;
    let leaf = Leaf::new(user)?.methods(MethodPattern::parse_list(methods)?);
    Ok(Tls::new(trust, authority.issue_credentials(&leaf, SystemTime::now())?)?)
}

/// What was answered, or why not.
async fn call(tls: &Tls, address: &str, method: &str) -> Result<String, Box<dyn Error>> {
    let mut client = client::Grpc::new(connect(tls, address, Role::Mdbd).await?);
    client.ready().await?;
    let path: PathAndQuery = format!("/acme.v1.Greeter/{method}").parse()?;
    let answer = client.unary(tonic::Request::new(()), path, ProstCodec::<(), String>::default()).await;
    Ok(answer.map_or_else(|status| status.message().to_owned(), |answer| answer.into_inner()))
}

/// Tells its caller whom it takes him for.
#[derive(Clone)]
struct Greeter;

impl UnaryService<()> for Greeter {
    type Response = String;
    type Future = Ready<Result<tonic::Response<String>, Status>>;

    fn call(&mut self, request: tonic::Request<()>) -> Self::Future {
        let caller = Caller::of(&request);
        ready(caller.map(|caller| {
            tonic::Response::new(format!("{}, as it is {}", caller.user(), caller.ground().word()))
        }))
    }
}

impl NamedService for Greeter {
    const NAME: &'static str = "acme.v1.Greeter";
}

impl Service<Request<Body>> for Greeter {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        async { Ok(Grpc::new(ProstCodec::default()).unary(Self, request).await) }.boxed()
    }
}
