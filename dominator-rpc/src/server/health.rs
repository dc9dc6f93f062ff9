use std::collections::BTreeSet;

use async_trait::async_trait;
use dominator_core::auth::{Access, Rule};
use futures_util::{StreamExt as _, stream};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::{Answer, permit};
use crate::auth::Policy;
use crate::readiness::{Readiness, Standing};

/// Whether the server is ready, in the words of `grpc.health.v1`. All of its services are together: they share stores and
/// certificate.
pub(super) struct HealthService {
    pub(super) readiness: Readiness,
    /// As `dominator.v1.Subd`.
    pub(super) known: BTreeSet<String>,
}

/// Whoever has an identity may ask.
pub(super) fn policy() -> Policy {
    let rule = Rule::READS.open_to(Access::Public);
    ["Check", "Watch"].into_iter().fold(Policy::new(), |policy, method| {
        let policy = policy.method(&format!("/grpc.health.v1.Health/{method}"), rule);
        policy.expect("invariant: these are two paths of gRPC")
    })
}

#[async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        permit(&request)?;
        match self.knows(&request.get_ref().service) {
            true => Ok(Response::new(said(self.readiness.standing()))),
            false => Err(Status::not_found("this server has no such service")),
        }
    }

    type WatchStream = Answer<HealthCheckResponse>;

    /// Tells how the server stands, and every change; the last word is that it ends.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        permit(&request)?;
        if !self.knows(&request.get_ref().service) {
            // No service comes later, and the specification has the call go on.
            let unknown = stream::iter([Ok(response(ServingStatus::ServiceUnknown))]);
            let readiness = self.readiness.clone();
            let end = stream::once(async move { readiness.ended().await }).filter_map(async |()| None);
            return Ok(Response::new(unknown.chain(end).boxed()));
        }
        let standings = stream::unfold((self.readiness.clone(), None), async |(readiness, seen)| {
            let standing = match seen {
                None => readiness.standing(),
                Some(Standing::Ending) => return None,
                Some(seen) => readiness.changed(seen).await,
            };
            Some((Ok(said(standing)), (readiness, Some(standing))))
        });
        Ok(Response::new(standings.boxed()))
    }
}

impl HealthService {
    fn knows(&self, service: &str) -> bool {
        service.is_empty() || self.known.contains(service)
    }
}

fn said(standing: Standing) -> HealthCheckResponse {
    response(match standing {
        Standing::Ready => ServingStatus::Serving,
        Standing::NotReady | Standing::Ending => ServingStatus::NotServing,
    })
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}
