use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::{Trees, dominate};

fn judged(trees: &Trees, code: i32) -> Value {
    let (root, image) = (trees.root(), trees.image());
    let arguments = ["demo-hand", "compare", root.to_str().unwrap(), image.to_str().unwrap()];
    serde_json::from_str(&dominate(&arguments).expect(code).out).unwrap()
}

#[track_caller]
fn finds(how: impl FnOnce(&Path), path: &str) {
    let trees = Trees::new();
    how(&trees.root());
    let found = judged(&trees, 1);
    assert!(found["differing"].as_array().unwrap().contains(&path.into()), "{found}");
}

#[test]
fn the_judge_of_the_demonstration_overlooks_nothing() {
    let trees = Trees::new();
    fs::create_dir(trees.root().join(".subd")).unwrap();
    assert_eq!(judged(&trees, 0)["paths"], 8);
    finds(|root| fs::write(root.join("etc/app/config"), "port = 81\n").unwrap(), "etc/app/config");
    finds(|root| fs::remove_file(root.join("etc/link")).unwrap(), "etc/link");
    finds(|root| fs::write(root.join("var/x"), "").unwrap(), "var/x");
    finds(|root| fs::set_permissions(root.join("var"), Permissions::from_mode(0o700)).unwrap(), "var");
    finds(
        |root| {
            fs::remove_file(root.join("etc/link")).unwrap();
            symlink("elsewhere", root.join("etc/link")).unwrap();
        },
        "etc/link",
    );
    finds(
        |root| {
            let (motd, issue) = (root.join("etc/motd"), root.join("etc/issue"));
            fs::remove_file(&issue).unwrap();
            assert!(Command::new("cp").arg("-p").args([motd, issue]).status().unwrap().success());
        },
        "etc/issue",
    );
}

#[test]
fn the_trees_of_the_demonstration_differ_in_every_tenth_file() {
    let trees = Trees::of(|image| {
        for number in 0..300 {
            fs::write(image.join(format!("{number:03}")), "x").unwrap();
        }
    });
    fs::remove_dir(trees.root()).unwrap();
    let (root, image) = (trees.root(), trees.image());
    let (root, image) = (root.to_str().unwrap(), image.to_str().unwrap());
    let copied = dominate(&["demo-hand", "copy", "--whole", "--to", root, image]).expect(0);
    let copied: Value = serde_json::from_str(&copied.out).unwrap();
    assert_eq!((&copied["files"], &copied["bytes"]), (&300.into(), &300.into()));
    assert_eq!(judged(&trees, 1)["differing"].as_array().unwrap().len(), 2, "the second name of the first");
    let upgraded = dominate(&["demo-hand", "upgrade", root]).expect(0);
    let upgraded: Value = serde_json::from_str(&upgraded.out).unwrap();
    assert_eq!(upgraded["rewritten"], 29);
    let (removed, added) = (upgraded["removed"].as_u64().unwrap(), upgraded["added"].as_u64().unwrap());
    assert!(removed > 0 && added > 0, "{upgraded}");
}
