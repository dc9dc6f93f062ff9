//! Asks the controller how the machines stand, and tells it whether to change them.
#![forbid(unsafe_code)]

mod subs;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dominator_core::herd::Status;
use dominator_daemon::report::{OutputOptions, remark, show};
use dominator_daemon::tls::TlsOptions;
use dominator_daemon::value::HostPort;
use dominator_daemon::{During, Failure};
use dominator_rpc::client::RemoteFleet;
use dominator_rpc::controller::{FleetControl as _, Switch};

use crate::subs::{Infos, Subs};

/// Asks the controller how the machines stand, and tells it whether to change them.
#[derive(Clone, Debug, Parser)]
#[command(name = "domtool", version, after_help = EXAMPLE)]
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

const EXAMPLE: &str = r#"Examples:
  domtool list-subs --status "connection refused"
  domtool get-info-for-subs web1 web2 --json
  domtool disable-updates "the switch in row 7 is being replaced""#;

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
}

/// Does what the options say.
///
/// # Errors
/// [`Failure`], when it could not be done.
pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let tls = options.tls.tool()?;
    let address = options.dominator.to_string();
    let fleet = RemoteFleet::connect(&tls, &address).await.during(|| format!("can't reach {address}"))?;
    let format = options.output.format();
    match options.command {
        Command::ListSubs { status } => show(&list(&fleet, status).await?, format)?,
        Command::GetInfoForSubs { hostnames } => {
            let infos = fleet.info(&hostnames).await.during(|| "can't ask how the machines stand".into())?;
            refuse_strangers(&hostnames, &infos)?;
            show(&Infos::of(&infos), format)?;
        }
        Command::EnableUpdates { reason } => switch(&fleet, Switch::Enabled, &reason).await?,
        Command::DisableUpdates { reason } => switch(&fleet, Switch::Disabled, &reason).await?,
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

async fn switch(fleet: &RemoteFleet, switch: Switch, reason: &str) -> Result<(), Failure> {
    // Who decided is what the certificate says; the server does not ask us.
    fleet.switch_updates(switch, reason, "").await.during(|| "can't decide on updates".into())?;
    let words = match switch {
        Switch::Enabled => "updates are enabled",
        Switch::Disabled => "updates are disabled for all machines",
    };
    remark("domtool", words);
    Ok(())
}

fn refuse_strangers(asked: &[String], infos: &[dominator_rpc::controller::SubInfo]) -> Result<(), Failure> {
    let known = |name: &&String| infos.iter().any(|info| info.hostname == **name);
    match asked.iter().find(|name| !known(name)) {
        Some(stranger) => Err(Failure::new(format!("the machine data base has no machine {stranger:?}"))),
        None => Ok(()),
    }
}
