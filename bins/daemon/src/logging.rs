//! Logs go to standard error, as text for people or one JSON object a line for collectors.

use std::io::{self, Write};

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

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

/// Whether those who connect have to prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// They have.
    Demanded,
    /// They have not, and every line of the log says so: nobody must come upon that by chance only.
    Waived,
}

impl LogOptions {
    /// Logs from now on.
    ///
    /// # Errors
    /// [`Failure`] when the level is none, or something logs already.
    pub fn start(&self, proof: Proof) -> Result<(), Failure> {
        let filter = EnvFilter::builder()
            .parse(&self.log_level)
            .during(|| format!("--log-level can't be {:?}", self.log_level))?;
        let lines = Lines { format: self.log_format, proof };
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(lines);
        let started = match self.log_format {
            LogFormat::Text => builder.with_ansi(false).try_init(),
            LogFormat::Json => builder.json().try_init(),
        };
        started.during(|| "can't start logging".into())
    }
}

/// Where lines go.
#[derive(Clone, Copy, Debug)]
struct Lines {
    format: LogFormat,
    proof: Proof,
}

impl Lines {
    /// A line as it is written.
    fn marked(self, line: &[u8]) -> Vec<u8> {
        match (self.proof, self.format) {
            (Proof::Demanded, _) => line.to_vec(),
            (Proof::Waived, LogFormat::Text) => [b"INSECURE ", line].concat(),
            (Proof::Waived, LogFormat::Json) => match line.strip_prefix(b"{") {
                Some(rest) => [b"{\"insecure\":true,", rest].concat(),
                None => line.to_vec(),
            },
        }
    }
}

impl Write for Lines {
    /// The subscriber writes a line at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        io::stderr().lock().write_all(&self.marked(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_says_so_where_nobody_has_to_prove_anything() {
        let written = |format, proof, line: &str| {
            String::from_utf8(Lines { format, proof }.marked(line.as_bytes())).unwrap()
        };
        assert_eq!(written(LogFormat::Text, Proof::Waived, "INFO listening\n"), "INSECURE INFO listening\n");
        assert_eq!(written(LogFormat::Json, Proof::Waived, "{\"a\":1}\n"), "{\"insecure\":true,\"a\":1}\n");
        assert_eq!(written(LogFormat::Text, Proof::Demanded, "INFO listening\n"), "INFO listening\n");
    }
}
