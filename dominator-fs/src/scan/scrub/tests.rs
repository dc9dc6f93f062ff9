use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use dominator_core::view::View;

use super::*;
use crate::scan::{Clock, Scan, Scanner};

const MIB: usize = 1 << 20;

/// A tree, what a scan knows of it, and a scrub.
struct Scene {
    dir: tempfile::TempDir,
    root: Root,
    scanner: Scanner,
    cache: Cache,
    scrub: Scrub,
    now: Timestamp,
}

impl Scene {
    /// `files` are names and lengths. Everything is settled.
    fn new(files: &[(&str, usize)]) -> Self {
        Self::with(files, |scanner| scanner.write_back_expiry(Duration::ZERO))
    }

    fn with(files: &[(&str, usize)], configure: impl FnOnce(Scanner) -> Scanner) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (number, (name, len)) in files.iter().enumerate() {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents(number, *len)).unwrap();
        }
        let root = Root::open(dir.path()).unwrap();
        let scanner = configure(Scanner::new(root.clone(), Arc::new(View::everything())));
        let (cache, scrub) = (Cache::new(), Scrub::new(Scrub::DAY));
        let mut scene = Self { dir, root, scanner, cache, scrub, now: Timestamp::new(1_000_000, 0).unwrap() };
        scene.rescan();
        scene
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn rescan(&mut self) -> Scan {
        self.scanner.rescan(&mut self.cache, &Cancel::default()).unwrap()
    }

    fn step(&mut self) -> Step {
        let (pacer, cancel) = (Pacer::unlimited(), Cancel::default());
        self.scrub.step(&self.root, &mut self.cache, self.now, &pacer, &cancel)
    }

    /// Steps, each when it is due, until the pass has ended; all together, and how many.
    fn pass(&mut self) -> (Step, usize) {
        let (mut sum, mut steps) = (Step::default(), 0);
        loop {
            let step = self.step();
            self.now = later(self.now, step.wait);
            sum.read += step.read;
            sum.files += step.files;
            sum.left += step.left;
            sum.corrupt.extend(step.corrupt);
            sum.unreadable.extend(step.unreadable);
            steps += 1;
            assert!(steps < 1000, "no end to be seen: {sum:?}");
            if self.has_ended() {
                return (sum, steps);
            }
        }
    }

    fn has_ended(&self) -> bool {
        self.scrub.pass.as_ref().is_some_and(|pass| pass.position == Position::End)
    }

    /// Has the cache believe that a file contained something else, and says what it contains.
    fn believe(&mut self, name: &str, other: ObjectId) -> ObjectId {
        let path = path(name);
        let file = self.cache.files(None).find(|file| file.path == path).unwrap();
        self.cache.correct(&file, other);
        file.object
    }
}

fn contents(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at / 512 + at + number).to_le_bytes()[0]).collect()
}

fn path(name: &str) -> ImagePath {
    ImagePath::parse(format!("/{name}").as_bytes()).unwrap()
}

fn later(now: Timestamp, wait: Duration) -> Timestamp {
    let nanos = now.nanos() + wait.subsec_nanos();
    let seconds = now.seconds() + i64::try_from(wait.as_secs()).unwrap() + i64::from(nanos / 1_000_000_000);
    Timestamp::new(seconds, nanos % 1_000_000_000).unwrap()
}

#[test]
fn a_pass_reads_everything_once_at_a_steady_rate_and_the_next_begins_when_its_time_is_over() {
    let mut scene =
        Scene::new(&[("a", 3 * MIB), ("b/c", 3 * MIB), ("b/d", 3 * MIB), ("e", 3 * MIB), ("f", 0)]);
    let began = scene.now;
    let first = scene.step();
    assert_eq!((first.read, first.files), (4 * MIB as u64, 1));
    assert_eq!(first.wait, Scrub::DAY / 3);
    assert_eq!(scene.scrub.progress(), (4 * MIB as u64, 12 * MIB as u64));
    let early = scene.step();
    assert_eq!((early.read, early.wait), (0, first.wait));
    scene.now = later(scene.now, first.wait);
    let (rest, _) = scene.pass();
    assert_eq!((rest.read, rest.files, rest.left), (8 * MIB as u64, 3, 0));
    assert_eq!(scene.now, later(began, Scrub::DAY));
    assert!(scene.has_ended());
    assert_eq!(scene.step().read, 4 * MIB as u64, "the next pass");
}

#[test]
fn what_differs_is_named_and_is_in_the_next_tree_under_all_names_of_the_file() {
    let mut scene = Scene::new(&[("a/b/file", 5000), ("a/other", 10), ("z", 70_000)]);
    fs::create_dir(scene.path().join("y")).unwrap();
    fs::hard_link(scene.path().join("a/b/file"), scene.path().join("y/too")).unwrap();
    let before = scene.rescan();
    assert_eq!(scene.pass().0.corrupt, []);
    let other = ObjectId::of(b"what was there once");
    let is = scene.believe("a/b/file", other);
    let believed = scene.rescan();
    assert_ne!(believed.snapshot.id(), before.snapshot.id());
    let (pass, _) = scene.pass();
    assert_eq!(pass.corrupt, [Corruption { path: path("a/b/file"), expected: other, found: is }]);
    let after = scene.rescan();
    assert_eq!((after.files_opened, after.facts.len()), (0, 0), "{:?}", after.facts);
    assert_eq!(after.snapshot.id(), before.snapshot.id());
    assert_eq!(scene.pass().0.corrupt, [], "it is told once");
}

#[test]
fn what_changed_or_may_have_changed_since_is_left_to_the_next_scan() {
    let mut scene = Scene::new(&[("changed", 100), ("gone", 100), ("replaced", 100), ("same", 100)]);
    fs::write(scene.path().join("changed"), [7; 100]).unwrap();
    fs::remove_file(scene.path().join("gone")).unwrap();
    fs::remove_file(scene.path().join("replaced")).unwrap();
    std::os::unix::fs::symlink("same", scene.path().join("replaced")).unwrap();
    let (pass, _) = scene.pass();
    assert_eq!((pass.files, pass.left), (1, 3));
    assert!(pass.corrupt.is_empty() && pass.unreadable.is_empty());

    let mut fresh = Scene::with(&[("a", 100), ("b", 100)], |scanner| {
        scanner.clock(Clock::system()).write_back_expiry(Duration::from_secs(3600))
    });
    fresh.believe("a", ObjectId::of(b"as if a write had gone unnoticed"));
    let (pass, _) = fresh.pass();
    assert_eq!((pass.files, pass.left, pass.read), (0, 2, 0));
    assert!(pass.corrupt.is_empty());
}

#[test]
fn a_huge_file_takes_many_steps_and_is_left_when_it_changes_between_them() {
    let files = [("huge", 20 * MIB + 1234), ("last", 10)];
    let mut scene = Scene::new(&files);
    scene.believe("huge", ObjectId::of(b"other"));
    let (pass, steps) = scene.pass();
    assert_eq!(pass.read, 20 * MIB as u64 + 1234 + 10, "nothing is read twice");
    assert!(steps >= 6, "{steps} steps");
    assert_eq!(pass.corrupt.len(), 1);

    let mut scene = Scene::new(&files);
    scene.believe("huge", ObjectId::of(b"other"));
    assert_eq!(scene.step().read, 4 * MIB as u64);
    fs::OpenOptions::new().append(true).open(scene.path().join("huge")).unwrap().set_len(1).unwrap();
    let (pass, _) = scene.pass();
    assert_eq!((pass.read, pass.files, pass.left), (10, 1, 1));
    assert!(pass.corrupt.is_empty());
}

#[test]
fn what_changes_while_it_is_read_is_no_corruption() {
    use crate::pace::{Boost, BytesPerSecond, Limits};
    let mut scene = Scene::new(&[("file", 500_000)]);
    let file = scene.path().join("file");
    let pacer = Pacer::new(Limits { disk: BytesPerSecond::new(1), ..Limits::default() });
    let step = std::thread::scope(|scope| {
        let scrubbing = scope.spawn(|| {
            pacer.enter();
            scene.scrub.step(&scene.root, &mut scene.cache, scene.now, &pacer, &Cancel::default())
        });
        // It sleeps after the first piece, unless what is below the temporary directory is on no disk.
        while pacer.status().read == 0 && !scrubbing.is_finished() {
            std::thread::yield_now();
        }
        fs::write(file, contents(1, 500_000)).unwrap();
        pacer.boost(Boost::Disk);
        scrubbing.join().unwrap()
    });
    assert_eq!(step.corrupt, []);
    if pacer.status().read == 0 {
        return dominator_fs_testkit::left_out("what_changes_while_it_is_read_is_no_corruption", "no disk");
    }
    assert_eq!((step.files, step.left), (0, 1));
}

#[test]
fn a_cancelled_step_loses_nothing() {
    let mut scene = Scene::new(&[("a", 300_000), ("b", 10)]);
    let cancel = Cancel::default();
    cancel.cancel();
    let (pacer, now) = (Pacer::unlimited(), scene.now);
    let step = scene.scrub.step(&scene.root, &mut scene.cache, now, &pacer, &cancel);
    assert_eq!((step.read, step.files, step.left), (0, 0, 0));
    let (pass, _) = scene.pass();
    assert_eq!((pass.read, pass.files), (300_010, 2));
}

#[test]
fn a_scrub_goes_on_after_a_restart_where_it_was() {
    let mut scene = Scene::new(&[("a", 4 * MIB), ("b/c", 4 * MIB), ("d", 4 * MIB)]);
    let home = tempfile::tempdir().unwrap();
    let home = fs::File::open(home.path()).unwrap();
    let (dir, name) = (home.as_fd(), b"scrub".as_slice());
    assert!(scene.scrub.save(dir, name).unwrap().is_none(), "there is nothing to save");
    let first = scene.step();
    assert!(scene.scrub.save(dir, name).unwrap().is_some());
    scene.scrub = Scrub::load(Scrub::DAY, dir, name).unwrap();
    assert_eq!(scene.scrub.progress(), (4 * MIB as u64, 12 * MIB as u64));
    let early = scene.step();
    assert_eq!((early.read, early.wait), (0, first.wait), "not faster because of the restart");
    scene.now = later(scene.now, first.wait);
    let (rest, _) = scene.pass();
    assert_eq!((rest.read, rest.files), (8 * MIB as u64, 2));

    scene.scrub = Scrub::load(Scrub::DAY, dir, b"never saved").unwrap();
    assert_eq!(scene.step().read, 4 * MIB as u64);
}

#[test]
fn nothing_known_is_nothing_to_scrub_yet() {
    let mut scene = Scene::new(&[]);
    let step = scene.step();
    assert_eq!((step.read, step.wait), (0, Scrub::IDLE));
    scene.cache = Cache::new();
    assert_eq!(scene.step().wait, Scrub::IDLE);
    fs::write(scene.path().join("file"), b"now there is").unwrap();
    scene.rescan();
    assert_eq!(scene.step().files, 1);
}

#[test]
fn files_are_found_in_order_after_any_place_there_was() {
    let names = ["a/b/1", "a/b/2", "a/b.c", "a.d", "a/e/f/g", "b", "c/1", "c/2"];
    let files: Vec<_> = names.map(|name| (name, 1)).into();
    let scene = Scene::new(&files);
    let all: Vec<_> = scene.cache.files(None).map(|file| file.path).collect();
    assert_eq!(all.len(), names.len());
    for (at, path) in all.iter().enumerate() {
        let after: Vec<_> = scene.cache.files(Some(path)).map(|file| file.path).collect();
        assert_eq!(after, all[at + 1..], "after {path}");
    }
    let next = |after: &str| scene.cache.files(Some(&path(after))).next().map(|file| file.path);
    assert_eq!(next("a/b/11"), Some(path("a/b/2")));
    assert_eq!(next("a/b/2/was/a/directory"), Some(path("a/b.c")));
    assert_eq!(next("a/c/gone"), Some(path("a/e/f/g")));
    assert_eq!(next("c"), Some(path("c/1")), "a file became a directory");
    assert_eq!(next("z"), None);
}
