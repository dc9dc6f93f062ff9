//! What is left of a server's log when somebody would fill it.
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
use std::time::{Duration, SystemTime};

use dominator_core::auth::{Access, Reach, Role, Rule};
use dominator_pki::Credentials;
use dominator_rpc::auth::{Authorise, Caller, Policy};
use dominator_rpc::metrics::Metrics;
use dominator_rpc::transport::{Bounds, Peer, Server, Tls, connect};
use dominator_rpc::{limits, v1};
use support::events::Events;
use support::{Stores, World, serve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer as _, Service as _};

/// How many lines say that `what` happened, and how often it did by what they say.
fn told(lines: &[String], what: &str) -> (u64, u64) {
    lines.iter().filter(|line| line.contains(what)).fold((0, 0), |(count, total), line| {
        let more = line.split_once("\"more\":").map_or(1, |(_, rest)| {
            rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
        });
        (count + 1, total + more)
    })
}

/// One connection that says what is no handshake, until the server has ended it.
async fn noise(server: std::net::SocketAddr) {
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    // The answer is an alert, a reset or nothing.
    drop(stream.read_to_end(&mut Vec::new()).await);
}

#[tokio::test]
async fn thousands_of_connections_that_are_none_leave_few_lines_and_all_are_counted() {
    const CONNECTIONS: u64 = 3000;
    const AT_ONCE: usize = 32;
    let (events, stores) = (Events::listen(), Stores::new());
    let server = World::new().serve("imageserver", stores.services()).await;
    let begun = Instant::now();
    let mut noises = JoinSet::new();
    for _ in 0..CONNECTIONS {
        if noises.len() == AT_ONCE {
            noises.join_next().await;
        }
        noises.spawn(noise(server.address));
    }
    while noises.join_next().await.is_some() {}
    // Each is told of by a line or in the number of those that had none, a moment later at most.
    let refused = |lines: &[String]| {
        // Other tests are refused for their certificates meanwhile.
        let own: Vec<_> = lines.iter().filter(|line| !line.contains("certificate")).cloned().collect();
        told(&own, "connection refused")
    };
    let lines = events.wait_until(|lines| refused(lines).1 >= CONNECTIONS).await;
    let seconds = begun.elapsed().as_secs() + 1;
    let (count, total) = refused(&lines);
    assert_eq!((total, server.metrics.connections_refused()), (CONNECTIONS, CONNECTIONS));
    // For each of the reasons there can be (no TLS, cut off, crowded), with their number, which is told at the end of a second
    // or by whoever comes after it.
    let most = 3 * (u64::from(limits::LINES) + 2) * seconds;
    assert!(count <= most, "{count} lines in {seconds} s");
    server.stop().await;
}

#[tokio::test]
async fn strangers_hide_nobody_in_the_log_whose_certificate_was_taken_back() {
    let (events, stores, world) = (Events::listen(), Stores::new(), World::new());
    let revoked = world.credentials("taken-back", "");
    let list = world.revoke(&[&revoked], SystemTime::now());
    let own = Tls::new(world.trust_without(Some(&list), ""), world.credentials("imageserver", ""));
    let server = serve(own.unwrap(), stores.services()).await;
    let comes = async |credentials: Credentials| {
        let tls = Tls::new(world.trust(), credentials).unwrap();
        if let Ok(channel) = connect(&tls, &server.at(), Role::ImageServer).await {
            let mut client = v1::introspection_client::IntrospectionClient::new(channel);
            client.list_methods(v1::Empty {}).await.unwrap_err();
        }
    };
    let stranger = World::new().credentials("eve", "*.*");
    for _ in 0..10 * limits::LINES {
        comes(stranger.clone()).await;
    }
    comes(revoked).await;
    let event = events.wait_for(&["connection refused", "taken-back"]).await;
    assert!(event.contains("was taken back by"), "{event}");
    let text = server.metrics.text();
    assert!(text.contains("dominator_connections_refused_total{reason=\"revoked\"}"), "{text}");
    server.stop().await;
}

#[tokio::test]
async fn who_connects_and_calls_much_later_is_not_taken_for_somebody_who_says_nothing() {
    let (stores, world) = (Stores::new(), World::new());
    let tls = world.tls("imageserver", "");
    let server = Server::bind(([127, 0, 0, 1], 0).into(), tls, stores.services()).await.unwrap();
    let bounds = Bounds { handshake: Duration::from_secs(3), ..Bounds::default() };
    let server = server.with_bounds(bounds);
    let (address, metrics) = (server.local_address().to_string(), server.metrics());
    let calls = async {
        let channel = connect(&world.tls("ida", ""), &address, Role::ImageServer).await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        let mut client = v1::introspection_client::IntrospectionClient::new(channel);
        client.list_methods(v1::Empty {}).await.unwrap();
    };
    server.serve(calls).await.unwrap();
    assert!(!metrics.text().contains("silent"), "{}", metrics.text());
}

#[tokio::test]
async fn a_connection_that_had_to_go_is_told_of_and_counted() {
    let (events, stores, world) = (Events::listen(), Stores::new(), World::new());
    let tls = world.tls("imageserver", "");
    let server = Server::bind(([127, 0, 0, 1], 0).into(), tls, stores.services()).await.unwrap();
    let server = server.with_bounds(Bounds { powerless: 2, ..Bounds::default() });
    let (address, metrics) = (server.local_address().to_string(), server.metrics());
    let comes = async |user: &str| {
        let channel = connect(&world.tls(user, ""), &address, Role::ImageServer).await.unwrap();
        let mut client = v1::introspection_client::IntrospectionClient::new(channel);
        // The answer shows that the connection has its place.
        client.list_methods(v1::Empty {}).await.unwrap();
        client
    };
    let meets = async {
        let held = [comes("greta").await, comes("greta").await, comes("hugo").await];
        events.wait_for(&["connection ended", "greta"]).await;
        drop(held);
    };
    server.serve(meets).await.unwrap();
    let counted = "dominator_connections_ended_total{reason=\"displaced\"} 1";
    assert!(metrics.text().lines().any(|line| line == counted), "{}", metrics.text());
}

fn request(peer: &Peer, path: &str) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = format!("http://x{path}").parse().unwrap();
    request.extensions_mut().insert(peer.clone());
    request
}

/// Asks for a machine that has a long name.
async fn asks(request: Request<Body>) -> Result<Response<Body>, Status> {
    let caller = request.extensions().get::<Caller>().unwrap();
    let asked = caller.may_own_machine(&"x".repeat(64 * 1024), &BTreeMap::new(), |_| false);
    Ok(asked.map_or_else(Status::into_http, |_| Response::new(Body::empty())))
}

#[tokio::test(start_paused = true)]
async fn who_is_denied_again_and_again_fills_no_log_however_long_the_names_he_calls() {
    const CALLS: u64 = 1000;
    let (events, world, metrics) = (Events::listen(), World::new(), Metrics::new());
    let public = Rule::CHANGES.open_to(Access::Public).reaching(Reach::NamedMachines);
    let policy = Policy::new().method("/acme.v1.Workshop/Listed", Rule::READS).unwrap();
    let policy = policy.method("/acme.v1.Workshop/Machine", public).unwrap();
    let mut service = Authorise::new(policy).recording(metrics.clone(), None).layer(tower::service_fn(asks));
    let shown = world.credentials("eve", "");
    let eve = world.tls("imageserver", "").peer(([192, 0, 2, 1], 7).into(), shown.chain()).unwrap();
    let long = format!("/acme.v1.Workshop/{}", "x".repeat(usize::try_from(limits::HEADERS).unwrap()));
    let rows = [
        ("denied", "not-listed", 512),
        ("denied", "no-such-method", 2 * limits::PATH_TOLD + 512),
        ("denied", "not-owner", limits::ERROR_TEXT + 512),
        // What everybody may call is let in, and the handler denies it.
        ("allowed", "public", 512),
    ];
    let paths = ["/acme.v1.Workshop/Listed", &long, "/acme.v1.Workshop/Machine"];
    for _ in 0..CALLS {
        for path in paths {
            service.call(request(&eve, path)).await.unwrap();
        }
    }
    let lines = |what: &str, reason: &str| {
        let mut lines = events.all();
        lines.retain(|line| line.contains(what) && line.contains(&format!("\"{reason}\"")));
        lines
    };
    for (what, reason, _) in rows {
        assert_eq!(told(&lines(what, reason), what).0, u64::from(limits::LINES), "{reason}");
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    for path in paths {
        let response = service.call(request(&eve, path)).await.unwrap();
        let said = Status::from_header_map(response.headers()).unwrap();
        assert!(said.message().len() <= limits::ERROR_TEXT, "{path:.80}");
    }
    let text = metrics.text();
    for (what, reason, longest) in rows {
        let lines = lines(what, reason);
        let all = (u64::from(limits::LINES) + 2, CALLS + 1);
        assert_eq!(told(&lines, what), all, "{reason}: two more lines tell of all");
        let length = lines.iter().map(String::len).max().unwrap();
        assert!(length <= longest, "{reason}: a line of {length} bytes");
        let counted = text.lines().find(|line| line.contains(&format!("\"{reason}\""))).unwrap();
        assert!(counted.ends_with(&format!(" {}", CALLS + 1)), "{counted}");
    }
}
