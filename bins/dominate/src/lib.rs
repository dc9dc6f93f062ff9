//! The embedded default: what a fleet does, done to one directory in one process. `check` says in what a directory
//! differs from an image, `enforce` makes and keeps it so, `undo` takes that back, `scan` says what it is, and `demo` runs a
//! whole fleet.
//!
//! ```
//! use dominate::{Options, Verdict};
//! use clap::Parser;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (image, root) = (tempfile::tempdir()?, tempfile::tempdir()?);
//! # let (image, root) = (image.path().to_str().unwrap_or("."), root.path().to_str().unwrap_or("."));
//! std::fs::write(format!("{image}/motd"), "welcome\n")?;
//! let command = |verb: &str| Options::try_parse_from(["dominate", verb, "--image", image, "--root", root]);
//! assert_eq!(dominate::run(command("check")?)?, Verdict::Deviant);
//! assert_eq!(dominate::run(command("enforce")?)?, Verdict::Compliant);
//! assert_eq!(dominate::run(command("check")?)?, Verdict::Compliant);
//! # Ok(())
//! # }
//! ```
//!
//! # What is not here
//! Decisions, file-systems and protocols: those are the libraries'. This joins them.
#![forbid(unsafe_code)]

mod check;
mod conflicts;
pub mod demo;
mod enforce;
mod input;
mod options;
mod progress;
mod scan;
mod source;
mod undo;
mod verdict;

pub use options::{
    CheckOptions, Command, DemoOptions, EnforceOptions, ImageOptions, Options, RootOptions, ScanOptions,
};
pub use verdict::Verdict;

use dominator_daemon::Failure;

/// Carries a command out and shows what came of it.
///
/// # Errors
/// [`Failure`], for people to read.
pub fn run(options: Options) -> Result<Verdict, Failure> {
    let format = options.output.format();
    match options.command {
        Command::Check(options) => check::run(&options, format),
        Command::Enforce(options) => enforce::run(options, format),
        Command::Scan(options) => scan::run(&options, format),
        Command::Undo(options) => undo::undo(&options, format),
        Command::Recover(options) => undo::recover(&options, format),
        Command::RemoveConflicts(options) => conflicts::remove(&options, format),
        Command::Demo(options) => demo::run(&options, format),
        Command::DemoHand(hand) => demo::lend_a_hand(&hand),
    }
}
