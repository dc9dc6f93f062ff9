//! Full handshakes with certificates on both ends, in a second, one core for each side: through our server and our
//! client, and through tokio-rustls alone with the same certificates, in turns.
//!
//!     cargo bench -p dominator-benches --bench handshakes [-- --seconds 5]
//!
//! Ours do all of it: the address is looked up, the role is checked, the server's first words of HTTP/2 are waited for,
//! the connection is watched and has its place. The bare ones are believed by webpki alone, and say one byte.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, missing_docs)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use dominator_core::auth::{MethodPattern, Role};
use dominator_core_testkit::MemoryObjects;
use dominator_pki::ca::{Authority, Leaf, LeafKey};
use dominator_pki::{AlternativeName, Credentials, Trust};
use dominator_rpc::client::RemoteObjects;
use dominator_rpc::server::Services;
use dominator_rpc::transport::{Bounds, Server, Tls};
use futures_util::future::BoxFuture;
use rustix::thread::{CpuSet, sched_setaffinity};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};

#[derive(Parser)]
struct Options {
    /// How long each round takes
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    seconds: u64,
    /// How many rounds of each there are
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// How many handshakes are under way at once
    #[arg(long, value_name = "N", default_value_t = 16)]
    at_once: usize,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
    /// Only try that everything runs
    #[arg(long)]
    test: bool,
}

struct Certificates {
    authority: CertificateDer<'static>,
    trust: Trust,
    server: Credentials,
    client: Credentials,
    server_pem: Pem,
    client_pem: Pem,
}

/// A certificate and its key, for who wants nothing of ours.
struct Pem(String, String);

impl Pem {
    fn parts(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::from_pem_slice(self.0.as_bytes()).unwrap();
        (vec![chain], PrivateKeyDer::from_pem_slice(self.1.as_bytes()).unwrap())
    }

    fn credentials(&self) -> Credentials {
        Credentials::from_pem(self.0.as_bytes(), self.1.as_bytes()).unwrap()
    }
}

impl Certificates {
    fn new() -> Self {
        let now = SystemTime::now();
        let authority = Authority::create("Bench", now).unwrap();
        let name = AlternativeName::Ip([127, 0, 0, 1].into());
        let server = Leaf::new("imageserver").unwrap().role(Role::ImageServer).alternative_names([name]);
        let methods = MethodPattern::parse_list("ObjectServer.*,ImageServer.*,Subd.*").unwrap();
        let client = Leaf::new("dominator").unwrap().methods(methods);
        let issue = |leaf: &Leaf| {
            let key = LeafKey::generate().unwrap();
            Pem(authority.issue(leaf, &key.public_key().unwrap(), now).unwrap().pem, key.to_pem())
        };
        let (server_pem, client_pem) = (issue(&server), issue(&client));
        let pem = authority.certificate_pem();
        Self {
            authority: CertificateDer::from_pem_slice(pem.as_bytes()).unwrap(),
            trust: Trust::from_pem(pem.as_bytes(), None).unwrap(),
            server: server_pem.credentials(),
            client: client_pem.credentials(),
            server_pem,
            client_pem,
        }
    }
}

fn main() {
    let mut options = Options::parse();
    if options.test || !options.bench {
        (options.seconds, options.rounds) = (1, 1);
    }
    let certificates = Certificates::new();
    let ours = ours(&certificates);
    let bare = bare(&certificates);
    let (mut rates, mut ratios) = ([Vec::new(), Vec::new()], Vec::new());
    for _ in 0..options.rounds {
        let pair = [&ours, &bare].map(|contender| contender.rate(&options));
        ratios.push(pair[0] / pair[1]);
        rates.iter_mut().zip(pair).for_each(|(rates, rate)| rates.push(rate));
    }
    for (name, rates) in ["ours", "tokio-rustls alone"].iter().zip(&mut rates) {
        println!("{name}: {:.0} handshakes a second (median of {})", median(rates), rates.len());
    }
    println!("ours / bare: {:.3} (bar: at least 0.8)", median(&mut ratios));
}

fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// How a client makes a handshake with a server that waits for it on the first core.
struct Contender(Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>);

impl Contender {
    /// How many handshakes there were in a second, from the second core.
    fn rate(&self, options: &Options) -> f64 {
        on_core(1);
        let done = Arc::new(AtomicU64::new(0));
        let (begun, time) = (Instant::now(), Duration::from_secs(options.seconds));
        runtime().block_on(async {
            let mut clients = JoinSet::new();
            for _ in 0..options.at_once {
                let (handshake, done) = (Arc::clone(&self.0), Arc::clone(&done));
                clients.spawn(async move {
                    while begun.elapsed() < time {
                        handshake().await;
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            clients.join_all().await;
        });
        let done = u32::try_from(done.load(Ordering::Relaxed)).unwrap();
        f64::from(done) / begun.elapsed().as_secs_f64()
    }
}

/// Through our server and our client.
fn ours(certificates: &Certificates) -> Contender {
    let tls = Tls::new(certificates.trust.clone(), certificates.server.clone()).unwrap();
    let address = serving(move |told| async move {
        let services = Services::new("bench").objects(Arc::new(MemoryObjects::default()));
        let server = Server::bind(([127, 0, 0, 1], 0).into(), tls, services).await.unwrap();
        told.send(server.local_address()).unwrap();
        // All come from one address, and there are not so many at once.
        let bounds = Bounds { handshakes_of_address: 1024, ..Bounds::default() };
        server.with_bounds(bounds).serve(std::future::pending()).await.unwrap();
    });
    let tls = Tls::new(certificates.trust.clone(), certificates.client.clone()).unwrap();
    Contender(Arc::new(move || {
        let (tls, address) = (tls.clone(), address.to_string());
        Box::pin(async move { drop(RemoteObjects::connect(&tls, &address).await.unwrap()) })
    }))
}

/// Through tokio-rustls, and nothing else.
fn bare(certificates: &Certificates) -> Contender {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(certificates.authority.clone()).unwrap();
    let roots = Arc::new(roots);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
    let (chain, key) = certificates.server_pem.parts();
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(chain, key)
        .unwrap();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let address = serving(move |told| async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        told.send(listener.local_addr().unwrap()).unwrap();
        let mut handshakes = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            handshakes.spawn(async move {
                stream.set_nodelay(true).unwrap();
                let mut stream = acceptor.accept(stream).await.unwrap();
                stream.write_all(b"!").await.unwrap();
                stream.flush().await.unwrap();
                // Until the client has gone.
                drop(stream.read(&mut [0; 1]).await);
            });
            while handshakes.try_join_next().is_some() {}
        }
    });
    let (chain, key) = certificates.client_pem.parts();
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build().unwrap();
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.resumption = Resumption::disabled();
    let connector = TlsConnector::from(Arc::new(config));
    Contender(Arc::new(move || {
        let connector = connector.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let name = ServerName::IpAddress(address.ip().into());
            let mut stream = connector.connect(name, stream).await.unwrap();
            stream.read_u8().await.unwrap();
        })
    }))
}

/// A server on the first core, and where it listens.
fn serving<F: Future<Output = ()>>(
    serve: impl FnOnce(mpsc::Sender<SocketAddr>) -> F + Send + 'static,
) -> SocketAddr {
    let (told, telling) = mpsc::channel();
    // It ends with the process.
    thread::spawn(move || {
        on_core(0);
        runtime().block_on(serve(told));
    });
    telling.recv().unwrap()
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Keeps this thread, and what it starts, on one core.
fn on_core(number: usize) {
    let mut set = CpuSet::new();
    set.set(number);
    sched_setaffinity(None, &set).expect("there are two cores, and this program may use them");
}
