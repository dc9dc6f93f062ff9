//! A server, somebody who has business with it, and everybody else.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dominator_core::auth::Role;
use dominator_core::object::ObjectId;
use dominator_core::port::{ImageStore as _, ObjectStore as _};
use dominator_pki::keystore::{self, CredentialPaths, IdentityFile};
use dominator_pki::{Credentials, Trust};
use dominator_rpc::client::{RemoteImages, RemoteObjects};
use dominator_rpc::transport::Tls;
use dominator_testkit::{Lab, Process};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::frames::{PING, PREFACE, frame, settings};

/// The server has no more open than so many descriptors when nobody but those who mean it well are there.
const QUIET: usize = 40;

/// How long anything may take before a test is given up: an attack goes on until the server ends it, and one that never does
/// must fail rather than hang.
const PATIENCE: Duration = Duration::from_secs(300);

pub struct Scene {
    _lab: Lab,
    server: Process,
    address: String,
    trust: Trust,
    credentials: Credentials,
    tls: Tls,
}

/// What was seen of the server while it was attacked.
#[derive(Debug)]
pub struct Seen<T> {
    /// What came of the attack.
    pub of_attack: T,
    /// The most descriptors it had open.
    pub descriptors: usize,
    /// The most memory it took, in KiB, beyond what it took before.
    pub growth: u64,
}

/// A connection of somebody with a good certificate, who speaks HTTP/2 by hand.
pub struct Socket {
    pub read: ReadHalf<TlsStream<TcpStream>>,
    pub write: WriteHalf<TlsStream<TcpStream>>,
}

impl Socket {
    /// Whether the server still answers: the answer to a ping is its own, among all it says.
    pub async fn ping(&mut self) -> io::Result<()> {
        let token = *b"are you?";
        self.write.write_all(&frame(PING, 0, 0, &token)).await?;
        let mut heard = Vec::new();
        while !heard.windows(token.len()).any(|window| window == token) {
            if self.read.read_buf(&mut heard).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

impl Scene {
    pub async fn new() -> Self {
        more_descriptors();
        let lab = Lab::new();
        let (server, address) = lab.image_server();
        let methods = "ImageServer.*,ObjectServer.*";
        let shown = lab.certificate("alice", "alice", methods);
        let paths = CredentialPaths { certificate: shown.certificate, key: shown.key };
        let trust = keystore::load_trust(&lab.path("CA.pem"), IdentityFile::None).unwrap();
        let credentials = keystore::load(&paths, SystemTime::now()).unwrap();
        let tls = Tls::new(trust.clone(), credentials.clone()).unwrap();
        let scene = Self { _lab: lab, server, address, trust, credentials, tls };
        // What is made once is there before anything is measured.
        scene.connect_and_call().await;
        scene
    }

    /// Somebody without a certificate, at one of many addresses.
    pub fn stranger(&self, number: usize) -> impl Future<Output = io::Result<TcpStream>> + use<> {
        let address: SocketAddr = self.address.parse().unwrap();
        let from = [127, 0, 77, u8::try_from(number + 1).unwrap()];
        async move {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind((from, 0).into())?;
            socket.connect(address).await
        }
    }

    /// The first words of a handshake.
    pub fn hello(&self) -> Vec<u8> {
        let config = Arc::new(self.trust.client_config(&self.credentials, Role::ImageServer).unwrap());
        let mut client = rustls::ClientConnection::new(config, name()).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        hello
    }

    /// Somebody with a good certificate, who has said the first words of HTTP/2.
    pub async fn caller(&self) -> Socket {
        let config = self.trust.client_config(&self.credentials, Role::ImageServer).unwrap();
        let stream = TcpStream::connect(&self.address).await.unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name(), stream).await.unwrap();
        let (read, mut write) = tokio::io::split(stream);
        write.write_all(&[PREFACE, &settings()].concat()).await.unwrap();
        write.flush().await.unwrap();
        Socket { read, write }
    }

    /// Attacks while somebody else goes about their business, over a connection they have and over new ones: not one
    /// call of theirs may fail.
    pub async fn while_healthy<T>(&self, attack: impl Future<Output = T>) -> Seen<T> {
        let before = self.memory();
        let connected = async {
            let images = RemoteImages::connect(&self.tls, &self.address).await.unwrap();
            (images, RemoteObjects::connect(&self.tls, &self.address).await.unwrap())
        };
        let connected = timeout(PATIENCE, connected).await;
        let (images, objects) = connected.expect("a server that is not attacked answers");
        let mut attack = std::pin::pin!(attack);
        let (mut descriptors, mut most, mut calls) = (0, 0, 0);
        let business = async {
            loop {
                for _ in 0..50 {
                    assert!(images.list().await.unwrap().is_empty());
                    assert_eq!(objects.sizes(&[ObjectId::of(b"x")]).await.unwrap(), [None]);
                    calls += 2;
                }
                self.connect_and_call().await;
                descriptors = descriptors.max(self.descriptors());
                most = most.max(self.memory());
                // Somebody else wants a processor, too.
                tokio::task::yield_now().await;
            }
        };
        let under_attack = async {
            tokio::select! {
                of_attack = &mut attack => of_attack,
                () = business => unreachable!("it has no end"),
            }
        };
        let Ok(of_attack) = timeout(PATIENCE, under_attack).await else {
            let open = self.descriptors();
            panic!(
                "the attack is not over after {PATIENCE:?}: {calls} calls were answered, {open} descriptors are open"
            );
        };
        // Also after it: the attack may have been over before the first call was.
        self.connect_and_call().await;
        let (descriptors, most) = (descriptors.max(self.descriptors()), most.max(self.memory()));
        println!("{calls} calls, {descriptors} descriptors, {before} KiB before, {most} KiB at most");
        Seen { of_attack, descriptors, growth: most.saturating_sub(before) }
    }

    /// Whoever was turned away has left nothing behind.
    pub async fn settles(self) {
        // What the server has seen the end of it has closed before it answers the next.
        let quiet = async {
            loop {
                self.connect_and_call().await;
                if self.descriptors() <= QUIET {
                    break;
                }
            }
        };
        if timeout(PATIENCE, quiet).await.is_err() {
            panic!("after {PATIENCE:?} the server still has {} descriptors open", self.descriptors());
        }
        assert!(self.server.end().success());
    }

    async fn connect_and_call(&self) {
        let call = async {
            let objects = RemoteObjects::connect(&self.tls, &self.address).await.unwrap();
            assert_eq!(objects.sizes(&[ObjectId::of(b"y")]).await.unwrap(), [None]);
        };
        timeout(PATIENCE, call).await.unwrap_or_else(|_| panic!("no call is answered within {PATIENCE:?}"));
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.server.id())).unwrap().count()
    }

    /// In KiB.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.server.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

/// Waits until the other end has closed it, in whatever way.
pub async fn until_closed(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
    let mut some = [0; 1024];
    while matches!(stream.read(&mut some).await, Ok(1..)) {}
    Ok(())
}

fn name() -> ServerName<'static> {
    ServerName::try_from("127.0.0.1").unwrap()
}

/// Thousands of sockets are descriptors of this process, too.
fn more_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    assert!(limit.maximum.is_none_or(|most| most > 6000), "6000 descriptors are needed: ulimit -n");
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
}
