//! All objects of A to nowhere, against one bare stream of as many bytes.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use dominator_benches::contender::Series;
use dominator_benches::table::Bar;
use dominator_core::object::ObjectId;
use dominator_core::port::{ImageStore as _, ObjectSource as _, Piece};
use dominator_rpc::client::{RemoteImages, RemoteObjects};
use futures_util::TryStreamExt as _;
use rustls::{ClientConnection, ServerConnection, StreamOwned};
use rustls_pki_types::ServerName;
use tokio::runtime::Runtime;

use crate::disk::Disks;
use crate::measure::Figures;
use crate::server::Servers;

const OBJECTS: &str = "GetObjects of all of A's objects";
const BARE: &str = "as many bytes through rustls, from memory";
/// How much is handed to rustls, and taken from it, at once, in bytes.
const PIECE: usize = 128 * 1024;

/// `rounds` times after a first one that is not measured.
pub(crate) fn measure(
    servers: &Servers,
    disks: &Disks,
    a: &Path,
    rounds: usize,
) -> (Vec<Bar>, Option<Vec<Series>>) {
    let store = disks.mount("stream");
    let server = servers.start(&store.path().join("state"));
    server.add("a/1", a);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let wanted = Wanted::of(servers, &runtime);
    let mut seen = Figures::default();
    wanted.get(&runtime);
    for _ in 0..rounds {
        seen.time(None, BARE, || bare(servers, wanted.bytes));
        seen.time(Some(&server), OBJECTS, || wanted.get(&runtime));
    }
    server.end();
    let of = |name: &str| seen.0.iter().find(|series| series.name == name).unwrap();
    // At least 60 % of the throughput.
    (vec![Bar::ratio(OBJECTS, of(OBJECTS), &[of(BARE)], 1.0 / 0.6)], Some(seen.0))
}

struct Wanted {
    client: RemoteObjects,
    ids: Vec<ObjectId>,
    bytes: u64,
}

impl Wanted {
    fn of(servers: &Servers, runtime: &Runtime) -> Self {
        runtime.block_on(async {
            let images = RemoteImages::connect(&servers.tls(), servers.address()).await.unwrap();
            let objects = images.tree(&"a/1".parse().unwrap()).await.unwrap().objects();
            let client = RemoteObjects::connect(&servers.tls(), servers.address()).await.unwrap();
            Self { client, bytes: objects.values().sum(), ids: objects.into_keys().collect() }
        })
    }

    fn get(&self, runtime: &Runtime) {
        let (client, ids) = (self.client.clone(), self.ids.clone());
        let getting = runtime.spawn(async move {
            let pieces = client.objects(ids).await.unwrap();
            let count = |count, piece| async move {
                Ok(count + if let Piece::Data(data) = piece { data.len() as u64 } else { 0 })
            };
            pieces.try_fold(0, count).await.unwrap()
        });
        assert_eq!(runtime.block_on(getting).unwrap(), self.bytes);
    }
}

/// One thread encrypts and sends, another receives and decrypts; the handshake is not worth leaving out.
fn bare(servers: &Servers, bytes: u64) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let config = Arc::new(servers.server_config());
    let sending = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
        let (piece, mut left) = (vec![7; PIECE], bytes);
        while left > 0 {
            let some = usize::try_from(left).unwrap().min(PIECE);
            stream.write_all(&piece[..some]).unwrap();
            left -= some as u64;
        }
        stream.conn.send_close_notify();
        stream.flush().unwrap();
    });
    // The lab's server certificates name no address: the role is what is checked.
    let name = ServerName::IpAddress(address.ip().into());
    let connection = ClientConnection::new(Arc::new(servers.client_config()), name).unwrap();
    let mut stream = StreamOwned::new(connection, TcpStream::connect(address).unwrap());
    let (mut piece, mut received) = (vec![0; PIECE], 0);
    loop {
        match stream.read(&mut piece).unwrap() {
            0 => break,
            some => received += some as u64,
        }
    }
    assert_eq!(received, bytes);
    sending.join().unwrap();
}
