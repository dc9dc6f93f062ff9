use std::fs;
use std::path::Path;
use std::process::Command;

use dominator_fs_testkit::left_out;
use dominator_testkit::schema;
use serde_json::Value;

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

/// Changes are on the disk at once, or this would take a minute.
const AT_ONCE: &[&str] = &["--write-back-expiry", "0s"];

/// Scans, going by a state.
fn scan_with(state: &str, root: &Path, more: &[&str]) -> Value {
    let scan = ["scan", "--json", "--state", state, "--root", root.to_str().unwrap()];
    let scanned = serde_json::from_str(&dominate(&[&scan, more].concat()).expect(0).out).unwrap();
    schema::check("dominate-scan", &scanned).unwrap();
    scanned
}

#[test]
fn with_a_state_only_what_changed_is_opened() {
    let trees = Trees::new();
    let (root, state) = (trees.root(), trees.file("state", ""));
    fs::remove_file(&state).unwrap();
    let first = scan_with(&state, &root, AT_ONCE);
    assert_eq!(first["bytes_hashed"], 28);
    let second = scan_with(&state, &root, AT_ONCE);
    assert_eq!((&second["files_opened"], &second["bytes_hashed"]), (&0.into(), &0.into()));
    assert_eq!((&second["tree"], &second["counts"]), (&first["tree"], &first["counts"]));
    fs::write(root.join("etc/app/config"), "port = 8080\n").unwrap();
    let third = scan_with(&state, &root, AT_ONCE);
    assert_eq!((&third["files_opened"], &third["bytes_hashed"]), (&1.into(), &12.into()));
    assert_eq!(third["tree"], tree(&root, &[]));
    assert!(third.get("state_discarded").is_none(), "{third}");
}

#[test]
fn what_was_read_soon_after_it_changed_is_read_once_more_later() {
    let trees = Trees::new();
    let (root, state) = (trees.root(), trees.file("state", ""));
    fs::remove_file(&state).unwrap();
    let read = |expiry| scan_with(&state, &root, &["--write-back-expiry", expiry])["bytes_hashed"].clone();
    assert_eq!(["1h", "1h", "0s", "0s"].map(read), [28, 0, 28, 0]);
}

#[test]
fn a_state_of_no_use_is_discarded_with_a_remark() {
    let trees = Trees::new();
    let (root, state) = (trees.root(), trees.file("state", ""));
    fs::remove_file(&state).unwrap();
    let whole = scan_with(&state, &root, AT_ONCE);
    let read_all = |why: &str| {
        let again = scan_with(&state, &root, AT_ONCE);
        assert_eq!((&again["tree"], &again["bytes_hashed"]), (&whole["tree"], &28.into()), "{why}");
        assert!(again["state_discarded"].as_str().unwrap().contains(why), "{again}");
        assert_eq!(scan_with(&state, &root, AT_ONCE)["files_opened"], 0, "{why}");
    };
    let saved = fs::read(&state).unwrap();
    fs::write(&state, &saved[..saved.len() / 2]).unwrap();
    read_all("damaged");
    let mut flipped = fs::read(&state).unwrap();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    fs::write(&state, flipped).unwrap();
    read_all("damaged");
    scan_with(&state, &trees.image(), AT_ONCE);
    read_all("another root");
    fs::write(&state, "").unwrap();
    let root = root.to_str().unwrap();
    let shown = dominate(&["scan", "--root", root, "--state", &state]).expect(0);
    assert!(shown.lines()[3].starts_with("the state was discarded: "), "{}", shown.out);
}

#[test]
fn under_another_view_contents_are_not_read_again() {
    let trees = Trees::new();
    let (root, state) = (trees.root(), trees.file("state", ""));
    fs::remove_file(&state).unwrap();
    scan_with(&state, &root, AT_ONCE);
    let filter = trees.file("filter", "/var/log\n/etc/motd\n");
    let filtered = scan_with(&state, &root, &[AT_ONCE, &["--filter", &filter]].concat());
    assert_eq!(filtered["files_opened"], 0);
    assert_eq!(filtered["tree"], tree(&root, &["--filter", &filter]));
}

#[test]
fn a_state_that_can_not_be_kept_is_said() {
    let trees = Trees::new();
    let root = trees.root();
    let scan = |state: &Path| {
        dominate(&["scan", "--root", root.to_str().unwrap(), "--state", state.to_str().unwrap()]).expect(3)
    };
    assert!(scan(Path::new("/no/such/state")).err.contains("can't open /no/such"));
    let taken = trees.image();
    assert!(scan(&taken).err.contains(&format!("can't write {}", taken.display())));
}

/// The system's own word on what is opened: beside what every program opens, only directories.
#[test]
fn a_kept_scan_of_what_did_not_change_opens_no_file() {
    if Command::new("strace").arg("--version").output().is_err() {
        return left_out("what is opened", "there is no strace");
    }
    let trees = Trees::new();
    let (root, state) = (trees.root(), trees.file("state", ""));
    fs::remove_file(&state).unwrap();
    let opened = || {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-e", "trace=open,openat,openat2", env!("CARGO_BIN_EXE_dominate"), "scan"]);
        strace.args(["--write-back-expiry", "0s", "--state", &state, "--root"]).arg(&root);
        let calls = String::from_utf8(strace.output().unwrap().stderr).unwrap();
        let names = ["config", "motd", "issue", "run me"];
        let is_opened = |line: &&str| names.iter().any(|name| line.contains(&format!("{name}\"")));
        calls.lines().filter(is_opened).count()
    };
    assert!(opened() >= 3, "the names can't be told");
    assert_eq!(opened(), 0);
}
