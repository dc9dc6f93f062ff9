//! Asks the controller how the machines stand, and tells it whether to change them.
#![forbid(unsafe_code)]

mod subs;
mod updates;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dominator_core::herd::Status;
use dominator_daemon::process::EXIT_STATUS;
use dominator_daemon::report::{OutputOptions, show};
use dominator_daemon::tls::TlsOptions;
use dominator_daemon::value::HostPort;
use dominator_daemon::{During, Failure};
use dominator_rpc::client::RemoteFleet;
use dominator_rpc::controller::{FleetControl as _, Switch};

use crate::subs::{Infos, Subs};
use crate::updates::{Cleared, Decision};

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
  domtool clear-safety-shutoff web1"#;

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
            let (cleared, strangers) = clear(&fleet, hostnames).await?;
            show(&Cleared::of(cleared), format)?;
            refuse_stranger(strangers.first())?;
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

/// Those of the machines that the controller knows, and those that it does not.
async fn clear(fleet: &RemoteFleet, hostnames: Vec<String>) -> Result<(Vec<String>, Vec<String>), Failure> {
    let (mut cleared, mut strangers) = (Vec::new(), Vec::new());
    for name in hostnames {
        let known = fleet.clear_safety_shutoff(&name).await;
        match known.during(|| format!("can't clear the safety shut-off of {name}"))? {
            true => cleared.push(name),
            false => strangers.push(name),
        }
    }
    Ok((cleared, strangers))
}

fn refuse_stranger(stranger: Option<&String>) -> Result<(), Failure> {
    stranger.map_or(Ok(()), |name| {
        Err(Failure::new(format!(
            "the machine data base has no machine {name:?}; list-subs names those it has"
        )))
    })
}
