//! What no image needs, on a server that runs.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::path::Path;

use dominator_testkit::{Lab, Process, schema, trees};
use serde_json::Value;

/// How many objects there are in a store.
fn objects(state: &Path) -> usize {
    let shards = fs::read_dir(state.join("objects")).unwrap().map(|entry| entry.unwrap());
    let shards = shards.filter(|entry| entry.file_name().len() == 2);
    shards.map(|shard| fs::read_dir(shard.path()).unwrap().count()).sum()
}

#[test]
fn what_a_deleted_image_needed_goes_when_it_is_told_to_and_what_others_need_stays() {
    let lab = Lab::new();
    let admin = lab.certificate("admin", "admin", "*.*");
    let address = format!("{}:6971", lab.address(0));
    let certificate = lab.daemon_certificate("imageserver", "imageserver");
    let mut command = lab.daemon("imageserver", &certificate, &address, "imageserver-state");
    command.arg("--keep-objects=0s");
    let server = Process::start("imageserver", &mut command);
    let tool = |words: &[&str]| {
        let flags = ["--image-server", &address];
        lab.tool("imagetool", &admin, flags.iter().chain(words).copied())
    };
    let json = |name: &str, words: &[&str]| -> Value {
        let value = serde_json::from_str(&tool(&[words, &["--json"]].concat()).success()).unwrap();
        schema::check(name, &value).unwrap();
        value
    };
    let garbage = || json("imagetool-showunrefobj", &["showunrefobj"])["objects"].as_u64().unwrap();
    for version in [1, 2] {
        let tree = lab.path(format!("tree{version}"));
        fs::create_dir(&tree).unwrap();
        trees::small(&tree, version);
        tool(&["add", &format!("web/{version}"), tree.to_str().unwrap(), "/dev/null", ""]).success();
    }
    assert_eq!(garbage(), 0);
    let statistics = |names: &[&str]| {
        let words = [&["get-object-statistics-for-images"], names].concat();
        json("imagetool-get-object-statistics-for-images", &words)
    };
    let alone = statistics(&["web/1"])["alone_objects"].as_u64().unwrap();
    let all = statistics(&["web/1", "web/2"])["needed_objects"].as_u64().unwrap();
    assert_eq!(objects(&lab.path("imageserver-state")) as u64, all);
    assert!(alone > 0 && alone < all, "{alone} of {all}");
    tool(&["delete", "web/1"]).success();
    assert_eq!(garbage(), alone);
    let listed = json("imagetool-listunrefobj", &["listunrefobj"]);
    assert_eq!(listed["objects"].as_array().unwrap().len() as u64, alone);
    assert_eq!(json("imagetool-delunrefobj", &["delunrefobj", "0", "0"])["removed_objects"], 0);
    let removed = json("imagetool-delunrefobj", &["delunrefobj", "100", "0"]);
    assert_eq!((&removed["removed_objects"], &removed["left_objects"]), (&alone.into(), &0.into()));
    assert_eq!((garbage(), objects(&lab.path("imageserver-state")) as u64), (0, all - alone));
    tool(&["get", "web/2", lab.path("got").to_str().unwrap()]).success();
    assert_eq!(trees::differences(&lab.path("tree2"), &lab.path("got"), &[]), Vec::<String>::new());
    drop(server);
}
