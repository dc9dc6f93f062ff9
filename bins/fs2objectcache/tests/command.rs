//! What the command line promises.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::process::Command;

#[test]
fn nothing_is_done_without_yes() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "contents").unwrap();
    let run = |more: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_fs2objectcache")).arg(dir.path()).args(more).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(run(&[]).0, 2);
    let (code, looked) = run(&["--dry-run"]);
    assert!(code == 0 && looked.starts_with("1 names, 1 objects of 8 B"), "{looked}");
    assert!(dir.path().join("file").exists() && !dir.path().join(".subd").exists());
    let (code, done) = run(&["--yes"]);
    assert!(code == 0 && done.contains("1 objects are new in the cache, 0 names are gone, 0 stay"), "{done}");
    assert!(!dir.path().join("file").exists());
}
