//! Trees too large for every day: they are made and judged when `DOMINATOR_LARGE` is set, and the one that needs a mirror
//! of Debian when `DOMINATOR_DEBIAN` is. They are said to be left out when it is not.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use dominator_core::path::ImagePath;
use dominator_core::tree::Directory;
use dominator_core::view::View;
use dominator_fs::root::Root;
use dominator_fs::scan::{Cache, Cancel, Scanner};
use dominator_fs_testkit::{left_out, needs_root};
use rustix::fs::{CWD, Mode, OFlags};

use crate::observer::Observer;
use crate::oracle::disturb;

fn is_wanted(test: &str) -> bool {
    is_set("DOMINATOR_LARGE", test)
}

fn is_set(variable: &str, test: &str) -> bool {
    let set = std::env::var_os(variable).is_some();
    if !set {
        left_out(test, &format!("{variable} is not set"));
    }
    set
}

/// A place in memory, where a million files are made in seconds; the usual one where there is none.
fn place() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

#[test]
fn a_hundred_thousand_files_and_a_thousand_hard_links_are_seen_as_they_are() {
    const TEST: &str = "large::a_hundred_thousand_files_and_a_thousand_hard_links_are_seen_as_they_are";
    if !is_wanted(TEST) {
        return;
    }
    let tree = place();
    let name = |number: usize| tree.path().join(format!("{}/{}/{number}", number % 10, number % 1_000));
    for number in 0..1_000 {
        fs::create_dir_all(name(number).parent().unwrap()).unwrap();
    }
    for number in 0..100_000 {
        fs::write(name(number), number.to_le_bytes().repeat(512)).unwrap();
    }
    for number in 0..1_000 {
        fs::hard_link(name(number * 97), tree.path().join(format!("{}/link-{number}", number % 10))).unwrap();
        symlink(format!("../{number}"), tree.path().join(format!("{}/symbolic-{number}", number % 10)))
            .unwrap();
    }
    let mut observer = Observer::on(tree.path());
    let [anew, _] = observer.agree(tree.path(), &[]);
    assert_eq!((anew.counts.files, anew.counts.symlinks, anew.counts.directories), (101_000, 1_000, 1_011));
    // But for the few whose names two threads come to in the same moment.
    let twice = anew.bytes_hashed - 100_000 * 4096;
    assert!(twice < 100 * 4096, "files of two names are read once: {twice} bytes more");
    for number in (0..100_000).step_by(4_999) {
        fs::write(name(number), b"changed").unwrap();
        fs::rename(name(number + 1), name(number + 2)).unwrap();
    }
    observer.agree(tree.path(), &[]);
}

#[test]
fn a_directory_of_a_million_names_is_seen_as_it_is() {
    const TEST: &str = "large::a_directory_of_a_million_names_is_seen_as_it_is";
    const NAMES: usize = 1_000_000;
    if !is_wanted(TEST) {
        return;
    }
    let tree = place();
    let wide = tree.path().join("wide");
    fs::create_dir(&wide).unwrap();
    let wide = File::open(&wide).unwrap();
    for number in 0..NAMES {
        let name = format!("{number}");
        match number % 4 {
            0 => rustix::fs::symlinkat(&name, &wide, &name).unwrap(),
            1 => rustix::fs::mkdirat(&wide, &name, Mode::from_raw_mode(0o700)).unwrap(),
            2 => rustix::fs::mknodat(&wide, &name, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap(),
            _ => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&wide, &name, flags, Mode::RUSR).unwrap();
                rustix::io::write(file, name.as_bytes()).unwrap();
            }
        }
    }
    let mut observer = Observer::on(tree.path());
    let [anew, _] = observer.agree(tree.path(), &[]);
    let quarter = NAMES as u64 / 4;
    assert_eq!((anew.counts.files, anew.counts.special), (quarter, quarter));
    rustix::fs::renameat(&wide, "3", CWD, tree.path().join("out")).unwrap();
    rustix::fs::renameat(&wide, "7", &wide, "11").unwrap();
    let after = observer.look();
    assert_eq!(after[0].snapshot.id(), after[1].snapshot.id());
    assert_ne!(after[0].snapshot.id(), anew.snapshot.id());
}

/// What fits into one is known; that there is more is a fact, and the root is called neither gone nor unreadable.
#[test]
fn a_root_with_more_names_than_a_directory_can_hold_is_told_to_have_more() {
    const TEST: &str = "large::a_root_with_more_names_than_a_directory_can_hold_is_told_to_have_more";
    const NAMES: u64 = 64_000;
    if !is_wanted(TEST) {
        return;
    }
    let tree = place();
    let target = "t".repeat(4095);
    for number in 0..NAMES {
        symlink(&target, tree.path().join(format!("{number:0200}"))).unwrap();
    }
    let scanner = Scanner::new(Root::open(tree.path()).unwrap(), Arc::new(View::everything()));
    let mut cache = Cache::new();
    let first = scanner.rescan(&mut cache, &Cancel::default()).unwrap();
    let again = scanner.rescan(&mut cache, &Cancel::default()).unwrap();
    assert_eq!(again.snapshot.id(), first.snapshot.id());
    for scan in [first, again] {
        assert!((1..NAMES).contains(&scan.counts.symlinks), "{:?}", scan.counts);
        assert_eq!(scan.facts.iter().map(|fact| &fact.path).collect::<Vec<_>>(), [&ImagePath::root()]);
        let detail = &scan.facts[0].detail;
        assert!(detail.contains(&Directory::MAX_LEN.to_string()), "{detail}");
        assert!(scan.held.contains(&ImagePath::root()), "what is not told of can't be deleted");
        scan.snapshot.verify(NAMES).unwrap();
    }
}

/// Holes take no room, and are read as zeros all the same.
fn sparse(path: &Path, ends: &[u64]) {
    let mut file = File::create(path).unwrap();
    for end in ends {
        file.seek(SeekFrom::Start(*end)).unwrap();
        file.write_all(b"not a hole").unwrap();
    }
}

#[test]
fn files_of_more_than_four_gigabytes_and_with_holes_are_seen_as_they_are() {
    const TEST: &str = "large::files_of_more_than_four_gigabytes_and_with_holes_are_seen_as_they_are";
    const GIB: u64 = 1 << 30;
    if !is_wanted(TEST) {
        return;
    }
    let tree = tempfile::tempdir().unwrap();
    sparse(&tree.path().join("large"), &[0, 4 * GIB - 5, 5 * GIB]);
    sparse(&tree.path().join("holes"), &[1 << 20, 3 << 20]);
    File::create(tree.path().join("nothing-but-hole")).unwrap().set_len(GIB / 4).unwrap();
    let mut observer = Observer::on(tree.path());
    let [anew, _] = observer.agree(tree.path(), &[]);
    assert!(anew.bytes_hashed > 5 * GIB);
    // Beyond what 32 bits can tell, and where the length tells nothing.
    let mut large = File::options().write(true).open(tree.path().join("large")).unwrap();
    large.seek(SeekFrom::Start(4 * GIB + 1)).unwrap();
    large.write_all(b"drift").unwrap();
    drop(large);
    let [after, _] = observer.agree(tree.path(), &[]);
    assert_ne!(after.snapshot.id(), anew.snapshot.id());
}

#[test]
fn a_debian_root_is_seen_as_it_is_before_and_after_it_drifts() {
    const TEST: &str = "large::a_debian_root_is_seen_as_it_is_before_and_after_it_drifts";
    if !is_set("DOMINATOR_DEBIAN", TEST) {
        return;
    }
    assert!(needs_root(TEST), "a Debian root can't be made without root");
    let base = tempfile::tempdir().unwrap();
    let tree = base.path().join("debian");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../bins/testkit/debian-root.sh");
    assert!(Command::new(script).arg(&tree).status().unwrap().success());
    let mut observer = Observer::on(&tree);
    let [anew, _] = observer.agree(&tree, &[]);
    assert!(anew.counts.files > 25_000, "{:?}", anew.counts);
    for seed in 1..=3 {
        disturb(&tree, seed);
        let [_, again] = observer.agree(&tree, &[]);
        assert!(again.files_opened < 1_000, "{} files were read for a few that changed", again.files_opened);
    }
    let [_, quiet] = observer.agree(&tree, &[]);
    assert_eq!((quiet.files_opened, quiet.bytes_hashed), (0, 0), "nothing happened");
}
