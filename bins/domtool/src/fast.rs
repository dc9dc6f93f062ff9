//! A machine somebody waits for.

use std::io::{self, Write};
use std::process::ExitCode;

use dominator_core::herd::{FastUpdate, Leave, Safety, Status};
use dominator_core::port::{Disruption, Reboot};
use dominator_daemon::report::{Show, remark};
use dominator_daemon::{During, Failure};
use dominator_rpc::controller::{FleetControl, Progress, Stage, Standing};
use futures_util::TryStreamExt as _;
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use crate::{FastOptions, refuse_stranger};

/// What the exit status says.
pub(crate) const EXIT_STATUS: &str = "\
Exit status:
  0  the machine is what it must be
  1  it is not, or not yet
  2  it could not be found out, or the command line is wrong
  3  it is not, as it would have to be restarted";

/// What it came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Outcome {
    hostname: String,
    outcome: End,
    status: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
    seconds: f64,
}

/// In a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum End {
    Synced,
    Failed,
    RebootBlocked,
    TimeOver,
}

/// Waits for the machine, and says on standard error how it goes.
pub(crate) async fn update(fleet: &dyn FleetControl, options: &FastOptions) -> Result<Outcome, Failure> {
    let hostname = &options.hostname;
    let during = || format!("can't say what becomes of {hostname}");
    let began = Instant::now();
    let progress = fleet.fast_update(hostname, options.order()).await.during(during)?;
    let Some(progress) = progress else {
        refuse_stranger(Some(hostname))?;
        return Err(Failure::new("nobody is waited for"));
    };
    let mut last = None;
    let followed = timeout_at(began + options.timeout.get(), follow(hostname, progress, &mut last)).await;
    let is_over = followed.map_or(Ok(false), |followed| followed.map(|()| true)).during(during)?;
    let (status, detail) =
        last.map_or((Status::Unknown, String::new()), |Standing { status, detail, .. }| (status, detail));
    let outcome = match (is_over, status) {
        (false, _) => End::TimeOver,
        (true, Status::Synced) => End::Synced,
        (true, Status::RebootBlocked) => End::RebootBlocked,
        (true, _) => End::Failed,
    };
    let seconds = began.elapsed().as_secs_f64();
    Ok(Outcome { hostname: hostname.clone(), outcome, status: status.text(), detail, seconds })
}

/// Until it is over. What is told again only to be told is not said again.
async fn follow(
    hostname: &str,
    mut progress: Progress,
    last: &mut Option<Standing>,
) -> Result<(), dominator_rpc::controller::FleetError> {
    while let Some(standing) = progress.try_next().await? {
        if standing.stage == Stage::UnderWay && last.as_ref() != Some(&standing) {
            let Standing { status, detail, .. } = &standing;
            let why = if detail.is_empty() { String::new() } else { format!(": {detail}") };
            remark("domtool", &format!("{hostname}: {status}{why}"));
        }
        *last = Some(standing);
    }
    Ok(())
}

impl FastOptions {
    fn order(&self) -> FastUpdate {
        let leave = Leave {
            disruption: if self.force_disruption { Disruption::Force } else { Disruption::Ask },
            reboot: if self.fail_on_reboot { Reboot::Refused } else { Reboot::Allowed },
        };
        let safety = if self.disable_safety_check { Safety::ClearedOnce } else { Safety::Guarded };
        FastUpdate { leave, safety }
    }
}

impl Outcome {
    /// As an exit status.
    pub(crate) fn status(&self) -> ExitCode {
        match self.outcome {
            End::Synced => ExitCode::SUCCESS,
            End::Failed | End::TimeOver => ExitCode::FAILURE,
            End::RebootBlocked => ExitCode::from(3),
        }
    }
}

impl Show for Outcome {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { hostname, status, detail, seconds, .. } = self;
        let why = if detail.is_empty() { String::new() } else { format!(": {detail}") };
        match self.outcome {
            End::TimeOver => {
                writeln!(out, "{hostname}: {status}{why}; the time is over after {seconds:.0} s")
            }
            End::Synced | End::Failed | End::RebootBlocked => {
                writeln!(out, "{hostname}: {status} after {seconds:.1} s{why}")
            }
        }
    }
}
