//! How long it takes until all of many clients are back after their server was killed and started again, on two cores.
//!
//!     taskset -c 0,1 cargo bench -p dominator-benches --bench reconnect [-- --clients 10000 --away 2]
//!
//! The server is a process of its own, with the limits every server has. Each client has an address of its own, below
//! 127.0.0.0/8, and one connection, over which it makes a call; when that is lost, it tries again after pauses as all our
//! clients make them. It is back when its call is answered.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, missing_docs)]

mod network;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use dominator_core::auth::Role;
use dominator_core::backoff::{Backoff, Spread};
use network::Served;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// The first words of HTTP/2, settings, and `Introspection.ListMethods` with an empty message.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const MESSAGE: &[u8] = b"\0\0\x05\0\x01\0\0\0\x01\0\0\0\0\0";
/// What a client may take for one attempt.
const ATTEMPT: Duration = Duration::from_secs(15);
/// As all our clients wait after a failure: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

#[derive(Parser)]
struct Options {
    /// How many clients there are
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    clients: u32,
    /// How long the server is away, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    away: u64,
    /// Be the server, with the certificates in this directory
    #[arg(long, hide = true)]
    serve: Option<PathBuf>,
    #[arg(long, hide = true, default_value = "127.0.0.1:0")]
    address: SocketAddr,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
    /// Only try that everything runs
    #[arg(long)]
    test: bool,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let mut options = Options::parse();
    if let Some(directory) = &options.serve {
        return network::serve(directory, options.address).await;
    }
    if options.test || !options.bench {
        (options.clients, options.away) = (50, 0);
    }
    let directory = tempfile::tempdir().unwrap();
    network::certificates(directory.path());
    let (trust, credentials) = network::load(directory.path(), "client");
    let config = Arc::new(trust.client_config(&credentials, Role::ImageServer).unwrap());
    let mut server = Served::start(directory.path(), options.address);
    let (told, mut telling) = mpsc::unbounded_channel();
    let begun = Instant::now();
    for number in 0..options.clients {
        tokio::spawn(client(number, server.address, config.clone(), told.clone()));
    }
    let first = all_back(&mut telling, options.clients, begun).await;
    show("cold", &first, &server);
    server.kill();
    tokio::time::sleep(Duration::from_secs(options.away)).await;
    let restarted = Instant::now();
    let server = Served::start(directory.path(), server.address);
    let again = all_back(&mut telling, options.clients, restarted).await;
    show("after the restart", &again, &server);
    println!("all back after {:.1} s (bar: 30)", again.last().unwrap().as_secs_f64());
}

/// When each was back, in order.
async fn all_back(
    telling: &mut mpsc::UnboundedReceiver<Instant>,
    clients: u32,
    since: Instant,
) -> Vec<Duration> {
    let mut times = Vec::new();
    while times.len() < usize::try_from(clients).unwrap() {
        times.push(telling.recv().await.unwrap().saturating_duration_since(since));
    }
    times.sort();
    times
}

/// How many came back in which second.
fn show(what: &str, times: &[Duration], server: &Served) {
    let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64();
    println!(
        "{what}: {} clients; half after {:.1} s, 99 % after {:.1} s, all after {:.1} s; the server took {} MiB, {} s of CPU",
        times.len(),
        at(50),
        at(99),
        at(100),
        server.memory(),
        server.cpu()
    );
    let mut seconds = vec![0_usize; usize::try_from(times[times.len() - 1].as_secs()).unwrap() + 1];
    for time in times {
        seconds[usize::try_from(time.as_secs()).unwrap()] += 1;
    }
    let most = seconds.iter().copied().max().unwrap_or(1).max(1);
    for (second, count) in seconds.iter().enumerate() {
        println!("{second:>4} s {count:>6} {}", "#".repeat(count * 60 / most));
    }
}

/// Connects, calls, and waits for the end, for ever; tells each time it is back.
async fn client(
    number: u32,
    server: SocketAddr,
    config: Arc<ClientConfig>,
    told: mpsc::UnboundedSender<Instant>,
) {
    let from = (0x7f01_0000 + number / 250 * 256 + number % 250 + 1).to_be_bytes();
    let mut backoff = Backoff::new(PAUSES.0, PAUSES.1, Spread::drawn(number.into()));
    loop {
        if let Ok(Ok(mut stream)) = timeout(ATTEMPT, connect(from, server, config.clone())).await {
            backoff.succeeded();
            told.send(Instant::now()).unwrap();
            until_closed(&mut stream).await;
        }
        tokio::time::sleep(backoff.pause()).await;
    }
}

async fn connect(
    from: [u8; 4],
    server: SocketAddr,
    config: Arc<ClientConfig>,
) -> io::Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let stream = socket.connect(server).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::IpAddress(server.ip().into());
    let mut stream = TlsConnector::from(config).connect(name, stream).await?;
    stream.write_all(&[PREFACE, &call(), MESSAGE].concat()).await?;
    // The end of the answer: headers that end the stream.
    loop {
        let (kind, flags, _) = frame(&mut stream).await?;
        if kind == 1 && flags & 1 == 1 {
            return Ok(stream);
        }
    }
}

fn call() -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    let mut literal = |name: &[u8], text: &str| {
        block.extend(name);
        block.push(u8::try_from(text.len()).unwrap());
        block.extend(text.as_bytes());
    };
    literal(&[0x04], "/dominator.v1.Introspection/ListMethods");
    literal(&[0x01], "dominator");
    literal(&[0x0f, 0x10], "application/grpc");
    literal(b"\0\x02te", "trailers");
    let length = u32::try_from(block.len()).unwrap().to_be_bytes();
    [&length[1..], &[1, 4, 0, 0, 0, 1], &block].concat()
}

/// The kind and the flags of the next frame, and what is in it.
async fn frame(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(u8, u8, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut payload).await?;
    Ok((head[3], head[4], payload))
}

async fn until_closed(stream: &mut tokio_rustls::client::TlsStream<tokio::net::TcpStream>) {
    while let Ok((kind, flags, token)) = frame(stream).await {
        // It is asked whether it is there.
        if (kind, flags) == (6, 0) {
            let answer = [&[0, 0, 8, 6, 1, 0, 0, 0, 0], &token[..]].concat();
            if stream.write_all(&answer).await.is_err() {
                return;
            }
        }
    }
}
