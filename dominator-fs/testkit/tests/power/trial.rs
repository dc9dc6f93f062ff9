//! What may be there after a crash when an update is on trial: nobody judges it any more, and starts of the machine decide.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dominator_fs::root::Root;
use dominator_fs::seam::Kernel;
use dominator_fs::update::{BootId, Judged, Reason, Recovery, Trial, Updater};
use dominator_fs_testkit::crash::{World, difference, require};
use dominator_fs_testkit::killing::alone;

use crate::case::{Case, Machine, is_over};

pub(crate) const TRIAL: Trial = Trial { deadline: Duration::from_secs(60), judged: Judged::AfterServices };

pub(crate) fn start(root: &Path, id: &str) -> Result<Recovery, String> {
    let root = Root::open(root).map_err(|error| error.to_string())?;
    let started = Updater::open_at_boot(root, Arc::new(Kernel), BootId::of(id.as_bytes()));
    started.map(|(_, recovery)| recovery).map_err(|error| format!("{error:?}"))
}

impl Machine {
    /// Starts the machine until it is decided.
    pub(crate) fn judge_by_starts(
        &self,
        case: Case,
        root: &Path,
        promised: Option<&str>,
    ) -> Result<(), String> {
        let _alone = alone();
        let mut recovery = start(root, "second")?;
        let at_once = matches!(
            (case, promised),
            (Case::Trial | Case::FirstStart | Case::Overdue, Some(_)) | (Case::SecondStart, _)
        );
        require(!waits(&recovery) || !at_once, || format!("{promised:?} promised, and {recovery:?}"))?;
        for id in ["third", "fourth"] {
            if !waits(&recovery) {
                break;
            }
            self.must_be(root, "new").map_err(|complaint| format!("{recovery:?}: {complaint}"))?;
            recovery = start(root, id)?;
        }
        let must = tree_of(case, &recovery, promised)
            .ok_or_else(|| format!("{promised:?} promised, and {recovery:?}"))?;
        self.must_be(root, must).map_err(|complaint| format!("{recovery:?}: {complaint}"))?;
        let journal = World::of(root).is_tidy()?;
        require(journal != matches!(recovery, Recovery::Clean | Recovery::Abandoned { .. }), || {
            format!("a journal: {journal}, and {recovery:?}")
        })?;
        // Whoever opens it next, in this start or another, is told the same.
        let again = start(root, "fifth")?;
        let same = is_over(&again) && tree_of(case, &again, promised) == Some(must);
        require(same, || format!("first {recovery:?}, then {again:?}"))?;
        self.must_be(root, must).map_err(|complaint| format!("opened again: {complaint}"))
    }

    fn must_be(&self, root: &Path, which: &str) -> Result<(), String> {
        match difference(&World::of(root).tree(), &self.trees[which]) {
            Some(difference) => Err(format!("it must be {which}: {difference}")),
            None => Ok(()),
        }
    }
}

/// Whether somebody must judge it still.
fn waits(recovery: &Recovery) -> bool {
    matches!(recovery, Recovery::OnTrial { .. } | Recovery::Finished { .. })
}

/// Which tree that is the end of, if it is one.
fn tree_of(case: Case, recovery: &Recovery, promised: Option<&str>) -> Option<&'static str> {
    match (case, recovery, promised) {
        (Case::Trial, Recovery::Kept { .. }, _) => Some("new"),
        (Case::Trial, Recovery::Clean | Recovery::Abandoned { .. }, None) => Some("old"),
        (Case::Trial, Recovery::Undone { reason: Reason::NeverHealthy, .. }, None) => Some("old"),
        (Case::FirstStart | Case::SecondStart, Recovery::Undone { reason: Reason::NeverHealthy, .. }, _)
        | (Case::Overdue, Recovery::Undone { reason: Reason::Overdue, .. }, _)
        | (Case::Overdue, Recovery::Undone { reason: Reason::NeverHealthy, .. }, None) => Some("old"),
        _ => None,
    }
}
