//! What is cut off, and what may be there after it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use dominator_core::plan::{Operation, Plan};
use dominator_fs::root::Root;
use dominator_fs::seam::Kernel;
use dominator_fs::update::{Recovery, Updater};
use dominator_fs_testkit::crash::{Tree, TreePath, World, difference, each_old_or_new, require};
use dominator_fs_testkit::killing::{Point, Which, alone, killed_at, points};
use dominator_fs_testkit::scenario::{self, objects_for, plan_between, view_of};
use tempfile::TempDir;

use crate::ground;
use crate::trial::{TRIAL, start};

/// What the victim does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Case {
    Update,
    Undo,
    CleanUp,
    /// Of an update that was killed in the midst of the swap.
    Recover,
    /// An update on trial, and accepting it.
    Trial,
    /// The first start of a machine with an update on trial is counted.
    FirstStart,
    /// The second undoes it.
    SecondStart,
    /// Who watches over it does.
    Overdue,
}

impl Case {
    pub(crate) const PLAIN: [Self; 4] = [Self::Update, Self::Undo, Self::CleanUp, Self::Recover];
    pub(crate) const TRIALS: [Self; 4] = [Self::Trial, Self::FirstStart, Self::SecondStart, Self::Overdue];

    fn command(self) -> &'static str {
        match self {
            Self::Update => "update",
            Self::Undo => "undo",
            Self::CleanUp => "clean-up",
            Self::Recover => "recover",
            Self::Trial => "try",
            Self::FirstStart => "first-start",
            Self::SecondStart => "second-start",
            Self::Overdue => "overdue",
        }
    }

    /// The trees that may be there, by what the recovery says.
    fn may(self, recovery: &Recovery) -> &'static [&'static str] {
        match (self, recovery) {
            (Self::Update, Recovery::Clean | Recovery::Abandoned { .. })
            | (Self::Undo, Recovery::Clean | Recovery::Undone { .. }) => &["old"],
            (Self::Update | Self::Recover, Recovery::Finished { .. } | Recovery::Kept { .. })
            | (Self::Undo, Recovery::Kept { .. })
            | (Self::CleanUp, Recovery::Kept { .. } | Recovery::Clean) => &["new"],
            _ => &[],
        }
    }
}

/// The machine of all cases.
pub(crate) struct Machine {
    plan: PathBuf,
    dressed: BTreeSet<TreePath>,
    pub(crate) trees: BTreeMap<&'static str, Tree>,
    required: TempDir,
    _place: TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let (place, required) = (ground::place(), ground::place());
        let root = place.path().join("root");
        fs::create_dir(&root).unwrap();
        scenario::before(&root);
        scenario::after(required.path());
        let plan = plan_between(&root, required.path());
        let file = place.path().join("plan");
        fs::write(&file, plan.encode()).unwrap();
        let dressing = |operation: &&Operation| {
            matches!(operation, Operation::SetMetadata { .. } | Operation::MakeDirectory { .. })
        };
        let dressed = plan.operations.iter().filter(dressing).flat_map(Operation::paths);
        let dressed = dressed.map(|path| TreePath(path.as_bytes().to_vec())).collect();
        let trees = [("old", World::of(&root).tree()), ("new", World::of(required.path()).tree())].into();
        Self { plan: file, dressed, trees, required, _place: place }
    }

    /// Makes of an empty directory the root that a case begins with.
    pub(crate) fn prepare(&self, case: Case, root: &Path) {
        scenario::before(root);
        let alone = alone();
        let plan = Plan::decode(&fs::read(&self.plan).unwrap()).unwrap();
        let (mut updater, _) = open(root).unwrap();
        let mut intake = updater.objects().intake();
        for (id, bytes) in objects_for(&plan, self.required.path()) {
            intake.begin(id, bytes.len() as u64).unwrap();
            intake.data(&bytes).unwrap();
        }
        intake.finish().unwrap();
        match case {
            Case::Update | Case::Trial => {}
            Case::Undo | Case::CleanUp => {
                updater.apply(&plan, &view_of(&Root::open(root).unwrap())).unwrap();
            }
            Case::FirstStart | Case::SecondStart | Case::Overdue => {
                let view = view_of(&Root::open(root).unwrap());
                let staged = updater.begin(&plan, &view).unwrap().stage().unwrap();
                staged.journal(b"", Some(TRIAL)).unwrap().swap().unwrap().commit().unwrap();
                drop(updater);
                if case == Case::SecondStart {
                    start(root, "first").unwrap();
                }
            }
            Case::Recover => {
                drop((updater, alone));
                killed_at(&self.middle(), &mut self.victim(Case::Update, root, ""));
            }
        }
    }

    /// In the midst of the swap of an update.
    fn middle(&self) -> Point {
        let place = ground::place();
        let root = place.path().join("root");
        fs::create_dir(&root).unwrap();
        self.prepare(Case::Update, &root);
        let mut all = points(&mut self.victim(Case::Update, &root, ""), &root, Which::Changes);
        all.retain(|point| point.name == "renameat2");
        all.swap_remove(all.len() - 8)
    }

    /// The victim, with a fault if one is named.
    pub(crate) fn victim(&self, case: Case, root: &Path, fault: &str) -> Command {
        let mut victim = Command::new(env!("CARGO_BIN_EXE_crash-victim"));
        victim.arg(case.command()).arg(root).arg(fault);
        if matches!(case, Case::Update | Case::Trial) {
            victim.arg(&self.plan);
        }
        victim
    }

    /// What may not be before the recovery, and after it.
    pub(crate) fn judge(&self, case: Case, root: &Path, promised: Option<&str>) -> Result<(), String> {
        let before = World::of(root).tree();
        each_old_or_new(&before, &self.trees["old"], &self.trees["new"], &self.dressed)
            .map_err(|complaint| format!("before the recovery: {complaint}"))?;
        if Case::TRIALS.contains(&case) {
            return self.judge_by_starts(case, root, promised);
        }
        let _alone = alone();
        let recovery = open(root)?.1;
        let world = World::of(root);
        let journal = world.is_tidy()?;
        let kept =
            matches!(recovery, Recovery::Finished { .. } | Recovery::Kept { .. } | Recovery::Undone { .. });
        require(journal == kept, || format!("a journal: {journal}, and {recovery:?}"))?;
        let tree = world.tree();
        let may =
            case.may(&recovery).iter().filter(|name| promised.is_none_or(|promised| promised == **name));
        let differences: Vec<_> = may.map(|name| difference(&tree, &self.trees[name])).collect();
        require(differences.contains(&None), || {
            format!("{recovery:?}, {promised:?} promised: {differences:?}")
        })?;
        let again = open(root)?.1;
        require(is_over(&again), || format!("again {again:?}"))?;
        let is_same = difference(&World::of(root).tree(), &tree);
        require(is_same.is_none(), || format!("opened again, and {is_same:?}"))
    }
}

/// Whether opening the root once more changes nothing.
pub(crate) fn is_over(recovery: &Recovery) -> bool {
    matches!(recovery, Recovery::Clean | Recovery::Kept { .. } | Recovery::Undone { .. })
}

fn open(root: &Path) -> Result<(Updater, Recovery), String> {
    let root = Root::open(root).map_err(|error| error.to_string())?;
    Updater::open(root, Arc::new(Kernel)).map_err(|error| format!("{error:?}"))
}
