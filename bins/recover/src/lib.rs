//! `subd-recover` brings an update to its end that was cut off, before anything else runs, and takes one back that nobody
//! has found healthy.
//!
//! It is one small program, linked statically: it runs on a machine whose libc is half swapped, needs no network, no other
//! program and no configuration, and shares with the agent the code that reads the journal.
//!
//! ```text
//! subd-recover boot [--root DIR] [--reboot]                     before sysinit, or from an initramfs
//! subd-recover guard [--root DIR] [--deadline S] --agent UNIT   beside an agent that was just replaced
//! init=/usr/sbin/subd-recover                                   as the first process of the machine
//! ```
//!
//! What is not here: services, and the record of what the machine is. Both are the agent's, which is told by the journal.

mod boot;
mod command;
mod first;
mod guard;
mod machine;
mod spell;

use std::ffi::OsString;
use std::process::ExitCode;

pub use boot::{Decision, Outcome, boot};
pub use command::{BadCommand, Command, Reboot};
pub use guard::{Watch, Watched, guard};
pub use machine::{Host, Machine, MachineError};

/// The exit status when the machine must be started anew and that was not asked for.
pub const REBOOT_NEEDED: u8 = 100;

/// Does what the arguments of this process say, or what the first process of a machine must.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if rustix::process::getpid().is_init() {
        return first::run(&arguments);
    }
    match Command::parse(&arguments) {
        Ok(Command::Help) => {
            say(Command::USAGE);
            ExitCode::SUCCESS
        }
        Ok(Command::Boot { root, reboot }) => boot::run(&root, reboot),
        Ok(Command::Guard(watch)) => guard::run(&watch),
        Err(error) => {
            say(&format!("{error}\n{}", Command::USAGE));
            ExitCode::from(2)
        }
    }
}

/// To the console, or the journal of the service manager; there is nobody to tell when even that fails.
fn say(what: &str) {
    use std::io::Write;
    drop(writeln!(std::io::stderr(), "subd-recover: {what}"));
}
