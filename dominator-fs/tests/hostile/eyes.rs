//! Looking at one tree again and again, and what must hold of every look, whatever happened meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use dominator_core::inode::Inode;
use dominator_core::path::ImagePath;
use dominator_core::view::View;
use dominator_fs::root::Root;
use dominator_fs::scan::{Cancel, Scan, Scanner};
use dominator_fs_testkit::{described, observed};

/// More names than any tree here has.
const MAX_INODES: u64 = 2_000_000;

pub(crate) fn path(text: &str) -> ImagePath {
    ImagePath::parse(text.as_bytes()).unwrap()
}

/// Looks at one tree in both ways.
pub(crate) struct Eyes {
    scanner: Scanner,
}

impl Eyes {
    pub(crate) fn on(dir: &Path) -> Self {
        Self::under(dir, View::everything())
    }

    pub(crate) fn under(dir: &Path, view: View) -> Self {
        Self { scanner: Scanner::new(Root::open(dir).unwrap(), Arc::new(view)) }
    }

    /// A look of each kind, each of a whole tree.
    pub(crate) fn look(&mut self) -> [Scan; 1] {
        let anew = self.scanner.scan(&Cancel::default()).unwrap();
        whole(&anew);
        [anew]
    }

    /// A look of each kind at a tree that is at rest: all see what the oracle sees, and nothing is in doubt.
    pub(crate) fn agree(&mut self, dir: &Path, excludes: &[&str]) -> [Scan; 1] {
        let theirs = observed(dir, excludes);
        let looks = self.look();
        for look in &looks {
            assert_eq!(look.facts, []);
            same(&described(&look.snapshot), &theirs);
        }
        looks
    }
}

/// Both must say the same, word for word.
pub(crate) fn same<V: PartialEq + std::fmt::Debug>(ours: &BTreeMap<String, V>, theirs: &BTreeMap<String, V>) {
    for (path, entry) in theirs {
        assert_eq!(ours.get(path), Some(entry), "{path}");
    }
    let extra: Vec<_> = ours.keys().filter(|path| !theirs.contains_key(*path)).collect();
    assert!(extra.is_empty(), "not there: {extra:?}");
}

/// The tree is complete, what is unknown in it is told among the facts and nothing else is, and what hides something
/// is held.
pub(crate) fn whole(scan: &Scan) {
    scan.snapshot.verify(MAX_INODES).unwrap();
    let told: BTreeSet<_> = scan.facts.iter().map(|fact| &fact.path).collect();
    assert!(scan.facts.windows(2).all(|pair| pair[0].path <= pair[1].path), "{:?}", scan.facts);
    let mut unknown = 0;
    scan.snapshot.walk(|path, inode| {
        if inode.is_unknown() {
            unknown += 1;
            assert!(told.contains(path), "{path} is unknown, and nobody says why");
            assert!(path.parent().is_none_or(|parent| scan.held.contains(&parent)), "{path} is not held");
        }
    });
    assert_eq!(scan.counts.unknown, unknown);
    for fact in &scan.facts {
        let hides = match scan.snapshot.inode(&fact.path) {
            // A name in it is none a tree could hold.
            Some(inode) if inode.is_directory() => scan.held.contains(&fact.path),
            inode => inode.as_ref().is_some_and(Inode::is_unknown),
        };
        assert!(hides, "{fact}, but it is known");
    }
    for held in &scan.held {
        assert!(
            held.parent().is_none_or(|parent| scan.held.contains(&parent)),
            "{held} is held, what it is in is not"
        );
    }
}
