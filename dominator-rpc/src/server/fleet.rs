use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use dominator_core::auth::Identity;
use dominator_core::herd::{FastUpdate, Leave, Safety};
use dominator_core::machine::Machine;
use dominator_core::port::{Disruption, Reboot};
use futures_util::{StreamExt as _, stream};
use prost::Message as _;
use tonic::{Code, Request, Response, Status};

use super::driven::Driven;
use super::{Answer, permit};
use crate::auth::{Caller, Gate};
use crate::controller::{Consent, FleetControl, FleetError, Stage, SubInfo, Switch};
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
/// Those of a machine nobody knows.
static NO_TAGS: BTreeMap<String, String> = BTreeMap::new();

/// A fleet, served.
pub(super) struct FleetService {
    fleet: Gate<Arc<dyn FleetControl>>,
    /// The same, to be asked whose a machine is.
    register: Arc<dyn FleetControl>,
}

#[async_trait]
impl Dominator for FleetService {
    type ListSubsStream = Answer<v1::ListSubsReply>;

    async fn list_subs(&self, request: Request<v1::Empty>) -> Result<Response<Self::ListSubsStream>, Status> {
        let names = self.fleet.open(permit(&request)?).subs().await.map_err(|error| status(&error))?;
        let batch = |names: &[String]| Ok(v1::ListSubsReply { hostnames: names.to_vec() });
        let batches: Vec<_> = names.chunks(BATCH).map(batch).collect();
        Ok(Response::new(stream::iter(batches).boxed()))
    }

    type GetInfoForSubsStream = Answer<v1::GetInfoForSubsReply>;

    async fn get_info_for_subs(
        &self,
        request: Request<v1::GetInfoForSubsRequest>,
    ) -> Result<Response<Self::GetInfoForSubsStream>, Status> {
        let fleet = self.fleet.open(permit(&request)?);
        let subs = fleet.info(&request.get_ref().hostnames).await.map_err(|error| status(&error))?;
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
        let (caller, fleet) = (Caller::of(&request)?, self.of(&request, hostname)?);
        tracing::info!(sub = hostname, user = caller.user(), "safety shut-off cleared");
        let consent = fleet.clear_safety_shutoff(hostname).await.map_err(|error| status(&error))?;
        let (known, not_waiting) = told(consent);
        Ok(Response::new(v1::ClearSafetyShutoffReply { known, not_waiting }))
    }

    async fn force_disruptive_update(
        &self,
        request: Request<v1::ForceDisruptiveUpdateRequest>,
    ) -> Result<Response<v1::ForceDisruptiveUpdateReply>, Status> {
        let hostname = &request.get_ref().hostname;
        let (caller, fleet) = (Caller::of(&request)?, self.of(&request, hostname)?);
        tracing::info!(sub = hostname, user = caller.user(), "disruptive update forced");
        let consent = fleet.force_disruptive_update(hostname).await.map_err(|error| status(&error))?;
        let (known, not_waiting) = told(consent);
        Ok(Response::new(v1::ForceDisruptiveUpdateReply { known, not_waiting }))
    }

    type FastUpdateStream = Answer<v1::FastUpdateReply>;

    async fn fast_update(
        &self,
        request: Request<v1::FastUpdateRequest>,
    ) -> Result<Response<Self::FastUpdateStream>, Status> {
        let order = request.get_ref();
        let (caller, fleet) = (Caller::of(&request)?, self.of(&request, &order.hostname)?);
        tracing::info!(user = caller.user(), ?order, "fast update");
        let force = [
            order.force_disruption.then_some("disruption forced"),
            order.disable_safety_check.then_some("safety check off"),
        ];
        caller.detail(force.into_iter().flatten().collect::<Vec<_>>().join(", "));
        let progress = fleet.fast_update(&order.hostname, fast_update(order)).await;
        let progress = progress.map_err(|error| status(&error))?;
        let progress = progress.ok_or_else(|| Status::not_found("there is no such machine"))?;
        let replies = progress.map(|standing| match standing {
            Ok(standing) => Ok(v1::FastUpdateReply {
                status: standing.status.text().into(),
                detail: standing.detail,
                over: standing.stage == Stage::Over,
            }),
            Err(error) => Err(status(&error)),
        });
        Ok(Response::new(Driven::stream(replies).boxed()))
    }

    async fn get_updates_state(
        &self,
        request: Request<v1::Empty>,
    ) -> Result<Response<v1::GetUpdatesStateReply>, Status> {
        let updates = self.fleet.open(permit(&request)?).updates().await.map_err(|error| status(&error))?;
        Ok(Response::new(v1::GetUpdatesStateReply {
            enabled: updates.switch == Switch::Enabled,
            reason: updates.reason,
            who: updates.who,
            when: seconds(updates.when),
        }))
    }
}

impl FleetService {
    /// Serves `fleet`.
    pub(super) fn new(fleet: Arc<dyn FleetControl>) -> Self {
        Self { fleet: Gate::new(fleet.clone()), register: fleet }
    }

    /// The fleet, for those who may do something to that machine: with powers, or because it is theirs by the machine data
    /// base. Who may not does not learn whether there is such a machine.
    fn of<T>(&self, request: &Request<T>, hostname: &str) -> Result<&Arc<dyn FleetControl>, Status> {
        let caller = Caller::of(request)?;
        let machine = self.register.machine(hostname);
        let machine = machine.as_deref();
        let tags = machine.map_or(&NO_TAGS, |machine| &machine.tags);
        let owns = |identity: &Identity| machine.is_some_and(|machine| owns(identity, machine));
        Ok(self.fleet.open(caller.may_own_machine(hostname, tags, owns)?))
    }

    async fn switch<T>(
        &self,
        switch: Switch,
        request: &Request<T>,
        reason: &str,
    ) -> Result<Response<v1::Empty>, Status> {
        if reason.len() > limits::REASON {
            return Err(invalid(format!("a reason of more than {} bytes", limits::REASON)));
        }
        let (caller, fleet) = (Caller::of(request)?, self.fleet.open(permit(request)?));
        caller.target(format_args!("all machines: {reason}"));
        fleet.switch_updates(switch, reason, caller.user()).await.map_err(|error| status(&error))?;
        Ok(Response::new(v1::Empty {}))
    }
}

/// Whether a machine is somebody's.
fn owns(identity: &Identity, machine: &Machine) -> bool {
    machine.owner_users.contains(&identity.user)
        || machine.owner_groups.iter().any(|group| identity.groups.contains(group))
}

fn fast_update(order: &v1::FastUpdateRequest) -> FastUpdate {
    let leave = Leave {
        disruption: if order.force_disruption { Disruption::Force } else { Disruption::Ask },
        reboot: if order.fail_on_reboot { Reboot::Refused } else { Reboot::Allowed },
    };
    FastUpdate {
        leave,
        safety: if order.disable_safety_check { Safety::ClearedOnce } else { Safety::Guarded },
    }
}

/// Whether the machine is known, and how it stands if it does not wait for the operator.
fn told(consent: Consent) -> (bool, Option<String>) {
    match consent {
        Consent::Given => (true, None),
        Consent::NotWaiting(status) => (true, Some(status.text().into())),
        Consent::NoSuchMachine => (false, None),
    }
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
