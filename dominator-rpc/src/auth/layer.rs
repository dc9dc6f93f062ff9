use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use dominator_core::auth::{
    Denied, Effect, Ground, Identity, Method, Powers, Question, Reach, Scope, Target, decide,
};
use futures_util::future::{BoxFuture, Either};
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::Caller;
use super::call::Running;
use super::policy::{Offered, Policy};
use super::record::{Audit, Price, Recorder, Spent};
use super::shares::{Share, Who};
use crate::limits;
use crate::lines::Lines;
use crate::metrics::Metrics;
use crate::transport::{Peer, neighbourhood};

/// The metadata by which a caller asks to be taken for an ordinary user, whatever it may do: `dominator-powers: none`.
static POWERS: HeaderName = HeaderName::from_static("dominator-powers");
/// Its only value.
static NONE: HeaderValue = HeaderValue::from_static("none");

/// Says in the metadata of a call that its powers are not to be used.
pub(crate) fn waive_powers(headers: &mut HeaderMap) {
    headers.insert(POWERS.clone(), NONE.clone());
}

/// The layer around all services of a server: lets those calls in that a [`Policy`] allows, and puts a [`Caller`] among
/// the extensions of each.
///
/// Who calls it takes from the [`Peer`] among the extensions of the request. Our transport puts it there; whoever brings
/// another must verify the certificate (`dominator_pki::Trust::identify`) and put it there before this layer. Without one
/// the caller is nobody.
///
/// What strangers cause has so much room in the log, and how many lines were left out is told by the next one. A
/// [`Server`](crate::transport::Server) tells it also when no further one comes; without one, the metrics do.
#[derive(Clone, Debug)]
pub struct Authorise {
    door: Arc<Door>,
}

impl Authorise {
    /// Lets in what `policy` allows.
    pub fn new(policy: Policy) -> Self {
        let recorder = Recorder::new(Metrics::new(), None);
        Self { door: Arc::new(Door { policy, recorder }) }
    }

    /// Counts and measures into `metrics`, and has every call that changes something recorded by `audit`, if there is one.
    #[must_use]
    pub fn recording(self, metrics: Metrics, audit: Option<Audit>) -> Self {
        let Door { policy, .. } = Arc::unwrap_or_clone(self.door);
        Self { door: Arc::new(Door { policy, recorder: Recorder::new(metrics, audit) }) }
    }

    /// The room that the log has for what strangers cause.
    pub(crate) fn lines(&self) -> &Lines {
        self.door.recorder.lines()
    }

    /// Whether anything is open to whoever this is that is not open to everybody.
    pub(crate) fn empowers(&self, identity: &Identity) -> bool {
        self.door.policy.empowers(identity)
    }
}

/// Where everything is asked.
#[derive(Clone, Debug)]
pub(super) struct Door {
    policy: Policy,
    recorder: Recorder,
}

impl Door {
    fn admit(self: &Arc<Self>, request: &Request<Body>) -> Result<(Caller, Option<Share>), Status> {
        let path = request.uri().path();
        // INVARIANT: our transport accepts no connection without a peer; this is the second lock.
        let peer = request.extensions().get::<Peer>();
        let peer =
            peer.ok_or_else(|| Status::unauthenticated("access to method denied: nobody is calling"))?;
        let Some(offered) = self.policy.offered(path) else {
            let name =
                Method::from_grpc_path(told(path)).map_or_else(|_| "such method".into(), |it| it.to_string());
            return Err(self.refused(peer, path, &Denied::NoSuchMethod { name }));
        };
        let now = SystemTime::now();
        // The connection may have outlived the trust in whoever is at its other end.
        if let Err(lost) = peer.check(now) {
            let (user, why) = (peer.user().to_owned(), lost.to_string());
            return Err(self.refused(peer, path, &Denied::Lost { user, why }));
        }
        if let Some(why) = peer.stale(offered.rule.effect, now) {
            let user = peer.user().to_owned();
            return Err(self.refused(peer, path, &Denied::Stale { user, why }));
        }
        let powers = powers(request.headers()).ok_or_else(|| {
            let (user, method) = (peer.user().to_owned(), offered.method.clone());
            self.refused(peer, path, &Denied::UnknownPowers { user, method })
        })?;
        let target = match offered.rule.reach {
            // The handler asks for what is named; here, whether it could be allowed at all.
            Reach::Nothing | Reach::NamedMachines | Reach::NamedImages => Target::Nothing,
            Reach::ThisMachine => Target::Machine(self.policy.tags()),
            Reach::Fleet => Target::Fleet,
        };
        let ground = decide(&self.question(offered, peer, powers), target)
            .map_err(|denied| self.refused(peer, path, &denied))?;
        let share = self.share(path, offered, peer, ground)?;
        let price = price(offered, peer, ground);
        let record = self.recorder.allowed(peer, &offered.method, offered.rule.effect, ground, price);
        let record = record.map_err(|Spent| {
            let (user, method) = (peer.user().to_owned(), offered.method.clone());
            self.refused(peer, path, &Denied::TooOften { user, method })
        })?;
        Ok((Caller::new(self.clone(), offered.clone(), peer.clone(), powers, ground, record), share))
    }

    /// Those with powers work here; the others must not keep them from it.
    fn share(
        &self,
        path: &str,
        offered: &Arc<Offered>,
        peer: &Peer,
        ground: Ground,
    ) -> Result<Option<Share>, Status> {
        if ground.has_power() {
            return Ok(None);
        }
        let who = match peer.identity() {
            Some(identity) => Who::User(identity.user.clone()),
            None => Who::Address(neighbourhood(peer.address.ip().to_canonical())),
        };
        let limit = self.policy.calls();
        match Share::take(offered, who, limit) {
            Some(share) => Ok(Some(share)),
            None => {
                let (user, method) = (peer.user().to_owned(), offered.method.clone());
                Err(self.refused(peer, path, &Denied::TooMany { user, method, limit }))
            }
        }
    }

    pub(super) fn question<'a>(
        &'a self,
        offered: &'a Offered,
        peer: &'a Peer,
        powers: Powers,
    ) -> Question<'a> {
        Question {
            method: &offered.method,
            access: offered.rule.access,
            caller: peer.identity(),
            powers,
            trusted: self.policy.trusted(),
            owners: self.policy.owners(offered.method.service()),
        }
    }

    pub(super) const fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Has it recorded that somebody was turned away who would have changed something.
    fn turned_away(&self, request: &Request<Body>, status: &Status) {
        let offered = self.policy.offered(request.uri().path());
        let offered = offered.filter(|offered| offered.rule.effect == Effect::Changes);
        if let Some((offered, peer)) = offered.zip(request.extensions().get::<Peer>()) {
            self.recorder.turned_away(peer, &offered.method, status.message());
        }
    }

    /// Counts and tells a refusal; what the caller is answered.
    pub(super) fn refused(&self, peer: &Peer, path: &str, denied: &Denied) -> Status {
        let text = crate::wire::text(denied);
        let method = self.policy.offered(path).map(|offered| &offered.method);
        self.recorder.denied(peer, told(path), method, denied.word(), &text);
        let code = if matches!(denied, Denied::TooMany { .. } | Denied::TooOften { .. }) {
            Code::ResourceExhausted
        } else if matches!(denied, Denied::Nobody { .. }) {
            Code::Unauthenticated
        } else if matches!(denied, Denied::UnknownPowers { .. }) {
            Code::InvalidArgument
        } else {
            Code::PermissionDenied
        };
        Status::new(code, text)
    }
}

/// Who may be denied by the handler yet must not fill the log by that.
fn price(offered: &Offered, peer: &Peer, ground: Ground) -> Price {
    let has_scope = || peer.identity().is_some_and(|identity| identity.scope != Scope::default());
    match ground.has_power() {
        false => Price::OfPowerless,
        true if offered.rule.reach.is_named() && has_scope() => Price::OfScoped,
        true => Price::Nothing,
    }
}

/// The beginning of a path, which may be as long as all headers together.
fn told(path: &str) -> &str {
    path.get(..path.floor_char_boundary(limits::PATH_TOLD)).unwrap_or_default()
}

/// What a handler's silence comes to.
pub(super) fn not_asked(method: &Method) -> Status {
    tracing::error!(%method, "a handler did not ask whether its caller may touch what was named");
    Status::permission_denied(format!(
        "access to method denied: the server did not ask what {method} may touch"
    ))
}

/// What its caller asks for, if that is known.
fn powers(headers: &HeaderMap) -> Option<Powers> {
    match headers.get(&POWERS) {
        None => Some(Powers::Used),
        Some(value) if value == NONE => Some(Powers::Waived),
        Some(_) => None,
    }
}

impl<S> Layer<S> for Authorise {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, door: self.door.clone() }
    }
}

/// A service behind the door.
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    inner: S,
    door: Arc<Door>,
}

/// A service's work on a call, maybe after its record was written.
type Begun<S> = Either<
    <S as Service<Request<Body>>>::Future,
    BoxFuture<'static, Result<Response<Body>, <S as Service<Request<Body>>>::Error>>,
>;

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Future: Send> + Clone + Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Running<Begun<S>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match self.door.admit(&request) {
            Ok((caller, share)) => {
                request.extensions_mut().insert(caller.clone());
                let answer = match caller.begin() {
                    None => Either::Left(self.inner.call(request)),
                    Some(leave) => {
                        // The one that was polled to be ready is the one that is called.
                        let next = self.inner.clone();
                        let mut inner = std::mem::replace(&mut self.inner, next);
                        Either::Right(Box::pin(async move {
                            match leave.await {
                                Ok(()) => inner.call(request).await,
                                Err(status) => Ok(status.into_http()),
                            }
                        }) as BoxFuture<'static, _>)
                    }
                };
                Running::new(answer, caller, share)
            }
            Err(status) => {
                self.door.turned_away(&request, &status);
                Running::refused(status)
            }
        }
    }
}
