//! What a scan need not do again, and what is kept of it from one process to the next.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dominator_core::inode::Timestamp;
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::view::{Granularity, Ownership, View, XattrPolicy};
use dominator_fs::root::Root;
use dominator_fs::scan::{Cache, CacheError, Cancel, Clock, Scan, Scanner};
use dominator_fs_testkit::{left_out, nasty, needs_root};
use proptest::prelude::*;

const EXPIRY: Duration = Duration::from_secs(36);

fn path(text: &str) -> ImagePath {
    ImagePath::parse(text.as_bytes()).unwrap()
}

/// A scanner whose clock is `ahead` seconds before the file-system's.
fn scanner(dir: &Path, view: View, ahead: i64) -> Scanner {
    let clock = Clock::new(move || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Timestamp::new(i64::try_from(now.as_secs()).unwrap() + ahead, now.subsec_nanos()).unwrap()
    });
    Scanner::new(Root::open(dir).unwrap(), Arc::new(view)).clock(clock).write_back_expiry(EXPIRY)
}

fn settled(dir: &Path) -> Scanner {
    scanner(dir, View::everything(), 1000)
}

fn rescan(scanner: &Scanner, cache: &mut Cache) -> Scan {
    scanner.rescan(cache, &Cancel::default()).unwrap()
}

/// A nasty tree, a cache that knows it, and a directory to save that in.
fn known() -> (tempfile::TempDir, Cache, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    nasty(dir.path());
    let mut cache = Cache::new();
    rescan(&settled(dir.path()), &mut cache);
    (dir, cache, tempfile::tempdir().unwrap())
}

fn load(state: &Path, root: &Path) -> Result<Cache, CacheError> {
    Cache::load(File::open(state).unwrap().as_fd(), b"scan", &Root::open(root).unwrap())
}

fn save(cache: &Cache, state: &Path) {
    let _durable = cache.save(File::open(state).unwrap().as_fd(), b"scan").unwrap();
}

#[test]
fn nothing_is_opened_where_nothing_changed_and_what_did_not_change_is_shared() {
    let (dir, mut cache, _) = known();
    let first = rescan(&settled(dir.path()), &mut cache);
    let kept = cache.clone();
    let second = rescan(&settled(dir.path()), &mut cache);
    assert!(cache.is_unchanged_since(&kept), "nothing is to be saved");
    assert_eq!((second.files_opened, second.bytes_hashed), (0, 0));
    assert_eq!(second.snapshot.id(), settled(dir.path()).scan(&Cancel::default()).unwrap().snapshot.id());
    fs::write(dir.path().join("many/7"), b"other").unwrap();
    fs::write(dir.path().join("many/new"), b"new").unwrap();
    let third = rescan(&settled(dir.path()), &mut cache);
    assert_eq!((third.files_opened, third.bytes_hashed), (2, 8));
    assert!(!cache.is_unchanged_since(&kept));
    let shared = |scan: &Scan| {
        let same = |(id, directory): (_, &Arc<_>)| {
            first.snapshot.directories.iter().any(|(other, old)| other == id && Arc::ptr_eq(old, directory))
        };
        scan.snapshot.directories.iter().filter(|(id, directory)| same((*id, directory))).count()
    };
    assert_eq!(shared(&second), first.snapshot.directories.len());
    assert_eq!(shared(&third), first.snapshot.directories.len() - 2, "all but the root and `many`");
}

#[test]
fn what_was_read_fresh_is_read_once_more_after_the_expiry_and_then_no_more() {
    let dir = tempfile::tempdir().unwrap();
    (0..5).for_each(|number| fs::write(dir.path().join(number.to_string()), b"x").unwrap());
    let mut cache = Cache::new();
    let opened =
        |ahead, cache: &mut _| rescan(&scanner(dir.path(), View::everything(), ahead), cache).files_opened;
    let times: Vec<_> = [0, 0, 10, 37, 38, 1000].map(|ahead| opened(ahead, &mut cache)).into();
    assert_eq!(times, [5, 0, 0, 5, 0, 0]);
}

/// A file-system whose times only tick, as many do, lives in a mount namespace that ends with the thread.
#[test]
fn what_changes_within_the_tick_in_which_it_was_looked_at_is_found() {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    const NONE: Option<&str> = None;
    const TEST: &str = "what_changes_within_the_tick_in_which_it_was_looked_at_is_found";
    if !needs_root(TEST) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mounted = std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).ok()?;
            mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).ok()?;
            mount(NONE, dir.path(), Some("ramfs"), MsFlags::empty(), NONE).ok()?;
            let hit = (0..2000).any(|_| within_a_tick(dir.path()));
            assert!(hit, "no two changes came within one tick");
            Some(())
        });
        inside.join().unwrap()
    });
    if mounted.is_none() {
        left_out(TEST, "mounts of its own are refused");
    }
}

/// Scans between two changes of a file and a directory. If they have the same time, the second must be found, too.
fn within_a_tick(dir: &Path) -> bool {
    let file = dir.join("file");
    fs::write(&file, b"one").unwrap();
    let times =
        || [file.as_path(), dir].map(|path| path.metadata().map(|s| (s.ctime(), s.ctime_nsec())).unwrap());
    let (before, mut cache) = (times(), Cache::new());
    rescan(&scanner(dir, View::everything(), 0), &mut cache);
    fs::OpenOptions::new().write(true).open(&file).unwrap().write_all_at(b"two", 0).unwrap();
    fs::write(dir.join("another"), b"").unwrap();
    let hit = times() == before;
    if hit {
        let full = settled(dir).scan(&Cancel::default()).unwrap().snapshot.id();
        assert_eq!(rescan(&settled(dir), &mut cache).snapshot.id(), full);
    }
    fs::remove_file(file).unwrap();
    fs::remove_file(dir.join("another")).unwrap();
    hit
}

#[test]
fn another_view_looks_at_everything_but_reads_nothing_again() {
    let (dir, mut cache, _) = known();
    let views = [
        View { xattrs: XattrPolicy::NONE, ..View::everything() },
        View { ownership: Ownership::Ignored, mtime: Granularity::SECOND, ..View::everything() },
        View { protected: [path("/many")].into(), ..View::everything() },
    ];
    for view in views {
        let scanner = scanner(dir.path(), view, 1000);
        let again = rescan(&scanner, &mut cache);
        assert_eq!(again.files_opened, 0);
        let full = scanner.scan(&Cancel::default()).unwrap();
        assert_eq!(
            (again.snapshot.id(), again.held, again.counts),
            (full.snapshot.id(), full.held, full.counts)
        );
    }
}

#[test]
fn a_scan_of_some_directories_leaves_what_is_fresh_below_them_to_the_scan_of_everything() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    fs::write(dir.path().join("a/b/file"), b"just installed").unwrap();
    let (later, mut cache) = (settled(dir.path()), Cache::new());
    rescan(&scanner(dir.path(), View::everything(), 0), &mut cache);
    let only = later.rescan_only(&mut cache, &BTreeSet::from([ImagePath::root()]), &Cancel::default());
    assert_eq!(only.unwrap().files_opened, 0);
    assert_eq!(rescan(&later, &mut cache).files_opened, 1);
}

#[test]
fn a_scan_of_some_directories_sees_what_changed_in_them_and_what_is_new_below() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    fs::create_dir_all(dir.path().join("c")).unwrap();
    fs::write(dir.path().join("a/b/file"), b"old").unwrap();
    fs::write(dir.path().join("c/file"), b"old").unwrap();
    fs::hard_link(dir.path().join("c/file"), dir.path().join("c/link")).unwrap();
    fs::write(dir.path().join("c/single"), b"one name").unwrap();
    let (scanner, mut cache) = (settled(dir.path()), Cache::new());
    let before = rescan(&scanner, &mut cache).snapshot;
    fs::create_dir_all(dir.path().join("a/new/below")).unwrap();
    fs::write(dir.path().join("a/new/below/file"), b"new").unwrap();
    fs::write(dir.path().join("a/b/file"), b"not told of").unwrap();
    let only = |cache: &mut _, directories: &[&str]| {
        let directories: BTreeSet<_> = directories.iter().map(|text| path(text)).collect();
        scanner.rescan_only(cache, &directories, &Cancel::default()).unwrap()
    };
    let after = only(&mut cache, &["/a"]);
    assert!(after.snapshot.inode(&path("/a/new/below/file")).is_some());
    assert_eq!(after.snapshot.inode(&path("/a/b/file")), before.inode(&path("/a/b/file")), "nobody told");
    // A new name in one directory of what is in another: both are looked at.
    fs::hard_link(dir.path().join("c/file"), dir.path().join("a/b/third")).unwrap();
    fs::hard_link(dir.path().join("c/single"), dir.path().join("a/b/second")).unwrap();
    let linked = only(&mut cache, &["/a/b"]);
    assert_eq!(linked.snapshot.id(), scanner.scan(&Cancel::default()).unwrap().snapshot.id());
    assert_eq!(linked.snapshot.links.iter().map(<[_]>::len).collect::<Vec<_>>(), [2, 3]);
    // What was told of is gone with the directory it was in.
    fs::remove_dir_all(dir.path().join("a")).unwrap();
    let gone = only(&mut cache, &["/a/new/below", "/a/b"]);
    assert_eq!(gone.snapshot.id(), scanner.scan(&Cancel::default()).unwrap().snapshot.id());
}

#[test]
fn a_cache_that_was_saved_knows_what_it_knew() {
    let (dir, cache, state) = known();
    save(&cache, state.path());
    let mut loaded = load(state.path(), dir.path()).unwrap();
    let scan = rescan(&settled(dir.path()), &mut loaded);
    let full = settled(dir.path()).scan(&Cancel::default()).unwrap();
    assert_eq!(scan.files_opened, 0);
    assert_eq!(scan.snapshot.id(), full.snapshot.id());
    assert_eq!((scan.facts, scan.held, scan.counts), (full.facts, full.held, full.counts));
    save(&loaded, state.path());
    save(&Cache::new(), state.path());
    assert!(matches!(load(state.path(), dir.path()), Err(CacheError::OtherRoot)), "of no root at all");
    assert_eq!(fs::read_dir(state.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn a_cache_of_another_root_or_damaged_anywhere_is_refused() {
    let (dir, cache, state) = known();
    save(&cache, state.path());
    let other = tempfile::tempdir().unwrap();
    assert!(matches!(load(state.path(), other.path()), Err(CacheError::OtherRoot)));
    let good = fs::read(state.path().join("scan")).unwrap();
    let refused = |bytes: &[u8], what: &str| {
        fs::write(state.path().join("scan"), bytes).unwrap();
        let loaded = load(state.path(), dir.path());
        assert!(matches!(loaded, Err(CacheError::Damaged(_) | CacheError::OtherRoot)), "{what}: {loaded:?}");
    };
    let step = good.len() / 400 + 1;
    for place in (0..good.len()).step_by(step) {
        let mut flipped = good.clone();
        flipped[place] ^= 1 << (place % 8);
        refused(&flipped, &format!("a bit at {place}"));
        refused(&good[..place], &format!("cut at {place}"));
    }
    refused(&[good.as_slice(), b"x"].concat(), "more at its end");
    fs::remove_file(state.path().join("scan")).unwrap();
    assert!(
        matches!(load(state.path(), dir.path()), Err(CacheError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound)
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// Whoever may write to the state directory can make a digest, too. That is root, who can do worse; but nothing of
    /// it may end a process, fill its memory, or make a tree that is none.
    #[test]
    fn hostile_bytes_under_a_right_digest_are_refused_or_make_a_sound_tree(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/file"), b"x").unwrap();
        std::os::unix::fs::symlink("file", dir.path().join("sub/link")).unwrap();
        fs::write(dir.path().join("file"), b"y").unwrap();
        let (state, mut cache) = (tempfile::tempdir().unwrap(), Cache::new());
        rescan(&settled(dir.path()), &mut cache);
        save(&cache, state.path());
        let mut bytes = fs::read(state.path().join("scan")).unwrap();
        bytes.truncate(bytes.len() - ObjectId::LEN);
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let digest = ObjectId::of(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        fs::write(state.path().join("scan"), &bytes).unwrap();
        if let Ok(mut cache) = load(state.path(), dir.path()) {
            rescan(&settled(dir.path()), &mut cache).snapshot.verify(100).unwrap();
        }
    }
}

#[test]
fn what_a_scan_that_never_came_to_its_end_had_read_by_half_of_its_time_is_kept() {
    let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let contents: Vec<u8> = (0..=255).cycle().take(200_000).collect();
    for number in 0..300_u32 {
        let sub = dir.path().join((number % 10).to_string());
        fs::create_dir_all(&sub).unwrap();
        let name = sub.join(number.to_string());
        fs::write(name, [&number.to_be_bytes(), &contents[..]].concat()).unwrap();
    }
    let scanner = settled(dir.path());
    let mut saved = 0;
    let mut keep = |cache: &Cache| {
        saved += 1;
        save(cache, state.path());
    };
    let every = Duration::from_micros(1);
    let scan = scanner.rescan_and_save(&mut Cache::new(), &Cancel::default(), every, &mut keep).unwrap();
    let truth = scanner.scan(&Cancel::default()).unwrap();
    assert_eq!(scan.snapshot.id(), truth.snapshot.id());
    assert!((5..64).contains(&saved), "{saved} times: each is later than the one before");
    assert!(scan.bytes_hashed < truth.bytes_hashed * 3 / 2, "what was read is not read again");
    // The next process begins with what was saved last.
    let mut cache = load(state.path(), dir.path()).unwrap();
    let next = rescan(&scanner, &mut cache);
    assert!(next.files_opened < 300, "all of them, as if nothing had been saved");
    assert_eq!(next.snapshot.id(), truth.snapshot.id());
}

#[test]
fn a_scan_that_saves_now_and_then_ends_when_it_is_told_to() {
    let (dir, mut cache, _) = known();
    let cancel = Cancel::default();
    let mut end = |_: &Cache| cancel.cancel();
    let ended = settled(dir.path()).rescan_and_save(&mut cache, &cancel, Duration::ZERO, &mut end);
    assert!(matches!(ended, Err(dominator_fs::scan::ScanError::Cancelled)));
}
