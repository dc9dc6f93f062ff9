use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::{Required, Status, Wanted};
use crate::image::{Image, ImageName};
use crate::path::ImagePath;
use crate::plan::{Compared, Needs, Plan};
use crate::port::{
    AgentError, Cause, Disruption, FetchReport, MachineTraits, PollReply, PollRequest, Reboot, UpdateReport,
};
use crate::tree::{Tree, TreeId};

/// A point in time: how long after the runtime's beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub Duration);

impl Moment {
    /// So much later.
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }
}

/// How patient the controller is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The least time between the beginnings of two polls of one machine.
    pub min_interval: Duration,
    /// How long an agent may wait for a change before it answers a poll.
    pub poll_wait: Duration,
    /// The first pause after a failure; doubled with each that follows.
    pub retry_min: Duration,
    /// The longest pause.
    pub retry_max: Duration,
    /// The pause after a refusal for the sake of a certificate or of what it lists: only somebody who changes these can
    /// mend it. When our own have changed, nothing is waited for.
    pub refused: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            min_interval: Duration::from_secs(1),
            poll_wait: Duration::from_secs(30),
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(60),
            refused: Duration::from_secs(600),
        }
    }
}

/// Whether a machine may be changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Updates {
    /// It may.
    #[default]
    Enabled,
    /// It is only looked at.
    Disabled,
}

/// Whether an operator agreed to a plan that deletes much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Safety {
    /// Nobody did: such a plan is not carried out.
    #[default]
    Guarded,
    /// They did, for one update.
    ClearedOnce,
}

/// What an update may do to those who use the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leave {
    /// Whether they are asked before they are disturbed.
    pub disruption: Disruption,
    /// Whether the machine may be restarted. A refusal holds until the machine is what it must be, something else is
    /// wanted of it, or another [`FastUpdate`] says otherwise.
    pub reboot: Reboot,
}

/// An operator waits for a machine: it is looked at and updated before its time and before others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FastUpdate {
    /// What the update may do to those who use the machine.
    pub leave: Leave,
    /// Whether it may delete much.
    pub safety: Safety,
}

/// What the runtime is to do. One call at a time: a [`Action::Poll`] takes the place of a poll that is still waiting,
/// whose answer must not be told any more.
#[derive(Clone, Debug)]
pub enum Action {
    /// Connect to the agent, dropping the connection there may be; answer with [`Event::Dialed`].
    Dial,
    /// Poll; answer with [`Event::Polled`].
    Poll(PollRequest),
    /// Make [`Required`] of the wanted image for these traits; answer with [`Event::Required`].
    Require(ImageName, Arc<Image>, Arc<MachineTraits>),
    /// Send the view; answer with [`Event::ViewSet`].
    SetView(Arc<Required>),
    /// Compare the machine's tree with the required one, getting directories that differ; answer with
    /// [`Event::Compared`].
    Compare(Arc<Required>, Tree),
    /// Make the agent fetch the objects of these needs; answer with [`Event::Fetched`].
    Fetch(Needs),
    /// Make the agent carry out a plan made for that tree; answer with [`Event::Updated`].
    Update(Arc<Required>, TreeId, Plan, Leave),
    /// Make the agent drop fetched objects; answer with [`Event::CleanedUp`].
    CleanUp,
    /// Tell [`Event::Wake`] at that time, unless told otherwise before.
    WakeAt(Moment),
}

/// What the runtime tells.
#[derive(Clone, Debug)]
pub enum Event {
    /// The machine data base, the images or the controller's switch changed.
    Wanted(Wanted, Updates),
    /// Of [`Action::Dial`].
    Dialed(Result<(), AgentError>),
    /// Of [`Action::Poll`].
    Polled(Result<Box<PollReply>, AgentError>),
    /// Of [`Action::Require`].
    Required(Result<Arc<Required>, Cause>),
    /// Of [`Action::SetView`].
    ViewSet(Result<(), AgentError>),
    /// Of [`Action::Compare`].
    Compared(Result<Box<Compared>, CompareError>),
    /// Of [`Action::Fetch`].
    Fetched(Result<FetchReport, AgentError>),
    /// Of [`Action::Update`].
    Updated(Result<Box<UpdateReport>, AgentError>),
    /// Of [`Action::CleanUp`].
    CleanedUp(Result<(), AgentError>),
    /// Of [`Action::WakeAt`].
    Wake,
    /// An operator agrees to the plan that was found unsafe, once.
    ClearSafetyShutoff,
    /// An operator wants the update made that waits for leave to disturb the machine's users, once.
    ForceDisruption,
    /// An operator waits for the machine. It is over as soon as [`Sub::is_hurried`](super::Sub::is_hurried) says so.
    FastUpdate(FastUpdate),
    /// Nobody waits for the machine any more.
    NoHurry,
    /// Our own certificate, or whom we believe, was replaced: whoever refused us, or was refused, is worth another try.
    Renewed,
}

/// A comparison that could not be made.
#[derive(Clone, Debug, Error)]
pub enum CompareError {
    /// The agent could not be asked.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The machine's tree makes no sense.
    #[error("the machine's tree makes no sense")]
    Tree(#[source] Cause),
}

/// What people are told of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubInfo {
    /// How it stands.
    pub status: Status,
    /// More about that: the error, or what is unsafe.
    pub detail: Option<String>,
    /// What it must be.
    pub required_image: Option<ImageName>,
    /// What the agent last made it be.
    pub last_image: Option<ImageName>,
    /// How many paths could not be looked at.
    pub unknown: u64,
    /// Directories that would have to go but hold what is not in view.
    pub kept: BTreeSet<ImagePath>,
    /// How many scans the agent has completed.
    pub scan_count: u64,
    /// How long the last one took.
    pub scan_duration: Duration,
    /// When it was last found to be what it must be.
    pub last_sync: Option<Moment>,
    /// When it last answered.
    pub last_reply: Option<Moment>,
    /// How many updates were carried out.
    pub updates: u64,
    /// How many objects it was made to fetch.
    pub objects_fetched: u64,
}
