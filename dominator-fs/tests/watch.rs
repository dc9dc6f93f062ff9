#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dominator_core::path::ImagePath;
use dominator_core::view::View;
use dominator_fs::root::{Beneath, Root};
use dominator_fs::scan::{Cancel, Scanner};
use dominator_fs::watch::{Changes, Watch, WatchError};
use dominator_fs_testkit::{Disk, left_out, mount_tmpfs, needs_root, unmount, with_mounts};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use rustix::thread::{CapabilitySet, CapabilitySets};
use tempfile::TempDir;

/// A directory that is watched, and all of it in view.
struct Watched {
    top: PathBuf,
    watch: Watch,
    view: View,
}

impl Watched {
    fn new(top: &Path) -> Self {
        let watch = Watch::new(&Root::open(top).unwrap()).unwrap();
        Self { top: top.to_owned(), watch, view: View::everything() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.top.join(path)
    }

    /// What has happened until now.
    fn changes(&mut self) -> Changes {
        self.watch.wait(&self.view, Some(Duration::ZERO)).unwrap()
    }

    fn settle(&mut self) {
        while self.changes() != Changes::Nothing {}
    }
}

fn directories(paths: &[&str]) -> Changes {
    let paths: BTreeSet<_> = paths.iter().map(|path| ImagePath::parse(path.as_bytes()).unwrap()).collect();
    if paths.is_empty() { Changes::Nothing } else { Changes::Directories(paths) }
}

#[expect(unsafe_code, reason = "nothing else writes without the kernel being called")]
fn write_through_a_mapping(path: &Path) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    // SAFETY: nobody else has the file open, in a directory of the test's own.
    let mut mapping = unsafe { memmap2::MmapMut::map_mut(&file).unwrap() };
    mapping[0] ^= 1;
}

fn change_everything_in_turn(top: &Path) {
    for made in ["d/sub", "e"] {
        fs::create_dir_all(top.join(made)).unwrap();
    }
    for made in ["d/file", "d/other", "d/sub/deep"] {
        fs::write(top.join(made), b"0123").unwrap();
    }
    let mut watched = Watched::new(top);
    let at = |path: &str| top.join(path);
    let mode = |path: &str, mode| fs::set_permissions(at(path), Permissions::from_mode(mode)).unwrap();
    let xattr = |path: &str| rustix::fs::setxattr(at(path), "user.x", b"y", XattrFlags::empty());
    let fifo = |path: &str| rustix::fs::mknodat(CWD, at(path), FileType::Fifo, Mode::from_raw_mode(0o600), 0);
    let open = OpenOptions::new().append(true).open(at("d/other")).unwrap();
    let has_xattrs = xattr("d/file").is_ok();
    watched.settle();
    type Case<'a> = (&'a str, &'a dyn Fn(), &'a [&'a str]);
    let cases: [Case<'_>; 22] = [
        ("nothing", &|| {}, &[]),
        ("read", &|| drop(fs::read(at("d/file")).unwrap()), &[]),
        ("write", &|| fs::write(at("d/file"), b"4567").unwrap(), &["/d"]),
        ("write without closing", &|| (&open).write_all(b"x").unwrap(), &["/d"]),
        ("write through a mapping", &|| write_through_a_mapping(&at("d/file")), &["/d"]),
        (
            "truncate",
            &|| OpenOptions::new().write(true).open(at("d/file")).unwrap().set_len(2).unwrap(),
            &["/d"],
        ),
        ("create", &|| fs::write(at("d/new"), b"").unwrap(), &["/d"]),
        ("create deep", &|| fs::write(at("d/sub/new"), b"").unwrap(), &["/d/sub"]),
        ("make a directory", &|| fs::create_dir(at("d/made")).unwrap(), &["/d"]),
        ("make a link", &|| symlink("x", at("e/link")).unwrap(), &["/e"]),
        ("make a pipe", &|| fifo("e/pipe").unwrap(), &["/e"]),
        ("make another name", &|| fs::hard_link(at("d/file"), at("e/name")).unwrap(), &["/e"]),
        ("rename a file", &|| fs::rename(at("d/new"), at("e/new")).unwrap(), &["/d", "/e"]),
        ("rename a directory", &|| fs::rename(at("d/sub"), at("e/sub")).unwrap(), &["/d", "/e"]),
        ("write in what was renamed", &|| fs::write(at("e/sub/new"), b"x").unwrap(), &["/e/sub"]),
        (
            "write and rename",
            &|| {
                fs::write(at("e/sub/new"), b"x").unwrap();
                fs::rename(at("e/sub"), at("d/sub")).unwrap();
            },
            &["/d", "/d/sub", "/e"],
        ),
        ("mode of a file", &|| mode("d/file", 0o600), &["/d"]),
        ("mode of a directory", &|| mode("d/sub", 0o700), &["/d"]),
        ("mode of the root", &|| mode("", 0o750), &["/"]),
        (
            "attribute",
            &|| assert_eq!(xattr("d/other").is_ok(), has_xattrs),
            if has_xattrs { &["/d"] } else { &[] },
        ),
        ("delete", &|| fs::remove_file(at("d/other")).unwrap(), &["/d"]),
        (
            "write and delete all",
            &|| {
                fs::write(at("d/sub/deep"), b"x").unwrap();
                fs::remove_dir_all(at("d")).unwrap();
            },
            &["/"],
        ),
    ];
    for (what, change, expected) in cases {
        change();
        assert_eq!(watched.changes(), directories(expected), "{what}");
    }
}

#[test]
fn every_kind_of_change_is_heard_of_where_it_was_made() {
    const NAME: &str = "every_kind_of_change_is_heard_of_where_it_was_made";
    // On a disk others write to as well they may do more than the kernel keeps, which is told as everything.
    with_mounts(NAME, || match Disk::new(16 << 20) {
        Ok(disk) => change_everything_in_turn(tempfile::tempdir_in(disk.path()).unwrap().path()),
        Err(why) => left_out(NAME, &why),
    });
}

#[test]
fn changes_in_memory_are_heard_of_as_well() {
    with_mounts("changes_in_memory_are_heard_of_as_well", || {
        let dir = tempfile::tempdir().unwrap();
        mount_tmpfs(dir.path(), "size=1m");
        change_everything_in_turn(dir.path());
        unmount(dir.path());
    });
}

#[test]
fn what_happens_beside_the_root_or_out_of_view_is_not_told() {
    with_mounts("what_happens_beside_the_root_or_out_of_view_is_not_told", || {
        let dir = tempfile::tempdir().unwrap();
        mount_tmpfs(dir.path(), "size=9m");
        let outside = |path: &str| dir.path().join(path);
        for made in ["root/in/log", "rootless", "in", "root/.subd"] {
            fs::create_dir_all(outside(made)).unwrap();
        }
        let mut watched = Watched::new(&outside("root"));
        watched.view.protected.insert(ImagePath::parse(b"/in/log").unwrap());
        for made in ["rootless/file", "in/file", "file", "root/.subd/file", "root/in/log/file"] {
            fs::write(outside(made), b"x").unwrap();
        }
        fs::set_permissions(outside("root/in/log"), Permissions::from_mode(0o700)).unwrap();
        assert_eq!(watched.changes(), Changes::Nothing);
        fs::write(outside("root/in/file"), b"x").unwrap();
        assert_eq!(watched.changes(), directories(&["/in"]));
        fs::rename(outside("root"), outside("moved")).unwrap();
        fs::write(outside("moved/in/file"), b"y").unwrap();
        assert_eq!(watched.changes(), directories(&["/in"]), "the root is a directory, not a name");
        unmount(dir.path());
    });
}

#[test]
fn changes_below_mounts_are_heard_of_where_a_root_is_seen_without_them() {
    with_mounts("changes_below_mounts_are_heard_of_where_a_root_is_seen_without_them", || {
        let dir = tempfile::tempdir().unwrap();
        mount_tmpfs(dir.path(), "size=9m");
        let top = dir.path().join("root");
        fs::create_dir_all(top.join("data/deep")).unwrap();
        fs::create_dir_all(dir.path().join("data/deep")).unwrap();
        let hidden = fs::File::open(top.join("data")).unwrap();
        let hidden = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&hidden)));
        mount_tmpfs(&top.join("data"), "size=1m");
        let plain = Watched::new(&top);
        let (root, beneath) = Root::open_beneath_mounts(&top).unwrap();
        assert!(matches!(beneath, Beneath::Yes), "{beneath}");
        let beneath =
            Watched { watch: Watch::new(&root).unwrap(), top: top.clone(), view: View::everything() };
        let (mut plain, mut beneath) = (plain, beneath);
        let cases: [(PathBuf, &[&str], &[&str]); 4] = [
            (dir.path().join("data/deep/file"), &[], &[]),
            (top.join("data/file"), &[], &[]),
            (top.join("file"), &["/"], &["/"]),
            (hidden.join("deep/file"), &[], &["/data/deep"]),
        ];
        for (file, seen, seen_beneath) in cases {
            fs::write(&file, b"x").unwrap();
            assert_eq!(plain.changes(), directories(seen), "{}", file.display());
            assert_eq!(beneath.changes(), directories(seen_beneath), "{}", file.display());
        }
        unmount(&top.join("data"));
        unmount(dir.path());
    });
}

#[test]
fn more_than_the_kernel_keeps_is_everything_and_is_counted() {
    with_mounts("more_than_the_kernel_keeps_is_everything_and_is_counted", || {
        let limit = fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap();
        let limit: usize = limit.trim().parse().unwrap();
        if limit > 100_000 {
            return left_out("more_than_the_kernel_keeps_is_everything_and_is_counted", "it keeps too much");
        }
        let dir = tempfile::tempdir().unwrap();
        mount_tmpfs(dir.path(), "nr_inodes=300k");
        let mut watched = Watched::new(dir.path());
        for n in 0..limit + 10 {
            fs::write(watched.at(&n.to_string()), b"").unwrap();
        }
        assert_eq!((watched.changes(), watched.watch.overflows()), (Changes::Everything, 1));
        fs::write(watched.at("one more"), b"").unwrap();
        assert_eq!(watched.changes(), directories(&["/"]), "and then it goes on as before");
        unmount(dir.path());
    });
}

#[test]
fn more_directories_than_are_told_apart_are_everything() {
    with_mounts("more_directories_than_are_told_apart_are_everything", || {
        let dir = tempfile::tempdir().unwrap();
        mount_tmpfs(dir.path(), "nr_inodes=300k");
        for n in 0..=Watch::MAX_DIRECTORIES {
            fs::create_dir(dir.path().join(n.to_string())).unwrap();
        }
        let mut watched = Watched::new(dir.path());
        for n in 1..=Watch::MAX_DIRECTORIES {
            fs::create_dir(watched.at(&format!("{n}/x"))).unwrap();
        }
        let Changes::Directories(told) = watched.changes() else { panic!("they are not too many") };
        assert_eq!(told.len(), Watch::MAX_DIRECTORIES);
        for n in 0..=Watch::MAX_DIRECTORIES {
            fs::create_dir(watched.at(&format!("{n}/y"))).unwrap();
        }
        assert_eq!((watched.changes(), watched.watch.overflows()), (Changes::Everything, 0));
        unmount(dir.path());
    });
}

#[test]
fn waiting_ends_with_a_change_or_when_it_is_woken() {
    with_mounts("waiting_ends_with_a_change_or_when_it_is_woken", || {
        let dir = tempfile::tempdir().unwrap();
        mount_tmpfs(dir.path(), "size=1m");
        let mut watched = Watched::new(dir.path());
        let path = watched.at("file");
        std::thread::scope(|scope| {
            scope.spawn(|| fs::write(path, b"x").unwrap());
            assert_eq!(watched.watch.wait(&watched.view, None).unwrap(), directories(&["/"]));
        });
        watched.settle();
        let waker = watched.watch.waker();
        std::thread::scope(|scope| {
            scope.spawn(|| waker.wake());
            assert_eq!(watched.watch.wait(&watched.view, None).unwrap(), Changes::Nothing);
        });
        waker.wake();
        waker.wake();
        assert_eq!(watched.watch.wait(&watched.view, None).unwrap(), Changes::Nothing, "nor is a wake lost");
        let (began, whole) = (Instant::now(), Duration::from_millis(20));
        assert_eq!(watched.watch.wait(&watched.view, Some(whole)).unwrap(), Changes::Nothing);
        assert!(began.elapsed() >= whole, "wakes are used up");
        let readable = |watched: &Watched| {
            let mut fds = [rustix::event::PollFd::new(&watched.watch, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default())).unwrap() == 1
        };
        assert!(!readable(&watched));
        fs::write(watched.at("file"), b"y").unwrap();
        assert!(readable(&watched));
        unmount(dir.path());
    });
}

#[test]
fn a_scan_hints_at_nothing() {
    with_mounts("a_scan_hints_at_nothing", || {
        let dir = tempfile::tempdir().unwrap();
        mount_tmpfs(dir.path(), "size=1m");
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/file"), b"x").unwrap();
        let mut watched = Watched::new(dir.path());
        let root = Root::open(dir.path()).unwrap();
        Scanner::new(root, Arc::new(View::everything())).scan(&Cancel::default()).unwrap();
        assert_eq!(watched.changes(), Changes::Nothing);
        unmount(dir.path());
    });
}

#[test]
fn where_nothing_can_be_heard_the_reason_is_told() {
    let name = "where_nothing_can_be_heard_the_reason_is_told";
    if !needs_root(name) {
        return;
    }
    let of = |path: &Path| Watch::new(&Root::open(path).unwrap());
    assert!(matches!(of(Path::new("/proc")), Err(WatchError::NoHandles(_))), "{:?}", of(Path::new("/proc")));
    let dir: TempDir = tempfile::tempdir().unwrap();
    for lacking in [CapabilitySet::SYS_ADMIN, CapabilitySet::DAC_READ_SEARCH] {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let all = rustix::thread::capabilities(None).unwrap();
                let fewer = CapabilitySets { effective: all.effective.difference(lacking), ..all };
                rustix::thread::set_capabilities(None, fewer).unwrap();
                assert!(
                    matches!(of(dir.path()), Err(WatchError::NotAllowed(_))),
                    "{lacking:?}: {:?}",
                    of(dir.path())
                );
            });
        });
    }
}

#[test]
fn what_is_prepared_in_the_work_directory_wakes_nobody() {
    const NAME: &str = "what_is_prepared_in_the_work_directory_wakes_nobody";
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    if release.split('.').next().unwrap().parse::<u32>().unwrap() < 6 {
        return left_out(NAME, "Linux before 6.0 tells of all directories or none");
    }
    with_mounts(NAME, || {
        // Whatever anybody does on a file-system wakes who watches a part of it: this one is nobody else's.
        let top = tempfile::tempdir().unwrap();
        mount_tmpfs(top.path(), "size=1m");
        let [objects, etc] = [".subd/objects", "etc"].map(|path| top.path().join(path));
        fs::create_dir_all(&objects).unwrap();
        fs::create_dir(&etc).unwrap();
        let mut watched = Watched::new(top.path());
        watched.settle();
        let is_heard = |watched: &Watched| {
            let mut fds = [PollFd::new(&watched.watch, PollFlags::IN)];
            rustix::event::poll(&mut fds, Some(&Timespec::default())).unwrap() > 0
        };
        fs::write(objects.join("1"), b"01").unwrap();
        fs::set_permissions(objects.join("1"), Permissions::from_mode(0o755)).unwrap();
        fs::rename(objects.join("1"), objects.join("2")).unwrap();
        fs::remove_file(objects.join("2")).unwrap();
        fs::write(objects.join("3"), b"01").unwrap();
        assert!(!is_heard(&watched));
        fs::rename(objects.join("3"), etc.join("3")).unwrap();
        assert!(is_heard(&watched));
        assert_eq!(watched.changes(), directories(&["/etc"]));
        unmount(top.path());
    });
}
