//! Asks one machine's agent how the machine stands and what an image would change.
#![forbid(unsafe_code)]

mod poll;
mod request;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dominator_core::image::ImageName;
use dominator_daemon::process::EXIT_STATUS;
use dominator_daemon::report::{OutputOptions, show};
use dominator_daemon::tls::TlsOptions;
use dominator_daemon::value::HostPort;
use dominator_daemon::{During, Failure};
use dominator_rpc::client::{RemoteAgent, RemoteImages};

/// Asks one machine's subd how the machine stands and what an image would change. No file is changed.
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
  subtool --sub web1:6969 show-update-request web/2026-11-22 --image-server images:6971";

/// What can be done.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Show how the machine stands
    Poll,
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
        Command::ShowUpdateRequest { image, image_server } => {
            let images = RemoteImages::connect(&tls, &image_server.to_string()).await;
            let images = images.during(|| format!("can't get {image}"))?;
            show(&request::request(&agent, &images, image).await?, format)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
