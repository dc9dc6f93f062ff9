//! The layer around a service that is not of this crate, over a transport that is not either: requests are made by hand.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use dominator_core::auth::{Access, Ground, People, Reach, Rule};
use dominator_rpc::auth::{Authorise, Caller, Gate, Policy};
use dominator_rpc::metrics::Metrics;
use dominator_rpc::transport::{Peer, Tls};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::{Code, Status};
use tower::{Layer as _, Service};

use crate::people::{Fleet, Says, at_images, at_tier, in_groups, tier};
use crate::support::events::Events;

/// Does what its requests' paths say, once the test gives leave.
#[derive(Clone)]
struct Workshop {
    leave: Arc<Semaphore>,
    tools: Gate<Arc<Semaphore>>,
}

impl Service<Request<Body>> for Workshop {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (this, caller) = (self.clone(), request.extensions().get::<Caller>().unwrap().clone());
        async move {
            Ok(match this.work(request.uri().path(), &caller).await {
                Ok(body) => Response::new(body),
                Err(status) => status.into_http(),
            })
        }
        .boxed()
    }
}

impl Workshop {
    async fn work(&self, path: &str, caller: &Caller) -> Result<Body, Status> {
        match path.rsplit_once('/').unwrap().1 {
            "Wait" => drop(self.leave.acquire().await.unwrap()),
            "Stream" => return Ok(Body::new(Endless)),
            "Image" => drop(caller.may_image(&"web/1".parse().unwrap())?),
            "Machine" => drop(caller.may_machine("web1", &tier("front"))?),
            "Nameless" => drop(self.tools.open(caller.permit()?)),
            _ => {}
        }
        Ok(Body::empty())
    }
}

/// An answer that never ends.
struct Endless;

impl http_body::Body for Endless {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, Status>>> {
        Poll::Pending
    }
}

const PUBLIC: Rule = Rule::READS.open_to(Access::Public);

fn policy() -> Policy {
    let rules = [
        ("Listed", Rule::CHANGES),
        ("Public", PUBLIC),
        ("Open", Rule::READS.open_to(Access::Unauthenticated)),
        ("Wait", PUBLIC),
        ("Stream", PUBLIC),
        ("Image", Rule::CHANGES.reaching(Reach::NamedImages)),
        ("Machine", Rule::CHANGES.reaching(Reach::NamedMachines)),
        ("Forgets", Rule::CHANGES.reaching(Reach::NamedImages)),
        ("Nameless", Rule::CHANGES.reaching(Reach::NamedImages)),
        ("Here", Rule::CHANGES.reaching(Reach::ThisMachine)),
        ("All", Rule::CHANGES.reaching(Reach::Fleet)),
    ];
    rules.into_iter().fold(Policy::new(), |policy, (name, rule)| {
        policy.method(&format!("/acme.v1.Workshop/{name}"), rule).unwrap()
    })
}

type Guarded = dominator_rpc::auth::Guarded<Workshop>;

fn guarded(policy: Policy) -> (Guarded, Arc<Semaphore>) {
    let (service, leave) = workshop();
    (Authorise::new(policy).layer(service), leave)
}

fn workshop() -> (Workshop, Arc<Semaphore>) {
    let leave = Arc::new(Semaphore::new(0));
    let tools = Gate::new(leave.clone());
    (Workshop { leave: leave.clone(), tools }, leave)
}

fn request(peer: Option<&Peer>, method: &str) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = format!("http://x/acme.v1.Workshop/{method}").parse().unwrap();
    if let Some(peer) = peer {
        request.extensions_mut().insert(peer.clone());
    }
    request
}

fn peer(fleet: &Fleet, user: &str, methods: &str, says: &Says) -> Peer {
    let tls = fleet.tls("imageserver", "");
    tls.peer(([127, 0, 0, 1], 7).into(), fleet.credentials(user, methods, says).chain()).unwrap()
}

fn nobody() -> Peer {
    Peer::nobody(([127, 0, 0, 1], 7).into())
}

fn said(response: &Response<Body>) -> (Code, String) {
    let status = Status::from_header_map(response.headers());
    status.map_or((Code::Ok, String::new()), |status| (status.code(), status.message().into()))
}

async fn asked(service: &mut Guarded, request: Request<Body>) -> (Code, String) {
    // A call that waits although it should be answered fails its test, and does not hold it up.
    let answer = timeout(Duration::from_secs(60), service.call(request)).await;
    said(&answer.expect("an answer").unwrap())
}

#[tokio::test]
async fn each_rule_lets_in_whom_it_says() {
    let fleet = Fleet::new();
    let (mut service, _leave) = guarded(policy().trusting(People::new(["boss"], [""; 0])));
    let none = Says::default();
    let (lists, plain) = (peer(&fleet, "alice", "Workshop.*", &none), peer(&fleet, "bob", "Shop.*", &none));
    let boss = peer(&fleet, "boss", "", &none);
    let here = at_tier("front");
    let scoped = peer(&fleet, "alice", "Workshop.*", &here);
    let (denied, ok, open) = (Code::PermissionDenied, Code::Ok, Code::Unauthenticated);
    let rows = [
        ("Listed", [ok, denied, ok, ok, open]),
        ("Public", [ok, ok, ok, ok, open]),
        ("Open", [ok, ok, ok, ok, ok]),
        ("Image", [ok, denied, ok, ok, open]),
        ("Machine", [ok, denied, ok, ok, open]),
        ("Here", [ok, denied, ok, denied, open]),
        ("All", [ok, denied, ok, denied, open]),
        ("Missing", [denied; 5]),
    ];
    for (method, expected) in rows {
        let peers = [&lists, &plain, &boss, &scoped, &nobody()];
        for (peer, expected) in peers.into_iter().zip(expected) {
            let (code, text) = asked(&mut service, request(Some(peer), method)).await;
            assert_eq!(code, expected, "{method}: {peer:?}: {text}");
            assert!(code == ok || text.starts_with("access to method denied: "), "{text}");
        }
        assert_eq!(
            asked(&mut service, request(None, method)).await.0,
            open,
            "{method}: nobody said who calls"
        );
    }
}

#[tokio::test]
async fn a_certificate_of_another_service_of_that_name_counts_only_where_the_path_is_offered() {
    let fleet = Fleet::new();
    let (mut service, _leave) = guarded(policy());
    let alice = peer(&fleet, "alice", "*.*", &Says::default());
    for path in ["/other.v1.Workshop/Listed", "/Workshop/Listed", "/acme.v1.Workshop/listed", "/", "*"] {
        let mut request = request(Some(&alice), "Listed");
        *request.uri_mut() = path.parse().unwrap();
        let (code, text) = asked(&mut service, request).await;
        assert_eq!(code, Code::PermissionDenied, "{path}: {text}");
    }
}

#[tokio::test]
async fn a_handler_that_does_not_ask_denies_everybody() {
    let fleet = Fleet::new();
    let (mut service, _leave) = guarded(policy());
    let root = peer(&fleet, "root", "*.*", &Says::default());
    for method in ["Forgets", "Nameless"] {
        let (code, text) = asked(&mut service, request(Some(&root), method)).await;
        assert_eq!(code, Code::PermissionDenied, "{method}: {text}");
        assert!(text.contains("the server did not ask"), "{text}");
    }
}

#[tokio::test]
async fn what_a_request_names_is_compared_with_the_scope() {
    let fleet = Fleet::new();
    let (mut service, _leave) = guarded(policy().tagged(tier("front")));
    let rows = [
        (at_images("web"), "Image", true),
        (at_images("base"), "Image", false),
        (at_images("base"), "Machine", true),
        (at_tier("front"), "Machine", true),
        (at_tier("back"), "Machine", false),
        (at_tier("back"), "Image", true),
        (at_tier("front"), "Here", true),
        (at_tier("back"), "Here", false),
        (at_images("base"), "All", true),
    ];
    for (says, method, expected) in rows {
        let alice = peer(&fleet, "alice", "*.*", &says);
        let (code, text) = asked(&mut service, request(Some(&alice), method)).await;
        assert_eq!(code == Code::Ok, expected, "{method} {says:?}: {text}");
    }
}

#[tokio::test]
async fn powers_that_are_waived_are_not_used_and_nothing_else_can_be_asked_for() {
    let fleet = Fleet::new();
    let (mut service, _leave) = guarded(policy().owned("Workshop", People::new([""; 0], ["owners"])));
    let alice = peer(&fleet, "alice", "*.*", &Says::default());
    let owner = peer(&fleet, "bob", "", &in_groups(&["owners"]));
    let with = |peer: &Peer, method: &str, value: &str| {
        let mut request = request(Some(peer), method);
        request.headers_mut().insert("dominator-powers", value.parse().unwrap());
        request
    };
    for peer in [&alice, &owner] {
        assert_eq!(asked(&mut service, request(Some(peer), "Listed")).await.0, Code::Ok);
        let (code, text) = asked(&mut service, with(peer, "Listed", "none")).await;
        assert!(code == Code::PermissionDenied && text.contains("asked not to use its powers"), "{text}");
        assert_eq!(asked(&mut service, with(peer, "Public", "none")).await.0, Code::Ok);
        assert_eq!(asked(&mut service, with(peer, "Public", "some")).await.0, Code::InvalidArgument);
    }
}

#[tokio::test]
async fn who_asks_for_powers_there_are_not_is_told_of_and_counted_like_everybody_who_is_denied() {
    let (fleet, events, metrics) = (Fleet::new(), Events::listen(), Metrics::new());
    let (service, _leave) = workshop();
    let mut service = Authorise::new(policy()).recording(metrics.clone(), None).layer(service);
    let ursula = peer(&fleet, "ursula", "*.*", &Says::default());
    for value in ["some", "", "None", "none,some"] {
        let mut request = request(Some(&ursula), "Public");
        request.headers_mut().insert("dominator-powers", value.parse().unwrap());
        let (code, text) = asked(&mut service, request).await;
        assert!(code == Code::InvalidArgument && text.starts_with("access to method denied: "), "{text}");
    }
    let counted = "dominator_decisions_total{method=\"Workshop.Public\",decision=\"unknown-powers\"} 4";
    assert!(metrics.text().lines().any(|line| line == counted), "{}", metrics.text());
    assert_eq!(events.count(&["WARN", "\"user\":\"ursula\"", "Workshop.Public", "unknown-powers"]), 4);
}

#[tokio::test]
async fn the_ground_is_told_to_the_handler() {
    let fleet = Fleet::new();
    let found = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = found.clone();
    let inner = tower::service_fn(move |request: Request<Body>| {
        let caller = request.extensions().get::<Caller>().unwrap();
        seen.lock().unwrap().push((caller.user().to_owned(), caller.ground()));
        std::future::ready(Ok::<_, Infallible>(Response::new(Body::empty())))
    });
    let people = (People::new(["boss"], [""; 0]), People::new(["owner"], [""; 0]));
    let policy = policy().trusting(people.0).owned("Workshop", people.1);
    let mut service = Authorise::new(policy).layer(inner);
    for (user, methods, method) in
        [("alice", "*.*", "Open"), ("boss", "", "Open"), ("owner", "", "Open"), ("bob", "", "Public")]
    {
        let peer = peer(&fleet, user, methods, &Says::default());
        service.call(request(Some(&peer), method)).await.unwrap();
    }
    service.call(request(Some(&nobody()), "Open")).await.unwrap();
    let expected = [
        ("alice", Ground::Listed),
        ("boss", Ground::Trusted),
        ("owner", Ground::Owner),
        ("bob", Ground::Public),
        ("", Ground::Unauthenticated),
    ];
    assert_eq!(*found.lock().unwrap(), expected.map(|(user, ground)| (user.to_owned(), ground)));
}

/// A call that has come in and is not answered.
async fn begun<F: Future<Output = Result<Response<Body>, Infallible>> + Unpin>(mut call: F) -> F {
    assert!((&mut call).now_or_never().is_none());
    call
}

#[tokio::test(start_paused = true)]
async fn users_without_powers_have_four_calls_of_a_method_and_keep_nobody_else_waiting() {
    let fleet = Fleet::new();
    let (mut service, leave) = guarded(policy());
    let says = Says::default();
    let (bob, carol, alice) = (
        peer(&fleet, "bob", "", &says),
        peer(&fleet, "carol", "", &says),
        peer(&fleet, "alice", "Workshop.*", &says),
    );
    let mut calls = Vec::new();
    for _ in 0..4 {
        calls.push(begun(Box::pin(service.call(request(Some(&bob), "Wait")))).await);
    }
    let (code, text) = asked(&mut service, request(Some(&bob), "Wait")).await;
    assert_eq!(code, Code::ResourceExhausted);
    assert!(text.contains("\"bob\" has 4 calls of Workshop.Wait under way already"), "{text}");
    // Over another connection he is the same.
    let again = peer(&fleet, "bob", "", &says);
    assert_eq!(asked(&mut service, request(Some(&again), "Wait")).await.0, Code::ResourceExhausted);
    // Other methods, other users, and whoever has powers are not concerned.
    assert_eq!(asked(&mut service, request(Some(&bob), "Public")).await.0, Code::Ok);
    let other = begun(Box::pin(service.call(request(Some(&carol), "Wait")))).await;
    let mut powerful = Vec::new();
    for _ in 0..8 {
        powerful.push(begun(Box::pin(service.call(request(Some(&alice), "Wait")))).await);
    }
    // A call that is given up by its caller makes room; so does one that is answered.
    drop(calls.pop());
    calls.push(begun(Box::pin(service.call(request(Some(&bob), "Wait")))).await);
    leave.add_permits(100);
    for call in calls.into_iter().chain([other]).chain(powerful) {
        assert_eq!(said(&call.await.unwrap()).0, Code::Ok);
    }
    assert_eq!(asked(&mut service, request(Some(&bob), "Wait")).await.0, Code::Ok);
}

#[tokio::test]
async fn a_stream_holds_its_place_until_it_is_dropped() {
    let fleet = Fleet::new();
    let (mut service, _leave) = guarded(policy().calls_of_user(2));
    let bob = peer(&fleet, "bob", "", &Says::default());
    let mut streams = Vec::new();
    for _ in 0..2 {
        streams.push(service.call(request(Some(&bob), "Stream")).await.unwrap());
    }
    assert_eq!(asked(&mut service, request(Some(&bob), "Stream")).await.0, Code::ResourceExhausted);
    drop(streams.pop());
    streams.push(service.call(request(Some(&bob), "Stream")).await.unwrap());
    assert_eq!(said(&streams[1]).0, Code::Ok);
}

#[tokio::test(start_paused = true)]
async fn who_shows_no_certificate_shares_the_places_of_his_address() {
    let (mut service, _leave) = guarded(
        Policy::new()
            .method("/acme.v1.Workshop/Wait", Rule::READS.open_to(Access::Unauthenticated))
            .unwrap()
            .calls_of_user(1),
    );
    let at = |address: [u8; 4], port| Peer::nobody((address, port).into());
    let held = begun(Box::pin(service.call(request(Some(&at([127, 0, 0, 1], 1)), "Wait")))).await;
    let second = asked(&mut service, request(Some(&at([127, 0, 0, 1], 2)), "Wait")).await;
    assert_eq!(second.0, Code::ResourceExhausted);
    let elsewhere = begun(Box::pin(service.call(request(Some(&at([127, 0, 0, 2], 1)), "Wait")))).await;
    drop((held, elsewhere));
}

#[tokio::test]
async fn a_peer_of_another_transport_is_judged_again_when_trust_changes() {
    let (fleet, others) = (Fleet::new(), Fleet::new());
    let (mut service, _leave) = guarded(policy());
    let tls = Tls::new(fleet.trust(), fleet.credentials("imageserver", "", &Says::default())).unwrap();
    let shown = fleet.credentials("alice", "*.*", &Says::default());
    let alice = tls.peer(([127, 0, 0, 1], 7).into(), shown.chain()).unwrap();
    assert_eq!(asked(&mut service, request(Some(&alice), "Listed")).await.0, Code::Ok);
    let own = others.credentials("imageserver", "", &Says::default());
    tls.replace(others.trust(), own).unwrap();
    let (code, text) = asked(&mut service, request(Some(&alice), "Listed")).await;
    assert!(code == Code::PermissionDenied && text.contains("no longer accepted"), "{code}: {text}");
    assert!(tls.peer(([127, 0, 0, 1], 7).into(), shown.chain()).is_err(), "and not let in again");
}
