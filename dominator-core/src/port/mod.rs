//! The ports: what the decisions of this crate need from the world, as traits. `dominator-fs` implements them on a
//! disk, `dominator-rpc` over the network, tests in memory; none of them can tell which it is talking to.
//!
//! All of them are safe to cancel unless a method says otherwise: dropping the future abandons the call, and what it
//! had begun either completes or leaves no trace.

mod agent;
mod chain;
mod condition;
mod fleet;
mod garbage;
mod image;
mod object;
mod replication;
mod status;
mod update;

pub use agent::{
    Agent, AgentDialer, AgentError, FetchReport, FetchRequest, PollRequest, Refusal, Unreachable,
};
pub use chain::Chain;
pub use condition::{
    AgentMode, BadImage, DisruptionState, Lease, LockRequest, LockToken, Note, TrialStatus, Undoable,
};
pub use fleet::{
    ClusterStore, ClusterStoreError, ComputedFile, DisruptionGate, FileGenerator, GateAnswer, GenerateError,
    MachineSource, MachineSourceError, Prober, Revision, Rules, ServiceAction, ServiceError, ServiceRunner,
    ServiceState, Unhealthy,
};
pub use garbage::{Amount, Collected, ObjectStatistics, Share, Unreferenced};
pub use image::{ImageError, ImageStore, ImageUpdates, Parents};
pub use object::{
    ObjectSource, ObjectSources, ObjectStore, Piece, Pieces, SourceFailure, StoreError, Verified,
};
pub use replication::{Replication, ReplicationStatus};
pub use status::{
    Activity, AgentDetails, AgentStatus, BadPercent, Boost, Configuration, Corruption, MachineTraits, Pacing,
    PathFailure, Percent, PollReply, Reconfiguration, ScanReach, ScanStatus, Scanned, ScrubStatus, Works,
};
pub use update::{
    Blame, Disruption, FileContents, ForgiveRequest, Reboot, RemovedConflicts, RestartRequest,
    ServiceOutcome, TrialReason, UndoReason, UndoRequest, UpdateOutcome, UpdateRecord, UpdateReport,
    UpdateRequest,
};

use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// What made an operation fail, as far as it is known; the end of a chain of sources.
#[derive(Clone)]
pub struct Cause(Arc<dyn Error + Send + Sync>);

impl Cause {
    /// Wraps an error.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Arc::from(error.into()))
    }

    /// The error that was wrapped, if it is one of that type.
    pub fn downcast_ref<E: Error + 'static>(&self) -> Option<&E> {
        self.0.downcast_ref()
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}
