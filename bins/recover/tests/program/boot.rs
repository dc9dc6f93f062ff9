use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use dominator_fs::seam::Kernel;
use dominator_fs::update::{BootId, Judged, Reason, Recovery, When};
use dominator_fs_testkit::{Access, Disk, left_out, mount_tmpfs, remount, unmount, with_mounts};
use subd_recover::{Decision, REBOOT_NEEDED, boot};

use crate::root::Machine;

/// The program itself; without `--reboot` it only says that the machine must be started anew.
fn program(machine: &Machine) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_subd-recover"));
    program.args(["boot", "--root"]).arg(machine.path()).output().unwrap()
}

const MINUTE: Duration = Duration::from_secs(60);
/// How long all records at the end of a journal are.
const RECORDS: usize = 13 * 4096;

#[test]
fn what_was_cut_off_is_finished_before_anything_runs() {
    for (judged, status) in [(Judged::AfterServices, 0), (Judged::AfterReboot, i32::from(REBOOT_NEEDED))] {
        let machine = Machine::new();
        machine.half_swapped(judged);
        let output = program(&machine);
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        assert!(machine.is_new());
        // The agent is told, and judges it.
        let recovery = machine.open(Arc::new(Kernel)).1;
        assert!(matches!(recovery, Recovery::OnTrial { .. }), "{recovery:?}");
    }
}

#[test]
fn one_start_is_counted_once_however_often_the_program_runs_in_it() {
    let machine = Machine::new();
    drop(machine.on_trial(Judged::AfterServices, MINUTE));
    for _ in 0..3 {
        let output = program(&machine);
        assert!(output.status.success() && machine.is_new(), "{output:?}");
    }
    // That was this start of the machine that runs the test: any other is the second.
    let other = BootId::of(b"another start");
    let outcome = boot(machine.path(), other).unwrap();
    assert_eq!(outcome.decision, Decision::ReadAgain, "units that were read before may be others now");
    assert!(!machine.is_new());
    let recovery = machine.open(Arc::new(Kernel)).1;
    assert!(
        matches!(&recovery, Recovery::Undone { note, reason: Reason::NeverHealthy, when: When::Before, .. }
            if note == b"image 7"),
        "the agent is told: {recovery:?}"
    );
}

#[test]
fn a_machine_that_was_started_with_what_is_undone_is_started_anew() {
    let machine = Machine::new();
    drop(machine.on_trial(Judged::AfterReboot, MINUTE));
    let start = |id: &[u8]| boot(machine.path(), BootId::of(id)).unwrap().decision;
    assert_eq!(start(b"one"), Decision::GoOn);
    assert_eq!(start(b"two"), Decision::StartAnew);
    assert!(!machine.is_new());
    assert_eq!(start(b"three"), Decision::GoOn, "once is enough");
}

#[test]
fn where_nothing_was_cut_off_nothing_is_made_nor_written() {
    let bare = tempfile::tempdir().unwrap();
    let run = || {
        let mut program = Command::new(env!("CARGO_BIN_EXE_subd-recover"));
        let output = program.args(["boot", "--root"]).arg(bare.path()).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    };
    run();
    assert_eq!(std::fs::read_dir(bare.path()).unwrap().count(), 0);
    // What somebody else has put there is not this program's business.
    std::fs::write(bare.path().join(".subd"), b"a file").unwrap();
    run();
    assert_eq!(std::fs::read(bare.path().join(".subd")).unwrap(), b"a file");
}

#[test]
fn a_root_that_can_not_be_looked_at_is_not_one_without_a_journal() {
    let bare = tempfile::tempdir().unwrap();
    boot(&bare.path().join("gone"), BootId::of(b"one")).unwrap_err();
}

#[test]
fn a_journal_that_can_not_be_gone_by_is_told_of_and_left_alone() {
    let machine = Machine::new();
    drop(machine.on_trial(Judged::AfterServices, MINUTE));
    let journal = machine.path().join(".subd/journal");
    std::fs::write(&journal, b"DJN9").unwrap();
    let output = program(&machine);
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("/.subd/journal"), "{words}");
    assert_eq!(std::fs::read(&journal).unwrap(), b"DJN9");
}

#[test]
fn wherever_a_journal_is_damaged_or_cut_nothing_is_touched_that_it_does_not_tell_for_sure() {
    let machine = Machine::new();
    machine.half_swapped(Judged::AfterServices);
    let (journal, before) = (machine.path().join(".subd/journal"), machine.tree());
    let sound = std::fs::read(&journal).unwrap();
    let start = || boot(machine.path(), BootId::of(b"one"));
    // Behind the plan, and the first record with how far it is, there is room for what is yet to come.
    let (records, told) = (sound.len() - RECORDS, 4 + 1 + 2 + 32 + 32);
    let padded = sound[..records].iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for place in (0..padded).chain(records..records + told) {
        let mut damaged = sound.clone();
        damaged[place] ^= 1 << (place % 8);
        std::fs::write(&journal, &damaged).unwrap();
        assert!(start().is_err(), "byte {place}");
        std::fs::write(&journal, &sound[..place]).unwrap();
        assert!(start().is_err(), "cut at {place}");
    }
    assert_eq!(machine.tree(), before);
    std::fs::write(&journal, &sound).unwrap();
    assert_eq!(start().unwrap().decision, Decision::ReadAgain);
    assert!(machine.is_new());
}

#[test]
fn on_a_disk_without_a_byte_or_an_inode_left_what_was_cut_off_is_decided() {
    const TEST: &str = "on_a_disk_without_a_byte_or_an_inode_left_what_was_cut_off_is_decided";
    with_mounts(TEST, || {
        let disk = match Disk::made_with(32 << 20, &["-N", "256", "-m", "0"]) {
            Ok(disk) => disk,
            Err(why) => return left_out(TEST, &why),
        };
        let place = disk.path();
        std::fs::remove_dir(place.join("lost+found")).unwrap();
        let machine = Machine::at(&place.join("root"), |_| {});
        machine.half_swapped(Judged::AfterServices);
        fill(&place.join("filler"));
        let start = |id: &[u8]| boot(machine.path(), BootId::of(id)).unwrap();
        start(b"one");
        assert!(machine.is_new());
        start(b"two");
        assert!(!machine.is_new());
        assert!(matches!(machine.open(Arc::new(Kernel)).1, Recovery::Undone { .. }));
    });
}

/// Takes all room, and all inodes.
fn fill(place: &Path) {
    std::fs::create_dir(place).unwrap();
    let mut file = std::fs::File::create(place.join("bytes")).unwrap();
    for size in [1 << 20, 4096, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
    file.sync_all().unwrap();
    let mut more = 0..;
    while std::fs::File::create(place.join(more.next().unwrap().to_string())).is_ok() {}
    assert!(std::fs::write(place.join("0"), b"more").is_err(), "there is room");
}

#[test]
fn a_root_that_can_not_be_written_to_is_told_of_and_decided_when_it_can() {
    const TEST: &str = "a_root_that_can_not_be_written_to_is_told_of_and_decided_when_it_can";
    with_mounts(TEST, || {
        let place = tempfile::tempdir().unwrap();
        mount_tmpfs(place.path(), "mode=755");
        let machine = Machine::at(place.path(), |_| {});
        machine.half_swapped(Judged::AfterServices);
        let before = machine.tree();
        remount(place.path(), Access::Read);
        let output = program(&machine);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(words.contains("Read-only"), "{words}");
        remount(place.path(), Access::Write);
        assert_eq!(machine.tree(), before);
        assert!(program(&machine).status.success() && machine.is_new());
        unmount(place.path());
    });
}

#[test]
fn a_disk_that_has_another_number_at_the_next_start_is_the_same() {
    const TEST: &str = "a_disk_that_has_another_number_at_the_next_start_is_the_same";
    with_mounts(TEST, || {
        let disk = match Disk::new(32 << 20) {
            Ok(disk) => disk,
            Err(why) => return left_out(TEST, &why),
        };
        let machine = Machine::at(&disk.path().join("root"), |_| {});
        machine.half_swapped(Judged::AfterServices);
        let other = tempfile::tempdir().unwrap();
        let (image, at) = (other.path().join("image"), other.path().join("mounted"));
        std::fs::create_dir(&at).unwrap();
        rustix::fs::sync();
        std::fs::copy(disk.image(), &image).unwrap();
        let mount = Command::new("mount").args(["-o", "loop"]).args([&image, &at]).status().unwrap();
        assert!(mount.success());
        let told = boot(&at.join("root"), BootId::of(b"one")).unwrap().told.unwrap();
        assert!(told.contains("is finished"), "{told}");
        unmount(&at);
    });
}
