use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use thiserror::Error;

use super::{Boost, Cause, Configuration, PathFailure, PollReply, Reconfiguration, StoreError};
use crate::image::ImageName;
use crate::machine::Machine;
use crate::object::ObjectId;
use crate::path::ImagePath;
use crate::plan::Plan;
use crate::tree::TreeId;
use crate::trigger::Triggers;
use crate::view::{View, ViewId};

/// One machine, near or far.
///
/// A call that changes the machine goes on when its future is dropped; the next poll tells what became of it.
#[async_trait]
pub trait Agent: Send + Sync {
    /// Asks how the machine stands. With `wait`, the answer comes when something has changed since `known`, or when
    /// the time is over.
    async fn poll(&self, request: PollRequest) -> Result<PollReply, AgentError>;

    /// Makes the agent look through `view` from now on.
    async fn set_view(&self, view: View) -> Result<ViewId, AgentError>;

    /// The encodings of directories and link sets of the tree polled last, in the order asked for.
    async fn directories(&self, ids: Vec<ObjectId>) -> Result<Vec<Bytes>, AgentError>;

    /// Makes the agent get objects from a source and keep them beside its root. Nothing in view changes.
    async fn fetch(&self, request: FetchRequest) -> Result<FetchReport, AgentError>;

    /// Makes the agent apply a plan, stopping and starting services as the triggers say.
    async fn update(&self, request: UpdateRequest) -> Result<UpdateReport, AgentError>;

    /// Makes the agent drop the objects it keeps beside its root.
    async fn clean_up(&self) -> Result<(), AgentError>;

    /// How hard the agent may work.
    async fn configuration(&self) -> Result<Configuration, AgentError>;

    /// Changes that until the agent ends.
    async fn configure(&self, change: Reconfiguration) -> Result<(), AgentError>;

    /// Lifts a limit until the end of the scan under way, or of the next, when there is none.
    async fn boost(&self, boost: Boost) -> Result<(), AgentError>;
}

/// Finds the agent of a machine.
#[async_trait]
pub trait AgentDialer: Send + Sync {
    /// Connects to the agent of `machine`.
    async fn dial(&self, machine: &Machine) -> Result<Arc<dyn Agent>, AgentError>;
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchRequest {
    /// Which, with their lengths in bytes.
    pub objects: Vec<(ObjectId, u64)>,
    /// From where, `host:port`.
    pub source: String,
}

/// What was fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FetchReport {
    /// How many objects came over the network.
    pub objects: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// An order to change a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateRequest {
    /// The tree the plan was made for. A machine that is another by now refuses.
    pub base: TreeId,
    /// The view it was made under.
    pub view: ViewId,
    /// What to do.
    pub plan: Plan,
    /// What the machine is afterwards; nothing for a sparse image.
    pub image: Option<ImageName>,
    /// Which services are concerned.
    pub triggers: Triggers,
}

/// What became of an update.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpdateReport {
    /// How many operations were carried out.
    pub applied: u64,
    /// What was to be deleted but holds what is not in view, or has something mounted on it or in it.
    pub kept: Vec<ImagePath>,
    /// What could not be done, path by path.
    pub failures: Vec<PathFailure>,
    /// What was done to services.
    pub services: Vec<ServiceOutcome>,
    /// How long paths were changing: from the first rename to the last.
    pub window: Duration,
}

impl UpdateReport {
    /// Whether everything was done.
    pub fn is_success(&self) -> bool {
        self.failures.is_empty() && self.services.iter().all(|service| service.error.is_none())
    }
}

/// What was done to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceOutcome {
    /// Which service.
    pub service: String,
    /// What was done: `stop`, `start`, `reload`.
    pub action: String,
    /// Why it failed, if it did.
    pub error: Option<String>,
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
    /// Anything else.
    Other,
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
