//! Every encoding is what `docs/formats` says, for ever: golden files, round trips, and hostile bytes.
//!
//! `DOMINATOR_BLESS=1 cargo test -p dominator-core --test formats` writes the golden files anew. That is a change of
//! format: old machines, stores and controllers hold the old one.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::wildcard_enum_match_arm, missing_docs)]

mod arbitrary;
mod examples;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::PathBuf;

use arbitrary::{directory, file, inode, name, path};
use dominator_core::DecodeError;
use dominator_core::filter::Filter;
use dominator_core::image::Image;
use dominator_core::inode::{Device, Inode, Kind, Mode, Timestamp, Why, Xattrs};
use dominator_core::namespace::DirectoryMetadata;
use dominator_core::object::{Algorithm, ObjectId};
use dominator_core::plan::{Operation, Plan};
use dominator_core::tree::{BadEntry, Directory, LinkSets, Tree};
use dominator_core::view::{Granularity, Ownership, View, XattrClass, XattrPolicy};
use proptest::prelude::*;

/// Each decoder, followed by its encoder.
type Recode = fn(&[u8]) -> Result<Vec<u8>, DecodeError>;
const FORMATS: [(&str, Recode); 7] = [
    ("directory", |bytes| decode_directory(bytes).map(|value| value.encoded().to_vec())),
    ("links", |bytes| LinkSets::decode(bytes).map(|value| value.encode())),
    ("tree", |bytes| Tree::decode(bytes).map(|value| value.encode())),
    ("view", |bytes| View::decode(bytes).map(|value| value.encode())),
    ("image", |bytes| Image::decode(bytes).map(|value| value.encode())),
    ("plan", |bytes| Plan::decode(bytes).map(|value| value.encode())),
    ("directory-metadata", |bytes| DirectoryMetadata::decode(bytes).map(|value| value.encode())),
];

fn decode_directory(bytes: &[u8]) -> Result<Directory, DecodeError> {
    Directory::decode(bytes.to_vec())
}

fn directory_of<'a>(entries: impl IntoIterator<Item = (&'a str, Inode)>) -> Directory {
    Directory::new(entries.into_iter().map(|(text, inode)| (name(text), inode))).unwrap()
}

fn time() -> Timestamp {
    Timestamp::new(1_700_000_000, 123_456_789).unwrap()
}

fn example_directory() -> Directory {
    let mut xattrs = Xattrs::default();
    xattrs.insert(b"user.note", b"\xff\0").unwrap();
    xattrs.insert(b"security.capability", b"\x01\0\0\x02").unwrap();
    let tool = Inode { mode: Mode::from_st_mode(0o4755), uid: 7, gid: 0xffff_fffe, xattrs, ..file("tool") };
    let old = Timestamp::new(-1, 999_999_999).unwrap();
    let entries = [
        ("tool", tool),
        ("empty", file("")),
        ("computed", inode(0o600, Kind::Computed { source: "filegen.example:6977".into() })),
        ("link", Inode { mode: Mode::SYMLINK, ..inode(0, Kind::Symlink { target: (*b"../\xe9").into() }) }),
        ("disk", inode(0o660, Kind::BlockDevice { mtime: time(), device: Device { major: 8, minor: 1 } })),
        ("null", inode(0o666, Kind::CharDevice { mtime: time(), device: Device { major: 1, minor: 3 } })),
        ("pipe", inode(0o600, Kind::Fifo { mtime: old })),
        ("sub", directory()),
        ("\u{1}control", Inode::unknown(Why::Changing)),
        ("zzz", Inode::unknown(Why::Unreadable)),
    ];
    directory_of(entries)
}

fn example_links() -> LinkSets {
    let set = |names: &[&str]| names.iter().map(|text| path(text)).collect::<Vec<_>>();
    LinkSets::new([set(&["/usr/bin/perl5", "/usr/bin/perl"]), set(&["/a/b", "/a-b", "/c"])])
}

fn example_tree() -> Tree {
    let root = Inode { kind: Kind::Directory { id: example_directory().id() }, ..directory() };
    Tree { algorithm: Algorithm::Sha256, view: View::everything().id(), root, links: example_links().id() }
}

fn example_view() -> View {
    View {
        filters: vec![Filter::Sparse, Filter::Empty, Filter::parse("/tmp(|/.*)$\n!\n/var/log/.*").unwrap()],
        protected: BTreeSet::from([path("/proc"), path("/dev/shm")]),
        only: Some(BTreeSet::from([path("/"), path("/etc"), path("/etc/motd"), path("/etc-old")])),
        xattrs: XattrPolicy::of([XattrClass::Capability, XattrClass::User]),
        ownership: Ownership::Ignored,
        mtime: Granularity::SECOND,
    }
}

fn example_plan() -> Plan {
    let operations = vec![
        Operation::SetMetadata { paths: vec![path("/")], inode: directory() },
        Operation::MakeDirectory { path: path("/srv"), inode: directory() },
        Operation::Put { path: path("/srv/a"), inode: file("a") },
        Operation::Link { path: path("/srv/b"), target: path("/srv/a") },
        Operation::SetMetadata { paths: vec![path("/etc/x"), path("/etc/y")], inode: file("x") },
        Operation::Delete { path: path("/old/file"), directory: false },
        Operation::Delete { path: path("/old"), directory: true },
    ];
    Plan { operations }
}

fn golden(format: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "golden", &format!("{format}.bin")].iter().collect()
}

/// The encoding is the golden file and the golden file is the value. Returns its digest.
#[track_caller]
fn check<T: Debug + PartialEq>(
    format: &str,
    value: &T,
    encoding: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
) -> String {
    if std::env::var_os("DOMINATOR_BLESS").is_some_and(|bless| bless == "1") {
        std::fs::write(golden(format), encoding).unwrap();
    }
    let golden = std::fs::read(golden(format)).unwrap();
    assert!(encoding == golden, "{format} is encoded as {}, not as its golden file", hex(encoding));
    assert_eq!(decode(&golden).as_ref(), Ok(value), "{format}");
    ObjectId::of(&golden).to_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn encodings_are_the_golden_files() {
    let (directory, links, tree) = (example_directory(), example_links(), example_tree());
    let (view, image, plan) = (example_view(), examples::image(example_tree()), example_plan());
    let metadata = examples::metadata();
    let digests = [
        check("directory", &directory, directory.encoded(), decode_directory),
        check("links", &links, &links.encode(), LinkSets::decode),
        check("tree", &tree, &tree.encode(), Tree::decode),
        check("view", &view, &view.encode(), View::decode),
        check("image", &image, &image.encode(), Image::decode),
        check("plan", &plan, &plan.encode(), Plan::decode),
        check("directory-metadata", &metadata, &metadata.encode(), DirectoryMetadata::decode),
    ];
    let expected = [
        "f8687fe33657edcd3c5dc2e823a3a162800b306ddd3dea92753cb2305af483bb",
        "392a8425498fc620ec86398319bbef2cab02f393b3721f7ef1b536b0822e2272",
        "ebb50952ab9a1238ce968d4e3f42a51c9a0a3085391781415998e9f2e0694236",
        "aebd1e9ac01395302156d6b7d518c3bfe2ba6a8ca9e1e1ba61a200fcbdb5cee7",
        "9983094a2f063d90e566a450652c03f70e90532abcb1edc2aac7f5f87c287eb2",
        "5c21640c686d6cd53f51ce19c23d33e8af2977717fc866bee34d7eb52b97c449",
        "c834cee127e5fd234b2c9a3dc535994b8e706d7dce1231ac04efa65f5de34736",
    ];
    assert_eq!(digests, expected);
    let ids = [directory.id().0, links.id().0, tree.id().0, view.id().0, image.id().0];
    assert_eq!(ids.map(|id| id.to_string()), expected[..5]);
}

#[test]
fn names_of_nothing_are_those_in_the_manual() {
    let ids = [Directory::default().id().0, LinkSets::default().id().0, View::everything().id().0];
    let expected = [
        "46788cb2c386821e6e84137d2ec83677ad32d65bb2f4e032dd3d8fb1b1f6cad6",
        "f1de4ad9266a7056fc94f04be779b96a1deb0465a018aff23c367d778dda3a2f",
        "1e28b9b477cb94c7fc43d8b25ed0fff0a110dbe014e0a47759e9bcb92dc1e3cc",
    ];
    assert_eq!(ids.map(|id| id.to_string()), expected);
}

/// The bytes of the example of that name in `docs/formats/tree.md`: what stands left of the bars.
fn documented(example: &str) -> Vec<u8> {
    let manual = include_str!("../../docs/formats/tree.md");
    let (_, rest) = manual.split_once(&format!("```hex {example}\n")).expect("the example is in the manual");
    let (lines, _) = rest.split_once("```").expect("the example ends");
    let bytes = |line: &str| line.split('|').next().map(str::to_owned).unwrap_or_default();
    let digits: Vec<_> = lines.lines().map(bytes).collect();
    digits
        .iter()
        .flat_map(|line| line.split_whitespace())
        .map(|byte| u8::from_str_radix(byte, 16).expect("two digits"))
        .collect()
}

#[test]
fn the_examples_of_the_manual_are_true() {
    let entries = [
        ("hello", file("hello\n")),
        ("link", Inode { mode: Mode::SYMLINK, ..inode(0, Kind::Symlink { target: (*b"hello").into() }) }),
    ];
    let example = directory_of(entries);
    assert_eq!(hex(&documented("directory")), hex(example.encoded()));
    let links = LinkSets::new([vec![path("/b"), path("/a")]]);
    assert_eq!(hex(&documented("links")), hex(&links.encode()));
    let root = Inode { kind: Kind::Directory { id: example.id() }, ..directory() };
    let (view, links) = (View::everything().id(), LinkSets::default().id());
    let tree = Tree { algorithm: Algorithm::Sha256, view, root, links };
    assert_eq!(hex(&documented("tree")), hex(&tree.encode()));
}

/// Whatever is taken is the one encoding of what it says.
#[track_caller]
fn takes_only_canonical(bytes: &[u8]) {
    for (format, recode) in FORMATS {
        if let Ok(again) = recode(bytes) {
            assert_eq!(hex(bytes), hex(&again), "{format}");
        }
    }
}

/// The four bytes at `at` say 2³²-1.
fn with_huge_count(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + 4].fill(0xff);
    bytes
}

#[test]
fn a_golden_file_with_any_fault_is_refused_or_says_something_else() {
    for (format, recode) in FORMATS {
        let golden = std::fs::read(golden(format)).unwrap();
        for end in 0..golden.len() {
            assert!(recode(&golden[..end]).is_err(), "{format} cut at {end}");
        }
        let longer = [golden.as_slice(), &[0]].concat();
        let at = golden.len();
        assert_eq!(recode(&longer), Err(DecodeError::Trailing { at }), "{format}");
        for at in 0..golden.len() {
            for mask in [0x01, 0x04, 0x20, 0x80, 0xff] {
                let mut flipped = golden.clone();
                flipped[at] ^= mask;
                takes_only_canonical(&flipped);
            }
        }
        (0..golden.len() - 3).for_each(|at| takes_only_canonical(&with_huge_count(&golden, at)));
    }
}

#[test]
fn one_format_is_not_taken_for_another() {
    for (format, _) in FORMATS {
        let golden = std::fs::read(golden(format)).unwrap();
        for (other, recode) in FORMATS.into_iter().filter(|(other, _)| *other != format) {
            let refused = matches!(recode(&golden), Err(DecodeError::WrongKind { .. }));
            assert!(refused, "a {format} read as a {other}");
        }
    }
}

/// What `value` is encoded as, with `from` (which is in it once) replaced.
#[track_caller]
fn forged(encoding: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let places: Vec<_> = (0..encoding.len()).filter(|at| encoding[*at..].starts_with(from)).collect();
    assert_eq!(places.len(), 1, "{} in {}", hex(from), hex(encoding));
    [&encoding[..places[0]], to, &encoding[places[0] + from.len()..]].concat()
}

#[test]
fn names_that_climb_out_are_refused() {
    let one = directory_of([("ab", file("x"))]);
    for bad in [b"..", b"a/", b"a\0"] {
        assert!(
            matches!(Directory::decode(forged(one.encoded(), b"ab", bad)), Err(DecodeError::Invalid(_))),
            "{bad:?}"
        );
    }
    let two = directory_of([("ab", file("x")), ("cd", file("x"))]);
    for bad in [b"ab", b"aa"] {
        let forged = forged(two.encoded(), b"cd", bad);
        assert_eq!(Directory::decode(forged), Err(DecodeError::Invalid("names out of order")));
    }
}

#[test]
fn inodes_no_machine_could_have_are_refused() {
    let link = Kind::Symlink { target: (*b"xy").into() };
    let time = Timestamp::default();
    let mut foreign = Xattrs::default();
    foreign.insert(b"user.overlay", b"").unwrap();
    let foreign = directory_of([("f", Inode { xattrs: foreign, ..file("") })]);
    let trusted = forged(foreign.encoded(), b"user.overlay", b"trusted.over");
    assert!(matches!(Directory::decode(trusted), Err(DecodeError::Invalid(_))), "trusted.*");
    let computed = Kind::Computed { source: "h:1".into() };
    let entries =
        [("l", inode(0o777, link)), ("m", inode(0o600, computed)), ("u", Inode::unknown(Why::Changing))];
    let sound = directory_of(entries);
    let far = [b"\0\0\x10\0".as_slice(), &[b'x'; 4096]].concat();
    for (from, to, what) in [
        (b"l\x01\xff".as_slice(), b"l\x01\xed".as_slice(), "a symbolic link with a mode"),
        (b"\0\0\0\x02xy", b"\0\0\0\0", "a symbolic link to nothing"),
        (b"xy", b"x\0", "a symbolic link to NUL"),
        (b"\0\0\0\x02xy", &far, "a symbolic link too far"),
        (b"\0\0\0\x03h:1", b"\0\0\0\0", "computed by nobody"),
        (b"?\0\0\0\0\0\0", b"?\0\0\0\0\0\x01", "the owner of an unknown"),
        (b"?\0\0", b"?\0\x01", "the mode of an unknown"),
    ] {
        assert!(Directory::decode(forged(sound.encoded(), from, to)).is_err(), "{what}");
    }
    let fifo = directory_of([("f", inode(0o644, Kind::Fifo { mtime: time }))]);
    let encoding = fifo.encoded();
    let second = [&encoding[..encoding.len() - 4], &1_000_000_000u32.to_be_bytes()].concat();
    assert!(matches!(Directory::decode(second), Err(DecodeError::Invalid(_))), "10⁹ nanoseconds");
}

#[test]
fn inodes_no_machine_could_have_are_not_encoded() {
    let link = |target: &[u8]| Kind::Symlink { target: target.into() };
    let computed = |source: String| inode(0o600, Kind::Computed { source });
    for (bad, what) in [
        (inode(0o755, link(b"x")), "a symbolic link with a mode"),
        (inode(0o777, link(b"")), "a symbolic link to nothing"),
        (inode(0o777, link(b"a\0")), "a symbolic link to NUL"),
        (inode(0o777, link(&[b'a'; 4096])), "a symbolic link too far"),
        (computed(String::new()), "computed by nobody"),
        (computed("h".repeat(513)), "computed too far away"),
        (Inode { uid: 1, ..Inode::unknown(Why::Changing) }, "the owner of an unknown"),
    ] {
        let refused = Directory::new([(name("f"), bad)]);
        assert!(matches!(refused, Err(BadEntry::Inode { .. })), "{what}");
    }
}

#[test]
fn hard_links_are_disjoint_sets_of_two_or_more_names() {
    let links = example_links().encode();
    let refused = |bytes: Vec<u8>| LinkSets::decode(&bytes).is_err();
    assert!(refused(forged(&links, b"/c", b"/a")), "out of order");
    assert!(!refused(forged(&links, b"/c", b"/x")), "another name");
    assert!(refused(forged(&links, b"\0\0\0\x04/a/b", b"\0\0\0\x01/")), "the root");
    assert!(refused(forged(&links, b"\0\0\0\x03", b"\0\0\0\x01")), "one name");
    let twice = [b"DLK1\0\0\0\x02".as_slice(), &set(&["/a", "/b"]), &set(&["/a", "/c"])].concat();
    assert!(refused(twice), "one name in two sets");
    let shared = [b"DLK1\0\0\0\x02".as_slice(), &set(&["/a", "/c"]), &set(&["/b", "/c"])].concat();
    assert!(refused(shared), "one name in two sets, not the first");
    let sets = [b"DLK1\0\0\0\x02".as_slice(), &set(&["/c", "/d"]), &set(&["/a", "/b"])].concat();
    assert!(refused(sets), "sets out of order");
    let root = LinkSets::new([vec![path("/"), path("/a")]]);
    assert!(root.is_empty(), "the root has one name");
}

fn set(names: &[&str]) -> Vec<u8> {
    let mut bytes = u32::try_from(names.len()).unwrap().to_be_bytes().to_vec();
    for name in names {
        bytes.extend(u32::try_from(name.len()).unwrap().to_be_bytes());
        bytes.extend(name.as_bytes());
    }
    bytes
}

#[test]
fn a_plan_can_not_replace_the_root_or_put_what_is_unknown() {
    let (root, there) = (path("/"), path("/x"));
    for bad in [
        Operation::Delete { path: root.clone(), directory: true },
        Operation::Put { path: root.clone(), inode: file("x") },
        Operation::MakeDirectory { path: root.clone(), inode: directory() },
        Operation::Link { path: root.clone(), target: there.clone() },
        Operation::Link { path: there.clone(), target: root },
        Operation::MakeDirectory { path: there.clone(), inode: file("x") },
        Operation::Put { path: there.clone(), inode: directory() },
        Operation::Put { path: there.clone(), inode: Inode::unknown(Why::Unreadable) },
        Operation::SetMetadata { paths: vec![there.clone()], inode: Inode::unknown(Why::Unreadable) },
        Operation::SetMetadata { paths: Vec::new(), inode: file("x") },
        Operation::SetMetadata { paths: vec![there, path("/y")], inode: directory() },
    ] {
        let plan = Plan { operations: vec![bad] };
        assert!(matches!(Plan::decode(&plan.encode()), Err(DecodeError::Invalid(_))), "{plan:?}");
    }
}

#[test]
fn a_second_spelling_is_refused() {
    let mut xattrs = Xattrs::default();
    xattrs.insert(b"user.a1", b"").unwrap();
    xattrs.insert(b"user.a2", b"").unwrap();
    let directory = directory_of([("f", Inode { xattrs, ..file("x") })]);
    let directory = directory.encoded();
    let (view, image) = (example_view().encode(), examples::image(example_tree()).encode());
    let lines = b"\x02\0\0\0\x01\0\0\0\x0b/var/log/.*";
    let checks: [(Vec<u8>, Recode, &str); 7] = [
        (forged(directory, b"user.a2", b"user.a1"), FORMATS[0].1, "an attribute twice"),
        (forged(directory, b"r\x01\xa4", b"r\x11\xa4"), FORMATS[0].1, "a mode of thirteen bits"),
        (forged(&view, b"\x08/dev/shm", b"\x05/proc"), FORMATS[3].1, "a path twice"),
        (forged(&image, b"\x05stage", b"\x02os"), FORMATS[4].1, "a tag twice"),
        (forged(&image, lines, b"\x02\0\0\0\0"), FORMATS[4].1, "lines, but none"),
        (
            forged(&image, b"\"MatchLines\": [", b"\"MatchLines\" :["),
            FORMATS[4].1,
            "triggers written otherwise",
        ),
        (
            forged(&image, b"\"DoReload\": true", b"\"DoReboot\":false"),
            FORMATS[4].1,
            "triggers that say less",
        ),
    ];
    for (forgery, recode, what) in checks {
        assert!(matches!(recode(&forgery), Err(DecodeError::Invalid(_))), "{what}: {:?}", recode(&forgery));
    }
}

#[test]
fn the_filter_of_no_lines_has_one_encoding() {
    let lines = Filter::Lines(dominator_core::filter::Lines::new(Vec::new()).unwrap());
    let view = |filter| View { filters: vec![filter], ..View::everything() };
    assert_eq!(view(lines).id(), view(Filter::Empty).id());
    assert_ne!(view(Filter::Empty).id(), view(Filter::Sparse).id());
}

proptest! {
    #[test]
    fn directories_round_trip(value in arbitrary::directories()) {
        prop_assert_eq!(Directory::decode(value.encoded().clone()), Ok(value));
    }

    #[test]
    fn link_sets_round_trip(value in arbitrary::link_sets()) {
        prop_assert_eq!(LinkSets::decode(&value.encode()), Ok(value));
    }

    #[test]
    fn trees_round_trip(value in arbitrary::trees()) {
        prop_assert_eq!(Tree::decode(&value.encode()), Ok(value));
    }

    #[test]
    fn views_round_trip(value in arbitrary::views()) {
        prop_assert_eq!(View::decode(&value.encode()), Ok(value));
    }

    #[test]
    fn images_round_trip(value in arbitrary::images()) {
        prop_assert_eq!(Image::decode(&value.encode()), Ok(value));
    }

    #[test]
    fn plans_round_trip(value in arbitrary::plans()) {
        prop_assert_eq!(Plan::decode(&value.encode()), Ok(value));
    }

    #[test]
    fn different_directories_have_different_ids(a in arbitrary::directories(), b in arbitrary::directories()) {
        prop_assert_eq!(a == b, a.id() == b.id());
    }

    #[test]
    fn random_bytes_are_refused_or_canonical(
        magic in prop::sample::select(vec![*b"DDR1", *b"DLK1", *b"DTR1", *b"DVW1", *b"DIM3", *b"DPL1", *b"DID1"]),
        rest in prop::collection::vec(prop_oneof![Just(0u8), Just(1), any::<u8>()], 0..200),
    ) {
        takes_only_canonical(&[magic.as_slice(), &rest].concat());
        takes_only_canonical(&rest);
    }

    #[test]
    fn damaged_encodings_are_refused_or_canonical(
        encoding in prop_oneof![
            arbitrary::directories().prop_map(|value| value.encoded().to_vec()),
            arbitrary::link_sets().prop_map(|value| value.encode()),
            arbitrary::trees().prop_map(|value| value.encode()),
            arbitrary::views().prop_map(|value| value.encode()),
            arbitrary::images().prop_map(|value| value.encode()),
            arbitrary::plans().prop_map(|value| value.encode()),
        ],
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let at = at.index(encoding.len());
        let mut damaged = encoding.clone();
        damaged[at] = byte;
        takes_only_canonical(&damaged);
        takes_only_canonical(&encoding[..at]);
        takes_only_canonical(&[encoding.as_slice(), &[byte]].concat());
        takes_only_canonical(&with_huge_count(&encoding, at.min(encoding.len() - 4)));
        damaged.remove(at);
        takes_only_canonical(&damaged);
    }
}
