//! What is told of calls: to the audit log, in metrics.
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

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use dominator_core::auth::{AuditEvent, AuditFault, AuditLog, AuditRecord, Outcome, Role, Written};
use dominator_core::image::{Image, ImageName};
use dominator_core::port::{
    Agent, ImageError, ImageStore, LockRequest, ObjectStore, Percent, Reconfiguration,
};
use dominator_core::port::{Lease, LockToken, ObjectSource};
use dominator_core::tree::Snapshot;
use dominator_core_testkit::{FakeAgent, MemoryImages, image_of, tree_of};
use dominator_rpc::auth::Audit;
use dominator_rpc::client::{RemoteAgent, RemoteImages, RemoteObjects};
use dominator_rpc::metrics::Metrics;
use dominator_rpc::server::Services;
use dominator_rpc::transport::{Server, Tls};
use dominator_rpc::v1;
use support::{Stores, World, fake_agent, noon, raw_at};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tonic::Code;

/// What a log does with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Writes,
    Fails,
    /// Forgets whoever waits.
    Drops,
    /// Says nothing until it is told to.
    Holds,
}

/// A log in memory.
struct Notes {
    manner: Mutex<Manner>,
    held: Mutex<Vec<Written>>,
    records: mpsc::UnboundedSender<AuditRecord>,
}

impl AuditLog for Notes {
    fn append(&self, record: &AuditRecord, written: Written) {
        self.records.send(record.clone()).unwrap_or_default();
        match *self.manner.lock().unwrap() {
            Manner::Writes => written(Ok(())),
            Manner::Fails => written(Err(AuditFault::Unwritable("the disk is on fire".into()))),
            Manner::Drops => drop(written),
            Manner::Holds => self.held.lock().unwrap().push(written),
        }
    }
}

/// A server with a log.
struct Audited {
    at: String,
    log: Arc<Notes>,
    records: mpsc::UnboundedReceiver<AuditRecord>,
    metrics: Metrics,
    _stop: oneshot::Sender<()>,
    _serving: JoinHandle<()>,
}

async fn serve(
    world: &World,
    role: &str,
    services: Services,
    audit: impl FnOnce(Arc<dyn AuditLog>) -> Audit,
) -> Audited {
    let (sender, records) = mpsc::unbounded_channel();
    let manner = Mutex::new(Manner::Writes);
    let log = Arc::new(Notes { manner, held: Mutex::default(), records: sender });
    let services = services.audited(audit(log.clone()));
    let server = Server::bind(([127, 0, 0, 1], 0).into(), world.tls(role, ""), services).await.unwrap();
    let metrics = Metrics::new();
    let server = server.with_metrics(metrics.clone());
    let at = server.local_address().to_string();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(async move {
        server.serve(async { drop(stopped.await) }).await.unwrap();
    });
    Audited { at, log, records, metrics, _stop: stop, _serving: serving }
}

impl Audited {
    fn becomes(&self, manner: Manner) {
        *self.log.manner.lock().unwrap() = manner;
    }

    async fn next(&mut self) -> AuditRecord {
        self.records.recv().await.unwrap()
    }

    /// The records of the next call, as far as they are particular: event, target, and how it ended.
    async fn call(&mut self) -> (Vec<AuditRecord>, Vec<String>) {
        let mut records = Vec::new();
        loop {
            records.push(self.next().await);
            let record = records.last().unwrap();
            assert_eq!(record.call, records[0].call, "one call at a time");
            if matches!(record.event, AuditEvent::Ended { .. } | AuditEvent::Denied { .. }) {
                let words = records.iter().map(words).collect();
                return (records, words);
            }
        }
    }

    fn nothing_more(&mut self) {
        assert!(self.records.try_recv().is_err());
    }
}

fn words(record: &AuditRecord) -> String {
    let target = record.target.as_deref().unwrap_or("-");
    match &record.event {
        AuditEvent::Begun => format!("begun {target}"),
        AuditEvent::Aimed => format!("aimed {target}"),
        AuditEvent::Ended { outcome, detail, .. } => {
            format!("ended {target} {} {}", outcome.word(), detail.as_deref().unwrap_or("-"))
        }
        other => format!("{other:?}"),
    }
}

fn lock(who: &str) -> LockRequest {
    let lease = Lease::of(std::time::Duration::from_millis(1000));
    LockRequest { token: LockToken(7), who: who.into(), lease }
}

async fn agent(world: &World, at: &Audited, user: &str, methods: &str) -> RemoteAgent {
    RemoteAgent::connect(&world.tls(user, methods), &at.at).await.unwrap()
}

#[tokio::test]
async fn what_changes_something_is_recorded_with_who_and_what_and_what_came_of_it() {
    let world = World::new();
    let services = Services::new("test").agent(fake_agent());
    let mut server = serve(&world, "subd", services, Audit::to).await;
    let credentials = world.credentials("alice", "Subd.*");
    let leaf = dominator_pki::Certificate::parse(&credentials.chain()[0]).unwrap();
    let tls = Tls::new(world.trust(), credentials).unwrap();
    let alice = RemoteAgent::connect(&tls, &server.at).await.unwrap();
    alice.lock(lock("alice at home")).await.unwrap_err();
    let (records, said) = server.call().await;
    let aim = "for 1000 ms, by alice at home";
    assert_eq!(said, ["begun -".into(), format!("aimed {aim}"), format!("ended {aim} unimplemented -")]);
    for record in &records {
        let caller = &record.caller;
        assert_eq!((caller.user.as_str(), record.method.as_ref()), ("alice", "Subd.Lock"));
        assert_eq!(caller.serial, Some(leaf.serial().to_string()));
        assert_eq!(caller.fingerprint, Some(leaf.fingerprint().to_string()));
        assert!(caller.peer.starts_with("127.0.0.1:"), "{}", caller.peer);
        assert_eq!(record.ground.as_deref(), Some("listed"));
        assert!(record.when.as_secs() > 1_700_000_000);
    }
    let cpu = Some(Percent::new(30).unwrap());
    alice.configure(Reconfiguration { cpu, ..Reconfiguration::default() }).await.unwrap();
    let (_, said) = server.call().await;
    assert!(said[1].starts_with("aimed cpu 30") && said[2].ends_with(" ok -"), "{said:?}");
    alice.forgive(dominator_core::port::ForgiveRequest { image: None, lock: None }).await.unwrap_err();
    let (_, said) = server.call().await;
    assert_eq!(said[1..], ["aimed all images", "ended all images unimplemented -"]);
    // What only looks is not.
    alice.configuration().await.unwrap();
    server.nothing_more();
}

#[tokio::test]
async fn images_and_objects_are_named_in_the_log_of_their_server() {
    let (world, stores) = (World::new(), Stores::new());
    let mut server = serve(&world, "imageserver", stores.services(), Audit::to).await;
    let tls = world.tls("alice", "ImageServer.*,ObjectServer.*");
    let objects = RemoteObjects::connect(&tls, &server.at).await.unwrap();
    let images = RemoteImages::connect(&tls, &server.at).await.unwrap();
    let tree = tree_of(&[("/etc/motd", b"hello")]);
    let local = Stores::new().objects;
    let id = local.put("hello");
    objects.add(local.objects(vec![id]).await.unwrap()).await.unwrap();
    let (_, said) = server.call().await;
    assert_eq!(said, ["begun -", "ended - ok 1 objects, 5 bytes"]);
    let name: ImageName = "base/1".parse().unwrap();
    // Its directories are not there: it is refused, and that is recorded as well.
    images.add(&name, image_of(&tree)).await.unwrap_err();
    let (records, said) = server.call().await;
    assert_eq!(said[..2], ["begun -", "aimed image base/1"]);
    assert!(said[2].starts_with("ended image base/1 "), "{said:?}");
    let AuditEvent::Ended { outcome: Outcome::Answered { status, message }, .. } = &records[2].event else {
        panic!("{records:?}");
    };
    assert!(*status != "ok" && message.contains("missing"), "{status}: {message}");
    images.delete(&name).await.unwrap_err();
    assert!(server.call().await.1[2].starts_with("ended image base/1 not_found"));
    server.nothing_more();
}

#[tokio::test]
async fn who_is_denied_a_change_is_recorded_once_and_who_is_denied_a_look_is_not() {
    let world = World::new();
    let services = Services::new("test").agent(fake_agent());
    let mut server = serve(&world, "subd", services, Audit::to).await;
    let mallory = agent(&world, &server, "mallory", "Subd.Poll").await;
    mallory.lock(lock("x")).await.unwrap_err();
    let record = server.next().await;
    assert_eq!((record.caller.user.as_str(), record.method.as_ref()), ("mallory", "Subd.Lock"));
    let AuditEvent::Denied { why } = &record.event else { panic!("{record:?}") };
    assert!(why.starts_with("access to method denied"), "{why}");
    mallory.history(1).await.unwrap_err();
    server.nothing_more();
    let text = server.metrics.text();
    for line in [
        "dominator_decisions_total{method=\"Subd.Lock\",decision=\"not-listed\"} 1",
        "dominator_decisions_total{method=\"Subd.GetHistory\",decision=\"not-listed\"} 1",
        "dominator_audit_records_total{outcome=\"ok\"} 1",
    ] {
        assert!(text.lines().any(|it| it == line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn who_is_denied_again_and_again_does_not_push_out_what_others_did() {
    const CALLS: u64 = 300;
    let world = World::new();
    let services = Services::new("test").agent(fake_agent());
    let mut server = serve(&world, "subd", services, Audit::required).await;
    let mallory = agent(&world, &server, "mallory", "Subd.SetConfiguration").await;
    let began = std::time::Instant::now();
    for _ in 0..CALLS {
        mallory.lock(lock("x")).await.unwrap_err();
    }
    let seconds = began.elapsed().as_secs();
    agent(&world, &server, "eve", "").await.lock(lock("x")).await.unwrap_err();
    let (mut recorded, mut suppressed) = (0, 0);
    loop {
        let record = server.next().await;
        if record.caller.user == "eve" {
            assert_eq!(record.suppressed, 0, "what is left out is each caller's own");
            break;
        }
        recorded += 1;
        suppressed += record.suppressed;
    }
    assert!((20..=21 + seconds).contains(&recorded), "{recorded} records in {seconds} s");
    let text = server.metrics.text();
    for line in [
        format!("dominator_decisions_total{{method=\"Subd.Lock\",decision=\"not-listed\"}} {}", CALLS + 1),
        format!("dominator_audit_suppressed_total {}", CALLS - recorded),
    ] {
        assert!(text.lines().any(|it| it == line), "{line}\n{text}");
    }
    // What it may do is recorded whatever it has had, and says what is not there.
    let cpu = Some(Percent::new(30).unwrap());
    for _ in 0..50 {
        mallory.configure(Reconfiguration { cpu, ..Reconfiguration::default() }).await.unwrap();
        let (records, said) = server.call().await;
        assert!(said[2].ends_with(" ok -"), "{said:?}");
        suppressed += records.iter().map(|record| record.suppressed).sum::<u64>();
    }
    assert_eq!(recorded + suppressed, CALLS);
}

#[tokio::test]
async fn who_has_no_power_can_not_fill_the_log_by_calls_that_are_open_to_everybody() {
    const CALLS: usize = 300;
    let (world, stores) = (World::new(), Stores::new());
    let mut server = serve(&world, "imageserver", stores.services(), Audit::required).await;
    let eve = RemoteImages::connect(&world.tls("eve", ""), &server.at).await.unwrap();
    let name: ImageName = "base/1".parse().unwrap();
    let began = std::time::Instant::now();
    for _ in 0..CALLS {
        eve.delete(&name).await.unwrap_err();
    }
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap();
    let alice = world.tls("alice", "ImageServer.*");
    RemoteImages::connect(&alice, &server.at).await.unwrap().delete(&name).await.unwrap_err();
    let mut of_eve = 0;
    while server.next().await.caller.user == "eve" {
        of_eve += 1;
    }
    assert!((20..=3 * (21 + seconds)).contains(&of_eve), "{of_eve} records in {seconds} s");
    let text = server.metrics.text();
    assert!(text.contains("decision=\"too-often\""), "{text}");
}

#[tokio::test]
async fn who_has_power_over_something_can_not_fill_the_log_by_what_lies_beyond_it() {
    const WITHIN: usize = 300;
    let (world, stores) = (World::new(), Stores::new());
    let mut server = serve(&world, "imageserver", stores.services(), Audit::required).await;
    let credentials = world.credentials_at_images("eve", "ImageServer.*", "mine");
    let tls = Tls::new(world.trust(), credentials).unwrap();
    let eve = RemoteImages::connect(&tls, &server.at).await.unwrap();
    let began = std::time::Instant::now();
    let is_missing = |error: &ImageError| matches!(error, ImageError::NotFound { .. });
    for _ in 0..WITHIN {
        let error = eve.delete(&"mine/1".parse().unwrap()).await.unwrap_err();
        assert!(is_missing(&error), "what lies within is not counted: {error:?}");
        server.call().await;
    }
    let (beyond, image) = ("base/1".parse().unwrap(), image_of(&tree_of(&[("/a", b"x")])));
    for _ in 0..WITHIN {
        eve.add(&beyond, image.clone()).await.unwrap_err();
        eve.delete(&beyond).await.unwrap_err();
    }
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap();
    let alice = world.tls("alice", "ImageServer.*");
    let error = RemoteImages::connect(&alice, &server.at).await.unwrap().delete(&beyond).await.unwrap_err();
    assert!(is_missing(&error), "{error:?}");
    let mut of_eve = 0;
    while server.next().await.caller.user == "eve" {
        of_eve += 1;
    }
    // Those let in leave three records each; those that were not, as many as anybody without power.
    let most = 3 * (256 + seconds) + 21 + seconds;
    assert!((256..=most).contains(&of_eve), "{of_eve} records in {seconds} s");
    assert!(server.metrics.text().contains("decision=\"too-often\""));
}

#[tokio::test]
async fn nothing_a_caller_invents_becomes_a_label() {
    let world = World::new();
    let services = Services::new("test").agent(fake_agent());
    let server = serve(&world, "subd", services, Audit::to).await;
    let address: std::net::SocketAddr = server.at.parse().unwrap();
    let channel = raw_at(&world, address, "*.*", Role::Subd).await;
    let mut client = tonic::client::Grpc::new(channel);
    for number in 0..20 {
        client.ready().await.unwrap();
        let path = format!("/dominator.v1.Subd/Invented{number}").parse().unwrap();
        let codec = tonic_prost::ProstCodec::<v1::Empty, v1::Empty>::default();
        let answer = client.unary(tonic::Request::new(v1::Empty {}), path, codec).await;
        assert_eq!(answer.unwrap_err().code(), Code::PermissionDenied);
    }
    let text = server.metrics.text();
    assert!(!text.contains("Invented"), "{text}");
    assert!(
        text.contains("dominator_decisions_total{method=\"none\",decision=\"no-such-method\"} 20"),
        "{text}"
    );
}

#[tokio::test]
async fn nothing_is_done_before_the_log_has_it() {
    let world = World::new();
    let fake = fake_agent();
    let services = Services::new("test").agent(fake.clone());
    let mut server = serve(&world, "subd", services, Audit::to).await;
    let alice = agent(&world, &server, "alice", "Subd.*").await;
    server.becomes(Manner::Holds);
    let cpu = Percent::new(31).unwrap();
    let change = Reconfiguration { cpu: Some(cpu), ..Reconfiguration::default() };
    let call = tokio::spawn(async move { alice.configure(change).await });
    assert_eq!(words(&server.next().await), "begun -");
    server.nothing_more();
    assert_ne!(fake.configuration().await.unwrap().cpu, cpu);
    server.becomes(Manner::Writes);
    server.log.held.lock().unwrap().drain(..).for_each(|written| written(Ok(())));
    call.await.unwrap().unwrap();
    assert_eq!(fake.configuration().await.unwrap().cpu, cpu);
    assert!(words(&server.next().await).starts_with("aimed"));
}

async fn tried(
    manner: Manner,
    audit: impl FnOnce(Arc<dyn AuditLog>) -> Audit,
) -> (Result<(), String>, Arc<FakeAgent>, Audited) {
    let (world, fake) = (World::new(), fake_agent());
    let services = Services::new("test").agent(fake.clone());
    let server = serve(&world, "subd", services, audit).await;
    let alice = agent(&world, &server, "alice", "Subd.*").await;
    server.becomes(manner);
    let cpu = Some(Percent::new(31).unwrap());
    let answer = alice.configure(Reconfiguration { cpu, ..Reconfiguration::default() }).await;
    (answer.map_err(|error| support::chain(&error)), fake, server)
}

#[tokio::test]
async fn without_a_log_nothing_is_changed_where_there_must_be_one() {
    let manners = [Manner::Fails, Manner::Drops, Manner::Holds];
    let all = manners.map(|manner| tokio::spawn(tried(manner, Audit::required)));
    for (each, manner) in all.into_iter().zip(manners) {
        let (answer, fake, mut server) = each.await.unwrap();
        let why = answer.unwrap_err();
        assert!(why.contains("nothing is changed here without it"), "{manner:?}: {why}");
        assert_ne!(fake.configuration().await.unwrap().cpu, Percent::new(31).unwrap(), "{manner:?}");
        let (_, said) = server.call().await;
        assert_eq!(said, ["begun -", "ended - unavailable -"], "{manner:?}");
    }
    let (answer, ..) = tried(Manner::Writes, Audit::required).await;
    assert_eq!(answer, Ok(()));
}

#[tokio::test]
async fn without_a_log_calls_go_on_where_it_is_only_wanted_and_the_failures_are_counted() {
    let manners = [Manner::Fails, Manner::Drops, Manner::Holds];
    let all = manners.map(|manner| tokio::spawn(tried(manner, Audit::to)));
    for (each, manner) in all.into_iter().zip(manners) {
        let (answer, fake, server) = each.await.unwrap();
        assert_eq!(answer, Ok(()), "{manner:?}");
        assert_eq!(fake.configuration().await.unwrap().cpu, Percent::new(31).unwrap());
        if manner == Manner::Fails {
            let text = server.metrics.text();
            assert!(text.contains("dominator_audit_records_total{outcome=\"failed\"} "), "{text}");
        }
    }
}

/// Images whose deletion fails badly, or never ends.
struct Trap {
    images: Arc<MemoryImages>,
    panics: AtomicBool,
}

#[async_trait]
impl ImageStore for Trap {
    async fn list(&self) -> Result<Vec<ImageName>, ImageError> {
        self.images.list().await
    }

    async fn image(&self, _: &ImageName) -> Result<Arc<Image>, ImageError> {
        Ok(Arc::new(image_of(&tree_of(&[]))))
    }

    async fn tree(&self, name: &ImageName) -> Result<Arc<Snapshot>, ImageError> {
        self.images.tree(name).await
    }

    async fn add(&self, name: &ImageName, image: Image) -> Result<(), ImageError> {
        self.images.add(name, image).await
    }

    async fn delete(&self, _: &ImageName) -> Result<(), ImageError> {
        assert!(!self.panics.load(Ordering::Relaxed), "as a fault would");
        std::future::pending().await
    }
}

#[tokio::test]
async fn calls_that_nobody_waits_for_and_calls_that_fail_badly_have_their_end_recorded() {
    let (world, stores) = (World::new(), Stores::new());
    let trap = Arc::new(Trap { images: stores.images.clone(), panics: AtomicBool::new(false) });
    let services = Services::new("test").images(trap.clone(), noon).objects(stores.objects.clone());
    let mut server = serve(&world, "imageserver", services, Audit::to).await;
    let tls = world.tls("alice", "*.*");
    let images = RemoteImages::connect(&tls, &server.at).await.unwrap();
    let name: ImageName = "base/1".parse().unwrap();
    let doomed = name.clone();
    let call = tokio::spawn(async move { images.delete(&doomed).await });
    assert_eq!(words(&server.next().await), "begun -");
    assert_eq!(words(&server.next().await), "aimed image base/1");
    call.abort();
    assert_eq!(words(&server.next().await), "ended image base/1 cancelled -");
    trap.panics.store(true, Ordering::Relaxed);
    let images = RemoteImages::connect(&tls, &server.at).await.unwrap();
    images.delete(&name).await.unwrap_err();
    let (_, said) = server.call().await;
    assert_eq!(said[2], "ended image base/1 panicked -");
}

#[tokio::test]
async fn an_answer_whose_end_nobody_waits_for_is_recorded_as_such() {
    let (world, stores) = (World::new(), Stores::new());
    let mut server = serve(&world, "imageserver", stores.services(), Audit::to).await;
    let address: std::net::SocketAddr = server.at.parse().unwrap();
    // A process that ends in the middle of its call.
    let caller = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let channel = raw_at(&world, address, "*.*", Role::ImageServer).await;
            let mut client = v1::object_server_client::ObjectServerClient::new(channel);
            let (parts, incoming) = mpsc::channel::<v1::AddObjectsRequest>(1);
            let incoming = tokio_stream::wrappers::ReceiverStream::new(incoming);
            let answer = client.add_objects(incoming).await.unwrap();
            std::mem::forget((answer, parts));
        });
        runtime.shutdown_background();
    });
    caller.await.unwrap();
    let (_, said) = server.call().await;
    assert_eq!(said, ["begun -", "ended - cut_off -"]);
}

#[tokio::test]
async fn what_is_open_is_measured_while_it_is() {
    let world = World::new();
    let services = Services::new("test").agent(fake_agent());
    let server = serve(&world, "subd", services, Audit::to).await;
    let alice = agent(&world, &server, "alice", "Subd.*").await;
    alice.configuration().await.unwrap();
    let text = server.metrics.text();
    assert!(text.lines().any(|line| line == "dominator_connections 1"), "{text}");
    assert!(
        text.contains("dominator_call_seconds_count{method=\"Subd.GetConfiguration\",outcome=\"ok\"} 1"),
        "{text}"
    );
    let strangers = World::new();
    let stranger = Tls::new(world.trust(), strangers.credentials("eve", "*.*")).unwrap();
    RemoteAgent::connect(&stranger, &server.at).await.unwrap_err();
    let text = server.metrics.text();
    assert!(text.contains("dominator_connections_refused_total{reason=\"certificate\"} 1"), "{text}");
    assert!(text.lines().any(|line| line == "dominator_handshakes 0"), "{text}");
}
