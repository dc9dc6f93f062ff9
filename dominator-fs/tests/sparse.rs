//! Holes: hundreds of megabytes of nothing costs nothing, wherever it goes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use dominator_core::filter::Filter;
use dominator_core::object::ObjectId;
use dominator_core::plan::{Comparison, Operation, Plan};
use dominator_core::tree::Snapshot;
use dominator_core::view::View;
use dominator_fs::root::Root;
use dominator_fs::scan::{Cancel, Scanner};
use dominator_fs::seam::Kernel;
use dominator_fs::store::objects::ObjectStore;
use dominator_fs::traits::traits_of;
use dominator_fs::update::Updater;
use dominator_fs::{export, import};

const HOLE: u64 = 192 << 20;
/// What a file of four blocks may take, in bytes: blocks that are read together are written together, and the
/// file-system keeps notes of its own.
const FEW: u64 = 1 << 20;

/// A hole with data at its beginning, in the middle and near its end, and nothing at its end.
fn holey(path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(HOLE + 123).unwrap();
    for (at, word) in [(0, "first"), (HOLE / 2 + 777, "middle"), (HOLE - 5000, "last")] {
        file.write_all_at(word.as_bytes(), at).unwrap();
    }
    assert!(taken(path) < FEW, "this file-system has no holes to keep");
}

fn taken(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().blocks() * 512
}

/// All that files below a directory take of the disk.
fn taken_below(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { taken_below(&path) } else { taken(&path) }).sum()
}

/// Bytes and length, without more than a piece of them in memory.
fn same(one: &Path, other: &Path) -> bool {
    let (mut a, mut b) = (File::open(one).unwrap(), File::open(other).unwrap());
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let count = a.read(&mut left).unwrap();
        if count == 0 {
            return b.read(&mut right).unwrap() == 0;
        }
        if b.read_exact(&mut right[..count]).is_err() || left[..count] != right[..count] {
            return false;
        }
    }
}

/// The tree below `source`, its objects in the store.
fn imported(source: &Path, store: &ObjectStore) -> Snapshot {
    let mut batch = store.batch();
    let root = Root::open(source).unwrap();
    let imported = import::directory(&root, &Filter::Empty, &Cancel::default(), &mut batch).unwrap();
    drop(batch.finish().unwrap());
    imported.snapshot
}

fn fetch(store: &ObjectStore, updater: &Updater, id: ObjectId) {
    let mut object = store.open_object(&id).unwrap();
    let mut intake = updater.objects().intake();
    intake.begin(id, object.size()).unwrap();
    // As the network brings it: in pieces that no block cares for.
    let mut piece = vec![0; 60_001];
    loop {
        match object.read(&mut piece).unwrap() {
            0 => break,
            count => intake.data(&piece[..count]).unwrap(),
        }
    }
    intake.finish().unwrap();
}

#[test]
fn a_large_hole_takes_no_room_in_store_cache_staging_root_and_export() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["source", "machine", "export"] {
        fs::create_dir(at(name)).unwrap();
    }
    holey(&at("source/disk"));
    // Of the same bytes as another: one is moved into place, the other is a copy.
    holey(&at("source/twin"));
    let store = ObjectStore::open(&at("store")).unwrap();
    let tree = imported(&at("source"), &store);
    assert!(taken_below(&at("store")) < FEW);
    let (&id, _) = tree.objects().iter().find(|(_, size)| **size > HOLE).unwrap();

    let root = Root::open(&at("machine")).unwrap();
    let mut updater = Updater::open(root.clone(), Arc::new(Kernel)).unwrap().0;
    fetch(&store, &updater, id);
    assert!(taken_below(&at("machine/.subd/objects")) < FEW);
    let traits = traits_of(&root);
    let view = View { xattrs: traits.xattrs, ownership: traits.ownership, ..View::everything() };
    let plan = plan(&root, &view, &tree);
    let staged = updater.begin(&plan, &view).unwrap().stage().unwrap().journal(b"", None).unwrap();
    assert!(taken_below(&at("machine/.subd")) < FEW);
    let report = staged.swap().unwrap().commit().unwrap().report;
    assert!(report.is_success(), "{:?}", report.failures);

    let target = Root::open(&at("export")).unwrap();
    export::directory(&tree, &target, &mut &store, &Kernel).unwrap();
    for place in ["machine", "export"] {
        assert!(taken_below(&at(place)) < FEW, "{place}: {}", taken_below(&at(place)));
        assert!(same(&at("source/disk"), &at(place).join("disk")), "{place}/disk");
        assert!(same(&at("source/twin"), &at(place).join("twin")), "{place}/twin");
    }
}

fn plan(root: &Root, view: &View, required: &Snapshot) -> Plan {
    let actual =
        Scanner::new(root.clone(), Arc::new(view.clone())).scan(&Cancel::default()).unwrap().snapshot;
    let required = &view.apply(required);
    let comparison = Comparison {
        required,
        actual: &actual.tree,
        links: Some(&actual.links),
        directories: &actual.directories,
    };
    let plan = comparison.plan().unwrap().plan;
    assert_eq!(plan.operations.iter().filter(|one| matches!(one, Operation::Put { .. })).count(), 2);
    plan
}
