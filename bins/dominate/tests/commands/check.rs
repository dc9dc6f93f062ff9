use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::{Trees, dominate};

#[track_caller]
fn deviates(how: impl FnOnce(&Path), line: &str) {
    let trees = Trees::new();
    how(&trees.root());
    let ended = trees.run("check", &[]).expect(1);
    assert_eq!(ended.lines()[0], line);
    assert!(ended.lines()[1].starts_with("deviant: 1 paths ("), "{}", ended.out);
}

#[test]
fn what_is_as_it_must_be_is_compliant() {
    let trees = Trees::new();
    assert!(trees.run("check", &[]).expect(0).out.starts_with("compliant (4 directories, 4 files"));
    trees.run_with(&trees.tar(), "check", &[]).expect(0);
}

#[test]
fn every_kind_of_deviation_is_named_with_its_path() {
    deviates(|root| fs::remove_file(root.join("etc/link")).unwrap(), "/etc/link: missing, must be a symlink");
    deviates(|root| fs::write(root.join("var/x"), "").unwrap(), "/var/x: file, must not be there");
    deviates(
        |root| {
            fs::remove_file(root.join("run me")).unwrap();
            fs::create_dir(root.join("run me")).unwrap();
        },
        "/run me: directory, must be a file",
    );
    deviates(
        |root| {
            fs::remove_file(root.join("etc/link")).unwrap();
            symlink("/etc/shadow", root.join("etc/link")).unwrap();
        },
        "/etc/link: points to \"/etc/shadow\", must point to \"app/config\"",
    );
    deviates(
        |root| fs::set_permissions(root.join("var"), Permissions::from_mode(0o1777)).unwrap(),
        "/var: mode 1777, must be 0755",
    );
}

#[test]
fn an_edit_that_keeps_size_and_time_is_seen() {
    let trees = Trees::new();
    let path = trees.root().join("etc/app/config");
    let times = FileTimes::new().set_modified(fs::metadata(&path).unwrap().modified().unwrap());
    fs::write(&path, "port = 81\n").unwrap();
    File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
    let ended = trees.run("check", &[]).expect(1);
    assert!(ended.out.starts_with("/etc/app/config: contents "), "{}", ended.out);
}

#[test]
fn a_broken_hard_link_is_seen() {
    let trees = Trees::new();
    let (motd, issue) = (trees.root().join("etc/motd"), trees.root().join("etc/issue"));
    let times = FileTimes::new().set_modified(fs::metadata(&motd).unwrap().modified().unwrap());
    fs::remove_file(&issue).unwrap();
    fs::copy(&motd, &issue).unwrap();
    File::options().write(true).open(&issue).unwrap().set_times(times).unwrap();
    let ended = trees.run("check", &[]).expect(1);
    assert!(ended.out.contains("no hard link, must be hard link of /etc/"), "{}", ended.out);
}

#[test]
fn all_deviations_are_named_in_order() {
    let trees = Trees::new();
    for number in 0..300 {
        fs::write(trees.root().join(format!("var/{number:03}")), "").unwrap();
    }
    let old = SystemTime::now() - Duration::from_secs(1_000_000);
    let file = File::options().write(true).open(trees.root().join("run me")).unwrap();
    file.set_times(FileTimes::new().set_modified(old)).unwrap();
    let ended = trees.run("check", &[]).expect(1);
    let lines = ended.lines();
    assert_eq!(lines.len(), 302);
    assert!(lines[0].starts_with("/run me: modified at "), "{}", lines[0]);
    assert_eq!(
        (lines[1], lines[300]),
        ("/var/000: file, must not be there", "/var/299: file, must not be there")
    );
}

#[test]
fn what_the_filter_matches_does_not_count() {
    let trees = Trees::new();
    fs::write(trees.root().join("var/log"), "").unwrap();
    fs::write(trees.root().join("var/lib"), "").unwrap();
    let filter = trees.file("filter", "# logs\n/var/log(|/.*)$\n");
    let ended = trees.run("check", &["--filter", &filter]).expect(1);
    assert_eq!(ended.lines().len(), 2);
    assert_eq!(ended.lines()[0], "/var/lib: file, must not be there");
}

#[test]
fn an_empty_filter_name_makes_only_the_paths_of_the_image_count() {
    let trees = Trees::new();
    fs::write(trees.root().join("var/lib"), "").unwrap();
    trees.run("check", &["--filter", ""]).expect(0);
    fs::write(trees.root().join("etc/motd"), "").unwrap();
    trees.run("check", &["--filter", ""]).expect(1);
}

#[test]
fn what_can_not_be_looked_at_is_neither_compliant_nor_deviant() {
    // A path of more than 4096 bytes can be made, but not named.
    let name = "n".repeat(250);
    let trees = Trees::of(|image| dominator_fs_testkit::chain(image, &name, 16));
    let bottom = [name.as_str(); 16].join("/");
    fs::remove_file(trees.image().join(&bottom).join("b")).unwrap();
    dominator_fs_testkit::chain(&trees.root(), &name, 17);
    let ended = trees.run("check", &[]).expect(2);
    assert!(ended.out.contains("could not be read"), "{}", ended.out);
    // A deviation is one, whatever else there is.
    fs::write(trees.root().join("x"), "").unwrap();
    trees.run("check", &[]).expect(1);
}

#[test]
fn a_question_that_can_not_be_asked_is_not_answered() {
    let trees = Trees::new();
    let none = trees.dir.path().join("none");
    for (image, more) in [
        (none.as_path(), &[][..]),
        (&trees.image(), &["--filter", "/no/such/filter"]),
        (&trees.image(), &["--filter", &trees.file("bad", "(\n")]),
        (&trees.image(), &["--no-such-flag"]),
        (Path::new(&trees.file("no.tar", "this is no archive")), &[]),
    ] {
        let ended = trees.run_with(image, "check", more).expect(3);
        assert!(ended.out.is_empty() && !ended.err.is_empty(), "{}{}", ended.out, ended.err);
    }
    dominate(&["check", "--image", trees.image().to_str().unwrap(), "--root", "/no/such/root"]).expect(3);
    dominate(&[]).expect(3);
    assert!(dominate(&["--help"]).expect(0).out.contains("Exit status"));
}

#[test]
fn nothing_is_changed() {
    let trees = Trees::new();
    fs::write(trees.root().join("var/x"), "").unwrap();
    let before = dominator_fs_testkit::observed(&trees.root(), &[]);
    trees.run("check", &[]).expect(1);
    assert_eq!(dominator_fs_testkit::observed(&trees.root(), &[]), before);
    assert!(!trees.root().join(".subd").exists());
}
