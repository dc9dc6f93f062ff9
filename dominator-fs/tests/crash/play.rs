use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use dominator_core::object::ObjectId;
use dominator_core::plan::{Operation, Plan};
use dominator_core::view::View;
use dominator_fs::root::Root;
use dominator_fs::seam::Seam;
use dominator_fs::update::{Reason, Recovery, Trial, Updater, WorkError};
use dominator_fs_testkit::crash::{
    Body, Crash, How, Recording, Stage, Sweep, Thing, Tree, TreePath, World, difference, each_old_or_new,
    require,
};
use dominator_fs_testkit::scenario::{self, objects_for, plan_between, view_of};
use tempfile::TempDir;

/// The trees a machine of the scenario can have, by name.
pub(crate) const OLD: &str = "old";
pub(crate) const NEW: &str = "new";
pub(crate) const LATER: &str = "later";

type Names = &'static [&'static str];

/// What is cut off, and which trees may be there then, by what the recovery says.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// What was done before, and is on the disk.
    pub(crate) before: fn(&Play, &mut Updater),
    pub(crate) work: fn(&Play, &mut Updater),
    /// Nothing was under way, or nothing had begun.
    pub(crate) clean: Names,
    pub(crate) finished: Names,
    pub(crate) undone: Names,
    pub(crate) kept: Names,
}

/// A machine, what it must become, and what after that.
pub(crate) struct Play {
    pub(crate) stage: Stage,
    pub(crate) view: View,
    plans: BTreeMap<&'static str, Plan>,
    objects: BTreeMap<ObjectId, Vec<u8>>,
    trees: BTreeMap<&'static str, Tree>,
    root: Root,
    /// What was judged already, by what was promised.
    judged: RefCell<HashSet<(World, Option<&'static str>)>>,
    /// Whether more is asked than to be as one must be.
    goes_on: Cell<bool>,
}

impl Play {
    pub(crate) fn new() -> Self {
        Self::on(Stage::new(scenario::before), &scenario::after, &scenario::later)
    }

    /// One that is whatever is wanted.
    pub(crate) fn of(before: &dyn Fn(&Path), after: &dyn Fn(&Path)) -> Self {
        Self::on(Stage::new(before), after, after)
    }

    /// One that at first gets what displaces nothing.
    pub(crate) fn growing() -> Self {
        let after = |root: &Path| {
            scenario::before(root);
            fs::create_dir(root.join("added")).unwrap();
            fs::write(root.join("added/file"), "where nothing was").unwrap();
            fs::set_permissions(root, Permissions::from_mode(0o755)).unwrap();
        };
        let later = |root: &Path| {
            after(root);
            fs::write(root.join("added/another"), "beside it").unwrap();
            fs::write(root.join("etc/replaced"), "later").unwrap();
        };
        Self::on(Stage::new(scenario::before), &after, &later)
    }

    /// One where some of what changes is immutable; nothing where the file-system has no such flags.
    pub(crate) fn pinned() -> Option<Self> {
        let mut can = false;
        let stage = Stage::new(|root| {
            scenario::before(root);
            can = scenario::pin(root);
        });
        let mut play = can.then(|| Self::on(stage, &scenario::after, &scenario::later))?;
        let flags = |tree: &Tree| tree[&TreePath(b"/links".to_vec())].attributes.flags;
        let pinned = flags(&play.trees[OLD]);
        for tree in play.trees.values_mut() {
            for name in scenario::PINNED {
                // What takes the place of something immutable becomes so.
                let thing = tree.get_mut(&TreePath(format!("/{name}").into_bytes()));
                thing.into_iter().for_each(|thing| thing.attributes.flags = pinned);
            }
        }
        Some(play)
    }

    /// One where a file that is immutable gets another name, and nothing else happens; nothing where there are no such
    /// flags.
    pub(crate) fn linking() -> Option<Self> {
        let target = |root: &Path| fs::write(root.join("target"), "immutable").unwrap();
        let after = |root: &Path| {
            target(root);
            fs::hard_link(root.join("target"), root.join("more")).unwrap();
        };
        let mut can = false;
        let stage = Stage::new(|root| {
            target(root);
            can = scenario::pinned(&root.join("target")).is_ok();
        });
        let mut play = can.then(|| Self::on(stage, &after, &after))?;
        let flags = play.trees[OLD][&TreePath(b"/target".to_vec())].attributes.flags;
        for thing in play.trees.values_mut().flat_map(BTreeMap::values_mut) {
            if matches!(thing.body, Body::File(_)) {
                thing.attributes.flags = flags;
            }
        }
        Some(play)
    }

    fn on(stage: Stage, after: &dyn Fn(&Path), later: &dyn Fn(&Path)) -> Self {
        let root = Root::open(&stage.root).unwrap();
        let old = World::of(&stage.root).tree();
        let (new, later) = (made(after), made(later));
        let plans = BTreeMap::from([
            (NEW, plan_between(&stage.root, new.path())),
            (LATER, plan_between(new.path(), later.path())),
        ]);
        let mut objects = objects_for(&plans[NEW], new.path());
        objects.extend(objects_for(&plans[LATER], later.path()));
        let trees =
            [(OLD, old), (NEW, World::of(new.path()).tree()), (LATER, World::of(later.path()).tree())];
        let view = view_of(&root);
        Self {
            stage,
            view,
            plans,
            objects,
            trees: trees.into(),
            root,
            judged: RefCell::default(),
            goes_on: Cell::default(),
        }
    }

    /// Brings the machine to where the case begins, writes down what it does, and plays every crash of it.
    pub(crate) fn sweep(
        &self,
        case: &Case,
        every: usize,
        seam: &dyn Fn(Arc<dyn Seam>) -> Arc<dyn Seam>,
    ) -> Sweep {
        self.sweep_some(case, 1, every, seam)
    }

    /// As [`Self::sweep`], but only one of every `some` states.
    pub(crate) fn sweep_some(
        &self,
        case: &Case,
        some: usize,
        every: usize,
        seam: &dyn Fn(Arc<dyn Seam>) -> Arc<dyn Seam>,
    ) -> Sweep {
        let recording = self.recorded(case, seam(self.stage.seam()));
        self.stage.fs.check();
        let mut number = 0;
        self.stage.sweep_some(&recording, some, |crash| {
            number += 1;
            // What a lazy file-system leaves is what shows only later.
            let lazy = matches!(crash.how, How::Lazy { .. });
            self.goes_on.set(every == 1 || lazy || number % 4 == 0);
            let deep = number % every == 0;
            self.judge(case, crash, deep, &seam(self.stage.seam()))
        })
    }

    fn recorded(&self, case: &Case, seam: Arc<dyn Seam>) -> Recording {
        let (mut updater, _) = self.open(self.stage.seam()).unwrap();
        (case.before)(self, &mut updater);
        self.offer(&updater);
        drop(updater);
        let (recording, ()) = self.stage.fs.record(|| {
            let (mut updater, _) = self.open(seam).unwrap();
            (case.work)(self, &mut updater);
        });
        recording
    }

    /// What must be right right after a crash, after the recovery, and after its crashes if `deep`.
    fn judge(&self, case: &Case, crash: &Crash, deep: bool, seam: &Arc<dyn Seam>) -> Result<(), String> {
        let trees: Vec<_> = [case.clean, case.finished, case.undone, case.kept].concat();
        self.old_or_new(&crash.world.tree(), &trees)?;
        if !deep {
            let recovery = self.open(Arc::clone(seam)).map_err(|error| format!("{error:?}"))?.1;
            return self.recovered(case, crash.promised, &recovery);
        }
        let (recording, recovery) =
            self.stage.fs.record(|| self.open(Arc::clone(seam)).map(|(_, found)| found));
        self.recovered(case, crash.promised, &recovery.map_err(|error| format!("{error:?}"))?)?;
        self.goes_on.set(false);
        let swept = self.stage.sweep(&recording, |second| {
            if !self.judged.borrow_mut().insert((second.world.clone(), crash.promised)) {
                return Ok(());
            }
            self.old_or_new(&second.world.tree(), &trees)?;
            let recovery = self.open(Arc::clone(seam)).map_err(|error| format!("{error:?}"))?.1;
            self.recovered(case, crash.promised, &recovery)
        });
        swept.complaints.into_iter().next().map_or(Ok(()), |complaint| Err(format!("then {complaint}")))
    }

    /// What a recovery must leave.
    fn recovered(&self, case: &Case, promised: Option<&str>, recovery: &Recovery) -> Result<(), String> {
        let world = self.stage.fs.world();
        let journal = world.is_tidy().map_err(|complaint| format!("{complaint} after {recovery:?}"))?;
        let kept =
            matches!(recovery, Recovery::Finished { .. } | Recovery::Kept { .. } | Recovery::OnTrial { .. });
        let told = kept || matches!(recovery, Recovery::Undone { .. });
        require(journal == told, || format!("a journal: {journal}, and {recovery:?}"))?;
        require(kept || self.slots_are_empty(), || format!("something lies in slots after {recovery:?}"))?;
        let may = match recovery {
            Recovery::Clean | Recovery::Abandoned { .. } => case.clean,
            Recovery::Finished { .. } => case.finished,
            Recovery::Undone { .. } => case.undone,
            Recovery::Kept { .. } | Recovery::OnTrial { .. } => case.kept,
            other => return Err(format!("unheard of: {other:?}")),
        };
        let may: Vec<_> =
            may.iter().filter(|name| promised.is_none_or(|promised| promised == **name)).collect();
        let tree = world.tree();
        let differences: Vec<_> = may
            .iter()
            .map(|name| difference(&tree, &self.trees[**name]).map(|d| format!("not {name}: {d}")))
            .collect();
        let is = may.iter().zip(&differences).find(|(_, difference)| difference.is_none());
        let Some((name, _)) = is else {
            let differences: Vec<_> = differences.into_iter().flatten().collect();
            return Err(format!("{recovery:?}, {promised:?} promised: {differences:?}"));
        };
        self.stays(&world)?;
        if !self.goes_on.get() {
            return Ok(());
        }
        self.goes_on(name, kept).map_err(|complaint| format!("{recovery:?}, and then: {complaint}"))
    }

    /// Whatever a crash has left, the update can be made, or undone.
    fn goes_on(&self, is: &str, kept: bool) -> Result<(), String> {
        let mut updater = self.open(self.stage.seam()).map_err(|error| format!("{error:?}"))?.0;
        let must = match (is, kept) {
            (OLD, _) => {
                self.offer(&updater);
                self.apply(&mut updater, NEW)?;
                NEW
            }
            (NEW, false) => {
                self.offer(&updater);
                self.apply(&mut updater, LATER)?;
                LATER
            }
            (_, true) => {
                let report = updater.undo(Reason::Asked).map_err(|error| format!("{error:?}"))?;
                require(report.not_as_before().is_empty(), || format!("{report:?}"))?;
                if is == NEW { OLD } else { NEW }
            }
            _ => return Ok(()),
        };
        let now = self.stage.fs.world().tree();
        difference(&now, &self.trees[must])
            .map_or(Ok(()), |difference| Err(format!("not {must}: {difference}")))
    }

    fn apply(&self, updater: &mut Updater, to: &str) -> Result<(), String> {
        let report = updater.apply(&self.plans[to], &self.view).map_err(|error| format!("{error:?}"))?;
        require(report.is_success(), || format!("{report:?}"))
    }

    /// Opening the root once more changes nothing.
    fn stays(&self, before: &World) -> Result<(), String> {
        let (_, recovery) =
            self.open(self.stage.seam()).map_err(|error| format!("the second time: {error:?}"))?;
        let quiet = matches!(
            recovery,
            Recovery::Clean | Recovery::Kept { .. } | Recovery::OnTrial { .. } | Recovery::Undone { .. }
        );
        require(quiet, || format!("the second time: {recovery:?}"))?;
        let after = self.stage.fs.world();
        require(after == *before, || "opened again, and something changed".to_owned())
    }

    fn old_or_new(&self, is: &Tree, names: &[&str]) -> Result<(), String> {
        let names: BTreeSet<_> = names.iter().collect();
        let trees: Vec<_> = names.iter().map(|name| &self.trees[**name]).collect();
        let (first, last) = (trees[0], trees[trees.len() - 1]);
        each_old_or_new(is, first, last, &self.dressed())
            .map_err(|complaint| format!("before the recovery: {complaint}"))
    }

    /// The paths whose metadata change in place; without privileges, those of directories that are closed do.
    fn dressed(&self) -> BTreeSet<TreePath> {
        let closed = |thing: &Thing| {
            matches!(thing.body, Body::Directory(_))
                && thing.attributes.mode & 0o700 != 0o700
                && !rustix::process::geteuid().is_root()
        };
        let trees = self.trees.values().flatten();
        let closed = trees.filter(|(_, thing)| closed(thing)).map(|(path, _)| path.clone());
        let operations = self.plans.values().flat_map(|plan| &plan.operations);
        let dressed = operations.filter(|operation| {
            matches!(operation, Operation::SetMetadata { .. } | Operation::MakeDirectory { .. })
        });
        dressed
            .flat_map(Operation::paths)
            .map(|path| TreePath(path.as_bytes().to_vec()))
            .chain(closed)
            .collect()
    }

    pub(crate) fn open(&self, seam: Arc<dyn Seam>) -> Result<(Updater, Recovery), WorkError> {
        Updater::open(self.root.clone(), seam)
    }

    /// The tree must be one of those a machine of the scenario can have.
    pub(crate) fn must_be(&self, name: &str) -> Result<(), String> {
        let now = self.stage.fs.world().tree();
        difference(&now, &self.trees[name])
            .map_or(Ok(()), |difference| Err(format!("not {name}: {difference}")))
    }

    /// Nothing of an update is left but what is said of it.
    pub(crate) fn slots_are_empty(&self) -> bool {
        self.slots().is_empty()
    }

    /// Whether nothing of an update lies in a slot: what whoever opens the root tries the file-system with, in the first
    /// two, is there as well when it is cut off.
    pub(crate) fn nothing_is_staged(&self) -> bool {
        self.slots().iter().all(|name| name == "0" || name == "1")
    }

    fn slots(&self) -> Vec<OsString> {
        let slots = fs::read_dir(self.stage.root.join(".subd/slots")).unwrap();
        slots.map(|entry| entry.unwrap().file_name()).collect()
    }

    /// Each path is as before or after the first update.
    pub(crate) fn one_or_other(&self, world: &World) -> Result<(), String> {
        self.old_or_new(&world.tree(), &[NEW, OLD])
    }

    pub(crate) fn root(&self) -> Root {
        self.root.clone()
    }

    /// Has all objects in the cache.
    pub(crate) fn offer(&self, updater: &Updater) {
        let mut intake = updater.objects().intake();
        for (id, bytes) in &self.objects {
            intake.begin(*id, bytes.len() as u64).unwrap();
            intake.data(bytes).unwrap();
        }
        intake.finish().unwrap();
    }

    /// Makes the machine what it must be, step by step.
    pub(crate) fn update(&self, updater: &mut Updater, to: &'static str) {
        self.offer(updater);
        self.update_again(updater, to);
    }

    /// The same with the objects that are there.
    pub(crate) fn update_again(&self, updater: &mut Updater, to: &'static str) {
        let update = updater.begin(&self.plans[to], &self.view).unwrap().stage().unwrap();
        let committed = update.journal(b"a note", None).unwrap().swap().unwrap().commit().unwrap();
        assert!(committed.report.is_success(), "{:?}", committed.report);
        self.stage.fs.promise(to);
    }

    /// Makes the machine new, on trial.
    pub(crate) fn try_out(&self, updater: &mut Updater, trial: Trial) {
        self.offer(updater);
        self.try_out_again(updater, trial);
    }

    /// The same with the objects that are there.
    pub(crate) fn try_out_again(&self, updater: &mut Updater, trial: Trial) {
        let update = updater.begin(&self.plans[NEW], &self.view).unwrap().stage().unwrap();
        let committed = update.journal(b"a note", Some(trial)).unwrap().swap().unwrap().commit().unwrap();
        assert!(committed.report.is_success(), "{:?}", committed.report);
        self.stage.fs.promise(NEW);
    }

    /// How many states that crashes of recoveries left were judged.
    pub(crate) fn judged(&self) -> usize {
        self.judged.borrow().len()
    }

    pub(crate) fn plan(&self, to: &str) -> &Plan {
        &self.plans[to]
    }
}

fn made(fill: &dyn Fn(&Path)) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    dir
}
