//! The binary, run on certificates young and old.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use dominator_core::auth::{MethodPattern, Scope};
use dominator_pki::AlternativeName;
use dominator_pki::ca::{Authority, KeyKind, Leaf, LeafKey, NewAuthority, Reason, Revoked};
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
        (&"0x0102".into(), &29.into(), &3.into())
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

#[test]
fn a_node_a_scope_and_the_chain_are_shown() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let now = SystemTime::now();
    let root = Authority::create("Dominator", now).unwrap();
    let key = LeafKey::generate_kind(KeyKind::Ed25519).unwrap();
    let site =
        root.issue_authority(&NewAuthority::new("Site").unwrap(), &key.public_key().unwrap(), now).unwrap();
    let site = Authority::from_pem(site.pem.as_bytes(), key.to_pem().as_bytes()).unwrap();
    let scope = Scope {
        tags: [("tier".to_owned(), ["edge".to_owned(), "front".to_owned()].into())].into(),
        directories: ["base".to_owned()].into(),
    };
    let leaf = Leaf::new("alice").unwrap().node("m-1".parse().unwrap()).scope(scope).serial(5.into());
    let issued = site.issue(&leaf, &LeafKey::generate().unwrap().public_key().unwrap(), now).unwrap();
    fs::write(here.join("alice.pem"), issued.pem + root.certificate_pem()).unwrap();
    fs::write(here.join("CA.pem"), root.certificate_pem()).unwrap();
    let output = run(here, &["alice.pem"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let expected = [
        "node        m-1\n",
        "scope       machines with tier = edge or front, images in base/\n",
        "kind        no authority, ECDSA P-256, signed by the one that follows\n",
        "kind        an authority, Ed25519, signed by the one that follows\n",
        "kind        an authority, ECDSA P-256, signed by itself\n",
        "revoked     not asked for\n",
    ];
    for line in expected {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    let json: Value = serde_json::from_slice(&run(here, &["--json", "alice.pem"]).stdout).unwrap();
    schema::check("show-cert", &json).unwrap();
    let (first, second) = (&json["certificates"][0], &json["certificates"][1]);
    assert_eq!(first["scope"]["tags"][0]["values"], serde_json::json!(["edge", "front"]));
    assert_eq!(
        (&first["node"], &first["signer"], first.get("revoked")),
        (&"m-1".into(), &"next".into(), None)
    );
    assert_eq!((second.get("scope"), &second["authority"]), (None, &true.into()));

    // Once its authority has taken it back.
    let revoked = Revoked { serial: 5.into(), since: now, reason: Reason::Superseded };
    let list = site.revoke(None, &[revoked], 30, now).unwrap();
    fs::write(here.join("site.crl.pem"), list.pem()).unwrap();
    let output = run(here, &["--crl", "site.crl.pem", "--ca-file", "CA.pem", "alice.pem"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("REVOKED by its authority, in site.crl.pem"), "{text}");
    assert_eq!(text.matches("revoked     no\n").count(), 2, "the authorities are not: {text}");
    let list = root
        .revoke(None, &[Revoked { serial: 5.into(), since: now, reason: Reason::Superseded }], 30, now)
        .unwrap();
    fs::write(here.join("root.crl.pem"), list.pem()).unwrap();
    let output = run(here, &["--json", "--crl", "root.crl.pem", "--ca-file", "CA.pem", "alice.pem"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    schema::check("show-cert", &json).unwrap();
    assert_eq!(json["certificates"][0]["revoked"], false, "the root's number 5 is another certificate");

    fs::write(here.join("denied"), "node m-1\n").unwrap();
    let json = run(here, &["--json", "--deny-list", "denied", "alice.pem"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(
        (&json["certificates"][0]["revoked"], &json["certificates"][1]["revoked"]),
        (&true.into(), &false.into())
    );
    fs::write(here.join("denied"), "knot m-1\n").unwrap();
    assert_eq!(run(here, &["--deny-list", "denied", "alice.pem"]).status.code(), Some(2));
    let other = Authority::create("Other", now).unwrap();
    fs::write(here.join("other.pem"), other.certificate_pem()).unwrap();
    let output = run(here, &["--crl", "site.crl.pem", "--ca-file", "other.pem", "alice.pem"]);
    assert_eq!(output.status.code(), Some(2), "nobody stands behind the list");
}

#[test]
fn a_list_of_revoked_certificates_is_shown() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let now = SystemTime::now();
    let root = Authority::create("Dominator", now - 9 * DAY).unwrap();
    let key = LeafKey::generate().unwrap();
    let site =
        root.issue_authority(&NewAuthority::new("Site").unwrap(), &key.public_key().unwrap(), now).unwrap();
    let site = Authority::from_pem(site.pem.as_bytes(), key.to_pem().as_bytes()).unwrap();
    let revoked = |serial: u128, reason| Revoked { serial: serial.into(), since: now, reason };
    let some = [revoked(0x0a0b, Reason::KeyCompromise), revoked(7, Reason::Unspecified)];
    let first = site.revoke(None, &some[..1], 30, now).unwrap();
    let list = site.revoke(Some(&first), &some, 30, now).unwrap();
    let old = root.revoke(None, &[], 1, now - 3 * DAY).unwrap();
    fs::write(here.join("site.crl.pem"), list.pem()).unwrap();
    fs::write(here.join("old.crl.pem"), old.pem()).unwrap();
    let output = run(here, &["site.crl.pem"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    let expected = [
        "site.crl.pem\n  list of     CN=Site\n  number      2\n  made        20",
        "Z, 29 days left\n  revoked     2 certificates\n    0x0a0b  since 20",
        "Z, key-compromise\n    0x07  since 20",
        "Z, unspecified\n\nsite.crl.pem\n  user        Site\n",
    ];
    for words in expected {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
    let output = run(here, &["old.crl.pem"]);
    assert_eq!(output.status.code(), Some(1), "overdue");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("OVERDUE for 2 days\n  revoked     0 certificates\n"), "{text}");

    let mut openssl = Command::new("openssl");
    openssl.args(["crl", "-in", "site.crl.pem", "-outform", "DER", "-out", "site.crl"]).current_dir(here);
    assert!(openssl.status().unwrap().success());
    let output = run(here, &["--json", "site.crl", "site.crl.pem", "old.crl.pem"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    schema::check("show-cert", &json).unwrap();
    assert_eq!(json["errors"], serde_json::json!([]));
    let (lists, bare) = (&json["lists"], |list: &Value| {
        let mut list = list.clone();
        list["file"].take();
        list
    });
    assert_eq!(bare(&lists[0]), bare(&lists[1]), "DER and PEM");
    assert_eq!((&lists[1]["number"], &lists[1]["standing"]), (&"2".into(), &"current".into()));
    assert_eq!((&lists[2]["days_left"], &lists[2]["standing"]), (&(-3).into(), &"overdue".into()));
    assert_eq!(lists[1]["revoked"][0]["serial"], "0x0a0b");
    assert_eq!(lists[1]["revoked"][0]["reason"], "key-compromise");

    let mut longer = fs::read(here.join("site.crl")).unwrap();
    longer.extend([0, 0]);
    fs::write(here.join("longer"), longer).unwrap();
    let longer =
        Command::new("openssl").args(["base64", "-in", "longer"]).current_dir(here).output().unwrap();
    let longer = String::from_utf8(longer.stdout).unwrap();
    for (section, why) in [("MAA=\n", "well-formed"), (longer.as_str(), "more bytes follow it")] {
        let pem = format!("-----BEGIN X509 CRL-----\n{section}-----END X509 CRL-----\n");
        fs::write(here.join("broken"), pem).unwrap();
        let output = run(here, &["broken"]);
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("list of revoked certificates in broken") && said.contains(why), "{said}");
    }
}

#[test]
fn a_version_1_leaf_is_shown_with_what_is_wrong_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let openssl = |arguments: &str| {
        let done = Command::new("openssl").args(arguments.split(' ')).current_dir(here).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    openssl("genpkey -algorithm RSA -out k -pkeyopt rsa_keygen_bits:2048");
    openssl("req -new -key k -batch -out r -utf8 -subj /CN=bob");
    openssl("x509 -req -sha256 -days 9 -in r -signkey k -set_serial 3 -out old.pem");
    let output = run(here, &["old.pem"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("version     1 (good for an authority only") && text.contains("RSA 2048"),
        "{text}"
    );
}
