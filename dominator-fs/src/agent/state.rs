use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use bytes::Bytes;
use dominator_core::image::ImageName;
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::plan::Needs;
use dominator_core::port::{
    Activity, AgentDetails, AgentError, AgentStatus, Corruption, MachineTraits, PathFailure, ScanReach,
    ScanStatus, Scanned, ScrubStatus, UndoReason, UpdateOutcome, UpdateReport, Works,
};
use dominator_core::tree::{Directories, DirectoryId, Snapshot};
use dominator_core::view::{View, ViewId};

use super::condition::Condition;
use super::fetch::Stop;
use crate::scan::{Cancel, Scan};

/// Everything an answer is made of.
pub(super) struct State {
    instance: u64,
    generation: u64,
    /// What answers tell that hardly ever changes, and how often it did.
    details: Arc<AgentDetails>,
    details_version: u64,
    view: Option<(ViewId, Arc<View>)>,
    /// The last scan of the view, until something is done that makes it untrue.
    current: Option<Arc<Scan>>,
    /// The one before: who polled it may still ask for its directories.
    previous: Option<Arc<Scan>>,
    /// Counts what makes a scan under way untrue: its end is of no use when this has changed since its beginning.
    epoch: u64,
    /// Ends the scan under way.
    cancel: Cancel,
    scan_wanted: bool,
    stopping: bool,
    scans: ScanStatus,
    /// Why the last scan failed as a whole.
    scan_error: Option<String>,
    kept: BTreeSet<ImagePath>,
    activity: Activity,
    /// What is fetched, and how that is ended.
    fetching: Option<(Arc<Needs>, Stop)>,
    last_update: Option<Shortfall>,
    last_image: Option<ImageName>,
    free_space: u64,
    write_error: Option<String>,
    traits: Arc<MachineTraits>,
    watch: Works,
    beneath_mounts: Works,
    scrub: Option<ScrubStatus>,
    /// The last ones found.
    corruptions: Vec<Corruption>,
    /// What stands in the way of updates, and what is known of the last one.
    condition: Condition,
}

/// What an update did not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shortfall {
    /// In one line.
    pub(super) error: String,
    /// Path by path: what could not be done, or is not as before.
    pub(super) failures: Vec<PathFailure>,
}

impl Shortfall {
    pub(super) fn new(error: String, failures: Vec<PathFailure>) -> Self {
        for PathFailure { path, reason } in failures.iter().take(AgentDetails::MAX_FAILURES) {
            tracing::warn!(%path, reason, "not updated");
        }
        Self { error, failures }
    }

    /// Nothing, if all was done and stays.
    pub(super) fn of(image: Option<&ImageName>, report: &UpdateReport) -> Option<Self> {
        if let UpdateOutcome::Undone { why, detail, failures } = &report.outcome {
            if *why == UndoReason::Asked && failures.is_empty() {
                return None;
            }
            let image = image.map(|image| format!(" to {image}")).unwrap_or_default();
            let error = format!("the update{image} was taken back: {why}: {detail}");
            return Some(Self::new(error, failures.clone()));
        }
        let paths = report.failures.iter().map(|failure| format!("{}: {}", failure.path, failure.reason));
        // What had failed before and fails again is as before.
        let failed = report.services.iter().filter(|service| service.is_failure());
        let services = failed.filter_map(|service| {
            service.error.as_ref().map(|error| format!("{} {}: {error}", service.action, service.service))
        });
        let mut all = paths.chain(services);
        let first = all.next()?;
        let error = match all.count() {
            0 => first,
            more => format!("{first}, and {more} more"),
        };
        Some(Self::new(error, report.failures.clone()))
    }
}

/// A scan that may begin.
pub(super) struct Assignment {
    view: Arc<View>,
    cancel: Cancel,
    epoch: u64,
}

impl Assignment {
    pub(super) fn view(&self) -> &Arc<View> {
        &self.view
    }

    pub(super) fn cancel(&self) -> &Cancel {
        &self.cancel
    }
}

/// What it is time for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// To read a little again that seems unchanged.
    Scrub,
    /// To look where changes were seen.
    Changes,
    /// To look everywhere.
    Everything,
}

/// What the scanning thread does next.
pub(super) enum Next {
    /// Look everywhere.
    Scan(Assignment),
    /// Look where changes were seen.
    LookAgain(Assignment),
    /// Read a little again that seems unchanged.
    Scrub(Assignment),
    /// Wait, for changes in this view if there is one.
    Wait(Option<Arc<View>>),
    Stop,
}

impl State {
    pub(super) fn new(view: Option<View>, last_image: Option<ImageName>, traits: MachineTraits) -> Self {
        let traits = Arc::new(traits);
        let details = Arc::new(AgentDetails::new(Arc::clone(&traits)));
        let (watch, beneath_mounts) = (details.watch.clone(), details.beneath_mounts.clone());
        let mut state = Self {
            // Seeded anew in every process.
            instance: RandomState::new().build_hasher().finish(),
            generation: 0,
            details,
            details_version: 0,
            view: view.map(|view| (view.id(), Arc::new(view))),
            current: None,
            previous: None,
            epoch: 0,
            cancel: Cancel::default(),
            scan_wanted: true,
            stopping: false,
            scans: ScanStatus::default(),
            scan_error: None,
            kept: BTreeSet::new(),
            activity: Activity::Idle,
            fetching: None,
            last_update: None,
            last_image,
            free_space: 0,
            write_error: None,
            traits,
            watch,
            beneath_mounts,
            scrub: None,
            corruptions: Vec::new(),
            condition: Condition::default(),
        };
        state.advance();
        state
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Something changed that those who wait need know.
    pub(super) fn advance(&mut self) -> u64 {
        let details = self.new_details();
        // Numbers are from 1: 0 is nobody's.
        if self.details_version == 0 || *self.details != details {
            self.details = Arc::new(details);
            self.details_version += 1;
        }
        self.generation += 1;
        self.generation
    }

    pub(super) fn view_id(&self) -> Option<ViewId> {
        self.view.as_ref().map(|(id, _)| *id)
    }

    pub(super) fn set_view(&mut self, id: ViewId, view: Arc<View>) {
        self.view = Some((id, view));
        self.kept.clear();
        self.forget_scan();
    }

    pub(super) fn scanned(&self) -> Scanned {
        self.current.as_ref().map_or(Scanned::NotYet, |scan| Scanned::Tree(scan.snapshot.tree.clone()))
    }

    /// The scans whose directories may be asked for.
    pub(super) fn scans(&self) -> Vec<Arc<Scan>> {
        self.current.iter().chain(&self.previous).cloned().collect()
    }

    pub(super) fn traits(&self) -> &MachineTraits {
        &self.traits
    }

    pub(super) fn details(&self) -> Arc<AgentDetails> {
        Arc::clone(&self.details)
    }

    pub(super) fn status(&self) -> AgentStatus {
        AgentStatus {
            instance: self.instance,
            generation: self.generation,
            details: self.details_version,
            activity: self.activity,
            unknown: self.current.as_ref().map_or(0, |scan| scan.facts.len() as u64),
            free_space: self.free_space,
            scans: self.scans,
            scrub: self.scrub,
            ..AgentStatus::default()
        }
    }

    fn new_details(&self) -> AgentDetails {
        let whole = self
            .scan_error
            .iter()
            .map(|error| PathFailure { path: ImagePath::root(), reason: error.clone() });
        let facts = self.current.iter().flat_map(|scan| &scan.facts).map(|fact| PathFailure {
            path: fact.path.clone(),
            reason: format!("{}: {}", fact.why, fact.detail),
        });
        let failures = self.last_update.as_ref().map(|last| &last.failures[..]).unwrap_or_default();
        AgentDetails {
            facts: whole.chain(facts).take(AgentDetails::MAX_FACTS).collect(),
            kept: self.kept.clone(),
            last_update_error: self.last_update.as_ref().map(|last| last.error.clone()),
            update_failures: failures.iter().take(AgentDetails::MAX_FAILURES).cloned().collect(),
            more_update_failures: failures.len().saturating_sub(AgentDetails::MAX_FAILURES) as u64,
            last_image: self.last_image.clone(),
            write_error: self.write_error.clone(),
            watch: self.watch.clone(),
            beneath_mounts: self.beneath_mounts.clone(),
            corruptions: self.corruptions.clone(),
            ..self.condition.told(AgentDetails::new(Arc::clone(&self.traits)))
        }
    }

    /// What the scanning thread does when a scan is due, or only when one was asked for, or changes were seen.
    pub(super) fn next_scan(&mut self, due: Due) -> Next {
        if self.stopping {
            return Next::Stop;
        }
        // Before the first scan is through there is nothing to look at again.
        let everything = due == Due::Everything || self.scan_wanted;
        let partly = matches!(due, Due::Changes | Due::Scrub) && self.current.is_some();
        match &self.view {
            Some((_, view)) if (everything || partly) && self.activity != Activity::Updating => {
                self.scan_wanted = false;
                self.cancel = Cancel::default();
                let (view, cancel) = (Arc::clone(view), self.cancel.clone());
                let assignment = Assignment { view, cancel, epoch: self.epoch };
                match due {
                    _ if everything => Next::Scan(assignment),
                    Due::Scrub => Next::Scrub(assignment),
                    Due::Changes | Due::Everything | Due::Nothing => Next::LookAgain(assignment),
                }
            }
            Some(_) | None => Next::Wait(self.view.as_ref().map(|(_, view)| Arc::clone(view))),
        }
    }

    /// The slow pass over everything went on. Who waits need not know.
    pub(super) fn set_scrub(&mut self, scrub: Option<ScrubStatus>) {
        self.scrub = scrub;
    }

    pub(super) fn found_corrupt(&mut self, corruption: Corruption) {
        if self.corruptions.len() >= AgentDetails::MAX_CORRUPTIONS {
            self.corruptions.remove(0);
        }
        self.corruptions.push(corruption);
    }

    pub(super) fn set_beneath_mounts(&mut self, works: Works) {
        self.beneath_mounts = works;
    }

    pub(super) fn set_watch(&mut self, watch: Works) {
        self.watch = watch;
    }

    /// Takes a scan's result in; whether anybody need know of it. Only what is news to those who wait for the machine
    /// counts: that another scan found the same is none.
    pub(super) fn take_scan(
        &mut self,
        assignment: &Assignment,
        reach: ScanReach,
        outcome: Result<Scan, String>,
    ) -> bool {
        if assignment.epoch != self.epoch {
            return false;
        }
        self.scans.count += 1;
        let scan = match outcome {
            Ok(scan) => scan,
            Err(error) => {
                let news = self.scan_error.as_ref() != Some(&error) || self.current.is_some();
                self.scan_error = Some(error);
                self.previous = self.current.take().or(self.previous.take());
                return news;
            }
        };
        self.scans.reach = reach;
        self.scans.duration = scan.elapsed;
        self.scans.files_opened = scan.files_opened;
        self.scans.bytes_hashed = scan.bytes_hashed;
        let kept: BTreeSet<_> = self.kept.intersection(&scan.held).cloned().collect();
        let same = self.current.as_ref().is_some_and(|old| {
            old.snapshot.tree == scan.snapshot.tree && old.facts == scan.facts && kept == self.kept
        });
        self.kept = kept;
        if !same {
            self.previous = self.current.replace(Arc::new(scan)).or(self.previous.take());
        }
        // Taken whatever else is new: the tree after a failure always is.
        let recovered = self.scan_error.take().is_some();
        recovered || !same
    }

    pub(super) fn stop(&mut self) {
        self.stopping = true;
        self.cancel.cancel();
    }

    pub(super) fn is_idle(&self) -> bool {
        self.activity == Activity::Idle
    }

    /// Begins an order, if none is under way.
    pub(super) fn begin(&mut self, activity: Activity) -> Result<(), AgentError> {
        match self.activity {
            Activity::Idle => self.activity = activity,
            Activity::Fetching => return Err(AgentError::NotNow("it is fetching objects".to_owned())),
            Activity::Updating => return Err(AgentError::NotNow("it is being updated".to_owned())),
        }
        Ok(())
    }

    pub(super) fn end(&mut self) {
        self.activity = Activity::Idle;
        self.fetching = None;
    }

    /// The order under way is a fetch that can be ended.
    pub(super) fn fetches(&mut self, needs: Arc<Needs>, stop: Stop) {
        self.fetching = Some((needs, stop));
    }

    /// Ends the fetch under way, if there is one of something else. Says whether its end is to be waited for.
    pub(super) fn end_fetch_but_of(&self, wanted: Option<&Needs>) -> bool {
        match &self.fetching {
            Some((needs, stop)) if wanted != Some(&**needs) => {
                stop.say();
                true
            }
            Some(_) | None => false,
        }
    }

    /// What an update is checked against: the view and the last scan.
    pub(super) fn base(&self) -> Option<(ViewId, Arc<View>, Arc<Scan>)> {
        let (id, view) = self.view.as_ref()?;
        Some((*id, Arc::clone(view), Arc::clone(self.current.as_ref()?)))
    }

    /// The tree is about to change, or has: what was or is being scanned is no longer true.
    pub(super) fn forget_scan(&mut self) {
        self.epoch += 1;
        self.cancel.cancel();
        self.previous = self.current.take().or(self.previous.take());
        self.scan_wanted = true;
    }

    pub(super) fn updated(
        &mut self,
        kept: impl IntoIterator<Item = ImagePath>,
        shortfall: Option<Shortfall>,
    ) {
        // Those of earlier updates too, which a plan names only once: the next scan drops what is held no longer.
        self.kept.extend(kept);
        self.last_update = shortfall;
        self.forget_scan();
    }

    /// What is kept, and under which view.
    pub(super) fn kept(&self) -> Option<(ViewId, &BTreeSet<ImagePath>)> {
        self.view_id().map(|view| (view, &self.kept))
    }

    /// What an agent before this one kept: the first scan drops what is held no longer.
    pub(super) fn still_kept(&mut self, kept: BTreeSet<ImagePath>) {
        self.kept = kept;
    }

    /// What an update that was cut off left undone, beside what is told of it already.
    pub(super) fn inherited(&mut self, shortfall: Shortfall) {
        self.last_update = Some(match self.last_update.take() {
            Some(Shortfall { error, failures }) => {
                Shortfall { error: format!("{error}; besides, {}", shortfall.error), failures }
            }
            None => shortfall,
        });
    }

    /// Which image the machine is, as far as anybody knows.
    pub(super) fn made(&mut self, image: Option<ImageName>) {
        self.last_image = image;
    }

    pub(super) fn instance(&self) -> u64 {
        self.instance
    }

    pub(super) fn condition(&mut self) -> &mut Condition {
        &mut self.condition
    }

    /// Why an image is not tried again; nothing, if it may be.
    pub(super) fn why_bad(&self, image: &ImageName) -> Option<String> {
        self.condition.bad_images.iter().find(|bad| bad.image == *image).map(|bad| bad.why.clone())
    }

    /// Whether the root could be written to when that was tried last.
    pub(super) fn is_writable(&self) -> bool {
        self.write_error.is_none()
    }

    /// Whether anybody need know. Room changes all the time, and is no news.
    pub(super) fn set_disk(&mut self, free: u64, error: Option<String>) -> bool {
        self.free_space = free;
        let news = self.write_error != error;
        self.write_error = error;
        news
    }
}

/// The encoding of a directory or of the hard links of one of these trees.
pub(super) fn encoded(scans: &[Arc<Scan>], id: &ObjectId) -> Option<Bytes> {
    let of = |snapshot: &Snapshot| {
        if snapshot.tree.links.0 == *id {
            return Some(snapshot.links.encode().into());
        }
        snapshot.directories.directory(&DirectoryId(*id)).map(|directory| directory.encoded().clone())
    };
    scans.iter().find_map(|scan| of(&scan.snapshot))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::Root;
    use crate::scan::Scanner;
    use crate::traits::traits_of;

    #[test]
    fn why_a_scan_failed_is_told_until_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let mut state = State::new(Some(View::everything()), None, traits_of(&root));
        let Next::Scan(assignment) = state.next_scan(Due::Everything) else { panic!("no scan") };
        let scan = || Scanner::new(root.clone(), Arc::clone(assignment.view())).scan(assignment.cancel());
        let mut facts_after = |outcome| {
            assert!(state.take_scan(&assignment, ScanReach::Full, outcome), "it is news");
            state.advance();
            state.details().facts.len()
        };
        assert_eq!(facts_after(Ok(scan().unwrap())), 0);
        assert_eq!(facts_after(Err("no memory".into())), 1);
        assert_eq!(facts_after(Ok(scan().unwrap())), 0);
    }
}
