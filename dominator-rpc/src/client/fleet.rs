use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use dominator_core::auth::Role;
use dominator_core::herd::{self, FastUpdate, Safety};
use dominator_core::port::{Cause, Disruption, Reboot};
use futures_util::stream;
use tonic::{Code, Status};

use super::{next, within};
use crate::controller::{
    Consent, FleetControl, FleetError, Progress, Stage, Standing, SubInfo, Switch, Updates,
};
use crate::transport::{Channel, Tls, connect};
use crate::v1::dominator_client::DominatorClient;
use crate::{limits, v1, wire};

const FAST: &str = "the fast update failed";
const OTHER_VERSION: &str = "a status not known here: the controller is of another version";

/// A fleet whose controller is elsewhere. The `who` of a decision is what our certificate says, whatever is given.
#[derive(Clone, Debug)]
pub struct RemoteFleet {
    client: DominatorClient<Channel>,
}

impl RemoteFleet {
    /// Connects to the controller at `address`, as in `host:port`.
    ///
    /// # Errors
    /// [`FleetError::Unreachable`], with the reason.
    pub async fn connect(tls: &Tls, address: &str) -> Result<Self, FleetError> {
        let channel = connect(tls, address, Role::Dominator).await;
        let channel = channel.map_err(|error| FleetError::Unreachable(Cause::new(error)))?;
        Ok(Self { client: DominatorClient::new(channel).max_decoding_message_size(limits::MESSAGE) })
    }
}

#[async_trait]
impl FleetControl for RemoteFleet {
    async fn subs(&self) -> Result<Vec<String>, FleetError> {
        let failed = |status| error("listing machines failed", status);
        let mut client = self.client.clone();
        let answer = within(limits::CALL, client.list_subs(v1::Empty {})).await.map_err(failed)?;
        let (mut answer, mut names) = (answer.into_inner(), Vec::new());
        while let Some(message) = next(&mut answer).await.map_err(failed)? {
            names.extend(message.hostnames);
            if names.len() > limits::MACHINES {
                return Err(failed(too_many()));
            }
        }
        Ok(names)
    }

    async fn info(&self, hostnames: &[String]) -> Result<Vec<SubInfo>, FleetError> {
        let failed = |status| error("asking about machines failed", status);
        let request = v1::GetInfoForSubsRequest { hostnames: hostnames.to_vec() };
        let mut client = self.client.clone();
        let answer = within(limits::CALL, client.get_info_for_subs(request)).await.map_err(failed)?;
        let (mut answer, mut subs) = (answer.into_inner(), Vec::new());
        while let Some(message) = next(&mut answer).await.map_err(failed)? {
            for sub in message.subs {
                subs.push(sub_info(sub).map_err(failed)?);
            }
            if subs.len() > limits::MACHINES {
                return Err(failed(too_many()));
            }
        }
        Ok(subs)
    }

    async fn updates(&self) -> Result<Updates, FleetError> {
        let mut client = self.client.clone();
        let answer = within(limits::CALL, client.get_updates_state(v1::Empty {})).await;
        let answer = answer.map_err(|status| error("asking about updates failed", status))?.into_inner();
        let switch = if answer.enabled { Switch::Enabled } else { Switch::Disabled };
        Ok(Updates { switch, reason: answer.reason, who: answer.who, when: time(answer.when) })
    }

    async fn switch_updates(&self, switch: Switch, reason: &str, _who: &str) -> Result<(), FleetError> {
        let mut client = self.client.clone();
        let reason = reason.to_owned();
        let answer = match switch {
            Switch::Enabled => {
                within(limits::CALL, client.enable_updates(v1::EnableUpdatesRequest { reason })).await
            }
            Switch::Disabled => {
                within(limits::CALL, client.disable_updates(v1::DisableUpdatesRequest { reason })).await
            }
        };
        answer.map(drop).map_err(|status| error("the switch failed", status))
    }

    async fn clear_safety_shutoff(&self, hostname: &str) -> Result<Consent, FleetError> {
        let request = v1::ClearSafetyShutoffRequest { hostname: hostname.into() };
        let mut client = self.client.clone();
        let answer = within(limits::CALL, client.clear_safety_shutoff(request)).await;
        let failed = |status| error("clearing the shut-off failed", status);
        let answer = answer.map_err(failed)?.into_inner();
        consent(answer.known, answer.not_waiting.as_ref()).map_err(failed)
    }

    async fn force_disruptive_update(&self, hostname: &str) -> Result<Consent, FleetError> {
        let request = v1::ForceDisruptiveUpdateRequest { hostname: hostname.into() };
        let mut client = self.client.clone();
        let answer = within(limits::CALL, client.force_disruptive_update(request)).await;
        let failed = |status| error("forcing the update failed", status);
        let answer = answer.map_err(failed)?.into_inner();
        consent(answer.known, answer.not_waiting.as_ref()).map_err(failed)
    }

    async fn fast_update(&self, hostname: &str, order: FastUpdate) -> Result<Option<Progress>, FleetError> {
        let request = v1::FastUpdateRequest {
            hostname: hostname.into(),
            fail_on_reboot: order.leave.reboot == Reboot::Refused,
            force_disruption: order.leave.disruption == Disruption::Force,
            disable_safety_check: order.safety == Safety::ClearedOnce,
        };
        let mut client = self.client.clone();
        let answer = match within(limits::CALL, client.fast_update(request)).await {
            Err(status) if status.code() == Code::NotFound => return Ok(None),
            answer => answer.map_err(|status| error(FAST, status))?.into_inner(),
        };
        Ok(Some(Box::pin(stream::try_unfold(Some(answer), async |answer| {
            let Some(mut answer) = answer else { return Ok(None) };
            let broken = || Status::unavailable("it broke off before the end");
            let reply = next(&mut answer).await.and_then(|reply| reply.ok_or_else(broken));
            let standing = reply.and_then(standing).map_err(|status| error(FAST, status))?;
            let answer = (standing.stage == Stage::UnderWay).then_some(answer);
            Ok(Some((standing, answer)))
        }))))
    }
}

fn consent(known: bool, not_waiting: Option<&String>) -> Result<Consent, Status> {
    Ok(match (known, not_waiting) {
        (false, _) => Consent::NoSuchMachine,
        (true, None) => Consent::Given,
        (true, Some(status)) => Consent::NotWaiting(herd_status(status)?),
    })
}

fn standing(reply: v1::FastUpdateReply) -> Result<Standing, Status> {
    let v1::FastUpdateReply { status, detail, over } = reply;
    let stage = if over { Stage::Over } else { Stage::UnderWay };
    Ok(Standing { status: herd_status(&status)?, detail, stage })
}

fn herd_status(text: &str) -> Result<herd::Status, Status> {
    text.parse().map_err(|_| wire::invalid(OTHER_VERSION))
}

fn sub_info(sub: v1::SubInfo) -> Result<SubInfo, Status> {
    let image = |name: Option<String>| name.map(|name| wire::image_name(&name)).transpose();
    Ok(SubInfo {
        hostname: sub.hostname,
        required_image: image(sub.required_image)?,
        planned_image: image(sub.planned_image)?,
        last_image: image(sub.last_image)?,
        status: herd_status(&sub.status)?,
        detail: sub.detail,
        since: time(sub.since),
        last_heard: sub.last_heard.map(time),
        unknown: sub.unknown,
    })
}

fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH)
}

fn too_many() -> Status {
    Status::resource_exhausted("more machines than can be")
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a code not known here is a failure")]
fn error(tried: &'static str, status: Status) -> FleetError {
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => FleetError::Denied(wire::said(&status)),
        Code::Unavailable | Code::DeadlineExceeded => FleetError::Unreachable(wire::cause(&status)),
        _ => FleetError::Failed { what: tried.into(), cause: wire::cause(&status) },
    }
}
