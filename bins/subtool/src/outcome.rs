//! What became of an update, of services and of checks, as shown.

use std::io::{self, Write};
use std::process::ExitCode;

use dominator_core::health::HealthOutcome;
use dominator_core::port::{PathFailure, ServiceOutcome, UpdateOutcome, UpdateReport};
use dominator_daemon::remark::Remark;
use dominator_daemon::report::Show;
use serde::Serialize;

/// What an order to change the machine came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    outcome: Outcome,
    success: bool,
    applied: u64,
    kept: Vec<String>,
    failures: Vec<Remark>,
    failure_count: u64,
    services: Vec<Service>,
    health: Vec<Check>,
    window_seconds: f64,
}

/// What an update came to, in a word, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Outcome {
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    not_as_before: Vec<Remark>,
}

/// What was done to a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Service {
    service: String,
    action: String,
    before: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What became of a health check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Check {
    name: String,
    attempts: u32,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl From<&UpdateReport> for Report {
    fn from(report: &UpdateReport) -> Self {
        Self {
            outcome: Outcome::from(&report.outcome),
            success: report.is_success(),
            applied: report.applied,
            kept: report.kept.iter().map(ToString::to_string).collect(),
            failures: remarks(&report.failures),
            failure_count: (report.failures.len() as u64).saturating_add(report.more_failures),
            services: report.services.iter().map(Service::from).collect(),
            health: report.health.iter().map(Check::from).collect(),
            window_seconds: report.window.as_secs_f64(),
        }
    }
}

impl Report {
    /// What taking an update back came to: here that it was undone is what was wanted.
    pub(crate) fn of_undoing(report: &UpdateReport) -> Self {
        let undone = matches!(&report.outcome, UpdateOutcome::Undone { failures, .. } if failures.is_empty());
        let services = !report.services.iter().any(ServiceOutcome::is_failure);
        Self { success: undone && services && report.failures.is_empty(), ..Self::from(report) }
    }

    /// Whether the machine is what was wanted, as an exit status.
    pub(crate) fn status(&self) -> ExitCode {
        if self.success { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

impl From<&UpdateOutcome> for Outcome {
    fn from(outcome: &UpdateOutcome) -> Self {
        let (why, failures) = match outcome {
            UpdateOutcome::Made => (None, [].as_slice()),
            UpdateOutcome::OnTrial { why } => (Some(why.to_string()), [].as_slice()),
            UpdateOutcome::Undone { why, detail, failures } => {
                let why = why.to_string();
                let why = if detail.is_empty() || *detail == why { why } else { format!("{why}: {detail}") };
                (Some(why), failures.as_slice())
            }
            UpdateOutcome::NotMade { why } => (Some(why.clone()), [].as_slice()),
        };
        Self { outcome: outcome.text(), why, not_as_before: remarks(failures) }
    }
}

impl Outcome {
    /// For people.
    pub(crate) fn words(&self) -> String {
        let word = match self.outcome {
            "on-trial" => "in place, and judged later",
            "not-made" => "not made",
            word => word,
        };
        self.why.as_ref().map_or_else(|| word.into(), |why| format!("{word}: {why}"))
    }

    /// What is not as before although it was taken back.
    pub(crate) fn left(&self) -> impl Iterator<Item = &Remark> {
        self.not_as_before.iter()
    }
}

impl From<&ServiceOutcome> for Service {
    fn from(ServiceOutcome { service, action, before, error }: &ServiceOutcome) -> Self {
        Self { service: service.clone(), action: action.clone(), before: before.text(), error: error.clone() }
    }
}

impl From<&HealthOutcome> for Check {
    fn from(HealthOutcome { name, attempts, error, took }: &HealthOutcome) -> Self {
        Self { name: name.clone(), attempts: *attempts, seconds: took.as_secs_f64(), error: error.clone() }
    }
}

impl Service {
    /// For people.
    pub(crate) fn words(&self) -> String {
        let done = format!("{} {}", self.action, self.service);
        self.error.as_ref().map_or_else(|| done.clone(), |error| format!("{done}: failed: {error}"))
    }

    /// Whether it is as it was wanted, as an exit status.
    pub(crate) fn status(&self) -> ExitCode {
        if self.error.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

impl Check {
    /// For people.
    pub(crate) fn words(&self) -> String {
        let Self { name, attempts, seconds, error } = self;
        match error {
            None => format!("{name}: well after {seconds:.1} s"),
            Some(error) => format!("{name}: not well, tried {attempts} times in {seconds:.1} s: {error}"),
        }
    }
}

impl Show for Service {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", self.words())
    }
}

impl Show for Report {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.failures.iter().try_for_each(|failure| writeln!(out, "failed      {failure}"))?;
        let more = self.failure_count.saturating_sub(self.failures.len() as u64);
        if more > 0 {
            writeln!(out, "            and {more} more")?;
        }
        self.kept.iter().try_for_each(|path| writeln!(out, "kept        {path}"))?;
        self.services.iter().try_for_each(|service| writeln!(out, "service     {}", service.words()))?;
        self.health.iter().try_for_each(|check| writeln!(out, "check       {}", check.words()))?;
        self.outcome.left().try_for_each(|remark| writeln!(out, "left        {remark}"))?;
        let (applied, window) = (self.applied, self.window_seconds);
        write!(out, "{}", self.outcome.words())?;
        // What was taken back again need not be counted, and what nobody did can't be.
        match self.outcome.outcome {
            "made" | "on-trial" => {
                writeln!(out, "; {applied} operations done, paths changed within {window:.3} s")
            }
            _ => writeln!(out),
        }
    }
}

/// Failures path by path.
fn remarks(failures: &[PathFailure]) -> Vec<Remark> {
    failures.iter().map(|failure| Remark::new(&failure.path, failure.reason.as_str())).collect()
}
