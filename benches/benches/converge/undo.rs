//! An update and its undoing by the library alone, in the tree in which the bare renames are measured.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dominator_core::plan::Comparison;
use dominator_core::tree::Snapshot;
use dominator_core::view::View;
use dominator_fs::root::Root;
use dominator_fs::scan::{Cancel, Scanner};
use dominator_fs::seam::Kernel;
use dominator_fs::update::{Reason, Updater};

use crate::disk::settle;

/// How long paths were changing.
pub(crate) struct Windows {
    /// By the update.
    pub(crate) update: Duration,
    /// By undoing it.
    pub(crate) undo: Duration,
}

/// Makes `tree` what `required` is, in which every object of the plan lies at its path, and takes it back.
pub(crate) fn there_and_back(tree: &Path, required: &Path) -> Windows {
    let (actual, wanted) = (scanned(tree), scanned(required));
    let comparison = Comparison {
        required: &wanted,
        actual: &actual.tree,
        links: Some(&actual.links),
        directories: &actual.directories,
    };
    let plan = comparison.plan().unwrap().plan;
    let (mut updater, _) = Updater::open(Root::open(tree).unwrap(), Arc::new(Kernel)).unwrap();
    let (mut intake, mut missing) = (updater.objects().intake(), plan.objects());
    wanted.walk(|path, inode| {
        if let Some((id, size)) = inode.object()
            && missing.remove(&id).is_some()
        {
            let path = Path::new(std::str::from_utf8(path.as_bytes()).unwrap());
            intake.begin(id, size).unwrap();
            intake.data(&fs::read(required.join(path.strip_prefix("/").unwrap())).unwrap()).unwrap();
        }
    });
    intake.finish().unwrap();
    settle();
    let update = updater.apply(&plan, &View::everything()).unwrap();
    assert!(update.is_success(), "{update:?}");
    settle();
    let undo = updater.undo(Reason::Asked).unwrap();
    assert_eq!(undo.not_as_before(), []);
    updater.clean_up().unwrap();
    Windows { update: update.window, undo: undo.window }
}

fn scanned(tree: &Path) -> Snapshot {
    let scanner = Scanner::new(Root::open(tree).unwrap(), Arc::new(View::everything()));
    scanner.threads(NonZeroUsize::new(2).unwrap()).scan(&Cancel::default()).unwrap().snapshot
}
