//! Any port, served. What a caller may do was decided at the door; handlers parse, call the port and answer.

mod catalog;
mod driven;
mod endings;
mod fleet;
mod garbage;
mod health;
mod images;
mod introspection;
mod logger;
mod namespace;
mod objects;
mod rates;
mod subd;
mod targets;
mod turns;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::SystemTime;

use dominator_core::auth::{Method, People, Reach};
use dominator_core::catalog::ExpiryLimits;
use dominator_core::port::{Agent, ImageStore, ObjectStore};
use tokio::time::timeout;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::server::NamedService;
use tonic::service::{Routes, RoutesBuilder};
use tonic::{Request, Status, Streaming};
use tonic_health::pb::health_server::HealthServer;
use tower::Service;

use crate::auth::{Audit, BadPolicy, Caller, Permit, Policy, methods, path, rule};
use crate::controller::FleetControl;
use crate::limits;
use crate::log::{LogLevels, LogRing};
use crate::readiness::Readiness;
use crate::v1::dominator_server::DominatorServer;
use crate::v1::image_server_server::ImageServerServer;
use crate::v1::introspection_server::IntrospectionServer;
use crate::v1::logger_server::LoggerServer;
use crate::v1::object_server_server::ObjectServerServer;
use crate::v1::subd_server::SubdServer;

pub use endings::expire_images;

/// What an agent takes in.
const INTAKE: &str = "ObjectServer.AddObjects";

/// What a server serves. `Introspection` is always among it.
pub struct Services {
    version: String,
    routes: RoutesBuilder,
    /// Services, or single methods of some.
    offered: BTreeSet<&'static str>,
    /// What others offer, and whom this server trusts.
    policy: Policy,
    /// Where what changes something is recorded.
    audit: Option<Audit>,
    /// What is told of whether all that is served works.
    readiness: Option<Readiness>,
    /// How many bytes of objects an address has a second.
    transfer_rate: Option<NonZeroU64>,
}

impl Services {
    /// Nothing yet. `version` is what `Introspection.ListMethods` tells.
    pub fn new(version: &str) -> Self {
        let (routes, policy) = (RoutesBuilder::default(), Policy::new());
        let (offered, version) = (BTreeSet::new(), version.into());
        let (audit, readiness, transfer_rate) = (None, None, None);
        Self { version, routes, offered, policy, audit, readiness, transfer_rate }
    }

    /// Has every call that changes something recorded by `audit`. Without one, none is.
    #[must_use]
    pub fn audited(self, audit: Audit) -> Self {
        Self { audit: Some(audit), ..self }
    }

    /// Lets each address send and get so many bytes of objects a second, by all its calls together, from the stores that
    /// are named after this. Without it, an address has what the network gives.
    #[must_use]
    pub fn transfer_rate(self, bytes_per_second: NonZeroU64) -> Self {
        Self { transfer_rate: Some(bytes_per_second), ..self }
    }

    pub(crate) fn audit(&self) -> Option<Audit> {
        self.audit.clone()
    }

    /// Serves an agent as `Subd`.
    #[must_use]
    pub fn agent(mut self, agent: Arc<dyn Agent>) -> Self {
        self.routes.add_service(
            SubdServer::new(subd::SubdService::new(agent))
                .max_decoding_message_size(limits::MESSAGE)
                .max_encoding_message_size(limits::POLL_REPLY),
        );
        self.offering("Subd")
    }

    /// Serves an object store as `ObjectServer`.
    #[must_use]
    pub fn objects(mut self, store: Arc<dyn ObjectStore>) -> Self {
        self.routes.add_service(
            ObjectServerServer::new(objects::ObjectService::new(store, self.transfer_rate))
                .max_decoding_message_size(limits::MESSAGE),
        );
        self.offering("ObjectServer")
    }

    /// Serves an object store as `ObjectServer`, but only to be added to: nothing of it is told or handed out.
    #[must_use]
    pub fn intake(mut self, store: Arc<dyn ObjectStore>) -> Self {
        self.routes.add_service(
            ObjectServerServer::new(objects::ObjectService::new(store, self.transfer_rate))
                .max_decoding_message_size(limits::MESSAGE),
        );
        self.offering(INTAKE)
    }

    /// Serves an image store as `ImageServer`. Images that are added bear the caller's user name and the time of
    /// `clock`.
    #[must_use]
    pub fn images(self, images: Arc<dyn ImageStore>, clock: fn() -> SystemTime) -> Self {
        self.images_within(images, clock, ExpiryLimits::default())
    }

    /// Serves an image store as [`Services::images`] does, with limits of how far off the end of an image may be put.
    #[must_use]
    pub fn images_within(
        mut self,
        images: Arc<dyn ImageStore>,
        clock: fn() -> SystemTime,
        expiry: ExpiryLimits,
    ) -> Self {
        self.routes.add_service(
            ImageServerServer::new(images::ImageService::new(images, clock, expiry))
                .max_decoding_message_size(limits::MESSAGE),
        );
        self.offering("ImageServer")
    }

    /// Serves a service that is not of this crate, to whom `policy` allows it. Whom it trusts counts for nothing here; say
    /// that of the server.
    ///
    /// # Errors
    /// [`BadPolicy`] when certificates could not tell its methods from ours, or from others that are served here.
    pub fn foreign<S>(mut self, service: S, policy: &Policy) -> Result<Self, BadPolicy>
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        // Also those that are not served here: what a certificate means must not depend on that.
        if let Some(method) = policy.methods().into_keys().find(|method| rule(method).is_some()) {
            return Err(BadPolicy::Twice { method });
        }
        self.policy = self.policy.and(policy)?;
        self.routes.add_service(service);
        Ok(self)
    }

    /// Tells everybody with an identity whether the server is ready, as `grpc.health.v1.Health`, which load balancers and
    /// orchestrators speak.
    ///
    /// # Errors
    /// [`BadPolicy`] when somebody else's `Health` is served here already.
    pub fn readiness(self, readiness: Readiness) -> Result<Self, BadPolicy> {
        let policy = self.policy.and(&health::policy())?;
        Ok(Self { policy, readiness: Some(readiness), ..self })
    }

    /// Trusts these with every method, whatever their certificates list.
    #[must_use]
    pub fn trusting(self, trusted: People) -> Self {
        Self { policy: self.policy.trusting(trusted), ..self }
    }

    /// Says whose machine this is, who may call every method of `Subd`, and which tags it has, for certificates whose scope
    /// ends at some machines.
    #[must_use]
    pub fn machine(self, owners: People, tags: BTreeMap<String, String>) -> Self {
        Self { policy: self.policy.owned("Subd", owners).tagged(tags), ..self }
    }

    /// Serves the handle of a controller as `Dominator`.
    #[must_use]
    pub fn fleet(mut self, fleet: Arc<dyn FleetControl>) -> Self {
        self.routes.add_service(
            DominatorServer::new(fleet::FleetService::new(fleet)).max_decoding_message_size(limits::MESSAGE),
        );
        self.offering("Dominator")
    }

    /// Serves the log of this process as `Logger`: its last lines and those that come, from `ring`, and what gets into it.
    #[must_use]
    pub fn logger(mut self, ring: LogRing, levels: Arc<dyn LogLevels>) -> Self {
        self.routes.add_service(
            LoggerServer::new(logger::LoggerService::new(ring, levels))
                .max_decoding_message_size(limits::MESSAGE),
        );
        self.offering("Logger")
    }

    fn offering(mut self, service: &'static str) -> Self {
        self.offered.insert(service);
        self
    }

    /// The services, and what is offered to whom.
    pub(crate) fn into_routes(self) -> (Routes, Policy) {
        let Self { version, mut routes, offered, policy, readiness, .. } = self.offering("Introspection");
        if let Some(readiness) = readiness {
            let known = offered.iter().map(|name| format!("dominator.v1.{}", service_of(name))).collect();
            routes.add_service(
                HealthServer::new(health::HealthService { readiness, known })
                    .max_decoding_message_size(limits::MESSAGE),
            );
        }
        let is_offered = |method: &Method| {
            offered.contains(method.service()) || offered.contains(method.to_string().as_str())
        };
        // Who only takes objects in is an agent: what is pushed there is for its machine.
        let intake = offered.contains(INTAKE) && !offered.contains("ObjectServer");
        let ours = methods().filter(|(method, _)| is_offered(method));
        let policy = ours.fold(policy, |policy, (method, rule)| {
            let is_pushed = intake && method.to_string() == INTAKE;
            let rule = if is_pushed { rule.reaching(Reach::ThisMachine) } else { rule };
            let policy = policy.method(&path(&method), rule);
            policy.expect("invariant: no foreign method is named like one of ours, and ours differ")
        });
        let offered = policy.methods();
        let introspection = introspection::IntrospectionService { version, offered };
        routes
            .add_service(IntrospectionServer::new(introspection).max_decoding_message_size(limits::MESSAGE));
        (routes.routes(), policy)
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services").field("version", &self.version).field("offered", &self.offered).finish()
    }
}

/// The service of `Service` or `Service.Method`.
fn service_of(name: &str) -> &str {
    name.split_once('.').map_or(name, |(service, _)| service)
}

/// The stream of an answer.
type Answer<T> = futures_util::stream::BoxStream<'static, Result<T, Status>>;

/// Leave to go on with a request that names nothing which a scope knows.
fn permit<T>(request: &Request<T>) -> Result<Permit, Status> {
    Caller::of(request)?.permit()
}

/// The next message of a caller, who must not keep us waiting: what a call holds, it would hold for ever.
async fn next<T>(parts: &mut Streaming<T>) -> Result<Option<T>, Status> {
    let late = || Status::deadline_exceeded(format!("nothing came for {} s", limits::STALL.as_secs()));
    timeout(limits::STALL, parts.message()).await.unwrap_or_else(|_| Err(late()))
}
