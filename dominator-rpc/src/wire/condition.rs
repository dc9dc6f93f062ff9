//! What stands in the way of updates of a machine, and what is known of the last one.

use std::sync::Arc;
use std::time::Duration;

use dominator_core::image::ImageName;
use dominator_core::port::{
    AgentDetails, AgentMode, BadImage, DisruptionState, Lease, MachineTraits, Note, Refusal,
    RemovedConflicts, TrialReason, TrialStatus, Undoable,
};
use tonic::Status;

use super::agent::{image_name, path, path_from};
use super::poll::{seconds, time};
use super::{invalid, readable};
use crate::v1;
use crate::v1::refusal::Why;

/// This part of the details, in a status that has no other.
pub(super) fn condition(details: &AgentDetails) -> v1::AgentStatus {
    v1::AgentStatus {
        mode: mode(details.mode).into(),
        stopped: details.stopped.clone(),
        bad_images: details.bad_images.iter().take(AgentDetails::MAX_BAD_IMAGES).map(bad_image).collect(),
        trial: details.trial.as_ref().map(trial),
        undoable: details.undoable.as_ref().map(undoable),
        conflicts: details.conflicts.iter().take(AgentDetails::MAX_CONFLICTS).map(path).collect(),
        more_conflicts: details.more_conflicts,
        conflict_bytes: details.conflict_bytes,
        disruption: disruption(details.disruption).into(),
        note: details.note.as_ref().map(ToString::to_string),
        ..v1::AgentStatus::default()
    }
}

/// Details that have no other part yet.
pub(super) fn condition_from(
    status: &v1::AgentStatus,
    traits: Arc<MachineTraits>,
) -> Result<AgentDetails, Status> {
    if status.bad_images.len() > AgentDetails::MAX_BAD_IMAGES {
        return Err(invalid("more bad images than an agent tells"));
    }
    if status.conflicts.len() > AgentDetails::MAX_CONFLICTS {
        return Err(invalid("more conflicts than an agent tells"));
    }
    Ok(AgentDetails {
        mode: mode_from(status.mode()),
        stopped: status.stopped.as_deref().map(readable),
        bad_images: status.bad_images.iter().map(bad_image_from).collect::<Result<_, _>>()?,
        trial: status.trial.as_ref().map(trial_from).transpose()?,
        undoable: status.undoable.as_ref().map(undoable_from).transpose()?,
        conflicts: status.conflicts.iter().map(path_from).collect::<Result<_, _>>()?,
        more_conflicts: status.more_conflicts,
        conflict_bytes: status.conflict_bytes,
        disruption: disruption_from(status.disruption()),
        note: status.note.as_deref().and_then(Note::cut),
        ..AgentDetails::new(traits)
    })
}

/// What was removed of what undoing had moved out of the way.
pub(crate) fn removed(removed: &RemovedConflicts) -> v1::RemoveConflictsReply {
    let RemovedConflicts { paths, more, bytes } = removed;
    v1::RemoveConflictsReply { paths: paths.iter().map(path).collect(), more: *more, bytes: *bytes }
}

pub(crate) fn removed_from(reply: &v1::RemoveConflictsReply) -> Result<RemovedConflicts, Status> {
    if reply.paths.len() > AgentDetails::MAX_CONFLICTS {
        return Err(invalid("more conflicts than are told"));
    }
    let paths = reply.paths.iter().map(path_from).collect::<Result<_, _>>()?;
    Ok(RemovedConflicts { paths, more: reply.more, bytes: reply.bytes })
}

/// What stands against an order; nothing, when it is of a kind not known here.
pub(super) fn refusal(refusal: &Refusal) -> Option<v1::Refusal> {
    let why = match refusal {
        Refusal::Stopped(words) => Why::Stopped(readable(words)),
        Refusal::Mode(of) => Why::Mode(mode(*of).into()),
        Refusal::BadImage { image, why } => {
            Why::BadImage(v1::RefusedImage { image: image.to_string(), why: readable(why) })
        }
        Refusal::Locked { by, .. } => Why::Locked(readable(by)),
        Refusal::NothingToUndo => Why::NothingToUndo(true),
        Refusal::Reboot => Why::Reboot(true),
        _ => return None,
    };
    let left = if let Refusal::Locked { left, .. } = refusal { *left } else { Duration::ZERO };
    let locked_millis = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
    Some(v1::Refusal { why: Some(why), locked_millis })
}

pub(super) fn refusal_from(refusal: &v1::Refusal) -> Option<Refusal> {
    Some(match refusal.why.as_ref()? {
        Why::Stopped(words) => Refusal::Stopped(readable(words)),
        Why::Mode(mode) => Refusal::Mode(mode_from(v1::AgentMode::try_from(*mode).ok()?)),
        Why::BadImage(bad) => {
            Refusal::BadImage { image: image_name(&bad.image).ok()?, why: readable(&bad.why) }
        }
        Why::Locked(by) => {
            let left = Lease::of(Duration::from_millis(refusal.locked_millis.into()));
            Refusal::Locked { by: readable(by), left: left.get() }
        }
        Why::NothingToUndo(_) => Refusal::NothingToUndo,
        Why::Reboot(_) => Refusal::Reboot,
    })
}

pub(super) fn name_from(name: Option<&String>) -> Result<Option<ImageName>, Status> {
    name.map(|name| image_name(name)).transpose()
}

pub(super) fn trial_reason(why: TrialReason) -> v1::TrialReason {
    match why {
        TrialReason::Reboot => v1::TrialReason::Reboot,
        TrialReason::AgentRestart => v1::TrialReason::AgentRestart,
    }
}

pub(super) fn trial_reason_from(why: v1::TrialReason) -> Result<TrialReason, Status> {
    match why {
        v1::TrialReason::Reboot => Ok(TrialReason::Reboot),
        v1::TrialReason::AgentRestart => Ok(TrialReason::AgentRestart),
        v1::TrialReason::Unspecified => Err(invalid("a trial for a reason not known here")),
    }
}

fn mode(mode: AgentMode) -> v1::AgentMode {
    match mode {
        AgentMode::Normal => v1::AgentMode::Normal,
        AgentMode::ReadOnly => v1::AgentMode::ReadOnly,
        AgentMode::UpdatesDisabled => v1::AgentMode::UpdatesDisabled,
        AgentMode::TriggersDisabled => v1::AgentMode::TriggersDisabled,
    }
}

fn mode_from(mode: v1::AgentMode) -> AgentMode {
    match mode {
        v1::AgentMode::Normal => AgentMode::Normal,
        v1::AgentMode::ReadOnly => AgentMode::ReadOnly,
        v1::AgentMode::UpdatesDisabled => AgentMode::UpdatesDisabled,
        v1::AgentMode::TriggersDisabled => AgentMode::TriggersDisabled,
    }
}

fn disruption(state: DisruptionState) -> v1::DisruptionState {
    match state {
        DisruptionState::Anytime => v1::DisruptionState::Anytime,
        DisruptionState::Permitted => v1::DisruptionState::Permitted,
        DisruptionState::Requested => v1::DisruptionState::Requested,
        DisruptionState::Denied => v1::DisruptionState::Denied,
    }
}

fn disruption_from(state: v1::DisruptionState) -> DisruptionState {
    match state {
        v1::DisruptionState::Anytime => DisruptionState::Anytime,
        v1::DisruptionState::Permitted => DisruptionState::Permitted,
        v1::DisruptionState::Requested => DisruptionState::Requested,
        v1::DisruptionState::Denied => DisruptionState::Denied,
    }
}

fn bad_image(bad: &BadImage) -> v1::BadImage {
    v1::BadImage { image: bad.image.to_string(), why: readable(&bad.why), since: seconds(bad.since) }
}

fn bad_image_from(bad: &v1::BadImage) -> Result<BadImage, Status> {
    Ok(BadImage { image: image_name(&bad.image)?, why: readable(&bad.why), since: time(bad.since) })
}

fn trial(trial: &TrialStatus) -> v1::Trial {
    v1::Trial {
        image: trial.image.as_ref().map(ToString::to_string),
        why: trial_reason(trial.why).into(),
        since: seconds(trial.since),
        deadline_millis: u64::try_from(trial.deadline.as_millis()).unwrap_or(u64::MAX),
    }
}

fn trial_from(trial: &v1::Trial) -> Result<TrialStatus, Status> {
    Ok(TrialStatus {
        image: name_from(trial.image.as_ref())?,
        why: trial_reason_from(trial.why())?,
        since: time(trial.since),
        deadline: Duration::from_millis(trial.deadline_millis),
    })
}

fn undoable(undoable: &Undoable) -> v1::Undoable {
    v1::Undoable {
        image: undoable.image.as_ref().map(ToString::to_string),
        since: seconds(undoable.since),
        bytes: undoable.bytes,
    }
}

fn undoable_from(undoable: &v1::Undoable) -> Result<Undoable, Status> {
    Ok(Undoable {
        image: name_from(undoable.image.as_ref())?,
        since: time(undoable.since),
        bytes: undoable.bytes,
    })
}
