use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use dominator_core::filter::{Filter, Lines};
use dominator_core::image::ImageName;
use dominator_core::path::ImagePath;
use dominator_core::port::{
    Activity, AgentStatus, MachineTraits, PathFailure, PollReply, PollRequest, Scanned, ServiceOutcome,
    UpdateReport,
};
use dominator_core::tree::Tree;
use dominator_core::view::{Granularity, Ownership, ViewId, XattrPolicy};
use tonic::Status;

use super::{digest, ids, invalid, readable};
use crate::v1::poll_reply::Scanned as WireScanned;
use crate::{limits, v1};

pub(crate) fn poll_request(request: &PollRequest) -> v1::PollRequest {
    v1::PollRequest {
        view: request.view.map(|view| ids([&view.0])).unwrap_or_default(),
        known: request.known,
        wait_millis: u64::try_from(request.wait.as_millis()).unwrap_or(u64::MAX),
    }
}

pub(crate) fn poll_request_from(request: &v1::PollRequest) -> Result<PollRequest, Status> {
    let view = (!request.view.is_empty()).then(|| digest(&request.view).map(ViewId)).transpose()?;
    let wait = Duration::from_millis(request.wait_millis).min(limits::POLL_WAIT);
    Ok(PollRequest { view, known: request.known, wait })
}

pub(crate) fn poll_reply(reply: &PollReply) -> v1::PollReply {
    let scanned = match &reply.scanned {
        Scanned::NeedView => WireScanned::NeedView(v1::Empty {}),
        Scanned::NotYet => WireScanned::NotYet(v1::Empty {}),
        Scanned::Tree(tree) => WireScanned::Tree(tree.encode().into()),
    };
    v1::PollReply { scanned: Some(scanned), status: Some(status(&reply.status)) }
}

/// Reads an answer but for the traits, which are dear to read and seldom change.
pub(crate) fn poll_reply_from(reply: v1::PollReply, traits: MachineTraits) -> Result<PollReply, Status> {
    let scanned = match reply.scanned {
        Some(WireScanned::NeedView(_)) => Scanned::NeedView,
        Some(WireScanned::NotYet(_)) => Scanned::NotYet,
        Some(WireScanned::Tree(bytes)) => Scanned::Tree(
            Tree::decode(&bytes).map_err(|error| invalid(format!("a tree that is none: {error}")))?,
        ),
        None => return Err(invalid("an answer without what was scanned")),
    };
    let status = reply.status.ok_or_else(|| invalid("an answer without a status"))?;
    Ok(PollReply { scanned, status: status_from(status, traits)? })
}

fn status(status: &AgentStatus) -> v1::AgentStatus {
    v1::AgentStatus {
        instance: status.instance,
        generation: status.generation,
        scan_count: status.scan_count,
        scan_micros: micros(status.scan_duration),
        unknown: status.unknown,
        facts: status.facts.iter().take(AgentStatus::MAX_FACTS).map(failure).collect(),
        kept: status.kept.iter().map(path).collect(),
        activity: activity(status.activity).into(),
        last_update_error: status.last_update_error.clone(),
        last_image: status.last_image.as_ref().map(ToString::to_string),
        free_space: status.free_space,
        write_error: status.write_error.clone(),
        traits: Some(traits(&status.traits)),
    }
}

fn status_from(status: v1::AgentStatus, traits: MachineTraits) -> Result<AgentStatus, Status> {
    let activity = match status.activity() {
        v1::Activity::Idle => Activity::Idle,
        v1::Activity::Fetching => Activity::Fetching,
        v1::Activity::Updating => Activity::Updating,
        v1::Activity::Unspecified => return Err(invalid("an activity not known here")),
    };
    if status.facts.len() > AgentStatus::MAX_FACTS {
        return Err(invalid("more facts than a status carries"));
    }
    Ok(AgentStatus {
        instance: status.instance,
        generation: status.generation,
        scan_count: status.scan_count,
        scan_duration: Duration::from_micros(status.scan_micros),
        unknown: status.unknown,
        facts: status.facts.into_iter().map(failure_from).collect::<Result<_, _>>()?,
        kept: paths_from(&status.kept)?,
        activity,
        last_update_error: status.last_update_error.as_deref().map(readable),
        last_image: status.last_image.map(|name| image_name(&name)).transpose()?,
        free_space: status.free_space,
        write_error: status.write_error.as_deref().map(readable),
        traits,
    })
}

fn activity(activity: Activity) -> v1::Activity {
    match activity {
        Activity::Idle => v1::Activity::Idle,
        Activity::Fetching => v1::Activity::Fetching,
        Activity::Updating => v1::Activity::Updating,
    }
}

fn traits(traits: &MachineTraits) -> v1::MachineTraits {
    v1::MachineTraits {
        protected: traits.protected.iter().map(path).collect(),
        exclusions: Some(filter(&traits.exclusions)),
        xattrs: traits.xattrs.bits().into(),
        ignores_owners: traits.ownership == Ownership::Ignored,
        mtime_nanos: traits.mtime.as_nanos(),
    }
}

pub(crate) fn traits_from(traits: &v1::MachineTraits) -> Result<MachineTraits, Status> {
    let bits = u8::try_from(traits.xattrs).ok().and_then(XattrPolicy::from_bits);
    let exclusions = traits.exclusions.as_ref().ok_or_else(|| invalid("traits without exclusions"))?;
    Ok(MachineTraits {
        protected: paths_from(&traits.protected)?,
        exclusions: filter_from(exclusions)?,
        xattrs: bits.ok_or_else(|| invalid("an unknown class of attributes"))?,
        ownership: if traits.ignores_owners { Ownership::Ignored } else { Ownership::Kept },
        mtime: Granularity::nanos(traits.mtime_nanos).ok_or_else(|| invalid("an impossible granularity"))?,
    })
}

fn filter(filter: &Filter) -> v1::Filter {
    let (state, lines) = match filter {
        Filter::Sparse => (v1::FilterState::Sparse, Vec::new()),
        Filter::Empty => (v1::FilterState::Empty, Vec::new()),
        Filter::Lines(lines) => (v1::FilterState::Lines, lines.lines().to_vec()),
    };
    v1::Filter { state: state.into(), lines }
}

fn filter_from(filter: &v1::Filter) -> Result<Filter, Status> {
    match (filter.state(), filter.lines.is_empty()) {
        (v1::FilterState::Sparse, true) => Ok(Filter::Sparse),
        (v1::FilterState::Empty, true) => Ok(Filter::Empty),
        (v1::FilterState::Lines, false) => Lines::new(filter.lines.clone())
            .map(Filter::Lines)
            .map_err(|error| invalid(format!("a filter that is none: {error}"))),
        _ => Err(invalid("a filter in no known state")),
    }
}

pub(crate) fn update_reply(report: &UpdateReport) -> v1::UpdateReply {
    v1::UpdateReply {
        applied: report.applied,
        kept: report.kept.iter().map(path).collect(),
        failures: report.failures.iter().map(failure).collect(),
        services: report.services.iter().map(service).collect(),
        window_micros: micros(report.window),
    }
}

pub(crate) fn update_reply_from(reply: v1::UpdateReply) -> Result<UpdateReport, Status> {
    Ok(UpdateReport {
        applied: reply.applied,
        kept: reply.kept.iter().map(path_from).collect::<Result<_, _>>()?,
        failures: reply.failures.into_iter().map(failure_from).collect::<Result<_, _>>()?,
        services: reply.services.into_iter().map(service_from).collect(),
        window: Duration::from_micros(reply.window_micros),
    })
}

fn service(outcome: &ServiceOutcome) -> v1::ServiceOutcome {
    let ServiceOutcome { service, action, error } = outcome.clone();
    v1::ServiceOutcome { service, action, error }
}

fn service_from(outcome: v1::ServiceOutcome) -> ServiceOutcome {
    ServiceOutcome {
        service: readable(&outcome.service),
        action: readable(&outcome.action),
        error: outcome.error.as_deref().map(readable),
    }
}

fn failure(failure: &PathFailure) -> v1::PathFailure {
    v1::PathFailure { path: path(&failure.path), reason: failure.reason.clone() }
}

fn failure_from(failure: v1::PathFailure) -> Result<PathFailure, Status> {
    Ok(PathFailure { path: path_from(&failure.path)?, reason: readable(&failure.reason) })
}

fn path(path: &ImagePath) -> Bytes {
    Bytes::copy_from_slice(path.as_bytes())
}

fn path_from(bytes: &Bytes) -> Result<ImagePath, Status> {
    ImagePath::parse(bytes).map_err(|error| invalid(error.to_string()))
}

fn paths_from(paths: &[Bytes]) -> Result<BTreeSet<ImagePath>, Status> {
    paths.iter().map(path_from).collect()
}

/// The name of an image, as it came.
pub(crate) fn image_name(name: &str) -> Result<ImageName, Status> {
    name.parse().map_err(|error: dominator_core::image::BadImageName| invalid(error.to_string()))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
