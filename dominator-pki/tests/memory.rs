//! What reading takes in memory, counted by the allocator: alone in its own process, so that nobody else is counted.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, missing_docs)]

#[allow(unreachable_pub, dead_code)]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use dominator_pki::ca::{LeafKey, PublicKey};
use dominator_pki::files::MAX_LIST_FILE;
use dominator_pki::{Certificate, DenyList, METHODS_OID, Origin, Revocation, Trust};
use support::*;

/// Counts what is allocated and not yet given back, and the most there ever was of it.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "an allocator can't be written without; it only counts and hands on")]
// SAFETY: every call is handed to the system's allocator with the arguments it came with.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most that `read` held at once, beyond what was held before.
fn peak(read: impl FnOnce()) -> usize {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    read();
    PEAK.load(Ordering::Relaxed) - before
}

/// An element of 128 bytes or more.
fn long(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    [vec![tag, 0x80 | length.len() as u8], length, content.to_vec()].concat()
}

/// `item` as often as it fits into `length` bytes.
fn filled(item: &[u8], length: usize) -> Vec<u8> {
    item.repeat(length / item.len())
}

/// The worst that can be packed into what is read before anybody knows who has signed it.
#[test]
fn reading_takes_memory_in_proportion_to_what_is_read() {
    let root = authority("Dominator");
    let trust = Trust::from_pem(root.certificate_pem().as_bytes(), None).unwrap();
    let now = SystemTime::now();
    let names = |item: &[u8]| {
        let mut crowded = params("alice");
        crowded.custom_extensions = vec![extension(&[2, 5, 29, 17], &long(0x30, &filled(item, 60_000)))];
        forge(&crowded, &issuer(&root)).chain[0].clone()
    };
    let list = |item: &[u8]| {
        let mut crowded = params("alice");
        crowded.custom_extensions = vec![extension(METHODS_OID, &long(0x30, &filled(item, 60_000)))];
        forge(&crowded, &issuer(&root)).chain[0].clone()
    };
    let directory = element(0xa4, &element(0x30, &filled(b"\x31\x00", 120)));
    let other = element(0xa0, &[&[6, 3, 0x2a, 3, 4][..], &element(0xa0, &[5, 0])].concat());
    let certificates =
        [names(b"\x82\x00"), names(b"\x86\x00"), names(&directory), names(&other), list(b"\x0c\x03a.b")];
    for certificate in certificates {
        let most = peak(|| drop(Certificate::parse(&certificate)));
        assert!(most < 80 * certificate.len(), "certificate: {most} of {}", certificate.len());
        let chain = vec![certificate.clone(); 8];
        let most = peak(|| drop(trust.identify(&chain, now)));
        assert!(most < 100 * certificate.len(), "chain: {most} of {}", certificate.len());
    }
    for entry in [entry(&[]), entry(&element(0x30, &filled(&element(0x30, &[6, 1, 0x2a, 4, 0]), 120)))] {
        let forged = crowded_list(&root, &entry);
        let most = peak(|| drop(Revocation::default().read_lists(&trust, &forged, &Origin::Memory)));
        assert!(most < 32 * forged.len(), "list: {most} of {}", forged.len());
    }
    let texts: [(&str, Vec<u8>); 5] = [
        ("one line", vec![b'#'; 1 << 20]),
        ("empty lines", vec![b'\n'; 1 << 20]),
        ("users", (0..100_000).map(|n| format!("user {n}\n")).collect::<String>().into_bytes()),
        ("armour", filled(b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", 1 << 20)),
        ("no end", [b"-----BEGIN CERTIFICATE-----\n".to_vec(), filled(b"AAAA\n", 1 << 20)].concat()),
    ];
    for (name, text) in texts {
        let readers: [&dyn Fn(); 5] = [
            &|| drop(DenyList::parse(&text, &Origin::Memory)),
            &|| drop(Trust::from_pem(&text, None)),
            &|| drop(Revocation::default().read_lists(&trust, &text, &Origin::Memory)),
            &|| drop(LeafKey::from_pem(&text, &Origin::Memory)),
            &|| drop(PublicKey::from_signing_request(&String::from_utf8_lossy(&text))),
        ];
        for (at, read) in readers.into_iter().enumerate() {
            let most = peak(read);
            assert!(most < 8 * text.len(), "{name}, reader {at}: {most} of {}", text.len());
        }
    }
}

fn entry(extensions: &[u8]) -> Vec<u8> {
    element(0x30, &[&[2, 1, 7][..], &element(0x17, b"200101000000Z"), extensions].concat())
}

/// A list as long as is read, whose signature is none.
fn crowded_list(by: &dominator_pki::ca::Authority, entry: &[u8]) -> Vec<u8> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, issuer) = X509Certificate::from_der(by.certificate_der()).unwrap();
    let algorithm = b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02";
    let body = [
        element(0x02, &[1]),
        algorithm.to_vec(),
        issuer.subject().as_raw().to_vec(),
        element(0x17, b"200101000000Z"),
        element(0x17, b"491231000000Z"),
        long(0x30, &filled(entry, MAX_LIST_FILE - 1000)),
    ];
    long(0x30, &[&long(0x30, &body.concat())[..], algorithm, &[3, 1, 0]].concat())
}
