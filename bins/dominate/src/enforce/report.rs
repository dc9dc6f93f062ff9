use std::io::{self, Write};
use std::time::Duration;

use dominator_core::plan::{Plan, PlanSummary};
use dominator_core::port::{PathFailure, ServiceOutcome, UpdateReport};
use dominator_daemon::plan::PlanShown;
use dominator_daemon::remark::{Remark, Step};
use dominator_daemon::report::{Format, Show, show};
use dominator_daemon::{During, Failure};
use dominator_fs::scan::Fact;
use serde::Serialize;

use super::places::Liveness;
use crate::{Verdict, scan};

/// What `--json` prints, with `--watch` one a line; docs/schemas/dominate-enforce.json.
#[derive(Serialize)]
pub(super) struct Round {
    pub(super) verdict: Verdict,
    plan: PlanShown,
    operations: Vec<Step>,
    pub(super) applied: u64,
    failures: Vec<Remark>,
    kept: Vec<String>,
    unknown: Vec<Remark>,
    services: Vec<Service>,
    window_seconds: f64,
    seconds: f64,
}

#[derive(Serialize)]
struct Service {
    service: String,
    action: String,
    /// It was named, not touched: the root is not that of the running system.
    only_named: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Round {
    /// How many operations are listed for people when they were carried out.
    const LISTED: usize = 50;

    /// What came of `plan`.
    pub(super) fn of(
        plan: &Plan,
        summary: &PlanSummary,
        done: &UpdateReport,
        unknown: &[Fact],
        liveness: Liveness,
        time: Duration,
    ) -> Self {
        let failed = |f: &PathFailure| Remark::new(&f.path, f.reason.as_str());
        let service = |outcome: &ServiceOutcome| Service {
            service: outcome.service.clone(),
            action: outcome.action.clone(),
            only_named: liveness == Liveness::Other,
            error: outcome.error.clone(),
        };
        let as_planned = done.is_success() && (plan.is_empty() || done.applied > 0);
        let verdict = match (as_planned, unknown.is_empty()) {
            (false, _) => Verdict::Deviant,
            (true, false) => Verdict::CouldNotLook,
            (true, true) => Verdict::Compliant,
        };
        Self {
            verdict,
            plan: PlanShown::from(summary),
            operations: plan.operations.iter().map(Step::from).collect(),
            applied: done.applied,
            failures: done.failures.iter().map(failed).collect(),
            kept: done.kept.iter().map(ToString::to_string).collect(),
            unknown: scan::unknown(unknown),
            services: done.services.iter().map(service).collect(),
            window_seconds: done.window.as_secs_f64(),
            seconds: time.as_secs_f64(),
        }
    }

    /// Prints it by itself.
    pub(super) fn print(&self, format: Format, dry_run: bool) -> Result<(), Failure> {
        match (format, dry_run) {
            (Format::Text, true) => show(&DryRun(self), format),
            (Format::Text, false) | (Format::Json, _) => show(self, format),
        }
    }

    /// Prints it as one of many.
    pub(super) fn print_line(&self, format: Format) -> Result<(), Failure> {
        match format {
            Format::Text => show(self, format),
            Format::Json => {
                let mut out = io::stdout().lock();
                let written = serde_json::to_writer(&mut out, self)
                    .map_err(io::Error::from)
                    .and_then(|()| writeln!(out))
                    .and_then(|()| out.flush());
                written.during(|| "can't print the result".into())
            }
        }
    }

    /// What is not as it must be after the round, for comparison with the round before.
    pub(super) fn remains(&self) -> Vec<String> {
        let failures = self.failures.iter().map(|failed| failed.path.clone());
        let unknown = self.unknown.iter().map(|unseen| unseen.path.clone());
        failures.chain(self.kept.iter().cloned()).chain(unknown).collect()
    }

    fn remarks(&self, out: &mut dyn Write) -> io::Result<()> {
        for path in &self.kept {
            writeln!(out, "{path}: must go, but holds what is not looked at; left alone")?;
        }
        self.unknown.iter().try_for_each(|unseen| writeln!(out, "{unseen}; left alone"))
    }
}

impl Show for Round {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        for operation in self.operations.iter().take(Self::LISTED) {
            writeln!(out, "{operation}")?;
        }
        if let Some(more) = self.operations.len().checked_sub(Self::LISTED).filter(|more| *more > 0) {
            writeln!(out, "… and {more} operations more")?;
        }
        for failed in &self.failures {
            writeln!(out, "{}: failed: {}", failed.path, failed.detail)?;
        }
        self.remarks(out)?;
        for service in &self.services {
            let said = match (&service.error, service.only_named) {
                (Some(error), _) => format!(": failed: {error}"),
                (None, true) => " would be due; this is not the running system".into(),
                (None, false) => String::new(),
            };
            writeln!(out, "{} {}{said}", service.action, service.service)?;
        }
        if self.operations.is_empty() {
            return writeln!(out, "nothing to do ({:.3} s)", self.seconds);
        }
        let (applied, failed) = (self.applied, self.failures.len());
        let window = self.window_seconds;
        writeln!(
            out,
            "{applied} operations done, {failed} failed ({:.3} s; paths changed within {window:.3} s)",
            self.seconds
        )
    }
}

/// The same as a plan.
#[derive(Serialize)]
struct DryRun<'a>(&'a Round);

impl Show for DryRun<'_> {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.0.operations.iter().try_for_each(|operation| writeln!(out, "{operation}"))?;
        self.0.unknown.iter().try_for_each(|unseen| writeln!(out, "{unseen}; left alone"))?;
        if !self.0.operations.is_empty() {
            writeln!(out)?;
        }
        self.0.plan.text(out)?;
        match self.0.operations.len() {
            0 => writeln!(out, "nothing to do"),
            count => writeln!(out, "{count} operations to do"),
        }
    }
}
