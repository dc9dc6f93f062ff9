//! A root that is no longer needed becomes the object cache of its successor.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use dominator_core::object::ObjectId;
use dominator_core::plan::Comparison;
use dominator_core::view::View;
use dominator_fs::root::Root;
use dominator_fs::scan::{Cancel, Scanner};
use dominator_fs::seam::{Kernel, Seam};
use dominator_fs::traits::traits_of;
use dominator_fs::update::{Salvage, SalvageError, Salvaged, Survey, Updater};

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
    assert!(Command::new("mkfifo").arg(root.join("etc/pipe")).status().unwrap().success());
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

fn salvage(root: &Path) -> Salvaged {
    Salvage::look(root, &Cancel::default()).unwrap().run(&kernel()).unwrap()
}

#[test]
fn every_content_is_in_the_cache_once_and_all_else_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    old_root(dir.path());
    let look = Salvage::look(dir.path(), &Cancel::default()).unwrap();
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
    let traits = traits_of(&root);
    let view = View { xattrs: traits.xattrs, ownership: traits.ownership, ..View::everything() };
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
    let report = Updater::new(root.clone(), kernel()).unwrap().apply(&plan, &view).unwrap();
    assert!(report.is_success(), "{:?}", report.failures);
    assert_eq!(scan(&root).id(), required.id());
}

#[test]
fn a_damaged_object_in_the_cache_is_no_reason_to_drop_a_good_file() {
    let dir = tempfile::tempdir().unwrap();
    old_root(dir.path());
    drop(Updater::new(Root::open(dir.path()).unwrap(), kernel()).unwrap());
    let object = dir.path().join(".subd/objects").join(ObjectId::of(b"program").to_string());
    fs::write(&object, "pr0gram").unwrap();
    assert_eq!(salvage(dir.path()).moved, 2);
    assert_eq!(fs::read(&object).unwrap(), b"program");
}

#[test]
fn what_changed_since_it_was_read_stays_with_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    old_root(dir.path());
    let look = Salvage::look(dir.path(), &Cancel::default()).unwrap();
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
    let own = Salvage::look(Path::new("/"), &Cancel::default());
    assert!(matches!(own, Err(SalvageError::Running)), "{own:?}");
    let dir = tempfile::tempdir().unwrap();
    old_root(dir.path());
    let mut tenant = Command::new("sleep").arg("600").current_dir(dir.path().join("usr")).spawn().unwrap();
    let lived_in = Salvage::look(dir.path(), &Cancel::default());
    tenant.kill().unwrap();
    tenant.wait().unwrap();
    assert!(
        matches!(&lived_in, Err(SalvageError::InUse { process }) if *process == tenant.id().to_string()),
        "{lived_in:?}"
    );
}
