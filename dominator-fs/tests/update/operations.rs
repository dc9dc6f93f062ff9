use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink as make_symlink};

use dominator_core::inode::{Device, Kind, Timestamp};
use dominator_core::plan::Operation;
use dominator_fs_testkit::needs_root;

use crate::support::*;

#[test]
fn a_file_gets_contents_mode_owner_attributes_and_time() {
    let mut machine = Machine::new();
    machine.offer(b"new");
    let mut wanted = file(0o640, b"new");
    wanted.xattrs.insert(b"user.note", b"hello").unwrap();
    if needs_root("a_file_gets_contents_mode_owner_attributes_and_time, as far as owners are concerned,") {
        (wanted.uid, wanted.gid) = (1234, 4321);
    }
    let report = machine.applied(vec![put("/f", wanted.clone())]);
    assert_eq!((report.applied, machine.read("/f")), (1, b"new".to_vec()));
    let found = machine.scan().inode(&path("/f")).unwrap();
    assert_eq!(found, machine.view.inode(&wanted));
    assert_eq!(mtime(&machine.at("/f")), (1_000_000_000, 123_456_789));
}

#[test]
fn an_object_used_twice_makes_two_inodes() {
    let mut machine = Machine::new();
    machine.offer(b"same");
    machine.applied(vec![put("/a", file(0o644, b"same")), put("/b", file(0o600, b"same"))]);
    assert_ne!(machine.ino("/a"), machine.ino("/b"));
    assert_eq!((machine.read("/a"), machine.read("/b")), (b"same".to_vec(), b"same".to_vec()));
    assert_eq!(std::fs::read_dir(machine.at("/.subd/objects")).unwrap().count(), 0, "objects are used up");
}

#[test]
fn every_kind_takes_the_place_of_every_other() {
    type Make = fn() -> Operation;
    let kinds: &[(&str, Make)] = &[
        ("file", || put("/x", file(0o644, b"f"))),
        ("empty", || put("/x", file(0o644, b""))),
        ("symlink", || put("/x", symlink("nowhere"))),
        ("fifo", || put("/x", inode(0o600, Kind::Fifo { mtime: Timestamp::default() }))),
        ("directory", || make("/x", 0o755)),
        ("device", || {
            let device = Device { major: 1, minor: 3 };
            put("/x", inode(0o600, Kind::CharDevice { mtime: Timestamp::default(), device }))
        }),
    ];
    let devices = needs_root("every_kind_takes_the_place_of_every_other, as far as devices are concerned,");
    let usable = &kinds[..if devices { 6 } else { 5 }];
    for (from, before) in usable {
        for (to, after) in usable {
            let mut machine = Machine::new();
            machine.offer(b"f");
            machine.applied(vec![before()]);
            if *from == "directory" && *to != "directory" {
                machine.write("/x/inner", b"goes");
            }
            machine.offer(b"f");
            machine.applied(vec![after(), delete("/x/inner")]);
            let mut model = Machine::new();
            model.offer(b"f");
            model.applied(vec![after()]);
            assert_eq!(machine.scan().inode(&path("/x")), model.scan().inode(&path("/x")), "{from} → {to}");
        }
    }
}

#[test]
fn a_directory_that_is_there_already_keeps_its_entries_and_gets_its_metadata() {
    let mut machine = Machine::new();
    machine.write("/d/inner", b"stays");
    let before = machine.ino("/d");
    machine.applied(vec![make("/d", 0o711)]);
    assert_eq!((machine.ino("/d"), machine.mode("/d")), (before, 0o711));
    assert_eq!(machine.read("/d/inner"), b"stays");
}

#[test]
fn a_tree_is_made_and_unmade_in_the_order_of_the_plan() {
    let mut machine = Machine::new();
    machine.offer(b"deep");
    machine.applied(vec![make("/a", 0o555), make("/a/b", 0o500), put("/a/b/f", file(0o400, b"deep"))]);
    assert_eq!((machine.mode("/a"), machine.mode("/a/b"), machine.mode("/a/b/f")), (0o555, 0o500, 0o400));
    machine.applied(vec![delete("/a/b/f"), delete_directory("/a/b"), delete_directory("/a")]);
    assert!(!machine.has("/a"));
}

#[test]
fn metadata_of_the_root_and_of_directories_change_in_place() {
    let mut machine = Machine::new();
    std::fs::create_dir(machine.at("/d")).unwrap();
    let inodes = (machine.ino("/"), machine.ino("/d"));
    machine.applied(vec![set(&["/"], directory(0o751)), set(&["/d"], directory(0o1777))]);
    assert_eq!((machine.mode("/"), machine.mode("/d")), (0o751, 0o1777));
    assert_eq!((machine.ino("/"), machine.ino("/d")), inodes);
}

#[test]
fn metadata_of_an_inode_with_all_names_known_change_in_place() {
    let mut machine = Machine::new();
    machine.write("/a", b"x");
    std::fs::hard_link(machine.at("/a"), machine.at("/b")).unwrap();
    let before = machine.ino("/a");
    machine.applied(vec![set(&["/a", "/b"], file(0o600, b"x"))]);
    assert_eq!((machine.ino("/a"), machine.ino("/b")), (before, before));
    assert_eq!((machine.mode("/a"), mtime(&machine.at("/b"))), (0o600, (1_000_000_000, 123_456_789)));
}

#[test]
fn an_inode_with_names_elsewhere_is_replaced_and_the_others_keep_what_they_have() {
    let mut machine = Machine::new();
    machine.write("/a", b"x");
    std::fs::set_permissions(machine.at("/a"), PermissionsExt::from_mode(0o644)).unwrap();
    for name in ["/b", "/not-in-view"] {
        std::fs::hard_link(machine.at("/a"), machine.at(name)).unwrap();
    }
    let before = machine.ino("/a");
    machine.applied(vec![set(&["/a", "/b"], file(0o600, b"x"))]);
    assert_eq!((machine.ino("/not-in-view"), machine.mode("/not-in-view")), (before, 0o644));
    assert_eq!(machine.ino("/a"), machine.ino("/b"));
    assert_eq!((machine.mode("/a"), machine.read("/b")), (0o600, b"x".to_vec()));
    assert_ne!(machine.ino("/a"), before);
}

#[test]
fn links_are_made_over_whatever_is_there_and_again_without_harm() {
    let mut machine = Machine::new();
    machine.write("/target", b"t");
    machine.write("/file", b"other");
    make_symlink("x", machine.at("/symlink")).unwrap();
    std::fs::create_dir(machine.at("/dir")).unwrap();
    let names = ["/file", "/symlink", "/dir", "/new"];
    for _ in 0..2 {
        machine.applied(names.iter().map(|name| link(name, "/target")).collect());
        for name in names {
            assert_eq!(machine.ino(name), machine.ino("/target"), "{name}");
        }
    }
    assert_eq!(machine.at("/target").metadata().unwrap().nlink(), 5);
}

#[test]
fn a_link_to_what_could_not_be_put_is_not_made() {
    let mut machine = Machine::new();
    machine.write("/target/in-the-way", b"kept");
    machine.write("/other", b"old");
    let report = machine.apply(vec![put("/target", symlink("x")), link("/other", "/target")]).unwrap();
    assert_eq!(failed_paths(&report), ["/target", "/other"]);
    assert_eq!(machine.read("/other"), b"old");
}

#[test]
fn deleting_what_is_gone_is_done_and_a_full_directory_is_kept() {
    let mut machine = Machine::new();
    machine.write("/d/known", b"1");
    machine.write("/d/unknown", b"2");
    let plan = vec![delete("/gone"), delete("/gone/below"), delete("/d/known"), delete_directory("/d")];
    let report = machine.applied(plan);
    assert_eq!(report.kept, [path("/d")]);
    assert_eq!(
        (report.applied, machine.has("/d/known"), machine.read("/d/unknown")),
        (3, false, b"2".to_vec())
    );
}

#[test]
fn what_changed_its_kind_since_the_scan_is_not_deleted() {
    let mut machine = Machine::new();
    machine.write("/file", b"1");
    std::fs::create_dir(machine.at("/dir")).unwrap();
    let report = machine.apply(vec![delete_directory("/file"), delete("/dir")]).unwrap();
    assert_eq!(failed_paths(&report), ["/file", "/dir"]);
    assert!(machine.has("/file") && machine.has("/dir"));
}

#[test]
fn attributes_of_classes_out_of_view_are_left_alone() {
    let mut machine = Machine::new();
    machine.write("/f", b"x");
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(machine.at("/f"), "user.mine", b"1", flags).unwrap();
    machine.view.xattrs = dominator_core::view::XattrPolicy::NONE;
    let mut wanted = file(0o600, b"x");
    wanted.xattrs.insert(b"user.other", b"2").unwrap();
    machine.applied(vec![set(&["/f"], wanted)]);
    let value = |name| rustix::fs::getxattr(machine.at("/f"), name, &mut [0_u8; 8]);
    assert_eq!(value("user.mine"), Ok(1));
    assert_eq!(value("user.other"), Err(rustix::io::Errno::NODATA));
}

#[test]
fn a_capability_survives_the_owner_that_is_set_with_it() {
    if !needs_root("a_capability_survives_the_owner_that_is_set_with_it") {
        return;
    }
    let mut machine = Machine::new();
    machine.offer(b"ping");
    let mut wanted = file(0o755, b"ping");
    // cap_net_raw=ep, revision 2.
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    wanted.xattrs.insert(b"security.capability", &capability).unwrap();
    wanted.uid = 1234;
    machine.applied(vec![put("/ping", wanted.clone())]);
    assert_eq!(machine.scan().inode(&path("/ping")).unwrap(), wanted);
}
