//! The binary, run on files, folders and servers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use dominator_pki::ca::{Authority, Leaf, LeafKey, NewAuthority, Reason, Revoked};
use dominator_testkit::schema;
use serde_json::Value;

const DAY: Duration = Duration::from_secs(86_400);

fn run(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_list-cert-expirations"))
        .args(arguments)
        .current_dir(directory)
        .env("HOME", directory)
        .output()
        .unwrap()
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// `CA.pem` for 1000 days, `web/cert.pem` for 200, `soon.pem` for 20, a `key.pem` nobody may read; `old/gone.pem` is over.
fn certificates() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let now = SystemTime::now();
    let wanted = NewAuthority::new("Dominator").unwrap().days(1000);
    let authority = Authority::create_with(&wanted, LeafKey::generate().unwrap(), now).unwrap();
    let put = |path: &str, days: u32, made: SystemTime| {
        let key = LeafKey::generate().unwrap();
        let leaf = Leaf::new("imageserver").unwrap().days(days);
        let issued = authority.issue(&leaf, &key.public_key().unwrap(), made).unwrap();
        fs::create_dir_all(here.join(path).parent().unwrap()).unwrap();
        fs::write(here.join(path), issued.pem).unwrap();
        fs::write(here.join(path).with_extension("key"), key.to_pem()).unwrap();
    };
    put("web/cert.pem", 200, now);
    put("soon.pem", 20, now);
    put("old/gone.pem", 1, now - 3 * DAY);
    fs::write(here.join("CA.pem"), authority.certificate_pem()).unwrap();
    fs::write(here.join("own.key.pem"), "").unwrap();
    fs::set_permissions(here.join("own.key.pem"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::write(here.join("notes.pem"), "no certificate").unwrap();
    directory
}

fn json(output: &Output) -> Value {
    let value = serde_json::from_slice(&output.stdout).unwrap();
    schema::check("list-cert-expirations", &value).unwrap();
    value
}

fn listed(value: &Value) -> Vec<(String, String)> {
    let text = |one: &Value, key: &str| one[key].as_str().unwrap().to_owned();
    let all = value["certificates"].as_array().unwrap();
    all.iter().map(|one| (text(one, "place"), text(one, "standing"))).collect()
}

#[test]
fn what_expires_first_comes_first_and_the_status_says_whether_it_is_soon() {
    let directory = certificates();
    let output = run(directory.path(), &["."]);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let lines: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!((lines[0][0], lines[0][4]), ("19", "./soon.pem"), "{text}");
    assert_eq!((lines[1][0], lines[1][4]), ("199", "./web/cert.pem"), "{text}");
    assert_eq!((lines[2][0], lines[2][4]), ("999", "./CA.pem"), "{text}");
    assert_eq!((lines.len(), status(&output)), (3, 1), "{text}");
    assert_eq!(status(&run(directory.path(), &["--within", "10d", "."])), 0);
    assert_eq!(status(&run(directory.path(), &["--within", "21d", "web/cert.pem"])), 0);
    assert_eq!(status(&run(directory.path(), &["--within", "201d", "web/cert.pem"])), 1);
}

#[test]
fn programs_read_what_the_schema_promises() {
    let directory = certificates();
    let value = json(&run(directory.path(), &["--json", "soon.pem", "old/gone.pem", "CA.pem"]));
    let expected = [("old/gone.pem", "expired"), ("soon.pem", "expires"), ("CA.pem", "valid")];
    assert_eq!(listed(&value), expected.map(|(place, standing)| (place.to_owned(), standing.to_owned())));
    assert_eq!(value["certificates"][0]["days_left"], -2 - 1);
}

#[test]
fn what_cannot_be_looked_at_does_not_hide_the_rest() {
    let directory = certificates();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = listener.local_addr().unwrap().to_string();
    drop(listener);
    let output = run(directory.path(), &["--json", "notes.pem", "nowhere.pem", &silent, "CA.pem"]);
    assert_eq!(status(&output), 2);
    let value = json(&output);
    assert_eq!(value["errors"].as_array().unwrap().len(), 3, "{value}");
    assert_eq!(listed(&value).len(), 1);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("nowhere.pem") && said.contains(&silent), "{said}");
}

#[test]
fn a_running_server_is_asked_without_a_certificate_and_believed_nothing() {
    let directory = certificates();
    let here = directory.path();
    // A server with a certificate that demands one of whoever calls, and adds to its own what it has of its authorities.
    let others = Authority::create("Others", SystemTime::now()).unwrap();
    fs::write(here.join("others"), others.certificate_pem()).unwrap();
    let mut server = Command::new("openssl")
        .args([
            "s_server",
            "-accept",
            "127.0.0.1:0",
            "-cert",
            "soon.pem",
            "-key",
            "soon.key",
            "-CAfile",
            "others",
        ])
        .args(["-Verify", "1", "-verify_return_error"])
        .current_dir(here)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let place = {
        let mut told = std::io::BufReader::new(server.stdout.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("ACCEPT") {
            line.clear();
            assert_ne!(
                std::io::BufRead::read_line(&mut told, &mut line).unwrap(),
                0,
                "openssl s_server ended"
            );
        }
        line.trim_start_matches("ACCEPT").trim().to_owned()
    };
    let output = run(here, &["--json", "--ca-file", "CA.pem", &place]);
    server.stdin.take().unwrap().write_all(b"Q\n").ok();
    server.kill().ok();
    server.wait().unwrap();
    let value = json(&output);
    assert_eq!(status(&output), 1, "{value}");
    let authority = format!("{place} (CA.pem)");
    let expected = [(place.as_str(), "expires"), (authority.as_str(), "valid")];
    assert_eq!(listed(&value), expected.map(|(place, standing)| (place.to_owned(), standing.to_owned())));
}

#[test]
fn a_server_that_says_nothing_or_nonsense_is_not_waited_for_long() {
    let directory = certificates();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = listener.local_addr().unwrap().to_string();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut first, _) = listener.accept().unwrap();
            first.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
            // Held open, and silent, until the program gives up.
            let (second, _) = listener.accept().unwrap();
            std::io::copy(&mut &second, &mut std::io::sink()).ok();
        });
        for _ in 0..2 {
            let output = run(directory.path(), &["--json", &place]);
            assert_eq!(status(&output), 2);
            assert!(json(&output)["errors"][0]["error"].as_str().unwrap().contains("showed no certificate"));
        }
    });
}

#[test]
fn a_list_of_the_revoked_that_must_be_renewed_is_listed_as_well() {
    let directory = certificates();
    let here = directory.path();
    let now = SystemTime::now();
    let root = Authority::create("Root", now).unwrap();
    let revoked = Revoked { serial: 5.into(), since: now, reason: Reason::Superseded };
    fs::write(here.join("root.crl.pem"), root.revoke(None, &[revoked], 25, now).unwrap().pem()).unwrap();
    let value = json(&run(here, &["--json", "."]));
    let expected = [
        ("./soon.pem", "expires"),
        ("./root.crl.pem", "expires"),
        ("./web/cert.pem", "valid"),
        ("./CA.pem", "valid"),
    ];
    assert_eq!(listed(&value), expected.map(|(place, standing)| (place.to_owned(), standing.to_owned())));
    assert_eq!(
        (&value["certificates"][1]["kind"], &value["certificates"][1]["serial"]),
        (&"revocation-list".into(), &"0x01".into())
    );
    assert_eq!(status(&run(here, &["--within", "26d", "root.crl.pem"])), 1);
    assert_eq!(status(&run(here, &["--within", "24d", "root.crl.pem"])), 0);
}
