use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use thiserror::Error;

use super::{
    AgentMode, Boost, Cause, Configuration, FileContents, ForgiveRequest, LockRequest, LockToken, PollReply,
    Reconfiguration, RemovedConflicts, RestartRequest, ServiceOutcome, StoreError, UndoRequest, UpdateRecord,
    UpdateReport, UpdateRequest,
};
use crate::image::ImageName;
use crate::machine::Machine;
use crate::object::ObjectId;
use crate::path::ImagePath;
use crate::plan::Needs;
use crate::view::{View, ViewId};

/// One machine, near or far.
///
/// A call that changes the machine goes on when its future is dropped; the next poll tells what became of it.
///
/// Every call that changes the machine, or what others see of it, takes the token of whoever holds the lock; while
/// somebody else does, it is refused. How hard the agent works may be changed by everybody at any time.
#[async_trait]
pub trait Agent: Send + Sync {
    /// Asks how the machine stands. With `wait`, the answer comes when something has changed since `known`, or when
    /// the time is over.
    async fn poll(&self, request: PollRequest) -> Result<PollReply, AgentError>;

    /// Makes the agent look through `view` from now on. What was scanned through another is forgotten: whoever holds the
    /// lock says so.
    async fn set_view(&self, view: View, lock: Option<LockToken>) -> Result<ViewId, AgentError>;

    /// The encodings of directories and link sets of the tree polled last, in the order asked for.
    async fn directories(&self, ids: Vec<ObjectId>) -> Result<Vec<Bytes>, AgentError>;

    /// Makes the agent get objects from the first source that has them, and keep them beside its root. Nothing in view
    /// changes.
    async fn fetch(&self, request: FetchRequest) -> Result<FetchReport, AgentError>;

    /// Makes the agent apply a plan, stopping and starting services as the triggers say.
    async fn update(&self, request: UpdateRequest) -> Result<UpdateReport, AgentError>;

    /// Makes the agent drop the objects it keeps beside its root. Whoever holds the lock says so.
    async fn clean_up(&self, lock: Option<LockToken>) -> Result<(), AgentError>;

    /// How hard the agent may work.
    async fn configuration(&self) -> Result<Configuration, AgentError>;

    /// Changes that until the agent ends.
    async fn configure(&self, change: Reconfiguration) -> Result<(), AgentError>;

    /// Lifts a limit until the end of the scan under way, or of the next, when there is none.
    async fn boost(&self, boost: Boost) -> Result<(), AgentError>;

    /// Makes the agent take the last update back, with its services, as long as it keeps what that needs.
    async fn undo(&self, _request: UndoRequest) -> Result<UpdateReport, AgentError> {
        Err(AgentError::Unsupported)
    }

    /// What became of the last updates, the latest first, at most [`UpdateRecord::MAX_COUNT`].
    async fn history(&self, _limit: usize) -> Result<Vec<UpdateRecord>, AgentError> {
        Err(AgentError::Unsupported)
    }

    /// Makes the agent forget that an image, or every image, was found bad on its machine.
    async fn forgive(&self, _request: ForgiveRequest) -> Result<(), AgentError> {
        Err(AgentError::Unsupported)
    }

    /// Makes the agent restart a service.
    async fn restart_service(&self, _request: RestartRequest) -> Result<ServiceOutcome, AgentError> {
        Err(AgentError::Unsupported)
    }

    /// What files contain, in the order asked for, symbolic links followed within the root; at most
    /// [`FileContents::MAX_PATHS`]. What the machine protects is not told.
    async fn files(&self, _paths: Vec<ImagePath>) -> Result<Vec<FileContents>, AgentError> {
        Err(AgentError::Unsupported)
    }

    /// Makes the agent remove, for good, what somebody had changed and undoing moved out of the way. Only a person can know
    /// that none of it is missed.
    async fn remove_conflicts(&self, _lock: Option<LockToken>) -> Result<RemovedConflicts, AgentError> {
        Err(AgentError::Unsupported)
    }

    /// Keeps the orders of others out for a while; again with the same token, for a while from then on. A lease of
    /// nothing gives the lock back.
    async fn lock(&self, _request: LockRequest) -> Result<(), AgentError> {
        Err(AgentError::Unsupported)
    }
}

/// Finds the agent of a machine.
#[async_trait]
pub trait AgentDialer: Send + Sync {
    /// Connects to the agent of `machine`.
    async fn dial(&self, machine: &Machine) -> Result<Arc<dyn Agent>, AgentError>;

    /// Waits until it shows another certificate or believes others than at time `seen` (0 at first), and tells the time
    /// of that: who was refused before may not be now. For ever, if that can't happen. Safe to cancel.
    async fn renewed(&self, seen: u64) -> u64 {
        let _ = seen;
        std::future::pending().await
    }
}

/// A question to an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PollRequest {
    /// The view the answer must be under, if the asker has one in mind.
    pub view: Option<ViewId>,
    /// The generation the asker has seen.
    pub known: Option<u64>,
    /// How long the answer may wait for a generation other than `known`.
    pub wait: Duration,
}

/// An order to get objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchRequest {
    /// What the update they are for takes: room is made for all of it before the first byte comes.
    pub needs: Needs,
    /// From where, `host:port`, those to be asked first before the others; at most [`FetchRequest::MAX_SOURCES`].
    pub sources: Vec<String>,
    /// Of whoever holds the lock.
    pub lock: Option<LockToken>,
}

impl FetchRequest {
    /// How many sources an order may name.
    pub const MAX_SOURCES: usize = 8;
}

/// What was fetched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchReport {
    /// How many objects came over the network.
    pub objects: u64,
    /// How many bytes.
    pub bytes: u64,
    /// How many need not come, as files of the machine have these contents: the update takes them from there.
    pub local: u64,
    /// Sources that failed before another had what they did not give, and why, for people to read.
    pub failed: Vec<String>,
}

/// Why an agent can't be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Unreachable {
    /// Its name has no address.
    Dns,
    /// Nothing listens.
    Refused,
    /// No way leads there.
    NoRoute,
    /// No answer in time.
    Timeout,
    /// It wants a certificate and none was shown.
    MissingCertificate,
    /// One end does not accept the other's certificate.
    BadCertificate,
    /// What answers has a good certificate, and is something else than an agent.
    WrongRole,
    /// Anything else.
    Other,
}

impl Unreachable {
    /// Whether a certificate stands in the way: nothing that passes by itself.
    pub const fn is_refusal(self) -> bool {
        matches!(self, Self::MissingCertificate | Self::BadCertificate | Self::WrongRole)
    }
}

/// Why an agent won't carry an order out, although it could.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// An administrator of the machine stopped it; these are the words they left.
    #[error("stopped on the machine{}", said(.0))]
    Stopped(String),
    /// It was started to do no such thing.
    #[error("the agent was started {0}")]
    Mode(AgentMode),
    /// The image was found bad on this machine; forgive it to have it tried again.
    #[error(
        "{image} was found bad on this machine, and is not tried again there until it is forgiven: {why}"
    )]
    BadImage {
        /// Which.
        image: ImageName,
        /// What was bad about it.
        why: String,
    },
    /// Somebody else has the lock. It ends by itself, unless they take it again.
    #[error("locked by {by}, for another {:.0} s unless they take it again", left.as_secs_f64().ceil())]
    Locked {
        /// Who.
        by: String,
        /// For how long.
        left: Duration,
    },
    /// What undoing needs is not there, or no longer.
    #[error("there is no update that can be undone")]
    NothingToUndo,
    /// The update restarts the machine, which the order does not allow.
    #[error("the update restarts the machine, which the order does not allow")]
    Reboot,
}

fn said(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(": {words}") }
}

impl AgentError {
    /// How [`AgentError::NotNow`] begins when an update waits for leave to disturb the machine's users.
    pub const DISRUPTION_PENDING: &'static str = "disruption pending";
    /// How [`AgentError::NotNow`] begins when that leave was refused.
    pub const DISRUPTION_DENIED: &'static str = "disruption denied";
}

/// What can go wrong with an agent.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum AgentError {
    /// It can't be reached.
    #[error("the agent can't be reached")]
    Unreachable {
        /// In what way.
        why: Unreachable,
        /// What the network said.
        #[source]
        cause: Cause,
    },
    /// The caller lacks the right.
    #[error("{0}")]
    Denied(String),
    /// It is busy with another order, or the machine is no longer what the order was made for; poll again.
    #[error("the agent can't do it now: {0}")]
    NotNow(String),
    /// It won't, until somebody changes what stands against it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It is of a kind that can't do this, or of an older version.
    #[error("this agent can't do that")]
    Unsupported,
    /// A directory that was asked for is no longer what the machine has; poll again.
    #[error("directory {id} is no longer part of the machine's tree")]
    Gone {
        /// Which.
        id: ObjectId,
    },
    /// Objects could not be had.
    #[error("objects could not be fetched")]
    Fetch(#[source] StoreError),
    /// It answered what no agent of this protocol would.
    #[error("the agent's answer makes no sense")]
    Protocol(#[source] Cause),
    /// It was tried and failed.
    #[error("{what}")]
    Failed {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        cause: Cause,
    },
}
