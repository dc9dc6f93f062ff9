use std::fs;
use std::process::Command;

use dominator_testkit::debian::{Kernels, Tree};
use dominator_testkit::{Computer, Image, Outcome, Stage, is_root, say};
use serde_json::json;

use crate::scenario::{MANY, Scenario, brake, many, version};

/// The versions of the kernel a tree has, oldest first.
fn kernels(tree: &Tree) -> Vec<String> {
    let modules = fs::read_dir(tree.path().join("usr/lib/modules")).unwrap();
    let mut versions: Vec<_> =
        modules.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    versions.sort();
    versions
}

/// What a kernel package has, but for its version.
const KERNEL_FILES: [&str; 5] =
    ["usr/lib/modules/", "boot/vmlinuz-", "boot/initrd.img-", "boot/config-", "boot/System.map-"];

/// Leaves the kernel package of `version` only, as its last script does.
fn keep_kernel(image: &Image, version: &str) {
    for other in kernels(&image.tree).iter().filter(|other| *other != version) {
        for file in KERNEL_FILES {
            image.tree.remove(&format!("{file}{other}"));
        }
    }
    for name in ["vmlinuz", "initrd.img"] {
        image.tree.link(&format!("boot/{name}-{version}"), name);
    }
}

/// Takes the files of the kernel package of `version` from another image.
fn take_kernel(image: &Image, from: &Image, version: &str) {
    for file in KERNEL_FILES.map(|file| format!("{file}{version}")) {
        let [to, from] = [image, from].map(|image| image.tree.path().join(&file));
        Outcome::of(Command::new("cp").args(["--archive", "--link"]).args([from, to])).success();
    }
}

/// Every chapter goes on with the computer of the one before: to make one and to start it takes longer than all else.
#[test]
fn a_new_kernel_runs_after_a_reboot_and_a_power_cut_in_the_middle_of_an_update_leaves_nothing_half_done() {
    let test = "a_new_kernel_runs_after_a_reboot_and_a_power_cut_in_the_middle_of_an_update_leaves_nothing_half_done";
    if std::env::var_os("DOMINATOR_MACHINES").is_none() {
        say(&format!("{test} was not run: DOMINATOR_MACHINES is not set"));
        return;
    }
    assert!(is_root(test), "a disk can't be made without root");
    let trees = tempfile::tempdir().unwrap();
    let both = Image::debian(&trees.path().join("both"), Kernels::Taken);
    Computer::furnish(&both.tree);
    let versions = kernels(&both.tree);
    let [old, new] = versions.as_slice() else { panic!("not two kernels: {versions:?}") };
    let mut first = both.copy(&trees.path().join("first"));
    keep_kernel(&first, old);
    first.trigger("reboot", "/boot/vmlinuz-.*", &json!({"DoReboot": true}));
    many(&first, 1);
    brake(&mut first);
    let second = with_kernel(first.copy(&trees.path().join("second")), &both, new);
    let mut third = with_kernel(second.copy(&trees.path().join("third")), &both, old);
    // It is the wrong one for this image.
    third.health.clone_from(&second.health);

    let computer = Computer::new(&first.tree);
    let stage = Stage::new(computer.network(), &first, trees);
    computer.with_disk(|disk| stage.equip(disk, ""));
    let mut scenario = Scenario { computer, stage };
    scenario.boot("");
    scenario.stage.wait(0, "synced");
    assert_eq!(scenario.computer.shell("uname -r").trim(), old);

    kernel_package_changes(&mut scenario, &second);
    assert_eq!(scenario.computer.shell("uname -r").trim(), new);
    a_kernel_that_is_not_healthy_is_undone(&mut scenario, &second, &third, old);
    assert_eq!(scenario.computer.shell("uname -r").trim(), new);
    power_fails_in_the_middle_of_undoing(&mut scenario, &second);
    power_fails_in_the_middle_of_the_swap(&mut scenario, &second);
}

/// The image with the kernel package of `version` and no other, which is healthy when that kernel runs.
fn with_kernel(mut image: Image, both: &Image, version: &str) -> Image {
    if !kernels(&image.tree).iter().any(|there| there == version) {
        take_kernel(&image, both, version);
    }
    keep_kernel(&image, version);
    let check = json!({"Name": "the kernel runs", "Command": ["/bin/grep", "-qF", version, "/proc/version"]});
    image.health = Some(json!({"Deadline": "60s", "Checks": [check]}));
    image
}

fn kernel_package_changes(scenario: &mut Scenario, image: &Image) {
    scenario.stage.order("kernel/2", image);
    scenario.computer.wait_until_down();
    scenario.assert_is(image);
    let mark = scenario.stage.mark();
    scenario.boot("");
    scenario.stage.wait(mark, "synced");
    assert_eq!(scenario.stage.updates(mark), 0, "one update was enough");
}

fn a_kernel_that_is_not_healthy_is_undone(scenario: &mut Scenario, image: &Image, bad: &Image, old: &str) {
    let mark = scenario.stage.order("kernel/3", bad);
    scenario.computer.wait_until_down();
    scenario.computer.switch_on("");
    scenario.computer.wait_for(&format!("Linux version {old}"));
    // The agent finds that it is not well, takes it back, and has the machine started with what was there before.
    scenario.computer.wait_until_down();
    scenario.boot("");
    scenario.stage.wait(mark, "bad image");
    assert_eq!(scenario.stage.updates(mark), 1, "it was tried again");
    let mark = scenario.stage.order("kernel/2", image);
    scenario.stage.wait(mark, "synced");
    assert_eq!(scenario.stage.updates(mark), 0, "what was undone was as before");
}

fn power_fails_in_the_middle_of_undoing(scenario: &mut Scenario, image: &Image) {
    let mut bad = scenario.stage.next(image, "bad");
    many(&bad, 2);
    bad.health = Some(
        json!({"Deadline": "60s", "Checks": [{"Name": "never", "Command": ["/bin/false"], "Retries": 0}]}),
    );
    let middle = scenario.stop_in_the_middle(&["2", "1"]);
    let mark = scenario.stage.order("many/bad", &bad);
    scenario.computer.wait_for(middle);
    scenario.computer.cut_power();
    assert_is_half(scenario, "1");
    scenario.boot(RECOVERY);
    scenario.stage.wait(mark, "bad image");
    scenario.computer.cut_power();
    scenario.assert_is(image);
    let mark = scenario.stage.order("kernel/2", image);
    scenario.boot("");
    scenario.stage.wait(mark, "synced");
}

/// What the kernel starts first when the machine is to bring to its end whatever was cut off.
const RECOVERY: &str = "init=/usr/sbin/subd-recover";

fn power_fails_in_the_middle_of_the_swap(scenario: &mut Scenario, image: &Image) {
    let next = scenario.stage.next(image, "half");
    many(&next, 2);
    another_libc(&next);
    let middle = scenario.stop_in_the_middle(&["2"]);
    scenario.stage.order("many/2", &next);
    scenario.computer.wait_for(middle);
    scenario.computer.cut_power();
    assert_is_half(scenario, "1");

    // Neither systemd nor any other program that needs a libc can run.
    scenario.computer.switch_on("init=/bin/true");
    scenario.computer.wait_for("Kernel panic");
    scenario.computer.wait_until_down();

    let mark = scenario.stage.mark();
    scenario.boot(RECOVERY);
    scenario.stage.wait(mark, "synced");
    assert_eq!(scenario.stage.updates(mark), 0, "it was finished before the agent ran");
    scenario.computer.cut_power();
    scenario.assert_is(&next);
}

/// A libc in another place, which comes last: in the middle of an update there is none.
fn another_libc(image: &Image) {
    let [libc, place] = ["usr/lib/x86_64-linux-gnu/libc.so.6", "usr/share/many/libc.so"];
    let bytes = fs::read(image.tree.path().join(libc)).unwrap();
    image.tree.write(place, bytes, 0o755);
    image.tree.link(&format!("/{place}"), libc);
}

/// Some of many files are of that version still, and some are not any more.
fn assert_is_half(scenario: &Scenario, before: &str) {
    let old = scenario.computer.with_disk(|disk| (0..MANY).filter(|n| version(disk, *n) == before).count());
    say(&format!("the power failed with {old} of {MANY} files to go"));
    assert!((1..MANY).contains(&old), "that was not in the middle");
}
