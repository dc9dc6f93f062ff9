//! The `logtool` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    dominator_daemon::tool("logtool", logtool::run)
}
