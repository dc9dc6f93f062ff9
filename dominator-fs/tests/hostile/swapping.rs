//! Somebody with an account on the machine who swaps directories for symbolic links and files for links to what is outside,
//! without a pause, while the machine is updated to and fro: nothing outside the root is touched, and once he rests, one
//! update makes the machine what it must be.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use dominator_core::object::ObjectId;
use dominator_core::plan::Plan;
use dominator_core::tree::Snapshot;
use dominator_fs::update::Reason;
use dominator_fs_testkit::{mount_tmpfs, unmount, with_mounts};
use rustix::fs::{CWD, RenameFlags};

use crate::onlooker::offer_for;
use crate::process::{Dice, Over, say};
use crate::seen::{Tree, identical, seen};
use crate::support::Machine;

/// Debug builds are for finding out quickly.
const UPDATES: usize = if cfg!(debug_assertions) { 150 } else { 1_000 };

/// How many of each there are.
const EACH: usize = 3;

/// What the attacker changes places with what is aside: what it is, and what stands in for it.
const VICTIMS: [(&str, &str); 6] = [
    ("directory", "a link to a directory outside"),
    ("deep/directory", "a link to a directory outside"),
    ("file", "a link to a file outside"),
    ("linked", "a hard link of a file outside"),
    ("piped", "a pipe"),
    ("became", "a directory"),
];

fn make(root: &Path, which: usize) {
    fs::create_dir(root.join("deep")).unwrap();
    for number in 0..EACH {
        for directory in ["directory", "deep/directory"].map(|name| root.join(format!("{name}{number}"))) {
            fs::create_dir_all(directory.join("inner")).unwrap();
            for file in ["secret", "inner/secret", ["old", "new"][which]] {
                fs::write(directory.join(file), format!("{number} {file} {which}")).unwrap();
                fs::set_permissions(directory.join(file), Permissions::from_mode([0o644, 0o600][which]))
                    .unwrap();
            }
            let mode = [0o755, 0o711][which];
            fs::set_permissions(directory.join("inner"), Permissions::from_mode(mode)).unwrap();
            fs::set_permissions(&directory, Permissions::from_mode(mode)).unwrap();
        }
        for name in ["file", "linked", "piped", "became"] {
            let file = root.join(format!("{name}{number}"));
            // Some change only their metadata: these change in place.
            let contents = if number == 0 { 0 } else { which };
            fs::write(&file, format!("{name} {contents}")).unwrap();
            let mode = [0o644, [0o666, 0o4755, 0o600][number]][which];
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        }
    }
}

/// What is swapped in, under the same names.
fn make_aside(aside: &Path, outside: &Path) {
    fs::create_dir_all(aside.join("deep")).unwrap();
    for number in 0..EACH {
        for (name, stands_in) in VICTIMS {
            let at = aside.join(format!("{name}{number}"));
            match stands_in {
                "a link to a directory outside" => symlink(outside, &at).unwrap(),
                "a link to a file outside" => symlink(outside.join("secret"), &at).unwrap(),
                "a hard link of a file outside" => fs::hard_link(outside.join("secret"), &at).unwrap(),
                "a pipe" => {
                    let mode = rustix::fs::Mode::from_raw_mode(0o644);
                    rustix::fs::mknodat(CWD, &at, rustix::fs::FileType::Fifo, mode, 0).unwrap();
                }
                _ => {
                    fs::create_dir(&at).unwrap();
                    fs::write(at.join("mine"), "precious").unwrap();
                }
            }
        }
    }
}

/// Changes places until it is over; says how often.
fn swap(root: &Path, aside: &Path, over: &AtomicBool, seed: u32) -> usize {
    let (mut dice, mut swaps) = (Dice::new(seed), 0);
    while !over.load(Ordering::Relaxed) {
        let number = dice.below(EACH as u64);
        let victim = VICTIMS[usize::try_from(dice.below(VICTIMS.len() as u64)).unwrap()].0;
        let name = format!("{victim}{number}");
        let (one, other) = (root.join(&name), aside.join(&name));
        // Either may just be somewhere else.
        swaps +=
            usize::from(rustix::fs::renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).is_ok());
    }
    swaps
}

/// The attacker takes all that is his away again.
fn retreat(root: &Path, aside: &Path, outside: &Path) {
    for number in 0..EACH {
        for (victim, _) in VICTIMS {
            let name = format!("{victim}{number}");
            let is_his = |at: &Path| {
                let Ok(metadata) = at.symlink_metadata() else { return false };
                metadata.is_symlink()
                    || at.join("mine").exists()
                    || !metadata.is_dir() && !metadata.is_file()
                    || std::os::unix::fs::MetadataExt::ino(&metadata)
                        == std::os::unix::fs::MetadataExt::ino(&outside.join("secret").metadata().unwrap())
            };
            if is_his(&root.join(&name)) {
                rustix::fs::renameat_with(
                    CWD,
                    root.join(&name),
                    CWD,
                    aside.join(&name),
                    RenameFlags::EXCHANGE,
                )
                .unwrap();
            }
        }
    }
}

/// All that is outside, but for how many names a file has: those the attacker gave it within the root may be replaced.
fn beyond(outside: &Path) -> Tree {
    let mut tree = seen(outside);
    tree.values_mut().for_each(|seen| seen.nlink = None);
    tree
}

struct Scene {
    machine: Machine,
    plans: [Plan; 2],
    required: [Snapshot; 2],
    objects: BTreeMap<ObjectId, Vec<u8>>,
}

impl Scene {
    fn within(place: &Path) -> Self {
        let there = |name: &str, which| {
            let dir = tempfile::Builder::new().prefix(name).tempdir_in(place).unwrap();
            fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
            make(dir.path(), which);
            Machine::within(dir)
        };
        let (machine, model) = (there("machine", 0), there("model", 1));
        let contents = [&machine, &model].map(|machine| seen(machine.dir.path()));
        let files = contents.iter().flat_map(|tree| tree.values()).filter(|seen| seen.kind == "file");
        let objects = files.map(|seen| (ObjectId::of(&seen.holds), seen.holds.clone())).collect();
        let required = [machine.scan(), model.scan()];
        let plans = [model.plan_for(&required[0]), machine.plan_for(&required[1])];
        Self { machine, plans, required, objects }
    }

    /// Whether all that a plan says could be done; what could not is told.
    fn carry_out(&mut self, plan: &Plan) -> bool {
        offer_for(plan, &self.objects, &self.machine);
        let report = self.machine.updater.apply(plan, &self.machine.view).unwrap();
        report.is_success() && report.kept.is_empty()
    }
}

#[test]
fn nothing_that_is_swapped_during_an_update_leads_it_out_of_the_root() {
    const TEST: &str = "swapping::nothing_that_is_swapped_during_an_update_leads_it_out_of_the_root";
    with_mounts(TEST, || {
        let place = tempfile::tempdir().unwrap();
        mount_tmpfs(place.path(), "size=200m,mode=755");
        let (outside, aside) = (place.path().join("outside"), place.path().join("aside"));
        fs::create_dir_all(outside.join("inner")).unwrap();
        for file in ["secret", "inner/secret", "old"] {
            fs::write(outside.join(file), "outside").unwrap();
        }
        make_aside(&aside, &outside);
        let mut scene = Scene::within(place.path());
        let before = beyond(&outside);
        let root = scene.machine.dir.path().to_owned();
        let (over, mut partly, mut undone) = (AtomicBool::new(false), 0, 0);
        let swaps: usize = std::thread::scope(|scope| {
            let attackers = [1, 2].map(|seed| {
                let (root, aside, over) = (&root, &aside, &over);
                scope.spawn(move || swap(root, aside, over, seed))
            });
            let rest = Over(&over);
            for update in 0..UPDATES {
                let plan = scene.plans[(update + 1) % 2].clone();
                partly += usize::from(!scene.carry_out(&plan));
                if update % 5 == 4 && scene.machine.updater.is_undoable() {
                    undone += usize::from(scene.machine.updater.undo(Reason::Asked).is_ok());
                }
            }
            drop(rest);
            attackers.map(|attacker| attacker.join().unwrap()).iter().sum()
        });
        let told = format!("{swaps} swaps; {partly} of {UPDATES} updates made in part, {undone} undone");
        say(&told);
        assert!(swaps > UPDATES && partly > UPDATES / 10, "hardly an attack: {told}");
        identical(&beyond(&outside), &before).unwrap_or_else(|why| panic!("outside the root: {why}"));
        retreat(&root, &aside, &outside);
        for which in [0, 1] {
            let plan = scene.machine.plan_for(&scene.required[which]);
            assert!(scene.carry_out(&plan), "{plan:?}");
            assert_eq!(scene.machine.scan().id(), scene.required[which].id());
        }
        identical(&beyond(&outside), &before).unwrap_or_else(|why| panic!("outside the root: {why}"));
        drop(scene);
        unmount(place.path());
    });
}
