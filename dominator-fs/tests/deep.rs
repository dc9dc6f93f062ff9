//! A tree as deep as a path can be named is imported, exported, made, checked and deleted like any other, in a thread
//! whose stack would not do for one frame a directory.
#![allow(clippy::unwrap_used, missing_docs)]

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use dominator_core::filter::Filter;
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::plan::{Comparison, Plan};
use dominator_core::port::StoreError;
use dominator_core::tree::{Builder, Snapshot};
use dominator_fs::compliance::{self, Options, Verdict};
use dominator_fs::export::{self, ExportError, ObjectStream};
use dominator_fs::import::{self, ObjectSink};
use dominator_fs::root::Root;
use dominator_fs::scan::{Cancel, Scanner};
use dominator_fs::seam::Kernel;
use dominator_fs::update::Updater;
use dominator_fs_testkit::scenario::view_of;

/// In bytes: less than 128 a directory.
const STACK: usize = 256 * 1024;
/// The last of so many directories has room for one name more.
const DEPTH: usize = ImagePath::MAX_DEPTH - 1;

/// Runs a test with two directories, which are removed with a usual stack: the standard library does it by recursion.
fn with_little_stack(test: impl FnOnce(&Path, &Path) + Send) {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::thread::scope(|scope| {
        let test = || test(one.path(), other.path());
        std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, test).unwrap().join().unwrap();
    });
}

/// Takes everything and keeps nothing: the one file is empty.
struct Nowhere;

impl ObjectSink for Nowhere {
    fn want(&mut self, offered: &[(ObjectId, u64)]) -> Result<Vec<ObjectId>, StoreError> {
        Ok(offered.iter().map(|(id, _)| *id).collect())
    }

    fn put(&mut self, _: ObjectId, _: u64, contents: &mut dyn Read) -> Result<(), StoreError> {
        std::io::copy(contents, &mut std::io::sink()).unwrap();
        Ok(())
    }
}

/// Has the empty object.
struct Nothing;

impl ObjectStream for Nothing {
    fn stream(
        &mut self,
        wanted: &[ObjectId],
        take: &mut dyn FnMut(ObjectId, &mut dyn Read) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        wanted.iter().try_for_each(|id| take(*id, &mut std::io::empty()))
    }
}

fn imported(dir: &Path) -> Snapshot {
    let root = Root::open(dir).unwrap();
    import::directory(&root, &Filter::Empty, &Cancel::default(), &mut Nowhere).unwrap().snapshot
}

#[test]
fn the_deepest_tree_is_imported_exported_and_found_compliant() {
    with_little_stack(|from, to| {
        dominator_fs_testkit::deep(from, DEPTH);
        let tree = imported(from);
        let mut entries = 0;
        tree.walk(|_, _| entries += 1);
        assert_eq!(entries, DEPTH + 2);
        let target = Root::open(to).unwrap();
        export::directory(&tree, &target, &mut Nothing, &Kernel).unwrap();
        let report = compliance::check(&target, &tree, &Filter::Empty, &Options::default()).unwrap();
        assert_eq!((report.verdict(), report.deviations), (Verdict::Compliant, Vec::new()));
    });
}

#[test]
fn the_deepest_tree_is_made_and_deleted_by_plans() {
    with_little_stack(|image, machine| {
        dominator_fs_testkit::deep(image, DEPTH);
        let root = Root::open(machine).unwrap();
        let view = view_of(&root);
        let mut updater = Updater::open(root.clone(), Arc::new(Kernel)).unwrap().0;
        let deep = view.apply(&imported(image));
        let seen =
            || Scanner::new(root.clone(), Arc::new(view.clone())).scan(&Cancel::default()).unwrap().snapshot;
        let empty = Builder::new(seen().tree.root).unwrap().finish(view.id());
        let mut intake = updater.objects().intake();
        intake.begin(ObjectId::of(b""), 0).unwrap();
        intake.finish().unwrap();
        for required in [&deep, &empty] {
            let plan = plan(required, &seen());
            assert!(plan.operations.len() > DEPTH);
            let report = updater.apply(&plan, &view).unwrap();
            assert!(report.is_success(), "{:?}", report.failures);
            assert_eq!(seen().id(), required.id());
        }
    });
}

fn plan(required: &Snapshot, actual: &Snapshot) -> Plan {
    let (links, directories) = (Some(&actual.links), &actual.directories);
    Comparison { required, actual: &actual.tree, links, directories }.plan().unwrap().plan
}
