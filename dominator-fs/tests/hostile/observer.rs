//! Looking at one tree again and again, and what must hold of every look, whatever happened meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use dominator_core::inode::{Inode, Timestamp};
use dominator_core::path::ImagePath;
use dominator_core::view::View;
use dominator_fs::pace::Pacer;
use dominator_fs::root::{Beneath, Root};
use dominator_fs::scan::{Cache, Cancel, Clock, Scan, ScanError, Scanner, Scrub};
use dominator_fs_testkit::{described, observed};

/// More names than any tree here has.
const MAX_INODES: u64 = 2_000_000;

pub(crate) fn path(text: &str) -> ImagePath {
    ImagePath::parse(text.as_bytes()).unwrap()
}

/// Looks at one tree in both ways, and scrubs it.
pub(crate) struct Observer {
    root: Root,
    scanner: Scanner,
    cache: Cache,
    scrub: Scrub,
    /// How far the time is ahead of the system's, in seconds.
    ahead: Arc<AtomicI64>,
}

/// Where something may have changed, or where there is nothing at all.
const HINTS: [&str; 9] = [
    "/storm",
    "/storm/0",
    "/storm/1/a/b",
    "/storm/2/a/stay",
    "/d0",
    "/d1/deeper/deeper",
    "/directory2",
    "/link0/there",
    "/gone/by/now",
];

/// How long changes can hide: nobody here writes through mappings, and clocks tick more often.
const EXPIRY: Duration = Duration::from_millis(100);

/// More than that, in seconds.
const LATER: i64 = 3_600;

impl Observer {
    pub(crate) fn on(dir: &Path) -> Self {
        Self::under(dir, View::everything())
    }

    /// Looks beneath what is mounted.
    pub(crate) fn beneath(dir: &Path) -> Self {
        let (root, beneath) = Root::open_beneath_mounts(dir).unwrap();
        assert!(matches!(beneath, Beneath::Yes), "{beneath:?}");
        Self::at(root, View::everything())
    }

    pub(crate) fn under(dir: &Path, view: View) -> Self {
        Self::at(Root::open(dir).unwrap(), view)
    }

    fn at(root: Root, view: View) -> Self {
        let ahead = Arc::new(AtomicI64::new(0));
        let (system, moved) = (Clock::system(), Arc::clone(&ahead));
        let clock = Clock::new(move || {
            let now = system.now();
            Timestamp::new(now.seconds() + moved.load(Ordering::Relaxed), now.nanos()).unwrap()
        });
        let scanner = Scanner::new(root.clone(), Arc::new(view)).clock(clock).write_back_expiry(EXPIRY);
        Self { root, scanner, cache: Cache::new(), scrub: Scrub::new(Duration::ZERO), ahead }
    }

    /// Looks with what others have left with [`Self::save`], and holds that changes can hide for long.
    pub(crate) fn resumed(dir: &Path, kept: &Path) -> Self {
        let mut observer = Self::on(dir);
        observer.cache = Cache::load(open(kept).as_fd(), KEPT, &observer.root).unwrap();
        observer.scanner = observer.scanner.write_back_expiry(Duration::from_secs(LATER.unsigned_abs()));
        observer
    }

    pub(crate) fn save(&self, kept: &Path) {
        drop(self.cache.save(open(kept).as_fd(), KEPT).unwrap());
    }

    /// A look anew, and one with what is known of the looks before: whole trees, both.
    pub(crate) fn look(&mut self) -> [Scan; 2] {
        self.try_look().map(Result::unwrap)
    }

    pub(crate) fn try_look(&mut self) -> [Result<Scan, ScanError>; 2] {
        let cancel = Cancel::default();
        let looks = [self.scanner.scan(&cancel), self.scanner.rescan(&mut self.cache, &cancel)];
        looks.iter().flatten().for_each(whole);
        // And one that was told where to look, rightly or wrongly: it may be old in other places, but is as whole.
        let hints = HINTS.map(path).into();
        self.scanner.rescan_only(&mut self.cache, &hints, &cancel).iter().for_each(whole);
        // A step of a scrub that never pauses: whatever happens to the tree meanwhile is no corruption.
        let now = Timestamp::new(Clock::system().now().seconds(), 0).unwrap();
        let step = self.scrub.step(&self.root, &mut self.cache, now, &Pacer::unlimited(), &cancel);
        assert_eq!(step.corrupt, []);
        looks
    }

    /// Lets so much time pass that nothing is fresh any more.
    pub(crate) fn settle(&self) {
        self.ahead.fetch_add(LATER, Ordering::Relaxed);
    }

    /// What each way of looking sees of a tree that came to rest: what the oracle sees, and without any doubt.
    pub(crate) fn agree(&mut self, dir: &Path, excludes: &[&str]) -> [Scan; 2] {
        self.settle();
        self.agree_at_once(dir, excludes)
    }

    /// The same of one that stands still only now.
    pub(crate) fn agree_at_once(&mut self, dir: &Path, excludes: &[&str]) -> [Scan; 2] {
        let theirs = observed(dir, excludes);
        let looks = self.look();
        for look in &looks {
            assert_eq!(look.facts, []);
            same(&described(&look.snapshot), &theirs);
        }
        assert_eq!(looks[0].snapshot.id(), looks[1].snapshot.id());
        looks
    }
}

const KEPT: &[u8] = b"kept";

fn open(dir: &Path) -> OwnedFd {
    fs::File::open(dir).unwrap().into()
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
