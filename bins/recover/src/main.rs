//! The `subd-recover` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    subd_recover::main()
}
