//! Whatever reads bytes that others wrote takes them or says why not; it never panics.
//!
//! `tests/corpus` has a directory for each reader and `expected.txt`, which says of every file what must come of it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::time::SystemTime;

use dominator_core::auth::Role;
use dominator_pki::ca::{Authority, LeafKey, PublicKey};
use dominator_pki::keystore;
use dominator_pki::{AuthorityKey, Certificate, Credentials, DenyList, Origin, Revocation, Serial, Trust};
use proptest::prelude::*;

type Outcome = Result<(), Box<dyn Error>>;

/// A reader, under the name of its directory.
struct Reader {
    name: &'static str,
    read: fn(&[u8]) -> Outcome,
}

const READERS: [Reader; 6] = [
    Reader { name: "authorities", read: authorities },
    Reader { name: "certificate", read: certificate },
    Reader { name: "denied", read: denied },
    Reader { name: "key", read: key },
    Reader { name: "list", read: list },
    Reader { name: "request", read: request },
];

fn authorities(bytes: &[u8]) -> Outcome {
    let both = Trust::from_pem(bytes, Some(bytes));
    let alone = Trust::from_pem(bytes, None);
    assert!(alone.is_ok() || both.is_err());
    drop((Credentials::from_pem(bytes, &KEY), Authority::from_pem(bytes, &KEY)));
    alone.map(drop).map_err(Into::into)
}

/// Reads it, and shows it to both ends as what a peer has sent.
fn certificate(bytes: &[u8]) -> Outcome {
    let chain = [bytes.to_vec().into(), bytes.to_vec().into()];
    let now = SystemTime::now();
    let called = TRUST.recognise(&chain, Role::Subd, &"web-7".try_into().unwrap(), now);
    let calls = TRUST.identify(&chain, now);
    let read = Certificate::parse(bytes)?;
    assert_eq!(read.der().as_ref(), bytes);
    assert!(read.unverified_claims().role == Some(Role::Subd) || called.is_err());
    calls?;
    Ok(())
}

fn denied(bytes: &[u8]) -> Outcome {
    let text = String::from_utf8_lossy(bytes);
    drop((text.parse::<Serial>(), Serial::from_hexadecimal(&text), text.parse::<AuthorityKey>()));
    DenyList::parse(bytes, &Origin::Memory)?;
    Ok(())
}

fn key(bytes: &[u8]) -> Outcome {
    drop((Credentials::from_pem(&ROOT, bytes), Authority::from_pem(&ROOT, bytes)));
    LeafKey::from_pem(bytes, &Origin::Memory)?.public_key()?;
    Ok(())
}

fn list(bytes: &[u8]) -> Outcome {
    drop(OTHER.read_revocations(bytes, &Origin::Memory));
    // As people are shown it, who look at what is not believed, too.
    drop(keystore::contents(bytes, &Origin::Memory));
    let refused = Revocation::default().read_lists(&TRUST, bytes, &Origin::Memory)?;
    assert!(refused.is_empty());
    Ok(())
}

fn request(bytes: &[u8]) -> Outcome {
    drop(PublicKey::from_der(bytes));
    PublicKey::from_signing_request(&String::from_utf8_lossy(bytes))?;
    Ok(())
}

static ROOT: LazyLock<Vec<u8>> = LazyLock::new(|| corpus_file("root.pem"));
static KEY: LazyLock<Vec<u8>> = LazyLock::new(|| corpus_file("key/ecdsa.pem"));
static TRUST: LazyLock<Trust> = LazyLock::new(|| Trust::from_pem(&ROOT, None).unwrap());
static OTHER: LazyLock<Authority> = LazyLock::new(|| Authority::create("Corpus", SystemTime::now()).unwrap());
/// Every file of each directory, by name.
static CORPUS: LazyLock<BTreeMap<String, Vec<u8>>> = LazyLock::new(|| {
    let directory = |reader: &Reader| fs::read_dir(corpus(reader.name)).unwrap();
    let files = READERS.iter().flat_map(|reader| {
        directory(reader).map(|entry| format!("{}/{}", reader.name, entry.unwrap().file_name().display()))
    });
    files.map(|name| (name.clone(), corpus_file(&name))).collect()
});

fn corpus(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name)
}

fn corpus_file(name: &str) -> Vec<u8> {
    fs::read(corpus(name)).unwrap()
}

fn reader(name: &str) -> &'static Reader {
    READERS.iter().find(|reader| name.starts_with(reader.name)).unwrap()
}

/// An error with its causes, or `taken`.
fn told(outcome: Outcome) -> String {
    let Err(error) = outcome else { return "taken".into() };
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        words = format!("{words}: {cause}");
        next = cause.source();
    }
    words
}

#[test]
fn every_file_of_the_corpus_is_taken_or_refused_for_the_reason_expected() {
    let expected = fs::read_to_string(corpus("expected.txt")).unwrap();
    let expected = expected.lines().filter_map(|line| line.split_once(": "));
    let expected: BTreeMap<&str, &str> = expected.collect();
    let found: Vec<&str> = CORPUS.keys().map(String::as_str).collect();
    assert_eq!(found, expected.keys().copied().collect::<Vec<_>>(), "files and lines of expected.txt");
    for (name, words) in expected {
        let told = told((reader(name).read)(&CORPUS[name]));
        let right = if words == "taken" { told == words } else { told.contains(words) };
        assert!(right, "{name}: {told}");
    }
}

/// One change to a file: where, of what kind, and with what.
type Change = (prop::sample::Index, u8, Vec<u8>);

/// A file of the reader's, changed: what almost is right gets further than noise.
fn mutants(name: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let own = CORPUS.range(name.to_owned()..).take_while(move |(file, _)| file.starts_with(name));
    let files: Vec<Vec<u8>> = own.map(|(_, bytes)| bytes.clone()).collect();
    let change = (any::<prop::sample::Index>(), 0..6_u8, prop::collection::vec(any::<u8>(), 1..6));
    (prop::sample::select(files), prop::collection::vec(change, 0..6)).prop_map(|(mut bytes, changes)| {
        changes.iter().for_each(|change| mutate(&mut bytes, change));
        bytes
    })
}

fn mutate(bytes: &mut Vec<u8>, (place, kind, with): &Change) {
    if bytes.is_empty() {
        return bytes.extend(with);
    }
    let at = place.index(bytes.len());
    let end = (at + with.len()).min(bytes.len());
    match kind {
        0 => bytes[at] ^= 1 << (with[0] % 8),
        1 => bytes[at] = [0x00, 0x7f, 0x80, 0x84, 0xff, 0x30][usize::from(with[0] % 6)],
        2 => drop(bytes.drain(at..end)),
        3 => drop(bytes.splice(at..at, with.iter().copied())),
        4 => bytes.truncate(at),
        _ => bytes.extend_from_within(at..),
    }
}

fn survives(name: &str, bytes: &[u8]) {
    drop((reader(name).read)(bytes));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2048) })]

    #[test]
    fn no_reader_panics_over_noise(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        READERS.iter().for_each(|reader| survives(reader.name, &bytes));
    }

    #[test]
    fn no_reader_panics_over_text(text in "(\\PC|\n|-----BEGIN (CERTIFICATE|X509 CRL|PRIVATE KEY)-----\n|serial |user |0x){0,60}") {
        READERS.iter().for_each(|reader| survives(reader.name, text.as_bytes()));
    }

    #[test]
    fn no_changed_certificate_makes_its_reader_panic(bytes in mutants("certificate")) {
        survives("certificate", &bytes);
    }

    #[test]
    fn no_changed_list_makes_its_reader_panic(bytes in mutants("list")) {
        survives("list", &bytes);
    }

    #[test]
    fn no_changed_file_makes_its_reader_panic(
        files in (mutants("authorities"), mutants("denied"), mutants("key"), mutants("request")),
    ) {
        let (authorities, denied, key, request) = files;
        let all = [("authorities", authorities), ("denied", denied), ("key", key), ("request", request)];
        all.iter().for_each(|(name, bytes)| survives(name, bytes));
    }
}
