use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use dominator_core::auth::{Effect, Identity};
use dominator_pki::Verified;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tonic::transport::server::Connected;

use super::conduct::Conduct;
use super::observed::Observed;
use super::seats::Seat;
use super::standing::{Lost, Standing};
use super::stream::Stream;
use crate::metrics::{Counted, Metrics};

/// Who is at the other end of a connection: verified when it was made, and again whenever what is trusted changes.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where the connection comes from.
    pub address: SocketAddr,
    /// Who the certificate says it is; nobody, if none was shown.
    pub identity: Option<Arc<Identity>>,
    /// By which certificate; nothing where nobody has to prove anything, see [`super::danger`].
    pub verified: Option<Arc<Verified>>,
    /// Whether that is still so.
    standing: Option<Arc<Standing>>,
    /// How it behaves; looked at by our transport only.
    pub(super) conduct: Option<Arc<Conduct>>,
}

impl Peer {
    /// Somebody who has shown no certificate.
    pub const fn nobody(address: SocketAddr) -> Self {
        Self { address, identity: None, verified: None, standing: None, conduct: None }
    }

    pub(super) fn standing(address: SocketAddr, standing: Arc<Standing>) -> Self {
        let (identity, verified) = (Arc::clone(standing.identity()), standing.verified().cloned());
        Self { address, identity: Some(identity), verified, standing: Some(standing), conduct: None }
    }

    /// Who it is; nobody, if no certificate was shown.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_deref()
    }

    /// Says whether it is still to be believed at `now`. Costs next to nothing unless what is trusted was replaced in the
    /// meantime.
    ///
    /// # Errors
    /// [`Lost`], with what has become of its certificate.
    pub fn check(&self, now: SystemTime) -> Result<(), &Lost> {
        self.standing.as_ref().map_or(Ok(()), |standing| standing.check(now))
    }

    /// Why a call with this effect is refused at `now`, if it is because nobody knows who was revoked.
    pub(crate) fn stale(&self, effect: Effect, now: SystemTime) -> Option<String> {
        self.standing.as_ref().and_then(|standing| standing.stale(effect, now))
    }

    /// Resolves when it is not to be believed any more. Safe to cancel.
    async fn lost(&self) -> &Lost {
        match &self.standing {
            Some(standing) => standing.lost().await,
            None => std::future::pending().await,
        }
    }

    /// The user name; empty, if no certificate was shown.
    pub fn user(&self) -> &str {
        self.identity().map_or("", |identity| &identity.user)
    }
}

/// A connection that a server accepted.
pub(super) type Accepted = Connection<Observed<Stream>, (Peer, (Seat, Counted))>;

/// A connection that lasts until its other end has lost its standing, or it is told to end.
pub(super) struct Connection<S, H = ()> {
    stream: S,
    /// What it holds on to as long as it lasts.
    held: H,
    end: Pin<Box<dyn Future<Output = String> + Send>>,
    ended: Option<String>,
}

impl Accepted {
    /// The connection of `peer`, which holds its `seat` among the connections allowed, and ends when `close` says so.
    pub(super) fn accepted(
        stream: Observed<Stream>,
        peer: Peer,
        mut close: watch::Receiver<bool>,
        seat: (Seat, Counted),
        metrics: Metrics,
    ) -> Self {
        let judged = peer.clone();
        let end = async move {
            tokio::select! {
                lost = judged.lost() => {
                    metrics.ended(lost.word());
                    tracing::warn!(peer = %judged.address, user = judged.user(), reason = %lost, "connection closed");
                    lost.to_string()
                }
                // The sender lives until all connections are told to end; without one they end as well.
                _ = close.wait_for(|close| *close) => "the server is ending".to_owned(),
            }
        };
        Self { stream, held: (peer, seat), end: Box::pin(end), ended: None }
    }
}

impl<S> Connection<S> {
    /// The connection to a server at `address`.
    pub(super) fn dialled(stream: S, standing: Arc<Standing>, address: String) -> Self {
        let end = async move {
            let lost = standing.lost().await;
            tracing::warn!(server = address, reason = %lost, "connection closed");
            lost.to_string()
        };
        Self { stream, held: (), end: Box::pin(end), ended: None }
    }
}

impl<S, H> Connection<S, H> {
    /// Whoever reads and whoever writes asks: a peer that takes nothing keeps a protocol from reading.
    fn go_on(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.ended.is_none()
            && let Poll::Ready(reason) = self.end.as_mut().poll(context)
        {
            self.ended = Some(reason);
        }
        match &self.ended {
            None => Ok(()),
            Some(reason) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, reason.clone())),
        }
    }
}

impl Connected for Accepted {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.held.0.clone()
    }
}

impl<S: AsyncRead + Unpin, H: Unpin> AsyncRead for Connection<S, H> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.go_on(context) {
            Ok(()) => Pin::new(&mut this.stream).poll_read(context, buffer),
            Err(ended) => Poll::Ready(Err(ended)),
        }
    }
}

impl<S: AsyncWrite + Unpin, H: Unpin> AsyncWrite for Connection<S, H> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match this.go_on(context) {
            Ok(()) => Pin::new(&mut this.stream).poll_write(context, bytes),
            Err(ended) => Poll::Ready(Err(ended)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match this.go_on(context) {
            Ok(()) => Pin::new(&mut this.stream).poll_write_vectored(context, bytes),
            Err(ended) => Poll::Ready(Err(ended)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
