use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use dominator_core::auth::{Effect, Role};
use dominator_core::port::Unreachable;
use dominator_pki::{AlternativeName, Certificate, PkiError};
use hyper_util::rt::TokioIo;
use rustls::AlertDescription;
use rustls_pki_types::{CertificateDer, ServerName};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::Endpoint;

use super::channel::Channel;
use super::connection::Connection;
use super::standing::{Far, Standing};
use super::stream::{Stream, is_loopback};
use super::tls::{Configured, MachineIdentity, Proof, Tls};
use super::words;
use crate::{limits, wire};

/// How much of the server's first word is read ahead, in bytes. Longer reads pass the buffer by.
const FIRST_WORD: usize = 1024;

type Dialled = Connection<BufReader<Stream>>;

/// Connects to the server at `address` (`host:port`), which must prove that it plays the role `expected`.
///
/// The connection stands when it returns: the server has accepted our certificate. When it is lost later, the next
/// call makes a new one, once; nothing is retried by itself.
///
/// # Errors
/// [`ConnectError`], with the reason.
pub async fn connect(tls: &Tls, address: &str, expected: Role) -> Result<Channel, ConnectError> {
    let first = dial(tls, address, expected).await?;
    // It speaks HTTP/2 at once, also when the first call comes much later: servers wait for nobody who says nothing.
    let inner = endpoint().connect_with_connector(connector(tls, address, expected, Some(first))).await;
    let inner = inner.map_err(|error| ConnectError::unreached(address, io::Error::other(error)))?;
    Ok(Channel::new(inner, tls.powers()))
}

/// The same without a connection: the first call makes it, and fails when it can't be made.
pub(crate) fn connect_lazily(tls: &Tls, address: &str, expected: Role) -> Channel {
    let connector = connector(tls, address, expected, None);
    Channel::new(endpoint().connect_with_connector_lazy(connector), tls.powers())
}

fn endpoint() -> Endpoint {
    // TLS is ours, not the endpoint's: its scheme says so, and its authority is never looked up.
    Endpoint::from_static("http://dominator")
        .http2_keep_alive_interval(limits::KEEPALIVE)
        .keep_alive_timeout(limits::KEEPALIVE_ANSWER)
        .http2_max_header_list_size(limits::HEADERS)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
}

/// Makes connections, of which `first` is there already.
fn connector(
    tls: &Tls,
    address: &str,
    expected: Role,
    first: Option<Dialled>,
) -> impl Service<Uri, Response = TokioIo<Dialled>, Error = ConnectError, Future: Send> + Send + 'static {
    let ready = Arc::new(Mutex::new(first));
    let (tls, target) = (tls.clone(), address.to_owned());
    tower::service_fn(move |_| {
        let (tls, target) = (tls.clone(), target.clone());
        let ready = ready.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move {
            let stream = match ready {
                Some(stream) => stream,
                None => dial(&tls, &target, expected).await?,
            };
            Ok(TokioIo::new(stream))
        }
    })
}

async fn dial(tls: &Tls, address: &str, expected: Role) -> Result<Dialled, ConnectError> {
    match timeout(limits::CONNECT, attempt(tls, address, expected)).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::Timeout { address: address.into() }),
    }
}

async fn attempt(tls: &Tls, address: &str, expected: Role) -> Result<Dialled, ConnectError> {
    let unresolved = |source| ConnectError::Dns { address: address.into(), source };
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let name = ServerName::try_from(host.to_owned()).map_err(|error| unresolved(io::Error::other(error)))?;
    let found: Vec<SocketAddr> = lookup_host(address).await.map_err(unresolved)?.collect();
    if let Some(reason) = tls.stale(Effect::Reads, SystemTime::now()) {
        return Err(ConnectError::Stale { address: address.into(), reason });
    }
    let current = tls.current();
    if current.proof.is_none() && !found.iter().copied().all(is_loopback) {
        return Err(ConnectError::Insecure { address: address.into() });
    }
    let stream = reach(address, &found).await?;
    stream.set_nodelay(true).map_err(|source| ConnectError::unreached(address, source))?;
    let failed = |source| ConnectError::of(address, source, &current);
    let stream = match &current.proof {
        Some(proof) => {
            let config = proof.client(expected).map_err(ConnectError::Own)?;
            let stream = TlsConnector::from(config).connect(name.clone(), stream).await;
            Stream::Tls(Box::new(stream.map_err(failed)?.into()))
        }
        None => Stream::Plain(stream),
    };
    let standing = recognise(tls, address, Far::Server(expected, name), stream.shown())?;
    // In TLS 1.3 a client is through before the server has judged its certificate. The server speaks first in HTTP/2
    // once it has; so its first word, or its refusal, is waited for here, where it can be told from other failures.
    let mut stream = BufReader::with_capacity(FIRST_WORD, stream);
    if current.proof.is_none() {
        return Ok(Connection::dialled(stream, standing, address.into()));
    }
    match stream.fill_buf().await {
        Ok([]) => Err(ConnectError::Closed { address: address.into() }),
        Ok(_) => Ok(Connection::dialled(stream, standing, address.into())),
        Err(source) => Err(failed(source)),
    }
}

/// The server at `address`, if it has shown what it must.
fn recognise(
    tls: &Tls,
    address: &str,
    far: Far,
    shown: &[CertificateDer<'_>],
) -> Result<Arc<Standing>, ConnectError> {
    let needs_name = tls.machines() == MachineIdentity::Required && matches!(far, Far::Server(Role::Subd, _));
    if needs_name && shown.first().is_some_and(|leaf| !names_a_host(leaf)) {
        return Err(ConnectError::NoMachineIdentity { address: address.into() });
    }
    Standing::establish(tls, far, shown)
        .map_err(|error| ConnectError::Untrusted { address: address.into(), reason: wire::text(&error) })
}

fn names_a_host(leaf: &[u8]) -> bool {
    let is_host = |name: &AlternativeName| matches!(name, AlternativeName::Dns(_) | AlternativeName::Ip(_));
    Certificate::parse(leaf).is_ok_and(|leaf| leaf.alternative_names().iter().any(is_host))
}

/// Tries one address after the other; each has its share of the time that is left.
async fn reach(address: &str, found: &[SocketAddr]) -> Result<TcpStream, ConnectError> {
    let end = Instant::now() + limits::CONNECT;
    let mut last = None;
    for (target, left) in found.iter().zip((1..=found.len()).rev()) {
        let share = (end - Instant::now()) / u32::try_from(left).unwrap_or(u32::MAX);
        last = match timeout_at(Instant::now() + share, TcpStream::connect(target)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => Some(ConnectError::unreached(address, error)),
            Err(_) => Some(ConnectError::Timeout { address: address.into() }),
        };
    }
    let nothing = || io::Error::other("the name has no address");
    Err(last.unwrap_or_else(|| ConnectError::Dns { address: address.into(), source: nothing() }))
}

/// A server that can't be reached, or with which no trust was found.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The name has no address.
    #[error("{address} can't be resolved; write host:port")]
    Dns {
        /// What was dialled.
        address: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// Nothing listens.
    #[error("{address} refuses connections: nothing listens there")]
    Refused {
        /// What was dialled.
        address: String,
    },
    /// No way leads there.
    #[error("there is no route to {address}")]
    NoRoute {
        /// What was dialled.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// No connection in time.
    #[error("{address} did not answer within {} s", limits::CONNECT.as_secs())]
    Timeout {
        /// What was dialled.
        address: String,
    },
    /// The server is not who it should be.
    #[error("the certificate of {address} is not accepted: {reason}")]
    Untrusted {
        /// What was dialled.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The server is another than was meant, as an honest certificate says.
    #[error("{address} is no {expected}: its certificate is {}; check the address and the port", of(user, *found))]
    WrongRole {
        /// What was dialled.
        address: String,
        /// What it should be.
        expected: Role,
        /// What it is, if it is any server.
        found: Option<Role>,
        /// Whom its certificate names.
        user: String,
    },
    /// Each machine must have a certificate of its own, and this server's names none.
    #[error(
        "the certificate of {address} names no machine, and machines must prove which they are here; issue it one with the name that is dialled (make-cert --dns or --ip)"
    )]
    NoMachineIdentity {
        /// What was dialled.
        address: String,
    },
    /// The server does not accept us.
    #[error("{address} did not accept our certificate: {reason}")]
    Rejected {
        /// What was dialled.
        address: String,
        /// What is wrong with it, as far as the server said.
        reason: String,
    },
    /// The server saw no certificate.
    #[error("{address} demands a certificate and saw none")]
    NoCertificate {
        /// What was dialled.
        address: String,
    },
    /// What answers is no server of this protocol.
    #[error("{address} does not speak TLS; is the port right?")]
    NoTls {
        /// What was dialled.
        address: String,
    },
    /// Nothing would be proven or secret, and it is another machine.
    #[error(
        "won't connect to {address} where nobody has to prove anything (--danger-permit-insecure); only addresses of this machine will do"
    )]
    Insecure {
        /// What was dialled.
        address: String,
    },
    /// The server may have been revoked, and nobody here would know; the policy is to talk to nobody then.
    #[error("won't connect to {address} (--crl-stale closed): {reason}")]
    Stale {
        /// What was dialled.
        address: String,
        /// What is not known, and since when.
        reason: String,
    },
    /// Our own credentials can't be used.
    #[error("our own certificate can't be used")]
    Own(#[source] PkiError),
    /// The server hung up.
    #[error("{address} closed the connection after the handshake; its log says why")]
    Closed {
        /// What was dialled.
        address: String,
    },
    /// Anything else.
    #[error("the connection to {address} failed")]
    Lost {
        /// What was dialled.
        address: String,
        /// What the system said.
        source: io::Error,
    },
}

impl ConnectError {
    /// In what way the server can't be reached.
    pub const fn why(&self) -> Unreachable {
        match self {
            Self::Dns { .. } => Unreachable::Dns,
            Self::Refused { .. } => Unreachable::Refused,
            Self::NoRoute { .. } => Unreachable::NoRoute,
            Self::Timeout { .. } => Unreachable::Timeout,
            Self::NoCertificate { .. } => Unreachable::MissingCertificate,
            Self::WrongRole { .. } => Unreachable::WrongRole,
            Self::Untrusted { .. }
            | Self::NoMachineIdentity { .. }
            | Self::Stale { .. }
            | Self::Rejected { .. }
            | Self::Own(_) => Unreachable::BadCertificate,
            Self::NoTls { .. } | Self::Insecure { .. } | Self::Closed { .. } | Self::Lost { .. } => {
                Unreachable::Other
            }
        }
    }

    /// Why a connection could not be secured.
    fn of(address: &str, source: io::Error, current: &Configured) -> Self {
        let tls = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls.and_then(|tls| Self::of_tls(address, tls, current)) {
            Some(known) => known,
            None => Self::unreached(address, source),
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "what has no meaning of its own here is a lost connection"
    )]
    fn of_tls(address: &str, tls: &rustls::Error, current: &Configured) -> Option<Self> {
        let address = address.to_owned();
        match tls {
            rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
                Some(Self::NoCertificate { address })
            }
            rustls::Error::AlertReceived(alert) => {
                let own = current.proof.as_ref().map(Proof::valid);
                let reason = words::rejection(*alert, own, SystemTime::now())?;
                Some(Self::Rejected { address, reason })
            }
            rustls::Error::InvalidCertificate(_) => Some(match dominator_pki::refusal(tls) {
                Some(&PkiError::WrongRole { expected, found, ref user }) => {
                    Self::WrongRole { address, expected, found, user: user.clone() }
                }
                _ => Self::Untrusted { address, reason: words::unaccepted(tls) },
            }),
            rustls::Error::InvalidMessage(_) => Some(Self::NoTls { address }),
            _ => None,
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "what has no meaning of its own here is a lost connection"
    )]
    fn unreached(address: &str, source: io::Error) -> Self {
        let address = address.to_owned();
        match source.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused { address },
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                Self::NoRoute { address, source }
            }
            io::ErrorKind::TimedOut => Self::Timeout { address },
            _ => Self::Lost { address, source },
        }
    }
}

/// Whose certificate it is, for people.
fn of(user: &str, role: Option<Role>) -> String {
    match role {
        Some(role) => format!("that of {role}"),
        None => format!("that of {user:?}, which is no server's"),
    }
}
