use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dominator_core::plan::Plan;
use dominator_fs::mounts::Mounts;
use dominator_fs::root::{Beneath, Root};
use dominator_fs::seam::{Kernel, Rename};
use dominator_fs::traits::traits_of;
use dominator_fs::update::{UpdateError, Updater};
use dominator_fs_testkit::{Call, Tap, Tapped, mount_bind, mount_tmpfs, needs_root, unmount, with_mounts};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::support::*;

#[test]
fn drift_below_a_mount_is_seen_and_repaired() {
    with_mounts("drift_below_a_mount_is_seen_and_repaired", || {
        let mut machine = Machine::beneath_mounts();
        machine.write("/data/conf", b"good");
        machine.write("/data/deep/more", b"good");
        machine.write("/hosts", b"machine's own");
        let required = machine.scan();
        machine.write("/data/conf", b"drift");
        machine.write("/data/deep/extra", b"drift");
        fs::remove_file(machine.at("/data/deep/more")).unwrap();
        fs::set_permissions(machine.at("/data"), std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .unwrap();
        mount_tmpfs(&machine.at("/data"), "size=1m,mode=1777");
        machine.write("/data/of-the-mount", b"m");
        assert_ne!(machine.scan().id(), required.id());
        machine.offer(b"good");
        let plan = machine.plan_for(&required);
        machine.applied(plan.operations);
        assert_eq!(machine.scan().id(), required.id());
        assert_eq!((machine.read("/data/of-the-mount"), machine.mode("/data")), (b"m".to_vec(), 0o1777));
        unmount(&machine.at("/data"));
        assert_eq!(
            (machine.read("/data/conf"), machine.read("/data/deep/more")),
            (b"good".to_vec(), b"good".to_vec())
        );
        assert!(!machine.has("/data/deep/extra") && machine.mode("/data") != 0o700);
    });
}

/// A machine with a mount at `/a/mnt` and a file mounted over `/etc/bound`.
fn machine_with_mounts(machine: Machine) -> Machine {
    for (path, contents) in
        [("/a/mnt/hidden", b"h"), ("/a/file", b"f"), ("/etc/bound", b"b"), ("/source", b"s")]
    {
        machine.write(path, contents);
    }
    mount_tmpfs(&machine.at("/a/mnt"), "size=1m");
    machine.write("/a/mnt/mounted", b"m");
    mount_bind(&machine.at("/source"), &machine.at("/etc/bound"));
    machine.offer(b"x");
    machine
}

fn still_has_its_mounts(machine: &mut Machine) {
    assert_eq!((machine.read("/a/mnt/mounted"), machine.read("/etc/bound")), (b"m".to_vec(), b"s".to_vec()));
    machine.is_tidy();
}

#[test]
fn mounts_stay_where_they_are_when_all_around_them_is_deleted_and_replaced() {
    with_mounts("mounts_stay_where_they_are_when_all_around_them_is_deleted_and_replaced", || {
        let mut machine = machine_with_mounts(Machine::beneath_mounts());
        let plan = vec![
            set(&["/a/mnt"], directory(0o711)),
            put("/a", file(0o644, b"x")),
            put("/a/mnt", symlink("x")),
            put("/etc/bound", file(0o644, b"x")),
            link("/etc/bound", "/source"),
            put("/a/mnt/new", symlink("x")),
            delete("/a/mnt/hidden"),
            delete("/a/file"),
            delete("/etc/bound"),
            delete_directory("/a/mnt"),
            delete_directory("/a"),
        ];
        let report = machine.apply(plan).unwrap();
        assert_eq!(failed_paths(&report), ["/a", "/a/mnt", "/etc/bound", "/etc/bound"]);
        assert!(report.failures.iter().all(|failure| failure.reason.contains("mounted at /")), "{report:?}");
        assert_eq!(report.kept, [path("/etc/bound"), path("/a/mnt"), path("/a")]);
        still_has_its_mounts(&mut machine);
        assert_ne!(machine.mode("/a/mnt"), 0o711, "the mode of the mount is not the image's concern");
        unmount(&machine.at("/a/mnt"));
        unmount(&machine.at("/etc/bound"));
        assert!(
            machine.at("/a/mnt/new").is_symlink() && !machine.has("/a/mnt/hidden") && !machine.has("/a/file")
        );
        assert_eq!((machine.mode("/a/mnt"), machine.read("/etc/bound")), (0o711, b"b".to_vec()));
    });
}

#[test]
fn what_a_mount_keeps_is_wanted_deleted_again_only_when_it_is_unmounted() {
    with_mounts("what_a_mount_keeps_is_wanted_deleted_again_only_when_it_is_unmounted", || {
        let mut machine = Machine::beneath_mounts();
        machine.write("/source", b"s");
        let required = machine.scan();
        machine = machine_with_mounts(machine);
        let plan = machine.plan_for(&required);
        let report = machine.apply(plan.operations).unwrap();
        assert!(report.is_success(), "{:?}", report.failures);
        still_has_its_mounts(&mut machine);
        let held = machine.held();
        for kept in &report.kept {
            assert!(held.contains(kept), "{kept} would be forgotten by the next scan, and deleted for ever");
        }
        let (rest, _) = machine.plan_for(&required).without_kept(&report.kept.iter().cloned().collect());
        assert_eq!(rest, Plan::default(), "nothing is left to do");
        unmount(&machine.at("/a/mnt"));
        unmount(&machine.at("/etc/bound"));
        let plan = machine.plan_for(&required).without_kept(&machine.held()).0;
        machine.applied(plan.operations);
        assert_eq!(machine.scan().id(), required.id());
    });
}

#[test]
fn a_mount_made_between_plan_and_update_stays() {
    with_mounts("a_mount_made_between_plan_and_update_stays", || {
        for beneath in [true, false] {
            let mut machine = if beneath { Machine::beneath_mounts() } else { Machine::new() };
            fs::create_dir_all(machine.at("/a/mnt")).unwrap();
            let late = machine.at("/a/mnt");
            let operations = vec![put("/a", symlink("x")), delete_directory("/a/mnt")];
            let staged = machine.journalled(operations);
            mount_tmpfs(&late, "size=1m");
            fs::write(late.join("mounted"), b"m").unwrap();
            let report = staged.swap().unwrap().commit().unwrap().report;
            assert_eq!(failed_paths(&report), ["/a"]);
            assert_eq!(machine.read("/a/mnt/mounted"), b"m");
            machine.is_tidy();
            unmount(&late);
        }
    });
}

/// The kernel, but somebody mounts something right before the first exchange, or as soon as there is a place for it; the
/// disk may then be full for a moment.
#[derive(Default)]
struct Meanwhile {
    place: PathBuf,
    armed: AtomicBool,
    then_full: AtomicBool,
}

impl Tap for Meanwhile {
    fn before(&self, call: Call<'_>) -> io::Result<()> {
        match call {
            Call::Rename(.., Rename::Exchange) if self.armed.swap(false, Ordering::SeqCst) => {
                mount_tmpfs(&self.place, "size=1m");
            }
            Call::Chmod(..) if self.then_full.swap(false, Ordering::SeqCst) => {
                return Err(rustix::io::Errno::NOSPC.into());
            }
            _ => {}
        }
        Ok(())
    }

    fn after(&self, call: Call<'_>) {
        let renamed = matches!(call, Call::Rename(..));
        if renamed && self.place.is_dir() && self.armed.swap(false, Ordering::SeqCst) {
            mount_tmpfs(&self.place, "size=1m");
        }
    }
}

#[test]
fn a_mount_made_in_the_moment_a_directory_is_displaced_comes_back() {
    with_mounts("a_mount_made_in_the_moment_a_directory_is_displaced_comes_back", || {
        for beneath in [true, false] {
            let mut machine = if beneath { Machine::beneath_mounts() } else { Machine::new() };
            fs::create_dir_all(machine.at("/a/mnt")).unwrap();
            let seam = Arc::new(Tapped(Meanwhile { place: machine.at("/a/mnt"), ..Meanwhile::default() }));
            machine.restart_with(seam.clone());
            let operations = vec![put("/a", symlink("x")), delete_directory("/a/mnt")];
            let staged = machine.journalled(operations);
            seam.0.armed.store(true, Ordering::SeqCst);
            let report = staged.swap().unwrap().commit().unwrap().report;
            assert!(!seam.0.armed.load(Ordering::SeqCst));
            assert_eq!((failed_paths(&report), report.kept), (vec!["/a".into()], vec![path("/a/mnt")]));
            machine.is_tidy();
            unmount(&machine.at("/a/mnt"));
        }
    });
}

/// The kernel, but right before the first rename of something out of its place, somebody mounts a file over a file, or a
/// file-system over a directory.
struct AtTheLastMoment {
    source: PathBuf,
    place: PathBuf,
    armed: AtomicBool,
}

impl Tap for AtTheLastMoment {
    fn before(&self, call: Call<'_>) -> io::Result<()> {
        if let Call::Rename(from, to, _) = call
            && [from.name, to.name].contains(&self.place.file_name().unwrap().as_encoded_bytes())
            && self.armed.swap(false, Ordering::SeqCst)
        {
            mount_bind(&self.source, &self.place);
        }
        Ok(())
    }
}

#[test]
fn a_mount_made_in_the_moment_its_place_is_displaced_or_deleted_stays() {
    with_mounts("a_mount_made_in_the_moment_its_place_is_displaced_or_deleted_stays", || {
        for beneath in [true, false] {
            for operations in [
                vec![put("/etc/place", symlink("x"))],
                vec![put("/etc/place", file(0o644, b"x"))],
                vec![link("/etc/place", "/source")],
                vec![delete("/etc/place")],
            ] {
                let mut machine = if beneath { Machine::beneath_mounts() } else { Machine::new() };
                machine.write("/etc/place", b"hidden");
                machine.write("/source", b"mounted");
                machine.offer(b"x");
                let (source, place) = (machine.at("/source"), machine.at("/etc/place"));
                let seam = Arc::new(AtTheLastMoment { source, place, armed: AtomicBool::new(true) });
                machine.restart_with(Arc::new(Tapped(Arc::clone(&seam))));
                let shown = format!("{operations:?}, beneath mounts: {beneath}");
                let report = machine.apply(operations).unwrap();
                assert!(!seam.armed.load(Ordering::SeqCst), "nothing was mounted: {shown}");
                assert_eq!(machine.read("/etc/place"), b"mounted", "{shown}");
                let told = failed_paths(&report) == ["/etc/place"] || report.kept == [path("/etc/place")];
                assert!(told, "{shown}: {report:?}");
                unmount(&machine.at("/etc/place"));
                assert_eq!(machine.read("/etc/place"), b"hidden", "{shown}");
                machine.is_tidy();
            }
        }
    });
}

#[test]
fn what_was_mounted_on_during_an_update_is_not_undone() {
    with_mounts("what_was_mounted_on_during_an_update_is_not_undone", || {
        let mut machine = Machine::beneath_mounts();
        let seam = Arc::new(Tapped(Meanwhile { place: machine.at("/new/sub"), ..Meanwhile::default() }));
        machine.restart_with(seam.clone());
        let operations = vec![make("/new", 0o755), make("/new/sub", 0o755), set(&["/"], directory(0o750))];
        let staged = machine.journalled(operations);
        seam.0.armed.store(true, Ordering::SeqCst);
        seam.0.then_full.store(true, Ordering::SeqCst);
        let error = staged.swap().unwrap_err();
        let UpdateError::Halted { not_undone, .. } = &error else { panic!("{error}") };
        let left: Vec<_> = not_undone.iter().map(|failure| failure.path.to_string()).collect();
        assert_eq!(left, ["/new/sub", "/new"], "{error}");
        unmount(&machine.at("/new/sub"));
    });
}

#[test]
fn a_mount_on_another_path_to_the_same_directory_counts() {
    with_mounts("a_mount_on_another_path_to_the_same_directory_counts", || {
        let mut machine = Machine::beneath_mounts();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::create_dir_all(machine.at("/a/b/mnt")).unwrap();
        mount_bind(&machine.at("/a"), elsewhere.path());
        mount_tmpfs(&elsewhere.path().join("b/mnt"), "size=1m");
        fs::write(elsewhere.path().join("b/mnt/mounted"), b"m").unwrap();
        let plan = vec![put("/a", symlink("x")), put("/a/b", symlink("x")), delete_directory("/a/b/mnt")];
        let report = machine.apply(plan).unwrap();
        assert_eq!(
            (failed_paths(&report), report.kept),
            (vec!["/a".into(), "/a/b".into()], vec![path("/a/b/mnt")])
        );
        assert_eq!(fs::read(elsewhere.path().join("b/mnt/mounted")).unwrap(), b"m");
        unmount(&elsewhere.path().join("b/mnt"));
        unmount(elsewhere.path());
    });
}

#[test]
fn mounts_are_known_as_soon_as_they_are_made_and_forgotten_when_they_are_gone() {
    with_mounts("mounts_are_known_as_soon_as_they_are_made_and_forgotten_when_they_are_gone", || {
        let machine = Machine::beneath_mounts();
        fs::create_dir_all(machine.at("/a/with blank\\and\nmore")).unwrap();
        let name = "/a/with blank\\and\nmore";
        let mut mounts = Mounts::of(&machine.root).unwrap();
        assert!(mounts.points().is_empty());
        for _ in 0..2 {
            mount_tmpfs(&machine.at(name), "size=1m");
            mounts.refresh().unwrap();
            assert_eq!(mounts.within(&path("/a")), Some(&path(name)));
            assert_eq!(mounts.within(&path(name)), Some(&path(name)));
            assert_eq!((mounts.within(&path("/b")), mounts.within(&path("/a/with"))), (None, None));
            unmount(&machine.at(name));
            mounts.refresh().unwrap();
            assert!(mounts.points().is_empty());
        }
    });
}

#[test]
fn nothing_mounted_before_or_after_appears_in_a_root_without_mounts() {
    with_mounts("nothing_mounted_before_or_after_appears_in_a_root_without_mounts", || {
        let dir = tempfile::tempdir().unwrap();
        mount_tmpfs(dir.path(), "size=9m");
        let (none, flags) = (None::<&str>, nix::mount::MsFlags::MS_SHARED);
        nix::mount::mount(none, dir.path(), none, flags, none).unwrap();
        let at = dir.path().to_owned();
        let machine = Machine::beneath_mounts_in(dir);
        machine.write("/mnt/hidden", b"h");
        let before = machine.scan().id();
        mount_tmpfs(&machine.at("/mnt"), "size=1m");
        machine.write("/mnt/mounted", b"m");
        assert_eq!(machine.scan().id(), before, "mounted after");
        let (root, _) = Root::open_beneath_mounts(machine.dir.path()).unwrap();
        assert_eq!(scan(&root, &machine.view).id(), before, "mounted before");
        drop(root);
        unmount(&machine.at("/mnt"));
        drop(machine);
        unmount(&at);
    });
}

#[test]
fn below_mounts_nothing_of_the_kernels_is_protected() {
    with_mounts("below_mounts_nothing_of_the_kernels_is_protected", || {
        let machine = Machine::beneath_mounts();
        fs::create_dir(machine.at("/proc")).unwrap();
        mount_tmpfs(&machine.at("/proc"), "size=1m");
        assert!(traits_of(&machine.root).protected.is_empty());
        let plain = Root::open(machine.dir.path()).unwrap();
        assert_eq!(traits_of(&plain).protected, [path("/proc")].into());
        unmount(&machine.at("/proc"));
    });
}

#[test]
fn without_the_right_to_look_below_mounts_a_root_is_as_everybody_sees_it() {
    if !needs_root("without_the_right_to_look_below_mounts_a_root_is_as_everybody_sees_it") {
        return;
    }
    std::thread::spawn(|| {
        let all = rustix::thread::capabilities(None).unwrap();
        let effective = all.effective.difference(CapabilitySet::SYS_ADMIN);
        rustix::thread::set_capabilities(None, CapabilitySets { effective, ..all }).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (root, beneath) = Root::open_beneath_mounts(dir.path()).unwrap();
        assert!(
            matches!(beneath, Beneath::No { .. }) && beneath.to_string().contains("CAP_SYS_ADMIN"),
            "{beneath}"
        );
        drop(Updater::open(root, Arc::new(Kernel)).unwrap().0);
        assert!(Root::open_beneath_mounts(&dir.path().join("missing")).is_err());
    })
    .join()
    .unwrap();
}
