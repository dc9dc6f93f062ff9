//! What a scan must look at again, however much an earlier one knew.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dominator_core::inode::Timestamp;
use dominator_core::path::ImagePath;
use dominator_core::view::{View, XattrPolicy};
use dominator_fs::root::Root;
use dominator_fs::scan::{Cache, Cancel, Clock, Progress, Scan, ScanError, Scanner};
use dominator_fs_testkit::chain;

const EXPIRY: Duration = Duration::from_secs(36);

/// By how many seconds the scanner's clock is before that of the file-system when nothing is fresh any more.
const LATER: i64 = 1000;

/// A scan that is cancelled after more directories than this is not cancelled: no tree here has more.
const DIRECTORIES: u64 = 8;

/// The size of a file that takes long enough to be read for a scan to be cancelled meanwhile, in bytes.
const LARGE: u64 = 64 << 20;

fn path(text: &str) -> ImagePath {
    ImagePath::parse(text.as_bytes()).unwrap()
}

fn now(ahead: i64) -> Timestamp {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp::new(i64::try_from(now.as_secs()).unwrap() + ahead, now.subsec_nanos()).unwrap()
}

fn scanner(dir: &Path, view: &View, ahead: i64) -> Scanner {
    Scanner::new(Root::open(dir).unwrap(), Arc::new(view.clone()))
        .threads(NonZeroUsize::MIN)
        .clock(Clock::new(move || now(ahead)))
        .write_back_expiry(EXPIRY)
}

fn settled(dir: &Path) -> Scanner {
    scanner(dir, &View::everything(), LATER)
}

fn rescan(scanner: &Scanner, cache: &mut Cache) -> Scan {
    scanner.rescan(cache, &Cancel::default()).unwrap()
}

fn only(scanner: &Scanner, cache: &mut Cache, directories: &[&str]) -> Scan {
    let directories = directories.iter().map(|text| path(text)).collect();
    scanner.rescan_only(cache, &directories, &Cancel::default()).unwrap()
}

/// A scan that is cancelled when it has come to so many directories.
fn cancelled(dir: &Path, view: &View, cache: &mut Cache, after: u64) {
    let (cancel, asked) = (Cancel::default(), AtomicU64::new(0));
    let cancels = cancel.clone();
    let clock = Clock::new(move || {
        if asked.fetch_add(1, Ordering::Relaxed) == after {
            cancels.cancel();
        }
        now(LATER)
    });
    let end = scanner(dir, view, LATER).clock(clock).rescan(cache, &cancel).map(drop);
    assert_eq!(end.is_err(), after < DIRECTORIES, "after {after}: {end:?}");
    assert!(matches!(end, Ok(()) | Err(ScanError::Cancelled)), "after {after}: {end:?}");
}

/// What a scan of everything sees is all that `scan` saw.
fn is_full(scan: &Scan, scanner: &Scanner, case: &str) {
    let full = scanner.scan(&Cancel::default()).unwrap();
    let told = |scan: &Scan| (scan.snapshot.id(), scan.facts.clone(), scan.held.clone(), scan.counts);
    assert_eq!(told(scan), told(&full), "{case}");
    scan.snapshot.verify(10_000).unwrap_or_else(|error| panic!("{case}: {error}"));
}

/// Eight directories with a file in each.
fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a/deep", "b/deep", "c", "d", "e"] {
        fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    add(dir.path(), "old");
    dir
}

fn add(dir: &Path, name: &str) {
    for directory in ["", "a", "a/deep", "b", "b/deep", "c", "d", "e"] {
        fs::write(dir.join(directory).join(name), format!("{name} in {directory}")).unwrap();
    }
}

#[test]
fn what_a_cancelled_scan_left_out_is_seen_by_the_next_wherever_it_ended() {
    let dir = tree();
    let mut known = Cache::new();
    rescan(&settled(dir.path()), &mut known);
    add(dir.path(), "new");
    for known in [Cache::new(), known] {
        for after in 0..DIRECTORIES {
            let mut cache = known.clone();
            cancelled(dir.path(), &View::everything(), &mut cache, after);
            let case = format!("cancelled after {after} directories");
            let scanner = settled(dir.path());
            is_full(&rescan(&scanner, &mut cache.clone()), &scanner, &case);
            let hinted = only(&scanner, &mut cache, &["/", "/a/deep", "/b/deep"]);
            is_full(&hinted, &scanner, &format!("{case}, hints"));
        }
    }
}

#[test]
fn a_directory_that_a_cancelled_scan_did_not_come_to_the_end_of_is_listed_without_a_hint() {
    let dir = tree();
    let mut known = Cache::new();
    rescan(&settled(dir.path()), &mut known);
    add(dir.path(), "new");
    fs::remove_file(dir.path().join("new")).unwrap();
    let scanner = settled(dir.path());
    for after in 0..DIRECTORIES {
        let mut cache = known.clone();
        cancelled(dir.path(), &View::everything(), &mut cache, after);
        for hint in ["/c", "/d"] {
            let case = format!("cancelled after {after} directories, a hint of {hint}");
            is_full(&only(&scanner, &mut cache.clone(), &[hint]), &scanner, &case);
        }
    }
}

#[test]
fn a_directory_that_a_cancelled_scan_saw_changed_is_whole_in_the_next() {
    let dir = tree();
    let mut known = Cache::new();
    rescan(&settled(dir.path()), &mut known);
    fs::remove_file(dir.path().join("old")).unwrap();
    for after in 0..DIRECTORIES {
        let mut cache = known.clone();
        cancelled(dir.path(), &View::everything(), &mut cache, after);
        let scanner = settled(dir.path());
        is_full(&rescan(&scanner, &mut cache), &scanner, &format!("cancelled after {after} directories"));
    }
}

#[test]
fn what_was_known_under_one_view_is_not_taken_for_what_another_sees() {
    let dir = tree();
    let attribute = |name: &str| {
        let file = dir.path().join(name);
        rustix::fs::lsetxattr(file, "user.mark", b"1", rustix::fs::XattrFlags::empty()).unwrap();
    };
    ["old", "a", "a/deep/old", "b/old", "e/old"].iter().for_each(|name| attribute(name));
    let views = [View::everything(), View { xattrs: XattrPolicy::NONE, ..View::everything() }];
    let mut known = Cache::new();
    rescan(&scanner(dir.path(), &views[0], LATER), &mut known);
    let other = scanner(dir.path(), &views[1], LATER);
    is_full(&rescan(&other, &mut known.clone()), &other, "another view");
    is_full(&only(&other, &mut known.clone(), &["/c"]), &other, "another view, a hint");
    for after in 0..DIRECTORIES {
        let mut mixed = known.clone();
        cancelled(dir.path(), &views[1], &mut mixed, after);
        for view in &views {
            let scanner = scanner(dir.path(), view, LATER);
            let case = format!("cancelled after {after} directories");
            is_full(&rescan(&scanner, &mut mixed.clone()), &scanner, &case);
            is_full(&only(&scanner, &mut mixed.clone(), &["/c"]), &scanner, &format!("{case}, a hint"));
        }
    }
}

#[test]
fn a_hint_of_a_directory_counts_also_where_the_one_it_is_in_is_looked_at() {
    let dir = tree();
    let (scanner, mut cache) = (settled(dir.path()), Cache::new());
    rescan(&scanner, &mut cache);
    fs::write(dir.path().join("a/new"), b"new").unwrap();
    fs::write(dir.path().join("a/deep/old"), b"written over").unwrap();
    let scan = only(&scanner, &mut cache, &["/a", "/a/deep"]);
    is_full(&scan, &scanner, "both were told of");
}

/// Holds a lease on a file until it is dropped: meanwhile nobody else can open it, and nothing of it changes.
struct Lease(Child);

impl Lease {
    const HOLD: &str = "
import fcntl, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
file = open(sys.argv[1], 'r+b')
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print('held', flush=True)
sys.stdin.read()
";

    fn on(file: &Path) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", Self::HOLD]).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = command.spawn().unwrap();
        let mut held = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut held).unwrap();
        assert_eq!(held, "held\n");
        Self(holder)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        drop(self.0.wait());
    }
}

#[test]
fn what_was_unknown_is_looked_at_again_although_nothing_of_it_changed() {
    let dir = tree();
    for ahead in [0, LATER] {
        let scanner = scanner(dir.path(), &View::everything(), ahead);
        let mut unknown = Cache::new();
        let lease = Lease::on(&dir.path().join("c/old"));
        let (first, second) = (rescan(&scanner, &mut unknown), rescan(&scanner, &mut unknown));
        for scan in [&first, &second] {
            assert_eq!((scan.counts.unknown, scan.facts.len()), (1, 1));
            assert_eq!(scan.facts[0].path, path("/c/old"));
        }
        drop(lease);
        is_full(&rescan(&scanner, &mut unknown), &scanner, &format!("{ahead} seconds ahead"));
    }
}

#[test]
fn what_no_tree_can_hold_is_told_by_every_scan() {
    let dir = tree();
    // With its slash, sixteen times 256 bytes; the file at its end is too much.
    chain(dir.path(), &"n".repeat(255), 16);
    let (scanner, mut cache) = (settled(dir.path()), Cache::new());
    let first = rescan(&scanner, &mut cache);
    assert_eq!(first.facts.len(), 1);
    is_full(&rescan(&scanner, &mut cache.clone()), &scanner, "nothing changed");
    is_full(&only(&scanner, &mut cache, &["/c"]), &scanner, "elsewhere nothing changed");
}

/// Of a file that was read in two parts, the first counts as of when it was read: what is written to it afterwards
/// through a mapping moves no time until the first is on the disk.
#[test]
fn a_file_that_was_read_in_two_scans_is_as_fresh_as_its_beginning_was() {
    let dir = tempfile::tempdir().unwrap();
    let (mut cache, file) = (Cache::new(), dir.path().join("large"));
    let rest = (0..100).find_map(|_| {
        drop(fs::remove_file(&file));
        File::create(&file).unwrap().set_len(LARGE).unwrap();
        in_part(dir.path(), &mut cache);
        let rest = rescan(&settled(dir.path()), &mut cache).bytes_hashed;
        (1..LARGE).contains(&rest).then_some(rest)
    });
    assert!(rest.is_some(), "no scan was cancelled in the midst of the file");
    let opened = |ahead, cache: &mut Cache| {
        rescan(&scanner(dir.path(), &View::everything(), ahead), cache).files_opened
    };
    assert_eq!(opened(LATER + 1, &mut cache), 1, "its beginning was read when it was fresh");
    assert_eq!(opened(LATER + 2, &mut cache), 0);
}

#[test]
fn a_file_that_changed_after_a_scan_read_a_part_of_it_is_read_from_its_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let (mut cache, file) = (Cache::new(), dir.path().join("large"));
    let file = File::create(file).unwrap();
    file.set_len(LARGE).unwrap();
    in_part(dir.path(), &mut cache);
    file.write_all_at(b"other", 0).unwrap();
    let scan = rescan(&settled(dir.path()), &mut cache);
    assert_eq!(scan.bytes_hashed, LARGE);
    is_full(&scan, &settled(dir.path()), "its beginning changed");
}

/// A scan that is cancelled when it has read a few MiB, while everything is fresh.
fn in_part(dir: &Path, cache: &mut Cache) {
    let (cancel, progress) = (Cancel::default(), Arc::new(Progress::default()));
    let scanner = scanner(dir, &View::everything(), 0).progress(Arc::clone(&progress));
    std::thread::scope(|scope| {
        let scan = scope.spawn(|| scanner.rescan(cache, &cancel).map(drop));
        while progress.bytes() < 4 << 20 && !scan.is_finished() {
            std::thread::yield_now();
        }
        cancel.cancel();
        assert!(matches!(scan.join().unwrap(), Ok(()) | Err(ScanError::Cancelled)));
    });
}

#[test]
fn what_was_fresh_when_it_was_saved_is_read_once_more_when_it_was_loaded() {
    let (dir, state) = (tree(), tempfile::tempdir().unwrap());
    let mut cache = Cache::new();
    let scan = rescan(&scanner(dir.path(), &View::everything(), 0), &mut cache);
    let home = File::open(state.path()).unwrap();
    let _durable = cache.save(home.as_fd(), b"scan").unwrap();
    let mut loaded = Cache::load(home.as_fd(), b"scan", &Root::open(dir.path()).unwrap()).unwrap();
    let opened = |cache: &mut Cache| rescan(&settled(dir.path()), cache).files_opened;
    assert_eq!(opened(&mut loaded), scan.counts.files);
    assert_eq!(opened(&mut loaded), 0);
}

#[test]
fn what_was_known_of_one_root_is_not_taken_for_another() {
    let (one, other) = (tree(), tree());
    fs::write(other.path().join("a/old"), b"of the other").unwrap();
    let mut cache = Cache::new();
    let files = rescan(&settled(one.path()), &mut cache).counts.files;
    let scan = only(&settled(other.path()), &mut cache, &["/c"]);
    assert_eq!(scan.files_opened, files);
    is_full(&scan, &settled(other.path()), "another root");
}
