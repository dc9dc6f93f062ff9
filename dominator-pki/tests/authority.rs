//! What the authority issues, what it refuses, and what the reader refuses.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, missing_docs)]

#[allow(unreachable_pub, dead_code)]
mod support;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use dominator_core::auth::Role;
use dominator_pki::ca::{Authority, CLOCK_SKEW, LeafKey, PublicKey};
use dominator_pki::keystore::{self, CredentialPaths, IdentityFile};
use dominator_pki::{
    AlternativeName, BadCertificate, BadList, Certificate, GROUPS_OID, MAX_LIST, METHODS_OID, PkiError,
    ROLE_URI, Serial, Trust, rfc3339,
};
use proptest::prelude::*;
use rcgen::{DnType, KeyPair, SanType};
use support::*;

#[test]
fn a_certificate_says_what_was_asked_and_nothing_more() {
    let root = authority("Dominator");
    let names = vec![AlternativeName::Dns("m1.example".into()), AlternativeName::Ip("::1".parse().unwrap())];
    let leaf = leaf("alice")
        .methods(methods("Subd.Poll,ImageServer.*"))
        .groups(["ops", "Öl"])
        .alternative_names(names.clone())
        .serial("258".parse().unwrap())
        .days(2);
    let now = SystemTime::now();
    let read =
        root.issue(&leaf, &LeafKey::generate().unwrap().public_key().unwrap(), now).unwrap().certificate;
    let claims = read.unverified_claims();
    assert_eq!((claims.user.as_str(), claims.role), ("alice", None));
    assert_eq!(texts(&claims.methods), ["Subd.Poll", "ImageServer.*"]);
    assert_eq!(claims.groups, groups(&["ops", "Öl"]));
    assert_eq!(read.alternative_names(), names);
    assert_eq!((read.serial().to_string().as_str(), read.issuer()), ("0x0102", "CN=Dominator"));
    let (begin, end) = (now - CLOCK_SKEW, now + 2 * DAY);
    let second = Duration::from_secs(1);
    assert!(read.validity().not_before <= begin && read.validity().not_before > begin - second);
    assert!(read.validity().not_after <= end && read.validity().not_after > end - second);
}

#[test]
fn daemons_get_their_role_and_users_do_not() {
    let root = authority("Dominator");
    for role in Role::ALL {
        let made = issue(&root, &leaf(role.name()));
        assert_eq!(made.certificate().unverified_claims().role, Some(role));
        let uri = AlternativeName::Uri(format!("{ROLE_URI}{role}"));
        assert_eq!(made.certificate().alternative_names(), [uri]);
    }
    assert_eq!(issue(&root, &leaf("alice")).certificate().unverified_claims().role, None);
    let reference = forge(&params("subd"), &issuer(&root));
    let read = Certificate::parse(&reference.chain[0]).unwrap();
    assert_eq!(read.unverified_claims().role, Some(Role::Subd), "without a URI the name decides");
}

#[test]
fn serials_are_never_the_same_and_always_positive() {
    let root = authority("Dominator");
    let serials: std::collections::HashSet<Serial> =
        (0..20).map(|_| issue(&root, &leaf("a")).certificate().serial().clone()).collect();
    assert_eq!(serials.len(), 20);
    assert!(
        serials.iter().all(|serial| serial.as_bytes().len() <= 16 && serial.as_bytes()[0] < 0x80
            || serial.as_bytes().len() < 16)
    );
    let too_long = format!("0x{}", "11".repeat(21));
    for bad in
        ["0", "-1", "x", "", "170141183460469231731687303715884105728", "0x", "0x0", "0xé", "0xg1", &too_long]
    {
        assert!(bad.parse::<Serial>().is_err(), "{bad}");
    }
    for (text, number) in [("258", 258_u128), ("0x0102", 258), ("0x102", 258), ("0x00FF", 255)] {
        assert_eq!(text.parse::<Serial>().unwrap(), number.into());
    }
    let longest = format!("0x{}", "f1".repeat(20));
    assert_eq!(longest.parse::<Serial>().unwrap().to_string(), longest);
}

#[test]
fn nothing_is_issued_that_our_own_reader_refuses() {
    let root = authority("Dominator");
    let key = LeafKey::generate().unwrap().public_key().unwrap();
    let issue = |leaf| root.issue(&leaf, &key, SystemTime::now());
    for bad in ["", " ", "a\nb", &"x".repeat(65)] {
        assert!(dominator_pki::ca::Leaf::new(bad).is_err(), "{bad:?}");
    }
    let many = vec![methods("Subd.Poll")[0].clone(); MAX_LIST + 1];
    assert!(matches!(issue(leaf("a").methods(many)), Err(PkiError::BadCertificate { .. })));
    assert!(issue(leaf("a").groups([""])).is_err());
    assert!(issue(leaf("a").alternative_names([AlternativeName::Dns("not a name".into())])).is_err());
    assert!(issue(leaf("a").days(0)).is_err());
    assert!(issue(leaf("a").days(40_000)).is_err());
    let after = SystemTime::now() + 1200 * DAY;
    assert!(
        matches!(root.issue(&leaf("a"), &key, after), Err(PkiError::Expired { .. })),
        "the authority has expired"
    );
}

#[test]
fn a_signing_request_contributes_its_key_and_no_wishes() {
    let root = authority("Dominator");
    let key = KeyPair::generate().unwrap();
    let mut wishes = ca_params("root");
    wishes.subject_alt_names = vec![SanType::URI(format!("{ROLE_URI}dominator").try_into().unwrap())];
    let request = wishes.serialize_request(&key).unwrap().pem().unwrap();
    let public = PublicKey::from_signing_request(&request).unwrap();
    let issued = root.issue(&leaf("alice"), &public, SystemTime::now()).unwrap();
    let claims = issued.certificate.unverified_claims();
    assert_eq!((claims.user.as_str(), claims.role), ("alice", None));
    let as_authority = Authority::from_pem(issued.pem.as_bytes(), key.serialize_pem().as_bytes());
    assert!(matches!(as_authority, Err(PkiError::NotAnAuthority { .. })));
}

#[test]
fn a_version_1_root_signs_and_is_trusted() {
    let key = KeyPair::generate().unwrap();
    let made = ca_params("Dominator").self_signed(&key).unwrap();
    let root = pem("CERTIFICATE", &version_one(made.der(), &key));
    let root = Authority::from_pem(root.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    let subd = issue(&root, &leaf("subd").methods(methods("ObjectServer.GetObjects")));
    let trust = Trust::from_pem(root.certificate_pem().as_bytes(), None).unwrap();
    let verified = trust.identify(subd.chain(), SystemTime::now()).unwrap();
    let identity = verified.identity();
    assert_eq!(
        (texts(&identity.methods), identity.role),
        (vec!["ObjectServer.GetObjects".into()], Some(Role::Subd))
    );
}

#[test]
fn a_version_1_leaf_does_not_sign() {
    let root = authority("Dominator");
    let forged = forge(&params("alice"), &issuer(&root));
    let old = pem("CERTIFICATE", &version_one(&forged.chain[0], issuer(&root).key()));
    let error = Authority::from_pem(old.as_bytes(), forged.key.serialize_pem().as_bytes()).unwrap_err();
    assert!(matches!(error, PkiError::NotAnAuthority { .. }), "{error}");
}

#[test]
fn an_authority_is_its_certificate_with_its_own_key() {
    let (one, other) = (authority("One"), authority("Other"));
    let (certificate, key) = (one.certificate_pem().as_bytes(), other.private_key_pem());
    assert!(matches!(Authority::from_pem(certificate, key.as_bytes()), Err(PkiError::KeyMismatch { .. })));
    assert!(matches!(Authority::from_pem(certificate, certificate), Err(PkiError::NoKey { .. })));
    assert!(matches!(
        Authority::from_pem(key.as_bytes(), key.as_bytes()),
        Err(PkiError::NoCertificate { .. })
    ));
    let same = Authority::from_pem(certificate, one.private_key_pem().as_bytes()).unwrap();
    let trust = Trust::from_pem(certificate, None).unwrap();
    trust.identify(issue(&same, &leaf("a")).chain(), SystemTime::now()).unwrap();
}

/// The seed of a fleet, as its administrators have always made it, with the real tool.
#[test]
fn a_root_made_by_openssl_as_documented_works() {
    let directory = tempfile::tempdir().unwrap();
    openssl(directory.path(), "genpkey -algorithm RSA -out root.key.pem -pkeyopt rsa_keygen_bits:4096");
    openssl(
        directory.path(),
        "req -new -key root.key.pem -days 1096 -extensions v3_ca -batch -out root.csr -utf8 -subj /CN=Dominator",
    );
    openssl(
        directory.path(),
        "x509 -req -sha256 -days 1096 -in root.csr -signkey root.key.pem -set_serial 1 -out root.pem",
    );
    let paths = CredentialPaths::named(&directory.path().join("root"));
    let root = keystore::load_authority(&paths).unwrap();
    let trust = keystore::load_trust(&paths.certificate, IdentityFile::None).unwrap();
    let subd = leaf("subd").methods(methods("ObjectServer.GetObjects")).serial(2.into());
    let key = LeafKey::generate().unwrap();
    let issued = root.issue(&subd, &key.public_key().unwrap(), SystemTime::now()).unwrap();
    let subd = dominator_pki::Credentials::from_pem(issued.pem.as_bytes(), key.to_pem().as_bytes()).unwrap();
    let verified = trust.identify(subd.chain(), SystemTime::now()).unwrap();
    let identity = verified.identity();
    assert_eq!(identity.role, Some(Role::Subd));

    std::fs::write(directory.path().join("subd.pem"), issued.pem).unwrap();
    openssl(directory.path(), "verify -CAfile root.pem -purpose sslserver subd.pem");
    let dates = openssl(directory.path(), "asn1parse -in subd.pem");
    assert!(dates.contains("1.3.6.1.4.1.9586.100.7.1"), "{dates}");

    // And a leaf of the reference's tool: extensions from a file, no usage, no alternative names.
    let extensions = "[m]\n1.3.6.1.4.1.9586.100.7.1=ASN1:SEQUENCE:s\n[s]\nfield1=UTF8:\"Subd.*\"\nfield2=UTF8:\"ImageServer.GetImage\"\n";
    std::fs::write(directory.path().join("extensions"), extensions).unwrap();
    openssl(directory.path(), "genpkey -algorithm RSA -out d.key.pem -pkeyopt rsa_keygen_bits:2048");
    openssl(directory.path(), "req -new -key d.key.pem -batch -out d.csr -utf8 -subj /CN=dominator");
    openssl(
        directory.path(),
        "x509 -req -sha256 -days 9 -in d.csr -extfile extensions -extensions m -CAkey root.key.pem -CA root.pem -set_serial 3 -out d.pem",
    );
    let paths = CredentialPaths::named(&directory.path().join("d"));
    let dominator = keystore::load(&paths, SystemTime::now()).unwrap();
    let verified = trust.identify(dominator.chain(), SystemTime::now()).unwrap();
    let identity = verified.identity();
    assert_eq!(texts(&identity.methods), ["Subd.*", "ImageServer.GetImage"]);
    assert_eq!(identity.role, Some(Role::Dominator));
    let server = trust.server_config(&subd).unwrap();
    handshake(server, trust.client_config(&dominator, Role::Subd).unwrap(), "any").accepted();
    let server = trust.server_config(&dominator).unwrap();
    handshake(server, trust.client_config(&subd, Role::Dominator).unwrap(), "any").accepted();

    // Without methods that tool makes version 1.
    openssl(
        directory.path(),
        "x509 -req -sha256 -days 9 -in d.csr -CAkey root.key.pem -CA root.pem -set_serial 4 -out d.pem",
    );
    let error = keystore::load(&paths, SystemTime::now()).unwrap_err();
    assert!(matches!(error, PkiError::VersionOne { .. }), "{error}");
}

#[test]
fn openssl_finds_nothing_to_object_to() {
    let directory = tempfile::tempdir().unwrap();
    let root = authority("Dominator");
    let key = LeafKey::generate().unwrap().public_key().unwrap();
    let subd = root.issue(&leaf("subd").groups(["g"]), &key, SystemTime::now()).unwrap();
    std::fs::write(directory.path().join("root.pem"), root.certificate_pem()).unwrap();
    std::fs::write(directory.path().join("subd.pem"), subd.pem).unwrap();
    for purpose in ["sslserver", "sslclient"] {
        let arguments =
            format!("verify -x509_strict -check_ss_sig -CAfile root.pem -purpose {purpose} subd.pem");
        openssl(directory.path(), &arguments);
    }
}

fn openssl(directory: &Path, arguments: &str) -> String {
    let ran = Command::new("openssl").args(arguments.split(' ')).current_dir(directory).output();
    let output = ran.expect("this test needs the program openssl: apt-get install openssl");
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn authorities_of_every_usable_key_sign() {
    for algorithm in [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let made = ca_params("Dominator").self_signed(&key).unwrap();
        let root = Authority::from_pem(made.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap();
        let trust = Trust::new(vec![made.der().clone()], vec![]).unwrap();
        trust.identify(issue(&root, &leaf("subd")).chain(), SystemTime::now()).unwrap();
    }
}

#[test]
fn an_authority_whose_name_cannot_be_copied_exactly_does_not_sign() {
    let key = KeyPair::generate().unwrap();
    let mut named = ca_params("Dominator");
    let unit = |name: &str| (DnType::CustomDnType(vec![2, 5, 4, 11]), name.to_owned());
    let (kind, name) = unit("one");
    named.distinguished_name.push(kind, name);
    named.distinguished_name.push(DnType::OrganizationalUnitName, "two");
    let made = named.self_signed(&key).unwrap();
    let root = Authority::from_pem(made.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap();
    let public = LeafKey::generate().unwrap().public_key().unwrap();
    let error = root.issue(&leaf("subd"), &public, SystemTime::now()).unwrap_err();
    assert!(matches!(error, PkiError::BadRequest { .. }), "{error}");
}

#[test]
fn the_reader_refuses_what_two_readers_could_read_differently() {
    let root = issuer(&authority("Dominator"));
    let parse = |change: &dyn Fn(&mut rcgen::CertificateParams)| {
        let mut params = params("alice");
        change(&mut params);
        Certificate::parse(&forge(&params, &root).chain[0]).map(drop)
    };
    let list = |list: &'static str, source| Err(BadCertificate::BadList { list, source });
    assert_eq!(parse(&|_| {}), Ok(()));
    assert_eq!(parse(&|p| p.distinguished_name.push(DnType::CommonName, "")), Err(BadCertificate::BadUser),);
    assert_eq!(
        parse(&|p| p.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 3]), "bob")),
        Err(BadCertificate::CommonNames(2)),
    );
    assert_eq!(
        parse(&|p| assert!(p.distinguished_name.remove(DnType::CommonName))),
        Err(BadCertificate::CommonNames(0))
    );
    assert_eq!(
        parse(&|p| p.distinguished_name.push(DnType::CommonName, "a\u{7}")),
        Err(BadCertificate::BadUser)
    );
    for user in ["alice ", " alice", "alice\u{a0}"] {
        let refused = parse(&|p| p.distinguished_name.push(DnType::CommonName, user));
        assert_eq!(refused, Err(BadCertificate::BadUser), "{user:?}");
        assert!(dominator_pki::ca::NewAuthority::new(user).is_err());
    }
    assert_eq!(
        parse(&|p| p.custom_extensions =
            vec![extension(METHODS_OID, b"\x30\0"), extension(METHODS_OID, b"\x30\x05\x0c\x03*.*")]),
        Err(BadCertificate::DuplicateExtension),
    );
    let unknown = &[1, 3, 6, 1, 4, 1, 9586, 100, 99];
    assert_eq!(
        parse(&|p| p.custom_extensions = vec![extension(unknown, b"\x05\0"), extension(unknown, b"\x05\0")]),
        Err(BadCertificate::DuplicateExtension),
    );
    assert_eq!(
        parse(&|p| p.custom_extensions = vec![extension(METHODS_OID, b"\x31\x05\x0c\x03*.*")]),
        list("methods", BadList::WrongType { found: 0x31, expected: 0x30 }),
    );
    assert_eq!(
        parse(&|p| p.custom_extensions = vec![extension(GROUPS_OID, b"\x30\x05\x13\x03ops")]),
        list("groups", BadList::WrongType { found: 0x13, expected: 0x0c }),
    );
    assert!(matches!(
        parse(&|p| p.custom_extensions = vec![extension(METHODS_OID, b"\x30\x03\x0c\x01*")]),
        Err(BadCertificate::BadPattern(_)),
    ));
    assert_eq!(
        parse(&|p| p.custom_extensions = vec![extension(GROUPS_OID, b"\x30\x02\x0c\x00")]),
        Err(BadCertificate::BadGroup),
    );
    assert_eq!(
        parse(&|p| {
            let many = element(0x0c, b"Subd.Poll").repeat(MAX_LIST + 1);
            p.custom_extensions = vec![extension(METHODS_OID, &element(0x30, &many))];
        }),
        list("methods", BadList::TooMany { limit: MAX_LIST }),
    );
    let uri = |role: &str| SanType::URI(format!("{ROLE_URI}{role}").try_into().unwrap());
    assert_eq!(
        parse(&|p| p.subject_alt_names = vec![uri("subd"), uri("dominator")]),
        Err(BadCertificate::SeveralRoles),
    );
}

#[test]
fn bytes_that_are_no_certificate_are_refused_and_never_panic() {
    let der = issue(&authority("Dominator"), &leaf("subd").groups(["g"])).chain()[0].to_vec();
    assert_eq!(Certificate::parse(&[&der[..], &[0]].concat()), Err(BadCertificate::TrailingBytes(1)));
    assert!(matches!(Certificate::parse(&vec![0; 70_000]), Err(BadCertificate::TooLong { .. })));
    for end in 0..der.len() {
        assert!(Certificate::parse(&der[..end]).is_err(), "cut at {end}");
    }
    let trust = Trust::new(vec![authority("Other").certificate_der().clone()], vec![]).unwrap();
    for at in 0..der.len() {
        let mut bent = der.clone();
        bent[at] ^= 1;
        assert!(trust.identify(&[bent.into()], SystemTime::now()).is_err(), "bent at {at}");
    }
}

#[test]
fn a_bent_certificate_of_our_own_authority_is_refused() {
    let root = authority("Dominator");
    let der = issue(&root, &leaf("subd").methods(methods("Subd.Poll"))).chain()[0].to_vec();
    let trust = Trust::new(vec![root.certificate_der().clone()], vec![]).unwrap();
    trust.identify(&[der.clone().into()], SystemTime::now()).unwrap();
    for at in 0..der.len() {
        let mut bent = der.clone();
        bent[at] ^= 0x10;
        assert!(trust.identify(&[bent.into()], SystemTime::now()).is_err(), "bent at {at}");
    }
}

#[test]
fn times_are_written_as_rfc_3339() {
    assert_eq!(rfc3339(SystemTime::UNIX_EPOCH), "1970-01-01T00:00:00Z");
    assert_eq!(rfc3339(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), "1969-12-31T23:59:59Z");
    assert_eq!(
        rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(400_000_000_000)),
        "9999-12-31T23:59:59Z"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_method_list_comes_back_as_it_was_given(
        list in prop::collection::vec("(\\*?[A-Za-z_?]){1,20}\\.(\\*?[A-Za-z_?]){1,20}", 0..60),
        names in prop::collection::btree_set("[^\\pC]{1,40}", 0..20),
    ) {
        let root = authority("Dominator");
        let made = issue(&root, &leaf("alice").methods(methods(&list.join(","))).groups(names.clone()));
        let trust = Trust::new(vec![root.certificate_der().clone()], vec![]).unwrap();
        let verified = trust.identify(made.chain(), SystemTime::now()).unwrap();
    let identity = verified.identity();
        prop_assert_eq!(texts(&identity.methods), list);
        prop_assert_eq!(&identity.groups, &names);
    }
}
