use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::{LockToken, Note, PathFailure, ServiceAction, ServiceState};
use crate::health::{HealthChecks, HealthOutcome};
use crate::image::ImageName;
use crate::inode::Timestamp;
use crate::path::ImagePath;
use crate::plan::{Plan, PlanSummary};
use crate::tree::TreeId;
use crate::trigger::{ServiceName, Triggers};
use crate::view::ViewId;

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
    /// The sparse image it is made of, if it is one: the machine is not said to be it, and may be found not to be well with it.
    pub sparse: Option<ImageName>,
    /// Which services are concerned.
    pub triggers: Triggers,
    /// What must be true afterwards for the update to stay.
    pub health: HealthChecks,
    /// Whether the machine's users may be disturbed without being asked.
    pub disruption: Disruption,
    /// Whether it may restart the machine.
    pub reboot: Reboot,
    /// Of whoever holds the lock.
    pub lock: Option<LockToken>,
}

impl UpdateRequest {
    /// A plan for nobody in particular: no image, no services, no health checks, no lock.
    pub fn new(base: TreeId, view: ViewId, plan: Plan) -> Self {
        Self {
            base,
            view,
            plan,
            image: None,
            sparse: None,
            triggers: Triggers::default(),
            health: HealthChecks::default(),
            disruption: Disruption::Ask,
            reboot: Reboot::Allowed,
            lock: None,
        }
    }

    /// Which image is bad when the machine is not well with it.
    pub fn blamed(&self) -> Option<&ImageName> {
        self.image.as_ref().or(self.sparse.as_ref())
    }
}

/// Whether those who use a machine are asked before they are disturbed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Disruption {
    /// They are, if there is anybody to ask.
    #[default]
    Ask,
    /// They are not.
    Force,
}

/// Whether an update may restart its machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reboot {
    /// It may, if its triggers say so.
    #[default]
    Allowed,
    /// One that would is refused before anything changes.
    Refused,
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
    /// How many more there are, of a machine that did not tell all of them.
    pub more_failures: u64,
    /// What was done to services.
    pub services: Vec<ServiceOutcome>,
    /// What the health checks came to.
    pub health: Vec<HealthOutcome>,
    /// How long paths were changing: from the first rename to the last.
    pub window: Duration,
    /// What it came to.
    pub outcome: UpdateOutcome,
}

impl UpdateReport {
    /// Whether everything was done, as far as can be said by now: an update on trial may yet be taken back.
    pub fn is_success(&self) -> bool {
        let stands = match &self.outcome {
            UpdateOutcome::Made | UpdateOutcome::OnTrial { .. } => true,
            UpdateOutcome::Undone { .. } | UpdateOutcome::NotMade { .. } => false,
        };
        stands && self.failures.is_empty() && !self.services.iter().any(ServiceOutcome::is_failure)
    }
}

/// What an update came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum UpdateOutcome {
    /// It is in place, and stays.
    #[default]
    Made,
    /// It is in place, and judged once that is over.
    OnTrial {
        /// What comes first.
        why: TrialReason,
    },
    /// It was in place and was taken back.
    Undone {
        /// What for.
        why: UndoReason,
        /// More about that, for people to read.
        detail: String,
        /// What is not as before nevertheless.
        failures: Vec<PathFailure>,
    },
    /// It was not made; only records say so, an agent's answer is an error then.
    NotMade {
        /// Why, for people to read.
        why: String,
    },
}

impl UpdateOutcome {
    /// The word for it, wherever it is written down.
    pub const fn text(&self) -> &'static str {
        match self {
            Self::Made => "made",
            Self::OnTrial { .. } => "on-trial",
            Self::Undone { .. } => "undone",
            Self::NotMade { .. } => "not-made",
        }
    }
}

/// Why an update can't be judged at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrialReason {
    /// The machine is restarted.
    Reboot,
    /// The agent is.
    AgentRestart,
}

impl TrialReason {
    /// Each of them.
    pub const ALL: [Self; 2] = [Self::Reboot, Self::AgentRestart];

    /// The word for it, wherever it is written down.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Reboot => "reboot",
            Self::AgentRestart => "agent restart",
        }
    }
}

impl fmt::Display for TrialReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reboot => "the machine is restarted",
            Self::AgentRestart => "the agent is restarted",
        })
    }
}

/// Why an update was taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UndoReason {
    /// Going on would have been wrong.
    Halted,
    /// A service would not start, or a health check failed.
    Unhealthy,
    /// The machine was started with it, and started again before anybody had found it well.
    NeverHealthy,
    /// Nobody had found it well when the time was over.
    Overdue,
    /// Somebody wanted it.
    Asked,
    /// Whoever judged it died meanwhile, or could not note what came of it, again and again.
    Unjudged,
}

impl UndoReason {
    /// Each of them.
    pub const ALL: [Self; 6] =
        [Self::Halted, Self::Unhealthy, Self::NeverHealthy, Self::Overdue, Self::Asked, Self::Unjudged];

    /// The word for it, wherever it is written down.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Halted => "halted",
            Self::Unhealthy => "unhealthy",
            Self::NeverHealthy => "never healthy",
            Self::Overdue => "overdue",
            Self::Asked => "asked",
            Self::Unjudged => "unjudged",
        }
    }
}

impl fmt::Display for UndoReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Halted => "going on would have been wrong",
            Self::Unhealthy => "the machine was not well with it",
            Self::NeverHealthy => "the machine was restarted before it had been well with it",
            Self::Overdue => "the machine was not known to be well with it in time",
            Self::Asked => "it was asked for",
            Self::Unjudged => "no judgement of it came to an end",
        })
    }
}

/// What was done to a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceOutcome {
    /// Which service.
    pub service: String,
    /// What was done: `stop`, `start`, `reload`.
    pub action: String,
    /// How it stood before the update, if that was asked.
    pub before: ServiceState,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

impl ServiceOutcome {
    /// Whether it counts against the update: a service that had failed before is no worse off, and one that did not run has
    /// nothing to read again.
    pub fn is_failure(&self) -> bool {
        let is_reload = self.action == ServiceAction::Reload.verb();
        let no_worse = match self.before {
            ServiceState::Failed => true,
            ServiceState::Stopped => is_reload,
            ServiceState::Running | ServiceState::Unknown => false,
        };
        self.error.is_some() && !no_worse
    }
}

/// An order to take the last update back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UndoRequest {
    /// What is thought of the image then.
    pub blame: Blame,
    /// Of whoever holds the lock.
    pub lock: Option<LockToken>,
}

/// What becomes of the image of an update that is taken back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Blame {
    /// It may come again.
    #[default]
    Nobody,
    /// It is bad on this machine until it is forgiven.
    Image,
}

/// An order to try images again that were found bad.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForgiveRequest {
    /// Which; nothing: all of them.
    pub image: Option<ImageName>,
    /// Of whoever holds the lock.
    pub lock: Option<LockToken>,
}

/// What was removed of what undoing had moved out of the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemovedConflicts {
    /// Some of it, at most [`AgentDetails::MAX_CONFLICTS`](super::AgentDetails::MAX_CONFLICTS).
    pub paths: Vec<ImagePath>,
    /// How much more there was.
    pub more: u64,
    /// The room all of it took, in bytes.
    pub bytes: u64,
}

/// An order to restart a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartRequest {
    /// Which.
    pub service: ServiceName,
    /// Of whoever holds the lock.
    pub lock: Option<LockToken>,
}

/// What a machine remembers of an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateRecord {
    /// Counts up with every update of the machine.
    pub number: u64,
    /// What the machine was to be; nothing for a sparse image.
    pub image: Option<ImageName>,
    /// What it was before, as far as is known.
    pub previous: Option<ImageName>,
    /// When it began.
    pub began: Timestamp,
    /// When it was decided; nothing, while it is not.
    pub ended: Option<Timestamp>,
    /// What was to be done.
    pub plan: PlanSummary,
    /// What was done to services.
    pub services: Vec<ServiceOutcome>,
    /// What the health checks came to.
    pub health: Vec<HealthOutcome>,
    /// How long paths were changing.
    pub window: Duration,
    /// What it came to.
    pub outcome: UpdateOutcome,
    /// What the machine noted of itself afterwards.
    pub note: Option<Note>,
}

impl UpdateRecord {
    /// How many are told at most.
    pub const MAX_COUNT: usize = 1000;
}

/// What a file of a machine contains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileContents {
    /// Which.
    pub path: ImagePath,
    /// That, or why it can't be told, for people to read.
    pub contents: Result<Bytes, String>,
}

impl FileContents {
    /// How many files one call asks for at most.
    pub const MAX_PATHS: usize = 1000;
    /// How much all of them may hold, in bytes; those that don't fit are not told.
    pub const MAX_BYTES: usize = 64 * 1024 * 1024;
}
