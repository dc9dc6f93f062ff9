//! Storms: everybody works on the machine while it is scanned. Each scan is a whole tree, right in all it claims, and
//! once all is quiet, every way of looking sees the same.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Seek, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use dominator_core::inode::{Inode, Kind, Why};
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_fs::scan::Scan;
use dominator_fs_testkit::nasty;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use crate::observer::{Observer, path};
use crate::process::{Dice, Storm, rage, role};

/// Each way. Debug builds hash slowly, and are for finding out quickly.
const SCANS: usize = if cfg!(debug_assertions) { 40 } else { 200 };

/// How long the file is whose length does not change.
const REWRITTEN: usize = 8 << 20;

/// The longest a file gets in these storms.
const LONGEST: usize = 1 << 20;

/// What stands at each place of every file whose length changes.
fn pattern() -> Vec<u8> {
    (0..LONGEST).map(|place| u8::try_from(place * 31 % 251).unwrap()).collect()
}

/// Scans the tree at `/tree` of a new place, beside whose `/calm` the storm rages, and then once more when it is over.
fn check(test: &str, prepare: impl Fn(&Path), round: impl Fn(&Path, &mut Dice), claims: impl Fn(&Scan)) {
    if let Some((_, base)) = role() {
        return rage(|dice| round(&base, dice));
    }
    let base = tempfile::tempdir().unwrap();
    let tree = base.path().join("tree");
    fs::create_dir_all(tree.join("calm")).unwrap();
    fs::create_dir_all(tree.join("storm")).unwrap();
    nasty(&tree.join("calm"));
    prepare(base.path());
    let mut observer = Observer::on(&tree);
    let calm = observer.agree(&tree, &[])[0].snapshot.inode(&path("/calm"));
    let storm = Storm::begin(test, "rage", base.path());
    for _ in 0..SCANS {
        for look in observer.look() {
            assert_eq!(look.snapshot.inode(&path("/calm")), calm, "where nothing happened");
            let unsettled = |path: &ImagePath| path.as_bytes().starts_with(b"/storm/");
            assert!(
                look.facts.iter().all(|fact| unsettled(&fact.path) && fact.why == Why::Changing),
                "{:?}",
                look.facts
            );
            claims(&look);
        }
    }
    let rounds = storm.end();
    assert!(rounds > 1_000, "hardly a storm: {rounds}");
    for look in observer.agree(&tree, &[]) {
        claims(&look);
    }
}

/// The names in `/storm` that are known, each with its inode.
fn known(scan: &Scan) -> BTreeMap<ImagePath, Inode> {
    let mut known = BTreeMap::new();
    scan.snapshot.walk(|path, inode| {
        if path.as_bytes().starts_with(b"/storm/") && !inode.is_unknown() {
            known.insert(path.clone(), inode.clone());
        }
    });
    known
}

#[test]
fn of_files_that_grow_shrink_and_are_written_anew_nothing_wrong_is_claimed() {
    let place = |base: &Path, number| base.join(format!("tree/storm/{number}"));
    let (pattern, doubted) = (pattern(), Cell::new(0));
    check(
        "storms::of_files_that_grow_shrink_and_are_written_anew_nothing_wrong_is_claimed",
        |base| {
            (0..8).for_each(|number| fs::write(place(base, number), &pattern[..300_000]).unwrap());
            fs::write(base.join("tree/storm/rewritten"), vec![0; REWRITTEN]).unwrap();
        },
        |base, dice| {
            let rewritten = OpenOptions::new().write(true).open(base.join("tree/storm/rewritten")).unwrap();
            rewritten
                .write_all_at(&[u8::try_from(dice.below(256)).unwrap()], dice.below(REWRITTEN as u64))
                .unwrap();
            let name = place(base, dice.below(8));
            let mut file = OpenOptions::new().write(true).open(&name).unwrap();
            let length = usize::try_from(file.metadata().unwrap().len()).unwrap();
            match dice.below(4) {
                0 => file.set_len(dice.below(length as u64 + 1)).unwrap(),
                1 => drop(fs::remove_file(&name).and_then(|()| fs::write(&name, &pattern[..length / 2]))),
                _ => {
                    let end = (length + usize::try_from(dice.below(5_000)).unwrap()).min(LONGEST);
                    file.seek(std::io::SeekFrom::End(0)).unwrap();
                    file.write_all(&pattern[length..end]).unwrap();
                }
            }
        },
        |look| {
            let mut known = known(look);
            if known.remove(&path("/storm/rewritten")).is_none() {
                doubted.set(doubted.get() + 1);
            }
            for (path, inode) in known {
                let (object, size) = inode.object().unwrap();
                let size = usize::try_from(size).unwrap();
                assert_eq!(object, ObjectId::of(&pattern[..size]), "{path} of {size} bytes");
            }
        },
    );
    // It takes long to read, and is written to all the time.
    assert!(role().is_some() || doubted.get() > 0, "what changes while it is read is held to be known");
}

#[test]
fn directories_that_are_taken_away_and_put_back_are_never_seen_without_what_is_in_them() {
    const DIRECTORIES: u64 = 300;
    // The names are long, so that listing them takes several calls: between two of them a name can come again.
    let name = |number: u64| format!("{number:0>200}");
    check(
        "storms::directories_that_are_taken_away_and_put_back_are_never_seen_without_what_is_in_them",
        |base| {
            fs::create_dir(base.join("aside")).unwrap();
            for number in 0..DIRECTORIES {
                let directory = base.join("tree/storm").join(name(number));
                fs::create_dir(&directory).unwrap();
                fs::write(directory.join("inside"), b"always there").unwrap();
            }
        },
        |base, dice| {
            let name = name(dice.below(DIRECTORIES));
            let (here, aside) = (base.join("tree/storm").join(&name), base.join("aside").join(&name));
            // Not the one that went comes back, so that each comes to stand where another was.
            fs::rename(&here, &aside).or_else(|_| fs::rename(&aside, &here)).unwrap();
        },
        |look| {
            let known = known(look);
            for (path, _) in known.iter().filter(|(_, inode)| inode.is_directory()) {
                let inside = dominator_core::path::Name::parse(b"inside").unwrap();
                let inside = look.snapshot.inode(&path.join(&inside).unwrap());
                assert!(inside.is_some(), "{path} is empty");
            }
        },
    );
}

#[test]
fn trees_that_move_to_and_fro_are_told_whole() {
    const PLACES: u64 = 6;
    check(
        "storms::trees_that_move_to_and_fro_are_told_whole",
        |base| {
            for number in 0..PLACES {
                let below = base.join(format!("tree/storm/{number}/a/b/c"));
                fs::create_dir_all(&below).unwrap();
                fs::write(below.join("file"), format!("{number}")).unwrap();
                fs::create_dir(base.join(format!("tree/storm/{number}/stay"))).unwrap();
            }
        },
        |base, dice| {
            let mut place = || base.join(format!("tree/storm/{}", dice.below(PLACES)));
            let (one, other) = (place(), place());
            let depth = ["a", "a/b", "a/b/c"][usize::try_from(dice.below(3)).unwrap()];
            let exchange = RenameFlags::EXCHANGE;
            let outcome = rustix::fs::renameat_with(CWD, one.join(depth), CWD, other.join(depth), exchange);
            // A directory can't change places with one that it is in.
            assert!(matches!(outcome, Ok(()) | Err(Errno::INVAL)), "{outcome:?}");
            drop(fs::rename(one.join("stay"), other.join("a/stay")));
            drop(fs::rename(other.join("a/stay"), one.join("stay")));
        },
        |look| {
            for (path, inode) in known(look).into_iter().filter(|(_, inode)| !inode.is_directory()) {
                let (object, size) = inode.object().unwrap();
                let contents = (0..PLACES).map(|number| ObjectId::of(number.to_string().as_bytes()));
                assert!(size == 1 && contents.into_iter().any(|each| each == object), "{path}");
            }
        },
    );
}

#[test]
fn names_modes_and_links_that_never_rest_are_told_as_one_file_or_not_at_all() {
    const NAMES: u64 = 24;
    let name = |base: &Path, number| base.join(format!("tree/storm/{}/{number}", number % 3));
    check(
        "storms::names_modes_and_links_that_never_rest_are_told_as_one_file_or_not_at_all",
        |base| {
            (0..3).for_each(|number| fs::create_dir(base.join(format!("tree/storm/{number}"))).unwrap());
            for number in 0..NAMES {
                fs::write(name(base, number), format!("file {number}")).unwrap();
            }
        },
        |base, dice| {
            let (one, other) = (name(base, dice.below(NAMES)), name(base, dice.below(NAMES)));
            match dice.below(4) {
                0 => drop(fs::remove_file(&one).and_then(|()| fs::hard_link(&other, &one))),
                1 => drop(File::create(&one).and_then(|mut file| file.write_all(b"file 7"))),
                2 => drop(fs::rename(&one, &other)),
                _ => {
                    let mode = 0o600 | u32::try_from(dice.below(0o100)).unwrap();
                    drop(fs::set_permissions(&one, Permissions::from_mode(mode)));
                }
            }
        },
        |look| {
            for set in look.snapshot.links.iter() {
                let inodes: Vec<_> = set.iter().map(|path| look.snapshot.inode(path)).collect();
                assert!(inodes.iter().all(|inode| inode.is_some() && *inode == inodes[0]), "{set:?}");
            }
            for (path, inode) in known(look) {
                if let Kind::Regular { size, object, .. } = inode.kind {
                    let written = (0..NAMES).map(|number| format!("file {number}"));
                    let mut states = written.chain([String::new()]);
                    assert!(
                        states
                            .any(|text| text.len() as u64 == size && ObjectId::of(text.as_bytes()) == object),
                        "{path} of {size} bytes"
                    );
                }
            }
        },
    );
}
