//! Others work on the same paths, before, meanwhile and after: nothing of theirs is lost, and they stop nothing.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use dominator_fs::seam::{IFlags, Kernel, Remove};
use dominator_fs::update::{Reason, Recovery, UpdateError};
use dominator_fs_testkit::{
    Call, CallKind, Fault, Faults, Lasting, Tap, Tapped, left_out, mount_tmpfs, needs_root, unmount,
    with_mounts,
};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Uid;

use crate::support::*;

/// The contents of all that is kept as a conflict.
fn kept(machine: &Machine) -> Vec<Vec<u8>> {
    let kept = std::fs::read_dir(machine.at("/.subd/conflicts")).unwrap();
    kept.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect()
}

#[test]
fn what_somebody_wrote_since_is_not_lost_whenever_an_undoing_process_dies() {
    for nth in 1.. {
        let mut machine = Machine::new();
        machine.write("/edited", b"old");
        machine.offer(b"1");
        machine.offer(b"2");
        machine.apply(vec![put("/edited", file(0o600, b"1")), put("/new", file(0o600, b"2"))]).unwrap();
        machine.write("/edited", b"precious 1");
        machine.write("/new", b"precious 2");
        let faults = Faults::none();
        machine.restart_with(faults.disk());
        faults.breaks(Fault { kind: None, nth, errno: Errno::IO, lasting: Lasting::Everything });
        let undone = machine.updater.undo(Reason::Asked);
        let died = faults.mend() > 0;
        let recovery = machine.try_restart_with(Arc::new(Kernel)).unwrap();
        if matches!(recovery, Recovery::Kept { .. }) {
            machine.updater.undo(Reason::Asked).unwrap();
        }
        let mut all = kept(&machine);
        all.sort();
        assert_eq!(all, [b"precious 1".to_vec(), b"precious 2".to_vec()], "call {nth}: {recovery:?}");
        assert_eq!((machine.read("/edited"), machine.has("/new")), (b"old".to_vec(), false), "call {nth}");
        if !died {
            undone.unwrap();
            break;
        }
    }
}

#[test]
fn what_can_neither_go_back_nor_be_kept_stays_until_it_can() {
    let mut machine = Machine::new();
    machine.write("/dir/file", b"old");
    machine.offer(b"new");
    machine.apply(vec![put("/dir/file", file(0o600, b"new"))]).unwrap();
    std::fs::remove_dir_all(machine.at("/dir")).unwrap();
    let faults = Faults::none();
    machine.restart_with(faults.disk());
    let full =
        |nth| Fault { kind: Some(CallKind::Rename), nth, errno: Errno::NOSPC, lasting: Lasting::ThisKind };
    faults.breaks(full(1));
    let error = machine.updater.undo(Reason::Asked).unwrap_err();
    assert!(matches!(error, UpdateError::HalfMade { .. }), "{error}");
    assert_eq!(faults.mend(), 1);
    let recovery = machine.try_restart_with(Arc::new(Kernel)).unwrap();
    let Recovery::Undone { report, .. } = &recovery else { panic!("{recovery:?}") };
    assert_eq!(report.conflicts.len(), 1, "{report:?}");
    assert_eq!(kept(&machine), [b"old"]);
}

#[test]
fn a_name_that_became_an_inodes_last_is_not_taken_away() {
    let mut machine = Machine::new();
    machine.write("/target", b"old");
    machine.apply(vec![link("/link", "/target")]).unwrap();
    std::fs::remove_file(machine.at("/target")).unwrap();
    machine.updater.undo(Reason::Asked).unwrap();
    assert_eq!(kept(&machine), [b"old"]);
}

#[test]
fn conflicts_of_one_process_are_beside_those_of_the_next() {
    let mut machine = Machine::new();
    for contents in [b"1", b"2"] {
        machine.offer(contents);
        machine.apply(vec![put("/new", file(0o600, contents))]).unwrap();
        machine.write("/new", &[contents.as_slice(), b" changed"].concat());
        machine.updater.undo(Reason::Asked).unwrap();
        machine.restart_with(Arc::new(Kernel));
    }
    let mut all = kept(&machine);
    all.sort();
    assert_eq!(all, [b"1 changed".to_vec(), b"2 changed".to_vec()]);
}

/// Somebody who puts something else at a path right before it is displaced, and again right after.
struct Twice {
    path: PathBuf,
    renames: AtomicUsize,
}

impl Twice {
    fn again(&self, contents: &[u8]) {
        let aside = self.path.with_extension("aside");
        std::fs::write(&aside, contents).unwrap();
        std::fs::rename(&aside, &self.path).unwrap();
    }

    fn is_at_it(&self, call: Call<'_>) -> bool {
        let Call::Rename(from, to, _) = call else { return false };
        [from.name, to.name].contains(&self.path.file_name().unwrap().as_encoded_bytes())
    }
}

impl Tap for Twice {
    fn before(&self, call: Call<'_>) -> io::Result<()> {
        if self.is_at_it(call) && self.renames.fetch_add(1, Ordering::Relaxed) == 0 {
            self.again(b"precious 1");
        }
        Ok(())
    }

    fn after(&self, call: Call<'_>) {
        if self.is_at_it(call) && self.renames.load(Ordering::Relaxed) == 1 {
            self.again(b"precious 2");
        }
    }
}

#[test]
fn who_changes_a_path_twice_in_a_moment_stops_no_update_and_loses_nothing() {
    for change in [put("/raced", symlink("x")), delete("/raced")] {
        let mut machine = Machine::new();
        machine.write("/raced", b"old");
        let twice = Twice { path: machine.at("/raced"), renames: AtomicUsize::new(0) };
        machine.restart_with(Arc::new(Tapped(twice)));
        let report = machine.apply(vec![change.clone(), put("/fine", symlink("x"))]).unwrap();
        assert_eq!(failed_paths(&report), ["/raced"], "{change:?}");
        assert!(report.failures[0].reason.contains("/.subd/conflicts/0"), "{:?}", report.failures);
        assert!(machine.has("/fine"));
        assert_eq!(
            (machine.read("/raced"), kept(&machine)),
            (b"precious 2".to_vec(), vec![b"precious 1".to_vec()])
        );
    }
}

#[test]
fn what_was_made_immutable_by_another_name_it_has_stands_in_nobodys_way_and_stays_so() {
    let test = "what_was_made_immutable_by_another_name_it_has_stands_in_nobodys_way_and_stays_so";
    if !needs_root(test) {
        return;
    }
    for undone in [false, true] {
        let mut machine = Machine::new();
        machine.write("/kept", b"old");
        std::fs::hard_link(machine.at("/kept"), machine.at("/replaced")).unwrap();
        machine.offer(b"new");
        machine.apply(vec![put("/replaced", file(0o600, b"new"))]).unwrap();
        let opened = File::open(machine.at("/kept")).unwrap();
        let Ok(plain) = rustix::fs::ioctl_getflags(&opened) else {
            return left_out(test, "files have no flags here");
        };
        if let Err(error) = rustix::fs::ioctl_setflags(&opened, plain | IFlags::IMMUTABLE) {
            return left_out(test, &format!("no file can be made immutable here: {error}"));
        }
        if undone {
            let report = machine.updater.undo(Reason::Asked).unwrap();
            assert!(report.not_as_before().is_empty(), "{report:?}");
            assert_eq!(machine.ino("/replaced"), machine.ino("/kept"));
        } else {
            machine.updater.clean_up().unwrap();
        }
        let now = rustix::fs::ioctl_getflags(&opened).unwrap();
        assert!(now.contains(IFlags::IMMUTABLE));
        rustix::fs::ioctl_setflags(&opened, plain).unwrap();
        machine.is_tidy();
    }
}

/// The owner of a directory, who is in it wherever it is moved, and makes a file in it whenever it is about to go.
struct Resident {
    home: Mutex<Option<OwnedFd>>,
    made: AtomicU32,
}

impl Tap for Resident {
    fn before(&self, call: Call<'_>) -> io::Result<()> {
        let home = self.home.lock().unwrap();
        if let (Call::Remove(_, Remove::Directory), Some(home)) = (call, &*home) {
            let us = Uid::ROOT;
            rustix::thread::set_thread_res_uid(us, Uid::from_raw(OWNER), us).unwrap();
            let name = self.made.fetch_add(1, Ordering::Relaxed).to_string();
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            drop(rustix::fs::openat(home, name, flags, Mode::RUSR));
            rustix::thread::set_thread_res_uid(us, us, us).unwrap();
        }
        Ok(())
    }
}

const OWNER: u32 = 1000;

#[test]
fn who_owns_a_directory_that_is_deleted_and_stays_in_it_stops_no_update() {
    if !needs_root("who_owns_a_directory_that_is_deleted_and_stays_in_it_stops_no_update") {
        return;
    }
    let resident = Arc::new(Resident { home: Mutex::new(None), made: AtomicU32::new(0) });
    let mut machine = Machine::new();
    std::fs::create_dir(machine.at("/his")).unwrap();
    std::os::unix::fs::chown(machine.at("/his"), Some(OWNER), None).unwrap();
    machine.restart_with(Arc::new(Tapped(Arc::clone(&resident))));
    let home = File::open(machine.at("/his")).unwrap().into();
    machine.apply(vec![delete_directory("/his")]).unwrap();
    *resident.home.lock().unwrap() = Some(home);
    machine.updater.clean_up().unwrap();
    assert!(resident.made.load(Ordering::Relaxed) > 0);
    machine.is_tidy();
}

#[test]
fn directories_that_were_displaced_with_all_in_them_are_moved_once_each() {
    const WIDE: usize = 150;
    let mut machine = Machine::new();
    let mut plan = vec![put("/was-dir", symlink("x"))];
    for number in 0..WIDE {
        let (outer, inner) = (format!("/was-dir/{number}"), format!("/was-dir/{number}/in"));
        std::fs::create_dir_all(machine.at(&inner)).unwrap();
        plan.extend([delete_directory(&inner), delete_directory(&outer)]);
    }
    plan.push(delete_directory("/was-dir"));
    let faults = Faults::none();
    machine.restart_with(faults.disk());
    plan.pop();
    machine.apply(plan).unwrap();
    drop(faults.count());
    machine.updater.clean_up().unwrap();
    let renames = faults.count().get(&CallKind::Rename).copied().unwrap_or_default();
    assert!(renames <= 3 * WIDE, "{renames}");
    machine.is_tidy();
}

#[test]
fn names_of_one_inode_that_are_told_twice_stand_for_no_other() {
    let mut machine = Machine::new();
    machine.write("/keys", b"x");
    std::fs::hard_link(machine.at("/keys"), machine.at("/seen")).unwrap();
    machine.view.protected.insert(path("/keys"));
    let mode = machine.mode("/keys");
    let report = machine.apply(vec![set(&["/seen", "/seen"], file(0o666, b"x"))]).unwrap();
    assert_eq!(failed_paths(&report), ["/seen"]);
    assert_eq!(machine.mode("/keys"), mode);
}

#[test]
fn a_file_that_somebody_makes_longer_than_the_disk_stops_no_update() {
    let mut machine = Machine::new();
    machine.write("/his", b"x");
    File::options().write(true).open(machine.at("/his")).unwrap().set_len(1 << 42).unwrap();
    let report = machine.apply(vec![set(&["/his"], file(0o4755, b"x")), put("/fine", symlink("x"))]).unwrap();
    assert_eq!(failed_paths(&report), ["/his"]);
    assert!(machine.has("/fine"));
}

#[test]
fn what_is_immutable_by_two_names_stays_so_by_the_one_that_is_not_replaced() {
    let test = "what_is_immutable_by_two_names_stays_so_by_the_one_that_is_not_replaced";
    if !needs_root(test) {
        return;
    }
    let mut machine = Machine::new();
    machine.write("/kept", b"old");
    for at in ["/replaced", "/deleted"] {
        std::fs::hard_link(machine.at("/kept"), machine.at(at)).unwrap();
    }
    let opened = File::open(machine.at("/kept")).unwrap();
    let Ok(plain) = rustix::fs::ioctl_getflags(&opened) else {
        return left_out(test, "files have no flags here");
    };
    if let Err(error) = rustix::fs::ioctl_setflags(&opened, plain | IFlags::IMMUTABLE) {
        return left_out(test, &format!("no file can be made immutable here: {error}"));
    }
    let is_fixed = || rustix::fs::ioctl_getflags(&opened).unwrap().contains(IFlags::IMMUTABLE);
    for undone in [true, false] {
        machine.offer(b"new");
        let plan = vec![put("/replaced", file(0o600, b"new")), delete("/deleted")];
        let report = machine.apply(plan).unwrap();
        assert!(report.is_success(), "{:?}", report.failures);
        assert!(is_fixed(), "made");
        if undone {
            let report = machine.updater.undo(Reason::Asked).unwrap();
            assert!(report.not_as_before().is_empty(), "{report:?}");
            let inode = machine.ino("/kept");
            assert_eq!((machine.ino("/replaced"), machine.ino("/deleted")), (inode, inode));
        } else {
            machine.updater.clean_up().unwrap();
        }
        assert!(is_fixed(), "undone: {undone}");
    }
    for at in ["/kept", "/replaced"] {
        rustix::fs::ioctl_setflags(File::open(machine.at(at)).unwrap(), plain).unwrap();
    }
    machine.is_tidy();
}

/// Which inodes were waited for.
struct Waits(Mutex<Vec<u64>>);

impl Tap for Waits {
    fn before(&self, call: Call<'_>) -> io::Result<()> {
        if let Call::Fsync(fd) = call {
            self.0.lock().unwrap().push(rustix::fs::fstat(fd)?.st_ino);
        }
        Ok(())
    }
}

#[test]
fn the_journals_directory_is_there_after_a_power_cut_before_anything_is_journalled() {
    let dir = tempfile::tempdir().unwrap();
    let waits = Arc::new(Waits(Mutex::new(Vec::new())));
    let seam = Arc::new(Tapped(Arc::clone(&waits)));
    let root = dominator_fs::root::Root::open(dir.path()).unwrap();
    drop(dominator_fs::update::Updater::open(root, seam).unwrap());
    let waited = waits.0.lock().unwrap();
    for at in [dir.path().to_owned(), dir.path().join(".subd")] {
        assert!(waited.contains(&at.metadata().unwrap().ino()), "{at:?}");
    }
}

#[test]
fn nothing_below_a_mount_is_changed_where_mounts_are_seen() {
    with_mounts("nothing_below_a_mount_is_changed_where_mounts_are_seen", || {
        let mut machine = Machine::new();
        machine.write("/mnt/f", b"f");
        mount_tmpfs(&machine.at("/mnt"), "size=1m,mode=755");
        machine.write("/mnt/dir/f", b"m");
        let before = ["/mnt", "/mnt/dir", "/mnt/dir/f"].map(|at| machine.mode(at));
        let plan = vec![
            set(&["/mnt/dir"], directory(0o711)),
            make("/mnt/dir", 0o711),
            set(&["/mnt/dir/f"], file(0o611, b"m")),
            put("/mnt/dir/f", symlink("x")),
            delete("/mnt/dir/f"),
        ];
        let report = machine.apply(plan).unwrap();
        assert_eq!(report.applied, 0, "{report:?}");
        assert_eq!(["/mnt", "/mnt/dir", "/mnt/dir/f"].map(|at| machine.mode(at)), before);
        assert_eq!(machine.read("/mnt/dir/f"), b"m");
        unmount(&machine.at("/mnt"));
    });
}

#[test]
fn what_an_administrator_fixed_since_stays_where_it_is_and_fixed() {
    let test = "what_an_administrator_fixed_since_stays_where_it_is_and_fixed";
    if !needs_root(test) {
        return;
    }
    let mut machine = Machine::new();
    machine.offer(b"new");
    machine.apply(vec![put("/new", file(0o600, b"new"))]).unwrap();
    machine.write("/new", b"precious");
    let opened = File::open(machine.at("/new")).unwrap();
    let Ok(plain) = rustix::fs::ioctl_getflags(&opened) else {
        return left_out(test, "files have no flags here");
    };
    if let Err(error) = rustix::fs::ioctl_setflags(&opened, plain | IFlags::IMMUTABLE) {
        return left_out(test, &format!("no file can be made immutable here: {error}"));
    }
    let report = machine.updater.undo(Reason::Asked).unwrap();
    let flags = rustix::fs::ioctl_getflags(&opened).unwrap();
    rustix::fs::ioctl_setflags(&opened, plain).unwrap();
    assert!(flags.contains(IFlags::IMMUTABLE));
    assert_eq!((report.failures.len(), report.conflicts.len()), (1, 0), "{report:?}");
    assert_eq!(machine.read("/new"), b"precious");
    machine.is_tidy();
}
