//! What changes on a disk behind its file-system's back is found by the scrub, whatever the page cache has. Needs root.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use dominator_core::inode::{Timestamp, Why};
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::view::View;
use dominator_fs::pace::Pacer;
use dominator_fs::root::Root;
use dominator_fs::scan::{Cache, Cancel, Corruption, Scan, Scanner, Scrub, Step};
use dominator_fs_testkit::{Disk, left_out, with_mounts};

const SIZE: u64 = 64 << 20;

/// What a machine knows of a disk.
struct Machine {
    root: Root,
    scanner: Scanner,
    cache: Cache,
}

impl Machine {
    /// Scans everything, after which the page cache has it as well.
    fn new(disk: &Disk) -> Self {
        let root = Root::open(&disk.path()).unwrap();
        let scanner = Scanner::new(root.clone(), Arc::new(View::everything()));
        let mut machine =
            Self { root, scanner: scanner.write_back_expiry(Duration::ZERO), cache: Cache::new() };
        machine.scan();
        machine
    }

    fn scan(&mut self) -> Scan {
        self.scanner.rescan(&mut self.cache, &Cancel::default()).unwrap()
    }

    /// One pass of the scrub, all steps together.
    fn scrub(&mut self) -> Step {
        let (pacer, cancel, mut scrub) = (Pacer::unlimited(), Cancel::default(), Scrub::new(Scrub::DAY));
        let (mut sum, mut seconds) = (Step::default(), 1_000_000);
        loop {
            let now = Timestamp::new(seconds, 0).unwrap();
            let step = scrub.step(&self.root, &mut self.cache, now, &pacer, &cancel);
            seconds += i64::try_from(step.wait.as_secs()).unwrap() + 1;
            sum.read += step.read;
            sum.files += step.files;
            sum.left += step.left;
            sum.corrupt.extend(step.corrupt);
            sum.unreadable.extend(step.unreadable);
            if let (done, total @ 1..) = scrub.progress()
                && done == total
            {
                return sum;
            }
        }
    }
}

fn contents(number: u8) -> Vec<u8> {
    (0..100_000_u32).map(|at| (at / 100).to_le_bytes()[0] ^ number).collect()
}

fn path(text: &str) -> ImagePath {
    ImagePath::parse(text.as_bytes()).unwrap()
}

fn finds_a_flipped_bit(name: &'static str, options: &'static str) {
    with_mounts(name, move || {
        let disk = match Disk::with(SIZE, options) {
            Ok(disk) => disk,
            Err(why) => return left_out(name, &why),
        };
        fs::create_dir(disk.path().join("usr")).unwrap();
        for number in 0..20 {
            fs::write(disk.path().join(format!("usr/{number}")), contents(number)).unwrap();
        }
        fs::hard_link(disk.path().join("usr/7"), disk.path().join("linked")).unwrap();
        disk.forget();
        let mut machine = Machine::new(&disk);
        let before = machine.scan();
        let clean = machine.scrub();
        assert_eq!((clean.corrupt.len(), clean.unreadable.len(), clean.files), (0, 0, 20));

        let read = || fs::read(disk.path().join("usr/7")).unwrap();
        assert!(read() == contents(7));
        disk.flip(disk.place_of("/usr/7", 3) + 321);
        assert!(read() == contents(7), "the page cache has the old bytes");
        let unaware = machine.scan();
        assert_eq!((unaware.snapshot.id(), unaware.files_opened), (before.snapshot.id(), 0));

        let mut flipped = contents(7);
        flipped[3 * 4096 + 321] ^= 1;
        let (expected, found) = (ObjectId::of(&contents(7)), ObjectId::of(&flipped));
        let scrubbed = machine.scrub();
        // Of its two names, the first in order.
        assert_eq!(scrubbed.corrupt, [Corruption { path: path("/linked"), expected, found }]);
        assert!(scrubbed.unreadable.is_empty());
        let aware = machine.scan();
        assert_eq!((aware.files_opened, aware.facts.len()), (0, 0));

        // The same as who never knew sees when nothing is in the page cache any more.
        drop(machine);
        disk.forget();
        let fresh = Machine::new(&disk).scan();
        assert_eq!(aware.snapshot.id(), fresh.snapshot.id());
        assert_ne!(aware.snapshot.id(), before.snapshot.id());
    });
}

#[test]
fn a_bit_that_flips_on_the_disk_is_found_whatever_the_page_cache_has() {
    finds_a_flipped_bit("a_bit_that_flips_on_the_disk_is_found_whatever_the_page_cache_has", "");
}

/// With its data in the journal, ext4 takes direct reads and answers them from the page cache.
#[test]
fn a_bit_that_flips_is_found_where_nothing_reads_past_the_page_cache() {
    finds_a_flipped_bit("a_bit_that_flips_is_found_where_nothing_reads_past_the_page_cache", "data=journal");
}

#[test]
fn what_the_disk_can_not_read_is_told_and_all_else_is_compared() {
    const TEST: &str = "what_the_disk_can_not_read_is_told_and_all_else_is_compared";
    with_mounts(TEST, || {
        let disk = match Disk::new(SIZE) {
            Ok(disk) => disk,
            Err(why) => return left_out(TEST, &why),
        };
        for number in 0..20 {
            fs::write(disk.path().join(number.to_string()), contents(number)).unwrap();
        }
        disk.forget();
        let mut machine = Machine::new(&disk);
        // The disk ends in the middle of the file that is furthest out.
        let number = (0..20).max_by_key(|number| disk.place_of(&format!("/{number}"), 9)).unwrap();
        let end = disk.place_of(&format!("/{number}"), 9);
        fs::OpenOptions::new().write(true).open(disk.image()).unwrap().set_len(end).unwrap();
        let scrubbed = machine.scrub();
        let facts: Vec<_> = scrubbed.unreadable.iter().map(|fact| (fact.path.clone(), fact.why)).collect();
        assert_eq!(facts, [(path(&format!("/{number}")), Why::Unreadable)]);
        assert!(scrubbed.unreadable[0].detail.contains("on disk"), "{:?}", scrubbed.unreadable);
        assert_eq!((scrubbed.files, scrubbed.corrupt.len()), (19, 0));
    });
}
