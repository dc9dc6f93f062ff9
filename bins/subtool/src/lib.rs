//! Asks one machine's agent how the machine stands and what an image would change.
#![forbid(unsafe_code)]

mod limits;
mod poll;
mod request;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dominator_core::image::ImageName;
use dominator_core::port::{Boost, Percent, Reconfiguration};
use dominator_daemon::process::EXIT_STATUS;
use dominator_daemon::report::{OutputOptions, show};
use dominator_daemon::tls::TlsOptions;
use dominator_daemon::value::HostPort;
use dominator_daemon::{During, Failure};
use dominator_rpc::client::{RemoteAgent, RemoteImages};

/// Asks one machine's subd how the machine stands and what an image would change, and says how hard it may work. No
/// file of the machine is changed.
#[derive(Clone, Debug, Parser)]
#[command(name = "subtool", version, after_help = format!("{EXAMPLES}\n\n{EXIT_STATUS}"))]
pub struct Options {
    /// Talk to this subd
    #[arg(long, value_name = "HOST:PORT", default_value = "localhost:6969", global = true)]
    pub sub: HostPort,
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

const EXAMPLES: &str = "\
Examples:
  subtool --sub web1:6969 poll
  subtool --sub web1:6969 boost-scan-limit
  subtool --sub web1:6969 set-config --scan-speed-percent 10
  subtool --sub web1:6969 show-update-request web/2026-11-22 --image-server images:6971";

/// What can be done.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Show how the machine stands
    Poll,
    /// Lift the limit on processor time until the end of the scan under way, or of the next
    BoostCpuLimit,
    /// Lift the limit on reading from the disk until the end of the scan under way, or of the next
    BoostScanLimit,
    /// Show how hard subd may work and what it leaves alone
    GetConfig,
    /// Change how hard subd may work, until it ends
    ///
    /// To change it for good, change subd's configuration file.
    #[command(group(clap::ArgGroup::new("change").required(true).multiple(true)))]
    SetConfig {
        /// Take at most this share of the processors for scans, from 1 to 100; 100 is no limit
        #[arg(long, value_name = "PERCENT", group = "change")]
        cpu_percent: Option<Percent>,
        /// Take at most this share of the disk's speed for scans, from 1 to 100; 100 is no limit
        #[arg(long, value_name = "PERCENT", group = "change")]
        scan_speed_percent: Option<Percent>,
    },
    /// Show what would be done to make the machine be an image
    ///
    /// When subd looks through another view than the image needs, it is told to look through that one, and scans anew;
    /// the dominator sets its own view again when it polls next.
    ShowUpdateRequest {
        /// Which image
        image: ImageName,
        /// Get the image from this server
        #[arg(long, value_name = "HOST:PORT", default_value = "localhost:6971")]
        image_server: HostPort,
    },
}

/// Does what the options say.
///
/// # Errors
/// [`Failure`], when it could not be done.
pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let tls = options.tls.tool()?;
    let agent = RemoteAgent::connect(&tls, &options.sub.to_string()).await;
    let agent = agent.during(|| "nothing was done".into())?;
    let format = options.output.format();
    match options.command {
        Command::Poll => show(&poll::poll(&agent).await?, format)?,
        Command::BoostCpuLimit => show(&limits::boost(&agent, Boost::Cpu).await?, format)?,
        Command::BoostScanLimit => show(&limits::boost(&agent, Boost::Scan).await?, format)?,
        Command::GetConfig => show(&limits::configuration(&agent).await?, format)?,
        Command::SetConfig { cpu_percent, scan_speed_percent } => {
            let change = Reconfiguration { cpu: cpu_percent, scan_speed: scan_speed_percent };
            show(&limits::configure(&agent, change).await?, format)?;
        }
        Command::ShowUpdateRequest { image, image_server } => {
            let images = RemoteImages::connect(&tls, &image_server.to_string()).await;
            let images = images.during(|| format!("can't get {image}"))?;
            show(&request::request(&agent, &images, image).await?, format)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
