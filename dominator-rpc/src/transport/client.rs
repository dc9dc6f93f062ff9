use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use dominator_core::authorise::Role;
use dominator_core::port::Unreachable;
use dominator_pki::PkiError;
use hyper_util::rt::TokioIo;
use rustls::AlertDescription;
use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use super::tls::Tls;
use crate::limits;

/// How much of the server's first word is read ahead, in bytes. Longer reads pass the buffer by.
const FIRST_WORD: usize = 1024;

type Stream = BufReader<TlsStream<TcpStream>>;

/// Connects to the server at `address` (`host:port`), which must prove that it plays the role `expected`.
///
/// The connection stands when it returns: the server has accepted our certificate. When it is lost later, the next
/// call makes a new one, once; nothing is retried by itself.
pub(crate) async fn connect(tls: &Tls, address: &str, expected: Role) -> Result<Channel, ConnectError> {
    let first = dial(tls, address, expected).await?;
    Ok(channel(tls, address, expected, Some(first)))
}

/// The same without a connection: the first call makes it, and fails when it can't be made.
pub(crate) fn connect_lazily(tls: &Tls, address: &str, expected: Role) -> Channel {
    channel(tls, address, expected, None)
}

fn channel(tls: &Tls, address: &str, expected: Role, first: Option<Stream>) -> Channel {
    let ready = Arc::new(Mutex::new(first));
    let (tls, target) = (tls.clone(), address.to_owned());
    let connector = tower::service_fn(move |_| {
        let (tls, target) = (tls.clone(), target.clone());
        let ready = ready.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move {
            let stream = match ready {
                Some(stream) => stream,
                None => dial(&tls, &target, expected).await?,
            };
            Ok::<_, ConnectError>(TokioIo::new(stream))
        }
    });
    // TLS is ours, not the endpoint's: its scheme says so, and its authority is never looked up.
    Endpoint::from_static("http://dominator")
        .http2_keep_alive_interval(limits::KEEPALIVE)
        .keep_alive_timeout(limits::KEEPALIVE_ANSWER)
        .http2_max_header_list_size(limits::HEADERS)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
        .connect_with_connector_lazy(connector)
}

async fn dial(tls: &Tls, address: &str, expected: Role) -> Result<Stream, ConnectError> {
    match timeout(limits::CONNECT, attempt(tls, address, expected)).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::Timeout { address: address.into() }),
    }
}

async fn attempt(tls: &Tls, address: &str, expected: Role) -> Result<Stream, ConnectError> {
    let unresolved = |source| ConnectError::Dns { address: address.into(), source };
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let name = ServerName::try_from(host.to_owned()).map_err(|error| unresolved(io::Error::other(error)))?;
    let found: Vec<SocketAddr> = lookup_host(address).await.map_err(unresolved)?.collect();
    let config = tls.client(expected).map_err(ConnectError::Own)?;
    let stream = reach(address, &found).await?;
    stream.set_nodelay(true).map_err(|source| ConnectError::of(address, source))?;
    let stream = TlsConnector::from(config).connect(name, stream).await;
    let stream = stream.map_err(|source| ConnectError::of(address, source))?;
    // In TLS 1.3 a client is through before the server has judged its certificate. The server speaks first in HTTP/2
    // once it has; so its first word, or its refusal, is waited for here, where it can be told from other failures.
    let mut stream = BufReader::with_capacity(FIRST_WORD, stream);
    match stream.fill_buf().await {
        Ok([]) => Err(ConnectError::Closed { address: address.into() }),
        Ok(_) => Ok(stream),
        Err(source) => Err(ConnectError::of(address, source)),
    }
}

/// Tries one address after the other; each has its share of the time that is left.
async fn reach(address: &str, found: &[SocketAddr]) -> Result<TcpStream, ConnectError> {
    let end = Instant::now() + limits::CONNECT;
    let mut last = None;
    for (target, left) in found.iter().zip((1..=found.len()).rev()) {
        let share = (end - Instant::now()) / u32::try_from(left).unwrap_or(u32::MAX);
        last = match timeout_at(Instant::now() + share, TcpStream::connect(target)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => Some(ConnectError::of(address, error)),
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
    /// The server does not accept us.
    #[error("{address} did not accept our certificate: {reason}")]
    Rejected {
        /// What was dialled.
        address: String,
        /// What the server said is wrong with it.
        reason: &'static str,
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
            Self::Untrusted { .. } | Self::Rejected { .. } | Self::Own(_) => Unreachable::BadCertificate,
            Self::NoTls { .. } | Self::Closed { .. } | Self::Lost { .. } => Unreachable::Other,
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "what has no meaning of its own here is a lost connection"
    )]
    fn of(address: &str, source: io::Error) -> Self {
        let address = address.to_owned();
        if let Some(tls) = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            match tls {
                rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
                    return Self::NoCertificate { address };
                }
                rustls::Error::AlertReceived(alert) => {
                    if let Some(reason) = rejection(*alert) {
                        return Self::Rejected { address, reason };
                    }
                }
                rustls::Error::InvalidCertificate(_) => {
                    let known = dominator_pki::refusal(tls).map(|pki| crate::wire::text(pki));
                    return Self::Untrusted { address, reason: known.unwrap_or_else(|| tls.to_string()) };
                }
                rustls::Error::InvalidMessage(_) => return Self::NoTls { address },
                _ => {}
            }
        }
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

/// What the other end means by an alert about our certificate, if it is one.
#[expect(clippy::wildcard_enum_match_arm, reason = "other alerts are not about certificates")]
pub(super) fn rejection(alert: AlertDescription) -> Option<&'static str> {
    match alert {
        AlertDescription::CertificateExpired => {
            Some("it has expired or is not valid yet; renew it, check the clocks")
        }
        AlertDescription::UnknownCA => Some("no authority that is trusted there has signed it"),
        AlertDescription::CertificateRevoked => Some("it was revoked"),
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => Some("the log there says why"),
        _ => None,
    }
}
