//! The `domtool` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    dominator_daemon::tool("domtool", domtool::run)
}
