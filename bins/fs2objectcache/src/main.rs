//! The `fs2objectcache` program.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

fn main() -> ExitCode {
    if let Some(answered) = dominator_manual::answer(fs2objectcache::Options::command) {
        return answered;
    }
    dominator_daemon::process::answer(
        "fs2objectcache",
        fs2objectcache::run(&fs2objectcache::Options::parse()),
    )
}
