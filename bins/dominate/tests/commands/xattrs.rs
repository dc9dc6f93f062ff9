use std::path::Path;
use std::process::Command;

use dominator_fs_testkit::{left_out, needs_root};

use crate::Trees;

fn set(path: &Path, name: &str, value: &str) -> bool {
    let mut command = Command::new("setfattr");
    command.args(["-n", name, "-v", value]).arg(path).status().unwrap().success()
}

fn value(path: &Path, name: &str) -> Option<String> {
    let read = Command::new("getfattr").args(["--only-values", "-n", name]).arg(path).output().unwrap();
    read.status.success().then(|| String::from_utf8_lossy(&read.stdout).into_owned())
}

/// `cap_net_raw=ep`, as the kernel keeps it.
const CAPABILITY: &str = "0x0100000200200000000000000000000000000000";

#[test]
fn only_the_extended_attributes_that_were_chosen_count() {
    let trees = Trees::new();
    let [image, root] = [trees.image(), trees.root()].map(|tree| tree.join("run me"));
    if !set(&image, "user.origin", "here") || !set(&root, "user.mine", "kept") {
        return left_out("which extended attributes count", "this file-system keeps none");
    }
    trees.run("check", &[]).expect(1);
    trees.run("check", &["--xattrs", "all"]).expect(1);
    trees.run("check", &["--xattrs", "security"]).expect(0);
    trees.run("check", &["--xattrs", "none"]).expect(0);
    if !needs_root("that capabilities count as security") {
        return;
    }
    assert!(set(&image, "security.capability", CAPABILITY));
    trees.run("check", &["--xattrs", "security"]).expect(1);
    trees.run("check", &["--xattrs", "none"]).expect(0);
    trees.run("enforce", &["--xattrs", "none"]).expect(0);
    assert_eq!(value(&root, "security.capability"), None);
    trees.run("enforce", &["--xattrs", "security"]).expect(0);
    assert!(value(&root, "security.capability").is_some());
    trees.run("check", &["--xattrs", "security"]).expect(0);
    trees.run("enforce", &[]).expect(0);
    assert_eq!(value(&root, "user.origin").as_deref(), Some("here"));
    assert_eq!(value(&root, "user.mine"), None);
}

#[test]
fn what_is_not_chosen_does_not_change_the_id_of_a_tree() {
    let trees = Trees::new();
    let id = |choice: &str| {
        let root = trees.root();
        let ended =
            crate::dominate(&["scan", "--root", root.to_str().unwrap(), "--xattrs", choice]).expect(0);
        ended.lines()[0].to_owned()
    };
    let before = ["none", "security", "all"].map(id);
    if !set(&trees.root().join("run me"), "user.x", "y") {
        return left_out("extended attributes in the id of a tree", "this file-system keeps none");
    }
    let after = ["none", "security", "all"].map(id);
    assert_eq!((&after[..2], after[2] == before[2]), (&before[..2], false));
}
