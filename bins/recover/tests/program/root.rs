use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use dominator_core::plan::Plan;
use dominator_fs::root::Root;
use dominator_fs::seam::{Kernel, Seam};
use dominator_fs::update::{Judged, Reason, Recovery, Trial, Updater};
use dominator_fs_testkit::crash::{Fault, Tree, World, difference};
use dominator_fs_testkit::left_out;
use dominator_fs_testkit::scenario::{self, objects_for, plan_between, view_of};
use tempfile::TempDir;

/// A machine in a directory, and what it must become.
pub(crate) struct Machine {
    place: PathBuf,
    pub(crate) root: Root,
    plan: Plan,
    old: Tree,
    new: Tree,
    _dir: Option<TempDir>,
}

impl Machine {
    /// With all it needs to become new.
    pub(crate) fn new() -> Self {
        // In memory, where waiting for the disk costs nothing.
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let place = dir.path().to_owned();
        Self { _dir: Some(dir), ..Self::at(&place, |_| {}) }
    }

    /// As [`Self::new`], in that directory, with what `dress` makes beside what changes.
    pub(crate) fn at(place: &Path, dress: impl Fn(&Path)) -> Self {
        let after = tempfile::tempdir_in("/dev/shm").unwrap();
        std::fs::create_dir_all(place).unwrap();
        dress(place);
        dress(after.path());
        scenario::before(place);
        scenario::after(after.path());
        let plan = plan_between(place, after.path());
        let (old, new) = (World::of(place).tree(), World::of(after.path()).tree());
        let (place, root) = (place.to_owned(), Root::open(place).unwrap());
        let machine = Self { place, root, plan, old, new, _dir: None };
        let updater = machine.open(Arc::new(Kernel)).0;
        let mut intake = updater.objects().intake();
        for (id, bytes) in objects_for(&machine.plan, after.path()) {
            intake.begin(id, bytes.len() as u64).unwrap();
            intake.data(&bytes).unwrap();
        }
        intake.finish().unwrap();
        drop(updater);
        machine
    }

    pub(crate) fn open(&self, seam: Arc<dyn Seam>) -> (Updater, Recovery) {
        Updater::open(self.root.clone(), seam).unwrap()
    }

    /// An update, on trial, by a process that still has the root.
    pub(crate) fn on_trial(&self, judged: Judged, deadline: Duration) -> Updater {
        let mut updater = self.open(Arc::new(Kernel)).0;
        let trial = Trial { deadline, judged };
        let view = view_of(&self.root);
        let staged = updater.begin(&self.plan, &view).unwrap().stage().unwrap();
        let committed = staged.journal(b"image 7", Some(trial)).unwrap().swap().unwrap().commit().unwrap();
        assert!(committed.report.is_success());
        updater
    }

    /// An update of which only the first paths changed before its process died.
    pub(crate) fn half_swapped(&self, judged: Judged) {
        let seam = Fault::Breaks(14).into_seams()(Arc::new(Kernel));
        let mut updater = self.open(seam).0;
        let trial = Trial { deadline: Duration::from_secs(60), judged };
        let view = view_of(&self.root);
        let staged = updater.begin(&self.plan, &view).unwrap().stage().unwrap();
        drop(staged.journal(b"image 7", Some(trial)).unwrap().swap().unwrap_err());
        drop(updater);
        assert!(!self.is(&self.old) && !self.is(&self.new), "half way");
    }

    /// An update on trial of which only the last paths are as before again.
    pub(crate) fn half_undone(&self) {
        drop(self.on_trial(Judged::AfterServices, Duration::from_secs(60)));
        let seam = Fault::Breaks(8).into_seams()(Arc::new(Kernel));
        let mut updater = self.open(seam).0;
        drop(updater.undo_on_record(Reason::Overdue).unwrap_err());
        drop(updater);
        assert!(!self.is(&self.old) && !self.is(&self.new), "half way");
    }

    pub(crate) fn is_new(&self) -> bool {
        let is_new = self.is(&self.new);
        assert!(is_new || self.is(&self.old), "neither the one nor the other");
        is_new
    }

    fn is(&self, tree: &Tree) -> bool {
        difference(&self.tree(), tree).is_none()
    }

    pub(crate) fn tree(&self) -> Tree {
        World::of(self.path()).tree()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.place
    }
}

/// Whether strace is here; where nothing may be left out, its absence is a failure.
pub(crate) fn has_strace(test: &str) -> bool {
    let is_there = Command::new("strace").arg("-V").output().is_ok();
    assert!(is_there || std::env::var_os("CI").is_none(), "{test} needs strace");
    if !is_there {
        left_out(test, "it needs strace");
    }
    is_there
}
