//! Health: what must be true of a machine for an update to stay. An image says what is checked; [`Judgement`] says when,
//! and what it comes to, without doing any of it.

mod json;
mod judgement;
mod probe;

pub use judgement::{Attempt, HealthOutcome, Judgement, Next};
pub use probe::{Address, Probe, Url};

use std::time::Duration;

use thiserror::Error;

/// What is checked once an update is in place and services run again: all of it must come true before the deadline, or
/// the update is taken back. In JSON as `docs/formats/health.md` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthChecks {
    checks: Vec<HealthCheck>,
    deadline: Duration,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// What people call it, unique within an image.
    pub name: String,
    /// What is tried.
    pub probe: Probe,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// How often it is tried again once it failed; as often as the deadline allows, if not given.
    pub retries: Option<u32>,
    /// How long after a failed attempt the next begins.
    pub delay: Duration,
}

impl HealthChecks {
    /// How many there may be.
    pub const MAX_COUNT: usize = 100;
    /// The longest deadline.
    pub const MAX_DEADLINE: Duration = Duration::from_secs(3600);
    /// The deadline, unless said otherwise.
    pub const DEADLINE: Duration = Duration::from_secs(60);
    /// How long one attempt may take, unless said otherwise.
    pub const TIMEOUT: Duration = Duration::from_secs(5);
    /// How long after a failed attempt the next begins, unless said otherwise.
    pub const DELAY: Duration = Duration::from_secs(1);
    /// The least time between two attempts: a probe that fails at once must not keep a processor busy.
    pub const MIN_DELAY: Duration = Duration::from_millis(10);
    /// The longest JSON text accepted, in bytes.
    pub const MAX_JSON: usize = 256 * 1024;
    /// The longest name, in bytes.
    pub const MAX_NAME: usize = 200;

    /// Checks with their deadline.
    ///
    /// # Errors
    /// [`BadHealth`] naming the first check that is wrong.
    pub fn new(checks: Vec<HealthCheck>, deadline: Duration) -> Result<Self, BadHealth> {
        if checks.len() > Self::MAX_COUNT {
            return Err(BadHealth::TooMany);
        }
        if deadline.is_zero() || deadline > Self::MAX_DEADLINE || !is_whole(deadline) {
            return Err(BadHealth::Deadline);
        }
        let mut names = std::collections::BTreeSet::new();
        for check in &checks {
            check.test(deadline)?;
            if !names.insert(&check.name) {
                return Err(BadHealth::Twice { name: check.name.clone() });
            }
        }
        Ok(Self { checks, deadline })
    }

    /// The checks, in the order they were given.
    pub fn iter(&self) -> impl Iterator<Item = &HealthCheck> {
        self.checks.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.checks.len()
    }

    /// Whether there are none: then only the services' starts are judged.
    pub fn is_empty(&self) -> bool {
        self.checks.is_empty()
    }

    /// How long after services were started all must be well.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }
}

impl Default for HealthChecks {
    fn default() -> Self {
        Self { checks: Vec::new(), deadline: Self::DEADLINE }
    }
}

impl HealthCheck {
    /// A check with the usual patience.
    pub fn new(name: impl Into<String>, probe: Probe) -> Self {
        Self {
            name: name.into(),
            probe,
            timeout: HealthChecks::TIMEOUT,
            retries: None,
            delay: HealthChecks::DELAY,
        }
    }

    fn test(&self, deadline: Duration) -> Result<(), BadHealth> {
        let named = |why: &'static str| {
            Err(BadHealth::Check { name: self.name.chars().take(80).collect(), why: why.into() })
        };
        if self.name.is_empty() || self.name.len() > HealthChecks::MAX_NAME {
            return named("its name is empty or too long");
        }
        if self.name.chars().any(char::is_control) {
            return named("its name holds what no terminal can show");
        }
        if self.timeout.is_zero() || self.timeout > deadline.max(HealthChecks::TIMEOUT) {
            return named("its time limit is nothing, or longer than the deadline");
        }
        if self.delay < HealthChecks::MIN_DELAY || self.delay > HealthChecks::MAX_DEADLINE {
            return named("its delay is less than 10 ms or more than an hour");
        }
        if !is_whole(self.timeout) || !is_whole(self.delay) {
            return named("its times are no whole milliseconds");
        }
        self.probe.test().or_else(named)
    }
}

/// Whether a time survives being written down.
fn is_whole(time: Duration) -> bool {
    time.subsec_nanos().is_multiple_of(1_000_000)
}

/// Health checks that can't be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BadHealth {
    /// Not the JSON it should be.
    #[error("health checks are no object of {{Deadline, Checks}}: {0}")]
    Json(String),
    /// A check that could not be made.
    #[error("the health check {name:?} can't be used: {why}")]
    Check {
        /// Which.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// Two of one name.
    #[error("there are two health checks {name:?}; give each a name of its own")]
    Twice {
        /// Which.
        name: String,
    },
    /// A deadline that is none.
    #[error("the deadline of health checks is more than nothing and at most an hour, in whole milliseconds")]
    Deadline,
    /// More than anybody needs.
    #[error(
        "more than {} health checks, or more than {} bytes of them",
        HealthChecks::MAX_COUNT,
        HealthChecks::MAX_JSON
    )]
    TooMany,
}
