//! Errors across the wire: a text for people in the status, a [`v1::Failure`] for programs in its details.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use dominator_core::image::ImageName;
use dominator_core::namespace::DirectoryName;
use dominator_core::object::ObjectId;
use dominator_core::port::{
    AgentError, Cause, Chain, FetchRequest, ImageError, SourceFailure, StoreError, Unreachable,
};
use prost::Message as _;
use thiserror::Error;
use tonic::{Code, Status};

use super::{condition, digest, ids};
use crate::transport::ConnectError;
use crate::v1::failure::Kind;
use crate::{limits, v1};

/// A message that breaks the protocol.
pub(crate) fn invalid(text: impl Into<String>) -> Status {
    Status::invalid_argument(text)
}

/// An error with all its causes, in one line short enough for a header.
pub(crate) fn text(error: &(dyn Error + 'static)) -> String {
    let mut text = Chain(error).to_string();
    text.truncate(text.floor_char_boundary(limits::ERROR_TEXT));
    text
}

/// Text of the other end, fit for a terminal and a log: in one line, and no longer than an error may be.
pub(crate) fn readable(text: &str) -> String {
    let short = text.get(..text.floor_char_boundary(limits::ERROR_TEXT)).unwrap_or_default();
    short.replace(char::is_control, "\u{fffd}")
}

/// What an agent's error is on the wire.
pub(crate) fn agent_status(error: &AgentError) -> Status {
    let (code, kind) = match error {
        AgentError::Denied(_) => (Code::PermissionDenied, Some(Kind::Denied(true))),
        AgentError::NotNow(why) => {
            return status(Code::FailedPrecondition, why.clone(), Some(Kind::NotNow(true)));
        }
        AgentError::Gone { id } => (Code::NotFound, Some(Kind::Gone(ids([id])))),
        AgentError::Refused(refusal) => {
            let kind = condition::refusal(refusal).map(Kind::Refused);
            (Code::FailedPrecondition, kind)
        }
        AgentError::Unsupported => (Code::Unimplemented, Some(Kind::Unsupported(true))),
        AgentError::Fetch(store) => {
            let inner = v1::Failure { kind: store_kind(store), text: store_text(store) };
            (Code::Aborted, Some(Kind::Fetch(Box::new(inner))))
        }
        AgentError::Unreachable { cause, .. } => {
            return status(Code::Unavailable, text(cause), Some(Kind::Unreachable(true)));
        }
        // Further kinds of failures have nothing to say to programs yet.
        AgentError::Protocol(_) | AgentError::Failed { .. } | _ => (Code::Internal, None),
    };
    status(code, text(error), kind)
}

/// What a store's error is on the wire.
pub(crate) fn store_status(error: &StoreError) -> Status {
    let code = match error {
        StoreError::NotFound { .. } => Code::NotFound,
        StoreError::Corrupt { .. } => Code::DataLoss,
        StoreError::Protocol(_) => Code::InvalidArgument,
        StoreError::NoSpace { .. } | StoreError::NoInodes { .. } => Code::ResourceExhausted,
        StoreError::Denied(_) => Code::PermissionDenied,
        StoreError::Unreachable(_) | StoreError::TooSlow { .. } => Code::Unavailable,
        StoreError::Sources(_) => Code::Aborted,
        StoreError::Failed { .. } | _ => Code::Internal,
    };
    status(code, store_text(error), store_kind(error))
}

/// An error in words, without those that the other end says again.
fn store_text(error: &StoreError) -> String {
    match error {
        StoreError::Protocol(why) => why.clone(),
        StoreError::Unreachable(cause) => text(cause),
        StoreError::NotFound { .. }
        | StoreError::Corrupt { .. }
        | StoreError::NoSpace { .. }
        | StoreError::NoInodes { .. }
        | StoreError::TooSlow { .. }
        | StoreError::Sources(_)
        | StoreError::Denied(_)
        | StoreError::Failed { .. }
        | _ => text(error),
    }
}

fn store_kind(error: &StoreError) -> Option<Kind> {
    match error {
        StoreError::NotFound { id } => Some(Kind::ObjectNotFound(ids([id]))),
        StoreError::Corrupt { id, hashed, length } => {
            Some(Kind::Corrupt(v1::CorruptObject { id: ids([id]), hashed: ids([hashed]), length: *length }))
        }
        StoreError::Protocol(_) => Some(Kind::BadStream(true)),
        StoreError::NoSpace { need, free } => Some(Kind::NoSpace(v1::NoSpace { need: *need, free: *free })),
        StoreError::NoInodes { need, free } => {
            Some(Kind::NoInodes(v1::NoInodes { need: *need, free: *free }))
        }
        StoreError::TooSlow { bytes, waited } => {
            let waited_millis = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
            Some(Kind::TooSlow(v1::TooSlow { bytes: *bytes, waited_millis }))
        }
        StoreError::Sources(failures) => {
            let failures = failures.iter().take(FetchRequest::MAX_SOURCES).map(source_failure).collect();
            Some(Kind::Sources(v1::SourceFailures { failures }))
        }
        StoreError::Denied(_) => Some(Kind::Denied(true)),
        StoreError::Unreachable(_) => Some(Kind::Unreachable(true)),
        StoreError::Failed { .. } | _ => None,
    }
}

fn source_failure(failure: &SourceFailure) -> v1::SourceFailure {
    // What is nested deeper is told in words: it all has to fit into a header.
    let flat = !matches!(failure.error, StoreError::Sources(_));
    let kind = store_kind(&failure.error).filter(|_| flat);
    let mut text = store_text(&failure.error);
    text.truncate(text.floor_char_boundary(limits::ERROR_TEXT_OF_SOURCE));
    v1::SourceFailure {
        source: failure.source.clone(),
        object: ids(&failure.object),
        failure: Some(v1::Failure { kind, text }),
    }
}

fn source_failure_from(failure: v1::SourceFailure) -> SourceFailure {
    let inner = failure.failure.unwrap_or_default();
    let flat = inner.kind.filter(|kind| !matches!(kind, Kind::Sources(_)));
    let error = store_failure(flat, &readable(&inner.text));
    SourceFailure { source: readable(&failure.source), object: digest(&failure.object).ok(), error }
}

/// What an image store's error is on the wire.
pub(crate) fn image_status(error: &ImageError) -> Status {
    let (code, kind) = match error {
        ImageError::NotFound { name } => (Code::NotFound, Some(Kind::ImageNotFound(name.to_string()))),
        ImageError::Exists { name } => (Code::AlreadyExists, Some(Kind::ImageExists(name.to_string()))),
        ImageError::Deleted { name } => (Code::AlreadyExists, Some(Kind::ImageDeleted(name.to_string()))),
        ImageError::Incomplete { first, count } => {
            let count = u64::try_from(*count).unwrap_or(u64::MAX);
            let kind = Kind::Incomplete(v1::IncompleteImage { first: ids([first]), count });
            (Code::FailedPrecondition, Some(kind))
        }
        ImageError::Expiry(refusal) => {
            (Code::FailedPrecondition, super::expiry_refusal(refusal).map(Kind::Expiry))
        }
        ImageError::NoDirectory { name } => (Code::NotFound, Some(Kind::NoDirectory(name.to_string()))),
        ImageError::DirectoryExists { name } => {
            (Code::AlreadyExists, Some(Kind::DirectoryExists(name.to_string())))
        }
        ImageError::DirectoryNotEmpty { name } => {
            (Code::FailedPrecondition, Some(Kind::DirectoryNotEmpty(name.to_string())))
        }
        ImageError::Unsupported => (Code::Unimplemented, Some(Kind::Unsupported(true))),
        ImageError::Malformed(cause) => {
            return status(Code::InvalidArgument, text(cause), Some(Kind::MalformedImage(true)));
        }
        ImageError::Denied(_) => (Code::PermissionDenied, Some(Kind::Denied(true))),
        ImageError::Unreachable(cause) => {
            return status(Code::Unavailable, text(cause), Some(Kind::Unreachable(true)));
        }
        ImageError::Failed { .. } | _ => (Code::Internal, None),
    };
    status(code, text(error), kind)
}

fn status(code: Code, text: String, kind: Option<Kind>) -> Status {
    let details = kind.map(|kind| v1::Failure { kind: Some(kind), text: String::new() }.encode_to_vec());
    Status::with_details(code, text, details.map(Bytes::from).unwrap_or_default())
}

/// What a status is to who asked an agent. `tried` is what was asked for.
pub(crate) fn agent_error(tried: &'static str, status: Status) -> AgentError {
    match kind(&status) {
        Some(Kind::NotNow(_)) => return AgentError::NotNow(said(&status)),
        Some(Kind::Gone(id)) => {
            if let Ok(id) = digest(&id) {
                return AgentError::Gone { id };
            }
        }
        Some(Kind::Refused(refusal)) => {
            if let Some(refusal) = condition::refusal_from(&refusal) {
                return AgentError::Refused(refusal);
            }
        }
        Some(Kind::Unsupported(_)) => return AgentError::Unsupported,
        Some(Kind::Fetch(failure)) => {
            return AgentError::Fetch(store_failure(failure.kind, &readable(&failure.text)));
        }
        _ => {}
    }
    match reading(&status) {
        Reading::Denied => AgentError::Denied(said(&status)),
        Reading::Unreachable(why) => AgentError::Unreachable { why, cause: cause(&status) },
        Reading::Failed => AgentError::Failed { what: tried.into(), cause: cause(&status) },
    }
}

/// What a status is to who asked a store. `tried` is what was asked for.
pub(crate) fn store_error(tried: &'static str, status: Status) -> StoreError {
    if let Some(error) = kind(&status).and_then(|kind| store_error_of(kind, &said(&status))) {
        return error;
    }
    match reading(&status) {
        Reading::Denied => StoreError::Denied(said(&status)),
        Reading::Unreachable(_) => StoreError::Unreachable(cause(&status)),
        Reading::Failed => StoreError::Failed { what: tried.into(), cause: cause(&status) },
    }
}

/// What a status is to who asked an image server. `tried` is what was asked for.
pub(crate) fn image_error(tried: &'static str, status: Status) -> ImageError {
    let named = |name: &str| name.parse::<ImageName>().ok();
    let directory = |name: &str| name.parse::<DirectoryName>().ok();
    let error = match kind(&status) {
        Some(Kind::ImageNotFound(name)) => named(&name).map(|name| ImageError::NotFound { name }),
        Some(Kind::ImageExists(name)) => named(&name).map(|name| ImageError::Exists { name }),
        Some(Kind::ImageDeleted(name)) => named(&name).map(|name| ImageError::Deleted { name }),
        Some(Kind::Incomplete(incomplete)) => digest(&incomplete.first).ok().map(|first| {
            let count = usize::try_from(incomplete.count).unwrap_or(usize::MAX);
            ImageError::Incomplete { first, count }
        }),
        Some(Kind::Expiry(refusal)) => super::expiry_refusal_from(&refusal).map(ImageError::Expiry),
        Some(Kind::NoDirectory(name)) => directory(&name).map(|name| ImageError::NoDirectory { name }),
        Some(Kind::DirectoryExists(name)) => {
            directory(&name).map(|name| ImageError::DirectoryExists { name })
        }
        Some(Kind::DirectoryNotEmpty(name)) => {
            directory(&name).map(|name| ImageError::DirectoryNotEmpty { name })
        }
        Some(Kind::Unsupported(_)) => Some(ImageError::Unsupported),
        Some(Kind::MalformedImage(_)) => Some(ImageError::Malformed(Cause::new(said(&status)))),
        _ => None,
    };
    error.unwrap_or_else(|| match reading(&status) {
        Reading::Denied => ImageError::Denied(said(&status)),
        Reading::Unreachable(_) => ImageError::Unreachable(cause(&status)),
        Reading::Failed => ImageError::Failed { what: tried.into(), cause: cause(&status) },
    })
}

fn kind(status: &Status) -> Option<Kind> {
    v1::Failure::decode(status.details()).ok()?.kind
}

fn store_failure(kind: Option<Kind>, text: &str) -> StoreError {
    let known = kind.and_then(|kind| store_error_of(kind, text));
    known
        .unwrap_or_else(|| StoreError::Failed { what: text.into(), cause: Cause::new("see the agent's log") })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the other failures are none of a store")]
fn store_error_of(kind: Kind, text: &str) -> Option<StoreError> {
    let id = |bytes: &[u8]| -> Option<ObjectId> { digest(bytes).ok() };
    match kind {
        Kind::ObjectNotFound(object) => id(&object).map(|id| StoreError::NotFound { id }),
        Kind::Corrupt(corrupt) => {
            let (id, hashed) = (id(&corrupt.id)?, id(&corrupt.hashed)?);
            Some(StoreError::Corrupt { id, hashed, length: corrupt.length })
        }
        Kind::NoSpace(space) => Some(StoreError::NoSpace { need: space.need, free: space.free }),
        Kind::NoInodes(inodes) => Some(StoreError::NoInodes { need: inodes.need, free: inodes.free }),
        Kind::TooSlow(slow) => {
            let waited = Duration::from_millis(slow.waited_millis);
            Some(StoreError::TooSlow { bytes: slow.bytes, waited })
        }
        Kind::Sources(failures) => {
            let failures = failures.failures.into_iter().take(FetchRequest::MAX_SOURCES);
            Some(StoreError::Sources(failures.map(source_failure_from).collect()))
        }
        Kind::BadStream(_) => Some(StoreError::Protocol(text.into())),
        Kind::Denied(_) => Some(StoreError::Denied(text.into())),
        Kind::Unreachable(_) => Some(StoreError::Unreachable(Cause::new(text))),
        _ => None,
    }
}

/// How a status that says nothing to programs is to be read.
enum Reading {
    Denied,
    Unreachable(Unreachable),
    Failed,
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a code not known here is a failure")]
fn reading(status: &Status) -> Reading {
    if let Some(error) = dialled(status) {
        return Reading::Unreachable(error.why());
    }
    let local = is_local(status);
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => Reading::Denied,
        Code::DeadlineExceeded => Reading::Unreachable(Unreachable::Timeout),
        Code::Unavailable => Reading::Unreachable(Unreachable::Other),
        Code::Cancelled | Code::Unknown | Code::Internal if local => Reading::Unreachable(Unreachable::Other),
        _ => Reading::Failed,
    }
}

/// What the other end said, for people.
pub(crate) fn said(status: &Status) -> String {
    readable(status.message())
}

/// Why no connection could be made for a call, if that is what a status is about.
fn dialled(status: &Status) -> Option<&ConnectError> {
    causes(status).find_map(|error| error.downcast_ref())
}

/// Whether a status was made on this end. One that came over the wire has no source.
fn is_local(status: &Status) -> bool {
    status.source().is_some()
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(status.source(), |&error| error.source())
}

/// A connection that could not be made for the sake of a certificate.
#[derive(Debug, Error)]
#[error("{0}")]
struct CertificateRefused(String);

/// Whether a certificate stood in the way of what failed: nothing that passes by itself.
pub(crate) fn is_refusal(cause: &Cause) -> bool {
    let dialled = cause.downcast_ref().is_some_and(|error: &ConnectError| error.why().is_refusal());
    dialled || cause.downcast_ref::<CertificateRefused>().is_some()
}

/// A status as a cause, in words for people: what lies deepest. The layers above it say "transport error" in several
/// ways, and the status itself shows its parts for programs.
pub(crate) fn cause(status: &Status) -> Cause {
    if status.code() == Code::Unimplemented {
        return Cause::new("the server does not know this call; it is of another version");
    }
    match (dialled(status), causes(status).last()) {
        (Some(error), _) if error.why().is_refusal() => Cause::new(CertificateRefused(text(error))),
        (Some(error), _) => Cause::new(text(error)),
        (None, Some(deepest)) => Cause::new(format!("the connection failed: {deepest}")),
        (None, None) => Cause::new(said(status)),
    }
}
