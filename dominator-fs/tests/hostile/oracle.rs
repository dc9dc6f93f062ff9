//! Trees of every shape, which the oracle judges; before and after they were disturbed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use dominator_core::filter::Filter;
use dominator_core::inode::Why;
use dominator_core::path::ImagePath;
use dominator_core::view::View;
use dominator_fs_testkit::{Entries, chain, deep, described, left_out, nasty, needs_root, observed};
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::observer::{Observer, same};

/// Changes a tree in every way a machine drifts, by a program that shares no code with ours.
pub(crate) fn disturb(tree: &Path, seed: u64) {
    let drift = concat!(env!("CARGO_MANIFEST_DIR"), "/../bins/testkit/drift.py");
    let status =
        Command::new("python3").arg(drift).arg(tree).args(["--seed", &seed.to_string()]).output().unwrap();
    assert!(status.status.success(), "seed {seed}: {}", String::from_utf8_lossy(&status.stderr));
}

#[test]
fn nasty_trees_are_seen_as_they_are_before_and_after_they_drift() {
    const TEST: &str = "oracle::nasty_trees_are_seen_as_they_are_before_and_after_they_drift";
    // Who is not root can't change owners or make devices.
    if !needs_root(TEST) {
        return;
    }
    let tree = tempfile::tempdir().unwrap();
    nasty(tree.path());
    nasty(&tree.path().join("links/deeper"));
    let mut observer = Observer::on(tree.path());
    observer.agree(tree.path(), &[]);
    for seed in 0..2 {
        disturb(tree.path(), seed);
        observer.agree(tree.path(), &[]);
    }
}

#[test]
fn webs_of_hard_links_are_told_as_far_as_they_are_in_view() {
    const FILES: usize = 120;
    const HIDDEN: &str = "/hidden(/.*)?";
    let base = tempfile::tempdir().unwrap();
    let tree = base.path().join("tree");
    let places: Vec<PathBuf> = (0..7)
        .map(|number| tree.join(format!("{number}/{number}")))
        .chain([tree.join("hidden"), base.path().join("outside")])
        .collect();
    places.iter().for_each(|place| fs::create_dir_all(place).unwrap());
    // File n has a name in each place whose bit is set in n: any number of names, in view and not.
    let name = |place: usize, file: usize| places[place].join(format!("{file}"));
    let names = |file: usize| (0..places.len()).filter(move |place| file >> place & 1 == 1);
    for file in 1..=FILES * 4 {
        let mut names = names(file);
        let first = name(names.next().unwrap(), file);
        if file % 3 == 0 {
            symlink(format!("target {file}"), &first).unwrap();
        } else {
            fs::write(&first, format!("file {file}")).unwrap();
        }
        names.for_each(|place| fs::hard_link(&first, name(place, file)).unwrap());
    }
    let view = View { filters: vec![Filter::parse(HIDDEN).unwrap()], ..View::everything() };
    let mut observer = Observer::under(&tree, view);
    let sets = observer.agree(&tree, &[HIDDEN])[1].snapshot.links.iter().count();
    assert!(sets > FILES, "{sets}");
    // One name goes, one comes, for each file in another place; then a file is written, and one changes hands.
    for file in (5..FILES * 4).step_by(7) {
        let gone = names(file).nth(file % 2).or(names(file).next()).unwrap();
        let come = (0..places.len()).find(|place| file >> place & 1 == 0);
        if let Some(come) = come {
            fs::hard_link(name(gone, file), name(come, file)).unwrap();
        }
        fs::remove_file(name(gone, file)).unwrap();
    }
    fs::write(name(0, 1), b"written").unwrap();
    fs::rename(name(8, 384), name(7, 384)).unwrap();
    observer.agree(&tree, &[HIDDEN]);
}

/// An access control list in the kernel's words: these rights for its owner, user 7, its group, most, and others.
fn acl(rights: [u16; 5]) -> Vec<u8> {
    let owners = [(1, u32::MAX), (2, 7), (4, u32::MAX), (16, u32::MAX), (32, u32::MAX)];
    let mut encoded = 2_u32.to_le_bytes().to_vec();
    for ((tag, id), rights) in owners.into_iter().zip(rights) {
        encoded.extend([u16::to_le_bytes(tag), rights.to_le_bytes()].concat());
        encoded.extend(u32::to_le_bytes(id));
    }
    encoded
}

/// Sets as many attributes as this file-system takes; how many that were.
fn fill(path: &Path, values: impl IntoIterator<Item = (String, Vec<u8>)>) -> usize {
    let set =
        |(name, value): (String, Vec<u8>)| rustix::fs::setxattr(path, name, &value, XattrFlags::empty());
    values.into_iter().map(set).take_while(Result::is_ok).count()
}

fn attributes(tree: &Path) {
    let named = |count: usize, length: usize| {
        (0..count).map(move |number| {
            (format!("user.{number:0>3}"), vec![u8::try_from(number % 256).unwrap(); length])
        })
    };
    for name in ["few", "many", "long", "huge", "capable", "listed", "trusted"] {
        fs::write(tree.join(name), name).unwrap();
    }
    fs::create_dir(tree.join("directory")).unwrap();
    symlink("few", tree.join("link")).unwrap();
    let filled = [("few", 3, 5), ("many", 1_000, 2), ("long", 10, 4_000), ("huge", 3, 64 * 1024)]
        .map(|(name, count, length)| fill(&tree.join(name), named(count, length)));
    assert!(filled[0] == 3 && filled[1] > 20, "{filled:?}");
    fill(&tree.join("few"), [(format!("user.{}", "n".repeat(250)), b"a long name".to_vec())]);
    fill(
        &tree.join("few"),
        [("user.é\n\u{1}".into(), b"an odd name".to_vec()), ("user.empty".into(), Vec::new())],
    );
    fill(&tree.join("directory"), named(5, 100));
    fill(&tree.join("listed"), [("system.posix_acl_access".into(), acl([7, 5, 4, 5, 0]))]);
    fill(
        &tree.join("directory"),
        [
            ("system.posix_acl_access".into(), acl([7, 1, 0, 7, 0])),
            ("system.posix_acl_default".into(), acl([7, 7, 0, 7, 0])),
        ],
    );
    fs::write(tree.join("directory/inherits"), b"from its directory").unwrap();
    let capability = |bits: u8| [&[1, 0, 0, 2, bits, 0x20][..], &[0; 14]].concat();
    fill(&tree.join("capable"), [("security.capability".into(), capability(0))]);
    fill(&tree.join("trusted"), [("trusted.secret".into(), b"never looked at".to_vec())]);
    fill(&tree.join("link"), [("security.selinux".into(), b"on the file, not the link".to_vec())]);
}

/// In the usual place, and in memory, where values may be as long as Linux allows.
#[test]
fn extended_attributes_of_every_kind_and_size_are_seen() {
    const TEST: &str = "oracle::extended_attributes_of_every_kind_and_size_are_seen";
    for place in [std::env::temp_dir(), "/dev/shm".into()] {
        if !place.is_dir() {
            left_out(TEST, "there is no file-system in memory");
            continue;
        }
        let tree = tempfile::tempdir_in(place).unwrap();
        let tree = tree.path();
        match rustix::fs::setxattr(tree, "user.of-the-root", b"1", XattrFlags::empty()) {
            Err(Errno::NOTSUP) => {
                left_out(TEST, "one of the file-systems keeps no attributes");
                continue;
            }
            outcome => outcome.unwrap(),
        }
        attributes(tree);
        let mut observer = Observer::on(tree);
        let before = observer.agree(tree, &[]).map(|look| look.snapshot.id());
        fill(&tree.join("few"), [("user.001".into(), b"other".to_vec())]);
        fill(&tree.join("listed"), [("system.posix_acl_access".into(), acl([7, 4, 4, 5, 0]))]);
        rustix::fs::removexattr(tree.join("many"), "user.007").unwrap();
        rustix::fs::removexattr(tree.join("directory"), "user.003").unwrap();
        rustix::fs::removexattr(tree, "user.of-the-root").unwrap();
        let after = observer.agree(tree, &[]).map(|look| look.snapshot.id());
        assert_ne!(before, after);
    }
}

/// What the oracle sees of a tree that holds paths no tree of ours could.
fn as_far_as_paths_go(tree: &Path) -> (Entries, usize) {
    let mut seen = observed(tree, &[]);
    let all = seen.len();
    seen.retain(|path, _| ImagePath::parse(path.as_bytes()).is_ok());
    let left = all - seen.len();
    (seen, left)
}

#[test]
fn paths_as_long_and_deep_as_can_be_are_seen_and_longer_ones_are_facts() {
    let tree = tempfile::tempdir().unwrap();
    let below = |name: &str| {
        let below = tree.path().join(name);
        fs::create_dir(&below).unwrap();
        below
    };
    let fits = |name: &str, end: &str, step: usize| (ImagePath::MAX_LEN - name.len() - 1 - end.len()) / step;
    // To the last byte, and to the last but one.
    chain(&below(&"l".repeat(ImagePath::MAX_LEN - 15 * 256 - "//bottom".len())), &"n".repeat(255), 15);
    deep(&below("deepest"), fits("deepest", "/bottom", 2));
    let mut observer = Observer::on(tree.path());
    observer.agree(tree.path(), &[]);

    chain(&below("too-long"), &"n".repeat(255), 17);
    deep(&below("too-deep"), 2_100);
    observer.settle();
    let (theirs, left) = as_far_as_paths_go(tree.path());
    assert!(left > 50, "{left}");
    let deepest = [fits("too-deep", "", 2), fits("too-long", "", 256)];
    for look in observer.look() {
        same(&described(&look.snapshot), &theirs);
        let facts: Vec<_> =
            look.facts.iter().map(|fact| (fact.path.components().count(), fact.why)).collect();
        assert_eq!(facts, deepest.map(|depth| (depth + 1, Why::Unreadable)));
    }
}
