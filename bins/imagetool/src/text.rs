//! What is done with files of filters and triggers, without a server or a certificate.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use dominator_core::path::ImagePath;
use dominator_daemon::Failure;
use dominator_daemon::process::answer;
use dominator_daemon::report::{Format, show};

use crate::lint::Linted;
use crate::merge;
use crate::options::{image_path, path_or_nothing};

/// What can be done with filters and triggers.
#[derive(Clone, Debug, Subcommand)]
pub enum Text {
    /// Name what may not do what it seems to in a filter, in triggers, and in the tree they are for
    ///
    /// A line has to match from the beginning of a path, but not to its end: /tmp matches /tmpfoo as well. A `.` is any
    /// byte. What is in a directory that matches is left alone with it. Warnings are of lines that match too much or nothing;
    /// notes are worth knowing. Exits with 0 if there is no warning, with 1 if there is. Asks no server.
    #[command(visible_alias = "lint-filter")]
    Lint(LintOptions),
    /// Print several filter files as one
    MergeFilters {
        /// Filters, a line each; "" is that of a sparse image
        #[arg(value_name = "FILTERFILE", required = true, value_parser = path_or_nothing())]
        files: Vec<PathBuf>,
    },
    /// Print several files of triggers as one: those of a service are one, with the lines and the graver flags of all
    MergeTriggers {
        /// Triggers, as JSON
        #[arg(value_name = "TRIGGERFILE", required = true)]
        files: Vec<PathBuf>,
    },
}

/// What to look at for what may not be meant.
#[derive(Clone, Debug, clap::Args)]
pub struct LintOptions {
    /// The filter, a line each; "" is that of a sparse image
    #[arg(value_name = "FILTERFILE", value_parser = path_or_nothing())]
    pub filter: PathBuf,
    /// The triggers, as JSON; "" for none
    #[arg(value_name = "TRIGGERFILE", value_parser = path_or_nothing())]
    pub triggers: Option<PathBuf>,
    /// The tree they are for, a directory or a tar archive: name filter lines and trigger lines that match nothing in it, too,
    /// and what every machine needs and it lacks
    #[arg(long, value_name = "DIR|TAR")]
    pub tree: Option<PathBuf>,
    /// Say instead which lines match this path or a directory it is in, and what that means; exit with 0 if it is left
    /// alone, with 1 if not
    #[arg(long, value_name = "PATH", value_parser = image_path(), conflicts_with_all = ["triggers", "tree"])]
    pub explain: Option<ImagePath>,
}

impl Text {
    /// Does it.
    ///
    /// # Errors
    /// [`Failure`], when it could not be done.
    pub(crate) fn run(&self, format: Format) -> Result<ExitCode, Failure> {
        match self {
            Self::Lint(options) => return Ok(answer(crate::NAME, lint(options, format))),
            Self::MergeFilters { files } => show(&merge::filters(files)?, format)?,
            Self::MergeTriggers { files } => show(&merge::triggers(files)?, format)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Whether there is nothing to be said, or the path is left alone.
fn lint(options: &LintOptions, format: Format) -> Result<bool, Failure> {
    let linted = Linted::of(options)?;
    show(&linted, format)?;
    Ok(linted.is_yes())
}
