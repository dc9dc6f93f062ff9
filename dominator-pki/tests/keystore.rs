//! Files: found where they belong, refused by name, written whole or not at all.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, missing_docs)]

#[allow(unreachable_pub, dead_code)]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use dominator_pki::ca::{Authority, Leaf, LeafKey};
use dominator_pki::keystore::{self, CredentialPaths, Existing, IdentityFile};
use dominator_pki::{Origin, PkiError};
use support::*;

fn store(authority: &Authority, leaf: &Leaf, certificate: &Path, key: &Path) {
    let new = LeafKey::generate().unwrap();
    let issued = authority.issue(leaf, &new.public_key().unwrap(), SystemTime::now()).unwrap();
    keystore::save_certificate(certificate, &issued.pem, Existing::Keep).unwrap();
    keystore::save_key(key, &new.to_pem(), Existing::Keep).unwrap();
}

fn paths(directory: &Path, certificate: &str, key: &str) -> CredentialPaths {
    CredentialPaths { certificate: directory.join(certificate), key: directory.join(key) }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn daemons_have_their_places() {
    let paths = CredentialPaths::daemon("subd");
    assert_eq!(paths.certificate, PathBuf::from("/etc/ssl/subd/cert.pem"));
    assert_eq!(paths.key, PathBuf::from("/etc/ssl/subd/key.pem"));
}

#[test]
fn what_was_saved_is_loaded_and_only_the_owner_can_read_the_key() {
    let directory = tempfile::tempdir().unwrap();
    let paths = paths(directory.path(), "cert.pem", "key.pem");
    store(&authority("Dominator"), &leaf("subd"), &paths.certificate, &paths.key);
    assert_eq!((mode(&paths.certificate), mode(&paths.key)), (0o644, 0o600));
    let loaded = keystore::load(&paths, SystemTime::now()).unwrap();
    assert_eq!(loaded.certificate().unverified_claims().user, "subd");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "no temporary file stays");
}

#[test]
fn a_key_that_others_can_get_at_is_refused_everywhere() {
    let directory = tempfile::tempdir().unwrap();
    let paths = paths(directory.path(), "cert.pem", "key.pem");
    let root = authority("Dominator");
    keystore::save_certificate(&paths.certificate, root.certificate_pem(), Existing::Keep).unwrap();
    keystore::save_key(&paths.key, &root.private_key_pem(), Existing::Keep).unwrap();
    let stem = directory.path().join("root");
    let all = || {
        [
            keystore::load(&paths, SystemTime::now()).err(),
            keystore::load_authority(&paths).err(),
            keystore::load_key(&paths.key).err(),
            keystore::next_serial(&stem, &paths.key).err(),
        ]
    };
    for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o440, 0o4640] {
        fs::set_permissions(&paths.key, fs::Permissions::from_mode(mode)).unwrap();
        for error in all() {
            let error = error.unwrap();
            assert!(matches!(error, PkiError::ExposedKey { mode: found, .. } if found == mode), "{error}");
            assert!(error.to_string().contains(&format!("chmod 600 {}", paths.key.display())), "{error}");
        }
    }
    for mode in [0o600, 0o400, 0o700] {
        fs::set_permissions(&paths.key, fs::Permissions::from_mode(mode)).unwrap();
        assert!(all().iter().all(Option::is_none), "{mode:o}");
    }
}

#[test]
fn behind_a_link_the_target_is_judged() {
    let directory = tempfile::tempdir().unwrap();
    let paths = paths(directory.path(), "cert.pem", "key.pem");
    let real = directory.path().join("real.pem");
    store(&authority("Dominator"), &leaf("subd"), &paths.certificate, &real);
    std::os::unix::fs::symlink("real.pem", &paths.key).unwrap();
    keystore::load(&paths, SystemTime::now()).unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o644)).unwrap();
    let error = keystore::load(&paths, SystemTime::now()).unwrap_err();
    assert!(matches!(error, PkiError::ExposedKey { .. }), "{error}");
}

#[test]
fn a_key_is_a_regular_file_and_nobody_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    let made = std::process::Command::new("mkfifo").args(["-m", "600"]).arg(&pipe).status().unwrap();
    assert!(made.success());
    for path in [&pipe, Path::new("/dev/null"), directory.path()] {
        let error = keystore::load_key(path).unwrap_err();
        assert!(matches!(error, PkiError::NoKeyFile { .. }), "{}: {error}", path.display());
    }
}

#[test]
fn nothing_is_overwritten_unasked() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.pem");
    keystore::save_key(&path, "old", Existing::Keep).unwrap();
    let error = keystore::save_key(&path, "new", Existing::Keep).unwrap_err();
    assert!(matches!(error, PkiError::AlreadyExists { .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    keystore::save_key(&path, "new", Existing::Replace).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file stays");
}

#[test]
fn of_many_writers_of_one_name_one_wins() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.pem");
    let won = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|n| {
                (
                    n,
                    scope.spawn({
                        let path = &path;
                        move || keystore::save_key(path, &n.to_string(), Existing::Keep)
                    }),
                )
            })
            .collect();
        let won = writers.into_iter().filter_map(|(n, writer)| writer.join().unwrap().ok().map(|()| n));
        won.collect::<Vec<i32>>()
    });
    assert_eq!(won.len(), 1);
    assert_eq!(fs::read_to_string(&path).unwrap(), won[0].to_string());
}

#[test]
fn certificates_outside_their_time_are_refused_by_file_name() {
    let directory = tempfile::tempdir().unwrap();
    let paths = paths(directory.path(), "cert.pem", "key.pem");
    store(&authority("Dominator"), &leaf("subd").days(1), &paths.certificate, &paths.key);
    let origin = Origin::File(paths.certificate.clone());
    let error = keystore::load(&paths, SystemTime::now() + 2 * DAY).unwrap_err();
    assert!(matches!(&error, PkiError::Expired { origin: found, .. } if *found == origin), "{error}");
    let error = keystore::load(&paths, SystemTime::now() - DAY).unwrap_err();
    assert!(matches!(&error, PkiError::NotYetValid { origin: found, .. } if *found == origin), "{error}");
}

#[test]
fn errors_name_the_file_at_fault() {
    let directory = tempfile::tempdir().unwrap();
    let at = |certificate: &str, key: &str| {
        keystore::load(&paths(directory.path(), certificate, key), SystemTime::now()).unwrap_err().to_string()
    };
    let root = authority("Dominator");
    let file = |name: &str| directory.path().join(name);
    store(&root, &leaf("a"), &file("a.cert"), &file("a.key"));
    store(&root, &leaf("b"), &file("b.cert"), &file("b.key"));
    keystore::save_key(&file("empty"), "", Existing::Keep).unwrap();
    fs::write(file("torn"), "-----BEGIN CERTIFICATE-----\nMIIB").unwrap();
    fs::write(file("huge"), vec![b'x'; keystore::MAX_FILE + 1]).unwrap();
    assert!(at("missing", "a.key").contains("missing"));
    assert!(at("a.cert", "missing").contains("missing"));
    assert!(at("a.cert", "b.key").contains("does not belong"));
    assert!(at("a.cert", "empty").contains("empty holds no private key"));
    assert!(at("empty", "a.key").contains("empty holds no certificate"));
    assert!(at("torn", "a.key").contains("torn is not PEM"));
    assert!(at("huge", "a.key").contains("longer than"));
}

#[test]
fn a_user_has_every_pair_and_the_best_comes_first() {
    let home = tempfile::tempdir().unwrap();
    let ssl = home.path().join(".ssl");
    fs::create_dir(&ssl).unwrap();
    let root = authority("Dominator");
    let file = |name: &str| ssl.join(name);
    let put = |user: &str, list: &str, days: u32, certificate: &str, key: &str| {
        store(&root, &leaf(user).methods(methods(list)).days(days), &file(certificate), &file(key));
    };
    put("short", "*.*", 5, "alice.cert", "alice.key");
    put("long", "Subd.Poll", 50, "x.pem", "x.key.pem");
    put("default", "", 20, "cert.pem", "key.pem");
    put("over", "*.*", 1, "z.cert", "z.key");
    fs::write(file("lonely.key"), "a key without a certificate").unwrap();
    fs::write(file("notes.txt"), "nothing").unwrap();
    let found = keystore::load_user(home.path(), SystemTime::now() + 2 * DAY).unwrap();
    let users: Vec<_> =
        found.credentials.iter().map(|own| &own.certificate().unverified_claims().user).collect();
    assert_eq!(users, ["long", "default", "short"]);
    assert_eq!(found.refused.len(), 1);
    assert!(found.refused[0].to_string().contains("z.cert expired"), "{}", found.refused[0]);
    let none_left = keystore::load_user(home.path(), SystemTime::now() + 100 * DAY).unwrap_err();
    assert!(matches!(none_left, PkiError::Expired { .. }), "{none_left}");
}

#[test]
fn among_equally_long_lives_the_most_powerful_comes_first() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join(".ssl")).unwrap();
    let (root, now) = (authority("Dominator"), SystemTime::now());
    for (name, list) in [("a", "Subd.Poll"), ("b", "*.*"), ("c", "Subd.Poll,Subd.Fetch,Subd.Update")] {
        let key = LeafKey::generate().unwrap();
        let issued = root.issue(&leaf(name).methods(methods(list)), &key.public_key().unwrap(), now).unwrap();
        let stem = home.path().join(".ssl").join(name);
        keystore::save_certificate(&keystore::with_suffix(&stem, ".cert"), &issued.pem, Existing::Keep)
            .unwrap();
        keystore::save_key(&keystore::with_suffix(&stem, ".key"), &key.to_pem(), Existing::Keep).unwrap();
    }
    let found = keystore::load_user(home.path(), now).unwrap();
    let users: Vec<_> =
        found.credentials.iter().map(|own| own.certificate().unverified_claims().user.as_str()).collect();
    assert_eq!(users, ["b", "c", "a"]);
}

#[test]
fn a_user_without_certificates_is_told_where_to_put_them() {
    let home = tempfile::tempdir().unwrap();
    let error = keystore::load_user(home.path(), SystemTime::now()).unwrap_err();
    assert!(matches!(error, PkiError::Read { .. }), "no directory: {error}");
    fs::create_dir(home.path().join(".ssl")).unwrap();
    let error = keystore::load_user(home.path(), SystemTime::now()).unwrap_err();
    assert!(matches!(error, PkiError::NoUserCertificate { .. }), "{error}");
}

#[test]
fn only_an_absent_identity_file_may_be_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let (ca, identity) = (directory.path().join("CA.pem"), directory.path().join("IdentityCA.pem"));
    let (root, people) = (authority("Dominator"), authority("People"));
    keystore::save_certificate(&ca, root.certificate_pem(), Existing::Keep).unwrap();
    let alice = issue(&people, &leaf("alice"));
    let trust = keystore::load_trust(&ca, IdentityFile::IfPresent(&identity)).unwrap();
    assert!(trust.identify(alice.chain(), SystemTime::now()).is_err());
    assert!(matches!(keystore::load_trust(&ca, IdentityFile::At(&identity)), Err(PkiError::Read { .. })));
    fs::write(&identity, "garbage").unwrap();
    assert!(keystore::load_trust(&ca, IdentityFile::IfPresent(&identity)).is_err(), "broken is not absent");
    keystore::save_certificate(&identity, people.certificate_pem(), Existing::Replace).unwrap();
    let trust = keystore::load_trust(&ca, IdentityFile::IfPresent(&identity)).unwrap();
    assert_eq!(trust.identify(alice.chain(), SystemTime::now()).unwrap().identity().user, "alice");
}

#[test]
fn serials_count_from_2_and_survive() {
    let directory = tempfile::tempdir().unwrap();
    let stem = directory.path().join("root");
    let key = directory.path().join("root.key.pem");
    keystore::save_key(&key, "", Existing::Keep).unwrap();
    let next = || keystore::next_serial(&stem, &key).unwrap().to_string();
    assert_eq!((next(), next()), ("0x02".into(), "0x03".into()));
    assert_eq!(fs::read_to_string(directory.path().join("root.serial")).unwrap(), "3\n");
    fs::write(directory.path().join("root.serial"), "many").unwrap();
    assert!(matches!(keystore::next_serial(&stem, &key), Err(PkiError::BadSerialFile { .. })));
}

#[test]
fn an_older_counter_is_continued() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("root.key.pem");
    keystore::save_key(&key, "", Existing::Keep).unwrap();
    fs::write(directory.path().join(".serial"), "41\n").unwrap();
    assert_eq!(keystore::next_serial(&directory.path().join("root"), &key).unwrap(), 42.into());
}

#[test]
fn no_serial_is_given_out_twice() {
    let directory = tempfile::tempdir().unwrap();
    let stem = directory.path().join("root");
    let key = directory.path().join("root.key.pem");
    keystore::save_key(&key, "", Existing::Keep).unwrap();
    let given: Vec<String> = std::thread::scope(|scope| {
        let count =
            || (0..10).map(|_| keystore::next_serial(&stem, &key).unwrap().to_string()).collect::<Vec<_>>();
        let counters: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
        counters.into_iter().flat_map(|counter| counter.join().unwrap()).collect()
    });
    assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), 40);
}
