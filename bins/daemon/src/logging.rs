//! Logs go to standard error, as text for people or one JSON object a line for collectors.

use std::io;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use crate::failure::{During, Failure};

/// How to log.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Logging")]
pub struct LogOptions {
    /// How log lines look
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or per crate as in info,dominator_rpc=debug
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
}

/// The look of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogOptions {
    /// Logs from now on.
    ///
    /// # Errors
    /// [`Failure`] when the level is none, or something logs already.
    pub fn start(&self) -> Result<(), Failure> {
        let filter = EnvFilter::builder()
            .parse(&self.log_level)
            .during(|| format!("--log-level can't be {:?}", self.log_level))?;
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
        let started = match self.log_format {
            LogFormat::Text => builder.with_ansi(false).try_init(),
            LogFormat::Json => builder.json().try_init(),
        };
        started.during(|| "can't start logging".into())
    }
}
