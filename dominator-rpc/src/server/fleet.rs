use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use prost::Message as _;
use tonic::{Code, Request, Response, Status};

use super::Answer;
use crate::authorise::Caller;
use crate::controller::{FleetControl, FleetError, SubInfo, Switch};
use crate::v1::dominator_server::Dominator;
use crate::wire::{Packed, Weighed, invalid, text};
use crate::{limits, v1};

impl Weighed for v1::SubInfo {
    fn weight(&self) -> usize {
        self.encoded_len()
    }
}

/// How many names of machines go into one message.
const BATCH: usize = 500;

/// A fleet, served.
pub(super) struct FleetService(pub(super) Arc<dyn FleetControl>);

#[async_trait]
impl Dominator for FleetService {
    type ListSubsStream = Answer<v1::ListSubsReply>;

    async fn list_subs(
        &self,
        _request: Request<v1::Empty>,
    ) -> Result<Response<Self::ListSubsStream>, Status> {
        let names = self.0.subs().await.map_err(|error| status(&error))?;
        let batch = |names: &[String]| Ok(v1::ListSubsReply { hostnames: names.to_vec() });
        let batches: Vec<_> = names.chunks(BATCH).map(batch).collect();
        Ok(Response::new(stream::iter(batches).boxed()))
    }

    type GetInfoForSubsStream = Answer<v1::GetInfoForSubsReply>;

    async fn get_info_for_subs(
        &self,
        request: Request<v1::GetInfoForSubsRequest>,
    ) -> Result<Response<Self::GetInfoForSubsStream>, Status> {
        let subs = self.0.info(&request.get_ref().hostnames).await.map_err(|error| status(&error))?;
        let infos = stream::iter(subs).map(|sub| Ok(info(&sub)));
        let batches = Packed::new(infos, limits::BATCH);
        Ok(Response::new(batches.map(|subs| subs.map(|subs| v1::GetInfoForSubsReply { subs })).boxed()))
    }

    async fn enable_updates(
        &self,
        request: Request<v1::EnableUpdatesRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        self.switch(Switch::Enabled, &request, &request.get_ref().reason).await
    }

    async fn disable_updates(
        &self,
        request: Request<v1::DisableUpdatesRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        let reason = &request.get_ref().reason;
        if reason.trim().is_empty() {
            return Err(invalid("updates are disabled for a reason; give it"));
        }
        self.switch(Switch::Disabled, &request, reason).await
    }

    async fn clear_safety_shutoff(
        &self,
        request: Request<v1::ClearSafetyShutoffRequest>,
    ) -> Result<Response<v1::ClearSafetyShutoffReply>, Status> {
        let hostname = &request.get_ref().hostname;
        tracing::info!(sub = hostname, user = user(&request)?, "safety shut-off cleared");
        let known = self.0.clear_safety_shutoff(hostname).await.map_err(|error| status(&error))?;
        Ok(Response::new(v1::ClearSafetyShutoffReply { known }))
    }

    async fn get_updates_state(
        &self,
        _request: Request<v1::Empty>,
    ) -> Result<Response<v1::GetUpdatesStateReply>, Status> {
        let updates = self.0.updates().await.map_err(|error| status(&error))?;
        Ok(Response::new(v1::GetUpdatesStateReply {
            enabled: updates.switch == Switch::Enabled,
            reason: updates.reason,
            who: updates.who,
            when: seconds(updates.when),
        }))
    }
}

impl FleetService {
    async fn switch<T>(
        &self,
        switch: Switch,
        request: &Request<T>,
        reason: &str,
    ) -> Result<Response<v1::Empty>, Status> {
        if reason.len() > limits::REASON {
            return Err(invalid(format!("a reason of more than {} bytes", limits::REASON)));
        }
        self.0.switch_updates(switch, reason, user(request)?).await.map_err(|error| status(&error))?;
        Ok(Response::new(v1::Empty {}))
    }
}

fn user<T>(request: &Request<T>) -> Result<&str, Status> {
    // INVARIANT: the door puts a caller into every request it lets pass.
    let caller = request.extensions().get::<Caller>();
    caller
        .map(|caller| caller.identity.user.as_str())
        .ok_or_else(|| Status::unauthenticated("nobody is calling"))
}

fn info(sub: &SubInfo) -> v1::SubInfo {
    let image = |name: &Option<dominator_core::image::ImageName>| name.as_ref().map(ToString::to_string);
    v1::SubInfo {
        hostname: sub.hostname.clone(),
        required_image: image(&sub.required_image),
        planned_image: image(&sub.planned_image),
        last_image: image(&sub.last_image),
        status: sub.status.text().into(),
        detail: sub.detail.clone(),
        since: seconds(sub.since),
        last_heard: sub.last_heard.map(seconds),
        unknown: sub.unknown,
    }
}

fn status(error: &FleetError) -> Status {
    let code = match error {
        FleetError::Denied(_) => Code::PermissionDenied,
        FleetError::Unreachable(_) => Code::Unavailable,
        FleetError::Failed { .. } => Code::Internal,
    };
    Status::new(code, text(error))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}
