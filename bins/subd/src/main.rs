//! The `subd` daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    dominator_daemon::daemon(subd::DAEMON, |options: &subd::Options| &options.common, subd::serve)
}
