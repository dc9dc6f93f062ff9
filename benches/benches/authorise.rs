//! What it costs to decide who may do what: a decision alone, the layer around a service that does nothing, and what share
//! that is of a unary call's processor time. The last has client and server in this process and no TLS between them, so
//! that the share is larger than it will be in earnest.
//!
//! With `--test` everything runs once and nothing is judged.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing, missing_docs)]

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::hint::black_box;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use dominator_benches::contender::{Contender, Series, compete};
use dominator_benches::table::{Bar, Report, Unit};
use dominator_core::auth::{
    Access, Identity, Method, MethodPattern, People, Powers, Question, Rule, Target, decide,
};
use dominator_pki::Trust;
use dominator_pki::ca::{Authority, Leaf};
use dominator_rpc::auth::{Authorise, Policy};
use dominator_rpc::transport::{Peer, Tls};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::http::{HeaderValue, Request, Response, Uri};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::{Channel, Endpoint, Server};
use tonic_prost::ProstCodec;
use tower::{Layer, Service};

const PATH: &str = "/acme.v1.Greeter/SayHello";
/// What a certificate may list at worst: the last of fifty matches, and all others begin like it.
const PATTERNS: usize = 50;

fn main() {
    let quick = std::env::args().any(|argument| argument == "--test");
    let (rounds, times, calls) = if quick { (1, 100, 20) } else { (11, 200_000, 20_000) };
    let patterns = patterns();
    let peer = peer(&patterns);
    let identity = peer.identity().unwrap();
    let mut report = Report::default();
    let repeated = compete(
        vec![
            contender("decide, 50 patterns, the last matches", times, || decided(identity)),
            contender("bare loop: 50 comparisons of text", times, || compared(&patterns)),
            contender("a service that does nothing", times, service(Inner, &peer)),
            contender("the same behind the door", times, service(behind(Inner), &peer)),
        ],
        rounds,
    );
    let mut series: Vec<_> = repeated.iter().map(|series| each(series, times)).collect();
    let cost = (series[3].cpu_median() - series[2].cpu_median()).max(0.0);
    let seen = format!(
        "the door: {:.0} ns, of that the decision: {:.0} ns",
        cost * 1e9,
        series[0].cpu_median() * 1e9
    );
    report.bars.push(Bar::at_most("authorisation of one call", seen, cost, 1e-6, Unit::Seconds));
    let (open, guarded) = (Connected::new(Greeter, &peer), Connected::new(behind(Greeter), &peer));
    let unary = compete(
        vec![
            contender("unary call without the door", calls, || open.call()),
            contender("unary call through the door", calls, || guarded.call()),
        ],
        rounds,
    );
    series.extend(unary.iter().map(|series| each(series, calls)));
    let (without, with) = (series[4].cpu_median(), series[5].cpu_median());
    let seen = format!("{:.2} µs of CPU with it, {:.2} µs without", with * 1e6, without * 1e6);
    report.bars.push(Bar::at_most("CPU of a unary call", seen, with / without, 1.03, Unit::Times));
    report.times.push(("one call".into(), series));
    println!("{report}");
}

fn contender<'a>(name: &str, times: u32, mut work: impl FnMut() + 'a) -> Contender<'a> {
    Contender::call(name, move || (0..times).for_each(|_| work()))
}

/// How long one of so many takes.
fn each(series: &Series, times: u32) -> Series {
    let each = |of: &[f64]| of.iter().map(|seconds| seconds / f64::from(times)).collect();
    Series { name: series.name.clone(), wall: each(&series.wall), cpu: each(&series.cpu) }
}

fn patterns() -> Vec<String> {
    let other = (1..PATTERNS).map(|number| match number % 3 {
        0 => format!("Greeter.Say{number}"),
        1 => format!("Greeter.S?y*{number}"),
        _ => format!("Greeter.[R-T]a*{number}"),
    });
    other.chain(["Greeter.Say*".into()]).collect()
}

fn peer(patterns: &[String]) -> Peer {
    let now = SystemTime::now();
    let authority = Authority::create("Bench", now).unwrap();
    let methods = patterns.iter().map(|text| text.parse::<MethodPattern>().unwrap());
    let leaf = Leaf::new("alice").unwrap().methods(methods);
    let shown = authority.issue_credentials(&leaf, now).unwrap();
    let trust = Trust::new(vec![authority.certificate_der().clone()], Vec::new()).unwrap();
    let tls = Tls::new(trust, shown.clone()).unwrap();
    tls.peer(([127, 0, 0, 1], 1).into(), shown.chain()).unwrap()
}

fn decided(identity: &Identity) {
    let method: &Method = black_box(&METHOD);
    let nobody = People::default();
    let question = Question {
        method,
        access: Access::Listed,
        caller: Some(identity),
        powers: Powers::Used,
        trusted: &nobody,
        owners: &nobody,
    };
    black_box(decide(&question, Target::Nothing)).unwrap();
}

static METHOD: LazyLock<Method> = LazyLock::new(|| "Greeter.SayHello".parse().unwrap());

fn compared(patterns: &[String]) {
    let text = black_box("Greeter.SayHello");
    black_box(patterns.iter().any(|pattern| pattern == text));
}

fn policy() -> Policy {
    // Beside as many others as we have ourselves.
    (0..40).fold(Policy::new().method(PATH, Rule::READS).unwrap(), |policy, number| {
        policy.method(&format!("/acme.v1.Other/Method{number}"), Rule::READS).unwrap()
    })
}

fn behind<S>(inner: S) -> <Authorise as Layer<S>>::Service {
    Authorise::new(policy()).layer(inner)
}

#[derive(Clone)]
struct Inner;

impl Service<Request<Body>> for Inner {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        ready(Ok(Response::new(Body::empty())))
    }
}

/// One call of a service, as a server makes it.
fn service<S, F>(mut service: S, peer: &Peer) -> impl FnMut()
where
    S: Service<Request<Body>, Future = F>,
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    let peer = peer.clone();
    let uri: Uri = PATH.parse().unwrap();
    let mut context = Context::from_waker(Waker::noop());
    move || {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = uri.clone();
        request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
        request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        request.headers_mut().insert("user-agent", HeaderValue::from_static("bench"));
        request.extensions_mut().insert(peer.clone());
        let answer = std::pin::pin!(service.call(request)).poll(&mut context);
        assert!(matches!(black_box(answer), Poll::Ready(Ok(answer)) if answer.headers().is_empty()));
    }
}

/// A client, its server and the connection between them, on one thread.
struct Connected {
    runtime: Runtime,
    channel: Channel,
}

impl Connected {
    fn new<S>(service: S, peer: &Peer) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
        S: Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let known = Known { inner: service, peer: peer.clone() };
        let channel = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let incoming = TcpListenerStream::new(listener);
            tokio::spawn(Server::builder().add_service(known).serve_with_incoming(incoming));
            let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
            endpoint.tcp_nodelay(true).connect().await.unwrap()
        });
        Self { runtime, channel }
    }

    fn call(&self) {
        self.runtime.block_on(async {
            let mut client = tonic::client::Grpc::new(self.channel.clone());
            client.ready().await.unwrap();
            let codec = ProstCodec::<(), ()>::default();
            client.unary(tonic::Request::new(()), PathAndQuery::from_static(PATH), codec).await.unwrap();
        });
    }
}

/// Says who calls, as a transport does.
#[derive(Clone)]
struct Known<S> {
    inner: S,
    peer: Peer,
}

impl<S> NamedService for Known<S> {
    const NAME: &'static str = "acme.v1.Greeter";
}

impl<S: Service<Request<Body>>> Service<Request<Body>> for Known<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> S::Future {
        request.extensions_mut().insert(self.peer.clone());
        self.inner.call(request)
    }
}

#[derive(Clone)]
struct Greeter;

impl UnaryService<()> for Greeter {
    type Response = ();
    type Future = Ready<Result<tonic::Response<()>, tonic::Status>>;

    fn call(&mut self, _: tonic::Request<()>) -> Self::Future {
        ready(Ok(tonic::Response::new(())))
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
