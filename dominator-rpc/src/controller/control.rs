use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use dominator_core::herd::{FastUpdate, Status};
use dominator_core::image::ImageName;
use dominator_core::machine::Machine;
use dominator_core::port::Cause;
use futures_util::stream::BoxStream;
use thiserror::Error;

/// What people see of a fleet and may tell it, here or from afar.
#[async_trait]
pub trait FleetControl: Send + Sync {
    /// The names of all machines, in order.
    async fn subs(&self) -> Result<Vec<String>, FleetError>;

    /// What the machine data base says of a machine, for who decides whose it is; nothing, when there is no such machine, or
    /// it is not known here.
    fn machine(&self, _hostname: &str) -> Option<Arc<Machine>> {
        None
    }

    /// How machines stand, in order of their names; all of them, if none is named. Names nobody bears are passed over.
    async fn info(&self, hostnames: &[String]) -> Result<Vec<SubInfo>, FleetError>;

    /// Whether machines are changed, and who decided so.
    async fn updates(&self) -> Result<Updates, FleetError>;

    /// Decides whether machines are changed. Durable when it returns. A prohibition is in force at once, even if it could
    /// then not be kept durably.
    async fn switch_updates(&self, switch: Switch, reason: &str, who: &str) -> Result<(), FleetError>;

    /// Agrees, once, to the plan for a machine that was found unsafe. A machine that waits for nothing of the kind stays
    /// as it is.
    async fn clear_safety_shutoff(&self, hostname: &str) -> Result<Consent, FleetError>;

    /// Has the update of a machine made, once, that waits for leave to disturb the machine's users. A machine that waits
    /// for nothing of the kind stays as it is.
    async fn force_disruptive_update(&self, hostname: &str) -> Result<Consent, FleetError>;

    /// Makes a machine what it must be before its time and before others; nothing, when there is no such machine. Whoever
    /// drops what is returned waits no more, and the machine has to wait like the others again.
    async fn fast_update(&self, hostname: &str, order: FastUpdate) -> Result<Option<Progress>, FleetError>;
}

/// Whether there was anything to agree to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    /// There was, and it is done.
    Given,
    /// The machine does not wait for it; how it stands.
    NotWaiting(Status),
    /// There is no such machine.
    NoSuchMachine,
}

/// How a machine stands that somebody waits for: whenever that changes, and now and then. It ends with the first
/// [`Stage::Over`], or with an error.
pub type Progress = BoxStream<'static, Result<Standing, FleetError>>;

/// How a machine stands that somebody waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// In a word.
    pub status: Status,
    /// Why, if there is more to say; else empty.
    pub detail: String,
    /// Whether it is worth waiting.
    pub stage: Stage,
}

/// Whether it is worth waiting for a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is.
    UnderWay,
    /// The machine is what it must be, or won't be until somebody does something about what its status says.
    Over,
}

/// How a machine stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubInfo {
    /// Its name.
    pub hostname: String,
    /// The image it must be.
    pub required_image: Option<ImageName>,
    /// The image it will be.
    pub planned_image: Option<ImageName>,
    /// The image it was last made to be, as far as is known.
    pub last_image: Option<ImageName>,
    /// How it stands.
    pub status: Status,
    /// Why, if there is more to say; else empty.
    pub detail: String,
    /// Since when, to the second.
    pub since: SystemTime,
    /// When it was last heard of, to the second.
    pub last_heard: Option<SystemTime>,
    /// How many paths of it are unknown.
    pub unknown: u64,
}

/// Whether machines are changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Switch {
    /// They are.
    #[default]
    Enabled,
    /// They are looked at only.
    Disabled,
}

/// Whether machines are changed, and who decided so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Updates {
    /// Whether.
    pub switch: Switch,
    /// Why, in the words of who decided.
    pub reason: String,
    /// The user name of who decided; empty if nobody ever did.
    pub who: String,
    /// When, to the second.
    pub when: SystemTime,
}

impl Default for Updates {
    fn default() -> Self {
        Self { switch: Switch::Enabled, reason: String::new(), who: String::new(), when: UNIX_EPOCH }
    }
}

/// What can go wrong with a fleet.
#[derive(Clone, Debug, Error)]
pub enum FleetError {
    /// The caller lacks the right.
    #[error("{0}")]
    Denied(String),
    /// The controller can't be reached or went away; try again.
    #[error("the controller can't be reached")]
    Unreachable(#[source] Cause),
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
