//! The command line of `dominate`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use dominate::{Options, Verdict};
use dominator_daemon::report::complain;

fn main() -> ExitCode {
    if let Some(answered) = dominator_manual::answer(Options::command) {
        return answered;
    }
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            // Nobody is left to be told when the terminal is gone.
            drop(error.print());
            return if error.use_stderr() { Verdict::Failed.into() } else { ExitCode::SUCCESS };
        }
    };
    match dominate::run(options) {
        Ok(verdict) => verdict.into(),
        Err(failure) => {
            complain("dominate", &failure);
            Verdict::Failed.into()
        }
    }
}
