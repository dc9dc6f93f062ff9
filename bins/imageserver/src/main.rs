//! The `imageserver` daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    dominator_daemon::daemon(
        imageserver::DAEMON,
        |options: &imageserver::Options| &options.common,
        imageserver::serve,
    )
}
