//! The `objecttool` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    dominator_daemon::tool("objecttool", objecttool::run)
}
