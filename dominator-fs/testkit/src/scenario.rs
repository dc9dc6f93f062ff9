//! A small machine and what it must become, with one of everything an update can do.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use dominator_core::object::ObjectId;
use dominator_core::plan::{Comparison, Plan};
use dominator_core::port::MachineTraits;
use dominator_core::tree::Snapshot;
use dominator_core::view::View;
use dominator_fs::root::Root;
use dominator_fs::scan::{Cancel, Scanner};
use dominator_fs::traits::traits_of;
use rustix::fs::{AtFlags, CWD, FileType, IFlags, Mode, Timespec, Timestamps, XattrFlags};

/// The machine as it is.
///
/// # Panics
/// When it can't be made.
pub fn before(root: &Path) {
    for dir in ["etc", "old/deep", "was-dir", "links", "same", "closed"] {
        fs::create_dir_all(root.join(dir)).expect("a directory");
    }
    file(root, "same/untouched", b"stays", 0o644, 11);
    file(root, "etc/replaced", b"old contents", 0o644, 12);
    file(root, "etc/dressed", b"its bytes stay", 0o600, 13);
    file(root, "etc/gone", b"goes", 0o644, 14);
    file(root, "etc/rights", b"#!program", 0o755, 15);
    file(root, "old/deep/file", b"goes with its directory", 0o600, 16);
    fs::hard_link(root.join("same/untouched"), root.join("old/link")).expect("a hard link");
    file(root, "was-dir/inner", b"goes for a file", 0o644, 17);
    file(root, "was-file", b"goes for a directory", 0o644, 18);
    file(root, "links/one", b"three names", 0o644, 19);
    fs::hard_link(root.join("links/one"), root.join("links/two")).expect("a hard link");
    fs::hard_link(root.join("links/one"), root.join("links/three")).expect("a hard link");
    file(root, "links/joins", b"gets a second name", 0o644, 20);
    file(root, "links/other", b"becomes that name", 0o644, 21);
    symlink("same/untouched", root.join("symlink")).expect("a symbolic link");
    file(root, "pipe", b"becomes a pipe", 0o644, 22);
    file(root, "closed/replaced", b"in a directory closed to its owner", 0o400, 23);
    modes(root, &[("same", 0o755), ("etc", 0o755), ("links", 0o700), ("closed", 0o555)]);
}

/// The machine as it must be.
///
/// # Panics
/// When it can't be made.
pub fn after(root: &Path) {
    for dir in ["etc", "new/sub", "was-file", "links", "same", "closed"] {
        fs::create_dir_all(root.join(dir)).expect("a directory");
    }
    let long: Vec<u8> = (0..1500_u32).flat_map(u32::to_le_bytes).collect();
    file(root, "same/untouched", b"stays", 0o644, 11);
    file(root, "etc/replaced", &long, 0o640, 32);
    file(root, "etc/dressed", b"its bytes stay", 0o4755, 33);
    file(root, "etc/rights", b"#!program", 0o700, 35);
    file(root, "etc/empty", b"", 0o644, 36);
    file(root, "new/sub/file", b"in a new directory", 0o600, 37);
    file(root, "new/twice", &long, 0o444, 38);
    file(root, "was-dir", b"was a directory", 0o644, 39);
    file(root, "was-file/inner", b"was none", 0o644, 40);
    file(root, "links/one", b"three names", 0o644, 19);
    fs::hard_link(root.join("links/one"), root.join("links/two")).expect("a hard link");
    file(root, "links/three", b"a file of its own", 0o644, 41);
    file(root, "links/joins", b"gets a second name", 0o644, 20);
    fs::hard_link(root.join("links/joins"), root.join("links/other")).expect("a hard link");
    symlink("etc/replaced", root.join("symlink")).expect("a symbolic link");
    file(root, "closed/replaced", b"all the same", 0o444, 43);
    rustix::fs::mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0)
        .expect("a pipe");
    modes(root, &[("pipe", 0o640), ("same", 0o750), ("etc", 0o755), ("links", 0o755), ("new/sub", 0o711)]);
    modes(root, &[("closed", 0o555)]);
    timed(root, "pipe", 42);
    // Where the file-system keeps none, it does without.
    rustix::fs::setxattr(root.join("etc/rights"), "user.note", b"new", XattrFlags::empty()).ok();
    rustix::fs::setxattr(root.join("links"), "user.note", b"new", XattrFlags::empty()).ok();
    if rustix::process::geteuid().is_root() {
        for (name, uid) in [("etc/replaced", 7), ("new/sub", 8), ("etc/rights", 9), ("symlink", 10)] {
            std::os::unix::fs::lchown(root.join(name), Some(uid), Some(uid)).expect("an owner");
        }
        fs::set_permissions(root.join("etc/rights"), Permissions::from_mode(0o700)).expect("its mode");
    }
}

/// The machine as it must be after that: a small change to what [`after`] made.
///
/// # Panics
/// When it can't be made.
pub fn later(root: &Path) {
    after(root);
    file(root, "etc/replaced", b"once more", 0o600, 50);
    fs::remove_file(root.join("new/twice")).expect("it was there");
    file(root, "was-file/another", b"beside it", 0o644, 51);
}

/// What of [`before`] nobody may change until that is lifted, where the file-system has such flags: a file that is
/// replaced, one that is deleted, a directory whose entries and metadata change, one whose metadata do.
pub const PINNED: [&str; 4] = ["etc/replaced", "etc/gone", "links", "same"];

/// Makes what is [`PINNED`] immutable. Says whether that can be.
pub fn pin(root: &Path) -> bool {
    PINNED.iter().all(|name| pinned(&root.join(name)).is_ok())
}

/// Makes a file or directory immutable.
///
/// # Errors
/// What the kernel says, where there is no such flag.
pub fn pinned(path: &Path) -> io::Result<()> {
    let file = fs::File::open(path)?;
    let flags = rustix::fs::ioctl_getflags(&file)?;
    Ok(rustix::fs::ioctl_setflags(&file, flags | IFlags::IMMUTABLE)?)
}

/// How a root is looked at, and changed, in scenarios.
pub fn view_of(root: &Root) -> View {
    let traits = traits_of(root);
    View { xattrs: traits.xattrs, ownership: traits.ownership, ..View::everything() }
}

/// The view a controller would make of a machine's traits for an image without a filter.
pub fn view_by(traits: &MachineTraits) -> View {
    View {
        protected: traits.protected.clone(),
        xattrs: traits.xattrs,
        ownership: traits.ownership,
        ..View::everything()
    }
}

/// The plan that makes what is in `root` like what is in `required`.
///
/// # Panics
/// When either can't be read.
pub fn plan_between(root: &Path, required: &Path) -> Plan {
    let root = Root::open(root).expect("a root");
    let view = view_of(&root);
    let (actual, required) = (scanned(&root, &view), scanned(&Root::open(required).expect("a root"), &view));
    let comparison = Comparison {
        required: &required,
        actual: &actual.tree,
        links: Some(&actual.links),
        directories: &actual.directories,
    };
    comparison.plan().expect("a plan").plan
}

/// The objects a plan needs, out of the tree it leads to.
///
/// # Panics
/// When it can't be read.
pub fn objects_for(plan: &Plan, required: &Path) -> BTreeMap<ObjectId, Vec<u8>> {
    let mut wanted = plan.objects();
    wanted.retain(|_, size| *size > 0);
    let mut found = BTreeMap::new();
    let mut waiting = vec![required.to_path_buf()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir).expect("a directory") {
            let path = entry.expect("its next entry").path();
            let kind = path.symlink_metadata().expect("its kind").file_type();
            if kind.is_dir() {
                waiting.push(path);
            } else if kind.is_file() {
                let contents = fs::read(&path).expect("contents");
                found.insert(ObjectId::of(&contents), contents);
            }
        }
    }
    found.retain(|id, _| wanted.contains_key(id));
    assert_eq!(found.len(), wanted.len(), "the tree has all objects of the plan");
    found
}

fn scanned(root: &Root, view: &View) -> Snapshot {
    let scanner = Scanner::new(root.clone(), Arc::new(view.clone())).threads(std::num::NonZeroUsize::MIN);
    scanner.scan(&Cancel::default()).expect("a scan").snapshot
}

fn file(root: &Path, name: &str, contents: &[u8], mode: u32, mtime: i64) {
    let path = root.join(name);
    drop(fs::remove_file(&path));
    fs::write(&path, contents).expect("a file");
    fs::set_permissions(&path, Permissions::from_mode(mode)).expect("its mode");
    timed(root, name, mtime);
}

fn modes(root: &Path, modes: &[(&str, u32)]) {
    for (name, mode) in modes {
        fs::set_permissions(root.join(name), Permissions::from_mode(*mode)).expect("its mode");
    }
}

fn timed(root: &Path, name: &str, seconds: i64) {
    let time = Timespec { tv_sec: 1_000_000_000 + seconds, tv_nsec: 123_456_789 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, root.join(name), &times, AtFlags::SYMLINK_NOFOLLOW).expect("its time");
}
