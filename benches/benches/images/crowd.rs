//! Many clients at once, each with an address and a connection of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BufMut as _, Bytes};
use dominator_benches::contender::Series;
use dominator_benches::table::{Bar, Unit};
use dominator_core::object::ObjectId;
use dominator_core::port::{ObjectStore as _, Piece, Pieces};
use dominator_rpc::client::RemoteObjects;
use futures_util::stream;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpSocket;
use tokio::sync::{Barrier, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};

use crate::disk::Disks;
use crate::server::Servers;

/// What each fetches: one of so many objects of so many bytes.
const OBJECTS: u8 = 16;
const SIZE: usize = 1_000_000;
/// How many connect at a time: the handshakes are not what is measured.
const CONNECTING: usize = 64;

/// Once: it is many measurements in one.
pub(crate) fn measure(servers: &Servers, disks: &Disks, clients: u32) -> (Vec<Bar>, Option<Vec<Series>>) {
    let store = disks.mount("crowd");
    let server = servers.start(&store.path().join("state"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let ids = runtime.block_on(stored(servers));
    // What serving one takes is there before.
    runtime.block_on(fetch_all(servers, &ids, 1));
    let before = server.memory("VmRSS");
    let mut times = runtime.block_on(fetch_all(servers, &ids, clients));
    times.sort();
    let grown = server.memory("VmHWM").saturating_sub(before);
    server.end();
    let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64();
    let seen = format!("half within {:.3} s, 99 % within {:.3} s", at(50), at(99));
    eprintln!("{clients} clients: {seen}; {} MiB more", grown >> 20);
    let work = format!("{clients} clients, each fetching 1 MB");
    let bars = vec![
        Bar::at_most(&format!("{work}: p99 of p50"), seen, at(99) / at(50), 4.0, Unit::Times),
        Bar::at_most(
            &format!("{work}: growth"),
            "VmHWM less VmRSS before".into(),
            f64::from(u32::try_from(grown >> 10).unwrap()) / 1024.0,
            256.0,
            Unit::Mebibytes,
        ),
    ];
    (bars, None)
}

async fn stored(servers: &Servers) -> Vec<ObjectId> {
    let client = RemoteObjects::connect(&servers.tls(), servers.address()).await.unwrap();
    let objects: Vec<_> = (0..OBJECTS).map(|number| Bytes::from(vec![number; SIZE])).collect();
    let ids: Vec<_> = objects.iter().map(|bytes| ObjectId::of(bytes)).collect();
    let pieces = ids.iter().zip(objects).flat_map(|(id, bytes)| {
        let begin = Piece::Begin { id: *id, size: SIZE as u64 };
        let parts = (0..SIZE).step_by(Piece::MAX_DATA);
        let data = parts
            .map(move |at| Piece::Data(bytes.slice(at..SIZE.min(at + Piece::MAX_DATA))))
            .collect::<Vec<_>>();
        std::iter::once(begin).chain(data)
    });
    let pieces: Vec<_> = pieces.map(Ok).collect();
    client.add(Pieces::new(stream::iter(pieces))).await.unwrap();
    ids
}

/// From the moment when all are connected: how long each took.
async fn fetch_all(servers: &Servers, ids: &[ObjectId], clients: u32) -> Vec<Duration> {
    let config = Arc::new(servers.client_config());
    let address: SocketAddr = servers.address().parse().unwrap();
    let connecting = Arc::new(Semaphore::new(CONNECTING));
    let ready = Arc::new(Barrier::new(usize::try_from(clients).unwrap()));
    let mut fetching = JoinSet::new();
    for (number, id) in (0..clients).zip(ids.iter().cycle()) {
        let (config, connecting, ready, id) = (config.clone(), connecting.clone(), ready.clone(), *id);
        fetching.spawn(async move {
            let turn = connecting.acquire().await.unwrap();
            let channel = connect(number, address, config).await;
            drop(turn);
            ready.wait().await;
            let begun = Instant::now();
            assert!(fetch(channel, id).await >= SIZE, "all of it came");
            begun.elapsed()
        });
    }
    fetching.join_all().await
}

/// From an address nobody else has: what a server grants, it grants to addresses.
async fn connect(number: u32, server: SocketAddr, config: Arc<ClientConfig>) -> Channel {
    let from = (0x7f02_0000 + number / 250 * 256 + number % 250 + 1).to_be_bytes();
    let connector = tower::service_fn(move |_| {
        let config = config.clone();
        async move {
            let socket = TcpSocket::new_v4()?;
            socket.bind((from, 0).into())?;
            let stream = socket.connect(server).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::IpAddress(server.ip().into());
            let stream = TlsConnector::from(config).connect(name, stream).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    });
    // As our clients have it.
    let endpoint = Endpoint::from_static("http://dominator")
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024);
    endpoint.connect_with_connector(connector).await.unwrap()
}

/// How many bytes came.
async fn fetch(channel: Channel, id: ObjectId) -> usize {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let request = Bytes::from([&[0x0a, 32], id.as_bytes().as_slice()].concat());
    let path = PathAndQuery::from_static("/dominator.v1.ObjectServer/GetObjects");
    let request = tonic::Request::new(stream::iter([request]));
    let mut answer = client.streaming(request, path, Counting).await.unwrap().into_inner();
    let mut bytes = 0;
    while let Some(some) = answer.message().await.unwrap() {
        bytes += some;
    }
    bytes
}

/// Messages go as they are; of what comes the length is all that is wanted.
#[derive(Clone, Copy, Default)]
struct Counting;

impl Codec for Counting {
    type Encode = Bytes;
    type Decode = usize;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Counting {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(message);
        Ok(())
    }
}

impl Decoder for Counting {
    type Item = usize;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<usize>, Status> {
        let bytes = from.remaining();
        from.advance(bytes);
        Ok(Some(bytes))
    }
}
