//! What an import of a directory that was imported before reads: what changed, and nothing else.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dominator_core::filter::Filter;
use dominator_core::inode::{Inode, Timestamp};
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::tree::Snapshot;
use dominator_fs::import::{self, Nowhere, Watched};
use dominator_fs::root::Root;
use dominator_fs::scan::{Cache, Cancel, Clock};

/// The tree, and how many bytes were read for it, as if all in it were older than the write-back expiry.
fn imported(path: &Path, cache: &mut Cache) -> (Snapshot, u64) {
    let later = Clock::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(1000);
        Timestamp::new(since.as_secs().try_into().unwrap(), since.subsec_nanos()).unwrap()
    });
    let (root, cancel) = (Root::open(path).unwrap(), Cancel::default());
    let watched = Watched { clock: later, ..Watched::new(&cancel) };
    let (imported, hashed) =
        import::directory_again(&root, &Filter::Empty, cache, watched, &mut Nowhere).unwrap();
    (imported.snapshot, hashed)
}

#[test]
fn a_directory_that_was_imported_is_not_read_again_but_for_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("etc")).unwrap();
    fs::write(dir.path().join("etc/large"), vec![b'x'; 100_000]).unwrap();
    fs::write(dir.path().join("etc/small"), b"before").unwrap();
    let mut cache = Cache::new();
    let (first, hashed) = imported(dir.path(), &mut cache);
    assert_eq!(hashed, 100_006);
    let (again, hashed) = imported(dir.path(), &mut cache);
    assert_eq!((again.id(), hashed), (first.id(), 0));
    fs::write(dir.path().join("etc/small"), b"afterwards").unwrap();
    let (changed, hashed) = imported(dir.path(), &mut cache);
    let object = changed.inode(&ImagePath::parse(b"/etc/small").unwrap()).as_ref().and_then(Inode::object);
    assert_eq!((object, hashed), (Some((ObjectId::of(b"afterwards"), 10)), 10));
}
