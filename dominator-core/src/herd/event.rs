use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use super::{Required, Status, Wanted};
use crate::image::{Image, ImageName};
use crate::object::ObjectId;
use crate::path::ImagePath;
use crate::plan::{Compared, Plan};
use crate::port::{AgentError, Cause, FetchReport, MachineTraits, PollReply, PollRequest, UpdateReport};
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
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            min_interval: Duration::from_secs(1),
            poll_wait: Duration::from_secs(30),
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(60),
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
    /// Make the agent fetch objects, given with their lengths in bytes; answer with [`Event::Fetched`].
    Fetch(BTreeMap<ObjectId, u64>),
    /// Make the agent carry out a plan made for that tree; answer with [`Event::Updated`].
    Update(Arc<Required>, TreeId, Plan),
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
    Updated(Result<UpdateReport, AgentError>),
    /// Of [`Action::CleanUp`].
    CleanedUp(Result<(), AgentError>),
    /// Of [`Action::WakeAt`].
    Wake,
    /// An operator agrees to the plan that was found unsafe, once.
    ClearSafetyShutoff,
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
