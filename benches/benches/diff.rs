//! Comparing a machine with its image: time must follow what differs, not what is there.
//!
//! Both trees have 32 000 entries in some 3 000 directories, as a Debian system has, one of them with 3 000 entries, and
//! 1 000 hard links. `walk` finds what differs, `plan` also says what is to be done about it.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use dominator_core::inode::{Inode, Kind, Mode, Timestamp, Xattrs};
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::plan::Comparison;
use dominator_core::tree::{Builder, Snapshot};
use dominator_core::view::View;

const ENTRIES: usize = 32_000;
const FILES: usize = 28_500;

fn diff(criterion: &mut Criterion) {
    let required = tree(&BTreeSet::new());
    let mut count = 0;
    required.walk(|_, _| count += 1);
    assert!((ENTRIES - 200..ENTRIES + 200).contains(&count), "{count} entries");
    // Spread over the whole tree, as drift and updates are.
    let changed = |number: usize| (0..number).map(|n| n * FILES / number / 2 * 2 + 1).collect();
    for (name, changes) in [("equal", 0), ("20 changes", 20), ("10 % changes", ENTRIES / 10)] {
        let actual = tree(&changed(changes));
        let comparison = Comparison {
            required: &required,
            actual: &actual.tree,
            links: Some(&actual.links),
            directories: &actual.directories,
        };
        assert_eq!(comparison.plan().unwrap().plan.paths().count(), changes, "{name}");
        let mut group = criterion.benchmark_group(name);
        group.bench_function("walk", |bench| bench.iter(|| black_box(&comparison).missing().unwrap()));
        group.bench_function("plan", |bench| bench.iter(|| black_box(&comparison).plan().unwrap()));
        group.finish();
    }
}

/// The tree, with other contents in the files of those numbers.
fn tree(changed: &BTreeSet<usize>) -> Snapshot {
    let mut builder = Builder::new(inode(Kind::Directory { id: Builder::placeholder() })).unwrap();
    for number in 0..FILES {
        let at = place(number);
        let ancestors: Vec<_> = std::iter::successors(at.parent(), ImagePath::parent).collect();
        for above in ancestors.iter().rev().filter(|above| !above.is_root()) {
            if !builder.contains(above) {
                builder.insert(above, inode(Kind::Directory { id: Builder::placeholder() })).unwrap();
            }
        }
        builder.insert(&at, file(number, changed.contains(&number))).unwrap();
    }
    // None of these is changed: those are of odd numbers.
    for number in (0..4000).step_by(4) {
        builder.link(&place(number * 6 + 2), &place(number * 6)).unwrap();
    }
    builder.finish(View::everything().id())
}

/// Where the file of that number lies: a tenth of all in one directory, the others ten to a directory.
fn place(number: usize) -> ImagePath {
    let path = match number % 10 {
        0 => format!("/var/lib/dpkg/info/package-{number}.list"),
        _ => {
            let directory = number % 2911;
            format!("/usr/{}/share/{}/doc-{directory}/file-{number}", directory % 5, directory % 97)
        }
    };
    ImagePath::parse(path.as_bytes()).unwrap()
}

fn file(number: usize, changed: bool) -> Inode {
    let contents = format!("{number} {changed}");
    let (object, size) = (ObjectId::of(contents.as_bytes()), contents.len() as u64);
    inode(Kind::Regular { mtime: Timestamp::new(1_700_000_000, 0).unwrap(), size, object })
}

fn inode(kind: Kind) -> Inode {
    let mode = if matches!(kind, Kind::Directory { .. }) { 0o755 } else { 0o644 };
    Inode { mode: Mode::from_st_mode(mode), uid: 0, gid: 0, xattrs: Xattrs::default(), kind }
}

criterion_group!(benches, diff);
criterion_main!(benches);
