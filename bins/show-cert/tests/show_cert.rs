//! The binary, run on certificates young and old.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use dominator_core::authorise::MethodPattern;
use dominator_pki::AlternativeName;
use dominator_pki::ca::{Authority, Leaf, LeafKey};
use dominator_testkit::schema;
use serde_json::Value;

const DAY: Duration = Duration::from_secs(86_400);

fn run(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_show-cert")).args(arguments).current_dir(directory).output().unwrap()
}

/// `good.pem` with 29 whole days left, and `old.pem`, whose day is over.
fn certificates() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let authority = Authority::create("Dominator", now - 10 * DAY).unwrap();
    let key = LeafKey::generate().unwrap().public_key().unwrap();
    let good = Leaf::new("subd")
        .unwrap()
        .methods(MethodPattern::parse_list("ObjectServer.GetObjects,Subd.*").unwrap())
        .groups(["ops"])
        .alternative_names([AlternativeName::Dns("m1.example".into())])
        .serial(258.into())
        .days(30);
    let good = authority.issue(&good, &key, now).unwrap();
    let old = authority.issue(&Leaf::new("alice").unwrap().days(1), &key, now - 3 * DAY).unwrap();
    fs::write(directory.path().join("good.pem"), good.pem).unwrap();
    fs::write(directory.path().join("old.pem"), old.pem).unwrap();
    fs::write(directory.path().join("none.pem"), "nothing").unwrap();
    directory
}

#[test]
fn people_read_who_what_and_how_long() {
    let directory = certificates();
    let output = run(directory.path(), &["good.pem"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    let expected = [
        "good.pem\n",
        "user        subd\n",
        "role        subd\n",
        "groups      ops\n",
        "methods     ObjectServer.GetObjects, Subd.*\n",
        "names       uri:urn:dominator:role:subd, dns:m1.example\n",
        "issuer      CN=Dominator\n",
        "serial      0x0102\n",
        "29 days left\n",
        "fingerprint sha256:",
    ];
    for line in expected {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
}

#[test]
fn an_expired_certificate_is_shown_and_fails_the_command() {
    let directory = certificates();
    let output = run(directory.path(), &["good.pem", "old.pem"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("EXPIRED 2 days ago") && text.contains("29 days left"), "{text}");
}

#[test]
fn a_file_that_cannot_be_read_does_not_hide_the_others() {
    let directory = certificates();
    let output = run(directory.path(), &["none.pem", "missing.pem", "good.pem"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stdout).unwrap().contains("good.pem"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("none.pem holds no certificate") && said.contains("missing.pem"), "{said}");
}

#[test]
fn programs_read_what_the_schema_promises() {
    let directory = certificates();
    let output = run(directory.path(), &["--json", "good.pem", "old.pem", "none.pem"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let good = &json["certificates"][0];
    assert_eq!(
        (&good["user"], &good["role"], &good["standing"]),
        (&"subd".into(), &"subd".into(), &"valid".into())
    );
    assert_eq!(
        (&good["serial"], &good["days_left"], &good["version"]),
        (&"0102".into(), &29.into(), &3.into())
    );
    assert_eq!(good["methods"], serde_json::json!(["ObjectServer.GetObjects", "Subd.*"]));
    let old = &json["certificates"][1];
    assert_eq!((old.get("role"), &old["standing"]), (None, &"expired".into()));
    assert_eq!(json["errors"][0]["file"], "none.pem");

    schema::check("show-cert", &json).unwrap();
    let mut wrong = json.clone();
    wrong["certificates"][0]["standing"] = "immortal".into();
    assert!(schema::check("show-cert", &wrong).is_err(), "the check checks");
}
