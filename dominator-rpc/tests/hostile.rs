//! Peers with good certificates and bad intentions.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    dead_code,
    unreachable_pub,
    missing_docs
)]

mod support;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dominator_core::auth::Role;
use dominator_core::image::{Image, ImageName};
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::port::{
    Agent, AgentError, Boost, Cause, Configuration, FetchReport, FetchRequest, ImageError, ImageStore,
    LockToken, ObjectSource, ObjectStore, PathFailure, Piece, Pieces, PollReply, PollRequest,
    Reconfiguration, StoreError, UpdateReport, UpdateRequest, Verified,
};
use dominator_core::tree::Snapshot;
use dominator_core::view::{View, ViewId};
use dominator_core_testkit::{image_of, tree_of};
use dominator_rpc::client::{RemoteAgent, RemoteImages, RemoteObjects};
use dominator_rpc::server::Services;
use dominator_rpc::{limits, v1};
use futures_util::stream;
use support::{Running, Stores, World, chain, fake_agent, raw, raw_from};
use tonic::transport::Channel;
use tonic::{Code, Status};

async fn raw_subd() -> (Running, v1::subd_client::SubdClient<Channel>) {
    let world = World::new();
    let server = world.serve("subd", Services::new("test").agent(fake_agent())).await;
    let channel = raw(&world, &server, "Subd.*", Role::Subd).await;
    (server, v1::subd_client::SubdClient::new(channel))
}

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, words: &str) {
    let status = answer.unwrap_err();
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().contains(words), "{status:?}");
}

#[tokio::test]
async fn oversize_messages_are_refused() {
    let (server, mut subd) = raw_subd().await;
    let ids = Bytes::from(vec![0; limits::MESSAGE + 32]);
    refused(subd.get_directories(v1::ObjectIds { ids }).await, Code::OutOfRange, "too large");
    let ids = Bytes::from(vec![0; 32 * (limits::DIRECTORIES_IN_CALL + 1)]);
    refused(subd.get_directories(v1::ObjectIds { ids }).await, Code::InvalidArgument, "the limit");
    let ids = Bytes::from(vec![0; 33]);
    refused(subd.get_directories(v1::ObjectIds { ids }).await, Code::InvalidArgument, "multiple of 32");
    server.stop().await;
}

#[tokio::test]
async fn endless_views_and_triggers_are_cut_off() {
    let (server, mut subd) = raw_subd().await;
    let chunk = v1::SetViewRequest { data: Bytes::from(vec![0; limits::CHUNK]), lock: None };
    let endless = stream::repeat(chunk);
    refused(subd.set_view(endless).await, Code::ResourceExhausted, "a view of more than");
    let header = v1::UpdateHeader {
        base: vec![0; 32].into(),
        view: vec![0; 32].into(),
        ..v1::UpdateHeader::default()
    };
    let header = v1::UpdateRequest { part: Some(v1::update_request::Part::Header(header)) };
    let triggers = v1::update_request::Part::Triggers(vec![b' '; limits::CHUNK].into());
    let triggers = v1::UpdateRequest { part: Some(triggers) };
    let endless = futures_util::StreamExt::chain(stream::iter([header]), stream::repeat(triggers));
    refused(subd.update(endless).await, Code::ResourceExhausted, "triggers of more than");
    server.stop().await;
}

#[tokio::test]
async fn orders_out_of_shape_are_refused() {
    let (server, mut subd) = raw_subd().await;
    let part = |part| v1::UpdateRequest { part: Some(part) };
    let header = |base: Vec<u8>| {
        part(v1::update_request::Part::Header(v1::UpdateHeader {
            base: base.into(),
            view: vec![0; 32].into(),
            ..v1::UpdateHeader::default()
        }))
    };
    let plan = part(v1::update_request::Part::Plan(vec![1, 2, 3].into()));
    let triggers = part(v1::update_request::Part::Triggers(b"[]".as_slice().into()));
    let cases = [
        (vec![], "header"),
        (vec![plan.clone()], "header"),
        (vec![header(vec![0; 31]), triggers.clone(), plan.clone()], "32 bytes"),
        (vec![header(vec![0; 32]), triggers, plan.clone()], "the plan can't be read"),
        (vec![header(vec![0; 32]), header(vec![0; 32])], "out of order"),
    ];
    for (parts, words) in cases {
        refused(subd.update(stream::iter(parts)).await, Code::InvalidArgument, words);
    }
    refused(subd.set_view(stream::iter([])).await, Code::InvalidArgument, "the view can't be read");
    let view = v1::PollRequest { view: vec![1].into(), ..v1::PollRequest::default() };
    refused(subd.poll(view).await, Code::InvalidArgument, "32 bytes");
    let held = Some(v1::HeldAnswer { tree: vec![1].into(), ..v1::HeldAnswer::default() });
    let held = v1::PollRequest { held, ..v1::PollRequest::default() };
    refused(subd.poll(held).await, Code::InvalidArgument, "32 bytes");
    let objects = v1::fetch_request::Part::Objects(v1::NeededObjects::default());
    let late = v1::FetchRequest { part: Some(objects), ..v1::FetchRequest::default() };
    refused(subd.fetch(stream::iter([late])).await, Code::InvalidArgument, "source");
    server.stop().await;
}

#[tokio::test]
async fn objects_that_break_the_rules_are_not_taken_in() {
    use v1::object_piece::Piece as Kind;
    let (world, stores) = (World::new(), Stores::new());
    let server = world.serve("imageserver", stores.services()).await;
    let channel = raw(&world, &server, "ObjectServer.AddObjects", Role::ImageServer).await;
    let id = ObjectId::of(b"x");
    let begin =
        |size| Kind::Begin(v1::ObjectBegin { id: Bytes::copy_from_slice(id.as_bytes()), size, offset: 0 });
    let data = |data: &'static [u8]| Kind::Data(data.into());
    let cases = [
        (vec![data(b"x")], "before any object"),
        (vec![begin(1), data(b"xx")], "longer than announced"),
        (vec![begin(2), data(b"x")], "shorter than announced"),
        (vec![begin(2), data(b"x"), begin(1), data(b"x")], "shorter than announced"),
        (vec![begin(1), data(b"y")], "corrupt"),
    ];
    for (pieces, words) in cases {
        let pieces = pieces.into_iter().map(|piece| v1::ObjectPiece { piece: Some(piece) }).collect();
        let part = v1::add_objects_request::Part::Pieces(v1::ObjectPieces { pieces });
        let request = stream::iter([v1::AddObjectsRequest { part: Some(part) }]);
        let mut client = v1::object_server_client::ObjectServerClient::new(channel.clone());
        let mut answers = client.add_objects(request).await.unwrap().into_inner();
        let status = answers.message().await.unwrap_err();
        assert!(status.message().contains(words), "{status:?} should say {words:?}");
        assert_eq!(stores.objects.bytes(&id), None);
    }
    server.stop().await;
}

/// An agent and an image server that answer with what was not asked for.
struct Liar {
    directory: Bytes,
    tree: Arc<Snapshot>,
    image: Arc<Image>,
}

#[async_trait]
impl Agent for Liar {
    async fn poll(&self, _: PollRequest) -> Result<PollReply, AgentError> {
        Err(AgentError::NotNow(String::new()))
    }

    async fn set_view(&self, _: View, _: Option<LockToken>) -> Result<ViewId, AgentError> {
        Err(AgentError::NotNow(String::new()))
    }

    async fn directories(&self, ids: Vec<ObjectId>) -> Result<Vec<Bytes>, AgentError> {
        Ok(vec![self.directory.clone(); ids.len()])
    }

    async fn fetch(&self, _: FetchRequest) -> Result<FetchReport, AgentError> {
        Err(AgentError::NotNow(String::new()))
    }

    async fn update(&self, _: UpdateRequest) -> Result<UpdateReport, AgentError> {
        Err(AgentError::NotNow(String::new()))
    }

    async fn clean_up(&self, _: Option<LockToken>) -> Result<(), AgentError> {
        Ok(())
    }

    async fn configuration(&self) -> Result<Configuration, AgentError> {
        Err(AgentError::NotNow(String::new()))
    }

    async fn configure(&self, _: Reconfiguration) -> Result<(), AgentError> {
        Err(AgentError::NotNow(String::new()))
    }

    async fn boost(&self, _: Boost) -> Result<(), AgentError> {
        Err(AgentError::NotNow(String::new()))
    }
}

#[async_trait]
impl ImageStore for Liar {
    async fn list(&self) -> Result<Vec<ImageName>, ImageError> {
        Ok(Vec::new())
    }

    async fn image(&self, _: &ImageName) -> Result<Arc<Image>, ImageError> {
        Ok(self.image.clone())
    }

    async fn tree(&self, _: &ImageName) -> Result<Arc<Snapshot>, ImageError> {
        Ok(self.tree.clone())
    }

    async fn add(&self, _: &ImageName, _: Image) -> Result<(), ImageError> {
        Ok(())
    }

    async fn delete(&self, _: &ImageName) -> Result<(), ImageError> {
        Ok(())
    }
}

#[async_trait]
impl ObjectSource for Liar {
    async fn objects(&self, _: Vec<ObjectId>) -> Result<Pieces, StoreError> {
        let unasked = [Ok(Piece::Begin { id: ObjectId::of(b"other"), size: 0 })];
        Ok(Pieces::new(stream::iter(unasked)))
    }
}

#[async_trait]
impl ObjectStore for Liar {
    async fn sizes(&self, ids: &[ObjectId]) -> Result<Vec<Option<u64>>, StoreError> {
        Ok(vec![None; ids.len() + 1])
    }

    async fn add(&self, _: Pieces) -> Result<Vec<Verified>, StoreError> {
        let other = ObjectId::of(b"other");
        Verified::check(other, 5, other, 5).map(|verified| vec![verified])
    }
}

fn liar() -> Arc<Liar> {
    let (image, tree) = (tree_of(&[("/bin/sh", b"good")]), tree_of(&[("/bin/sh", b"evil")]));
    let directory = Bytes::from_static(b"no directory that was asked for");
    Arc::new(Liar { directory, tree: Arc::new(tree), image: Arc::new(image_of(&image)) })
}

#[tokio::test]
async fn a_directory_that_is_another_is_not_believed() {
    let world = World::new();
    let server = world.serve("subd", Services::new("test").agent(liar())).await;
    let agent = RemoteAgent::connect(&world.tls("dominator", "Subd.*"), &server.at()).await.unwrap();
    let error = agent.directories(vec![ObjectId::of(b"asked for")]).await.unwrap_err();
    assert!(matches!(error, AgentError::Protocol(_)), "{error:?}");
    assert!(chain(&error).contains("corrupt"), "{}", chain(&error));
    server.stop().await;
}

#[tokio::test]
async fn a_tree_that_is_not_the_images_is_not_believed() {
    let world = World::new();
    let server = world.serve("imageserver", Services::new("test").images(liar(), support::noon)).await;
    let images = RemoteImages::connect(&world.tls("dominator", ""), &server.at()).await.unwrap();
    let error = images.tree(&"a/1".parse().unwrap()).await.unwrap_err();
    assert!(matches!(error, ImageError::Malformed(_)), "{error:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_store_is_believed_about_what_was_asked_only() {
    let world = World::new();
    let server = world.serve("imageserver", Services::new("test").objects(liar())).await;
    let objects = RemoteObjects::connect(&world.tls("alice", "*.*"), &server.at()).await.unwrap();
    let id = ObjectId::of(b"mine");
    assert!(matches!(objects.sizes(&[id]).await, Err(StoreError::Protocol(_))));
    let mine = dominator_core_testkit::MemoryObjects::default();
    mine.put("mine");
    let error = objects.add(mine.objects(vec![id]).await.unwrap()).await.unwrap_err();
    assert!(matches!(&error, StoreError::Protocol(text) if text.contains("not sent")), "{error:?}");
    let pieces = objects.objects(vec![id]).await.unwrap();
    let error = mine.add(pieces).await.unwrap_err();
    assert!(matches!(&error, StoreError::Protocol(text) if text.contains("was asked for")), "{error:?}");
    server.stop().await;
}

#[tokio::test]
async fn bytes_that_are_no_handshake_do_not_hold_the_door() {
    let (world, stores) = (World::new(), Stores::new());
    let server = world.serve("imageserver", stores.services()).await;
    let mut garbage = tokio::net::TcpStream::connect(server.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut garbage, b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    // Others hang in the middle of theirs.
    let silent = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let objects = RemoteObjects::connect(&world.tls("alice", "*.*"), &server.at()).await.unwrap();
    assert_eq!(objects.sizes(&[ObjectId::of(b"")]).await.unwrap(), [None]);
    let mut rest = Vec::new();
    // The answer is an alert or nothing; then the connection is closed.
    drop(tokio::io::AsyncReadExt::read_to_end(&mut garbage, &mut rest).await);
    drop(silent);
    server.stop().await;
}

/// An agent whose words are as bad as it can make them.
struct Mouth(String);

#[async_trait]
impl Agent for Mouth {
    async fn poll(&self, _: PollRequest) -> Result<PollReply, AgentError> {
        Err(AgentError::Failed { what: self.0.clone(), cause: Cause::new("x") })
    }

    async fn set_view(&self, _: View, _: Option<LockToken>) -> Result<ViewId, AgentError> {
        Err(AgentError::NotNow(self.0.clone()))
    }

    async fn directories(&self, _: Vec<ObjectId>) -> Result<Vec<Bytes>, AgentError> {
        Err(AgentError::NotNow(self.0.clone()))
    }

    async fn fetch(&self, _: FetchRequest) -> Result<FetchReport, AgentError> {
        let cause = Cause::new("db1:6971 refuses connections");
        Err(AgentError::Fetch(StoreError::Unreachable(cause)))
    }

    async fn update(&self, _: UpdateRequest) -> Result<UpdateReport, AgentError> {
        let reason = self.0.repeat(1000);
        Ok(UpdateReport {
            failures: vec![PathFailure { path: ImagePath::parse(b"/a").unwrap(), reason }],
            ..UpdateReport::default()
        })
    }

    async fn clean_up(&self, _: Option<LockToken>) -> Result<(), AgentError> {
        Err(AgentError::Denied(self.0.clone()))
    }

    async fn configuration(&self) -> Result<Configuration, AgentError> {
        Err(AgentError::NotNow(self.0.clone()))
    }

    async fn configure(&self, _: Reconfiguration) -> Result<(), AgentError> {
        Err(AgentError::NotNow(self.0.clone()))
    }

    async fn boost(&self, _: Boost) -> Result<(), AgentError> {
        Err(AgentError::NotNow(self.0.clone()))
    }
}

#[tokio::test]
async fn words_from_afar_are_short_printable_and_said_once() {
    let world = World::new();
    let mouth = Arc::new(Mouth("\u{1b}[2Jgone\n".into()));
    let server = world.serve("subd", Services::new("test").agent(mouth)).await;
    let agent = RemoteAgent::connect(&world.tls("dominator", "Subd.*"), &server.at()).await.unwrap();
    let errors = [
        agent.poll(PollRequest::default()).await.unwrap_err(),
        agent.directories(vec![ObjectId::of(b"")]).await.unwrap_err(),
        agent.clean_up(None).await.unwrap_err(),
    ];
    for error in errors {
        let text = chain(&error);
        assert!(text.contains("gone") && !text.contains(char::is_control), "{text:?}");
    }
    let order = FetchRequest { sources: vec!["db1:6971".into()], ..FetchRequest::default() };
    let text = chain(&agent.fetch(order).await.unwrap_err());
    let expected =
        "objects could not be fetched: the object store can't be reached: db1:6971 refuses connections";
    assert_eq!(text, expected);
    let tree = tree_of(&[]);
    let plan = dominator_core::plan::Plan::default();
    let order = UpdateRequest::new(tree.id(), tree.tree.view, plan);
    let report = agent.update(order).await.unwrap();
    let reason = &report.failures[0].reason;
    assert!(reason.len() <= 2 * limits::ERROR_TEXT && !reason.contains(char::is_control), "{}", reason.len());
    server.stop().await;
}

#[tokio::test]
async fn one_address_can_not_take_all_handshakes() {
    let (world, stores) = (World::new(), Stores::new());
    let server = world.serve("imageserver", stores.services()).await;
    let mut silent = Vec::new();
    for _ in 0..limits::HANDSHAKES_OF_ADDRESS {
        silent.push(tokio::net::TcpStream::connect(server.address).await.unwrap());
    }
    // One more is turned away at once, without a word.
    let mut refused = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let read = tokio::io::AsyncReadExt::read(&mut refused, &mut [0; 1]).await;
    assert!(!matches!(read, Ok(1)), "{read:?}");
    assert_eq!(server.metrics.connections_refused(), 1);
    // Another address comes in.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
    let stream = socket.connect(server.address).await.unwrap();
    let config = world.trust().client_config(&world.credentials("alice", ""), Role::ImageServer).unwrap();
    let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(name, stream).await.unwrap();
    assert!(tokio::io::AsyncReadExt::read_u8(&mut stream).await.is_ok(), "the server speaks first");
    drop(silent);
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn one_call_gets_a_bounded_number_of_objects_and_many_calls_get_them_all() {
    let (world, stores) = (World::new(), Stores::new());
    let id = stores.objects.put("x");
    let server = world.serve("imageserver", stores.services()).await;
    let many = limits::OBJECTS_IN_CALL + 1;
    let channel = raw(&world, &server, "ObjectServer.GetObjects", Role::ImageServer).await;
    let ids = Bytes::from(id.as_bytes().repeat(limits::IDS));
    let batches = vec![v1::GetObjectsRequest { ids, offset: 0, zstd: false }; many.div_ceil(limits::IDS)];
    let mut client = v1::object_server_client::ObjectServerClient::new(channel);
    refused(client.get_objects(stream::iter(batches)).await, Code::InvalidArgument, "the limit");
    let ids = Bytes::from(id.as_bytes().repeat(2));
    let rests = stream::iter([v1::GetObjectsRequest { ids, offset: 1, zstd: false }]);
    refused(client.get_objects(rests).await, Code::InvalidArgument, "an offset in several objects");
    let objects = RemoteObjects::connect(&world.tls("subd", "ObjectServer.*"), &server.at()).await.unwrap();
    let pieces = objects.objects(vec![id; many]).await.unwrap();
    let begun = futures_util::StreamExt::fold(pieces, 0, async |begun, piece| {
        begun + usize::from(matches!(piece.unwrap(), Piece::Begin { .. }))
    });
    assert_eq!(begun.await, many);
    server.stop().await;
}

#[tokio::test]
async fn those_who_take_nothing_hold_up_none_but_themselves() {
    let (world, stores) = (World::new(), Stores::new());
    let id = stores.objects.put(vec![0; 32 * 1024 * 1024]);
    let server = world.serve("imageserver", stores.services()).await;
    let get = async |channel: Channel| {
        let mut client = v1::object_server_client::ObjectServerClient::new(channel);
        let ids = Bytes::copy_from_slice(id.as_bytes());
        client
            .get_objects(stream::iter([v1::GetObjectsRequest { ids, offset: 0, zstd: false }]))
            .await
            .map(tonic::Response::into_inner)
    };
    let greedy = raw(&world, &server, "ObjectServer.GetObjects", Role::ImageServer).await;
    let mut held = Vec::new();
    for _ in 0..limits::TRANSFERS_OF_ADDRESS {
        held.push(get(greedy.clone()).await.unwrap());
    }
    let mut one_more = Box::pin(get(greedy));
    let other = raw_from([127, 0, 0, 2], &world, &server, "ObjectServer.GetObjects", Role::ImageServer).await;
    let served = async {
        let mut answer = get(other).await.unwrap();
        while answer.message().await.unwrap().is_some() {}
    };
    tokio::select! {
        biased;
        _ = &mut one_more => panic!("it had more than its share"),
        () = served => {}
    }
    // Whoever lets go goes on.
    held.pop();
    assert!(one_more.await.is_ok());
    drop(held);
    server.stop().await;
}

#[tokio::test]
async fn orders_that_never_end_do_not_pile_up_in_memory() {
    let (server, mut subd) = raw_subd().await;
    let header = v1::UpdateHeader {
        base: vec![0; 32].into(),
        view: vec![0; 32].into(),
        ..v1::UpdateHeader::default()
    };
    let header = v1::UpdateRequest { part: Some(v1::update_request::Part::Header(header)) };
    let mut begun = futures_util::stream::FuturesUnordered::new();
    for _ in 0..=limits::ORDERS {
        let mut client = subd.clone();
        let endless = futures_util::StreamExt::chain(stream::iter([header.clone()]), stream::pending());
        begun.push(async move { client.update(endless).await });
    }
    let first = futures_util::StreamExt::next(&mut begun).await.unwrap();
    refused(first, Code::FailedPrecondition, "too many orders");
    // Those who left make room.
    drop(begun);
    let view = v1::SetViewRequest { data: Bytes::from_static(b"none"), lock: None };
    loop {
        let status = subd.set_view(stream::iter([view.clone()])).await.unwrap_err();
        if status.code() == Code::InvalidArgument {
            break;
        }
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    }
    server.stop().await;
}
