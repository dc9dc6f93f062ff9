//! What the command line promises.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::fs;
use std::path::Path;
use std::process::Command;

use dominator_testkit::schema;
use serde_json::{Value, json};

fn old_root() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    ["etc", "usr"].iter().for_each(|name| fs::create_dir(dir.path().join(name)).unwrap());
    fs::write(dir.path().join("etc/file"), "contents").unwrap();
    dir
}

fn run(root: &Path, more: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_fs2objectcache")).arg(root).args(more).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn nothing_is_done_without_yes() {
    let dir = old_root();
    assert_eq!(run(dir.path(), &[]).0, 2);
    let (code, looked, _) = run(dir.path(), &["--dry-run"]);
    assert!(code == 0 && looked.starts_with("3 names, 1 objects of 8 B"), "{looked}");
    assert!(dir.path().join("etc/file").exists() && !dir.path().join(".subd").exists());
    let (code, done, _) = run(dir.path(), &["--yes"]);
    assert!(code == 0 && done.contains("1 objects are new in the cache, 2 names are gone, 0 stay"), "{done}");
    assert!(!dir.path().join("etc").exists());
}

#[test]
fn what_does_not_look_like_a_root_is_emptied_only_when_told_so() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis"), "contents").unwrap();
    for more in ["--dry-run", "--yes"] {
        let (code, _, error) = run(dir.path(), &[more]);
        assert!(code == 2 && error.contains("--any-directory"), "{error}");
    }
    assert!(dir.path().join("thesis").exists());
    assert_eq!(run(dir.path(), &["--yes", "--any-directory"]).0, 0);
    assert!(!dir.path().join("thesis").exists());
}

#[test]
fn json_is_what_the_schema_says() {
    let dir = old_root();
    let shown = |more: &[&str]| {
        let (code, out, error) = run(dir.path(), more);
        let value: Value = serde_json::from_str(&out).unwrap_or_else(|bad| panic!("{bad}: {out}{error}"));
        schema::check("fs2objectcache", &value).unwrap();
        assert_eq!(code, 0, "{error}");
        value
    };
    let looked = shown(&["--json", "--dry-run"]);
    assert_eq!((&looked["names"], &looked["bytes"], looked.get("done")), (&json!(3), &json!(8), None));
    let done = shown(&["--json", "--yes"]);
    assert_eq!(done["done"], json!({"moved": 1, "removed": 2, "left": []}));
}
