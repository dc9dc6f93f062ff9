use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dominator_pki::PkiError;
use futures_util::future::try_join_all;
use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::CertificateError;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::server::Router;
use tower::layer::util::{Identity, Stack};

use super::ages::{Dealt, ages};
use super::arrivals::{Arrivals, Heard};
use super::bounds::Bounds;
use super::conduct::{Conduct, End, Watch};
use super::connection::{Accepted, Peer};
use super::crowd::{Crowd, Place};
use super::observed::Observed;
use super::seats::{Power, Seats};
use super::stream::{Stream, is_loopback};
use super::tls::Tls;
use super::words;
use crate::auth::Authorise;
use crate::limits;
use crate::metrics::Metrics;
use crate::server::Services;

/// How long a listener that can't accept (no more descriptors) is left alone.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener with the services behind it.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    local: SocketAddr,
    tls: Tls,
    services: Services,
    metrics: Metrics,
    bounds: Arc<Bounds>,
}

impl Server {
    /// Listens at `address`; port 0 takes a free one. From now on connections queue up; [`Server::serve`] answers them.
    ///
    /// # Errors
    /// [`BindError`] when the address can't be had.
    pub async fn bind(address: SocketAddr, tls: Tls, services: Services) -> Result<Self, BindError> {
        if tls.is_insecure() && !is_loopback(address) {
            return Err(BindError::Insecure { address });
        }
        let bound = async {
            let listener = listen(address)?;
            let local = listener.local_addr()?;
            Ok((listener, local))
        };
        let (listener, local) = bound.await.map_err(|source| BindError::Taken { address, source })?;
        let (metrics, bounds) = (Metrics::new(), Arc::default());
        Ok(Self { listener, local, tls, services, metrics, bounds })
    }

    /// Counts and measures into `metrics` instead of metrics of its own.
    #[must_use]
    pub fn with_metrics(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// Takes no more upon itself than that.
    #[must_use]
    pub fn with_bounds(self, bounds: Bounds) -> Self {
        Self { bounds: Arc::new(bounds), ..self }
    }

    /// Where it listens.
    pub const fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// What is counted and measured.
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Serves until `shutdown` is ready. Calls under way then have [`limits::GRACE`] to end; what is left is cut off.
    /// Dropping the future ends everything at once.
    ///
    /// # Errors
    /// [`ServeError`] when the runtime of the protocol fails; nothing a client does makes it.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), ServeError> {
        let (close, closing) = watch::channel(false);
        let (stop, stopped) = watch::channel(());
        let audit = self.services.audit();
        let (routes, policy) = self.services.into_routes();
        let anybody = policy.has_unauthenticated();
        let authorise = Authorise::new(policy).recording(self.metrics.clone(), audit);
        let group = |age| {
            let (connections, incoming) = mpsc::channel(self.bounds.handshakes.max(1));
            let router = router(routes.clone(), authorise.clone(), &self.bounds, age);
            let mut stopped = stopped.clone();
            let stopped = async move { drop(stopped.changed().await) };
            (connections, router.serve_with_incoming_shutdown(ReceiverStream::new(incoming), stopped))
        };
        let (connections, serving): (Vec<_>, Vec<_>) = ages(limits::CONNECTION_AGE).map(group).unzip();
        let connections = Dealt::new(connections);
        let mut serving = std::pin::pin!(try_join_all(serving));
        let seats = Seats::new(self.bounds.clone());
        let (tls, bounds, metrics) = (self.tls, self.bounds, self.metrics);
        let lines = authorise.lines().clone();
        let entrance = Entrance { tls, anybody, authorise, bounds, metrics, seats, closing, connections };
        tokio::select! {
            result = &mut serving => return result.map(drop).map_err(ServeError),
            () = entrance.accept(self.listener) => {}
            () = lines.keep_telling() => {}
            () = shutdown => {}
        }
        drop(stop);
        let result = match timeout(limits::GRACE, &mut serving).await {
            Ok(result) => result,
            Err(_) => {
                close.send_replace(true);
                serving.await
            }
        };
        lines.tell_rest();
        result.map(drop).map_err(ServeError)
    }
}

/// Who connects while many others do waits in a queue that is long enough for a fleet.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(limits::BACKLOG)
}

fn router(routes: Routes, authorise: Authorise, bounds: &Arc<Bounds>, age: Duration) -> Router<Layers> {
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(bounds.keepalive))
        .http2_keepalive_timeout(Some(bounds.keepalive_answer))
        .http2_max_header_list_size(limits::HEADERS)
        .http2_max_pending_accept_reset_streams(Some(limits::RESETS))
        .http2_max_local_error_reset_streams(Some(limits::ERRORS))
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
        .max_concurrent_streams(limits::STREAMS)
        .max_connection_age(age)
        .max_connection_age_grace(limits::CONNECTION_AGE_GRACE)
        .layer(Watch::new(bounds.clone()))
        .layer(authorise)
        .add_routes(routes)
}

/// What every call passes before it reaches its service.
type Layers = Stack<Authorise, Stack<Watch, Identity>>;

/// Where connections come in: each is accepted only when its peer has proven who it is.
struct Entrance {
    tls: Tls,
    /// Whether there is something for those who show no certificate.
    anybody: bool,
    authorise: Authorise,
    bounds: Arc<Bounds>,
    metrics: Metrics,
    seats: Seats,
    closing: watch::Receiver<bool>,
    connections: Dealt<mpsc::Sender<io::Result<Accepted>>>,
}

impl Entrance {
    async fn accept(self, listener: TcpListener) {
        let arriving = Crowd::new(self.bounds.handshakes_of_address);
        let mut arrivals =
            Arrivals::new(self.bounds.clone(), self.authorise.lines().clone(), self.metrics.clone());
        let entrance = Arc::new(self);
        loop {
            match listener.accept().await {
                Ok((stream, address)) => {
                    let from = address.ip();
                    let has_room = arrivals.room(from).await;
                    match arriving.enter(from).filter(|_| has_room) {
                        Some(arrival) => {
                            arrivals
                                .begin(from, |heard| entrance.clone().admit(stream, address, arrival, heard));
                        }
                        None => entrance.refuse(address, &Refusal::Crowded),
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "can't accept connections; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn admit(self: Arc<Self>, stream: TcpStream, address: SocketAddr, arrival: Place, heard: Heard) {
        let limit = self.bounds.handshake;
        let shaken = timeout(limit, self.handshake(stream, address, &heard)).await;
        let shaken = shaken.unwrap_or(Err(Refusal::Timeout));
        drop(arrival);
        match shaken {
            Ok(connection) => {
                if let Some(group) = self.connections.next() {
                    // When nobody takes connections any more, the server is ending.
                    drop(group.send(Ok(connection)).await);
                }
            }
            Err(refusal) => self.refuse(address, &refusal),
        }
    }

    fn refuse(&self, address: SocketAddr, refusal: &Refusal) {
        self.metrics.refused(refusal.word());
        self.authorise.lines().write(address.ip(), "connection refused", refusal.word(), || {
            let reason = crate::wire::text(refusal);
            tracing::warn!(peer = %address, reason, "connection refused");
        });
    }

    /// Tells of the end of a connection whose peer's conduct was not to be borne.
    fn teller(&self, peer: &Peer) -> impl FnOnce(End) + Send + 'static {
        let (lines, metrics, address) = (self.authorise.lines().clone(), self.metrics.clone(), peer.address);
        let user = peer.user().to_owned();
        move |end| {
            metrics.ended(end.word());
            lines.write(address.ip(), "connection ended", end.word(), || {
                tracing::warn!(peer = %address, user, reason = %end, "connection ended");
            });
        }
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        heard: &Heard,
    ) -> Result<Accepted, Refusal> {
        let counted = self.metrics.handshake();
        stream.set_nodelay(true).map_err(Refusal::Handshake)?;
        stream.peek(&mut [0; 1]).await.map_err(Refusal::Handshake)?;
        heard.set();
        let stream = match &self.tls.current().proof {
            Some(proof) => {
                let config = if self.anybody { &proof.open } else { &proof.server };
                let acceptor = TlsAcceptor::from(config.clone());
                let (stream, why) = words::overheard(acceptor.accept(stream)).await;
                let stream = stream.map_err(|error| Refusal::from_handshake(error, why))?;
                Stream::Tls(Box::new(stream.into()))
            }
            None if is_loopback(address) => Stream::Plain(stream),
            None => return Err(Refusal::Insecure),
        };
        let mut peer = self.tls.peer(address, stream.shown()).map_err(Refusal::Certificate)?;
        // INVARIANT: TLS lets nobody in without a certificate unless there is something for anybody; the second lock.
        if peer.identity().is_none() && !self.anybody {
            return Err(Refusal::Certificate(PkiError::NoPeerCertificate));
        }
        let has_power = peer.identity().is_some_and(|identity| self.authorise.empowers(identity));
        let power = if has_power { Power::Some } else { Power::None };
        let conduct = Arc::new(Conduct::new(self.bounds.given_up));
        let seat = self.seats.take(power, peer.user(), address.ip(), conduct.clone());
        let seat = seat.ok_or(Refusal::Full)?;
        let stream = Observed::new(stream, conduct.clone(), &self.bounds, self.teller(&peer));
        peer.conduct = Some(conduct);
        drop(counted);
        let seat = (seat, self.metrics.connection());
        Ok(Accepted::accepted(stream, peer, self.closing.clone(), seat, self.metrics.clone()))
    }
}

/// Why a connection was not accepted; for the log and metrics.
#[derive(Debug, Error)]
enum Refusal {
    #[error("the handshake was not done in time")]
    Timeout,
    #[error("its address has too many handshakes under way already")]
    Crowded,
    #[error("there are as many connections as there may be, and nobody has more of them")]
    Full,
    #[error("it did not accept the certificate of this server: {0}")]
    Rejected(String),
    #[error("it does not speak TLS")]
    NoTls,
    #[error("it comes from another machine, and nobody proves anything here (--danger-permit-insecure)")]
    Insecure,
    #[error("the handshake failed")]
    Handshake(#[source] io::Error),
    #[error("its certificate is not accepted")]
    Certificate(#[source] PkiError),
    #[error("its certificate is not accepted: {0}")]
    Unaccepted(String),
    /// One of our own authorities had signed it: certificates that strangers make must not hide it in the log. Whoever has a
    /// copy of it can show it, so whom it names need not have come.
    #[error("its certificate is not accepted: {0}")]
    Revoked(String),
}

impl Refusal {
    /// `why` is what was found wrong with the certificate, which names whom it claims to be.
    fn from_handshake(error: io::Error, why: Option<String>) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls {
            Some(tls @ rustls::Error::InvalidCertificate(CertificateError::Revoked)) => {
                Self::Revoked(why.unwrap_or_else(|| words::unaccepted(tls)))
            }
            Some(tls @ rustls::Error::InvalidCertificate(_)) => {
                Self::Unaccepted(why.unwrap_or_else(|| words::unaccepted(tls)))
            }
            Some(rustls::Error::AlertReceived(alert)) => words::rejection(*alert, None, SystemTime::now())
                .map_or(Self::Handshake(error), Self::Rejected),
            Some(rustls::Error::InvalidMessage(_)) => Self::NoTls,
            Some(rustls::Error::NoCertificatesPresented) => Self::Unaccepted("it showed none".into()),
            _ => Self::Handshake(error),
        }
    }
}

impl Refusal {
    /// In a word, for metrics.
    const fn word(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Crowded => "crowded",
            Self::Full => "full",
            Self::Rejected(_) => "rejected",
            Self::NoTls => "no-tls",
            Self::Insecure => "insecure",
            Self::Handshake(_) => "handshake",
            Self::Revoked(_) | Self::Certificate(PkiError::Revoked { .. }) => "revoked",
            Self::Certificate(_) | Self::Unaccepted(_) => "certificate",
        }
    }
}

/// An address that can't be listened at.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BindError {
    /// The system does not give it to us.
    #[error("can't listen at {address}; is another program there?")]
    Taken {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Others could reach it, and nobody would have to prove anything.
    #[error(
        "won't listen at {address} where nobody has to prove anything (--danger-permit-insecure); only 127.0.0.1 and ::1 will do"
    )]
    Insecure {
        /// Which.
        address: SocketAddr,
    },
}

/// A server that could not go on.
#[derive(Debug, Error)]
#[error("the server failed")]
pub struct ServeError(#[source] tonic::transport::Error);
