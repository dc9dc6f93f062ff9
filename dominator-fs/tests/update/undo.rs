use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink as make_symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use dominator_core::inode::Xattrs;
use dominator_fs::seam::{At, Kernel, Rename};
use dominator_fs::update::{Reason, Recovery, UndoReport};
use dominator_fs_testkit::{Call, Tap, Tapped, mount_bind, mount_layers, mount_tmpfs, unmount, with_mounts};

use crate::seen::{identical, seen};
use crate::support::*;

/// Path, and where it is kept, of what somebody changed since.
fn conflicts(report: &UndoReport) -> Vec<(String, Option<String>)> {
    let text = |conflict: &dominator_fs::update::Conflict| {
        (conflict.path.to_string(), conflict.kept.as_ref().map(ToString::to_string))
    };
    report.conflicts.iter().map(text).collect()
}

#[test]
fn an_update_is_undone_to_the_last_attribute() {
    let mut machine = Machine::new();
    for at in ["/a", "/dir/b", "/dir/c", "/gone"] {
        machine.write(at, b"old");
    }
    std::fs::hard_link(machine.at("/a"), machine.at("/also-a")).unwrap();
    std::fs::hard_link(machine.at("/dir/b"), machine.at("/also-b")).unwrap();
    std::fs::create_dir(machine.at("/empty")).unwrap();
    std::fs::set_permissions(machine.at("/empty"), PermissionsExt::from_mode(0o1777)).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    for at in ["/a", "/dir", "/empty"] {
        rustix::fs::setxattr(machine.at(at), "user.note", at.as_bytes(), flags).unwrap();
    }
    let before = machine.scan();
    let inodes = ["/a", "/dir/b", "/empty", "/gone"].map(|at| machine.ino(at));
    machine.offer(b"new");
    let mut noted = directory(0o711);
    noted.xattrs = Xattrs::default();
    let plan = vec![
        set(&["/dir"], noted),
        make("/made", 0o755),
        make("/made/deep", 0o755),
        put("/made/deep/f", symlink("x")),
        put("/a", file(0o600, b"new")),
        set(&["/also-b", "/dir/b"], file(0o600, b"old")),
        link("/also-a", "/dir/c"),
        delete("/gone"),
        delete_directory("/empty"),
    ];
    let report = machine.apply(plan).unwrap();
    assert!(report.is_success(), "{:?}", report.failures);
    assert_ne!(machine.scan().id(), before.id());
    assert!(machine.updater.is_undoable());
    let undone = machine.updater.undo(Reason::Asked).unwrap();
    assert!(undone.not_as_before().is_empty(), "{undone:?}");
    assert_eq!(machine.scan().id(), before.id());
    assert_eq!(["/a", "/dir/b", "/empty", "/gone"].map(|at| machine.ino(at)), inodes, "the very inodes");
    assert!(!machine.updater.is_undoable());
    machine.is_tidy();
}

#[test]
fn what_is_undone_on_record_has_the_names_it_had_before_anybody_has_heard_of_it() {
    let mut machine = Machine::new();
    for at in ["/file", "/other", "/gone"] {
        machine.write(at, at.as_bytes());
    }
    let before = seen(machine.dir.path());
    let plan = vec![link("/more", "/file"), link("/other", "/file"), delete("/gone")];
    assert!(machine.apply(plan).unwrap().is_success());
    let undone = machine.updater.undo_on_record(Reason::Unhealthy).unwrap();
    assert_eq!(undone.not_as_before(), []);
    assert_eq!(identical(&seen(machine.dir.path()), &before), Ok(()), "by who undid it");
    let recovery = machine.try_restart_with(Arc::new(Kernel)).unwrap();
    assert!(matches!(recovery, Recovery::Undone { reason: Reason::Unhealthy, .. }), "{recovery:?}");
    assert_eq!(identical(&seen(machine.dir.path()), &before), Ok(()), "by who is told");
    machine.is_tidy();
}

#[test]
fn what_somebody_changed_since_is_kept_and_told_of() {
    let mut machine = Machine::new();
    for at in ["/written", "/replaced", "/removed", "/fine", "/gone", "/dir/gone"] {
        machine.write(at, b"old");
    }
    for contents in [b"1", b"2", b"3", b"4", b"5", b"6"] {
        machine.offer(contents);
    }
    let plan = vec![
        make("/made", 0o755),
        make("/empty", 0o755),
        put("/made/ours", symlink("x")),
        put("/written", file(0o600, b"1")),
        put("/replaced", file(0o600, b"2")),
        put("/removed", file(0o600, b"3")),
        put("/fine", file(0o600, b"4")),
        put("/new-written", file(0o600, b"5")),
        put("/new-replaced", file(0o600, b"6")),
        delete("/dir/gone"),
        delete("/gone"),
        delete_directory("/dir"),
    ];
    assert!(machine.apply(plan).unwrap().is_success());
    machine.write("/written", b"precious 1");
    std::fs::remove_file(machine.at("/replaced")).unwrap();
    machine.write("/replaced", b"precious 2");
    std::fs::remove_file(machine.at("/removed")).unwrap();
    machine.write("/new-written", b"precious 3");
    std::fs::remove_file(machine.at("/new-replaced")).unwrap();
    machine.write("/new-replaced", b"precious 4");
    machine.write("/made/theirs", b"precious 5");
    machine.write("/gone", b"precious 6");
    machine.write("/dir/more", b"precious 7");
    let report = machine.updater.undo(Reason::Asked).unwrap();
    assert_eq!(report.failures, []);
    let kept = |n: usize| Some(format!("/.subd/conflicts/{n}"));
    let expected = [
        ("/dir", None),
        ("/gone", kept(0)),
        ("/new-replaced", None),
        ("/replaced", kept(1)),
        ("/made", None),
        ("/new-written", kept(2)),
        ("/written", kept(3)),
    ];
    assert_eq!(conflicts(&report), expected.map(|(path, kept)| (path.to_owned(), kept)));
    for at in ["/written", "/replaced", "/removed", "/fine", "/gone", "/dir/gone"] {
        assert_eq!(machine.read(at), b"old", "{at}");
    }
    let kept = ["6", "2", "3", "1"];
    for (number, precious) in kept.iter().enumerate() {
        let contents = machine.read(&format!("/.subd/conflicts/{number}"));
        assert_eq!(contents, format!("precious {precious}").as_bytes());
    }
    assert_eq!(
        (machine.read("/new-replaced"), machine.read("/made/theirs")),
        (b"precious 4".to_vec(), b"precious 5".to_vec())
    );
    assert_eq!(
        (machine.read("/dir/more"), machine.has("/made/ours"), machine.has("/empty")),
        (b"precious 7".to_vec(), false, false)
    );
    let words =
        report.not_as_before().iter().map(|f| format!("{}: {}", f.path, f.reason)).collect::<Vec<_>>();
    assert!(words.iter().any(|words| words.contains("it is kept as /.subd/conflicts/3")), "{words:?}");
    // Nothing but a person removes them.
    machine.updater.clean_up().unwrap();
    machine.apply(vec![put("/fine", symlink("x"))]).unwrap();
    assert_eq!(machine.read("/.subd/conflicts/0"), b"precious 6");
}

/// The kernel, but somebody does something right before a file comes or goes.
struct AtTheLastMoment<F> {
    name: &'static [u8],
    act: F,
    armed: AtomicBool,
}

impl<F: Fn() + Send + Sync> AtTheLastMoment<F> {
    fn with(name: &'static [u8], act: F) -> Arc<Tapped<Self>> {
        Arc::new(Tapped(Self { name, act, armed: AtomicBool::new(false) }))
    }
}

impl<F: Fn() + Send + Sync> Tap for AtTheLastMoment<F> {
    fn before(&self, call: Call<'_>) -> io::Result<()> {
        if let Call::Rename(from, to, _) = call
            && [from.name, to.name].contains(&self.name)
            && self.armed.swap(false, Ordering::SeqCst)
        {
            (self.act)();
        }
        Ok(())
    }
}

#[test]
fn what_is_written_in_the_moment_an_update_is_undone_is_kept_as_well() {
    for before in [None, Some(b"old")] {
        let mut machine = Machine::new();
        if let Some(old) = before {
            machine.write("/file", old);
        }
        machine.offer(b"new");
        let at = machine.at("/file");
        let seam = AtTheLastMoment::with(b"file", move || std::fs::write(&at, b"precious").unwrap());
        machine.restart_with(seam.clone());
        assert!(machine.apply(vec![put("/file", file(0o600, b"new"))]).unwrap().is_success());
        seam.0.armed.store(true, Ordering::SeqCst);
        let report = machine.updater.undo(Reason::Asked).unwrap();
        assert!(!seam.0.armed.load(Ordering::SeqCst));
        assert_eq!(conflicts(&report), [("/file".to_owned(), Some("/.subd/conflicts/0".to_owned()))]);
        assert_eq!((report.undone, report.failures), (0, vec![]));
        assert_eq!(machine.read("/.subd/conflicts/0"), b"precious");
        assert_eq!(before.is_some(), machine.has("/file"));
    }
}

#[test]
fn a_mount_made_in_the_moment_an_update_is_undone_stays() {
    with_mounts("a_mount_made_in_the_moment_an_update_is_undone_stays", || {
        for beneath in [true, false] {
            let mut machine = if beneath { Machine::beneath_mounts() } else { Machine::new() };
            machine.write("/place", b"old");
            machine.write("/source", b"mounted");
            machine.offer(b"new");
            let (source, place) = (machine.at("/source"), machine.at("/place"));
            let seam = AtTheLastMoment::with(b"place", move || mount_bind(&source, &place));
            machine.restart_with(seam.clone());
            assert!(machine.apply(vec![put("/place", file(0o600, b"new"))]).unwrap().is_success());
            seam.0.armed.store(true, Ordering::SeqCst);
            let report = machine.updater.undo(Reason::Asked).unwrap();
            assert_eq!(conflicts(&report), [("/place".to_owned(), Some("/.subd/conflicts/0".to_owned()))]);
            assert!(report.conflicts[0].reason.contains("mounted"), "{report:?}");
            assert_eq!(machine.read("/place"), b"mounted", "beneath mounts: {beneath}");
            assert_eq!(machine.read("/.subd/conflicts/0"), b"old");
            unmount(&machine.at("/place"));
            assert_eq!(machine.read("/place"), b"new");
        }
    });
}

#[test]
fn what_is_kept_for_a_person_is_told_of_and_goes_only_when_a_person_says_so() {
    let mut machine = Machine::new();
    for contents in [b"1", b"2"] {
        machine.offer(contents);
    }
    machine.write("/replaced", b"old");
    let plan = vec![put("/written", file(0o600, b"1")), put("/replaced", file(0o600, b"2"))];
    assert!(machine.apply(plan).unwrap().is_success());
    machine.write("/written", b"precious");
    std::fs::remove_file(machine.at("/replaced")).unwrap();
    machine.write("/replaced/deep/down", b"precious");
    machine.updater.undo(Reason::Asked).unwrap();
    machine.updater.clean_up().unwrap();
    let kept = machine.updater.conflicts(1).unwrap();
    assert_eq!((kept.paths.len(), kept.more, kept.count()), (1, 1, 2));
    assert!(kept.bytes > 0);
    machine.offer(b"2");
    assert!(machine.apply(vec![put("/replaced", file(0o600, b"2"))]).unwrap().is_success());
    assert_eq!(machine.updater.remove_conflicts(1).unwrap(), kept);
    assert_eq!(machine.updater.conflicts(1).unwrap().count(), 0);
    machine.updater.undo(Reason::Asked).unwrap();
    assert_eq!(machine.read("/replaced"), b"old", "what undoing needs is not among it");
}

/// The kernel, but what the journal says is remembered when the first thing leaves the slots.
#[derive(Default)]
struct AtTheFirstRemoval {
    journal: PathBuf,
    says: Mutex<Option<Vec<u8>>>,
    /// Whether something was written to the journal and not waited for.
    unsettled: AtomicBool,
}

impl Tap for AtTheFirstRemoval {
    fn before(&self, call: Call<'_>) -> io::Result<()> {
        match call {
            Call::Write(..) => self.unsettled.store(true, Ordering::SeqCst),
            Call::Fsync(..) => self.unsettled.store(false, Ordering::SeqCst),
            Call::Remove(from, _) | Call::Rename(from, _, Rename::Never) if is_slots(from) => {
                assert!(!self.unsettled.load(Ordering::SeqCst), "the record may not be on the disk");
                self.says.lock().unwrap().get_or_insert(std::fs::read(&self.journal).unwrap());
            }
            _ => {}
        }
        Ok(())
    }
}

/// Whether it is a slot of an update.
fn is_slots(at: At<'_>) -> bool {
    if matches!(at.name, b"0" | b"1") {
        return false;
    }
    let place = std::fs::read_link(format!("/proc/self/fd/{}", at.dir.as_raw_fd())).unwrap();
    place.ends_with(".subd/slots")
}

#[test]
fn slots_are_emptied_when_it_is_on_record_that_all_is_as_before() {
    let mut machine = Machine::new();
    machine.write("/target", b"old");
    machine.offer(b"new");
    let plan = vec![link("/more", "/target"), put("/file", file(0o600, b"new"))];
    assert!(machine.apply(plan).unwrap().is_success());
    let journal = machine.at("/.subd/journal");
    let seam = Arc::new(Tapped(AtTheFirstRemoval { journal: journal.clone(), ..Default::default() }));
    machine.restart_with(seam.clone());
    let made = std::fs::read(&journal).unwrap();
    assert_eq!(seam.0.says.lock().unwrap().take(), None, "what undoing needs stays");
    assert_eq!(machine.updater.undo_on_record(Reason::Asked).unwrap().not_as_before(), []);
    let undone = std::fs::read(&journal).unwrap();
    assert_ne!(undone, made);
    assert_eq!(seam.0.says.lock().unwrap().take(), Some(undone));
}

#[test]
fn what_can_not_go_back_is_kept_as_well() {
    let mut machine = Machine::new();
    machine.write("/dir/file", b"old");
    machine.write("/was-file", b"old too");
    machine.write("/dir/gone", b"deleted");
    let plan = vec![put("/dir/file", symlink("x")), make("/was-file", 0o755), delete("/dir/gone")];
    assert!(machine.apply(plan).unwrap().is_success());
    std::fs::remove_dir_all(machine.at("/dir")).unwrap();
    make_symlink("/etc", machine.at("/dir")).unwrap();
    machine.write("/was-file/theirs", b"precious");
    let report = machine.updater.undo(Reason::Asked).unwrap();
    let expected = [
        ("/dir/gone", "/.subd/conflicts/0"),
        ("/was-file", "/.subd/conflicts/1"),
        ("/dir/file", "/.subd/conflicts/2"),
    ];
    assert_eq!(conflicts(&report), expected.map(|(path, kept)| (path.to_owned(), Some(kept.to_owned()))));
    for (number, contents) in ["deleted", "old too", "old"].iter().enumerate() {
        assert_eq!(machine.read(&format!("/.subd/conflicts/{number}")), contents.as_bytes());
    }
    assert_eq!(machine.read("/was-file/theirs"), b"precious");
}

#[test]
fn metadata_that_changed_in_place_go_back_and_what_was_written_since_keeps_its_time() {
    let mut machine = Machine::new();
    machine.write("/f", b"x");
    machine.write("/g", b"x");
    let before = machine.mode("/f");
    assert!(
        machine
            .apply(vec![set(&["/f"], file(0o600, b"x")), set(&["/g"], file(0o600, b"x"))])
            .unwrap()
            .is_success()
    );
    machine.write("/g", b"written since");
    let written = mtime(&machine.at("/g"));
    let report = machine.updater.undo(Reason::Asked).unwrap();
    assert_eq!(conflicts(&report), [("/g".to_owned(), None)]);
    assert_eq!((machine.mode("/f"), machine.mode("/g")), (before, before));
    assert_eq!((mtime(&machine.at("/g")), machine.read("/g")), (written, b"written since".to_vec()));
}

#[test]
fn an_update_without_operations_leaves_the_one_before_to_be_undone_and_a_new_one_does_not() {
    let mut machine = Machine::new();
    machine.apply(vec![put("/a", symlink("x"))]).unwrap();
    machine.apply(vec![]).unwrap();
    machine.updater.undo(Reason::Asked).unwrap();
    assert!(!machine.has("/a"));
    machine.apply(vec![put("/a", symlink("x"))]).unwrap();
    machine.apply(vec![put("/b", symlink("x"))]).unwrap();
    machine.updater.undo(Reason::Asked).unwrap();
    assert!(machine.has("/a") && !machine.has("/b"));
}

#[test]
fn what_was_mounted_on_since_an_update_stays_when_it_is_undone() {
    with_mounts("what_was_mounted_on_since_an_update_stays_when_it_is_undone", || {
        let mut machine = Machine::beneath_mounts();
        machine.write("/was-file", b"old");
        machine.apply(vec![make("/was-file", 0o755), make("/new", 0o755)]).unwrap();
        for at in ["/was-file", "/new"] {
            mount_tmpfs(&machine.at(at), "size=1m");
            machine.write(&format!("{at}/mounted"), b"m");
        }
        let report = machine.updater.undo(Reason::Asked).unwrap();
        assert_eq!(conflicts(&report), [("/was-file".to_owned(), Some("/.subd/conflicts/0".to_owned()))]);
        let failed: Vec<_> = report.failures.iter().map(|failure| failure.path.to_string()).collect();
        assert_eq!(failed, ["/new"]);
        for at in ["/was-file", "/new"] {
            assert_eq!(machine.read(&format!("{at}/mounted")), b"m");
            unmount(&machine.at(at));
        }
        assert_eq!(machine.read("/.subd/conflicts/0"), b"old");
    });
}

#[test]
fn what_comes_from_a_lower_layer_is_changed_and_goes_back() {
    with_mounts("what_comes_from_a_lower_layer_is_changed_and_goes_back", || {
        let layers = tempfile::tempdir().unwrap();
        let of = |name: &str| layers.path().join(name);
        for name in ["lower", "lower/dir", "upper", "work"] {
            std::fs::create_dir(of(name)).unwrap();
        }
        for at in ["lower/put", "lower/gone", "lower/set", "lower/target", "lower/other", "lower/dir/deep"] {
            std::fs::write(of(at), b"old").unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        mount_layers(&root, &of("lower"), &of("upper"), &of("work"));
        let mut machine = Machine::within(dir);
        let before = machine.scan().id();
        machine.offer(b"new");
        let plan = vec![
            put("/put", file(0o600, b"new")),
            set(&["/set"], file(0o640, b"old")),
            link("/other", "/target"),
            delete("/dir/deep"),
            delete("/gone"),
        ];
        let report = machine.apply(plan).unwrap();
        assert!(report.is_success(), "{:?}", report.failures);
        assert_eq!((machine.read("/put"), machine.mode("/set")), (b"new".to_vec(), 0o640));
        let undone = machine.updater.undo(Reason::Asked).unwrap();
        assert!(undone.not_as_before().is_empty(), "{undone:?}");
        assert_eq!(machine.scan().id(), before);
        machine.is_tidy();
        drop(machine.updater);
        unmount(&root);
    });
}
