//! The `list-methods` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    dominator_daemon::tool("list-methods", list_methods::run)
}
