//! What `objecttool` does with single objects, with a real server; and that its JSON is what the schemas say.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;

use dominator_testkit::{Lab, schema};
use serde_json::Value;

#[test]
fn objects_are_added_found_and_got_by_their_digests() {
    let lab = Lab::new();
    let admin = lab.certificate("admin", "admin", "*.*");
    let (_images, server) = lab.image_server();
    let run = |words: &[&str]| {
        let flags = ["--object-server", &server];
        lab.tool("objecttool", &admin, flags.iter().chain(words).copied())
    };
    let json = |words: &[&str], code: i32| {
        let outcome = run(&[words, &["--json"]].concat());
        assert_eq!(outcome.code(), Some(code), "{words:?}: {outcome:?}");
        let value: Value = serde_json::from_str(&outcome.stdout).unwrap();
        schema::check(&format!("objecttool-{}", words[0]), &value).unwrap();
        value
    };
    let large = lab.path("large");
    fs::write(&large, vec![b'x'; 3_000_000]).unwrap();
    let [small, empty] = [lab.write("small", "hello\n"), lab.write("empty", "")];
    let [large, small, empty] = [&large, &small, &empty].map(|path| path.to_str().unwrap());
    let added = json(&["add", large, small, empty, small], 0);
    let ids: Vec<_> = (0..3).map(|n| added["objects"][n]["object"].as_str().unwrap().to_owned()).collect();
    let sha = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
    assert_eq!((ids[1].as_str(), &added["objects"][0]["sent"]), (sha, &true.into()));
    assert_eq!(json(&["add", large], 0)["objects"][0]["sent"], false);
    json(&["check", &ids[0], &ids[1]], 0);
    let absent = "0".repeat(64);
    assert_eq!(json(&["check", &ids[0], &absent], 1)["objects"][1]["exists"], false);
    assert_eq!(run(&["get", sha]).success(), "hello\n");
    let to = lab.path("to");
    json(&["get", &ids[0], to.to_str().unwrap()], 0);
    assert_eq!(fs::read(&to).unwrap(), fs::read(large).unwrap());
    let missing = run(&["get", &absent, lab.path("never").to_str().unwrap()]);
    assert!(missing.code() == Some(2) && !lab.path("never").exists(), "{missing:?}");
    let list = lab.write("list", &format!("{}  large\n{sha}\n{}\n\n", ids[0], ids[2]));
    let got = json(&["mget", list.to_str().unwrap(), lab.path("got").to_str().unwrap()], 0);
    assert_eq!(got["objects"].as_array().unwrap().len(), 3);
    assert_eq!(fs::read(lab.path("got").join(sha)).unwrap(), b"hello\n");
    let measured = json(&["test-bandwidth", &ids[0], "--duration=1ms"], 0);
    assert!(measured["bytes"].as_u64().unwrap() >= 3_000_000, "{measured}");
}
