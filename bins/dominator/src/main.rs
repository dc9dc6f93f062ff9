//! The `dominator` daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    dominator_daemon::daemon(
        dominator::DAEMON,
        |options: &dominator::Options| &options.common,
        dominator::serve,
    )
}
