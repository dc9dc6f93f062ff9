use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dominator_pki::PkiError;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Router;

use super::client::rejection;
use super::connection::{Connection, Peer, Places};
use super::crowd::{Crowd, Place};
use super::tls::Tls;
use crate::authorise::{Authorise, Refusals};
use crate::limits;
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
    refusals: Arc<Refusals>,
}

impl Server {
    /// Listens at `address`; port 0 takes a free one. From now on connections queue up; [`Server::serve`] answers them.
    ///
    /// # Errors
    /// [`BindError`] when the address can't be had.
    pub async fn bind(address: SocketAddr, tls: Tls, services: Services) -> Result<Self, BindError> {
        let bound = async {
            let listener = TcpListener::bind(address).await?;
            let local = listener.local_addr()?;
            Ok((listener, local))
        };
        let (listener, local) = bound.await.map_err(|source| BindError { address, source })?;
        Ok(Self { listener, local, tls, services, refusals: Arc::default() })
    }

    /// Where it listens.
    pub const fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// What was refused so far; goes on counting.
    pub fn refusals(&self) -> Arc<Refusals> {
        self.refusals.clone()
    }

    /// Serves until `shutdown` is ready. Calls under way then have [`limits::GRACE`] to end; what is left is cut off.
    /// Dropping the future ends everything at once.
    ///
    /// # Errors
    /// [`ServeError`] when the runtime of the protocol fails; nothing a client does makes it.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), ServeError> {
        let (connections, incoming) = mpsc::channel(limits::HANDSHAKES);
        let (close, closing) = watch::channel(false);
        let (stop, stopped) = oneshot::channel::<()>();
        let router = router(self.services, &self.refusals);
        let incoming = ReceiverStream::new(incoming);
        let serving = router.serve_with_incoming_shutdown(incoming, async { drop(stopped.await) });
        let mut serving = std::pin::pin!(serving);
        let door = Door { tls: self.tls, refusals: self.refusals, closing, connections };
        tokio::select! {
            result = &mut serving => return result.map_err(ServeError),
            () = door.accept(self.listener) => {}
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
        result.map_err(ServeError)
    }
}

fn router(
    services: Services,
    refusals: &Arc<Refusals>,
) -> Router<tower::layer::util::Stack<Authorise, tower::layer::util::Identity>> {
    let (routes, offered) = services.into_routes();
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(limits::KEEPALIVE))
        .http2_keepalive_timeout(Some(limits::KEEPALIVE_ANSWER))
        .http2_max_header_list_size(limits::HEADERS)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
        .max_concurrent_streams(limits::STREAMS)
        .max_connection_age(limits::CONNECTION_AGE)
        .layer(Authorise::new(offered, refusals.clone()))
        .add_routes(routes)
}

/// Where connections come in: each is accepted only when its peer has proven who it is.
struct Door {
    tls: Tls,
    refusals: Arc<Refusals>,
    closing: watch::Receiver<bool>,
    connections: mpsc::Sender<io::Result<Connection>>,
}

impl Door {
    async fn accept(self, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(limits::CONNECTIONS));
        let connected = Crowd::new(limits::CONNECTIONS_OF_ADDRESS);
        let arriving = Crowd::new(limits::HANDSHAKES_OF_ADDRESS);
        let door = Arc::new(self);
        let mut handshakes = JoinSet::new();
        loop {
            while handshakes.try_join_next().is_some() {}
            if handshakes.len() >= limits::HANDSHAKES {
                drop(handshakes.join_next().await);
            }
            // The semaphore is never closed.
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, address)) => {
                    let entered = (connected.enter(address.ip()), arriving.enter(address.ip()));
                    if let (Some(share), Some(arrival)) = entered {
                        handshakes.spawn(door.clone().admit(stream, address, (place, share), arrival));
                    } else {
                        door.refuse(address, &Refusal::Crowded);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "can't accept connections; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn admit(self: Arc<Self>, stream: TcpStream, address: SocketAddr, places: Places, arrival: Place) {
        let shaken = self.handshake(stream, address, places).await;
        drop(arrival);
        match shaken {
            // When nobody takes connections any more, the server is ending.
            Ok(connection) => drop(self.connections.send(Ok(connection)).await),
            Err(refusal) => self.refuse(address, &refusal),
        }
    }

    fn refuse(&self, address: SocketAddr, refusal: &Refusal) {
        self.refusals.count_connection();
        let reason = crate::wire::text(refusal);
        tracing::warn!(peer = %address, reason, "connection refused");
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        places: Places,
    ) -> Result<Connection, Refusal> {
        stream.set_nodelay(true).map_err(Refusal::Handshake)?;
        let acceptor = TlsAcceptor::from(self.tls.server());
        let stream = timeout(limits::HANDSHAKE, acceptor.accept(stream)).await;
        let stream = stream.map_err(|_| Refusal::Timeout)?.map_err(Refusal::from_handshake)?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let identity = Arc::new(self.tls.identify(chain).map_err(Refusal::Certificate)?);
        Ok(Connection::new(stream, Peer { address, identity }, self.closing.clone(), places))
    }
}

/// Why a connection was refused; for the log.
#[derive(Debug, Error)]
enum Refusal {
    #[error("the handshake was not done in time")]
    Timeout,
    #[error("its address has too many connections or handshakes already")]
    Crowded,
    #[error("it did not accept the certificate of this server: {0}")]
    Rejected(&'static str),
    #[error("it does not speak TLS")]
    NoTls,
    #[error("the handshake failed")]
    Handshake(#[source] io::Error),
    #[error("its certificate is not accepted")]
    Certificate(#[source] PkiError),
    #[error("its certificate is not accepted: {0}")]
    Unaccepted(String),
}

impl Refusal {
    fn from_handshake(error: io::Error) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls {
            Some(tls @ rustls::Error::InvalidCertificate(_)) => Self::Unaccepted(
                dominator_pki::refusal(tls).map_or_else(|| tls.to_string(), |pki| crate::wire::text(pki)),
            ),
            Some(rustls::Error::AlertReceived(alert)) => {
                rejection(*alert).map_or(Self::Handshake(error), Self::Rejected)
            }
            Some(rustls::Error::InvalidMessage(_)) => Self::NoTls,
            Some(rustls::Error::NoCertificatesPresented) => Self::Unaccepted("it showed none".into()),
            _ => Self::Handshake(error),
        }
    }
}

/// An address that can't be listened at.
#[derive(Debug, Error)]
#[error("can't listen at {address}; is another program there?")]
pub struct BindError {
    /// Which.
    pub address: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

/// A server that could not go on.
#[derive(Debug, Error)]
#[error("the server failed")]
pub struct ServeError(#[source] tonic::transport::Error);
