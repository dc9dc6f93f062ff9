use std::fs;

use crate::{Trees, dominate};

fn tree(root: &std::path::Path, more: &[&str]) -> String {
    let ended = dominate(&[&["scan", "--root", root.to_str().unwrap()], more].concat()).expect(0);
    ended.lines()[0].strip_prefix("tree ").unwrap().to_owned()
}

#[test]
fn equal_trees_have_one_id_and_others_have_others() {
    let trees = Trees::new();
    let id = tree(&trees.image(), &[]);
    assert_eq!(id.len(), 64);
    assert_eq!(tree(&trees.root(), &["--threads", "1"]), id);
    fs::write(trees.root().join("var/log"), "").unwrap();
    assert_ne!(tree(&trees.root(), &[]), id);
    let filter = trees.file("filter", "/var/log\n");
    let filtered = ["--filter", filter.as_str()];
    assert_eq!(tree(&trees.root(), &filtered), tree(&trees.image(), &filtered));
}

#[test]
fn what_is_there_is_counted() {
    let trees = Trees::new();
    let ended = dominate(&["scan", "--root", trees.root().to_str().unwrap()]).expect(0);
    assert_eq!(
        ended.lines()[1],
        "4 directories, 4 files, 1 symlinks, 0 devices and pipes, 0 unknown",
        "{}",
        ended.out
    );
    assert!(ended.lines()[2].contains("read in "), "{}", ended.out);
}

#[test]
fn what_can_not_be_looked_at_is_said() {
    let trees = Trees::of(|image| dominator_fs_testkit::chain(image, &"n".repeat(250), 17));
    let ended = dominate(&["scan", "--root", trees.image().to_str().unwrap()]).expect(2);
    assert!(ended.lines().last().unwrap().contains("could not be read"), "{}", ended.out);
    dominate(&["scan", "--root", "/no/such/root"]).expect(3);
}
