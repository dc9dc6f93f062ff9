//! The first process of a machine whose libc, or whose init, may be half swapped: what was cut off is brought to its end,
//! and then this process becomes init.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};

use crate::boot::{self, Decision};
use crate::machine::{Ended, Host, ended};
use crate::{REBOOT_NEEDED, say};

/// What may be the init of a machine, in the order the kernel itself has them.
const INITS: [&str; 6] =
    ["/sbin/init", "/lib/systemd/systemd", "/etc/init", "/bin/init", "/bin/sh", "/usr/bin/sh"];
/// How long a machine waits. On a disk that turns, a hundred thousand files take minutes; one that answers no more must
/// not keep a machine from starting that could be looked at.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// Comes back only when there is nothing that this process could become.
pub(crate) fn run(arguments: &[OsString]) -> ExitCode {
    if boot::may_have_journal(Path::new("/")) {
        match recover() {
            // Who rules services comes after this.
            Ok(Decision::GoOn | Decision::ReadAgain) => {}
            Ok(Decision::StartAnew) => {
                say("the machine is started anew");
                if let Err(error) = Host.restart_at_once() {
                    say(&error.to_string());
                }
            }
            // A machine that starts with what it has can be repaired.
            Err(why) => say(&why),
        }
    }
    for init in INITS {
        let Err(error) = become_init(init, arguments);
        say(&format!("{init}: {error}"));
    }
    ExitCode::FAILURE
}

fn recover() -> Result<Decision, String> {
    // Both stay as they were found: it is init's to check the root before it is written to.
    let proc = !Path::new("/proc/self").exists();
    if proc {
        mount("proc", "/proc", "proc", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)
            .map_err(|error| format!("/proc can't be mounted: {error}"))?;
    }
    let read_only = is_read_only();
    if read_only {
        mount_remount("/", MountFlags::empty(), "")
            .map_err(|error| format!("the root can't be made writable: {error}"))?;
    }
    let decision = decide();
    // Whoever is at work still keeps the root busy.
    if read_only
        && decision != Err(LATE)
        && let Err(error) = mount_remount("/", MountFlags::RDONLY, "")
    {
        say(&format!("the root stays writable: {error}"));
    }
    if proc && let Err(error) = unmount("/proc", UnmountFlags::DETACH) {
        say(&format!("/proc stays mounted: {error}"));
    }
    decision.map_err(str::to_owned)
}

const LATE: &str = "recovery takes too long; it is gone on with at the next start";

/// Lets another process do it: the kernel stops when its first one dies, or never ends.
fn decide() -> Result<Decision, &'static str> {
    match ended(Command::new("/proc/self/exe").arg("boot"), LIMIT) {
        Ended::With(0) => Ok(Decision::GoOn),
        Ended::With(status) if status == i32::from(REBOOT_NEEDED) => Ok(Decision::StartAnew),
        Ended::With(_) => Err("the machine starts with what it has"),
        Ended::Died => Err("recovery died; the machine starts with what it has"),
        Ended::Late => Err(LATE),
    }
}

fn is_read_only() -> bool {
    rustix::fs::statvfs("/").is_ok_and(|stat| stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

fn become_init(init: &str, arguments: &[OsString]) -> Result<Infallible, io::Error> {
    Err(Command::new(init).args(arguments).exec())
}
