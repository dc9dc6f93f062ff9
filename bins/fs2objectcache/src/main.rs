//! The `fs2objectcache` program.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    dominator_daemon::process::answer(
        "fs2objectcache",
        fs2objectcache::run(&fs2objectcache::Options::parse()),
    )
}
