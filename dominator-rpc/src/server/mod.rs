//! Any port, served. What a caller may do was decided at the door; handlers parse, call the port and answer.

mod driven;
mod fleet;
mod images;
mod introspection;
mod objects;
mod subd;
mod turns;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use dominator_core::authorise::{Access, Method};
use dominator_core::port::{Agent, ImageStore, ObjectStore};
use tokio::time::timeout;
use tonic::service::{Routes, RoutesBuilder};
use tonic::{Status, Streaming};

use crate::authorise::methods;
use crate::controller::FleetControl;
use crate::limits;
use crate::v1::dominator_server::DominatorServer;
use crate::v1::image_server_server::ImageServerServer;
use crate::v1::introspection_server::IntrospectionServer;
use crate::v1::object_server_server::ObjectServerServer;
use crate::v1::subd_server::SubdServer;

/// What a server serves. `Introspection` is always among it.
pub struct Services {
    version: String,
    routes: RoutesBuilder,
    offered: BTreeSet<&'static str>,
}

impl Services {
    /// Nothing yet. `version` is what `Introspection.ListMethods` tells.
    pub fn new(version: &str) -> Self {
        Self { version: version.into(), routes: RoutesBuilder::default(), offered: BTreeSet::new() }
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
            ObjectServerServer::new(objects::ObjectService::new(store))
                .max_decoding_message_size(limits::MESSAGE),
        );
        self.offering("ObjectServer")
    }

    /// Serves an image store as `ImageServer`. Images that are added bear the caller's user name and the time of
    /// `clock`.
    #[must_use]
    pub fn images(mut self, images: Arc<dyn ImageStore>, clock: fn() -> SystemTime) -> Self {
        self.routes.add_service(
            ImageServerServer::new(images::ImageService::new(images, clock))
                .max_decoding_message_size(limits::MESSAGE),
        );
        self.offering("ImageServer")
    }

    /// Serves the handle of a controller as `Dominator`.
    #[must_use]
    pub fn fleet(mut self, fleet: Arc<dyn FleetControl>) -> Self {
        self.routes.add_service(
            DominatorServer::new(fleet::FleetService(fleet)).max_decoding_message_size(limits::MESSAGE),
        );
        self.offering("Dominator")
    }

    fn offering(mut self, service: &'static str) -> Self {
        self.offered.insert(service);
        self
    }

    /// The services, and every method of theirs with what it demands.
    pub(crate) fn into_routes(self) -> (Routes, Arc<BTreeMap<Method, Access>>) {
        let Self { version, mut routes, offered } = self.offering("Introspection");
        let offered = methods().filter(|(method, _)| offered.contains(method.service())).collect();
        let offered: Arc<BTreeMap<_, _>> = Arc::new(offered);
        let introspection = introspection::IntrospectionService { version, offered: offered.clone() };
        routes
            .add_service(IntrospectionServer::new(introspection).max_decoding_message_size(limits::MESSAGE));
        (routes.routes(), offered)
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services").field("version", &self.version).field("offered", &self.offered).finish()
    }
}

/// The stream of an answer.
type Answer<T> = futures_util::stream::BoxStream<'static, Result<T, Status>>;

/// The next message of a caller, who must not keep us waiting: what a call holds, it would hold for ever.
async fn next<T>(parts: &mut Streaming<T>) -> Result<Option<T>, Status> {
    let late = || Status::deadline_exceeded(format!("nothing came for {} s", limits::STALL.as_secs()));
    timeout(limits::STALL, parts.message()).await.unwrap_or_else(|_| Err(late()))
}
