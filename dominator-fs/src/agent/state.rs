use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dominator_core::image::ImageName;
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::port::{Activity, AgentError, AgentStatus, MachineTraits, PathFailure, Scanned};
use dominator_core::tree::{Directories, DirectoryId, Snapshot};
use dominator_core::view::{View, ViewId};

use crate::scan::{Cancel, Scan};

/// Everything an answer is made of.
pub(super) struct State {
    instance: u64,
    generation: u64,
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
    scan_count: u64,
    scan_duration: Duration,
    /// Why the last scan failed as a whole.
    scan_error: Option<String>,
    kept: BTreeSet<ImagePath>,
    activity: Activity,
    last_update_error: Option<String>,
    last_image: Option<ImageName>,
    free_space: u64,
    write_error: Option<String>,
}

/// A scan that may begin.
pub(super) struct Assignment {
    pub(super) view: Arc<View>,
    pub(super) cancel: Cancel,
    epoch: u64,
}

/// What the scanning thread does next.
pub(super) enum Next {
    Scan(Assignment),
    Wait,
    Stop,
}

impl State {
    pub(super) fn new(view: Option<View>, last_image: Option<ImageName>) -> Self {
        Self {
            // Seeded anew in every process.
            instance: RandomState::new().build_hasher().finish(),
            generation: 1,
            view: view.map(|view| (view.id(), Arc::new(view))),
            current: None,
            previous: None,
            epoch: 0,
            cancel: Cancel::default(),
            scan_wanted: true,
            stopping: false,
            scan_count: 0,
            scan_duration: Duration::ZERO,
            scan_error: None,
            kept: BTreeSet::new(),
            activity: Activity::Idle,
            last_update_error: None,
            last_image,
            free_space: 0,
            write_error: None,
        }
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn advance(&mut self) -> u64 {
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

    pub(super) fn status(&self, traits: &MachineTraits) -> AgentStatus {
        let whole = self
            .scan_error
            .iter()
            .map(|error| PathFailure { path: ImagePath::root(), reason: error.clone() });
        let facts = self.current.iter().flat_map(|scan| &scan.facts).map(|fact| PathFailure {
            path: fact.path.clone(),
            reason: format!("{}: {}", fact.why, fact.detail),
        });
        AgentStatus {
            instance: self.instance,
            generation: self.generation,
            scan_count: self.scan_count,
            scan_duration: self.scan_duration,
            unknown: self.current.as_ref().map_or(0, |scan| scan.facts.len() as u64),
            facts: whole.chain(facts).take(AgentStatus::MAX_FACTS).collect(),
            kept: self.kept.clone(),
            activity: self.activity,
            last_update_error: self.last_update_error.clone(),
            last_image: self.last_image.clone(),
            free_space: self.free_space,
            write_error: self.write_error.clone(),
            traits: traits.clone(),
        }
    }

    /// What the scanning thread does when a scan is due, or only when one was asked for.
    pub(super) fn next_scan(&mut self, due: bool) -> Next {
        if self.stopping {
            return Next::Stop;
        }
        match &self.view {
            Some((_, view)) if (due || self.scan_wanted) && self.activity != Activity::Updating => {
                self.scan_wanted = false;
                self.cancel = Cancel::default();
                Next::Scan(Assignment {
                    view: Arc::clone(view),
                    cancel: self.cancel.clone(),
                    epoch: self.epoch,
                })
            }
            Some(_) | None => Next::Wait,
        }
    }

    /// Takes a scan's result in; whether anybody need know of it. Only what is news to those who wait for the machine
    /// counts: that another scan found the same is none.
    pub(super) fn take_scan(&mut self, assignment: &Assignment, outcome: Result<Scan, String>) -> bool {
        if assignment.epoch != self.epoch {
            return false;
        }
        self.scan_count += 1;
        let scan = match outcome {
            Ok(scan) => scan,
            Err(error) => {
                let news = self.scan_error.as_ref() != Some(&error) || self.current.is_some();
                self.scan_error = Some(error);
                self.previous = self.current.take().or(self.previous.take());
                return news;
            }
        };
        self.scan_duration = scan.elapsed;
        let kept: BTreeSet<_> = self.kept.intersection(&scan.held).cloned().collect();
        let same = self.current.as_ref().is_some_and(|old| {
            old.snapshot.tree == scan.snapshot.tree && old.facts == scan.facts && kept == self.kept
        });
        self.kept = kept;
        if !same {
            self.previous = self.current.replace(Arc::new(scan)).or(self.previous.take());
        }
        !same || self.scan_error.take().is_some()
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

    pub(super) fn updated(&mut self, kept: impl IntoIterator<Item = ImagePath>, error: Option<String>) {
        // Those of earlier updates too, which a plan names only once: the next scan drops what is held no longer.
        self.kept.extend(kept);
        self.last_update_error = error;
        self.forget_scan();
    }

    /// What an update before this agent's life left undone.
    pub(super) fn inherited(&mut self, error: String) {
        self.last_update_error = Some(error);
    }

    pub(super) fn made(&mut self, image: ImageName) {
        self.last_image = Some(image);
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
