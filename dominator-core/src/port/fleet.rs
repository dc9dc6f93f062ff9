use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use thiserror::Error;

use super::{Cause, DisruptionState};
use crate::health::Probe;
use crate::machine::{Machine, Mdb};
use crate::object::ObjectId;
use crate::path::ImagePath;

/// An adapter to a machine data base.
#[async_trait]
pub trait MachineSource: Send {
    /// Waits for the first state of the data base, then for each that differs from the one before. Safe to cancel: a
    /// change that was not returned is returned by the next call.
    ///
    /// # Errors
    /// [`MachineSourceError`] when it could not be read. The state before stays in force; call again.
    async fn next(&mut self) -> Result<Mdb, MachineSourceError>;
}

/// A machine data base that could not be read.
#[derive(Clone, Debug, Error)]
#[error("{what}")]
pub struct MachineSourceError {
    /// What was tried, with the place.
    pub what: String,
    /// Why it failed.
    #[source]
    pub cause: Cause,
}

/// Makes the contents of computed files.
#[async_trait]
pub trait FileGenerator: Send + Sync {
    /// The contents of `paths` for `machine`, in the order asked for.
    async fn generate(
        &self,
        machine: &Machine,
        paths: &[ImagePath],
    ) -> Result<Vec<ComputedFile>, GenerateError>;
}

/// The contents of a computed file for one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComputedFile {
    /// Where it belongs.
    pub path: ImagePath,
    /// What it contains.
    pub contents: Bytes,
    /// The id of the contents.
    pub object: ObjectId,
    /// For how long it may be used; for ever, if not given.
    pub valid_for: Option<Duration>,
}

/// Contents that could not be made.
#[derive(Clone, Debug, Error)]
#[error("{path} could not be generated")]
pub struct GenerateError {
    /// Which file.
    pub path: ImagePath,
    /// Why.
    #[source]
    pub cause: Cause,
}

/// Starts and stops services, within time limits of its own.
///
/// Synchronous, as it is called from within an update.
pub trait ServiceRunner: Send + Sync {
    /// Carries out `action` on `service` and waits for the end of it.
    fn run(&self, action: ServiceAction, service: &str) -> Result<(), ServiceError>;

    /// How `service` stands. Who can't tell says so.
    fn state(&self, _service: &str) -> ServiceState {
        ServiceState::Unknown
    }

    /// Whether the machine was just started and services are still to come up. Who can't tell says no.
    fn is_coming_up(&self) -> bool {
        false
    }

    /// Whether anything comes of what is asked for. Who rules nothing pays no debts of others, and orders no restart that
    /// somebody would wait for in vain.
    fn rules(&self) -> Rules {
        Rules::Services
    }
}

/// What a [`ServiceRunner`] rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rules {
    /// Services, and the machine they run on.
    Services,
    /// Nothing: all it is asked for is passed over.
    Nothing,
}

/// How a service stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceState {
    /// It could not be found out, was not asked, or is not decided yet.
    #[default]
    Unknown,
    /// It runs.
    Running,
    /// It does not, as it should be, or there is no such service.
    Stopped,
    /// It does not, as it died or would not start.
    Failed,
}

impl ServiceState {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::Unknown, Self::Running, Self::Stopped, Self::Failed];

    /// The word for it.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

/// Tries what health checks want tried. Synchronous, as it is called from within an update; several may run at once.
pub trait Prober: Send + Sync {
    /// Tries it once, for at most `limit`, and leaves nothing running.
    ///
    /// # Errors
    /// [`Unhealthy`] when it is not as it must be, or that could not be found out.
    fn probe(&self, probe: &Probe, limit: Duration) -> Result<(), Unhealthy>;
}

/// Why a probe failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Unhealthy {
    /// There was no answer in time.
    #[error("no answer within {} s", limit.as_secs_f64())]
    Timeout {
        /// How long it was waited for.
        limit: Duration,
    },
    /// The answer was another, or could not be had.
    #[error("{0}")]
    Wrong(String),
}

/// What can be done to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceAction {
    /// Start it.
    Start,
    /// Stop it.
    Stop,
    /// Make it read its configuration again.
    Reload,
    /// Stop and start it.
    Restart,
    /// Start the machine again.
    Reboot,
}

impl ServiceAction {
    /// The word for it, as `systemctl` takes it.
    pub const fn verb(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Reload => "reload",
            Self::Restart => "restart",
            Self::Reboot => "reboot",
        }
    }
}

/// A service that could not be brought where it should be.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// It took too long and was given up.
    #[error("{action} {service} was not done within {} s", limit.as_secs())]
    Timeout {
        /// What was tried.
        action: &'static str,
        /// On which service.
        service: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// It was refused.
    #[error("{action} {service} failed: {output}")]
    Failed {
        /// What was tried.
        action: &'static str,
        /// On which service.
        service: String,
        /// Exit status and the end of what was printed.
        output: String,
    },
}

/// Says when a machine's users may be disturbed.
#[async_trait]
pub trait DisruptionGate: Send + Sync {
    /// Asks leave for an update that fires a high-impact trigger. Asking again is harmless.
    async fn request(&self) -> GateAnswer;

    /// Gives leave back: the disturbance is over or no longer wanted.
    async fn release(&self);

    /// How it stands, from memory.
    fn state(&self) -> DisruptionState;
}

/// What the gate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GateAnswer {
    /// Go on.
    Permitted,
    /// Not yet; ask again.
    Requested,
    /// No; ask again later.
    Denied(String),
}

/// A small store shared by the controllers of a fleet: what must survive one of them.
#[async_trait]
pub trait ClusterStore: Send + Sync {
    /// The value of `key` with its revision, nothing when there is none.
    async fn value(&self, key: &str) -> Result<Option<(Bytes, Revision)>, ClusterStoreError>;

    /// Sets `key` if its revision is still `expected` (nothing: if there is no value). Durable when it returns.
    async fn set(
        &self,
        key: &str,
        value: Bytes,
        expected: Option<Revision>,
    ) -> Result<Revision, ClusterStoreError>;
}

/// Which version of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// What can go wrong with shared state.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ClusterStoreError {
    /// Somebody else changed it; read again and decide again.
    #[error("{key} was changed by somebody else")]
    Conflict {
        /// Which key.
        key: String,
    },
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
