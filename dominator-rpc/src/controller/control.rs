use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use dominator_core::herd::Status;
use dominator_core::image::ImageName;
use dominator_core::port::Cause;
use thiserror::Error;

/// What people see of a fleet and may tell it, here or from afar.
#[async_trait]
pub trait FleetControl: Send + Sync {
    /// The names of all machines, in order.
    async fn subs(&self) -> Result<Vec<String>, FleetError>;

    /// How machines stand, in order of their names; all of them, if none is named. Names nobody bears are passed over.
    async fn info(&self, hostnames: &[String]) -> Result<Vec<SubInfo>, FleetError>;

    /// Whether machines are changed, and who decided so.
    async fn updates(&self) -> Result<Updates, FleetError>;

    /// Decides whether machines are changed. Durable when it returns. A prohibition is in force at once, even if it could
    /// then not be kept durably.
    async fn switch_updates(&self, switch: Switch, reason: &str, who: &str) -> Result<(), FleetError>;

    /// Agrees, once, to the plan for a machine that was found unsafe. Whether there is such a machine; one that is not
    /// waiting for agreement stays as it is.
    async fn clear_safety_shutoff(&self, hostname: &str) -> Result<bool, FleetError>;
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
