use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use dominator_core::authorise::{Access, Decision, Denied, Identity, Method, decide};
use futures_util::future::Either;
use std::future::{Ready, ready};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

use crate::transport::Peer;

/// Who calls, as the door let them pass. Handlers find it among the extensions of a request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who.
    pub identity: Arc<Identity>,
    /// On what ground: handlers of public methods check ownership unless the method was listed.
    pub decision: Decision,
}

/// How much was refused. Only ever counts up.
#[derive(Debug, Default)]
pub struct Refusals {
    connections: AtomicU64,
    calls: AtomicU64,
}

impl Refusals {
    /// Connections whose handshake failed or whose certificate was not accepted.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Calls that were denied.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    pub(crate) fn count_connection(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    fn count_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }
}

/// The layer around all services of a server.
#[derive(Clone, Debug)]
pub(crate) struct Authorise {
    offered: Arc<BTreeMap<Method, Access>>,
    refusals: Arc<Refusals>,
}

impl Authorise {
    /// Lets calls of `offered` methods pass, if their callers may make them.
    pub(crate) fn new(offered: Arc<BTreeMap<Method, Access>>, refusals: Arc<Refusals>) -> Self {
        Self { offered, refusals }
    }

    fn caller(&self, path: &str, peer: Option<&Peer>) -> Result<Caller, Status> {
        // INVARIANT: connections without a verified peer are never accepted; this is the second lock.
        let peer =
            peer.ok_or_else(|| Status::unauthenticated("access to method denied: nobody is calling"))?;
        let refused = |text: String| {
            self.refusals.count_call();
            tracing::warn!(peer = %peer.address, user = peer.identity.user, path, "{text}");
            Status::permission_denied(text)
        };
        let method = Method::from_grpc_path(path)
            .map_err(|_| refused("access to method denied: there is no such method".into()))?;
        let Some(access) = self.offered.get(&method) else {
            return Err(refused(format!("access to method denied: there is no {method} here")));
        };
        match decide(&peer.identity, &method, *access) {
            Decision::Denied(denied) => Err(refused(Denied::to_string(&denied))),
            decision @ (Decision::Listed | Decision::Public) => {
                Ok(Caller { identity: peer.identity.clone(), decision })
            }
        }
    }
}

impl<S> Layer<S> for Authorise {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, door: self.clone() }
    }
}

/// A service behind the door.
#[derive(Clone, Debug)]
pub(crate) struct Guarded<S> {
    inner: S,
    door: Authorise,
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let peer = request.extensions().get::<Peer>();
        match self.door.caller(request.uri().path(), peer) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                Either::Left(self.inner.call(request))
            }
            Err(status) => Either::Right(ready(Ok(status.into_http()))),
        }
    }
}
