use clap::{Args, Parser, Subcommand};
use dominator_core::auth::Role;
use dominator_daemon::process::EXIT_STATUS;
use dominator_daemon::report::OutputOptions;
use dominator_daemon::roles::role;
use dominator_daemon::tls::TlsOptions;
use dominator_daemon::value::{Duration, HostPort};
use dominator_rpc::client::LogQuery;
use dominator_rpc::log::Level;

/// Reads the log of a daemon from afar, and says what is logged.
#[derive(Clone, Debug, Parser)]
#[command(name = "logtool", version, after_help = format!("{EXAMPLES}\n\n{EXIT_STATUS}"))]
pub struct Options {
    /// The daemon
    #[arg(long, value_name = "HOST:PORT", global = true, default_value = "localhost:6969")]
    pub server: HostPort,
    /// What it must prove to be: subd, dominator, imageserver, … [default: by its port]
    #[arg(long, value_parser = role, global = true)]
    pub role: Option<Role>,
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
  logtool --server web1:6969 tail
  logtool --server web1:6969 watch --level warn --exclude 'connection refused'
  logtool --server web1:6969 set-level info,dominator_fs=debug --for 10m
  logtool --server web1:6969 print 'the disk was replaced'";

/// What can be done.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Show what is logged
    GetLevel,
    /// Have more or less logged, for a time
    SetLevel {
        /// error, warn, info, debug, trace or off, or by part of the program as in info,dominator_rpc=debug
        level: String,
        /// Then the usual level returns
        #[arg(long = "for", value_name = "TIME", default_value = "15m")]
        time: Duration,
        /// Until it is set again or the daemon ends
        #[arg(long, conflicts_with = "time")]
        keep: bool,
    },
    /// Write a line into the log, with your name
    Print {
        /// What it says
        text: String,
        /// How bad it is: error, warn, info, debug or trace
        #[arg(long, default_value = "info")]
        level: Level,
    },
    /// Show the last lines
    Tail {
        /// How many are looked at
        #[arg(short = 'n', long, value_name = "COUNT", default_value = "1024")]
        lines: u32,
        /// Which lines.
        #[command(flatten)]
        which: Which,
    },
    /// Show lines as they are logged, until you or the daemon end it
    ///
    /// A daemon never waits for who watches: what could not be sent in time is overwritten, and it is said how much that was.
    Watch {
        /// Begin with so many that were logged before
        #[arg(short = 'n', long, value_name = "COUNT", default_value = "0")]
        last: u32,
        /// Which lines.
        #[command(flatten)]
        which: Which,
    },
}

/// Which lines to see.
#[derive(Clone, Debug, Args)]
pub struct Which {
    /// Only lines of this level or worse
    #[arg(long)]
    pub level: Option<Level>,
    /// Only lines in which this regular expression finds something
    #[arg(long, value_name = "REGEX", default_value = "", hide_default_value = true)]
    pub include: String,
    /// No lines in which this one does
    #[arg(long, value_name = "REGEX", default_value = "", hide_default_value = true)]
    pub exclude: String,
}

impl Which {
    /// The last lines.
    pub(super) fn query(self, last: u32) -> LogQuery {
        let Self { level, include, exclude } = self;
        LogQuery { last, follow: false, level, include, exclude }
    }

    /// Those, and what comes.
    pub(super) fn following(self, last: u32) -> LogQuery {
        LogQuery { follow: true, ..self.query(last) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn a_level_is_set_for_a_time_unless_it_is_to_be_kept() {
        Options::command().debug_assert();
        let parse = |words: &[&str]| {
            let words = ["logtool", "--server=x:6969", "set-level", "debug"].iter().chain(words);
            match Options::try_parse_from(words).map(|options| options.command) {
                Ok(Command::SetLevel { time, keep, .. }) => Some((time.get().as_secs(), keep)),
                _ => None,
            }
        };
        assert_eq!(parse(&[]), Some((900, false)));
        assert_eq!(parse(&["--for=1h"]), Some((3600, false)));
        assert_eq!(parse(&["--keep"]), Some((900, true)));
        assert_eq!(parse(&["--keep", "--for=1h"]), None);
    }
}
