//! What a daemon reads is read again when it changes, and what is broken does no harm to the rest.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, missing_docs)]

#[allow(unreachable_pub, dead_code)]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use dominator_pki::ca::{Authority, LeafKey, NewAuthority, Reason, Revoked};
use dominator_pki::files::{IdentityPath, Loaded, MAX_LIST_FILE, RevocationPaths, TrustFiles, TrustPaths};
use dominator_pki::keystore::{CredentialPaths, IdentityFile, load_trust};
use dominator_pki::{Credentials, Granted, Origin, PkiError, RevocationStanding, Trust};
use support::*;

struct Place {
    directory: tempfile::TempDir,
    root: Authority,
    /// Long after the last change of a file.
    now: SystemTime,
}

/// A daemon's files, with a list that revokes nothing and an empty deny list.
fn place() -> Place {
    let root = authority("Dominator");
    let place = Place { directory: tempfile::tempdir().unwrap(), root, now: SystemTime::now() + DAY };
    place.credentials("subd");
    place.put("CA.pem", place.root.certificate_pem());
    place.list(1, &[]);
    place.put("denied", "");
    place
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// As careful programs do it: the whole file, or the one before.
    fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        let new = self.path("new");
        fs::write(&new, content).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(new, self.path(name)).unwrap();
    }

    fn credentials(&self, user: &str) {
        let key = dominator_pki::ca::LeafKey::generate().unwrap();
        let issued = self.root.issue(&leaf(user), &key.public_key().unwrap(), SystemTime::now()).unwrap();
        self.put("cert.pem", issued.pem);
        self.put("key.pem", key.to_pem().as_bytes());
    }

    fn list(&self, number: u8, revoked: &[u8]) {
        self.put("crl", ForgedList::of(number, revoked).sign(&self.root));
    }

    fn paths(&self) -> TrustPaths {
        TrustPaths {
            credentials: CredentialPaths { certificate: self.path("cert.pem"), key: self.path("key.pem") },
            authorities: self.path("CA.pem"),
            identity: IdentityPath::IfPresent(self.path("IdentityCA.pem")),
            revocation: self.revocation(),
        }
    }

    fn revocation(&self) -> RevocationPaths {
        RevocationPaths {
            lists: vec![self.path("crl")],
            denied: Some(self.path("denied")),
            optional: Vec::new(),
        }
    }

    fn open(&self) -> (TrustFiles, Loaded) {
        TrustFiles::open(self.paths(), self.now).unwrap()
    }

    fn numbered(&self, user: &str, serial: u8) -> Credentials {
        issue(&self.root, &leaf(user).serial(u128::from(serial).into()))
    }
}

fn believes(trust: &Trust, who: &Credentials) -> bool {
    trust.identify(who.chain(), SystemTime::now()).is_ok()
}

/// What it looks like, which must be without problems.
fn fine(loaded: Option<Loaded>) -> Loaded {
    let loaded = loaded.unwrap();
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    loaded
}

/// The one problem.
fn problem(loaded: &Loaded) -> &PkiError {
    let [problem] = loaded.problems.as_slice() else { panic!("{:?}", loaded.problems) };
    problem
}

#[test]
fn each_file_is_read_again_when_it_has_changed_and_not_before() {
    let place = place();
    let (mut files, loaded) = place.open();
    let (alice, people) = (place.numbered("alice", 7), authority("People"));
    assert!(believes(&fine(Some(loaded)).trust, &alice));
    assert!(files.look(place.now).is_none() && files.look(place.now + DAY).is_none());

    place.list(2, &[7]);
    assert!(!believes(&fine(files.look(place.now)).trust, &alice));
    place.list(3, &[]);
    assert!(believes(&fine(files.look(place.now)).trust, &alice));
    place.put("denied", "user alice\n");
    assert!(!believes(&fine(files.look(place.now)).trust, &alice));
    place.credentials("imageserver");
    let user = |loaded: &Loaded| loaded.credentials.certificate().unverified_claims().user.clone();
    let loaded = fine(files.look(place.now));
    assert_eq!(user(&loaded), "imageserver");
    assert!(!believes(&loaded.trust, &alice), "the rest stays");

    let bob = issue(&people, &leaf("bob"));
    assert!(!believes(&loaded.trust, &bob));
    place.put("IdentityCA.pem", people.certificate_pem());
    assert!(believes(&fine(files.look(place.now)).trust, &bob));
    fs::remove_file(place.path("IdentityCA.pem")).unwrap();
    assert!(!believes(&fine(files.look(place.now)).trust, &bob));
    place.put("CA.pem", people.certificate_pem().to_owned() + place.root.certificate_pem());
    assert!(believes(&fine(files.look(place.now)).trust, &bob));
    assert!(files.look(place.now).is_none());
    assert!(believes(&files.reload(place.now).trust, &bob));
}

#[test]
fn a_change_within_one_tick_of_the_clock_is_not_missed() {
    let place = place();
    let (mut files, _) = place.open();
    let both = ["alice", "bruno"].map(|name| (format!("user {name}"), place.numbered(name, 7)));
    for (line, who) in both.iter().cycle().take(100) {
        fs::write(place.path("denied"), line).unwrap();
        assert!(!believes(&fine(files.look(SystemTime::now())).trust, who), "{line}");
    }
    // The same once more changes nothing.
    fs::write(place.path("denied"), "user bruno").unwrap();
    assert!(files.look(SystemTime::now()).is_none());
}

#[test]
fn a_deny_list_that_is_being_written_denies_what_it_did_until_it_rests() {
    let place = place();
    place.put("denied", "user alice\nuser bruno\nserial 9\nnode m-1\n");
    let (mut files, _) = place.open();
    let [alice, bruno, carol] = ["alice", "bruno", "carol"].map(|user| place.numbered(user, 7));
    let ninth = place.numbered("dora", 9);
    for half in ["", "user alice\nuser bru", "user carol\n"] {
        let now = SystemTime::now();
        fs::write(place.path("denied"), half).unwrap();
        let trust = files.reload(now).trust;
        assert!([&alice, &bruno, &ninth].iter().all(|who| !believes(&trust, who)), "{half:?}");
        assert_eq!(believes(&trust, &carol), !half.contains("carol"));
    }
    let later = SystemTime::now() + Duration::from_secs(60);
    let trust = fine(files.look(later)).trust;
    assert!([&alice, &bruno, &ninth].iter().all(|who| believes(&trust, who)), "it rests, and says so");
    assert!(!believes(&trust, &carol));
    assert!(files.look(later).is_none());
}

#[test]
fn what_is_broken_stays_as_it_was_and_keeps_nothing_else_back() {
    let place = place();
    let (mut files, _) = place.open();
    let (alice, bob) = (place.numbered("alice", 7), place.numbered("bob", 8));
    place.put("cert.pem", "no certificate");
    place.list(2, &[7]);
    let loaded = files.look(place.now).unwrap();
    assert!(matches!(problem(&loaded), PkiError::NoCertificate { .. }));
    assert!(!believes(&loaded.trust, &alice), "the list counts all the same");
    assert_eq!(loaded.credentials.certificate().unverified_claims().user, "subd");
    assert!(files.look(place.now).is_none(), "told once");
    assert!(files.look(place.now + DAY).is_none(), "tried again, and the same came of it");

    place.put("denied", "usr bob\n");
    let loaded = files.look(place.now + DAY).unwrap();
    assert!(matches!(loaded.problems.as_slice(), [_, PkiError::BadDenyList { line: 1, .. }]));
    place.put("denied", "user bob\n");
    place.put("CA.pem", "");
    let loaded = files.look(place.now + DAY).unwrap();
    assert!(believes(&loaded.trust, &place.numbered("carol", 9)) && !believes(&loaded.trust, &bob));
    place.put("denied", "users bob\n");
    assert!(!believes(&files.look(place.now + DAY).unwrap().trust, &bob), "whom it denied is denied still");
    fs::remove_file(place.path("denied")).unwrap();
    assert!(!believes(&files.look(place.now + DAY).unwrap().trust, &bob));
}

#[test]
fn a_list_that_cannot_be_read_is_missed_from_then_on_until_it_can() {
    let place = place();
    let (mut files, _) = place.open();
    let alice = place.numbered("alice", 7);
    place.list(2, &[7]);
    fine(files.look(place.now));
    let stale = |since| RevocationStanding::Stale { origin: Origin::from(&*place.path("crl")), since };
    let broken: [&dyn Fn(); 3] =
        [&|| fs::remove_file(place.path("crl")).unwrap(), &|| place.put("crl", "no list"), &|| {
            place.put("crl", ForgedList::of(9, &[]).sign(&authority("Dominator")))
        }];
    for breaks in broken {
        breaks();
        let loaded = files.look(place.now + DAY).unwrap();
        problem(&loaded);
        assert!(!believes(&loaded.trust, &alice));
        assert_eq!(loaded.trust.revocation_standing(place.now), stale(place.now + DAY));
    }
    let later = files.reload(place.now + 2 * DAY);
    assert_eq!(later.trust.revocation_standing(place.now), stale(place.now + DAY), "since it began");
    place.list(2, &[7]);
    let loaded = fine(files.look(place.now));
    assert_eq!(loaded.trust.revocation_standing(place.now), RevocationStanding::Current);
}

#[test]
fn an_older_list_in_the_place_of_a_newer_is_told_and_does_not_count() {
    let place = place();
    place.list(5, &[7]);
    let (mut files, _) = place.open();
    place.list(4, &[]);
    let loaded = files.look(place.now).unwrap();
    assert!(matches!(problem(&loaded), PkiError::OlderRevocationList { .. }));
    assert!(!believes(&loaded.trust, &place.numbered("alice", 7)));
    assert!(files.look(place.now + DAY).is_none(), "told once");
}

#[test]
fn nothing_starts_without_all_it_was_told_to_read() {
    for name in ["cert.pem", "key.pem", "CA.pem", "crl", "denied"] {
        let place = place();
        fs::remove_file(place.path(name)).unwrap();
        let error = TrustFiles::open(place.paths(), place.now).unwrap_err();
        assert!(matches!(&error, PkiError::Read { path, .. } if *path == place.path(name)), "{error}");
    }
    let place = place();
    place.put("crl", "no list");
    let trust = || Trust::from_pem(place.root.certificate_pem().as_bytes(), None).unwrap();
    place.revocation().load(trust()).unwrap_err();
    place.list(1, &[7]);
    let (trust, refused) = place.revocation().load(trust()).unwrap();
    assert!(refused.is_empty() && !believes(&trust, &place.numbered("alice", 7)));
}

#[test]
fn credentials_outside_their_time_do_not_take_the_place_of_those_that_serve() {
    let place = place();
    let (mut files, _) = place.open();
    place.credentials("imageserver");
    let loaded = files.look(SystemTime::now() + 4000 * DAY).unwrap();
    assert!(matches!(problem(&loaded), PkiError::Expired { .. }));
    assert_eq!(loaded.credentials.certificate().unverified_claims().user, "subd");
    let loaded = fine(files.look(place.now));
    assert_eq!(loaded.credentials.certificate().unverified_claims().user, "imageserver", "once it is time");
}

#[test]
fn pipes_devices_and_endless_files_are_refused_at_once() {
    let place = place();
    let (mut files, _) = place.open();
    let denied = place.path("denied");
    let said = |files: &mut TrustFiles| {
        let loaded = files.reload(place.now + Duration::from_secs(60));
        problem(&loaded).to_string()
    };
    fs::remove_file(&denied).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &denied, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert!(said(&mut files).contains("no regular file"));
    for target in ["/dev/zero", "/"] {
        fs::remove_file(&denied).unwrap();
        std::os::unix::fs::symlink(target, &denied).unwrap();
        assert!(said(&mut files).contains("no regular file"));
    }
    place.put("denied", "#".repeat(2 << 20));
    assert!(said(&mut files).contains("longer than"));
    place.put("denied", "");
    fs::File::create(place.path("crl")).unwrap().set_len(MAX_LIST_FILE as u64 + 1).unwrap();
    assert!(said(&mut files).contains("longer than"));
}

#[test]
fn a_list_that_need_not_be_there_counts_from_when_it_comes_and_is_not_forgotten_when_it_goes() {
    let place = place();
    fs::remove_file(place.path("crl")).unwrap();
    fs::remove_file(place.path("denied")).unwrap();
    let mut paths = place.paths();
    paths.revocation.optional = vec![place.path("crl"), place.path("denied")];
    let (mut files, loaded) = TrustFiles::open(paths, place.now).unwrap();
    assert_eq!((loaded.trust.revocation().lists(), loaded.trust.revocation().denied().len()), (0, 0));
    place.list(1, &[]);
    place.put("denied", "user mallory\n");
    let loaded = files.look(place.now).unwrap();
    assert_eq!((loaded.trust.revocation().lists(), loaded.trust.revocation().denied().len()), (1, 1));
    fs::remove_file(place.path("crl")).unwrap();
    fs::remove_file(place.path("denied")).unwrap();
    let loaded = files.reload(place.now);
    assert!(matches!(problem(&loaded), PkiError::LeftRevocationList { .. }), "told");
    assert_eq!((loaded.trust.revocation().lists(), loaded.trust.revocation().denied().len()), (1, 1));
}

#[test]
fn an_identity_authority_whose_file_is_gone_is_believed_in_nothing_and_not_in_everything() {
    let place = place();
    // As its makers often have it: the root has certified it, so that it could be taken for a link to the root.
    let (wanted, key) = (NewAuthority::new("People").unwrap(), LeafKey::generate().unwrap());
    let issued = place.root.issue_authority(&wanted, &key.public_key().unwrap(), SystemTime::now()).unwrap();
    let people = Authority::from_pem(issued.pem.as_bytes(), key.to_pem().as_bytes()).unwrap();
    place.put("IdentityCA.pem", people.certificate_pem());
    let (mut files, loaded) = place.open();
    let eve = issue(&people, &leaf("eve").methods(methods("*.*")));
    let granted = |trust: &Trust| trust.identify(eve.chain(), SystemTime::now()).map(|found| found.granted());
    assert_eq!(granted(&loaded.trust).unwrap(), Granted::IdentityOnly);

    fs::remove_file(place.path("IdentityCA.pem")).unwrap();
    let loaded = fine(files.look(place.now));
    let error = granted(&loaded.trust).unwrap_err();
    assert!(matches!(error, PkiError::Untrusted { .. }), "{error}");
    place.put("IdentityCA.pem", authority("Other people").certificate_pem());
    granted(&fine(files.look(place.now)).trust).unwrap_err();
    place.put("IdentityCA.pem", people.certificate_pem());
    assert_eq!(granted(&fine(files.look(place.now)).trust).unwrap(), Granted::IdentityOnly);
}

#[test]
fn a_file_that_everybody_can_change_says_nothing_of_who_is_believed() {
    let place = place();
    let (mut files, _) = place.open();
    let everybody = |name: &str| {
        let path = place.path(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o646)).unwrap();
        path
    };
    place.put("CA.pem", authority("Somebody").certificate_pem());
    let path = everybody("CA.pem");
    let loaded = files.look(place.now).unwrap();
    assert!(matches!(problem(&loaded), PkiError::OpenToChange { path: told, mode: 0o646 } if *told == path));
    assert!(believes(&loaded.trust, &place.numbered("alice", 7)), "the authorities before stay in force");
    let none = IdentityFile::None;
    assert!(matches!(load_trust(&path, none), Err(PkiError::OpenToChange { .. })));
    let root = place.path("root.pem");
    fs::write(&root, place.root.certificate_pem()).unwrap();
    assert!(matches!(load_trust(&root, IdentityFile::At(&path)), Err(PkiError::OpenToChange { .. })));
    assert!(matches!(load_trust(&root, IdentityFile::IfPresent(&path)), Err(PkiError::OpenToChange { .. })));
    load_trust(&root, none).unwrap();

    place.put("CA.pem", place.root.certificate_pem());
    place.put("denied", "user alice");
    fine(files.look(place.now));
    place.put("denied", "");
    everybody("denied");
    let loaded = files.look(place.now).unwrap();
    assert!(matches!(problem(&loaded), PkiError::OpenToChange { .. }));
    assert!(!believes(&loaded.trust, &place.numbered("alice", 7)), "nobody is let in by it");
}

#[test]
fn a_daemon_starts_with_lists_it_can_not_use_and_knows_that_it_does_not_know() {
    let foreign = ForgedList::of(9, &[]).sign(&authority("Dominator"));
    for content in [b"no list".to_vec(), foreign] {
        let place = place();
        place.put("crl", content);
        let (mut files, loaded) = place.open();
        assert!(matches!(
            problem(&loaded),
            PkiError::RefusedRevocationList { .. } | PkiError::UnknownRevoker { .. }
        ));
        let stale = RevocationStanding::Stale { origin: Origin::from(&*place.path("crl")), since: place.now };
        assert_eq!(loaded.trust.revocation_standing(place.now), stale);
        place.list(1, &[7]);
        let loaded = fine(files.look(place.now));
        assert_eq!(loaded.trust.revocation_standing(place.now), RevocationStanding::Current);
        assert!(!believes(&loaded.trust, &place.numbered("alice", 7)));
    }
}

#[test]
fn a_list_that_no_file_holds_any_more_revokes_on_is_told_and_is_no_reason_to_close() {
    let place = place();
    let (wanted, key) = (NewAuthority::new("Site").unwrap(), LeafKey::generate().unwrap());
    let issued = place.root.issue_authority(&wanted, &key.public_key().unwrap(), SystemTime::now()).unwrap();
    let site = Authority::from_pem(issued.pem.as_bytes(), key.to_pem().as_bytes()).unwrap();
    let lost = issue(&site, &leaf("alice"));
    let revoked = Revoked {
        serial: lost.certificate().serial().clone(),
        since: SystemTime::now(),
        reason: Reason::KeyCompromise,
    };
    let list = |revoked: &[Revoked]| site.revoke(None, revoked, 30, SystemTime::now()).unwrap();
    place.put("crl", list(&[revoked]).pem());
    let (mut files, loaded) = place.open();
    assert!(!believes(&loaded.trust, &lost));
    // The site is given up: its certificate was revoked, and its list is put nowhere any more.
    place.list(2, &[7]);
    let loaded = files.look(place.now).unwrap();
    assert!(
        matches!(problem(&loaded), PkiError::LeftRevocationList { issuer, .. } if issuer.contains("Site"))
    );
    assert!(!believes(&loaded.trust, &lost), "nobody is let in by it");
    let later = place.now + 60 * DAY;
    assert_eq!(loaded.trust.revocation_standing(later), RevocationStanding::Current);
    assert!(files.look(place.now).is_none(), "told once");
}
