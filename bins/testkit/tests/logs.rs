//! The log of real daemons, read and set from afar by `logtool`.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dominator_testkit::{Certificate, Lab, Outcome, binary, schema};
use serde_json::Value;

fn logtool(lab: &Lab, who: &Certificate, server: &str, words: &[&str]) -> Outcome {
    lab.tool("logtool", who, ["--server", server].iter().chain(words).copied())
}

/// A `logtool watch`, ended when dropped.
struct Watching(Child);

impl Watching {
    fn start(who: &Certificate, server: &str, words: &[&str]) -> (Self, impl Iterator<Item = Value> + use<>) {
        let mut command = Command::new(binary("logtool"));
        who.flags(&mut command);
        command.args(["--server", server, "--json", "watch"]).args(words);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (Self(child), lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn every_daemon_shows_its_log_and_changes_what_is_logged_for_a_time() {
    let lab = Lab::new();
    let admin = lab.certificate("admin", "alice", "*.*");
    let (images, server) = lab.image_server();
    let (dominator, controller) = lab.dominator(&server, &lab.mdb(&[]));
    let root = lab.path("root");
    fs::create_dir(&root).unwrap();
    let subd = lab.subd(1, &root);
    for (daemon, at) in
        [(&images, &server), (&dominator, &controller), (&subd, &format!("{}:6969", lab.address(1)))]
    {
        let tool = |words: &[&str]| logtool(&lab, &admin, at, words);
        let tail = tool(&["tail"]).success();
        assert!(tail.contains("listening on "), "{tail}");
        // What is shown is what was written, to the byte.
        let written = daemon.log_since(0);
        assert!(tail.lines().all(|line| written.iter().any(|other| other == line)), "{tail}");

        let (_watching, mut seen) =
            Watching::start(&admin, at, &["--last", "1024", "--include", "somebody says"]);
        tool(&["print", "look \u{1b}[2J\nINFO here"]).success();
        let line = seen.next().unwrap();
        schema::check("logtool-watch", &line).unwrap();
        let text = line["text"].as_str().unwrap();
        assert!(text.contains("alice") && text.contains("look ") && !text.contains('\u{1b}'), "{text}");

        assert_eq!(tool(&["get-level"]).success(), "info\n");
        let set = tool(&["--json", "set-level", "debug", "--for", "3s"]).json();
        schema::check("logtool-set-level", &set).unwrap();
        assert_eq!((&set["level"], &set["usual"]), (&"debug".into(), &"info".into()));
        tool(&["print", "--level", "debug", "now it can be seen"]).success();
        assert!(seen.next().unwrap()["text"].as_str().unwrap().contains("now it can be seen"));
        let begin = Instant::now();
        while tool(&["get-level"]).success() != "info\n" {
            assert!(begin.elapsed() < Duration::from_secs(300), "the usual level never returned");
        }
        daemon.wait_for(0, "the return", |line| line.contains("the usual log level has returned"));
        let mark = daemon.mark();
        tool(&["print", "--level", "debug", "now it can not"]).success();
        tool(&["print", "the end"]).success();
        assert!(seen.next().unwrap()["text"].as_str().unwrap().contains("the end"));
        assert!(daemon.log_since(mark).iter().all(|line| !line.contains("now it can not")));
        let refused = tool(&["set-level", "loud=louder"]);
        assert_eq!(refused.code(), Some(2), "{refused:?}");
        assert!(refused.stderr.contains("is no log level"), "{refused:?}");
    }
}

#[test]
fn a_log_is_read_by_those_only_who_may_and_who_changes_it_is_recorded() {
    let lab = Lab::new();
    let (_images, server) = lab.image_server();
    let reader = lab.certificate("reader", "bob", "Logger.Watch,Logger.GetLevel");
    let nobody = lab.certificate("nobody", "mallory", "ImageServer.*");
    let words: [&[&str]; 5] =
        [&["get-level"], &["tail"], &["watch"], &["print", "x"], &["set-level", "debug"]];
    for (number, words) in words.into_iter().enumerate() {
        let denied = logtool(&lab, &nobody, &server, words);
        assert_eq!(denied.code(), Some(2), "{denied:?}");
        assert!(denied.stderr.contains("access to method denied"), "{words:?}: {denied:?}");
        match words {
            ["watch"] => {}
            _ => {
                assert_eq!(logtool(&lab, &reader, &server, words).code() == Some(0), number < 2, "{words:?}")
            }
        }
    }
    let admin = lab.certificate("admin", "alice", "Logger.*");
    logtool(&lab, &admin, &server, &["set-level", "off", "--for", "1h"]).success();
    let recorded = fs::read_to_string(lab.path("imageserver-state/audit.log")).unwrap();
    let changes: Vec<Value> = recorded
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|record: &Value| record["method"] == "Logger.SetDebugLevel" && record["user"] == "alice")
        .collect();
    assert!(changes.iter().any(|record| record["target"] == "level \"off\" for 3600 s"), "{recorded}");
    // The log is off; that it was turned off stands in it.
    let tail = logtool(&lab, &admin, &server, &["tail", "--include", "log level is being changed"]).success();
    assert!(tail.contains("off"), "{tail}");
}

#[test]
fn a_daemon_that_logs_everything_is_watched_without_making_more_of_it() {
    let lab = Lab::new();
    let (images, server) = lab.image_server();
    let admin = lab.certificate("admin", "alice", "Logger.*");
    let (watching, mut seen) = Watching::start(&admin, &server, &["--last", "1024"]);
    logtool(&lab, &admin, &server, &["set-level", "trace", "--for", "1h"]).success();
    logtool(&lab, &admin, &server, &["print", "the last word"]).success();
    assert!(seen.any(|line| line["text"].as_str().is_some_and(|text| text.contains("the last word"))));
    let targets = logtool(&lab, &admin, &server, &["--json", "tail"]).success();
    let carried: Vec<&str> = targets
        .lines()
        .filter(|line| line.contains("\"level\":\"trace\"") && line.contains("\"target\":\"h2"))
        .collect();
    assert_eq!(carried, Vec::<&str>::new());
    // Whoever watches does not hold up the end.
    let begin = Instant::now();
    assert!(images.end().success());
    assert!(begin.elapsed() < Duration::from_secs(60));
    drop(watching);
}
