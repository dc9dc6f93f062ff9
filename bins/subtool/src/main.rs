//! The `subtool` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    dominator_daemon::tool("subtool", subtool::run)
}
