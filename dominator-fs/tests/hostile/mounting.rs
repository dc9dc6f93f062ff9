//! A machine on which somebody mounts and unmounts without a pause over all that an update touches, while it is updated to
//! and fro: each mount is where it was made until it is unmounted, nothing beneath or above it is lost, what could not be
//! done is told, and once there is peace, one update makes the machine what it must be.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dominator_core::object::ObjectId;
use dominator_core::plan::{Comparison, Operation, Plan};
use dominator_core::port::UpdateReport;
use dominator_core::tree::Snapshot;
use dominator_fs::mounts::Mounts;
use dominator_fs::scan::{Cancel, Scanner};
use dominator_fs::seam::Kernel;
use dominator_fs::update::{Reason, UpdateError};
use dominator_fs_testkit::{mount_tmpfs, observed, unmount, with_mounts};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::process::{Dice, Over, say};
use crate::support::{Machine, path};

/// Debug builds are for finding out quickly.
const UPDATES: usize = if cfg!(debug_assertions) { 200 } else { 600 };

/// How many of them have to have a mount in their way; where there is one processor, it takes more of them.
const MET: usize = 3;

/// Directories and files of the first state, and of the second.
const STATES: [(&[&str], &[&str]); 2] = [
    (
        &["a/b/mnt", "gone/deep/mnt", "becomes/mnt", "stays/inner"],
        &[
            "conf",
            "a/file",
            "a/b/file",
            "old",
            "gone/file",
            "gone/deep/file",
            "stays/inner/file",
            "etc/resolv",
        ],
    ),
    (
        &["a/b/mnt", "new/deep/mnt", "stays/inner"],
        &[
            "conf",
            "a/file",
            "a/b/file",
            "becomes",
            "new/file",
            "new/deep/file",
            "stays/inner/file",
            "etc/resolv",
        ],
    ),
];

/// Where something is mounted: what is touched, what leads there, what is only there in one state; most often in a directory
/// that is displaced as a whole.
const PLACES: [&str; 25] = [
    "a",
    "a/b",
    "a/b/mnt",
    "a/b/file",
    "conf",
    "gone",
    "gone/deep",
    "gone/deep/mnt",
    "gone/deep/file",
    "becomes",
    "becomes/mnt",
    "new",
    "new/deep",
    "new/deep/mnt",
    "old",
    "stays",
    "stays/inner",
    "etc/resolv",
    "keep/precious",
    "becomes/mnt",
    "becomes/mnt",
    "becomes/mnt",
    "becomes/mnt",
    "becomes/mnt",
    "becomes/mnt",
];

fn make(root: &Path, which: usize) {
    let (directories, files) = STATES[which];
    for directory in directories.iter().chain(&["etc", "keep"]) {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    for file in files {
        let contents = format!("{file} in state {}", if file.contains("resolv") { 0 } else { which });
        fs::write(root.join(file), contents).unwrap();
    }
}

/// What somebody mounts, all of it outside the root: a directory and a file.
fn sources(place: &Path) -> [PathBuf; 2] {
    let [directory, file] = ["directory", "file"].map(|name| place.join(name));
    fs::create_dir_all(directory.join("below")).unwrap();
    fs::write(directory.join("below/mark"), "above").unwrap();
    fs::write(directory.join("mark"), "above").unwrap();
    fs::write(&file, "above").unwrap();
    [directory, file]
}

/// Whether what was mounted at `place` can be seen there.
fn is_there(place: &Path) -> bool {
    let file = if place.is_dir() { place.join("mark") } else { place.to_owned() };
    fs::read(file).is_ok_and(|contents| contents == b"above")
}

/// For the moment in which a directory is displaced and looked at, a mount made in the moment before goes with it. It comes
/// back; if not in that time, it never will.
const MOMENT: Duration = Duration::from_secs(120);

/// What a storm has done.
#[derive(Default)]
struct Done {
    mounted: usize,
    /// The kernel looks up where to mount something before it does. What was displaced in between lies in a slot then, and
    /// so does the mount, where the table of mounts has it; nobody can move it.
    astray: usize,
}

/// Unmounts something that is mounted in a directory, however deep. What is to be mounted at a path may come to lie on a
/// slot, or in a directory that was displaced as a whole; what is to be mounted on a slot anywhere in the root.
fn unmount_any(within: &Path) -> bool {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let mut places = table.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    places.any(|place| {
        place != within && place.starts_with(within) && umount2(place, MntFlags::MNT_DETACH).is_ok()
    })
}

/// Mounts and unmounts until it is over.
fn storm(root: &Path, base: &Path, over: &AtomicBool) -> Done {
    const NONE: Option<&str> = None;
    // Whoever mounts over what nobody else may enter, our own slots, has what he mounts taken for one: it is a spare.
    let for_paths = ["directory", "file"].map(|name| base.join("sources").join(name));
    let for_slots = sources(&base.join("spare"));
    let (mut dice, mut done) = (Dice::new(std::process::id()), Done::default());
    let mut below = |bound: usize| usize::try_from(dice.below(bound as u64)).unwrap();
    while !over.load(Ordering::Relaxed) {
        let slots = fs::read_dir(root.join(".subd/slots")).map(|slots| slots.flatten().next());
        let (place, sources) = match (below(PLACES.len() + 1), slots) {
            (place, _) if place < PLACES.len() => (root.join(PLACES[place]), &for_paths),
            (_, Ok(Some(slot))) => (slot.path(), &for_slots),
            _ => continue,
        };
        if place.is_symlink() {
            continue;
        }
        let source = if place.is_dir() { &sources[0] } else { &sources[1] };
        if mount(Some(source), &place, NONE, MsFlags::MS_BIND, NONE).is_err() {
            continue;
        }
        done.mounted += 1;
        let was_there = is_there(&place);
        let is_slot = sources == &for_slots;
        for turn in 0..below(20_000) {
            std::hint::spin_loop();
            // Where there is one processor, nothing is updated meanwhile otherwise.
            if turn == 10_000 {
                std::thread::yield_now();
            }
        }
        let begun = Instant::now();
        while !is_there(&place) || umount2(&place, MntFlags::MNT_DETACH).is_err() {
            // What has been where it was mounted is only waited for.
            if (is_slot || !was_there) && (unmount_any(&root.join(".subd")) || is_slot && unmount_any(root)) {
                done.astray += usize::from(!is_slot);
                break;
            }
            assert!(begun.elapsed() < MOMENT, "what was mounted at {} was carried away", place.display());
            std::thread::yield_now();
        }
    }
    done
}

struct Scene {
    machine: Machine,
    required: [Snapshot; 2],
    objects: BTreeMap<ObjectId, Vec<u8>>,
    /// How many updates did all they should; were told not to have done all; were undone.
    made: usize,
    partly: usize,
    undone: usize,
    /// How often one could neither be finished nor undone at once.
    reopened: usize,
    is_closed: bool,
    taken_back: usize,
}

impl Scene {
    fn within(place: &Path, beneath: bool) -> Self {
        let dir = |name: &str, which| {
            let dir = tempfile::Builder::new().prefix(name).tempdir_in(place).unwrap();
            fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            make(dir.path(), which);
            dir
        };
        let models = [0, 1].map(|which| Machine::within(dir("model", which)));
        let here = dir("machine", 0);
        let mut machine = if beneath { Machine::beneath_mounts_in(here) } else { Machine::within(here) };
        machine.view.protected.insert(path("/keep"));
        machine.write("/keep/precious", b"precious");
        for (file, contents) in [("/a/b/mnt/hidden", "hidden"), ("/stays/inner/hidden", "hidden")] {
            machine.view.protected.insert(path(file));
            machine.write(file, contents.as_bytes());
        }
        let mut objects = BTreeMap::new();
        for (model, which) in models.iter().zip(0..) {
            for file in STATES[which].1 {
                let contents = fs::read(model.dir.path().join(file)).unwrap();
                objects.insert(ObjectId::of(&contents), contents);
            }
        }
        // In what is required, times are those of the model; what must not change is the same file in both.
        let required = models.map(|mut model| {
            model.view = machine.view.clone();
            model.scan()
        });
        Self {
            machine,
            required,
            objects,
            made: 0,
            partly: 0,
            undone: 0,
            reopened: 0,
            is_closed: false,
            taken_back: 0,
        }
    }

    /// The plan a controller would make of what is seen now, if anything can be seen, and whether it is all of it: what must
    /// stay because of what is mounted is left out.
    fn plan(&self, which: usize) -> Option<(Plan, bool)> {
        let scanner = Scanner::new(self.machine.root.clone(), Arc::new(self.machine.view.clone()));
        let scan = scanner.threads(1.try_into().unwrap()).scan(&Cancel::default()).ok()?;
        let actual = &scan.snapshot;
        let comparison = Comparison {
            required: &self.required[which],
            actual: &actual.tree,
            links: Some(&actual.links),
            directories: &actual.directories,
        };
        let (plan, left_out) = comparison.plan().unwrap().plan.without_kept(&scan.held);
        Some((plan, left_out.is_empty()))
    }

    /// An update, and whether it was to do all there is to do.
    fn update(&mut self, which: usize) -> Option<(Result<UpdateReport, UpdateError>, bool)> {
        self.is_closed |= self.machine.updater.is_unfinished();
        if self.is_closed {
            // As an agent does.
            self.reopened += 1;
            self.machine.try_restart_with(Arc::new(Kernel)).ok()?;
            self.is_closed = false;
        }
        let (plan, all) = self.plan(which)?;
        for operation in &plan.operations {
            if let Operation::Put { inode, .. } = operation
                && let Some((id, _)) = inode.object()
                && self.machine.updater.objects().size(&id).unwrap().is_none()
                && let Some(contents) = self.objects.get(&id)
            {
                self.machine.offer(contents);
            }
        }
        Some((self.machine.updater.apply(&plan, &self.machine.view), all))
    }

    /// How many updates had a mount in their way.
    const fn met(&self) -> usize {
        self.partly + self.undone
    }

    /// One update in the storm.
    fn step(&mut self, which: usize, beneath: bool) {
        match self.update(which) {
            Some((Ok(report), all)) if report.is_success() && report.kept.is_empty() => {
                self.made += 1;
                if beneath && all {
                    assert_eq!(self.machine.scan().id(), self.required[which].id(), "it claims to be done");
                }
            }
            Some((Ok(report), _)) => {
                self.partly += 1;
                for failure in &report.failures {
                    assert!(!failure.reason.is_empty(), "{failure:?}");
                }
            }
            Some((Err(error), _)) => {
                self.undone += 1;
                assert!(!error.to_string().is_empty());
            }
            None => {}
        }
    }

    /// The last update is taken back, as far as what is mounted lets it.
    fn undo(&mut self) {
        if !self.machine.updater.is_undoable() {
            return;
        }
        self.taken_back += 1;
        match self.machine.updater.undo(Reason::Asked) {
            Ok(report) => {
                for failure in report.not_as_before() {
                    assert!(!failure.reason.is_empty(), "{failure:?}");
                }
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }

    /// Nothing is mounted any more: it becomes what it must be, and has lost nothing.
    fn peace(&mut self) {
        for which in [0, 1] {
            let report = self.update(which).unwrap().0.unwrap();
            assert!(report.is_success() && report.kept.is_empty(), "{report:?}");
            assert_eq!(self.machine.scan().id(), self.required[which].id());
        }
        // What could not go back because of what is mounted is kept for somebody to look at; it was in the root before.
        for kept in fs::read_dir(self.machine.at("/.subd/conflicts")).unwrap().map(Result::unwrap) {
            if kept.path().is_dir() {
                fs::remove_dir_all(kept.path()).unwrap();
            } else {
                let contents = fs::read(kept.path()).unwrap();
                assert!(self.objects.contains_key(&ObjectId::of(&contents)), "{kept:?} is nobody's");
                fs::remove_file(kept.path()).unwrap();
            }
        }
        self.machine.is_tidy();
        for (file, contents) in
            [("/keep/precious", "precious"), ("/a/b/mnt/hidden", "hidden"), ("/stays/inner/hidden", "hidden")]
        {
            assert_eq!(self.machine.read(file), contents.as_bytes(), "{file}");
        }
    }
}

fn check(beneath: bool) {
    let place = tempfile::tempdir().unwrap();
    mount_tmpfs(place.path(), "size=200m,mode=755");
    drop(sources(&place.path().join("sources")));
    let above = observed(&place.path().join("sources"), &[]);
    let mut scene = Scene::within(place.path(), beneath);
    let root = scene.machine.dir.path().to_owned();
    let precious = scene.machine.ino("/keep/precious");
    let over = AtomicBool::new(false);
    let Done { mounted, astray } = std::thread::scope(|scope| {
        let raging = scope.spawn(|| storm(&root, place.path(), &over));
        let peace = Over(&over);
        for update in 0..UPDATES * 50 {
            if update >= UPDATES && scene.met() >= MET {
                break;
            }
            scene.step((update + 1) % 2, beneath);
            if update % 5 == 3 {
                scene.undo();
            }
            if raging.is_finished() {
                break;
            }
        }
        drop(peace);
        raging.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let Scene { made, partly, undone, reopened, taken_back, .. } = scene;
    let met = scene.met();
    let told = format!(
        "{mounted} mounts, {astray} of them too late for their place; {made} updates made, {partly} in part, {undone} undone, {reopened} later, {taken_back} taken back"
    );
    say(&format!("beneath mounts: {beneath}: {told}"));
    assert!(astray <= 1 + mounted / 50, "mounts are carried away: {told}");
    assert!(made > 0 && met >= MET, "hardly a storm: {told}");
    assert_eq!(Mounts::of(&scene.machine.root).unwrap().points().len(), 0, "something stayed mounted");
    scene.peace();
    assert_eq!(scene.machine.ino("/keep/precious"), precious);
    assert_eq!(observed(&place.path().join("sources"), &[]), above);
    drop(scene);
    unmount(place.path());
}

#[test]
fn mounts_made_all_over_the_place_during_updates_stay_and_nothing_is_lost() {
    const TEST: &str = "mounting::mounts_made_all_over_the_place_during_updates_stay_and_nothing_is_lost";
    with_mounts(TEST, || check(false));
}

#[test]
fn mounts_made_all_over_the_place_during_updates_beneath_them_stay_and_nothing_is_lost() {
    const TEST: &str =
        "mounting::mounts_made_all_over_the_place_during_updates_beneath_them_stay_and_nothing_is_lost";
    with_mounts(TEST, || check(true));
}
