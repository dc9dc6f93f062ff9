//! The binary, run as an administrator runs it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::SystemTime;

use dominator_core::auth::{Identity, Role};
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
    trust.identify(credentials.chain(), now).unwrap().identity().clone()
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
    assert_eq!(serials, ["0x02", "0x03", "0x04", "0x05", "0x06"]);
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
    assert_eq!(serial(here, "subd"), "0x03", "a refusal takes no serial");
}

/// The command that a note ends with, run as a shell runs it.
fn run_what_is_advised(directory: &Path, said: &str) {
    let command =
        said.trim().rsplit_once("make-cert revoke").unwrap_or_else(|| panic!("no command: {said}")).1;
    let line = format!("{} revoke{command}", env!("CARGO_BIN_EXE_make-cert"));
    let output = Command::new("sh").args(["-c", &line]).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The serial numbers on an authority's list, as OpenSSL reads it.
fn revoked(directory: &Path, list: &str) -> Vec<String> {
    let mut command = Command::new("openssl");
    command.args(["crl", "-noout", "-text", "-in", list]).current_dir(directory);
    let shown = String::from_utf8(command.output().unwrap().stdout).unwrap();
    shown.lines().filter_map(|line| line.trim().strip_prefix("Serial Number: ")).map(Into::into).collect()
}

#[test]
fn a_certificate_that_is_replaced_is_said_to_stay_good_and_the_command_that_ends_it_works() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    for (signer, user) in [("root", "alice"), ("it's the root", "bob"), ("revoke", "carol")] {
        works(here, &["--new-ca", signer]);
        let path = format!("./{signer}");
        let said = works(here, &[&path, user, "AUTO", user, "--force"]);
        assert!(!said.contains("before"), "there was none: {said}");
        let said = works(here, &[&path, user, "AUTO", user, "--force"]);
        assert!(said.contains("the one before, serial 0x02, is good until 20"), "{said}");
        run_what_is_advised(here, &said);
        assert_eq!(revoked(here, &format!("{signer}.crl.pem")), ["02"]);
    }
}

#[test]
fn what_is_replaced_and_cannot_be_ended_here_is_said_and_what_has_ended_is_not() {
    let fleet = fleet();
    let here = fleet.path();
    works(here, &["--new-ca", "other", "--common-name", "Other"]);
    works(here, &["other", "alice", "7", "alice"]);
    let said = works(here, &["root", "alice", "AUTO", "alice", "--force"]);
    assert!(
        said.contains("serial 0x07, is good until") && said.contains("authority, CN=Other, can"),
        "{said}"
    );
    assert!(!said.contains("make-cert revoke"), "root can't revoke it: {said}");
    works(here, &["revoke", "root", "alice.pem"]);
    let said = works(here, &["root", "alice", "AUTO", "alice", "--force"]);
    assert!(!said.contains("before"), "it was revoked: {said}");
    fs::write(here.join("alice.pem"), "nothing\n").unwrap();
    let said = works(here, &["root", "alice", "AUTO", "alice", "--force"]);
    assert!(said.contains("what was in alice.pem before can't be read"), "{said}");
}

#[test]
fn no_serial_number_is_given_out_that_is_known_to_be_taken() {
    let fleet = fleet();
    let here = fleet.path();
    works(here, &["root", "alice", "AUTO", "alice"]);
    works(here, &["revoke", "root", "--serial", "0x09", "--serial", "2", "--serial", "3"]);
    let said = fails(here, &["root", "bob", "9", "bob"]);
    assert!(said.contains("0x09 is on the list of revoked certificates, root.crl.pem"), "{said}");
    assert!(!here.join("bob.key.pem").exists());
    works(here, &["root", "bob", "8", "bob"]);
    let said = fails(here, &["root", "bob", "8", "bob", "--force"]);
    assert!(said.contains("0x08 is that of the certificate that is in bob.pem now"), "{said}");
    works(here, &["--new-ca", "other"]);
    works(here, &["other", "bob", "8", "bob", "--force"]);
    // The counter was lost, and begins anew.
    fs::remove_file(here.join("root.serial")).unwrap();
    works(here, &["root", "carol", "AUTO", "carol"]);
    assert_eq!(serial(here, "carol"), "0x04", "past those that are revoked");
    fs::write(here.join("root.serial"), "3\n").unwrap();
    works(here, &["root", "carol", "AUTO", "carol", "--force"]);
    assert_eq!(serial(here, "carol"), "0x05", "past the one that is replaced");
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
    assert_eq!((identity(here, "subd").user.as_str(), serial(here, "subd").as_str()), ("subd", "0x07"));
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

fn names(directory: &Path, stem: &str) -> Vec<String> {
    let certificate = keystore::load_certificates(&directory.join(format!("{stem}.pem"))).unwrap().remove(0);
    certificate.alternative_names().iter().map(ToString::to_string).collect()
}

#[test]
fn an_authority_below_a_root_that_is_kept_away_from_networks() {
    let (offline, online) = (fleet(), tempfile::tempdir().unwrap());
    let carry =
        |name: &str, from: &Path, to: &Path| fs::copy(from.join(name), to.join(name)).map(drop).unwrap();
    let said = works(online.path(), &["request", "site", "--key-type", "ed25519"]);
    assert!(said.contains("site.csr: new key site.key.pem"), "{said}");
    carry("site.csr", online.path(), offline.path());
    works(offline.path(), &["--new-ca", "site", "--signed-by", "root", "--csr", "site.csr", "--days", "400"]);
    assert!(!offline.path().join("site.key.pem").exists(), "its key never was here");
    carry("site.pem", offline.path(), online.path());
    carry("root.pem", offline.path(), online.path());
    let said = works(online.path(), &["site", "subd", "AUTO", "subd", "ObjectServer.GetObjects"]);
    assert!(said.contains("as its authority"), "1096 days were asked for: {said}");
    assert_eq!(identity(online.path(), "subd").role, Some(Role::Subd), "believed by whoever has the root");
    assert_eq!(keystore::load_certificates(&online.path().join("subd.pem")).unwrap().len(), 2);
    let said = fails(online.path(), &["--new-ca", "rack", "--signed-by", "site"]);
    assert!(said.contains("no such authority below it"), "{said}");
    assert!(!online.path().join("rack.key.pem").exists());
}

#[test]
fn authorities_below_others_are_made_on_one_machine_as_well() {
    let fleet = fleet();
    let here = fleet.path();
    works(here, &["--new-ca", "site", "--signed-by", "root", "--path-length", "1", "--common-name", "Site"]);
    works(here, &["--new-ca", "rack", "--signed-by", "site", "--key-type", "ed25519"]);
    works(here, &["rack", "subd", "AUTO", "subd"]);
    assert_eq!(identity(here, "subd").user, "subd");
    let said = fails(here, &["--new-ca", "other", "--csr", "other.csr"]);
    assert!(said.contains("--signed-by"), "{said}");
}

#[test]
fn an_identity_authority_bears_its_mark_whoever_signs_it() {
    let fleet = fleet();
    let here = fleet.path();
    works(here, &["--new-ca", "people", "--identity"]);
    works(here, &["--new-ca", "guests", "--identity", "--signed-by", "root"]);
    for authority in ["people", "guests"] {
        assert_eq!(names(here, authority), ["urn:dominator:identity-only"]);
        works(here, &[authority, "alice", "AUTO", "alice", "", "--group", "ops", "--force"]);
        let said = fails(here, &[authority, "bob", "AUTO", "bob", "Subd.Poll"]);
        assert!(said.contains("count nowhere"), "{said}");
    }
    for only in
        [&["--identity"][..], &["--common-name", "Bob"], &["--path-length", "1"], &["--signed-by", "root"]]
    {
        let said = fails(here, &[&["root", "bob", "AUTO", "bob", ""], only].concat());
        assert!(said.contains("cannot be used with"), "it is not passed over: {said}");
    }
    assert!(!here.join("bob.key.pem").exists());
}

#[test]
fn keys_are_of_the_type_that_was_asked_for() {
    let fleet = fleet();
    let here = fleet.path();
    works(here, &["root", "subd", "AUTO", "subd", "--key-type", "ed25519"]);
    let key = Command::new("openssl")
        .args(["pkey", "-in", "subd.key.pem", "-noout", "-text"])
        .current_dir(here)
        .output();
    let shown = String::from_utf8(key.unwrap().stdout).unwrap();
    assert!(shown.to_lowercase().contains("ed25519"), "openssl reads it: {shown}");
    assert_eq!(identity(here, "subd").user, "subd");
    assert!(fails(here, &["root", "x", "AUTO", "x", "--key-type", "rsa"]).contains("p256 and ed25519"));
}

#[test]
fn a_node_and_a_scope_are_as_asked() {
    let fleet = fleet();
    let here = fleet.path();
    let scope = ["--scope-tag", "tier=front", "--scope-tag", "tier=edge", "--scope-images", "base/debian"];
    works(here, &[&["root", "m1", "9", "alice", "Subd.*", "--node", "m-1.example"][..], &scope[..]].concat());
    let expected = [
        "urn:dominator:node:m-1.example",
        "urn:dominator:scope:tag:tier=edge",
        "urn:dominator:scope:tag:tier=front",
        "urn:dominator:scope:images:base/debian",
    ];
    assert_eq!(names(here, "m1"), expected);
    let bad: [&[&str]; 4] =
        [&["--node", "a b"], &["--scope-tag", "tier"], &["--scope-tag", "=x"], &["--scope-images", "/"]];
    for options in bad {
        fails(here, &[&["root", "x", "AUTO", "x"][..], options].concat());
    }
    assert!(!here.join("x.key.pem").exists());
}

#[test]
fn revoked_certificates_are_kept_on_the_authoritys_list() {
    let fleet = fleet();
    let here = fleet.path();
    for user in ["alice", "bob"] {
        works(here, &["root", user, "AUTO", user, "*.*"]);
    }
    assert!(fails(here, &["refresh-crl", "root"]).contains("no list of revoked certificates"));
    let said = works(here, &["revoke", "root", "alice.pem", "--reason", "key-compromise"]);
    assert!(said.contains("root.crl.pem: list 1 (a new list), 0x02 revoked, 1 in all"), "{said}");
    assert!(said.contains("also not to bring it a new list"), "{said}");
    let said = works(here, &["revoke", "root", "--serial", "0x03", "--serial", "4", "alice.pem"]);
    assert!(said.contains("list 2, 0x04, 0x03 revoked, 3 in all"), "{said}");
    let said = works(here, &["refresh-crl", "root", "--crl-days", "7"]);
    assert!(said.contains("list 3, nothing new revoked, 3 in all"), "{said}");
    assert!(said.contains("also not to bring it a new list"), "{said}");
    let shown = Command::new("openssl")
        .args(["crl", "-in", "root.crl.pem", "-noout", "-text", "-CAfile", "root.pem"])
        .current_dir(here)
        .output()
        .unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(text.contains("Serial Number: 02") && text.contains("Key Compromise"), "{text}");
    assert!(String::from_utf8(shown.stderr).unwrap().contains("verify OK"));
}

#[test]
fn what_cannot_be_revoked_leaves_the_list_as_it_was() {
    let fleet = fleet();
    let here = fleet.path();
    works(here, &["--new-ca", "other"]);
    works(here, &["other", "alice", "AUTO", "alice"]);
    works(here, &["root", "bob", "AUTO", "bob"]);
    let said = fails(here, &["revoke", "root", "bob.pem", "alice.pem"]);
    assert!(said.contains("alice.pem was not issued by root"), "{said}");
    assert!(!here.join("root.crl.pem").exists());
    let cases: [&[&str]; 5] = [
        &["revoke", "root"],
        &["revoke", "root", "--serial", "0"],
        &["revoke", "root", "bob.pem", "--reason", "boredom"],
        &["revoke", "root", "bob.pem", "--crl-days", "0"],
        &["revoke", "bob", "bob.pem"],
    ];
    for arguments in cases {
        fails(here, arguments);
    }
    assert!(!here.join("root.crl.pem").exists());
}

#[test]
fn authorities_and_keys_may_be_called_like_commands() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    works(here, &["--new-ca", "revoke"]);
    works(here, &["./revoke", "request", "AUTO", "request"]);
    works(here, &["./revoke", "help", "AUTO", "help", "Subd.Poll"]);
    works(here, &["revoke", "revoke", "request.pem"]);
    assert!(here.join("revoke.crl.pem").exists() && here.join("help.pem").exists());
}

#[test]
fn a_method_that_no_service_has_is_told_and_certified_all_the_same() {
    let fleet = fleet();
    let here = fleet.path();
    let said = works(here, &["root", "a", "AUTO", "a", "Subd.Pol,ImageServer.GetImage"]);
    assert!(said.contains("warning: no service has a method Subd.Pol;"), "{said}");
    assert!(!said.contains("GetImage"), "{said}");
    assert_eq!(methods(here, "a"), ["Subd.Pol", "ImageServer.GetImage"]);
    let bins = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for daemon in ["subd", "dominator", "imageserver", "imaginator", "mdbd"] {
        let list = bins.join(daemon).join("required-methods");
        let said = works(here, &["root", daemon, "AUTO", daemon, list.to_str().unwrap()]);
        assert!(!said.contains("warning"), "{daemon}: {said}");
    }
}

#[test]
fn patterns_that_mean_different_things_to_different_readers_are_refused() {
    let fleet = fleet();
    let here = fleet.path();
    for list in [
        "Subd.[!P]*",
        "Subd.**",
        "Subd.{Poll,Fetch}",
        "Subd.\\*",
        "Subd.[[:alpha:]]*",
        "a.b.c",
        "Subd",
        "Subd.*.*",
    ] {
        assert!(fails(here, &["root", "x", "AUTO", "x", list]).contains("neither a file"), "{list}");
    }
    assert!(!here.join("x.key.pem").exists());
}
