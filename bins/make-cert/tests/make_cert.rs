//! The binary, run as an administrator runs it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::SystemTime;

use dominator_core::authorise::{Identity, Role};
use dominator_pki::keystore::{self, CredentialPaths, IdentityFile};

fn run(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_make-cert")).args(arguments).current_dir(directory).output().unwrap()
}

fn works(directory: &Path, arguments: &[&str]) -> String {
    let output = run(directory, arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "make-cert {arguments:?}: {said}");
    said
}

fn fails(directory: &Path, arguments: &[&str]) -> String {
    let output = run(directory, arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "make-cert {arguments:?}: {said}");
    said
}

fn fleet() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    works(directory.path(), &["--new-ca", "root", "--common-name", "Dominator"]);
    directory
}

/// Whom a server of the fleet sees behind the certificate.
fn identity(directory: &Path, stem: &str) -> Identity {
    let now = SystemTime::now();
    let credentials = keystore::load(&CredentialPaths::named(&directory.join(stem)), now).unwrap();
    let trust = keystore::load_trust(&directory.join("root.pem"), IdentityFile::None).unwrap();
    trust.identify(credentials.chain(), now).unwrap()
}

fn methods(directory: &Path, stem: &str) -> Vec<String> {
    identity(directory, stem).methods.iter().map(ToString::to_string).collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn serial(directory: &Path, stem: &str) -> String {
    keystore::load_certificates(&directory.join(format!("{stem}.pem"))).unwrap()[0].serial().to_string()
}

#[test]
fn the_certificates_of_the_documentation_are_made() {
    let fleet = fleet();
    let here = fleet.path();
    fs::write(here.join("required-methods"), "FileGenerator.Connect\nSubd.*\n").unwrap();
    works(here, &["root", "subd", "AUTO", "subd", "ObjectServer.GetObjects"]);
    works(here, &["root", "Dominator", "AUTO", "dominator", "required-methods"]);
    works(here, &["root", "filegen-server", "AUTO", "filegen-server", ""]);
    works(here, &["root", "alice", "AUTO", "alice", "ImageServer.*,Subd.Poll"]);
    works(here, &["root", "bob", "AUTO", "bob"]);
    assert_eq!(methods(here, "subd"), ["ObjectServer.GetObjects"]);
    assert_eq!(methods(here, "Dominator"), ["FileGenerator.Connect", "Subd.*"]);
    assert_eq!(methods(here, "alice"), ["ImageServer.*", "Subd.Poll"]);
    assert!(methods(here, "bob").is_empty() && methods(here, "filegen-server").is_empty());
    let roles = ["subd", "Dominator", "filegen-server", "alice"].map(|stem| identity(here, stem).role);
    assert_eq!(roles, [Some(Role::Subd), Some(Role::Dominator), Some(Role::FilegenServer), None]);
    let serials = ["subd", "Dominator", "filegen-server", "alice", "bob"].map(|stem| serial(here, stem));
    assert_eq!(serials, ["02", "03", "04", "05", "06"]);
    assert_eq!(fs::read_to_string(here.join("root.serial")).unwrap(), "6\n");
}

#[test]
fn keys_are_for_their_owner_and_certificates_for_everybody() {
    let fleet = fleet();
    works(fleet.path(), &["root", "subd", "AUTO", "subd"]);
    for stem in ["root", "subd"] {
        assert_eq!(mode(&fleet.path().join(format!("{stem}.key.pem"))), 0o600);
        assert_eq!(mode(&fleet.path().join(format!("{stem}.pem"))), 0o644);
    }
}

#[test]
fn a_certificate_is_renewed_for_the_key_it_had() {
    let fleet = fleet();
    let here = fleet.path();
    works(here, &["root", "subd", "AUTO", "subd"]);
    let key = fs::read(here.join("subd.key.pem")).unwrap();
    let first = fs::read(here.join("subd.pem")).unwrap();
    let said = fails(here, &["root", "subd", "AUTO", "subd"]);
    assert!(said.contains("subd.pem exists"), "{said}");
    assert_eq!(fs::read(here.join("subd.pem")).unwrap(), first);
    let said = works(here, &["root", "subd", "AUTO", "subd", "Subd.Poll", "--force"]);
    assert!(said.contains("the key that was in subd.key.pem already"), "{said}");
    assert_eq!(fs::read(here.join("subd.key.pem")).unwrap(), key);
    assert_eq!(methods(here, "subd"), ["Subd.Poll"]);
    assert_eq!(serial(here, "subd"), "03", "a refusal takes no serial");
}

#[test]
fn an_authority_is_never_replaced() {
    let fleet = fleet();
    let here = fleet.path();
    let key = fs::read(here.join("root.key.pem")).unwrap();
    assert!(fails(here, &["--new-ca", "root"]).contains("root.pem exists"));
    fs::remove_file(here.join("root.pem")).unwrap();
    assert!(fails(here, &["--new-ca", "root"]).contains("root.key.pem exists"));
    assert_eq!(fs::read(here.join("root.key.pem")).unwrap(), key);
    assert!(!here.join("root.pem").exists());
}

#[test]
fn an_authority_under_the_other_names_signs_as_well() {
    let fleet = fleet();
    let here = fleet.path();
    fs::copy(here.join("root.pem"), here.join("ca.cert")).unwrap();
    fs::copy(here.join("root.key.pem"), here.join("ca.key")).unwrap();
    works(here, &["ca", "subd", "7", "subd"]);
    assert_eq!((identity(here, "subd").user.as_str(), serial(here, "subd").as_str()), ("subd", "07"));
}

#[test]
fn groups_names_role_and_life_are_as_asked() {
    let fleet = fleet();
    let here = fleet.path();
    let options = [
        "--group",
        "ops",
        "--group",
        "dev",
        "--san",
        "m1.example",
        "--san",
        "10.0.0.1",
        "--days",
        "3",
        "--role",
        "mdbd",
    ];
    works(here, &[&["root", "m1", "9", "machine"][..], &options[..]].concat());
    let identity = identity(here, "m1");
    assert_eq!(identity.groups.into_iter().collect::<Vec<_>>(), ["dev", "ops"]);
    assert_eq!(identity.role, Some(Role::Mdbd));
    let certificate = keystore::load_certificates(&here.join("m1.pem")).unwrap().remove(0);
    let names: Vec<_> = certificate.alternative_names().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["urn:dominator:role:mdbd", "m1.example", "10.0.0.1"]);
    let left = certificate.validity().remaining(SystemTime::now()).unwrap().as_secs();
    assert!((2 * 86_400..=3 * 86_400).contains(&left), "{left} seconds");
}

#[test]
fn what_makes_no_sense_is_refused_and_leaves_nothing_behind() {
    let fleet = fleet();
    let here = fleet.path();
    let cases: [(&[&str], &str); 10] = [
        (&["root", "x", "AUTO", "x", "cmd/no/such-file"], "neither a file"),
        (&["root", "x", "AUTO", "x", "everything"], "neither a file"),
        (&["root", "x", "ZERO", "x"], "positive decimal"),
        (&["root", "x", "AUTO", ""], "no acceptable certificate"),
        (&["nobody", "x", "AUTO", "x"], "nobody.pem"),
        (&["root", "x", "AUTO", "x", "", "--days", "0"], "--days"),
        (&["root", "x", "AUTO", "x", "", "--role", "king"], "the roles are"),
        (&["root", "x", "AUTO", "x", "", "--group", "a\nb"], "no acceptable certificate"),
        (&["root", "x", "AUTO", "x", "", "--san", "not a name"], "alternative name"),
        (&["root", "x"], "required"),
    ];
    for (arguments, expected) in cases {
        let said = fails(here, arguments);
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    fs::write(here.join("list"), "Subd.Poll\nnonsense\n").unwrap();
    assert!(fails(here, &["root", "x", "AUTO", "x", "list"]).contains("\"nonsense\""));
    assert!(
        !here.join("x.pem").exists()
            && !here.join("x.key.pem").exists()
            && !here.join("root.serial").exists()
    );
}

#[test]
fn a_key_that_stays_on_its_machine_is_certified_by_request() {
    let fleet = fleet();
    let here = fleet.path();
    fs::write(here.join("wish.csr"), include_str!("wish.csr")).unwrap();
    works(here, &["root", "m1", "AUTO", "m1", "Subd.Poll", "--csr", "wish.csr"]);
    assert!(!here.join("m1.key.pem").exists());
    let certificate = keystore::load_certificates(&here.join("m1.pem")).unwrap().remove(0);
    let claims = certificate.unverified_claims();
    assert_eq!((claims.user.as_str(), claims.role), ("m1", None), "the request wished to be the dominator");
}

#[test]
fn a_leaf_does_not_sign() {
    let fleet = fleet();
    works(fleet.path(), &["root", "alice", "AUTO", "alice", "*.*"]);
    assert!(fails(fleet.path(), &["alice", "bob", "AUTO", "bob"]).contains("not a certificate authority"));
}
