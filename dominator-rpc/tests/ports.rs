//! A port over the network is the port: every call arrives whole, and so does every error.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    dead_code,
    unreachable_pub,
    missing_docs
)]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dominator_core::image::{Image, ImageName};
use dominator_core::object::ObjectId;
use dominator_core::plan::{Need, Needs, Operation, Plan};
use dominator_core::port::{
    Agent, AgentDetails, AgentError, AgentMode, AgentStatus, Amount, BadImage, Boost, Cause, Chain,
    Collected, Configuration, Corruption, DisruptionState, FetchReport, FetchRequest, ImageError, ImageStore,
    LockToken, Note, ObjectSource, ObjectSources, ObjectStatistics, ObjectStore, Pacing, PathFailure,
    Percent, Piece, PollReply, PollRequest, Reconfiguration, ScanReach, ScanStatus, Scanned, ScrubStatus,
    Share, SourceFailure, StoreError, TrialReason, TrialStatus, Undoable, Unreferenced, UpdateReport,
    UpdateRequest, Works,
};
use dominator_core::tree::Snapshot;
use dominator_core::trigger::Triggers;
use dominator_core::view::{View, ViewId};
use dominator_core_testkit::{MemoryObjects, image_of, tree_of};
use dominator_rpc::client::{RemoteAgent, RemoteImages, RemoteObjects, Sources, verified};
use dominator_rpc::server::Services;
use futures_util::TryStreamExt as _;
use support::{Running, Stores, World, fake_agent};
use tokio::sync::mpsc;

const LONG: Duration = Duration::from_secs(250);

async fn remote(agent: Arc<dyn Agent>) -> (Running, RemoteAgent) {
    let world = World::new();
    let server = world.serve("subd", Services::new("test").agent(agent)).await;
    let remote = RemoteAgent::connect(&world.tls("dominator", "Subd.*"), &server.at()).await.unwrap();
    (server, remote)
}

#[tokio::test]
async fn a_poll_tells_the_same_from_afar() {
    let agent = fake_agent();
    let (server, remote) = remote(agent.clone()).await;
    assert_eq!(remote.poll(PollRequest::default()).await.unwrap().scanned, Scanned::NeedView);
    agent.become_like(&tree_of(&[("/etc/motd", b"hello"), ("/bin/sh", b"#!")]));
    let view = View::everything();
    assert_eq!(remote.set_view(view.clone(), None).await.unwrap(), view.id());
    for _ in 0..2 {
        let near = agent.poll(PollRequest::default()).await.unwrap();
        assert_eq!(remote.poll(PollRequest::default()).await.unwrap(), near);
        assert!(matches!(near.scanned, Scanned::Tree(_)));
    }
    let details = agent.poll(PollRequest::default()).await.unwrap().details;
    agent.tell(AgentDetails { write_error: Some("read-only".into()), ..AgentDetails::clone(&details) });
    let told = remote.poll(PollRequest::default()).await.unwrap();
    assert_eq!(told.details.write_error.as_deref(), Some("read-only"));
    agent.become_like(&tree_of(&[("/etc/motd", b"bye")]));
    let moved_on = remote.poll(PollRequest::default()).await.unwrap();
    assert_ne!(moved_on.scanned, told.scanned);
    assert_eq!(moved_on.details, told.details);
    let other = PollRequest { view: Some(ViewId(ObjectId::of(b"another"))), ..PollRequest::default() };
    assert_eq!(remote.poll(other).await.unwrap().scanned, Scanned::NeedView);
    server.stop().await;
}

/// Answers every poll with the same.
struct Settled(PollReply);

#[async_trait]
impl Agent for Settled {
    async fn poll(&self, _: PollRequest) -> Result<PollReply, AgentError> {
        Ok(self.0.clone())
    }

    async fn set_view(&self, view: View, _: Option<LockToken>) -> Result<ViewId, AgentError> {
        Ok(view.id())
    }

    async fn directories(&self, _: Vec<ObjectId>) -> Result<Vec<Bytes>, AgentError> {
        Ok(Vec::new())
    }

    async fn fetch(&self, _: FetchRequest) -> Result<FetchReport, AgentError> {
        Ok(FetchReport::default())
    }

    async fn update(&self, _: UpdateRequest) -> Result<UpdateReport, AgentError> {
        Ok(UpdateReport::default())
    }

    async fn clean_up(&self, _: Option<LockToken>) -> Result<(), AgentError> {
        Ok(())
    }

    async fn configuration(&self) -> Result<Configuration, AgentError> {
        Err(AgentError::NotNow("busy".into()))
    }

    async fn configure(&self, _: Reconfiguration) -> Result<(), AgentError> {
        Ok(())
    }

    async fn boost(&self, _: Boost) -> Result<(), AgentError> {
        Ok(())
    }
}

fn noon() -> dominator_core::inode::Timestamp {
    dominator_core::inode::Timestamp::new(1_800_000_000, 0).unwrap()
}

/// An answer with something in every field.
fn full_reply(instance: u64) -> PollReply {
    let path = |name: &str| name.path();
    let traits = fake_agent_traits();
    let status = AgentStatus {
        instance,
        generation: 3,
        details: 7,
        activity: dominator_core::port::Activity::Fetching,
        unknown: 9,
        free_space: 10,
        scans: ScanStatus {
            count: 4,
            reach: ScanReach::Hinted,
            duration: Duration::from_micros(5),
            files_opened: 6,
            bytes_hashed: 8,
        },
        scrub: Some(ScrubStatus { done: 1, total: 2, began: noon(), corruptions: 3 }),
        pacing: Pacing { disk: Some(1), cpu: Percent::new(2), left: Some(3) },
    };
    let details = AgentDetails {
        facts: vec![PathFailure { path: path("/a"), reason: "why".into() }],
        kept: [path("/b")].into(),
        last_update_error: Some("c".into()),
        update_failures: vec![PathFailure { path: path("/j"), reason: "k".into() }],
        more_update_failures: 11,
        last_image: Some("d".parse().unwrap()),
        write_error: Some("e".into()),
        watch: Works::Yes,
        beneath_mounts: Works::No("f".into()),
        corruptions: vec![Corruption {
            path: path("/g"),
            was: ObjectId::of(b"h"),
            is: ObjectId::of(b"i"),
            found: noon(),
        }],
        mode: AgentMode::TriggersDisabled,
        stopped: Some("l".into()),
        bad_images: vec![BadImage { image: "m".parse().unwrap(), why: "n".into(), since: noon() }],
        trial: Some(TrialStatus {
            image: Some("o".parse().unwrap()),
            why: TrialReason::AgentRestart,
            since: noon(),
            deadline: Duration::from_millis(12),
        }),
        undoable: Some(Undoable { image: Some("p".parse().unwrap()), since: noon(), bytes: 13 }),
        conflicts: vec![path("/q")],
        more_conflicts: 14,
        conflict_bytes: 15,
        disruption: DisruptionState::Requested,
        note: Note::cut("r"),
        ..AgentDetails::new(traits)
    };
    let tree = tree_of(&[("/etc/motd", b"hello")]).tree;
    PollReply { scanned: Scanned::Tree(tree), status, details: Arc::new(details) }
}

fn fake_agent_traits() -> Arc<dominator_core::port::MachineTraits> {
    Arc::new(dominator_core::port::MachineTraits {
        protected: ["/var/lib/subd".path()].into(),
        exclusions: dominator_core::filter::Filter::parse("/tmp/.*\n").unwrap(),
        xattrs: dominator_core::view::XattrPolicy::ALL,
        ownership: dominator_core::view::Ownership::Ignored,
        mtime: dominator_core::view::Granularity::FINE,
    })
}

#[tokio::test]
async fn nothing_of_an_answer_is_lost_whether_it_is_sent_or_known() {
    let reply = full_reply(1);
    let (server, remote) = remote(Arc::new(Settled(reply.clone()))).await;
    for _ in 0..3 {
        assert_eq!(remote.poll(PollRequest::default()).await.unwrap(), reply);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_poll_waits_for_a_change_and_no_longer() {
    let agent = fake_agent();
    let (server, remote) = remote(agent.clone()).await;
    let known = remote.poll(PollRequest::default()).await.unwrap().status.generation;
    let request = PollRequest { known: Some(known), wait: LONG, view: None };
    let waiting = tokio::spawn(async move { remote.poll(request).await });
    agent.become_like(&tree_of(&[("/new", b"")]));
    let reply = waiting.await.unwrap().unwrap();
    assert_ne!(reply.status.generation, known);
    server.stop().await;
}

#[tokio::test]
async fn an_agent_is_configured_and_boosted_from_afar() {
    let agent = fake_agent();
    let (server, remote) = remote(agent.clone()).await;
    assert_eq!(remote.configuration().await.unwrap(), agent.configuration().await.unwrap());
    let (network_speed, network_bytes) = (Percent::new(20), Some(1_000_000));
    let change = Reconfiguration { cpu: Percent::new(50), scan_speed: None, network_speed, network_bytes };
    remote.configure(change).await.unwrap();
    let configuration = remote.configuration().await.unwrap();
    assert_eq!((configuration.cpu.get(), configuration.scan_speed.get()), (50, 100));
    assert_eq!(configuration.network_speed.get(), 20);
    assert_eq!(configuration.network_bytes.map(std::num::NonZeroU64::get), Some(1_000_000));
    remote.configure(Reconfiguration { network_bytes: Some(0), ..Reconfiguration::default() }).await.unwrap();
    assert_eq!(remote.configuration().await.unwrap().network_bytes, None);
    assert!(matches!(configuration.exclusions, dominator_core::filter::Filter::Lines(_)));
    remote.boost(Boost::Scan).await.unwrap();
    remote.boost(Boost::Cpu).await.unwrap();
    assert_eq!(agent.boosts(), [Boost::Scan, Boost::Cpu]);
    server.stop().await;
}

#[tokio::test]
async fn directories_come_in_the_order_asked_for_and_gone_ones_are_named() {
    let agent = fake_agent();
    let (server, remote) = remote(agent.clone()).await;
    let names: Vec<String> = (0..1000).map(|number| format!("/d{number}/file")).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), name.as_bytes())).collect();
    let tree = tree_of(&files);
    agent.become_like(&tree);
    remote.set_view(View::everything(), None).await.unwrap();
    let mut ids: Vec<_> = tree.directories.iter().map(|(id, _)| id.0).collect();
    ids.push(tree.tree.links.0);
    assert_eq!(ids.len(), 1002);
    let near = agent.directories(ids.clone()).await.unwrap();
    assert_eq!(remote.directories(ids.clone()).await.unwrap(), near);
    let gone = ObjectId::of(b"never was");
    ids.push(gone);
    let error = remote.directories(ids).await.unwrap_err();
    assert!(matches!(error, AgentError::Gone { id } if id == gone), "{error:?}");
    server.stop().await;
}

/// An agent that keeps what it is told, and answers as it was told to.
#[derive(Default)]
struct Recorder {
    fetched: Mutex<Option<FetchRequest>>,
    updated: Mutex<Option<UpdateRequest>>,
    failure: Mutex<Option<AgentError>>,
    polled: Option<mpsc::UnboundedSender<&'static str>>,
}

impl Recorder {
    fn failing(&self) -> Result<(), AgentError> {
        self.failure.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

struct Told(mpsc::UnboundedSender<&'static str>);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.send("dropped").unwrap();
    }
}

#[async_trait]
impl Agent for Recorder {
    async fn poll(&self, _: PollRequest) -> Result<PollReply, AgentError> {
        if let Some(polled) = self.polled.clone() {
            polled.send("begun").unwrap();
            let _told = Told(polled);
            std::future::pending::<()>().await;
        }
        Err(AgentError::NotNow("busy".into()))
    }

    async fn set_view(&self, view: View, _: Option<LockToken>) -> Result<ViewId, AgentError> {
        Ok(view.id())
    }

    async fn directories(&self, _: Vec<ObjectId>) -> Result<Vec<Bytes>, AgentError> {
        Ok(Vec::new())
    }

    async fn fetch(&self, request: FetchRequest) -> Result<FetchReport, AgentError> {
        *self.fetched.lock().unwrap() = Some(request);
        self.failing().map(|()| fetched())
    }

    async fn update(&self, request: UpdateRequest) -> Result<UpdateReport, AgentError> {
        *self.updated.lock().unwrap() = Some(request);
        self.failing().map(|()| UpdateReport {
            applied: 7,
            window: Duration::from_micros(9),
            ..UpdateReport::default()
        })
    }

    async fn clean_up(&self, _: Option<LockToken>) -> Result<(), AgentError> {
        self.failing()
    }

    async fn configuration(&self) -> Result<Configuration, AgentError> {
        Err(AgentError::NotNow("busy".into()))
    }

    async fn configure(&self, _: Reconfiguration) -> Result<(), AgentError> {
        self.failing()
    }

    async fn boost(&self, _: Boost) -> Result<(), AgentError> {
        self.failing()
    }
}

fn fetched() -> FetchReport {
    FetchReport { objects: 3, bytes: 4, local: 5, failed: vec!["images1:6971: it went away".into()] }
}

fn big_update() -> UpdateRequest {
    let tree = tree_of(&[("/x", b"x")]);
    let inode = tree.inode(&"/x".path()).unwrap();
    let put =
        |number: u32| Operation::Put { path: format!("/some/where/{number}").path(), inode: inode.clone() };
    let triggers = br#"[{"MatchLines": ["/etc/x"], "Service": "x"}]"#;
    UpdateRequest {
        image: Some("a/b".parse().unwrap()),
        triggers: Triggers::from_json(triggers).unwrap(),
        ..UpdateRequest::new(
            tree.id(),
            View::everything().id(),
            Plan { operations: (0..50_000).map(put).collect() },
        )
    }
}

trait ToPath {
    fn path(&self) -> dominator_core::path::ImagePath;
}

impl<T: AsRef<str>> ToPath for T {
    fn path(&self) -> dominator_core::path::ImagePath {
        dominator_core::path::ImagePath::parse(self.as_ref().as_bytes()).unwrap()
    }
}

#[tokio::test]
async fn orders_arrive_whole_however_long() {
    let recorder = Arc::new(Recorder::default());
    let (server, remote) = remote(recorder.clone()).await;
    let need = |number: u64| Need { size: number, uses: number % 3 + 1 };
    let objects = (0..40_000u64).map(|number| (ObjectId::of(&number.to_be_bytes()), need(number)));
    let needs = Needs { objects: objects.collect(), inodes: 7 };
    let fetch =
        FetchRequest { needs, sources: vec!["images1:6971".into(), "images2:6971".into()], lock: None };
    assert_eq!(remote.fetch(fetch.clone()).await.unwrap(), fetched());
    assert_eq!(recorder.fetched.lock().unwrap().take(), Some(fetch));
    let update = big_update();
    let report = remote.update(update.clone()).await.unwrap();
    assert_eq!((report.applied, report.window), (7, Duration::from_micros(9)));
    assert_eq!(recorder.updated.lock().unwrap().take(), Some(update));
    server.stop().await;
}

#[tokio::test]
async fn errors_arrive_as_what_they_are() {
    let recorder = Arc::new(Recorder::default());
    let (server, remote) = remote(recorder.clone()).await;
    let id = ObjectId::of(b"x");
    let errors = [
        AgentError::NotNow("busy".into()),
        AgentError::Gone { id },
        AgentError::Fetch(StoreError::NotFound { id }),
        AgentError::Fetch(StoreError::Corrupt { id, hashed: ObjectId::of(b"y"), length: 5 }),
        AgentError::Fetch(StoreError::NoSpace { need: 5, free: 3 }),
        AgentError::Denied("not you".into()),
    ];
    for error in errors {
        *recorder.failure.lock().unwrap() = Some(error.clone());
        let came = remote.update(big_update()).await.unwrap_err();
        assert_eq!(format!("{came:?}"), format!("{error:?}"));
    }
    assert!(
        matches!(remote.poll(PollRequest::default()).await, Err(AgentError::NotNow(text)) if text == "busy")
    );
    server.stop().await;
}

#[tokio::test]
async fn who_goes_away_is_not_waited_for() {
    let (polled, mut told) = mpsc::unbounded_channel();
    let recorder = Arc::new(Recorder { polled: Some(polled), ..Recorder::default() });
    let (server, remote) = remote(recorder).await;
    {
        let request = PollRequest { wait: LONG, ..PollRequest::default() };
        let mut poll = std::pin::pin!(remote.poll(request));
        tokio::select! {
            reply = &mut poll => panic!("{reply:?}"),
            begun = told.recv() => assert_eq!(begun, Some("begun")),
        }
    }
    assert_eq!(told.recv().await, Some("dropped"));
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_stops_does_not_wait_for_those_who_wait() {
    let (polled, mut told) = mpsc::unbounded_channel();
    let recorder = Arc::new(Recorder { polled: Some(polled), ..Recorder::default() });
    let (server, remote) = remote(recorder).await;
    let poll =
        tokio::spawn(async move { remote.poll(PollRequest { wait: LONG, ..PollRequest::default() }).await });
    assert_eq!(told.recv().await, Some("begun"));
    server.stop().await;
    let error = poll.await.unwrap().unwrap_err();
    assert!(matches!(error, AgentError::Unreachable { .. }), "{error:?}");
}

async fn remote_stores(methods: &str) -> (Stores, Running, RemoteObjects, RemoteImages) {
    let (world, stores) = (World::new(), Stores::new());
    let server = world.serve("imageserver", stores.services()).await;
    let tls = world.tls("alice", methods);
    let objects = RemoteObjects::connect(&tls, &server.at()).await.unwrap();
    let images = RemoteImages::connect(&tls, &server.at()).await.unwrap();
    (stores, server, objects, images)
}

#[tokio::test]
async fn objects_travel_both_ways() {
    let (stores, server, remote, _) = remote_stores("ObjectServer.*").await;
    let local = MemoryObjects::default();
    let large: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    let mut ids: Vec<ObjectId> = (0..500u32).map(|number| local.put(number.to_string())).collect();
    ids.extend([local.put(large), local.put("")]);
    let added = remote.add(local.objects(ids.clone()).await.unwrap()).await.unwrap();
    assert_eq!(added.iter().map(|object| object.id()).collect::<Vec<_>>(), ids);
    assert!(ids.iter().all(|id| stores.objects.bytes(id) == local.bytes(id)));
    let absent = ObjectId::of(b"absent");
    let sizes = remote.sizes(&[ids[0], absent, ids[501]]).await.unwrap();
    assert_eq!(sizes, [Some(1), None, Some(0)]);
    let back = MemoryObjects::default();
    ids.reverse();
    let pieces = remote.objects(ids.clone()).await.unwrap();
    assert_eq!(back.add(verified(pieces)).await.unwrap().len(), ids.len());
    ids.push(absent);
    let error = remote.objects(ids).await.err().unwrap();
    assert!(matches!(error, StoreError::NotFound { id } if id == absent), "{error:?}");
    server.stop().await;
}

#[tokio::test]
async fn who_has_the_beginning_of_an_object_gets_the_rest() {
    let (stores, server, remote, _) = remote_stores("ObjectServer.GetObjects").await;
    let large: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    let id = stores.objects.put(large.clone());
    for offset in [0, 1, 256 * 1024, 1_000_001, 1_199_999, 1_200_000] {
        let pieces: Vec<_> = remote.rest(id, offset as u64).await.unwrap().try_collect().await.unwrap();
        assert_eq!(pieces[0], Piece::Begin { id, size: 1_200_000 });
        let data: Vec<u8> = pieces[1..].iter().flat_map(|piece| data_of(piece).to_vec()).collect();
        assert!(data == large[offset..], "from {offset}");
    }
    let beyond = remote.rest(id, 1_200_001).await.unwrap().try_collect::<Vec<_>>().await;
    assert!(matches!(beyond, Err(StoreError::Protocol(_))), "{beyond:?}");
    server.stop().await;
}

#[tokio::test]
async fn who_may_check_is_told_what_is_lacking_and_who_may_not_is_told_nothing() {
    for (methods, told) in [("ObjectServer.*", true), ("ObjectServer.GetObjects", false)] {
        let (stores, server, remote, _) = remote_stores(methods).await;
        let (here, absent) = (stores.objects.put(b"here".to_vec()), ObjectId::of(b"absent"));
        let lacking = remote.lacking(&[here, absent]).await.unwrap();
        assert_eq!(lacking, if told { vec![absent] } else { Vec::new() }, "{methods}");
        server.stop().await;
    }
}

fn data_of(piece: &Piece) -> &[u8] {
    let Piece::Data(data) = piece else { panic!("{piece:?}") };
    data
}

#[tokio::test]
async fn what_every_source_did_wrong_arrives() {
    let recorder = Arc::new(Recorder::default());
    let (server, remote) = remote(recorder.clone()).await;
    let (id, hashed) = (ObjectId::of(b"right"), ObjectId::of(b"wrong"));
    let failure = |source: &str, object, error| SourceFailure { source: source.into(), object, error };
    let failures = vec![
        failure("a:1", Some(id), StoreError::Corrupt { id, hashed, length: 5 }),
        failure("b:2", Some(id), StoreError::TooSlow { bytes: 7, waited: Duration::from_millis(31_500) }),
        failure("c:3", None, StoreError::Unreachable(Cause::new("x".repeat(100_000)))),
        failure("d:4", None, StoreError::Denied("\u{1b}[2J".into())),
    ];
    *recorder.failure.lock().unwrap() = Some(AgentError::Fetch(StoreError::Sources(failures)));
    let error = remote.fetch(FetchRequest::default()).await.unwrap_err();
    let AgentError::Fetch(StoreError::Sources(failures)) = &error else { panic!("{error:?}") };
    assert_eq!(
        failures.iter().map(|failure| failure.source.as_str()).collect::<Vec<_>>(),
        ["a:1", "b:2", "c:3", "d:4"]
    );
    assert_eq!(
        failures.iter().map(|failure| failure.object).collect::<Vec<_>>(),
        [Some(id), Some(id), None, None]
    );
    assert!(matches!(failures[0].error, StoreError::Corrupt { id: which, .. } if which == id));
    assert!(matches!(failures[1].error, StoreError::TooSlow { bytes: 7, .. }), "{error:?}");
    assert!(matches!(failures[2].error, StoreError::Unreachable(_)), "{error:?}");
    let text = Chain(&error).to_string();
    assert!(text.contains("31 s") && !text.contains('\u{1b}') && text.len() < 4096, "{text}");
    *recorder.failure.lock().unwrap() = Some(AgentError::Fetch(StoreError::NoInodes { need: 9, free: 8 }));
    let error = remote.fetch(FetchRequest::default()).await.unwrap_err();
    assert!(matches!(error, AgentError::Fetch(StoreError::NoInodes { need: 9, free: 8 })), "{error:?}");
    server.stop().await;
}

#[tokio::test]
async fn only_what_is_wanted_is_sent_and_the_right_to_add_is_enough() {
    let (stores, server, remote, _) = remote_stores("ObjectServer.AddObjects").await;
    let local = MemoryObjects::default();
    let offers: Vec<_> = (0..20_000u64)
        .map(|number| {
            let bytes = number.to_be_bytes();
            if number % 100 != 0 { stores.objects.put(bytes.to_vec()) } else { local.put(bytes.to_vec()) }
        })
        .map(|id| (id, 8))
        .collect();
    // What is there already is not even asked for here: `local` lacks it.
    let added = remote.push(&offers, &local).await.unwrap();
    assert_eq!(added.len(), 200);
    assert!(offers.iter().all(|(id, _)| stores.objects.bytes(id).is_some()));
    assert!(remote.push(&offers, &local).await.unwrap().is_empty());
    assert!(matches!(remote.sizes(&[offers[0].0]).await, Err(StoreError::Denied(_))));
    server.stop().await;
}

#[tokio::test]
async fn wrong_bytes_are_found_out_at_either_end() {
    let (stores, server, remote, _) = remote_stores("ObjectServer.*").await;
    let id = ObjectId::of(b"right");
    let liar = MemoryObjects::default();
    liar.lie(id, "wrong");
    let error = remote.add(liar.objects(vec![id]).await.unwrap()).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { id: corrupt, .. } if corrupt == id), "{error:?}");
    assert_eq!(stores.objects.bytes(&id), None);
    stores.objects.lie(id, "wrong");
    let error = MemoryObjects::default().add(remote.objects(vec![id]).await.unwrap()).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { id: corrupt, .. } if corrupt == id), "{error:?}");
    let pieces: Result<Vec<_>, _> = verified(remote.objects(vec![id]).await.unwrap()).try_collect().await;
    assert!(matches!(pieces, Err(StoreError::Corrupt { .. })), "{pieces:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_source_that_fails_on_the_way_is_the_one_that_is_named() {
    let (_, server, remote, _) = remote_stores("ObjectServer.*").await;
    let pieces = [
        Ok(dominator_core::port::Piece::Begin { id: ObjectId::of(b"x"), size: 1 }),
        Err(StoreError::NoSpace { need: 1, free: 0 }),
    ];
    let pieces = dominator_core::port::Pieces::new(futures_util::stream::iter(pieces));
    let error = remote.add(pieces).await.unwrap_err();
    assert!(matches!(error, StoreError::NoSpace { need: 1, free: 0 }), "{error:?}");
    server.stop().await;
}

#[tokio::test]
async fn images_travel_with_their_trees() {
    let (stores, server, _, remote) = remote_stores("ImageServer.*").await;
    let names: Vec<String> = (0..3000).map(|number| format!("/d{}/f{number}", number % 300)).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), b"same".as_slice())).collect();
    let tree = tree_of(&files);
    stores.objects.put_tree(&tree);
    let name = "web/1".parse().unwrap();
    let error = remote.add(&name, image_of(&tree)).await.unwrap_err();
    assert!(
        matches!(error, ImageError::Incomplete { first, count: 1 } if first == ObjectId::of(b"same")),
        "{error:?}"
    );
    stores.objects.put("same");
    assert!(!remote.exists(&name).await.unwrap());
    let mut image = image_of(&tree);
    image.expires_at = Some(2_000_000_000);
    remote.add(&name, image.clone()).await.unwrap();
    assert!(matches!(remote.add(&name, image).await, Err(ImageError::Exists { .. })));
    assert_eq!(remote.expires_at(&name).await.unwrap(), Some(2_000_000_000));
    assert_eq!(remote.list().await.unwrap(), std::slice::from_ref(&name));
    let came = remote.tree(&name).await.unwrap();
    assert_eq!((came.id(), came.directories.len()), (tree.id(), tree.directories.len()));
    remote.delete(&name).await.unwrap();
    assert!(matches!(remote.image(&name).await, Err(ImageError::NotFound { name: gone }) if gone == name));
    assert!(matches!(remote.add(&name, image_of(&tree)).await, Err(ImageError::Deleted { .. })));
    server.stop().await;
}

#[tokio::test]
async fn a_source_that_was_lost_is_found_again() {
    let (world, stores) = (World::new(), Stores::new());
    let id = stores.objects.put("x");
    let server = world.serve("imageserver", stores.services()).await;
    let (address, at) = (server.address, server.at());
    let sources = Sources::new(world.tls("subd", "ObjectServer.GetObjects"));
    let source = sources.source(&at).await.unwrap();
    MemoryObjects::default().add(source.objects(vec![id]).await.unwrap()).await.unwrap();
    server.stop().await;
    let error = source.objects(vec![id]).await.err().unwrap();
    assert!(matches!(error, StoreError::Unreachable(_)), "{error:?}");
    let tls = world.tls("imageserver", "");
    let again = dominator_rpc::transport::Server::bind(address, tls, stores.services()).await.unwrap();
    let serving = tokio::spawn(again.serve(std::future::pending()));
    let source = sources.source(&at).await.unwrap();
    MemoryObjects::default().add(source.objects(vec![id]).await.unwrap()).await.unwrap();
    serving.abort();
}

/// Knows of garbage, and of nothing else.
struct Tidy(Mutex<Vec<Share>>);

const GARBAGE: u64 = 40_000;

fn unreferenced(number: u64) -> Unreferenced {
    Unreferenced { id: ObjectId::of(&number.to_be_bytes()), size: number, since: 1_700_000_000 + number }
}

#[async_trait]
impl ImageStore for Tidy {
    async fn list(&self) -> Result<Vec<ImageName>, ImageError> {
        Err(ImageError::Unsupported)
    }

    async fn image(&self, _: &ImageName) -> Result<Arc<Image>, ImageError> {
        Err(ImageError::Unsupported)
    }

    async fn tree(&self, _: &ImageName) -> Result<Arc<Snapshot>, ImageError> {
        Err(ImageError::Unsupported)
    }

    async fn add(&self, _: &ImageName, _: Image) -> Result<(), ImageError> {
        Err(ImageError::Unsupported)
    }

    async fn delete(&self, _: &ImageName) -> Result<(), ImageError> {
        Err(ImageError::Unsupported)
    }

    async fn unreferenced(&self) -> Result<Vec<Unreferenced>, ImageError> {
        Ok((0..GARBAGE).map(unreferenced).collect())
    }

    async fn collect(&self, share: Share) -> Result<Collected, ImageError> {
        self.0.lock().unwrap().push(share);
        let amount = |objects, bytes| Amount { objects, bytes };
        Ok(Collected { removed: amount(1, 2), left: amount(3, u64::MAX) })
    }

    async fn statistics(&self, names: Vec<ImageName>) -> Result<ObjectStatistics, ImageError> {
        if names.iter().any(|name| name.as_str() == "none") {
            return Err(ImageError::NotFound { name: "none".parse().unwrap() });
        }
        let needed = Amount { objects: names.len() as u64, bytes: 7 };
        Ok(ObjectStatistics { needed, alone: Amount { objects: 1, bytes: 0 } })
    }
}

#[tokio::test]
async fn what_no_image_needs_is_told_and_deleted_from_afar_as_near() {
    let (world, tidy) = (World::new(), Arc::new(Tidy(Mutex::default())));
    let server = world.serve("imageserver", Services::new("test").images(tidy.clone(), support::noon)).await;
    let methods = "ImageServer.DeleteUnreferencedObjects";
    let remote = RemoteImages::connect(&world.tls("alice", methods), &server.at()).await.unwrap();
    assert_eq!(remote.unreferenced().await.unwrap(), tidy.unreferenced().await.unwrap());
    let share = Share { percent: 100, bytes: u64::MAX };
    assert_eq!(remote.collect(share).await.unwrap(), tidy.collect(share).await.unwrap());
    assert_eq!(*tidy.0.lock().unwrap(), [share, share]);
    let names: Vec<ImageName> = ["web/1", "web/2"].iter().map(|name| name.parse().unwrap()).collect();
    let near = tidy.statistics(names.clone()).await.unwrap();
    assert_eq!(remote.statistics(names.clone()).await.unwrap(), near);
    let missing = remote.statistics(vec!["none".parse().unwrap()]).await;
    assert!(matches!(missing, Err(ImageError::NotFound { .. })));
    assert!(remote.statistics(Vec::new()).await.is_err(), "none is named");
    assert!(remote.statistics(vec![names[0].clone(); 1001]).await.is_err(), "too many are");
    assert!(remote.collect(Share { percent: 101, bytes: 0 }).await.is_err());
    assert_eq!(tidy.0.lock().unwrap().len(), 2);
    let stranger =
        RemoteImages::connect(&world.tls("bob", "ImageServer.AddImage"), &server.at()).await.unwrap();
    assert!(matches!(stranger.collect(share).await, Err(ImageError::Denied(_))));
    assert!(stranger.unreferenced().await.is_ok());
}
