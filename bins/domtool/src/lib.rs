//! Asks the controller how the machines stand, and tells it whether to change them.
#![forbid(unsafe_code)]

mod consent;
mod fast;
mod subs;
mod updates;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use dominator_core::herd::Status;
use dominator_daemon::process::EXIT_STATUS;
use dominator_daemon::report::{Format, OutputOptions, show};
use dominator_daemon::tls::TlsOptions;
use dominator_daemon::value::{Duration, HostPort};
use dominator_daemon::{During, Failure};
use dominator_rpc::client::RemoteFleet;
use dominator_rpc::controller::{FleetControl as _, Switch};

use crate::consent::{Consents, Wish};
use crate::subs::{Infos, Subs};
use crate::updates::Decision;

/// Asks the controller how the machines stand, and tells it whether to change them.
#[derive(Clone, Debug, Parser)]
#[command(name = "domtool", version, after_help = format!("{EXAMPLES}\n\n{EXIT_STATUS}"))]
pub struct Options {
    /// Talk to this dominator
    #[arg(long, value_name = "HOST:PORT", default_value = "localhost:6970", global = true)]
    pub dominator: HostPort,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How to show results.
    #[command(flatten)]
    pub output: OutputOptions,
    /// Whom to be and whom to believe.
    #[command(flatten)]
    pub tls: TlsOptions,
}

const EXAMPLES: &str = r#"Examples:
  domtool list-subs --status "connection refused"
  domtool get-info-for-subs web1 web2 --json
  domtool disable-updates "the switch in row 7 is being replaced"
  domtool clear-safety-shutoff web1
  domtool fast-update web1 --fail-on-reboot"#;

/// What can be done.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// List the names of the machines
    ListSubs {
        /// Only those that stand so, as in synced, "updates disabled" or "connection refused"
        #[arg(long, value_name = "STATUS")]
        status: Option<Status>,
    },
    /// Show how machines stand: what they are, what they must be, and what is wrong
    GetInfoForSubs {
        /// Which machines [default: all]
        #[arg(value_name = "HOST")]
        hostnames: Vec<String>,
    },
    /// Let machines be changed again
    EnableUpdates {
        /// Why, for the log
        #[arg(default_value = "")]
        reason: String,
    },
    /// Keep every machine from being changed until updates are enabled again; they are still looked at
    DisableUpdates {
        /// Why, for whoever wonders
        reason: String,
    },
    /// Show whether machines are changed, and who decided so, when and why
    GetUpdatesState,
    /// Agree to the updates of machines that are left alone with the status "unsafe update"
    ClearSafetyShutoff {
        /// Which machines
        #[arg(value_name = "HOST", required = true)]
        hostnames: Vec<String>,
    },
    /// Have the updates made, once, of machines with the status "disruption requested" or "disruption denied"
    ForceDisruptiveUpdate {
        /// Which machines
        #[arg(value_name = "HOST", required = true)]
        hostnames: Vec<String>,
    },
    /// Make a machine what it must be, at once and before others, and show how that goes until it is over
    ///
    /// It is over when the machine is synced, or when it won't be until somebody does something about what its status
    /// says. What time may mend, as that the machine is down, is waited for.
    #[command(after_help = fast::EXIT_STATUS)]
    FastUpdate(FastOptions),
}

/// How far a fast update may go.
#[derive(Clone, Debug, Args)]
pub struct FastOptions {
    /// Which machine
    #[arg(value_name = "HOST")]
    pub hostname: String,
    /// Make no update that restarts the machine; it stays without until it must be another image, or until a fast update
    /// without this
    #[arg(long)]
    pub fail_on_reboot: bool,
    /// Don't ask whether those who use the machine may be disturbed
    #[arg(long)]
    pub force_disruption: bool,
    /// Also if the machine would lose more than half of what it has
    #[arg(long)]
    pub disable_safety_check: bool,
    /// Wait so long at most, as in 90s, 10m; the machine has to wait for its turn again then
    #[arg(long, value_name = "TIME", default_value = "15m")]
    pub timeout: Duration,
}

/// Does what the options say.
///
/// # Errors
/// [`Failure`], when it could not be done.
pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let tls = options.tls.tool()?;
    let fleet = RemoteFleet::connect(&tls, &options.dominator.to_string()).await;
    let fleet = fleet.during(|| "nothing was done".into())?;
    let format = options.output.format();
    match options.command {
        Command::ListSubs { status } => show(&list(&fleet, status).await?, format)?,
        Command::GetInfoForSubs { hostnames } => {
            let infos = fleet.info(&hostnames).await.during(|| "can't ask how the machines stand".into())?;
            let known = |name: &&String| infos.iter().any(|info| info.hostname == **name);
            refuse_stranger(hostnames.iter().find(|name| !known(name)))?;
            show(&Infos::of(&infos), format)?;
        }
        Command::EnableUpdates { reason } => {
            show(&switch(&fleet, Switch::Enabled, &reason).await?, format)?;
        }
        Command::DisableUpdates { reason } => {
            show(&switch(&fleet, Switch::Disabled, &reason).await?, format)?;
        }
        Command::GetUpdatesState => {
            let updates = fleet.updates().await.during(|| "can't ask about updates".into())?;
            show(&Decision::of(updates), format)?;
        }
        Command::ClearSafetyShutoff { hostnames } => {
            consent(&fleet, Wish::UnsafeUpdate, hostnames, format).await?;
        }
        Command::ForceDisruptiveUpdate { hostnames } => {
            consent(&fleet, Wish::Disruption, hostnames, format).await?;
        }
        Command::FastUpdate(fast) => {
            let outcome = fast::update(&fleet, &fast).await?;
            show(&outcome, format)?;
            return Ok(outcome.status());
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(fleet: &RemoteFleet, status: Option<Status>) -> Result<Subs, Failure> {
    let during = || "can't list the machines".into();
    let Some(status) = status else {
        return fleet.subs().await.map(Subs::of).during(during);
    };
    let infos = fleet.info(&[]).await.during(during)?;
    let standing = infos.into_iter().filter(|info| info.status == status);
    Ok(Subs::of(standing.map(|info| info.hostname).collect()))
}

async fn switch(fleet: &RemoteFleet, switch: Switch, reason: &str) -> Result<Decision, Failure> {
    // Who decided is what the certificate says; the server does not ask us.
    fleet.switch_updates(switch, reason, "").await.during(|| "can't decide on updates".into())?;
    Ok(Decision::made(switch))
}

async fn consent(
    fleet: &RemoteFleet,
    wish: Wish,
    hostnames: Vec<String>,
    format: Format,
) -> Result<(), Failure> {
    let (consents, strangers) = Consents::give(fleet, wish, hostnames).await?;
    show(&consents, format)?;
    refuse_stranger(strangers.first())
}

fn refuse_stranger(stranger: Option<&String>) -> Result<(), Failure> {
    stranger.map_or(Ok(()), |name| {
        Err(Failure::new(format!(
            "the machine data base has no machine {name:?}; list-subs names those it has"
        )))
    })
}
