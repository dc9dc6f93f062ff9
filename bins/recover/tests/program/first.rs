use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use dominator_fs::seam::Kernel;
use dominator_fs::update::{BootId, Judged, Recovery};
use dominator_fs_testkit::{Access, mount_bind, mount_tmpfs, remount, unmount, with_mounts, write_script};
use rustix::process::Signal;
use subd_recover::boot;

use crate::root::{Machine, has_strace};

const MINUTE: Duration = Duration::from_secs(60);
/// The init of machines here: says what it finds.
const INIT: &str = "#!/bin/sh
echo init as process $$ with $*
[ -e /proc/self ] && echo proc
(: >/written) 2>&- && rm /written && echo writable
exit 0
";

/// A machine with an init and nothing mounted, on a file-system of its own. Only with mounts of one's own.
fn machine(place: &Path) -> Machine {
    mount_tmpfs(place, "mode=755");
    Machine::at(place, |root| {
        for directory in ["proc", "sbin", "usr"] {
            fs::create_dir(root.join(directory)).unwrap();
        }
        for (link, to) in [("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
            std::os::unix::fs::symlink(to, root.join(link)).unwrap();
        }
        fs::write(root.join("program"), "").unwrap();
        write_script(&root.join("sbin/init"), INIT);
        for name in ["program", "sbin/init", "proc", "sbin", "usr", "."] {
            let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
            fs::File::open(root.join(name)).unwrap().set_modified(time).unwrap();
        }
    })
}

/// Starts the machine, read-only, with the program as its first process, and `around` what starts it.
fn started(machine: &Machine, around: &[&str]) -> Output {
    let place = machine.path();
    let mounted = [place.join("usr"), place.join("program")];
    mount_bind(Path::new("/usr"), &mounted[0]);
    mount_bind(Path::new(env!("CARGO_BIN_EXE_subd-recover")), &mounted[1]);
    remount(place, Access::Read);
    let words = [around, &["unshare", "--pid", "--fork", "chroot"]].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(place).args(["/program", "single"]).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(!place.join("proc/self").exists(), "/proc stays mounted: {output:?}");
    remount(place, Access::Write);
    mounted.iter().for_each(|at| unmount(at));
    output
}

/// Init has taken over, and finds all as the program did.
fn is_started(output: &Output) {
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said, "init as process 1 with single\n", "{output:?}");
    assert!(output.status.success(), "{output:?}");
}

fn in_mounts(name: &'static str, test: impl FnOnce(Machine) + Send + 'static) {
    with_mounts(name, move || {
        let place = tempfile::tempdir().unwrap();
        let machine = machine(place.path());
        test(machine);
        unmount(place.path());
    });
}

#[test]
fn as_the_first_process_it_recovers_and_becomes_init_and_leaves_all_as_it_found_it() {
    in_mounts("as_the_first_process_it_recovers_and_becomes_init_and_leaves_all_as_it_found_it", |machine| {
        is_started(&started(&machine, &[]));
        machine.half_swapped(Judged::AfterServices);
        is_started(&started(&machine, &[]));
        assert!(machine.is_new());
        let recovery = machine.open(Arc::new(Kernel)).1;
        assert!(matches!(recovery, Recovery::OnTrial { booted: Some(_), .. }), "{recovery:?}");
        is_started(&started(&machine, &[]));
        assert!(!machine.is_new(), "that was another start");
    });
}

#[test]
fn as_the_first_process_it_starts_a_machine_anew_that_was_started_with_what_is_undone() {
    in_mounts(
        "as_the_first_process_it_starts_a_machine_anew_that_was_started_with_what_is_undone",
        |machine| {
            drop(machine.on_trial(Judged::AfterReboot, MINUTE));
            boot(machine.path(), BootId::of(b"before")).unwrap();
            let output = started(&machine, &[]);
            // So the kernel tells of a machine within a machine that it was started anew.
            assert_eq!(output.status.signal(), Some(Signal::HUP.as_raw()), "{output:?}");
            assert!(!machine.is_new() && output.stdout.is_empty(), "{output:?}");
            is_started(&started(&machine, &[]));
        },
    );
}

#[test]
fn whatever_becomes_of_the_recovery_init_is_started() {
    const TEST: &str = "whatever_becomes_of_the_recovery_init_is_started";
    if !has_strace(TEST) {
        return;
    }
    in_mounts(TEST, |machine| {
        machine.half_swapped(Judged::AfterServices);
        let journal = machine.path().join(".subd/journal");
        let sound = fs::read(&journal).unwrap();
        fs::write(&journal, b"DJN9").unwrap();
        is_started(&started(&machine, &[]));
        assert_eq!(fs::read(&journal).unwrap(), b"DJN9");
        fs::write(&journal, sound).unwrap();
        // It dies at the first call that only a recovery makes.
        let kill = "inject=flock:signal=KILL";
        is_started(&started(&machine, &["strace", "-f", "-qq", "-o", "/dev/null", "-e", kill]));
        is_started(&started(&machine, &[]));
        assert!(machine.is_new());
    });
}
