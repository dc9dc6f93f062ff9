//! What image servers that copy each other say.

use bytes::Bytes;
use dominator_core::image::{ImageId, ImageName, ImageState, LastingId};
use dominator_core::port::ReplicationStatus;
use dominator_core::replica::Held;
use tonic::Status;

use super::{digest, ids, image_name, invalid, readable};
use crate::v1::image_state::State;
use crate::{limits, v1};

pub(crate) fn image_state(state: ImageState) -> v1::ImageState {
    let state = match state {
        ImageState::Absent => None,
        ImageState::Deleted { was } => Some(State::Deleted(was.map_or_else(Bytes::new, |was| ids([&was.0])))),
        ImageState::Present { id, lasting, expires_at } => Some(State::Present(v1::PresentImage {
            id: ids([&id.0]),
            lasting: ids([&lasting.0]),
            expires_at,
        })),
    };
    v1::ImageState { state }
}

pub(crate) fn image_state_from(state: v1::ImageState) -> Result<ImageState, Status> {
    Ok(match state.state {
        None => ImageState::Absent,
        Some(State::Deleted(was)) if was.is_empty() => ImageState::Deleted { was: None },
        Some(State::Deleted(was)) => ImageState::Deleted { was: Some(LastingId(digest(&was)?)) },
        Some(State::Present(v1::PresentImage { id, lasting, expires_at })) => ImageState::Present {
            id: ImageId(digest(&id)?),
            lasting: LastingId(digest(&lasting)?),
            expires_at,
        },
    })
}

pub(crate) fn replication_status(status: ReplicationStatus) -> v1::GetReplicationMasterReply {
    let ReplicationStatus { master, trouble, in_sync, behind, held } = status;
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let mut trouble = trouble.unwrap_or_default();
    trouble.truncate(trouble.floor_char_boundary(limits::ERROR_TEXT));
    v1::GetReplicationMasterReply {
        master,
        trouble,
        in_sync,
        behind: count(behind),
        held_count: count(held.len()),
        held: held.iter().take(limits::NAMES).map(held_to).collect(),
    }
}

fn held_to((name, why): &(ImageName, Held)) -> v1::HeldImage {
    let reason = match why {
        Held::Missing => v1::HeldReason::Missing,
        Held::AnotherDeleted => v1::HeldReason::AnotherDeleted,
        Held::Another => v1::HeldReason::Another,
        Held::DeletedHere => v1::HeldReason::DeletedHere,
    };
    v1::HeldImage { name: name.to_string(), reason: reason.into() }
}

/// How a replica stands, and how many images it holds in all; nothing of a server that is none.
pub(crate) fn replication_status_from(
    reply: v1::GetReplicationMasterReply,
) -> Result<Option<(ReplicationStatus, u64)>, Status> {
    if reply.master.is_empty() {
        return Ok(None);
    }
    let held: Result<Vec<_>, Status> = reply.held.iter().map(held_from).collect();
    let status = ReplicationStatus {
        master: readable(&reply.master),
        trouble: (!reply.trouble.is_empty()).then(|| readable(&reply.trouble)),
        in_sync: reply.in_sync,
        behind: usize::try_from(reply.behind).unwrap_or(usize::MAX),
        held: held?,
    };
    Ok(Some((status, reply.held_count)))
}

fn held_from(held: &v1::HeldImage) -> Result<(ImageName, Held), Status> {
    let why = match held.reason() {
        v1::HeldReason::Missing => Held::Missing,
        v1::HeldReason::AnotherDeleted => Held::AnotherDeleted,
        v1::HeldReason::Another => Held::Another,
        v1::HeldReason::DeletedHere => Held::DeletedHere,
        v1::HeldReason::Unspecified => return Err(invalid("an image that is held for no reason")),
    };
    Ok((image_name(&held.name)?, why))
}
