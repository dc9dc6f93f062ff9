use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use dominator_core::herd::{FastUpdate, Moment, Status};
use dominator_core::machine::Machine;
use dominator_core::port::{Cause, ClusterStore, ClusterStoreError, Revision};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

use super::control::{
    Consent, FleetControl, FleetError, Progress, Stage, Standing, SubInfo, Switch, Updates,
};
use super::member::{Member, Order};
use crate::limits;

/// Where the decision about updates is kept.
const UPDATES: &str = "dominator/updates";
/// How often a decision is taken again when somebody else was faster.
const ATTEMPTS: usize = 5;

/// A fleet, as people see it and give orders to it. A clone is the same fleet.
#[derive(Clone)]
pub struct Fleet(Arc<Inner>);

struct Inner {
    members: Mutex<BTreeMap<String, Arc<Member>>>,
    updates: watch::Sender<Updates>,
    cluster: Arc<dyn ClusterStore>,
    /// Held while a decision is taken, so that the last one kept is the last one in force.
    deciding: tokio::sync::Mutex<()>,
    changes: watch::Sender<u64>,
    begun: SystemTime,
    /// Turns for those who wait for a machine.
    hurried: Arc<Semaphore>,
}

/// Tells when a fleet has changed.
#[derive(Clone, Debug)]
pub struct Changes(watch::Receiver<u64>);

impl Changes {
    /// Waits until something about a machine has changed since the last call, or since [`Fleet::changes`]; for ever, when
    /// the controller has ended. Many changes may be told as one. Safe to cancel.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Fleet {
    /// An empty fleet, under the decision about updates that was taken last.
    pub(super) async fn open(cluster: Arc<dyn ClusterStore>) -> Result<Self, FleetError> {
        // What can't be read may have been a prohibition: nobody is updated on a guess.
        let (updates, _) = read(&*cluster).await?;
        let (members, updates) = (Mutex::default(), watch::Sender::new(updates));
        let (deciding, changes) = (tokio::sync::Mutex::default(), watch::Sender::default());
        let hurried = Arc::new(Semaphore::new(limits::FAST_UPDATES));
        Ok(Self(Arc::new(Inner {
            members,
            updates,
            cluster,
            deciding,
            changes,
            begun: SystemTime::now(),
            hurried,
        })))
    }

    /// Tells of changes from now on: look at the fleet after this, then again after each change.
    pub fn changes(&self) -> Changes {
        Changes(self.0.changes.subscribe())
    }

    /// Waits until `done` says so of all machines, which are shown to it now and after every change. Safe to cancel.
    pub async fn wait_until(&self, mut done: impl FnMut(&[SubInfo]) -> bool) -> Vec<SubInfo> {
        let mut changes = self.changes();
        loop {
            let subs = self.all();
            if done(&subs) {
                return subs;
            }
            changes.next().await;
        }
    }

    /// The other end of [`Fleet::changes`].
    pub(super) fn bell(&self) -> watch::Sender<u64> {
        self.0.changes.clone()
    }

    pub(super) fn switch(&self) -> watch::Sender<Updates> {
        self.0.updates.clone()
    }

    /// Lets `change` work on the machines.
    pub(super) fn with_members<T>(&self, change: impl FnOnce(&mut BTreeMap<String, Arc<Member>>) -> T) -> T {
        change(&mut self.0.members.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts a decision about updates in force.
    fn decide(&self, decided: Updates) {
        self.0.updates.send_replace(decided);
        self.with_members(|members| members.values().for_each(|member| member.call()));
    }

    fn consent(&self, hostname: &str, order: Order, waiting: &[Status]) -> Consent {
        let member = self.with_members(|members| members.get(hostname).cloned());
        member.map_or(Consent::NoSuchMachine, |member| member.consent(order, waiting))
    }

    fn all(&self) -> Vec<SubInfo> {
        self.with_members(|members| members.values().map(|member| self.sub(member)).collect())
    }

    fn sub(&self, member: &Member) -> SubInfo {
        let (machine, shown) = member.shown();
        let time = |moment: Moment| self.0.begun.checked_add(moment.0).unwrap_or(self.0.begun);
        SubInfo {
            hostname: machine.hostname.clone(),
            required_image: machine.required_image.clone(),
            planned_image: machine.planned_image.clone(),
            last_image: shown.last_image,
            status: shown.status,
            detail: shown.detail.unwrap_or_default(),
            since: shown.since,
            last_heard: shown.last_reply.map(time),
            unknown: shown.unknown,
        }
    }
}

#[async_trait]
impl FleetControl for Fleet {
    async fn subs(&self) -> Result<Vec<String>, FleetError> {
        Ok(self.with_members(|members| members.keys().cloned().collect()))
    }

    fn machine(&self, hostname: &str) -> Option<Arc<Machine>> {
        self.with_members(|members| members.get(hostname).map(|member| member.shown().0))
    }

    async fn info(&self, hostnames: &[String]) -> Result<Vec<SubInfo>, FleetError> {
        if hostnames.is_empty() {
            return Ok(self.all());
        }
        Ok(self.with_members(|members| {
            let named: BTreeSet<_> = hostnames.iter().collect();
            named.into_iter().filter_map(|name| members.get(name)).map(|member| self.sub(member)).collect()
        }))
    }

    async fn updates(&self) -> Result<Updates, FleetError> {
        Ok(self.0.updates.borrow().clone())
    }

    async fn switch_updates(&self, switch: Switch, reason: &str, who: &str) -> Result<(), FleetError> {
        let decided = Updates { switch, reason: reason.into(), who: who.into(), when: SystemTime::now() };
        let text = serde_json::to_vec(&Stored::from(&decided)).map_err(|error| failed("writing", error))?;
        let _deciding = self.0.deciding.lock().await;
        if switch == Switch::Disabled {
            // Before it is kept: whoever says "stop" must not wait for a disk, and a call that breaks off has stopped.
            self.decide(decided.clone());
        }
        for _ in 0..ATTEMPTS {
            let (_, revision) = read(&*self.0.cluster).await?;
            match self.0.cluster.set(UPDATES, Bytes::from(text.clone()), revision).await {
                Ok(_) => {
                    tracing::warn!(who, reason, ?switch, "updates switched");
                    self.decide(decided);
                    return Ok(());
                }
                Err(ClusterStoreError::Conflict { .. }) => {}
                Err(error) => return Err(failed("writing", error)),
            }
        }
        Err(failed("writing", "others keep changing it; try again"))
    }

    async fn clear_safety_shutoff(&self, hostname: &str) -> Result<Consent, FleetError> {
        Ok(self.consent(hostname, Order::ClearSafety, &[Status::UnsafeUpdate]))
    }

    async fn force_disruptive_update(&self, hostname: &str) -> Result<Consent, FleetError> {
        let waiting = [Status::DisruptionRequested, Status::DisruptionDenied];
        Ok(self.consent(hostname, Order::ForceDisruption, &waiting))
    }

    async fn fast_update(&self, hostname: &str, order: FastUpdate) -> Result<Option<Progress>, FleetError> {
        let Some(member) = self.with_members(|members| members.get(hostname).cloned()) else {
            return Ok(None);
        };
        let turn = Arc::clone(&self.0.hurried).try_acquire_owned().map_err(|_| FleetError::Failed {
            what: "the machine is updated in its turn only".into(),
            cause: Cause::new(format!("{} are waited for already; try again", limits::FAST_UPDATES)),
        })?;
        Ok(Some(progress(member.hurry(order), turn)))
    }
}

/// What is told of a machine, until there is no more to wait for.
fn progress(telling: watch::Receiver<Standing>, turn: OwnedSemaphorePermit) -> Progress {
    let state = Some((telling, turn));
    Box::pin(stream::try_unfold(state, async |state| {
        let Some((mut telling, turn)) = state else { return Ok(None) };
        if let Ok(Err(_)) = timeout(limits::SIGN_OF_LIFE, telling.changed()).await {
            return Err(FleetError::Failed {
                what: "nobody waits for the machine any more".into(),
                cause: Cause::new("the controller looks after it anew, or no more; ask how it stands"),
            });
        }
        let standing = telling.borrow_and_update().clone();
        let state = (standing.stage == Stage::UnderWay).then_some((telling, turn));
        Ok(Some((standing, state)))
    }))
}

async fn read(cluster: &dyn ClusterStore) -> Result<(Updates, Option<Revision>), FleetError> {
    match cluster.value(UPDATES).await.map_err(|error| failed("reading", error))? {
        Some((text, revision)) => {
            let stored: Stored = serde_json::from_slice(&text).map_err(|error| failed("reading", error))?;
            Ok((stored.into(), Some(revision)))
        }
        None => Ok((Updates::default(), None)),
    }
}

fn failed(doing: &str, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> FleetError {
    FleetError::Failed {
        what: format!("{doing} the decision about updates failed"),
        cause: Cause::new(cause),
    }
}

/// The decision as it is kept.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    enabled: bool,
    reason: String,
    who: String,
    /// In seconds since 1970.
    when: u64,
}

impl From<&Updates> for Stored {
    fn from(updates: &Updates) -> Self {
        Self {
            enabled: updates.switch == Switch::Enabled,
            reason: updates.reason.clone(),
            who: updates.who.clone(),
            when: updates.when.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs(),
        }
    }
}

impl From<Stored> for Updates {
    fn from(stored: Stored) -> Self {
        Self {
            switch: if stored.enabled { Switch::Enabled } else { Switch::Disabled },
            reason: stored.reason,
            who: stored.who,
            when: UNIX_EPOCH.checked_add(Duration::from_secs(stored.when)).unwrap_or(UNIX_EPOCH),
        }
    }
}
