//! Scans of nasty trees, judged by an oracle that shares no code with the scanner.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::fs;
use std::io::Write;
use std::num::NonZeroUsize;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dominator_core::filter::Filter;
use dominator_core::inode::{Kind, Why};
use dominator_core::path::ImagePath;
use dominator_core::view::{Granularity, Ownership, View, XattrPolicy};
use dominator_fs::root::Root;
use dominator_fs::scan::{Cancel, Progress, Scan, ScanError, Scanner};
use dominator_fs_testkit::{chain, deep, described, left_out, nasty, needs_root, observed};

fn scan_under(dir: &Path, view: View) -> Scan {
    Scanner::new(Root::open(dir).unwrap(), Arc::new(view)).scan(&Cancel::default()).unwrap()
}

fn scan(dir: &Path) -> Scan {
    scan_under(dir, View::everything())
}

fn path(text: &str) -> ImagePath {
    ImagePath::parse(text.as_bytes()).unwrap()
}

fn filtered(lines: &str) -> View {
    View { filters: vec![Filter::parse(lines).unwrap()], ..View::everything() }
}

/// The scan and the oracle must say the same, word for word.
fn check(dir: &Path, scan: &Scan, excludes: &[&str]) {
    let (ours, theirs) = (described(&scan.snapshot), observed(dir, excludes));
    for (path, entry) in &theirs {
        assert_eq!(ours.get(path), Some(entry), "{path}");
    }
    let extra: Vec<_> = ours.keys().filter(|path| !theirs.contains_key(*path)).collect();
    assert!(extra.is_empty(), "not there: {extra:?}");
    scan.snapshot.verify(1_000_000).unwrap();
}

#[test]
fn a_nasty_tree_is_seen_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    nasty(dir.path());
    let whole = scan(dir.path());
    assert_eq!(whole.facts, []);
    check(dir.path(), &whole, &[]);
    assert!(whole.snapshot.inode(&path("/.subd")).is_none(), "the agent's own is never looked at");
    assert!(whole.snapshot.inode(&path("/links/.subd")).is_some());
    assert!(whole.snapshot.inode(&path("/socket")).is_none());
    assert_eq!(whole.held, [path("/")].into(), "it holds a socket and the agent's own");
}

#[test]
fn the_id_does_not_depend_on_threads_or_repetition() {
    let dir = tempfile::tempdir().unwrap();
    nasty(dir.path());
    let first = scan(dir.path());
    for threads in [1, 2, 7] {
        let scanner = Scanner::new(Root::open(dir.path()).unwrap(), Arc::new(View::everything()));
        let again = scanner.threads(NonZeroUsize::new(threads).unwrap()).scan(&Cancel::default()).unwrap();
        assert_eq!(again.snapshot.id(), first.snapshot.id(), "{threads} threads");
        assert_eq!(again.counts, first.counts);
    }
}

#[test]
fn any_change_changes_the_id_and_taking_it_back_restores_it() {
    let dir = tempfile::tempdir().unwrap();
    nasty(dir.path());
    let before = scan(dir.path()).snapshot.id();
    let file = dir.path().join("many/7");
    let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o600);
    assert_ne!(scan(dir.path()).snapshot.id(), before);
    mode(0o644);
    assert_eq!(scan(dir.path()).snapshot.id(), before);
    fs::rename(dir.path().join("links/deeper/two"), dir.path().join("links/deeper/2")).unwrap();
    assert_ne!(scan(dir.path()).snapshot.id(), before);
}

#[test]
fn what_a_filter_leaves_alone_is_not_looked_at_and_holds_its_directories() {
    let dir = tempfile::tempdir().unwrap();
    nasty(dir.path());
    let filter = "/many/1.*\n/odd/a(/.*)?$\n/links/deeper";
    let partial = scan_under(dir.path(), filtered(filter));
    check(dir.path(), &partial, &filter.lines().collect::<Vec<_>>());
    let held = ["/", "/links", "/many", "/odd"].map(path);
    assert_eq!(partial.held, held.into());
}

#[test]
fn a_view_that_cares_for_less_sees_less() {
    let dir = tempfile::tempdir().unwrap();
    nasty(dir.path());
    let view = View {
        xattrs: XattrPolicy::NONE,
        ownership: Ownership::Ignored,
        mtime: Granularity::SECOND,
        ..View::everything()
    };
    let (full, coarse) = (scan(dir.path()), scan_under(dir.path(), view.clone()));
    assert_eq!(view.apply(&full.snapshot).id(), coarse.snapshot.id());
    let only = ["/", "/many", "/many/7", "/links/one"].map(path).into();
    let sparse = View { only: Some(only), ..View::everything() };
    let scanned = scan_under(dir.path(), sparse.clone());
    assert_eq!(sparse.apply(&full.snapshot).id(), scanned.snapshot.id());
    assert_eq!(scanned.counts.files, 1, "what has no directory in view is not in view either");
}

#[test]
fn the_deepest_tree_there_can_be_is_seen_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    deep(dir.path(), ImagePath::MAX_DEPTH - 1);
    let scanned = scan(dir.path());
    assert_eq!((scanned.counts.directories, scanned.counts.files), (ImagePath::MAX_DEPTH as u64, 1));
    assert_eq!(scanned.facts, []);
    check(dir.path(), &scanned, &[]);
}

#[test]
fn a_path_too_deep_or_too_long_for_any_tree_is_a_fact_and_not_the_end() {
    let dir = tempfile::tempdir().unwrap();
    deep(dir.path(), 2100);
    fs::write(dir.path().join("beside"), b"x").unwrap();
    let scanned = scan(dir.path());
    assert_eq!(scanned.facts.iter().map(|fact| fact.why).collect::<Vec<_>>(), [Why::Unreadable]);
    assert_eq!(scanned.counts.directories, ImagePath::MAX_DEPTH as u64 + 1);
    assert_eq!(scanned.held.len(), ImagePath::MAX_DEPTH + 1, "all of them hold what no tree can");
    assert!(scanned.snapshot.inode(&path("/beside")).is_some());
}

#[test]
fn the_longest_path_there_can_be_is_seen_and_one_longer_is_a_fact() {
    let dir = tempfile::tempdir().unwrap();
    // With its slash, sixteen times 256 bytes.
    chain(dir.path(), &"n".repeat(255), 16);
    let scanned = scan(dir.path());
    let longest = scanned.facts[0].path.clone();
    assert_eq!((scanned.facts.len(), longest.as_bytes().len()), (1, ImagePath::MAX_LEN));
    assert!(scanned.snapshot.inode(&longest).unwrap().is_directory());
    assert_eq!((scanned.counts.directories, scanned.counts.files), (17, 0));
}

/// In a process of its own, which may have 40 files open, those of the test harness included.
#[test]
fn wide_and_deep_together_take_few_file_descriptors() {
    const INSIDE: &str = "DOMINATOR_TEST_FEW_DESCRIPTORS";
    if let Some(dir) = std::env::var_os(INSIDE) {
        let few = rustix::process::Rlimit { current: Some(40), maximum: Some(40) };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, few).unwrap();
        let scanner = Scanner::new(Root::open(Path::new(&dir)).unwrap(), Arc::new(View::everything()));
        let scanned = scanner.threads(NonZeroUsize::new(4).unwrap()).scan(&Cancel::default()).unwrap();
        assert_eq!((scanned.counts.files, scanned.facts), (60 * 40 + 1, Vec::new()));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut here = dir.path().to_owned();
    for _ in 0..60 {
        for number in 0..40 {
            fs::write(here.join(format!("{number}")), b"x").unwrap();
            fs::create_dir(here.join(format!("d{number}"))).unwrap();
        }
        here.push("d7");
    }
    deep(dir.path(), ImagePath::MAX_DEPTH - 1);
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "wide_and_deep_together_take_few_file_descriptors"]).env(INSIDE, dir.path());
    assert!(command.status().unwrap().success());
}

#[test]
fn files_swapped_for_pipes_and_links_neither_hang_nor_lead_out() {
    let dir = tempfile::tempdir().unwrap();
    let secret = tempfile::NamedTempFile::new().unwrap();
    secret.as_file().write_all(b"from outside").unwrap();
    let outside = dominator_core::object::ObjectId::of(b"from outside");
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let swapped = tree.join("swapped");
    let aside = |name: &str| dir.path().join(name);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0_u64;
            while !done.load(Ordering::Relaxed) {
                let next = aside("next");
                match round % 4 {
                    0 => fs::write(&next, b"a file").unwrap(),
                    1 => symlink(secret.path(), &next).unwrap(),
                    2 => rustix::fs::mknodat(
                        rustix::fs::CWD,
                        &next,
                        rustix::fs::FileType::Fifo,
                        rustix::fs::Mode::from_raw_mode(0o600),
                        0,
                    )
                    .unwrap(),
                    _ => fs::create_dir(&next).unwrap(),
                }
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let cwd = rustix::fs::CWD;
                if rustix::fs::renameat_with(cwd, &next, cwd, &swapped, flags).is_err() {
                    fs::rename(&next, &swapped).unwrap();
                }
                drop(fs::remove_file(&next).or_else(|_| fs::remove_dir(&next)));
                round += 1;
            }
        });
        for _ in 0..400 {
            let scanned = scan(&tree);
            assert!(!scanned.snapshot.objects().contains_key(&outside), "a symbolic link was followed");
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_file_that_will_not_hold_still_is_unknown_and_never_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let name = dir.path().join("busy");
    fs::write(&name, vec![0; 4 << 20]).unwrap();
    fs::hard_link(&name, dir.path().join("also")).unwrap();
    let done = AtomicBool::new(false);
    let unknown = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = fs::OpenOptions::new().append(true).open(&name).unwrap();
            while !done.load(Ordering::Relaxed) {
                file.write_all(b"more").unwrap();
            }
        });
        let mut unknown = None;
        while unknown.is_none() {
            let scanned = scan(dir.path());
            scanned.snapshot.verify(10).unwrap();
            unknown =
                scanned.snapshot.inode(&path("/busy")).filter(|inode| inode.is_unknown()).map(|_| scanned);
        }
        done.store(true, Ordering::Relaxed);
        unknown.unwrap()
    });
    assert_eq!(unknown.facts.iter().map(|fact| fact.why).collect::<Vec<_>>(), [Why::Changing; 2]);
    assert_eq!(unknown.snapshot.inode(&path("/also")).unwrap().kind, Kind::Unknown { why: Why::Changing });
    assert_eq!(unknown.counts.unknown, 2);
    assert!(unknown.held.contains(&path("/")));
    assert_eq!(scan(dir.path()).facts, [], "it is known again when it rests");
}

#[test]
fn hard_links_are_read_once_and_grouped() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("first"), vec![1; 100_000]).unwrap();
    for number in 0..5 {
        fs::create_dir(dir.path().join(format!("{number}"))).unwrap();
        fs::hard_link(dir.path().join("first"), dir.path().join(format!("{number}/name"))).unwrap();
    }
    let scanner = Scanner::new(Root::open(dir.path()).unwrap(), Arc::new(View::everything()));
    let scanned = scanner.threads(NonZeroUsize::MIN).scan(&Cancel::default()).unwrap();
    assert_eq!(scanned.bytes_hashed, 100_000);
    check(dir.path(), &scanned, &[]);
    let one = scan_under(dir.path(), filtered("/[0-9]"));
    assert!(one.snapshot.links.is_empty(), "a name whose others are not in view is no hard link here");
}

#[test]
fn a_cancelled_scan_ends() {
    let dir = tempfile::tempdir().unwrap();
    let large = fs::File::create(dir.path().join("large")).unwrap();
    large.set_len(1 << 40).unwrap();
    let (cancel, progress) = (Cancel::default(), Arc::new(Progress::default()));
    let scanner = Scanner::new(Root::open(dir.path()).unwrap(), Arc::new(View::everything()));
    let scanner = scanner.progress(Arc::clone(&progress));
    std::thread::scope(|scope| {
        let scan = scope.spawn(|| scanner.scan(&cancel));
        while progress.bytes() == 0 {
            std::thread::yield_now();
        }
        cancel.cancel();
        // Reading it all would take hours.
        assert!(matches!(scan.join().unwrap(), Err(ScanError::Cancelled)));
    });
    assert!(matches!(scanner.scan(&cancel), Err(ScanError::Cancelled)));
}

/// Mounts need privileges; without them there is nothing to see. They live in a mount namespace that ends with the
/// thread.
#[test]
fn mounts_are_shown_but_not_entered() {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    const NONE: Option<&str> = None;
    const TEST: &str = "mounts_are_shown_but_not_entered";
    if !needs_root(TEST) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    ["mounted", "bound", "target"].iter().for_each(|name| fs::create_dir(at(name)).unwrap());
    for name in ["mounted/hidden", "bound/hidden", "target/visible", "file"] {
        fs::write(at(name), name).unwrap();
    }
    let scanned = std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).ok()?;
            mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).ok()?;
            mount(NONE, &at("mounted"), Some("tmpfs"), MsFlags::empty(), Some("mode=0701")).ok()?;
            mount(Some(&at("target")), &at("bound"), NONE, MsFlags::MS_BIND, NONE).unwrap();
            mount(Some(&at("target/visible")), &at("file"), NONE, MsFlags::MS_BIND, NONE).unwrap();
            fs::write(at("mounted/elsewhere"), b"x").unwrap();
            Some(scan(dir.path()))
        });
        inside.join().unwrap()
    });
    let Some(scanned) = scanned else { return left_out(TEST, "mounts of its own are refused") };
    let inode = |name: &str| scanned.snapshot.inode(&path(name));
    assert_eq!(inode("/mounted").unwrap().mode.to_string(), "0701", "as it is seen");
    for name in ["/mounted/elsewhere", "/mounted/hidden", "/bound/visible", "/bound/hidden"] {
        assert_eq!(inode(name), None, "{name}");
    }
    assert!(inode("/target/visible").unwrap().object().is_some());
    assert_eq!(inode("/file").unwrap().kind, Kind::Unknown { why: Why::Unreadable });
    assert_eq!(scanned.facts.iter().map(|fact| fact.path.to_string()).collect::<Vec<_>>(), ["/file"]);
    assert_eq!(scanned.held, ["/", "/bound", "/file", "/mounted"].map(path).into());
}
