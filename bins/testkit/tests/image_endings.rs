//! Images that end, and those who wait for images and follow them, with real daemons and tools.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use dominator_testkit::{Lab, schema, trees};

/// What `get-image-updates` says, each event with the name it is about.
fn followed(lines: &str) -> Vec<String> {
    let events = lines.lines().map(|line| {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        schema::check("imagetool-get-image-updates", &event).unwrap();
        let word = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        format!("{} {}", word("event"), word("name"))
    });
    events.collect()
}

#[test]
fn an_image_that_is_waited_for_comes_and_one_that_ends_goes_and_leaves_its_name() {
    let lab = Lab::new();
    let admin = lab.certificate("admin", "admin", "*.*");
    let (_images, server) = lab.image_server();
    let tree = lab.path("tree");
    fs::create_dir(&tree).unwrap();
    trees::small(&tree, 1);
    let tree = tree.to_str().unwrap();
    let tool = |words: &[&str]| {
        let flags = ["--image-server", &server, "--json"];
        lab.tool("imagetool", &admin, flags.into_iter().chain(words.iter().copied()))
    };
    let waited = thread::scope(|scope| {
        let waiting = scope.spawn(|| tool(&["wait", "web/2", "--timeout", "60s"]));
        tool(&["add", "web/1", tree, "", "", "--expires-in", "3s"]).success();
        tool(&["add", "web/2", tree, "", ""]).success();
        waiting.join().unwrap()
    });
    assert_eq!(waited.code(), Some(0), "{waited:?}");
    let position = {
        let told = tool(&["get-image-updates", "--until-current"]).success();
        let last: serde_json::Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
        last["position"].as_str().unwrap().to_owned()
    };
    let end = Instant::now() + Duration::from_secs(60);
    while tool(&["check", "web/1"]).code() == Some(0) {
        assert!(Instant::now() < end, "it never ends");
    }
    tool(&["add", "web/1", tree, "", ""]).success();
    let names = tool(&["get-image-updates", "--until-current"]).success();
    let told = followed(&names);
    assert_eq!(told.first().map(String::as_str), Some("begin "), "{told:?}");
    assert!(told.contains(&"image web/1".into()) && told.contains(&"image web/2".into()), "{told:?}");
    // What is known already is not told again.
    let resumed = followed(&tool(&["get-image-updates", "--from", &position, "--until-current"]).success());
    assert_eq!(resumed, ["current "]);
    let refused = tool(&["add", "web/3", tree, "", "", "--expires-in", "0s"]).failure();
    assert!(refused.contains("has expired"), "{refused}");
}
