use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::{AgentMode, BadImage, DisruptionState, Note, Refusal, TrialStatus, Undoable};
use crate::filter::Filter;
use crate::image::{Image, ImageName};
use crate::inode::Timestamp;
use crate::object::ObjectId;
use crate::path::ImagePath;
use crate::tree::{Snapshot, Tree};
use crate::view::{Granularity, Ownership, View, XattrPolicy};

/// How a machine stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PollReply {
    /// What was scanned.
    pub scanned: Scanned,
    /// What changes all the time.
    pub status: AgentStatus,
    /// What hardly ever changes.
    pub details: Arc<AgentDetails>,
}

/// What an agent has seen of its machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scanned {
    /// It looks through another view, or none: send the one you mean.
    NeedView,
    /// No scan has been completed since the view was set or the last update was made.
    NotYet,
    /// All in view was looked at.
    Tree(Tree),
}

/// The state of an agent beside its tree, as far as it is numbers. Of one size, whatever the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentStatus {
    /// Drawn anew when the agent starts.
    pub instance: u64,
    /// Counts up with every change of what a poll would answer and those who wait need know.
    pub generation: u64,
    /// Counts up with every change of the details: two answers of one instance with the same number have the same.
    pub details: u64,
    /// What it is doing.
    pub activity: Activity,
    /// How many paths in view could not be read or would not hold still.
    pub unknown: u64,
    /// Room for objects, in bytes.
    pub free_space: u64,
    /// The scans since the start.
    pub scans: ScanStatus,
    /// The slow pass over everything that is under way; nothing, when there is none.
    pub scrub: Option<ScrubStatus>,
    /// How it holds itself back.
    pub pacing: Pacing,
}

/// How scans went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanStatus {
    /// How many were completed since the start.
    pub count: u64,
    /// How the last one was made.
    pub reach: ScanReach,
    /// How long it took.
    pub duration: Duration,
    /// How many files it opened.
    pub files_opened: u64,
    /// How much it read and hashed, in bytes.
    pub bytes_hashed: u64,
}

/// How far a scan went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScanReach {
    /// It read everything.
    #[default]
    Full,
    /// It looked at everything and read what may have changed.
    Incremental,
    /// It looked only where changes were seen.
    Hinted,
}

/// How far the slow pass over everything is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubStatus {
    /// How much it has read, in bytes.
    pub done: u64,
    /// How much there is to read, in bytes.
    pub total: u64,
    /// When it began.
    pub began: Timestamp,
    /// How many files were found, since the agent started, whose contents had changed although nobody changed them.
    pub corruptions: u64,
}

/// How an agent holds itself back while it scans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pacing {
    /// How much it reads from the disk at most, in bytes a second; nothing: as much as it can.
    pub disk: Option<u64>,
    /// How much of the processors' time it takes at most; nothing: as much as it can.
    pub cpu: Option<Percent>,
    /// What is left of these limits while others wait for disk, processors or memory, in percent; nothing, where the
    /// kernel does not tell.
    pub left: Option<u8>,
}

/// The state of an agent that hardly ever changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentDetails {
    /// Some of the paths in view that are unknown, with the reason, for people to read; at most
    /// [`AgentDetails::MAX_FACTS`].
    pub facts: Vec<PathFailure>,
    /// What the last plan wanted deleted that still holds what is not in view, or is a mount point or leads to one.
    pub kept: BTreeSet<ImagePath>,
    /// How the last update of this run went, if it failed.
    pub last_update_error: Option<String>,
    /// What that update could not do or take back, path by path; at most [`AgentDetails::MAX_FAILURES`].
    pub update_failures: Vec<PathFailure>,
    /// How many more there were.
    pub more_update_failures: u64,
    /// The image the machine was last made to be, also by an earlier run of the agent.
    pub last_image: Option<ImageName>,
    /// Why the root can't be written to, if it can't.
    pub write_error: Option<String>,
    /// What the machine is able to do and wants left alone.
    pub traits: Arc<MachineTraits>,
    /// Whether changes are noticed as they are made, or only by the next scan.
    pub watch: Works,
    /// Whether the root is seen without what is mounted over it.
    pub beneath_mounts: Works,
    /// Files whose contents had changed although nobody changed them, the last ones found; at most
    /// [`AgentDetails::MAX_CORRUPTIONS`].
    pub corruptions: Vec<Corruption>,
    /// What the agent was started to do.
    pub mode: AgentMode,
    /// What an administrator of the machine wrote when they stopped updates; nothing, when they didn't.
    pub stopped: Option<String>,
    /// Images that are not tried again, the last ones found; at most [`AgentDetails::MAX_BAD_IMAGES`].
    pub bad_images: Vec<BadImage>,
    /// The update that is in place and not judged yet.
    pub trial: Option<TrialStatus>,
    /// The update that can be taken back.
    pub undoable: Option<Undoable>,
    /// What somebody changed and undoing moved out of the way, some of it; at most [`AgentDetails::MAX_CONFLICTS`].
    pub conflicts: Vec<ImagePath>,
    /// How much more of it there is.
    pub more_conflicts: u64,
    /// The room all of it takes, in bytes. It stays until a person removes it.
    pub conflict_bytes: u64,
    /// Whether those who use the machine may be disturbed.
    pub disruption: DisruptionState,
    /// What the machine says of itself.
    pub note: Option<Note>,
}

impl AgentDetails {
    /// How many facts are told at most.
    pub const MAX_FACTS: usize = 100;
    /// How many failures of an update are told at most.
    pub const MAX_FAILURES: usize = 100;
    /// How many corrupt files are told at most.
    pub const MAX_CORRUPTIONS: usize = 20;
    /// How many bad images are told, and remembered, at most.
    pub const MAX_BAD_IMAGES: usize = 20;
    /// How many conflicts are told at most.
    pub const MAX_CONFLICTS: usize = 100;
    /// The longest words of whoever stopped updates, in bytes.
    pub const MAX_STOPPED: usize = 200;

    /// Those of an agent that has not done anything yet.
    pub fn new(traits: Arc<MachineTraits>) -> Self {
        let not_tried = || Works::No("not tried yet".into());
        Self {
            facts: Vec::new(),
            kept: BTreeSet::new(),
            last_update_error: None,
            update_failures: Vec::new(),
            more_update_failures: 0,
            last_image: None,
            write_error: None,
            traits,
            watch: not_tried(),
            beneath_mounts: not_tried(),
            corruptions: Vec::new(),
            mode: AgentMode::Normal,
            stopped: None,
            bad_images: Vec::new(),
            trial: None,
            undoable: None,
            conflicts: Vec::new(),
            more_conflicts: 0,
            conflict_bytes: 0,
            disruption: DisruptionState::Anytime,
            note: None,
        }
    }

    /// Why the machine would not become `image` now, or what it is asked to be if that has no name; nothing, if it would.
    pub fn refusal(&self, image: Option<&ImageName>) -> Option<Refusal> {
        if let Some(words) = &self.stopped {
            return Some(Refusal::Stopped(words.clone()));
        }
        match self.mode {
            mode @ (AgentMode::ReadOnly | AgentMode::UpdatesDisabled) => return Some(Refusal::Mode(mode)),
            AgentMode::Normal | AgentMode::TriggersDisabled => {}
        }
        let bad = self.bad_images.iter().find(|bad| Some(&bad.image) == image)?;
        Some(Refusal::BadImage { image: bad.image.clone(), why: bad.why.clone() })
    }
}

/// Whether something works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Works {
    /// It does.
    Yes,
    /// It does not, and why, for people to read.
    No(String),
}

/// A file whose contents had changed although nobody changed them: the disk lost them, or somebody wrote past the
/// file-system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corruption {
    /// Which.
    pub path: ImagePath,
    /// What it was when it was last changed.
    pub was: ObjectId,
    /// What it is.
    pub is: ObjectId,
    /// When that was found.
    pub found: Timestamp,
}

/// What an agent is doing beside scanning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Activity {
    /// Nothing.
    #[default]
    Idle,
    /// Getting objects.
    Fetching,
    /// Applying a plan.
    Updating,
}

/// The machine's part in the view: what it is able to do and what it wants left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineTraits {
    /// Paths never to be looked at, with all below: the agent's own state and keys.
    pub protected: BTreeSet<ImagePath>,
    /// Paths the machine's operator excludes from scans.
    pub exclusions: Filter,
    /// The classes of extended attributes its file-system can keep and the agent may set.
    pub xattrs: XattrPolicy,
    /// Whether the agent may set owners.
    pub ownership: Ownership,
    /// How fine its times are.
    pub mtime: Granularity,
}

impl MachineTraits {
    /// The effective view of a machine that must be `image`, whose tree is `tree`.
    pub fn view(&self, image: &Image, tree: &Snapshot) -> View {
        let lines = |filter: &Filter| matches!(filter, Filter::Lines(_));
        let only = (image.filter == Filter::Sparse).then(|| {
            let mut paths = BTreeSet::new();
            tree.walk(|path, _| {
                paths.insert(path.clone());
            });
            paths
        });
        View {
            filters: [&image.filter, &self.exclusions].into_iter().filter(|f| lines(f)).cloned().collect(),
            protected: self.protected.clone(),
            only,
            xattrs: self.xattrs.and(image.xattrs),
            ownership: self.ownership,
            mtime: self.mtime,
        }
    }
}

/// A path and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathFailure {
    /// Which path.
    pub path: ImagePath,
    /// What failed and why, for people to read.
    pub reason: String,
}

/// How hard an agent may work, and what it leaves alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// How much of the processors' time scans take at most, of one processor at most.
    pub cpu: Percent,
    /// How much of the disk's speed scans take at most.
    pub scan_speed: Percent,
    /// How much of the speed of the network interface towards a source fetches take at most.
    pub network_speed: Percent,
    /// How much they take at most, in bytes a second, whatever the interface can.
    pub network_bytes: Option<NonZeroU64>,
    /// What the machine's operator wants left alone.
    pub exclusions: Filter,
}

/// What is to be another in a [`Configuration`], until the agent ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconfiguration {
    /// The share of the processors, if it is to change.
    pub cpu: Option<Percent>,
    /// The share of the disk, if it is to change.
    pub scan_speed: Option<Percent>,
    /// The share of the network, if it is to change.
    pub network_speed: Option<Percent>,
    /// The bytes a second that fetches take at most, if that is to change; 0 is no limit.
    pub network_bytes: Option<u64>,
}

/// A limit to lift until the end of a scan: the one under way, or the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Boost {
    /// That of the processors.
    Cpu,
    /// That of the disk.
    Scan,
}

/// A share, from 1 to 100 percent; all of something is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u8);

impl Percent {
    /// All.
    pub const ALL: Self = Self(100);

    /// A share; nothing, when it is none of 1 to 100.
    pub const fn new(percent: u8) -> Option<Self> {
        if percent >= 1 && percent <= 100 { Some(Self(percent)) } else { None }
    }

    /// As a number.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for Percent {
    type Err = BadPercent;

    fn from_str(text: &str) -> Result<Self, BadPercent> {
        text.parse().ok().and_then(Self::new).ok_or_else(|| BadPercent(text.into()))
    }
}

/// Text that is no share.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no share; say a number from 1 to 100, where 100 is no limit")]
pub struct BadPercent(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_from_1_to_100() {
        for good in ["1", "2", "100"] {
            assert_eq!(good.parse::<Percent>().unwrap().to_string(), good);
        }
        for bad in ["0", "101", "-1", "", "2%", "256", "1e1"] {
            assert!(bad.parse::<Percent>().is_err(), "{bad:?}");
        }
    }
}
