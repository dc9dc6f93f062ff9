use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink as make_symlink};
use std::path::PathBuf;
use std::sync::Arc;

use dominator_core::inode::{Inode, Kind, Timestamp};
use dominator_core::object::ObjectId;
use dominator_core::plan::{Operation, Plan};
use dominator_core::view::View;
use dominator_fs::root::Root;
use dominator_fs::seam::{IFlags, Kernel};
use dominator_fs::service::changed;
use dominator_fs::update::{Reason, UpdateError, Updater, WorkError};
use dominator_fs_testkit::{left_out, mount_tmpfs, needs_root, unmount, with_mounts};

use crate::support::*;

#[test]
fn a_directory_that_holds_what_the_plan_does_not_delete_is_not_replaced() {
    let mut machine = Machine::new();
    machine.write("/d/known", b"1");
    machine.write("/d/deep/protected", b"2");
    machine.offer(b"new");
    let plan = vec![
        put("/d", symlink("x")),
        put("/rest", file(0o644, b"new")),
        delete("/d/known"),
        delete_directory("/d/deep"),
    ];
    let report = machine.apply(plan).unwrap();
    assert_eq!(failed_paths(&report), ["/d"]);
    assert!(report.failures[0].reason.contains("protected"), "{}", report.failures[0].reason);
    assert_eq!(machine.read("/d/deep/protected"), b"2");
    assert_eq!(machine.read("/rest"), b"new", "the rest goes on");
}

#[test]
fn nothing_protected_or_out_of_view_is_touched_whatever_the_plan_says() {
    let mut machine = Machine::new();
    machine.write("/keys/secret", b"key");
    machine.write("/public", b"p");
    machine.view.protected.insert(path("/keys"));
    machine.offer(b"evil");
    let evil = || file(0o644, b"evil");
    let plan = vec![
        put("/keys", evil()),
        put("/keys/secret", evil()),
        put("/.subd/objects/x", evil()),
        make("/.subd", 0o777),
        link("/public", "/keys/secret"),
        link("/keys/secret", "/public"),
        set(&["/public", "/keys/secret"], evil()),
        set(&["/keys"], directory(0o777)),
        delete("/keys/secret"),
        delete_directory("/.subd"),
        put("/", evil()),
        make("/", 0o777),
        delete_directory("/"),
    ];
    let count = plan.len();
    let before = machine.scan().id();
    let report = machine.apply(plan).unwrap();
    assert_eq!((report.failures.len(), report.applied), (count, 0));
    assert_eq!((machine.read("/keys/secret"), machine.read("/public")), (b"key".to_vec(), b"p".to_vec()));
    assert_eq!(machine.scan().id(), before);
    assert_eq!(machine.mode("/.subd"), 0o700);
}

#[test]
fn no_symbolic_link_leads_out_of_the_root() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("victim"), b"v").unwrap();
    let mut machine = Machine::new();
    make_symlink(outside.path(), machine.at("/out")).unwrap();
    machine.write("/in", b"i");
    machine.offer(b"evil");
    let plan = vec![
        put("/out/victim", file(0o644, b"evil")),
        make("/out/dir", 0o777),
        link("/out/link", "/in"),
        set(&["/out/victim"], file(0o777, b"v")),
        set(&["/out"], directory(0o777)),
        delete("/out/victim"),
    ];
    let mode = outside.path().metadata().unwrap().mode();
    let report = machine.apply(plan).unwrap();
    // What is to be deleted is not there: in this root nothing is behind a link.
    assert_eq!(failed_paths(&report), ["/out/victim", "/out", "/out/victim", "/out/dir", "/out/link"]);
    assert_eq!(std::fs::read(outside.path().join("victim")).unwrap(), b"v");
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    assert_eq!(outside.path().metadata().unwrap().mode(), mode);
}

#[test]
fn wrong_bytes_never_reach_the_tree() {
    let mut machine = Machine::new();
    machine.write("/f", b"old");
    for copies in 1..=2 {
        let id = machine.offer(b"good");
        std::fs::write(machine.at("/.subd/objects").join(id.to_string()), b"evil").unwrap();
        let plan = ["/f", "/g"].iter().take(copies).map(|at| put(at, file(0o644, b"good"))).collect();
        let error = machine.apply(plan).unwrap_err();
        assert!(matches!(error, UpdateError::Corrupt { id: which } if which == id), "{error}");
        assert_eq!(machine.updater.objects().size(&id).unwrap(), None, "it is fetched again");
        assert_eq!((machine.read("/f"), machine.has("/g")), (b"old".to_vec(), false));
    }
    let missing = machine.apply(vec![put("/f", file(0o644, b"good"))]).unwrap_err();
    assert!(matches!(missing, UpdateError::Missing(ids) if ids.contains(&ObjectId::of(b"good"))));
}

#[test]
fn a_set_uid_program_is_never_made_of_an_inode_somebody_may_write_to() {
    let mut machine = Machine::new();
    machine.write("/tool", b"good");
    let open = std::fs::OpenOptions::new().write(true).open(machine.at("/tool")).unwrap();
    machine.applied(vec![set(&["/tool"], file(0o4755, b"good"))]);
    io::Write::write_all(&mut &open, b"evil").unwrap();
    assert_eq!((machine.read("/tool"), machine.mode("/tool")), (b"good".to_vec(), 0o4755));
}

#[test]
fn what_is_given_to_another_owner_is_out_of_the_hands_of_the_former() {
    if !needs_root("what_is_given_to_another_owner_is_out_of_the_hands_of_the_former") {
        return;
    }
    let mut machine = Machine::new();
    machine.write("/mine", b"good");
    std::os::unix::fs::chown(machine.at("/mine"), Some(1234), None).unwrap();
    let open = std::fs::OpenOptions::new().write(true).open(machine.at("/mine")).unwrap();
    machine.applied(vec![set(&["/mine"], file(0o644, b"good"))]);
    io::Write::write_all(&mut &open, b"evil").unwrap();
    assert_eq!(machine.read("/mine"), b"good");
    assert_eq!(machine.at("/mine").metadata().unwrap().uid(), 0);
}

#[test]
fn a_file_whose_contents_changed_since_the_scan_gets_no_privileges() {
    let mut machine = Machine::new();
    machine.write("/tool", b"evil");
    let report = machine.apply(vec![set(&["/tool"], file(0o4755, b"good"))]).unwrap();
    assert_eq!(failed_paths(&report), ["/tool"]);
    assert_eq!(machine.mode("/tool") & 0o6000, 0);
}

#[test]
fn a_file_that_became_something_else_since_the_scan_is_left_alone() {
    let mut machine = Machine::new();
    machine.write("/real", b"r");
    make_symlink("real", machine.at("/f")).unwrap();
    let before = machine.mode("/real");
    let report = machine.apply(vec![set(&["/f"], file(0o777, b"r"))]).unwrap();
    assert_eq!(failed_paths(&report), ["/f"]);
    assert_eq!(machine.mode("/real"), before);
}

#[test]
fn debris_of_a_dead_attempt_is_removed_and_objects_are_kept() {
    let mut machine = Machine::new();
    let id = machine.offer(b"kept");
    let deep = ["d"; 300].join("/");
    let slots = machine.at("/.subd/slots");
    std::fs::create_dir_all(slots.join(&deep)).unwrap();
    std::fs::write(slots.join("7"), b"debris").unwrap();
    let locked = slots.join("0");
    std::fs::create_dir_all(locked.join("inner")).unwrap();
    std::fs::set_permissions(&locked, PermissionsExt::from_mode(0o500)).unwrap();
    std::fs::write(machine.at("/.subd/objects").join(format!("{id}~")), b"half").unwrap();
    let Machine { dir, root, updater, .. } = machine;
    drop(updater);
    machine = Machine::within(dir);
    drop(root);
    machine.is_tidy();
    assert_eq!(machine.updater.objects().size(&id).unwrap(), Some(4));
    assert_eq!(std::fs::read_dir(machine.at("/.subd/objects")).unwrap().count(), 1);
}

#[test]
fn a_work_directory_that_is_not_ours_is_refused() {
    let open = |prepare: &dyn Fn(&std::path::Path)| {
        let dir = tempfile::tempdir().unwrap();
        prepare(&dir.path().join(".subd"));
        Updater::open(Root::open(dir.path()).unwrap(), Arc::new(Kernel)).unwrap_err()
    };
    let elsewhere = tempfile::tempdir().unwrap();
    let errors = [
        open(&|at| make_symlink(elsewhere.path(), at).unwrap()),
        open(&|at| std::fs::write(at, b"").unwrap()),
        open(&|at| {
            std::fs::create_dir(at).unwrap();
            std::fs::set_permissions(at, PermissionsExt::from_mode(0o755)).unwrap();
        }),
    ];
    for error in errors {
        assert!(matches!(error, WorkError::NotOurs { .. }), "{error}");
    }
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    let machine = Machine::new();
    let second = Updater::open(machine.root.clone(), Arc::new(Kernel)).unwrap_err();
    assert!(matches!(second, WorkError::Busy), "{second}");
}

#[test]
fn what_is_immutable_is_replaced_and_is_as_immutable_as_before() {
    let test = "what_is_immutable_is_replaced_and_is_as_immutable_as_before";
    if !needs_root(test) {
        return;
    }
    let mut machine = Machine::new();
    for at in ["/dir/fixed", "/log", "/gone", "/open/set"] {
        machine.write(at, b"1");
    }
    let flags = |at: PathBuf| rustix::fs::ioctl_getflags(std::fs::File::open(at).unwrap());
    let set = |at: PathBuf, flags| rustix::fs::ioctl_setflags(std::fs::File::open(at).unwrap(), flags);
    let Ok(plain) = flags(machine.at("/log")) else { return left_out(test, "files have no flags here") };
    let fixed = [
        ("/dir/fixed", IFlags::IMMUTABLE),
        ("/dir", IFlags::IMMUTABLE),
        ("/log", IFlags::APPEND),
        ("/gone", IFlags::IMMUTABLE),
        ("/open/set", IFlags::IMMUTABLE),
    ];
    for (at, flag) in fixed {
        if let Err(error) = set(machine.at(at), flags(machine.at(at)).unwrap() | flag) {
            return left_out(test, &format!("no file can be made immutable here: {error}"));
        }
    }
    let before = machine.scan().id();
    machine.offer(b"new");
    machine.offer(b"more");
    let plan = vec![
        put("/dir/fixed", file(0o644, b"new")),
        put("/log", file(0o644, b"more")),
        crate::support::set(&["/open/set"], file(0o600, b"1")),
        delete("/gone"),
    ];
    let report = machine.apply(plan).unwrap();
    assert_eq!(failed_paths(&report), [""; 0]);
    let of = |at: &str| flags(machine.at(at)).unwrap() & (IFlags::IMMUTABLE | IFlags::APPEND);
    assert_eq!((machine.read("/dir/fixed"), machine.read("/log")), (b"new".to_vec(), b"more".to_vec()));
    assert_eq!((machine.mode("/open/set"), machine.has("/gone")), (0o600, false));
    for (at, flag) in fixed.iter().filter(|(at, _)| *at != "/gone") {
        assert_eq!(of(at), *flag, "{at}");
    }
    let report = machine.updater.undo(Reason::Asked).unwrap();
    assert_eq!((&report.conflicts, &report.failures), (&vec![], &vec![]));
    let of = |at: &str| flags(machine.at(at)).unwrap() & (IFlags::IMMUTABLE | IFlags::APPEND);
    assert_eq!(machine.scan().id(), before);
    for (at, flag) in fixed {
        assert_eq!(of(at), flag, "{at}, undone");
        set(machine.at(at), plain).unwrap();
    }
    machine.is_tidy();
}

#[test]
fn what_is_immutable_takes_a_further_name_and_loses_it_again_and_stays_so() {
    let test = "what_is_immutable_takes_a_further_name_and_loses_it_again_and_stays_so";
    if !needs_root(test) {
        return;
    }
    for flag in [IFlags::IMMUTABLE, IFlags::APPEND] {
        let mut machine = Machine::new();
        machine.write("/target", b"1");
        machine.write("/there", b"2");
        let opened = std::fs::File::open(machine.at("/target")).unwrap();
        let Ok(plain) = rustix::fs::ioctl_getflags(&opened) else {
            return left_out(test, "files have no flags here");
        };
        if let Err(error) = rustix::fs::ioctl_setflags(&opened, plain | flag) {
            return left_out(test, &format!("no file can be made immutable here: {error}"));
        }
        let is_fixed = || rustix::fs::ioctl_getflags(&opened).unwrap().contains(flag);
        let before = machine.scan().id();
        let report = machine.apply(vec![link("/new", "/target"), link("/there", "/target")]).unwrap();
        assert_eq!(failed_paths(&report), [""; 0]);
        let ino = machine.ino("/target");
        assert_eq!((machine.ino("/new"), machine.ino("/there"), is_fixed()), (ino, ino, true));
        assert!(machine.updater.undo(Reason::Asked).unwrap().not_as_before().is_empty());
        assert_eq!((machine.scan().id(), machine.has("/new"), is_fixed()), (before, false, true));
        machine.is_tidy();
        assert!(is_fixed(), "also when what was staged is gone");
        rustix::fs::ioctl_setflags(&opened, plain).unwrap();
    }
}

#[test]
fn mount_points_and_what_leads_to_them_are_never_replaced_or_deleted() {
    with_mounts("mount_points_and_what_leads_to_them_are_never_replaced_or_deleted", || {
        let mut machine = Machine::new();
        std::fs::create_dir_all(machine.at("/a/mnt")).unwrap();
        mount_tmpfs(&machine.at("/a/mnt"), "size=1m");
        machine.write("/a/mnt/file", b"mounted");
        machine.offer(b"x");
        let plan = vec![
            set(&["/a/mnt"], directory(0o711)),
            set(&["/a/mnt/file"], file(0o600, b"mounted")),
            put("/a", file(0o644, b"x")),
            put("/a/mnt", symlink("x")),
            put("/a/mnt/new", symlink("x")),
            delete("/a/mnt/file"),
            delete_directory("/a/mnt"),
        ];
        let report = machine.apply(plan).unwrap();
        let failed = ["/a/mnt/file", "/a/mnt/new", "/a/mnt/file", "/a", "/a/mnt"];
        assert_eq!(failed_paths(&report), failed);
        assert_ne!(machine.mode("/a/mnt/file"), 0o600);
        assert_eq!(report.kept, [path("/a/mnt")], "it is told of, but no failure: nobody can do anything");
        assert_eq!((machine.read("/a/mnt/file"), machine.mode("/a/mnt")), (b"mounted".to_vec(), 0o711));
    });
}

#[test]
fn a_disk_that_fills_up_half_way_leaves_everything_as_it_was_and_what_is_journalled_needs_no_room() {
    let test =
        "a_disk_that_fills_up_half_way_leaves_everything_as_it_was_and_what_is_journalled_needs_no_room";
    with_mounts(test, || {
        let dir = tempfile::tempdir().unwrap();
        mount_tmpfs(dir.path(), "size=40m,nr_inodes=100");
        let mut machine = Machine::within(dir);
        for at in ["/changed", "/deleted", "/linked"] {
            machine.write(at, b"old");
        }
        machine.offer(b"new");
        let before = machine.scan().id();
        let operations = vec![
            put("/changed", file(0o600, b"new")),
            put("/added", symlink("x")),
            delete("/deleted"),
            set(&["/"], directory(0o750)),
            link("/linked", "/changed"),
        ];
        let plan = Plan { operations };
        let root = machine.dir.path().to_owned();
        let fill =
            || (0..200).take_while(|n| std::fs::write(root.join(format!("fill{n}")), b"").is_ok()).count();
        let empty = |count| {
            for n in 0..count {
                std::fs::remove_file(root.join(format!("fill{n}"))).unwrap();
            }
        };
        let begun = machine.updater.begin(&plan, &machine.view).unwrap();
        let filled = fill();
        let error = begun.stage().unwrap_err();
        assert!(matches!(&error, UpdateError::Staging { path: at, .. } if *at == path("/added")), "{error}");
        empty(filled);
        assert_eq!(machine.scan().id(), before);
        let kept = machine.updater.objects().size(&ObjectId::of(b"new")).unwrap();
        assert_eq!(kept, Some(3), "kept for next time");
        machine.is_tidy();

        let journalled =
            machine.updater.begin(&plan, &machine.view).unwrap().stage().unwrap().journal(b"", None).unwrap();
        let filled = fill();
        let report = journalled.swap().unwrap().commit().unwrap().report;
        assert!(report.is_success(), "{:?}", report.failures);
        assert_eq!((machine.read("/linked"), machine.has("/deleted")), (b"new".to_vec(), false));
        assert!(machine.updater.undo(Reason::Asked).unwrap().not_as_before().is_empty());
        empty(filled);
        assert_eq!(machine.scan().id(), before);
        drop(machine.updater);
        unmount(&root);
    });
}

#[test]
fn an_update_that_needs_more_room_than_there_is_does_not_begin() {
    with_mounts("an_update_that_needs_more_room_than_there_is_does_not_begin", || {
        let dir = tempfile::tempdir().unwrap();
        mount_tmpfs(dir.path(), "size=20m");
        let mut machine = Machine::within(dir);
        let root = machine.dir.path().to_owned();
        let large = vec![7; 3 * 1024 * 1024];
        machine.offer(&large);
        let plan = vec![put("/a", file(0o600, &large)), put("/b", file(0o600, &large))];
        let error = machine.apply(plan).unwrap_err();
        assert!(matches!(error, UpdateError::NoSpace { need, free } if need > free), "{error}");
        assert!(!machine.has("/a") && !machine.has("/b"));
        drop(machine.updater);
        unmount(&root);
    });
}

mod faults {
    use std::cell::RefCell;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use dominator_core::port::{ServiceAction, ServiceError, ServiceRunner};
    use dominator_core::trigger::Triggers;
    use dominator_fs::root::{Statx, inode_at};
    use dominator_fs::seam::{At, Rename};
    use dominator_fs::service::{Activation, Debt, Due};
    use dominator_fs_testkit::{Call, Tap, Tapped};

    use super::*;

    /// The kernel, but one call fails, and nobody makes a set-uid file of a wrong owner.
    #[derive(Default)]
    struct Faulty {
        calls: AtomicUsize,
        /// Which call fails; none if zero.
        failing: AtomicUsize,
        /// Who may own set-uid files.
        privileged: u32,
        /// The file-system is of a simple kind.
        simple: bool,
        /// How often the whole file-system was waited for.
        syncs: AtomicUsize,
        /// A directory that somebody puts a file into as soon as it is displaced; the next exchange fails.
        visited: Mutex<Option<std::path::PathBuf>>,
        exchanges: AtomicUsize,
    }

    impl Faulty {
        fn stat(at: At<'_>) -> Statx {
            if at.name.is_empty() {
                dominator_fs::root::inode_of(at.dir).unwrap()
            } else {
                inode_at(at.dir, at.name).unwrap()
            }
        }

        fn is_privileged(at: At<'_>) -> bool {
            let mode = Self::stat(at).stx_mode;
            mode & 0o170_000 == 0o100_000 && mode & 0o6000 != 0
        }

        fn is_directory(at: At<'_>) -> bool {
            Self::stat(at).stx_mode & 0o170_000 == 0o040_000
        }

        fn owner(at: At<'_>) -> u32 {
            Self::stat(at).stx_uid
        }
    }

    impl Tap for Faulty {
        fn before(&self, call: Call<'_>) -> io::Result<()> {
            match call {
                Call::Rename(.., Rename::Exchange) if self.simple => {
                    return Err(rustix::io::Errno::INVAL.into());
                }
                Call::Rename(.., Rename::Exchange) if self.visited.lock().unwrap().is_some() => {
                    let second = self.exchanges.fetch_add(1, Ordering::SeqCst) == 1;
                    return if second { Err(rustix::io::Errno::IO.into()) } else { Ok(()) };
                }
                Call::Chmod(at, mode) => {
                    assert!(
                        !Self::is_directory(at) || mode.bits() & 0o1002 != 2,
                        "everybody may delete in there"
                    );
                    if mode.bits() & 0o6000 != 0 {
                        assert_eq!(Self::owner(at), self.privileged, "a set-uid bit met the wrong owner");
                    }
                }
                Call::Chown(at, ..) => assert!(!Self::is_privileged(at), "a set-uid file changed hands"),
                Call::Syncfs(_) => drop(self.syncs.fetch_add(1, Ordering::SeqCst)),
                Call::Reflink(..) => return Ok(()),
                _ => {}
            }
            let number = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
            if number == self.failing.load(Ordering::SeqCst) {
                return Err(rustix::io::Errno::IO.into());
            }
            Ok(())
        }

        fn after(&self, call: Call<'_>) {
            let visited = self.visited.lock().unwrap();
            if let (Some(staging), Call::Rename(from, _, Rename::Exchange)) = (&*visited, call) {
                let slot = std::str::from_utf8(from.name).unwrap();
                std::fs::write(staging.join(slot).join("late"), b"precious").unwrap_or_default();
            }
        }
    }

    fn operations(uid: u32) -> Vec<Operation> {
        let (mut tool, mut shared) = (file(0o4755, b"tool"), directory(0o1777));
        (tool.uid, shared.uid) = (uid, uid);
        let mut noted = file(0o640, b"n");
        noted.xattrs.insert(b"user.note", b"new").unwrap();
        vec![
            set(&["/"], directory(0o751)),
            make("/was-file", 0o755),
            set(&["/dir"], directory(0o700)),
            set(&["/shared"], shared),
            put("/was-file/new", symlink("x")),
            put("/was-dir", file(0o600, b"tool")),
            put("/tool", tool),
            set(&["/noted"], noted),
            link("/link", "/tool"),
            delete("/was-dir/inner"),
            delete("/dir/deleted"),
            delete_directory("/dir/empty"),
        ]
    }

    fn before(seam: Arc<Faulty>) -> Machine {
        let mut machine = Machine::new();
        for at in ["/was-file", "/was-dir/inner", "/noted", "/link", "/dir/deleted"] {
            machine.write(at, b"n");
        }
        std::fs::create_dir(machine.at("/dir/empty")).unwrap();
        std::fs::create_dir(machine.at("/shared")).unwrap();
        std::fs::set_permissions(machine.at("/shared"), PermissionsExt::from_mode(0o1777)).unwrap();
        machine.write("/tool", b"old");
        std::fs::set_permissions(machine.at("/tool"), PermissionsExt::from_mode(0o4755)).unwrap();
        machine.offer(b"tool");
        let Machine { dir, root, updater, view } = machine;
        drop(updater);
        let updater = Updater::open(root.clone(), Arc::new(Tapped(seam))).unwrap().0;
        machine = Machine { dir, root, updater, view };
        machine
    }

    #[test]
    fn whatever_call_fails_the_tree_is_the_old_one_or_the_new_one() {
        let uid = if is_root() { 1234 } else { rustix::process::geteuid().as_raw() };
        let seam = || Arc::new(Faulty { privileged: uid, ..Faulty::default() });
        let counting = seam();
        let mut machine = before(Arc::clone(&counting));
        let setup = counting.calls.load(Ordering::SeqCst);
        let old = machine.scan().id();
        assert!(machine.apply(operations(uid)).unwrap().is_success());
        let new = machine.scan().id();
        let total = counting.calls.load(Ordering::SeqCst) - setup;
        assert!(total > 40, "only {total} calls");
        let mut undone = 0;
        for n in 1..=total {
            let faulty = seam();
            let mut machine = before(Arc::clone(&faulty));
            // Times of what is changed in place are those of this run.
            let old_here = machine.scan().id();
            faulty.failing.store(faulty.calls.load(Ordering::SeqCst) + n, Ordering::SeqCst);
            let outcome = machine.apply(operations(uid));
            let now = machine.scan().id();
            match outcome {
                Ok(report) => {
                    assert!(report.is_success(), "call {n}: {:?}", report.failures);
                    assert_eq!(now, new, "call {n}");
                }
                Err(UpdateError::NotDurable(_)) => assert_eq!(now, new, "call {n}"),
                Err(error) => {
                    if let UpdateError::Halted { not_undone, .. } = &error {
                        assert_eq!(not_undone, &[], "call {n}");
                        undone += 1;
                    }
                    assert_eq!(now, old_here, "call {n}: {error}");
                }
            }
        }
        assert!(undone > 10, "only {undone} updates were undone");
        assert_ne!(old, new);
    }

    /// A machine whose updater goes through that seam.
    fn with_seam(seam: Arc<Faulty>) -> Machine {
        let Machine { dir, root, updater, view } = Machine::new();
        drop(updater);
        let updater = Updater::open(root.clone(), Arc::new(Tapped(seam))).unwrap().0;
        Machine { dir, root, updater, view }
    }

    #[test]
    fn a_file_system_no_update_can_be_made_on_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let seam = Arc::new(Tapped(Faulty { simple: true, ..Faulty::default() }));
        let error = Updater::open(Root::open(dir.path()).unwrap(), seam).unwrap_err();
        assert!(matches!(error, WorkError::NoExchange), "{error}");
        assert_eq!(std::fs::read_dir(dir.path().join(".subd/slots")).unwrap().count(), 0);
    }

    #[test]
    fn what_a_dead_attempt_left_in_the_tree_is_durable_before_anything_is_claimed() {
        let mut machine = Machine::new();
        let plan = Plan { operations: vec![put("/new", symlink("x"))] };
        // Put in place, and never waited for.
        drop(
            machine
                .updater
                .begin(&plan, &machine.view)
                .unwrap()
                .stage()
                .unwrap()
                .journal(b"", None)
                .unwrap()
                .swap()
                .unwrap(),
        );
        let Machine { dir, root, updater, view } = machine;
        drop(updater);
        let seam = Arc::new(Faulty::default());
        let updater = Updater::open(root.clone(), Arc::new(Tapped(Arc::clone(&seam)))).unwrap().0;
        let mut machine = Machine { dir, root, updater, view };
        machine.applied(vec![]);
        assert_eq!(seam.syncs.load(Ordering::SeqCst), 1);
        machine.applied(vec![]);
        assert_eq!(seam.syncs.load(Ordering::SeqCst), 1, "there is nothing left to wait for");
    }

    #[test]
    fn what_somebody_puts_into_a_directory_at_the_last_moment_is_not_lost() {
        let seam = Arc::new(Faulty::default());
        let mut machine = with_seam(Arc::clone(&seam));
        std::fs::create_dir(machine.at("/d")).unwrap();
        *seam.visited.lock().unwrap() = Some(machine.at("/.subd/slots"));
        let error = machine.apply(vec![put("/d", symlink("x"))]).unwrap_err();
        assert!(matches!(&error, UpdateError::Halted { not_undone, .. } if not_undone.is_empty()), "{error}");
        assert_eq!(machine.read("/d/late"), b"precious");
    }

    /// When a service is stopped, the disk breaks for one call; the service does not start any more.
    struct Doomed(Arc<Faulty>);

    impl ServiceRunner for Doomed {
        fn run(&self, action: ServiceAction, service: &str) -> Result<(), ServiceError> {
            if action == ServiceAction::Stop {
                // The journal is written to and waited for; then comes the first rename.
                self.0.failing.store(self.0.calls.load(Ordering::SeqCst) + 3, Ordering::SeqCst);
                return Ok(());
            }
            let (action, service) = (action.verb(), service.to_owned());
            Err(ServiceError::Failed { action, service, output: "no licence".to_owned() })
        }
    }

    #[test]
    fn an_update_that_fails_says_what_became_of_the_services_it_stopped() {
        let seam = Arc::new(Faulty::default());
        let mut machine = with_seam(Arc::clone(&seam));
        let plan = Plan { operations: vec![put("/conf", symlink("x"))] };
        let triggers = Triggers::from_json(br#"[{"MatchLines": ["/conf"], "Service": "web"}]"#).unwrap();
        let before = machine.scan();
        let changed = changed(&plan, &before);
        let activation = Activation::new(&Triggers::default(), &triggers, changed.iter().copied());
        let ledger = RefCell::default();
        let made = machine.updater.activate(&plan, &machine.view, b"", &activation, &Doomed(seam), &ledger);
        let error = made.unwrap_err();
        assert!(matches!(error.error, UpdateError::Halted { .. }), "{error}");
        let words = error.to_string();
        assert!(words.contains("/conf") && words.contains("; besides, start web: "), "{words}");
        assert!(words.ends_with("no licence"), "{words}");
        assert_eq!(ledger.into_inner(), [Debt { service: "web".to_owned(), due: Due::Start }]);
        assert_eq!(machine.scan().id(), before.id());
    }
}

#[test]
fn a_time_that_is_set_disturbs_no_service() {
    let mut machine = Machine::new();
    machine.offer(b"text");
    machine.applied(vec![put("/f", file(0o644, b"text")), make("/d", 0o755)]);
    let before = machine.scan();
    let mut touched = before.inode(&path("/f")).unwrap();
    if let Kind::Regular { mtime, .. } = &mut touched.kind {
        *mtime = Timestamp::new(5, 0).unwrap();
    }
    let mut closed = touched.clone();
    closed.mode = file(0o600, b"text").mode;
    let changes = |inode: Inode| {
        let plan = Plan { operations: vec![set(&["/f"], inode), delete_directory("/d")] };
        changed(&plan, &before).into_iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(changes(touched), ["/d"]);
    assert_eq!(changes(closed), ["/f", "/d"]);
}

#[test]
fn an_update_given_up_keeps_its_objects_and_the_tree() {
    let mut machine = Machine::new();
    let id = machine.offer(b"later");
    let before = machine.scan().id();
    let plan = Plan { operations: vec![put("/f", file(0o644, b"later"))] };
    machine.updater.begin(&plan, &View::everything()).unwrap().stage().unwrap().abandon().unwrap();
    assert_eq!(machine.updater.objects().size(&id).unwrap(), Some(5));
    assert_eq!(machine.scan().id(), before);
    machine.is_tidy();
}
