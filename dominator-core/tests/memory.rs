//! What a tree takes in memory, counted by the allocator: alone in its own process, so that nobody else is counted.
#![allow(clippy::unwrap_used, missing_docs)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use dominator_core::inode::{Inode, Kind, Mode, Timestamp, Xattrs};
use dominator_core::object::ObjectId;
use dominator_core::path::Name;
use dominator_core::tree::{Directory, DirectoryId, DirectoryMap, LinkSets, Snapshot};
use dominator_core::view::View;

/// Counts what is allocated and not yet given back, with what the allocator of the C library takes for itself: eight
/// bytes a block, rounded up to sixteen, at least 32.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

fn block(size: usize) -> usize {
    (size + 8).next_multiple_of(16).max(32)
}

#[expect(unsafe_code, reason = "an allocator can't be written without; it only counts and hands on")]
// SAFETY: every call is handed to the system's allocator with the arguments it came with.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(block(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(block(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Names as long as those of a Debian system are on average, 17 bytes.
fn name(number: usize) -> Name {
    Name::parse(format!("libname-{number:06}.so").as_bytes()).unwrap()
}

fn inode(kind: Kind) -> Inode {
    Inode { mode: Mode::from_st_mode(0o755), uid: 0, gid: 0, xattrs: Xattrs::default(), kind }
}

fn file(number: usize) -> Inode {
    let object = ObjectId::of(&number.to_le_bytes());
    inode(Kind::Regular { mtime: Timestamp::default(), size: 1000, object })
}

/// A tree of 32 000 entries, as a Debian system has them: a directory for every nine files, and a tenth of all in one.
fn tree() -> (Snapshot, usize) {
    let mut directories = DirectoryMap::default();
    let mut entries = 0;
    let mut add = |directories: &mut DirectoryMap, directory: Directory| {
        entries += directory.len();
        inode(Kind::Directory { id: directories.insert(directory) })
    };
    let large = Directory::new((0..3200).map(|number| (name(number), file(number)))).unwrap();
    let mut tops = vec![(name(0), add(&mut directories, large))];
    for top in 1..=16 {
        let mut below = Vec::new();
        for number in 0..180 {
            let first = (top * 180 + number) * 9;
            let files = (first..first + 9).map(|number| (name(number), file(number)));
            below.push((name(number), add(&mut directories, Directory::new(files).unwrap())));
        }
        tops.push((name(top), add(&mut directories, Directory::new(below).unwrap())));
    }
    let root = add(&mut directories, Directory::new(tops).unwrap());
    (Snapshot::new(View::everything().id(), root, LinkSets::default(), directories), entries)
}

#[test]
fn a_tree_takes_at_most_120_bytes_an_entry() {
    let before = LIVE.load(Ordering::Relaxed);
    let (tree, entries) = tree();
    let after = LIVE.load(Ordering::Relaxed);
    let each = (after - before) / entries;
    assert_eq!(tree.verify(entries as u64 + 1), Ok(()));
    assert!((31_000..33_000).contains(&entries), "{entries}");
    assert!((70..=120).contains(&each), "{each} bytes an entry");
    // Decoded again, as whoever gets it from elsewhere has it, it takes no more.
    let mut encodings: Vec<(DirectoryId, Vec<u8>)> =
        tree.directories.iter().map(|(id, directory)| (*id, directory.encoded().to_vec())).collect();
    drop(tree);
    let before =
        LIVE.load(Ordering::Relaxed) - encodings.iter().map(|(_, bytes)| block(bytes.len())).sum::<usize>();
    let mut directories = DirectoryMap::default();
    for (id, bytes) in &mut encodings {
        assert_eq!(directories.insert(Directory::decode(std::mem::take(bytes)).unwrap()), *id);
    }
    let each = (LIVE.load(Ordering::Relaxed) - before) / entries;
    assert!((70..=120).contains(&each), "{each} bytes an entry");
}
