//! The `imagetool` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    dominator_daemon::tool("imagetool", imagetool::run)
}
