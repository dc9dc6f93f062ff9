//! Trust that changes while connections stand: on both ends, within seconds, and told in words.
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

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dominator_core::auth::Role;
use dominator_core::port::{Agent, AgentError, PollReply, PollRequest};
use dominator_pki::files::{IdentityPath, RevocationPaths, TrustFiles, TrustPaths};
use dominator_pki::keystore::CredentialPaths;
use dominator_pki::{Credentials, StalePolicy};
use dominator_rpc::client::RemoteAgent;
use dominator_rpc::metrics::Metrics;
use dominator_rpc::server::Services;
use dominator_rpc::transport::{Follower, Tls};
use support::events::Events;
use support::{Issued, Running, World, chain, fake_agent, serve};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Within what time a connection that lost its standing is closed: the promise itself.
const PROMISE: Duration = Duration::from_secs(5);
/// After what time nothing comes any more.
const PATIENCE: Duration = Duration::from_secs(120);
const DAY: Duration = Duration::from_secs(86_400);

/// A server with an agent behind it.
async fn agent_of(tls: Tls) -> Running {
    serve(tls, Services::new("test").agent(fake_agent())).await
}

/// A call that waits for longer than any test takes.
async fn call_under_way(agent: &Arc<RemoteAgent>) -> JoinHandle<Result<PollReply, AgentError>> {
    let seen = agent.poll(PollRequest::default()).await.unwrap().status.generation;
    let request = PollRequest { known: Some(seen), wait: Duration::from_secs(300), ..PollRequest::default() };
    let agent = Arc::clone(agent);
    tokio::spawn(async move { agent.poll(request).await })
}

/// Waits for the end of a call under way, which must come within the promised time.
async fn cut_off(call: JoinHandle<Result<PollReply, AgentError>>) {
    let ended = timeout(PROMISE, call).await.expect("cut off within the promised time").unwrap();
    assert!(matches!(ended, Err(AgentError::Unreachable { .. })), "{ended:?}");
}

async fn connect(tls: &Tls, server: &Running) -> Result<Arc<RemoteAgent>, AgentError> {
    RemoteAgent::connect(tls, &server.at()).await.map(Arc::new)
}

#[tokio::test]
async fn who_is_no_longer_trusted_is_cut_off_in_the_middle_of_a_call_and_others_are_not() {
    let (world, next) = (World::new(), World::new());
    let events = Events::listen();
    let both = || world.trust_also(&next);
    let server_tls = Tls::new(both(), world.credentials("subd", "")).unwrap();
    let server = agent_of(server_tls.clone()).await;
    let old = connect(&world.tls("root-taken-away", "Subd.*"), &server).await.unwrap();
    let kept_tls = Tls::new(world.trust(), next.credentials("root-kept", "Subd.*")).unwrap();
    let kept = connect(&kept_tls, &server).await.unwrap();
    let (old_call, kept_call) = (call_under_way(&old).await, call_under_way(&kept).await);
    server_tls.replace(next.trust(), world.credentials("subd", "")).unwrap();
    cut_off(old_call).await;
    let event = events.wait_for(&["connection closed", "root-taken-away"]).await;
    assert!(event.contains("no longer accepted"), "{event}");
    kept.poll(PollRequest::default()).await.unwrap();
    assert!(!kept_call.is_finished());
    assert_eq!(events.count(&["connection closed", "root-kept"]), 0);
    // The next call makes a new connection, and is told why there is none.
    let error = old.poll(PollRequest::default()).await.unwrap_err();
    assert!(chain(&error).contains("did not accept our certificate"), "{}", chain(&error));
    kept_call.abort();
    server.stop().await;
}

#[tokio::test]
async fn who_is_revoked_is_cut_off_in_the_middle_of_a_call_whatever_revokes_him() {
    let world = World::new();
    let events = Events::listen();
    let node = "node-of-the-denied";
    let revoked = world.credentials("taken-back", "Subd.*");
    let by_serial = world.credentials("denied-serial", "Subd.*");
    let by_node = world.credentials_of_node("denied-node", "Subd.*", node);
    let list = world.revoke(&[&revoked], SystemTime::now());
    let serial = format!("serial {}", by_serial.certificate().serial());
    let rows = [
        (revoked, Some(&list), String::new()),
        (world.credentials("denied-user", "Subd.*"), None, "user denied-user".to_owned()),
        (by_serial, None, serial),
        (by_node, None, format!("node {node}")),
    ];
    for (credentials, list, denied) in rows {
        let user = credentials.certificate().unverified_claims().user.clone();
        let server_tls = world.tls("subd", "");
        let server = agent_of(server_tls.clone()).await;
        let agent = connect(&Tls::new(world.trust(), credentials).unwrap(), &server).await.unwrap();
        let other = connect(&world.tls("dominator", "Subd.*"), &server).await.unwrap();
        let call = call_under_way(&agent).await;
        let trust = world.trust_without(list.map(String::as_str), &denied);
        server_tls.replace(trust, world.credentials("subd", "")).unwrap();
        cut_off(call).await;
        let event = events.wait_for(&["connection closed", &user]).await;
        assert!(event.contains("was taken back by"), "{user}: {event}");
        assert!(server.metrics.text().contains("reason=\"revoked\"} 1"), "{}", server.metrics.text());
        other.poll(PollRequest::default()).await.unwrap();
        agent.poll(PollRequest::default()).await.unwrap_err();
        server.stop().await;
    }
}

#[tokio::test]
async fn a_client_leaves_a_server_that_is_revoked_and_finds_its_successor_at_the_same_address() {
    let world = World::new();
    let events = Events::listen();
    let stolen = world.credentials("subd", "");
    let server_tls = Tls::new(world.trust(), stolen.clone()).unwrap();
    let server = agent_of(server_tls.clone()).await;
    let tls = world.tls("dominator", "Subd.*");
    let agent = connect(&tls, &server).await.unwrap();
    let call = call_under_way(&agent).await;
    let list = world.revoke(&[&stolen], SystemTime::now());
    tls.replace(world.trust_without(Some(&list), ""), world.credentials("dominator", "Subd.*")).unwrap();
    cut_off(call).await;
    events.wait_for(&["connection closed", &server.at(), "was taken back by"]).await;
    let error = agent.poll(PollRequest::default()).await.unwrap_err();
    assert!(chain(&error).contains("it was revoked"), "{}", chain(&error));
    server_tls.replace(world.trust(), world.credentials("subd", "")).unwrap();
    agent.poll(PollRequest::default()).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn where_nobody_knows_who_was_revoked_nothing_is_changed_until_somebody_does() {
    let world = World::new();
    let nobody: [&Credentials; 0] = [];
    let late = world.revoke(&nobody, SystemTime::now() - 2 * DAY);
    let rows = [
        (StalePolicy::default(), true, false),
        (StalePolicy::Open, true, true),
        (StalePolicy::Closed, false, false),
    ];
    for (policy, reads, changes) in rows {
        let tls = Tls::new(world.trust_without(Some(&late), ""), world.credentials("subd", "")).unwrap();
        let tls = tls.when_stale(policy);
        let server = agent_of(tls.clone()).await;
        let agent = connect(&world.tls("alice", "Subd.*"), &server).await.unwrap();
        let (poll, clean_up) = (agent.poll(PollRequest::default()).await, agent.clean_up(None).await);
        assert_eq!((poll.is_ok(), clean_up.is_ok()), (reads, changes), "{policy}");
        for error in [poll.err(), clean_up.err()].into_iter().flatten() {
            let AgentError::Denied(why) = &error else { panic!("{error:?}") };
            assert!(
                why.contains("access to method denied") && why.contains("has not been current since"),
                "{why}"
            );
        }
        let current = world.revoke(&nobody, SystemTime::now());
        tls.replace(world.trust_without(Some(&current), ""), world.credentials("subd", "")).unwrap();
        agent.clean_up(None).await.unwrap();
        server.stop().await;
    }
}

#[tokio::test]
async fn a_client_that_would_rather_talk_to_nobody_does_where_nobody_knows_who_was_revoked() {
    let world = World::new();
    let late = world.revoke(&[], SystemTime::now() - 2 * DAY);
    let server = agent_of(world.tls("subd", "")).await;
    let tls =
        Tls::new(world.trust_without(Some(&late), ""), world.credentials("dominator", "Subd.*")).unwrap();
    connect(&tls, &server).await.unwrap();
    let error = connect(&tls.when_stale(StalePolicy::Closed), &server).await.unwrap_err();
    assert!(chain(&error).contains("--crl-stale"), "{}", chain(&error));
    server.stop().await;
}

#[tokio::test]
async fn a_session_of_somebody_who_is_revoked_is_not_resumed() {
    let world = World::new();
    let server_tls = world.tls("subd", "");
    let server = agent_of(server_tls.clone()).await;
    let alice = world.credentials("alice", "Subd.*");
    let mut config = world.trust().client_config(&alice, Role::Subd).unwrap();
    config.resumption = rustls::client::Resumption::in_memory_sessions(16);
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let first_word = async || {
        let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
        let mut stream = connector.connect(name, stream).await.unwrap();
        let word = tokio::io::AsyncReadExt::read_u8(&mut stream).await;
        word.map(|_| stream.get_ref().1.handshake_kind().unwrap())
    };
    for _ in 0..2 {
        assert_eq!(first_word().await.unwrap(), rustls::HandshakeKind::Full);
    }
    let list = world.revoke(&[&alice], SystemTime::now());
    server_tls.replace(world.trust_without(Some(&list), ""), world.credentials("subd", "")).unwrap();
    let error = first_word().await.unwrap_err();
    assert!(error.to_string().contains("Certificate"), "{error}");
    server.stop().await;
}

/// The files of a daemon.
struct Files(tempfile::TempDir);

impl Files {
    fn new(world: &World, certificate: Issued) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.write("CA.pem", world.trusted_pem());
        files.write("deny", "");
        files.show(certificate);
        files
    }

    fn write(&self, name: &str, contents: &str) {
        let (new, path) = (self.0.path().join("new"), self.0.path().join(name));
        std::fs::write(&new, contents).unwrap();
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    fn show(&self, (certificate, key): Issued) {
        self.write("cert.pem", &certificate);
        self.write("key.pem", &key);
    }

    fn open(&self) -> (Tls, TrustFiles) {
        let at = |name| self.0.path().join(name);
        let paths = TrustPaths {
            credentials: CredentialPaths { certificate: at("cert.pem"), key: at("key.pem") },
            authorities: at("CA.pem"),
            identity: IdentityPath::None,
            revocation: RevocationPaths { denied: Some(at("deny")), ..RevocationPaths::default() },
        };
        let (files, loaded) = TrustFiles::open(paths, SystemTime::now()).unwrap();
        (Tls::new(loaded.trust, loaded.credentials).unwrap(), files)
    }
}

#[tokio::test]
async fn what_the_files_say_is_in_force_soon_and_what_they_do_not_say_well_changes_nothing() {
    let world = World::new();
    let events = Events::listen();
    let files = Files::new(&world, world.issued("subd", 30, SystemTime::now()));
    let (tls, opened) = files.open();
    let metrics = Metrics::new();
    let mut follower = Follower::new(tls.clone(), opened, metrics.clone());
    let following =
        tokio::spawn(async move { follower.follow(Duration::from_millis(10), std::future::pending).await });
    let server = agent_of(tls.clone()).await;
    let mallory = connect(&world.tls("mallory-in-the-file", "Subd.*"), &server).await.unwrap();
    let call = call_under_way(&mallory).await;
    // A broken list changes nothing; the right one, which comes when our own certificate is broken, counts.
    files.write("deny", "user mallory-in-the-file\nusr somebody\n");
    events.wait_for(&["ERROR", "in force what was before", "line 2"]).await;
    mallory.poll(PollRequest::default()).await.unwrap();
    files.write("cert.pem", "no certificate\n");
    events
        .wait_for(&["ERROR", "in force what was before", &files.0.path().join("cert.pem").to_string_lossy()])
        .await;
    files.write("deny", "user mallory-in-the-file\n");
    timeout(PATIENCE, call).await.expect("cut off").unwrap().unwrap_err();
    events.wait_for(&["connection closed", "mallory-in-the-file", "was taken back by"]).await;
    // Told once for each time something was wrong anew, not with every look.
    let told = events.count(&["ERROR", "in force what was before", "line 2"]);
    assert!((1..=2).contains(&told), "{told}");
    // A certificate that is put there is shown without a restart, and warned of.
    let nearly_over = SystemTime::now() - 59 * DAY - DAY / 2;
    files.show(world.issued("subd", 60, nearly_over));
    events.wait_for(&["WARN", "our certificate in", "expires within 1 day"]).await;
    connect(&world.tls("dominator", "Subd.*"), &server).await.unwrap();
    assert!(metrics.text().contains("outcome=\"failed\""), "{}", metrics.text());
    following.abort();
    server.stop().await;
}

#[tokio::test]
async fn a_connection_does_not_outlive_its_clients_certificate() {
    let world = World::new();
    let events = Events::listen();
    let server = agent_of(world.tls("subd", "")).await;
    let nearly_a_day_ago = SystemTime::now() - DAY + Duration::from_secs(3);
    let credentials = world.credentials_for("short-lived", "Subd.*", 1, nearly_a_day_ago);
    let agent = connect(&Tls::new(world.trust(), credentials).unwrap(), &server).await.unwrap();
    let call = call_under_way(&agent).await;
    let ended = timeout(PATIENCE, call).await.expect("cut off").unwrap().unwrap_err();
    assert!(matches!(ended, AgentError::Unreachable { .. }), "{ended:?}");
    let event = events.wait_for(&["connection closed", "short-lived"]).await;
    assert!(event.contains("has expired: by this machine's clock it is"), "{event}");
    server.stop().await;
}

#[tokio::test]
async fn a_client_leaves_a_server_it_no_longer_trusts() {
    let (world, next) = (World::new(), World::new());
    let events = Events::listen();
    let server = agent_of(Tls::new(world.trust_also(&next), world.credentials("subd", "")).unwrap()).await;
    let tls = world.tls("dominator", "Subd.*");
    let agent = connect(&tls, &server).await.unwrap();
    let call = call_under_way(&agent).await;
    tls.replace(next.trust(), world.credentials("dominator", "Subd.*")).unwrap();
    cut_off(call).await;
    events.wait_for(&["connection closed", &server.at(), "no longer accepted"]).await;
    let error = agent.poll(PollRequest::default()).await.unwrap_err();
    assert!(chain(&error).contains("the certificate of 127.0.0.1"), "{}", chain(&error));
    // What is trusted again is talked to again, by the same client.
    tls.replace(world.trust(), world.credentials("dominator", "Subd.*")).unwrap();
    agent.poll(PollRequest::default()).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn certificates_are_renewed_under_load_without_a_call_that_fails() {
    let world = World::new();
    let (server_tls, client_tls) = (world.tls("subd", ""), world.tls("dominator", "Subd.*"));
    let server = agent_of(server_tls.clone()).await;
    let mut callers = Vec::new();
    for _ in 0..4 {
        let agent = connect(&client_tls, &server).await.unwrap();
        callers.push(tokio::spawn(async move {
            for _ in 0..500 {
                agent.poll(PollRequest::default()).await.unwrap();
            }
        }));
    }
    while callers.iter().any(|caller| !caller.is_finished()) {
        server_tls.replace(world.trust(), world.credentials("subd", "")).unwrap();
        client_tls.replace(world.trust(), world.credentials("dominator", "Subd.*")).unwrap();
        tokio::task::yield_now().await;
    }
    for caller in callers {
        caller.await.unwrap();
    }
    server.stop().await;
}
