use std::fs;

use dominator_testkit::schema;
use serde_json::Value;

use crate::{Ended, Trees, dominate};

#[track_caller]
fn is_as_documented(ended: &Ended, command: &str) -> Value {
    let value = serde_json::from_str(&ended.out).unwrap();
    schema::check(&format!("dominate-{command}"), &value).unwrap();
    value
}

#[test]
fn json_is_what_the_schemas_say() {
    let trees = Trees::new();
    fs::write(trees.root().join("etc/motd"), "farewell\n").unwrap();
    fs::create_dir(trees.root().join("opt")).unwrap();
    fs::write(trees.root().join("opt/kept"), "").unwrap();
    let filter = trees.file("filter", "/opt/kept\n");
    let filtered = ["--json", "--filter", &filter];
    let checked = is_as_documented(&trees.run("check", &filtered).expect(1), "check");
    assert_eq!(checked["verdict"], "deviant");
    assert_eq!(checked["deviations"][0]["why"], "contents");
    assert_eq!(checked["kept"][0], "/opt");
    let triggers = trees.file("triggers", r#"[{"MatchLines": ["/etc"], "Service": "s"}]"#);
    let with_triggers = ["--json", "--triggers", &triggers];
    let planned = trees.run("enforce", &[&filtered[..], &["--dry-run"]].concat()).expect(1);
    let planned = is_as_documented(&planned, "enforce");
    assert_eq!((&planned["applied"], &planned["plan"]["files"]), (&0.into(), &1.into()));
    let done = is_as_documented(&trees.run("enforce", &with_triggers).expect(0), "enforce");
    assert_eq!((&done["verdict"], &done["services"][0]["only_named"]), (&"compliant".into(), &true.into()));
    let root = trees.root();
    let scanned = dominate(&["scan", "--json", "--root", root.to_str().unwrap()]).expect(0);
    let scanned = is_as_documented(&scanned, "scan");
    assert_eq!(scanned["counts"]["symlinks"], 1);
    let nothing = dominate(&["--json", "check", "--image", "/no/such", "--root", "/no/such"]).expect(3);
    assert_eq!(nothing.out, "");
}

#[test]
fn json_says_what_could_not_be_looked_at() {
    let trees = Trees::of(|image| dominator_fs_testkit::chain(image, &"n".repeat(250), 17));
    let ended = dominate(&["scan", "--json", "--root", trees.image().to_str().unwrap()]).expect(2);
    assert_eq!(is_as_documented(&ended, "scan")["unknown"][0]["why"], "unreadable");
}
