//! The lists of certificates that authorities took back, as they are kept.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, missing_docs)]

#[allow(unreachable_pub, dead_code)]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use dominator_pki::ca::{Authority, KeyKind, LeafKey, NewAuthority, Reason, RevocationList, Revoked};
use dominator_pki::keystore::{self, Existing};
use dominator_pki::{Origin, PkiError};
use proptest::prelude::*;
use support::*;

fn revoked(serial: u128) -> Revoked {
    let second = Duration::from_secs(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs());
    Revoked { serial: serial.into(), since: SystemTime::UNIX_EPOCH + second, reason: Reason::KeyCompromise }
}

fn serials(list: &RevocationList) -> Vec<String> {
    list.revoked().iter().map(|one| one.serial.to_string()).collect()
}

fn read(authority: &Authority, pem: &str) -> Result<RevocationList, PkiError> {
    authority.read_revocations(pem.as_bytes(), &Origin::Memory)
}

/// An authority in a folder.
struct Kept {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Kept {
    fn new() -> Self {
        let (folder, authority) = (tempfile::tempdir().unwrap(), authority("Dominator"));
        let kept = Self { folder, authority };
        keystore::save_key(&kept.key(), &kept.authority.private_key_pem(), Existing::Keep).unwrap();
        kept
    }

    fn stem(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn key(&self) -> PathBuf {
        self.folder.path().join("root.key.pem")
    }

    fn list(&self) -> PathBuf {
        keystore::revocations(&self.stem())
    }

    fn revoke(&self, more: &[Revoked]) -> Result<RevocationList, PkiError> {
        keystore::revoke(&self.stem(), &self.key(), &self.authority, more, 30, SystemTime::now())
            .map(|extended| extended.list)
    }
}

#[test]
fn a_list_grows_and_its_number_with_it() {
    let kept = Kept::new();
    let first = kept.revoke(&[revoked(2)]).unwrap();
    let second = kept.revoke(&[revoked(300), revoked(2)]).unwrap();
    let third = kept.revoke(&[]).unwrap();
    assert_eq!([first.number(), second.number(), third.number()], [1, 2, 3]);
    assert_eq!(serials(&third), ["0x02", "0x012c"]);
    assert_eq!(third.revoked()[0], revoked_at(&first, 0), "what is on it stays as it was");
    let written = fs::read_to_string(kept.list()).unwrap();
    assert_eq!(read(&kept.authority, &written).unwrap(), third);
    let names: BTreeSet<_> =
        fs::read_dir(kept.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["root.crl.pem".into(), "root.key.pem".into()].into(), "no temporary file stays");
}

fn revoked_at(list: &RevocationList, at: usize) -> Revoked {
    list.revoked()[at].clone()
}

#[test]
fn an_empty_list_never_takes_the_place_of_one_that_was_mislaid() {
    let kept = Kept::new();
    let error = kept.revoke(&[]).unwrap_err();
    assert!(matches!(error, PkiError::NoRevocationList { .. }), "{error}");
    assert!(!kept.list().exists());
}

#[test]
fn a_list_that_is_not_the_authoritys_own_is_neither_read_nor_replaced() {
    let kept = Kept::new();
    let other = authority("Other");
    let namesake = authority("Dominator");
    let good = kept.authority.revoke(None, &[revoked(2)], 30, SystemTime::now()).unwrap();
    let by = |authority: &Authority| authority.revoke(None, &[revoked(2)], 30, SystemTime::now()).unwrap();
    let lines: Vec<&str> = good.pem().lines().collect();
    let torn = lines[..lines.len() - 2].join("\n");
    let bad = [
        (by(&other).pem().to_owned(), "another authority's"),
        (by(&namesake).pem().to_owned(), "not signed with this authority's key"),
        (good.pem().repeat(2), "one X509 CRL section"),
        (String::new(), "one X509 CRL section"),
        (torn, "one X509 CRL section"),
        (kept.authority.certificate_pem().to_owned(), "one X509 CRL section"),
    ];
    for (text, expected) in bad {
        fs::write(kept.list(), &text).unwrap();
        let error = kept.revoke(&[revoked(3)]).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("root.crl.pem"), "{error}");
        assert_eq!(fs::read_to_string(kept.list()).unwrap(), text, "it is left alone");
    }
}

#[test]
fn of_many_at_once_no_revocation_is_lost() {
    let kept = Kept::new();
    std::thread::scope(|scope| {
        for thread in 0..4_u128 {
            let kept = &kept;
            scope.spawn(move || {
                for one in 1..=8 {
                    kept.revoke(&[revoked(thread * 100 + one)]).unwrap();
                }
            });
        }
    });
    let list = kept.revoke(&[]).unwrap();
    assert_eq!((list.number(), list.revoked().len()), (33, 32));
}

#[test]
fn a_clock_that_is_behind_the_list_signs_none() {
    let root = authority("Dominator");
    let list = root.revoke(None, &[revoked(2)], 30, SystemTime::now()).unwrap();
    let error = root.revoke(Some(&list), &[], 30, SystemTime::now() - DAY).unwrap_err();
    assert!(error.to_string().contains("set the clock"), "{error}");
    for days in [0, 40_000] {
        assert!(root.revoke(None, &[revoked(2)], days, SystemTime::now()).is_err());
    }
    assert!(root.revoke(None, &[revoked(0)], 30, SystemTime::now()).is_err(), "no serial is 0");
}

#[test]
fn an_intermediates_list_brings_what_its_signature_is_checked_with() {
    let root = authority("Dominator");
    let key = LeafKey::generate_kind(KeyKind::Ed25519).unwrap();
    let wanted = NewAuthority::new("Site").unwrap();
    let issued = root.issue_authority(&wanted, &key.public_key().unwrap(), SystemTime::now()).unwrap();
    let site = Authority::from_pem(issued.pem.as_bytes(), key.to_pem().as_bytes()).unwrap();
    let list = site.revoke(None, &[revoked(2)], 30, SystemTime::now()).unwrap();
    assert!(list.pem().ends_with(issued.pem.as_str()), "{}", list.pem());
    assert_eq!(read(&site, list.pem()).unwrap(), list);
}

#[test]
fn only_what_an_authority_has_signed_is_its_own() {
    let (root, namesake) = (authority("Dominator"), authority("Dominator"));
    let certificate = issue(&root, &leaf("alice")).certificate().clone();
    assert!(root.has_issued(&certificate));
    assert!(!namesake.has_issued(&certificate), "the name is the same, the key is not");
    assert!(!authority("Other").has_issued(&certificate));
}

fn openssl(directory: &Path, arguments: &str) -> String {
    let ran = Command::new("openssl").args(arguments.split(' ')).current_dir(directory).output();
    let output = ran.expect("this test needs the program openssl: apt-get install openssl");
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn openssl_reads_our_lists_and_we_continue_its() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    openssl(
        here,
        "req -x509 -newkey rsa:2048 -nodes -keyout root.key.pem -out root.pem -days 30 -subj /CN=Dominator",
    );
    let [certificate, key] = ["root.pem", "root.key.pem"].map(|name| fs::read(here.join(name)).unwrap());
    let root = Authority::from_pem(&certificate, &key).unwrap();
    // As an administrator of such an authority revokes: by its database.
    fs::write(
        here.join("index.txt"),
        "R\t340101000000Z\t250101000000Z,keyCompromise\t0BAD\tunknown\t/CN=bob\n",
    )
    .unwrap();
    fs::write(here.join("number"), "0F\n").unwrap();
    let settings = "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\ncrlnumber=number\ndefault_md=sha256\n";
    fs::write(here.join("settings"), settings).unwrap();
    openssl(
        here,
        "ca -config settings -gencrl -keyfile root.key.pem -cert root.pem -out list.pem -crldays 30",
    );
    let theirs = read(&root, &fs::read_to_string(here.join("list.pem")).unwrap()).unwrap();
    assert_eq!((theirs.number(), serials(&theirs)), (15, vec!["0x0bad".to_owned()]));
    assert_eq!(theirs.revoked()[0].reason, Reason::KeyCompromise);
    let mut more = revoked(258);
    more.reason = Reason::Superseded;
    let ours = root.revoke(Some(&theirs), &[more], 30, SystemTime::now() + DAY).unwrap();
    fs::write(here.join("ours.pem"), ours.pem()).unwrap();
    let text = openssl(here, "crl -in ours.pem -noout -text -CAfile root.pem");
    for expected in
        ["Serial Number: 0BAD", "Serial Number: 0102", "Key Compromise", "Superseded", "CN = Dominator"]
    {
        assert!(text.replace("CN=", "CN = ").contains(expected), "{expected}: {text}");
    }
    assert!(text.contains("CRL Number: \n                16"), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn nothing_ever_leaves_a_list(rounds in prop::collection::vec(prop::collection::vec(1_u128..40, 0..6), 1..6)) {
        let root = authority("Dominator");
        let mut list: Option<RevocationList> = None;
        let mut all: Vec<u128> = Vec::new();
        for round in rounds {
            let more: Vec<_> = round.iter().map(|serial| revoked(*serial)).collect();
            let next = root.revoke(list.as_ref(), &more, 30, SystemTime::now()).unwrap();
            for serial in round {
                if !all.contains(&serial) {
                    all.push(serial);
                }
            }
            let expected: Vec<_> = all.iter().map(|serial| dominator_pki::Serial::from(*serial).to_string()).collect();
            prop_assert_eq!(serials(&next), expected);
            prop_assert_eq!(&read(&root, next.pem()).unwrap(), &next);
            prop_assert!(next.number() > list.map_or(0, |list| list.number()));
            list = Some(next);
        }
    }
}

#[test]
fn a_list_of_which_one_bit_is_another_is_refused() {
    let root = authority("Dominator");
    let list = root.revoke(None, &[revoked(2), revoked(77)], 30, SystemTime::now()).unwrap();
    let der: rustls::pki_types::CertificateRevocationListDer<'_> =
        rustls::pki_types::pem::PemObject::from_pem_slice(list.pem().as_bytes()).unwrap();
    for at in 0..der.len() * 8 {
        let mut bent = der.to_vec();
        bent[at / 8] ^= 1 << (at % 8);
        assert!(read(&root, &pem("X509 CRL", &bent)).is_err(), "bit {} of byte {}", at % 8, at / 8);
    }
}
