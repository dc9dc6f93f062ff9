//! Logs go to standard error, as text for people or one JSON object a line for collectors; and into a ring in memory, for
//! those who watch from elsewhere.

mod control;

use std::io::{self, Write};
use std::sync::OnceLock;

use clap::{Args, ValueEnum};
use dominator_rpc::log::{Level, LogRing};
use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, reload};

pub use control::LogControl;

use crate::failure::{During, Failure};

/// The one log that a process has.
static CONTROL: OnceLock<LogControl> = OnceLock::new();

/// Those through whom lines travel to who watches. What they say below this is not shown: each line would make another.
const CARRIERS: [&str; 6] = ["h2", "hyper", "rustls", "tokio", "tonic", "tower"];

/// The log of this process, if it was started.
pub fn control() -> Option<&'static LogControl> {
    CONTROL.get()
}

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
        if let Some(word) = control::misspelt(&self.log_level) {
            let why = "is neither a level nor TARGET=LEVEL";
            return Err(Failure::new(format!("--log-level can't be {:?}: {word:?} {why}", self.log_level)));
        }
        let filter = EnvFilter::builder()
            .parse(&self.log_level)
            .during(|| format!("--log-level can't be {:?}", self.log_level))?;
        let (filter, handle) = reload::Layer::new(filter);
        let ring = LogRing::new();
        let lines = Lines { format: self.log_format, proof, ring: ring.clone() };
        let layer = tracing_subscriber::fmt::layer().with_writer(lines);
        let layer = match self.log_format {
            LogFormat::Text => layer.with_ansi(false).boxed(),
            LogFormat::Json => layer.json().boxed(),
        };
        let started = tracing_subscriber::registry().with(filter).with(layer).try_init();
        CONTROL.get_or_init(|| LogControl::new(handle, &self.log_level, ring));
        started.during(|| "can't start logging".into())
    }
}

/// Where lines go.
#[derive(Clone, Debug)]
struct Lines {
    format: LogFormat,
    proof: Proof,
    ring: LogRing,
}

/// Where one line goes.
struct OneLine<'a> {
    lines: &'a Lines,
    /// What those see of it who watch.
    shown: Option<(Level, String)>,
}

impl Lines {
    /// A line as it is written.
    fn marked(&self, line: &[u8]) -> Vec<u8> {
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

impl Write for OneLine<'_> {
    /// The subscriber writes a line at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let marked = self.lines.marked(line);
        if let Some((level, target)) = &self.shown {
            // The same bytes: what is not to be seen in the log is not to be seen here.
            self.lines.ring.push(*level, target, String::from_utf8_lossy(&marked).trim_end());
        }
        io::stderr().lock().write_all(&marked)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = OneLine<'a>;

    fn make_writer(&'a self) -> OneLine<'a> {
        OneLine { lines: self, shown: None }
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> OneLine<'a> {
        let (level, target) = (level(about), about.target());
        let is_shown = level <= Level::Info || !is_carrier(target);
        OneLine { lines: self, shown: is_shown.then(|| (level, target.into())) }
    }
}

fn level(about: &Metadata<'_>) -> Level {
    match *about.level() {
        tracing::Level::ERROR => Level::Error,
        tracing::Level::WARN => Level::Warn,
        tracing::Level::INFO => Level::Info,
        tracing::Level::DEBUG => Level::Debug,
        tracing::Level::TRACE => Level::Trace,
    }
}

/// As `h2`, `h2::codec` and `hyper_util::client`.
fn is_carrier(target: &str) -> bool {
    let name = target.split([':', '_']).next().unwrap_or_default();
    CARRIERS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_says_so_where_nobody_has_to_prove_anything() {
        let written = |format, proof, line: &str| {
            let lines = Lines { format, proof, ring: LogRing::new() };
            String::from_utf8(lines.marked(line.as_bytes())).unwrap()
        };
        assert_eq!(written(LogFormat::Text, Proof::Waived, "INFO listening\n"), "INSECURE INFO listening\n");
        assert_eq!(written(LogFormat::Json, Proof::Waived, "{\"a\":1}\n"), "{\"insecure\":true,\"a\":1}\n");
        assert_eq!(written(LogFormat::Text, Proof::Demanded, "INFO listening\n"), "INFO listening\n");
    }

    #[tokio::test]
    async fn who_watches_sees_what_is_written_but_not_how_it_travels() {
        let ring = LogRing::new();
        let lines = Lines { format: LogFormat::Text, proof: Proof::Waived, ring: ring.clone() };
        let layer = tracing_subscriber::fmt::layer().with_writer(lines).with_ansi(false);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::info!(target: "imageserver", user = "alice", "hello");
            tracing::trace!(target: "h2::codec::framed_write", "send");
            tracing::debug!(target: "hyper_util::client", "send");
            tracing::warn!(target: "h2", "too many resets");
            tracing::debug!(target: "h2o", "not ours");
        });
        let batch = ring.tail(9).next().await.unwrap();
        let seen = |line: &dominator_rpc::log::Line| {
            let words = line.text.split("Z ").last().unwrap().trim().to_owned();
            (line.level, line.target.clone(), words)
        };
        let seen: Vec<_> = batch.lines.iter().map(|line| seen(line)).collect();
        let line = |level, target: &str, words: &str| (level, target.into(), words.into());
        let expected = [
            line(Level::Info, "imageserver", "INFO imageserver: hello user=\"alice\""),
            line(Level::Warn, "h2", "WARN h2: too many resets"),
            line(Level::Debug, "h2o", "DEBUG h2o: not ours"),
        ];
        assert_eq!(seen, expected);
        assert!(batch.lines.iter().all(|line| line.text.starts_with("INSECURE ")));
    }
}
