//! The ports: what the decisions of this crate need from the world, as traits. `dominator-fs` implements them on a
//! disk, `dominator-rpc` over the network, tests in memory; none of them can tell which it is talking to.
//!
//! All of them are safe to cancel unless a method says otherwise: dropping the future abandons the call, and what it
//! had begun either completes or leaves no trace.

mod agent;
mod chain;
mod fleet;
mod image;
mod object;
mod status;

pub use agent::{
    Agent, AgentDialer, AgentError, FetchReport, FetchRequest, PollRequest, ServiceOutcome, Unreachable,
    UpdateReport, UpdateRequest,
};
pub use chain::Chain;
pub use fleet::{
    ClusterStore, ClusterStoreError, ComputedFile, DisruptionGate, FileGenerator, GateAnswer, GenerateError,
    MachineSource, MachineSourceError, Revision, ServiceAction, ServiceError, ServiceRunner,
};
pub use image::{ImageError, ImageStore};
pub use object::{ObjectSource, ObjectSources, ObjectStore, Piece, Pieces, StoreError, Verified};
pub use status::{
    Activity, AgentDetails, AgentStatus, BadPercent, Boost, Configuration, Corruption, MachineTraits, Pacing,
    PathFailure, Percent, PollReply, Reconfiguration, ScanReach, ScanStatus, Scanned, ScrubStatus, Works,
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
