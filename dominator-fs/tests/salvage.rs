//! A root that is no longer needed becomes the object cache of its successor.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::plan::{Comparison, Operation, Plan};
use dominator_core::view::View;
use dominator_fs::root::Root;
use dominator_fs::scan::{Cancel, Scanner};
use dominator_fs::seam::{Kernel, Seam};
use dominator_fs::update::{Likeness, Salvage, SalvageError, Salvaged, Survey, Updater};
use dominator_fs_testkit::scenario::view_of;
use dominator_fs_testkit::{Call, CallKind, Tap, Tapped, left_out, mount_tmpfs, needs_root, with_mounts};

fn kernel() -> Arc<dyn Seam> {
    Arc::new(Kernel)
}

fn old_root(root: &Path) {
    for dir in ["etc/deep/er", "usr/bin", "empty"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::write(root.join("usr/bin/tool"), "program").unwrap();
    fs::set_permissions(root.join("usr/bin/tool"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::write(root.join("etc/deep/er/copy"), "program").unwrap();
    fs::hard_link(root.join("usr/bin/tool"), root.join("usr/bin/other")).unwrap();
    fs::write(root.join("etc/config"), "port = 80").unwrap();
    fs::write(root.join("etc/nothing"), "").unwrap();
    symlink("/etc/passwd", root.join("etc/link")).unwrap();
    let at = File::open(root.join("etc")).unwrap();
    rustix::fs::mknodat(&at, "pipe", rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    drop(std::os::unix::net::UnixListener::bind(root.join("etc/socket")).unwrap());
    // Kept by file-systems that can.
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(root.join("etc/config"), "user.x", b"1", flags).ok();
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn look(root: &Path) -> Result<Salvage, SalvageError> {
    Salvage::look(root, Likeness::Root, &Cancel::default())
}

fn salvage(root: &Path) -> Salvaged {
    look(root).unwrap().run(&kernel()).unwrap()
}

#[test]
fn every_content_is_in_the_cache_once_and_all_else_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    old_root(dir.path());
    let look = look(dir.path()).unwrap();
    assert_eq!(look.survey(), Survey { names: 13, objects: 2, bytes: 16, unreadable: 0 });
    assert_eq!(names(dir.path()), ["empty", "etc", "usr"], "looking changed something");
    let done = look.run(&kernel()).unwrap();
    assert_eq!((done.moved, done.left), (2, vec![]));
    assert_eq!(names(dir.path()), [".subd"]);
    let objects = dir.path().join(".subd/objects");
    let mut expected = ["program", "port = 80"].map(|text| ObjectId::of(text.as_bytes()).to_string());
    expected.sort();
    assert_eq!(names(&objects), expected);
    for id in &expected {
        let path = objects.join(id);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(ObjectId::of(&fs::read(&path).unwrap()).to_string(), *id);
        let mut list = [0; 64];
        assert!(rustix::fs::listxattr(&path, &mut list).is_ok_and(|len| !list[..len].starts_with(b"user.")));
    }
    assert_eq!(salvage(dir.path()), Salvaged::default(), "done twice");
}

#[test]
fn an_agent_makes_an_image_of_what_it_finds_there_and_fetches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let [image, machine] = ["image", "machine"].map(|name| dir.path().join(name));
    fs::create_dir_all(image.join("opt")).unwrap();
    fs::write(image.join("opt/moved"), "program").unwrap();
    fs::write(image.join("opt/config"), "port = 80").unwrap();
    fs::create_dir(&machine).unwrap();
    old_root(&machine);
    salvage(&machine);
    let root = Root::open(&machine).unwrap();
    let view = view_of(&root);
    let scan = |root: &Root| {
        Scanner::new(root.clone(), Arc::new(view.clone())).scan(&Cancel::default()).unwrap().snapshot
    };
    let (required, actual) = (scan(&Root::open(&image).unwrap()), scan(&root));
    let comparison = Comparison {
        required: &required,
        actual: &actual.tree,
        links: Some(&actual.links),
        directories: &actual.directories,
    };
    let plan = comparison.plan().unwrap().plan;
    let report = Updater::open(root.clone(), kernel()).unwrap().0.apply(&plan, &view).unwrap();
    assert!(report.is_success(), "{:?}", report.failures);
    assert_eq!(scan(&root).id(), required.id());
}

#[test]
fn a_damaged_object_in_the_cache_is_no_reason_to_drop_a_good_file() {
    let dir = tempfile::tempdir().unwrap();
    old_root(dir.path());
    drop(Updater::open(Root::open(dir.path()).unwrap(), kernel()).unwrap().0);
    let object = dir.path().join(".subd/objects").join(ObjectId::of(b"program").to_string());
    fs::write(&object, "pr0gram").unwrap();
    assert_eq!(salvage(dir.path()).moved, 2);
    assert_eq!(fs::read(&object).unwrap(), b"program");
}

#[test]
fn an_update_that_was_cut_off_is_brought_to_its_end_before_anything_goes() {
    let dir = tempfile::tempdir().unwrap();
    old_root(dir.path());
    let root = Root::open(dir.path()).unwrap();
    let (mut updater, _) = Updater::open(root, kernel()).unwrap();
    let path = ImagePath::parse(b"/etc/config").unwrap();
    let plan = Plan { operations: vec![Operation::Delete { path, directory: false }] };
    let begun = updater.begin(&plan, &View::everything()).unwrap();
    drop(begun.stage().unwrap().journal(b"", None).unwrap().swap().unwrap());
    drop(updater);
    let refused = look(dir.path()).unwrap().run(&kernel()).unwrap_err();
    assert!(matches!(refused, SalvageError::Recovered), "{refused}");
    assert_eq!(names(dir.path()), [".subd", "empty", "etc", "usr"], "nothing went");
    assert_eq!((salvage(dir.path()).moved, names(dir.path())), (1, vec![".subd".to_owned()]));
    assert_eq!(names(&dir.path().join(".subd")), ["conflicts", "objects", "slots"]);
}

#[test]
fn what_changed_since_it_was_read_stays_with_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    old_root(dir.path());
    let look = look(dir.path()).unwrap();
    fs::write(dir.path().join("etc/config"), "changed meanwhile").unwrap();
    fs::write(dir.path().join("etc/new"), "came meanwhile").unwrap();
    let done = look.run(&kernel()).unwrap();
    let left: Vec<_> = done.left.iter().map(|left| left.path.to_string()).collect();
    assert_eq!(
        (left.len(), names(&dir.path().join("etc"))),
        (2, vec!["config".into(), "new".into()]),
        "{left:?}"
    );
    assert_eq!(salvage(dir.path()).moved, 2);
    assert_eq!(names(dir.path()), [".subd"]);
}

#[test]
fn a_root_that_somebody_lives_in_is_refused_and_so_is_ones_own() {
    let own = look(Path::new("/"));
    assert!(matches!(own, Err(SalvageError::Running)), "{own:?}");
    let dir = tempfile::tempdir().unwrap();
    old_root(dir.path());
    // Nothing is spawned in here: for a moment a child would hold the locks that other tests have let go.
    let before = std::env::current_dir().unwrap();
    std::env::set_current_dir(dir.path().join("usr")).unwrap();
    let lived_in = look(dir.path());
    std::env::set_current_dir(before).unwrap();
    let this = std::process::id().to_string();
    assert!(matches!(&lived_in, Err(SalvageError::InUse { process }) if *process == this), "{lived_in:?}");
}

#[test]
fn what_was_written_to_and_had_its_time_put_back_stays() {
    let dir = tempfile::tempdir().unwrap();
    old_root(dir.path());
    // Its content is in the cache already: the file is only removed, not moved.
    drop(Updater::open(Root::open(dir.path()).unwrap(), kernel()).unwrap().0);
    let object = dir.path().join(".subd/objects").join(ObjectId::of(b"port = 80").to_string());
    fs::write(&object, "port = 80").unwrap();
    let seen = look(dir.path()).unwrap();
    for (name, other) in [("etc/config", "port = 81"), ("etc/deep/er/copy", "pr0gram")] {
        let path = dir.path().join(name);
        let time: SystemTime = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, other).unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    }
    let done = seen.run(&kernel()).unwrap();
    assert_eq!(done.moved, 0, "what was not read became an object");
    let left: Vec<_> = done.left.iter().map(|left| left.path.to_string()).collect();
    assert_eq!(left, ["/etc/config", "/etc/deep/er/copy", "/usr/bin/other", "/usr/bin/tool"]);
    assert_eq!(fs::read(dir.path().join("etc/config")).unwrap(), b"port = 81");
    assert_eq!(fs::read(dir.path().join("etc/deep/er/copy")).unwrap(), b"pr0gram");
}

#[test]
fn all_names_of_a_file_that_was_moved_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    old_root(dir.path());
    for name in ["etc/zz", "usr/config"] {
        fs::hard_link(dir.path().join("etc/config"), dir.path().join(name)).unwrap();
    }
    assert_eq!(salvage(dir.path()).left, []);
    assert_eq!(names(dir.path()), [".subd"]);
}

#[test]
fn a_file_that_could_not_be_moved_stays_and_so_do_its_copies() {
    let dir = tempfile::tempdir().unwrap();
    old_root(dir.path());
    let seam: Arc<dyn Seam> = Arc::new(Tapped(Watched { refused: Some("copy"), ..Watched::default() }));
    let done = look(dir.path()).unwrap().run(&seam).unwrap();
    let left: Vec<_> = done.left.iter().map(|left| left.path.to_string()).collect();
    assert_eq!(left, ["/etc/deep/er/copy", "/usr/bin/other", "/usr/bin/tool"]);
    assert_eq!(fs::read(dir.path().join("usr/bin/tool")).unwrap(), b"program");
    assert_eq!(salvage(dir.path()).left, []);
}

#[test]
fn nothing_is_removed_before_every_content_is_in_the_cache_and_durable() {
    let dir = tempfile::tempdir().unwrap();
    old_root(dir.path());
    // More than are moved together.
    (0..700).for_each(|number| {
        fs::write(dir.path().join(format!("etc/file-{number}")), number.to_string()).unwrap()
    });
    let seam = Arc::new(Watched::default());
    let tapped: Arc<dyn Seam> = Arc::new(Tapped(Arc::clone(&seam)));
    let done = look(dir.path()).unwrap().run(&tapped).unwrap();
    assert_eq!((done.moved, done.left), (702, vec![]));
    let calls = seam.calls.lock().unwrap();
    let at = |call| calls.iter().position(|one| *one == call).unwrap();
    let last = calls.iter().rposition(|one| *one == CallKind::Rename).unwrap();
    assert!(last < at(CallKind::Remove), "a name went before the last content was moved");
    assert!(
        calls[last..at(CallKind::Remove)].contains(&CallKind::Syncfs),
        "names went before all was durable"
    );
}

#[test]
fn cut_off_anywhere_it_lost_nothing_and_can_be_begun_again() {
    let contents = [&b"program"[..], b"port = 80"];
    for budget in 0.. {
        let dir = tempfile::tempdir().unwrap();
        old_root(dir.path());
        let seam: Arc<dyn Seam> = Arc::new(Tapped(Watched { budget: Some(budget), ..Watched::default() }));
        let cut = look(dir.path()).unwrap().run(&seam);
        let mut found = Vec::new();
        contents_below(dir.path(), &mut found);
        for content in contents {
            assert!(found.iter().any(|one| one == content), "{} calls, then {content:?} is lost", budget);
        }
        let over = cut.is_ok_and(|done| done.left.is_empty());
        assert_eq!(salvage(dir.path()).left, [], "{budget} calls");
        assert_eq!(names(dir.path()), [".subd"], "{budget} calls");
        if over {
            return assert!(budget > 20, "{budget}");
        }
    }
}

#[test]
fn what_is_immutable_is_named_and_stays() {
    let test = "what_is_immutable_is_named_and_stays";
    if !needs_root(test) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    old_root(dir.path());
    fs::write(dir.path().join("empty/inside"), "in a directory that keeps it").unwrap();
    let fixed = ["etc/config", "empty"].map(|name| File::open(dir.path().join(name)).unwrap());
    let set = |flags| fixed.iter().try_for_each(|file| rustix::fs::ioctl_setflags(file, flags));
    let Ok(before) = rustix::fs::ioctl_getflags(&fixed[0]) else {
        return left_out(test, "files have no flags here");
    };
    if let Err(error) = set(before | rustix::fs::IFlags::IMMUTABLE) {
        return left_out(test, &format!("no file can be made immutable here: {error}"));
    }
    let done = look(dir.path()).and_then(|seen| seen.run(&kernel()));
    set(before - rustix::fs::IFlags::IMMUTABLE).unwrap();
    let done = done.unwrap();
    let left: Vec<_> = done.left.iter().map(|left| left.path.to_string()).collect();
    assert_eq!(left, ["/empty", "/empty/inside", "/etc/config"]);
    assert!(done.left.iter().all(|left| left.reason.contains("immutable")), "{:?}", done.left);
    assert_eq!(done.moved, 1, "the rest went on");
    assert_eq!(salvage(dir.path()).left, []);
}

#[test]
fn a_root_in_which_something_is_mounted_is_refused() {
    with_mounts("a_root_in_which_something_is_mounted_is_refused", || {
        let dir = tempfile::tempdir().unwrap();
        old_root(dir.path());
        mount_tmpfs(&dir.path().join("etc/deep"), "size=1m");
        fs::write(dir.path().join("etc/deep/precious"), "data").unwrap();
        let refused = look(dir.path());
        assert!(
            matches!(&refused, Err(SalvageError::MountPoint { path }) if path.to_string() == "/etc/deep"),
            "{refused:?}"
        );
        dominator_fs_testkit::unmount(&dir.path().join("etc/deep"));
        assert_eq!(salvage(dir.path()).left, []);
    });
}

#[test]
fn what_is_mounted_after_the_look_is_not_entered() {
    with_mounts("what_is_mounted_after_the_look_is_not_entered", || {
        let dir = tempfile::tempdir().unwrap();
        old_root(dir.path());
        let seen = look(dir.path()).unwrap();
        mount_tmpfs(&dir.path().join("empty"), "size=1m");
        fs::create_dir(dir.path().join("empty/precious")).unwrap();
        let done = seen.run(&kernel()).unwrap();
        let left: Vec<_> = done.left.iter().map(|left| left.path.to_string()).collect();
        assert_eq!(left, ["/empty"]);
        assert!(dir.path().join("empty/precious").exists());
    });
}

#[test]
fn what_does_not_look_like_a_root_is_refused_unless_that_is_meant() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["etc", "bin", "lib"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    let refused = look(dir.path());
    assert!(matches!(refused, Err(SalvageError::NoRoot)), "{refused:?}");
    Salvage::look(dir.path(), Likeness::Anything, &Cancel::default()).unwrap();
    fs::create_dir(dir.path().join("usr")).unwrap();
    look(dir.path()).unwrap();
}

/// All that is in files below a directory.
fn contents_below(dir: &Path, found: &mut Vec<Vec<u8>>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => contents_below(&entry.path(), found),
            kind if kind.is_file() => found.push(fs::read(entry.path()).unwrap()),
            _ => {}
        }
    }
}

/// The kernel, and what it was asked for, in order.
#[derive(Default)]
struct Watched {
    calls: Mutex<Vec<CallKind>>,
    /// How many calls are answered; all others fail.
    budget: Option<usize>,
    /// The owner of what has this name can't be changed.
    refused: Option<&'static str>,
}

impl Tap for Watched {
    fn before(&self, call: Call<'_>) -> io::Result<()> {
        if let Call::Chown(at, ..) = call
            && self.refused.is_some_and(|name| name.as_bytes() == at.name)
        {
            return Err(rustix::io::Errno::PERM.into());
        }
        let mut calls = self.calls.lock().unwrap();
        if self.budget.is_some_and(|budget| calls.len() >= budget) {
            return Err(rustix::io::Errno::IO.into());
        }
        // Names of digits alone are the work directory's own.
        let own = matches!(call, Call::Remove(at, _) if at.name.iter().all(u8::is_ascii_digit));
        calls.push(if own { CallKind::Truncate } else { call.kind() });
        Ok(())
    }
}
