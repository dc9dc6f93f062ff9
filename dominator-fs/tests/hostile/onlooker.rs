//! Somebody who looks at the files of a machine without a pause while it is updated to and fro: each path that is there
//! before and after is there at any moment, and its owner, mode, attributes and contents are those of before or those of
//! after, never some of each.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use dominator_core::object::ObjectId;
use dominator_core::plan::Plan;
use dominator_core::tree::Snapshot;
use dominator_fs::update::Reason;
use dominator_fs_testkit::{mount_tmpfs, needs_root, unmount, with_mounts};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat, Timespec, Timestamps, XattrFlags};

use crate::process::{Over, say};
use crate::support::Machine;

/// Debug builds are for finding out quickly.
const UPDATES: usize = if cfg!(debug_assertions) { 300 } else { 1_500 };

/// What a path is in one of the two states.
#[derive(Clone, Copy)]
struct State {
    /// A file's, or where a symbolic link leads.
    contents: &'static [u8],
    /// How often that is repeated.
    times: usize,
    mode: u32,
    uid: u32,
    mtime: i64,
    note: Option<&'static [u8]>,
    is_link: bool,
}

const PLAIN: State =
    State { contents: b"one", times: 1, mode: 0o644, uid: 0, mtime: 1, note: None, is_link: false };

/// Every path, in both states. What shares its first letters with another path is a hard link of it.
fn states() -> Vec<(&'static str, [State; 2])> {
    let other = State { contents: b"two", ..PLAIN };
    let link = State { contents: b"somewhere", mode: 0o777, is_link: true, ..PLAIN };
    vec![
        ("contents", [PLAIN, other]),
        ("contents-of-another-length", [PLAIN, State { times: 9, ..other }]),
        ("everything", [PLAIN, State { mode: 0o600, uid: 1234, mtime: 2, note: Some(b"n"), ..other }]),
        ("set-uid", [PLAIN, other].map(|state| State { mode: 0o4755, ..state })),
        (
            "set-uid-of-others",
            [State { mode: 0o4755, uid: 1000, ..PLAIN }, State { mode: 0o6755, uid: 2000, ..other }],
        ),
        ("set-uid-or-not", [State { uid: 1000, mode: 0o755, ..PLAIN }, State { mode: 0o4755, ..other }]),
        // The same bytes with other rights.
        ("becomes-set-uid", [State { uid: 1000, mode: 0o755, ..PLAIN }, State { mode: 0o4755, ..PLAIN }]),
        ("mode-only", [PLAIN, State { mode: 0o600, ..PLAIN }]),
        ("owner-only", [PLAIN, State { uid: 1234, ..PLAIN }]),
        ("owner-and-mode", [State { mode: 0o640, ..PLAIN }, State { mode: 0o604, uid: 1234, ..PLAIN }]),
        ("large", [State { times: 100_000, ..PLAIN }, State { times: 100_000, ..other }]),
        ("file-or-link", [PLAIN, link]),
        ("link", [link, State { contents: b"elsewhere", ..link }]),
        ("directory/inner", [PLAIN, other]),
    ]
}

/// Names that are hard links of another path.
const LINKS: [(&str, &str); 2] = [("linked", "contents"), ("directory/linked", "set-uid")];

/// Names that are links in the first state only; apart from it they are as said.
const LINKED_AT_FIRST: (&str, &str) = ("linked-at-first", "everything");

fn make(root: &Path, which: usize) {
    fs::create_dir(root.join("directory")).unwrap();
    let directory = [(0o755, 0), (0o711, 1234)][which];
    for (path, states) in states() {
        let (state, path) = (states[which], root.join(path));
        if state.is_link {
            symlink(std::str::from_utf8(state.contents).unwrap(), &path).unwrap();
            lchown(&path, Some(state.uid), Some(0)).unwrap();
            continue;
        }
        fs::write(&path, state.contents.repeat(state.times)).unwrap();
        chown(&path, Some(state.uid), Some(0)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(state.mode)).unwrap();
        if let Some(note) = state.note {
            rustix::fs::setxattr(&path, NOTE, note, XattrFlags::empty()).unwrap();
        }
        let time = Timespec { tv_sec: state.mtime, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    for (name, of) in LINKS {
        fs::hard_link(root.join(of), root.join(name)).unwrap();
    }
    let (name, of) = LINKED_AT_FIRST;
    if which == 0 {
        fs::hard_link(root.join(of), root.join(name)).unwrap();
    } else {
        fs::copy(root.join("contents"), root.join(name)).unwrap();
        fs::set_permissions(root.join(name), Permissions::from_mode(0o600)).unwrap();
        let times = Timespec { tv_sec: 1, tv_nsec: 0 };
        let times = Timestamps { last_access: times, last_modification: times };
        rustix::fs::utimensat(CWD, root.join(name), &times, AtFlags::empty()).unwrap();
    }
    chown(root.join("directory"), Some(directory.1), Some(0)).unwrap();
    fs::set_permissions(root.join("directory"), Permissions::from_mode(directory.0)).unwrap();
    fs::set_permissions(root, Permissions::from_mode(0o755)).unwrap();
}

const NOTE: &str = "user.note";

/// What one call tells of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    mode: u32,
    uid: u32,
    size: u64,
    /// Not of symbolic links.
    mtime: Option<i64>,
}

impl Told {
    fn of(stat: &Stat) -> Self {
        let is_link = stat.st_mode & 0o170_000 == 0o120_000;
        Self {
            mode: stat.st_mode,
            uid: stat.st_uid,
            size: u64::try_from(stat.st_size).unwrap(),
            mtime: (!is_link).then_some(stat.st_mtime),
        }
    }
}

/// All there is to see of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    told: Told,
    contents: Vec<u8>,
    note: Option<Vec<u8>>,
}

fn open(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Looks at what was opened: the same file, whatever its path names by then.
fn look(handle: &OwnedFd) -> rustix::io::Result<Seen> {
    let stat = rustix::fs::fstat(handle)?;
    if stat.st_mode & 0o170_000 == 0o120_000 {
        let contents = rustix::fs::readlinkat(handle, "", Vec::new())?.into_bytes();
        return Ok(Seen { told: Told::of(&stat), contents, note: None });
    }
    let mut file = File::open(format!("/proc/self/fd/{}", handle.as_raw_fd())).unwrap();
    let (mut contents, mut note) = (Vec::new(), [0; 16]);
    file.read_to_end(&mut contents).unwrap();
    let note = rustix::fs::fgetxattr(&file, NOTE, &mut note).ok().map(|len| note[..len].to_vec());
    Ok(Seen { told: Told::of(&stat), contents, note })
}

/// Whether a path still names what was opened.
fn names(path: &Path, handle: &OwnedFd) -> bool {
    let [by_path, itself] = [rustix::fs::lstat(path), rustix::fs::fstat(handle)].map(Result::unwrap);
    (by_path.st_dev, by_path.st_ino) == (itself.st_dev, itself.st_ino)
}

/// What each path may look like, as it is at rest in either state.
struct Allowed(BTreeMap<String, [Seen; 2]>);

impl Allowed {
    fn of(roots: [&Path; 2]) -> Self {
        let mut names: Vec<_> = states().into_iter().map(|(name, _)| name).collect();
        names.extend(LINKS.map(|(name, _)| name));
        names.push(LINKED_AT_FIRST.0);
        let both = |name: &str| roots.map(|root| look(&open(&root.join(name)).unwrap()).unwrap());
        Self(names.into_iter().map(|name| (name.to_owned(), both(name))).collect())
    }

    /// Looks at everything once, in two ways.
    fn watch(&self, root: &Path) {
        for (name, allowed) in &self.0 {
            let path = root.join(name);
            let stat = rustix::fs::lstat(&path).unwrap_or_else(|error| panic!("{name} is missing: {error}"));
            let told = Told::of(&stat);
            assert!(
                allowed.iter().any(|seen| seen.told == told),
                "{name} is {told:?}, which is neither {:?} nor {:?}",
                allowed[0].told,
                allowed[1].told
            );
            let handle = open(&path).unwrap_or_else(|error| panic!("{name} is missing: {error}"));
            let seen = look(&handle).unwrap();
            // What was displaced meanwhile is kept as an object, with the rights of one and the contents it had.
            let is_private = seen.told.mode & 0o6077 == 0;
            let is_whole = || is_private && allowed.iter().any(|one| one.contents == seen.contents);
            assert!(
                allowed.contains(&seen) || is_whole() && !names(&path, &handle),
                "{name} is {:?} with note {:?} and {} bytes that begin with {:?}",
                seen.told,
                seen.note,
                seen.contents.len(),
                &seen.contents[..seen.contents.len().min(4)]
            );
        }
    }
}

/// Looks until it is over; says how often.
fn watch(root: &Path, allowed: &Allowed, over: &AtomicBool, looks: &AtomicUsize) {
    while !over.load(Ordering::Relaxed) {
        allowed.watch(root);
        looks.fetch_add(1, Ordering::Relaxed);
    }
}

/// The machine in the first state, what it must be in either, and the plans from one to the other.
struct ToAndFro {
    machine: Machine,
    plans: [Plan; 2],
    objects: BTreeMap<ObjectId, Vec<u8>>,
    required: [Snapshot; 2],
}

impl ToAndFro {
    fn within(place: &Path) -> (Self, Allowed) {
        let there = |name: &str, which| {
            let dir = tempfile::Builder::new().prefix(name).tempdir_in(place).unwrap();
            make(dir.path(), which);
            Machine::within(dir)
        };
        let (machine, model) = (there("machine", 0), there("model", 1));
        let allowed = Allowed::of([machine.dir.path(), model.dir.path()]);
        let required = [machine.scan(), model.scan()];
        let plans = [model.plan_for(&required[0]), machine.plan_for(&required[1])];
        let seen = allowed.0.values().flatten().filter(|seen| seen.told.mode & 0o170_000 == 0o100_000);
        let objects = seen.map(|seen| (ObjectId::of(&seen.contents), seen.contents.clone())).collect();
        (Self { machine, plans, objects, required }, allowed)
    }

    /// Makes the machine so.
    fn becomes(&mut self, which: usize) {
        let plan = &self.plans[which];
        offer_for(plan, &self.objects, &self.machine);
        let report = self.machine.updater.apply(plan, &self.machine.view).unwrap();
        assert!(report.is_success() && report.kept.is_empty(), "{report:?}");
    }

    fn is_undone(&mut self) {
        let report = self.machine.updater.undo(Reason::Asked).unwrap();
        assert!(report.conflicts.is_empty() && report.failures.is_empty(), "{report:?}");
    }

    fn is(&self, which: usize) {
        assert_eq!(self.machine.scan().id(), self.required[which].id());
    }
}

/// Takes in what the cache lacks of what a plan needs.
pub(crate) fn offer_for(plan: &Plan, objects: &BTreeMap<ObjectId, Vec<u8>>, machine: &Machine) {
    for id in plan.objects().keys() {
        if machine.updater.objects().size(id).unwrap().is_none() {
            machine.offer(&objects[id]);
        }
    }
}

#[test]
fn who_looks_without_a_pause_sees_each_path_as_it_was_or_as_it_must_be() {
    const TEST: &str = "onlooker::who_looks_without_a_pause_sees_each_path_as_it_was_or_as_it_must_be";
    if !needs_root(TEST) {
        return;
    }
    with_mounts(TEST, || {
        let place = tempfile::tempdir().unwrap();
        mount_tmpfs(place.path(), "size=200m,mode=755");
        let (mut scene, allowed) = ToAndFro::within(place.path());
        let root = scene.machine.dir.path().to_owned();
        let mut state = 0;
        let (over, looks) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            let onlookers: Vec<_> =
                (0..2).map(|_| scope.spawn(|| watch(&root, &allowed, &over, &looks))).collect();
            let end = Over(&over);
            for update in 0..UPDATES {
                scene.becomes(1 - state);
                if update % 3 == 1 {
                    scene.is_undone();
                } else {
                    state = 1 - state;
                }
                if onlookers.iter().any(std::thread::ScopedJoinHandle::is_finished) {
                    break;
                }
            }
            drop(end);
            for onlooker in onlookers {
                onlooker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
        });
        scene.is(state);
        let looks = looks.into_inner();
        say(&format!("{UPDATES} updates, {} of them undone, under {looks} looks at everything", UPDATES / 3));
        assert!(looks > UPDATES, "hardly anybody looked: {looks}");
        drop(scene);
        unmount(place.path());
    });
}
