use std::collections::btree_map::Entry;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use dominator_core::backoff::{Backoff, Spread};
use dominator_core::herd;
use dominator_core::machine::Mdb;
use dominator_core::port::{AgentDialer, ClusterStore, ImageStore, MachineSource};
use futures_util::FutureExt as _;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::control::{FleetError, Updates};
use super::directories::DirectoryCache;
use super::fleet::Fleet;
use super::images::ImageCache;
use super::machine::Runner;
use super::member::Member;
use crate::wire::text;

/// How long a machine data base that can't be read is left alone.
const SOURCE_PAUSE: Duration = Duration::from_secs(5);

/// What a controller is made of.
pub struct Parts {
    /// Says which machines there are.
    pub machines: Box<dyn MachineSource>,
    /// Reaches them.
    pub dialer: Arc<dyn AgentDialer>,
    /// Has the images they must be.
    pub images: Arc<dyn ImageStore>,
    /// Where they fetch objects, `host:port`, as seen from them: from the first that works.
    pub sources: Vec<String>,
    /// Keeps what must survive the controller.
    pub cluster: Arc<dyn ClusterStore>,
}

/// How hard a controller works.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// How patient it is with each machine.
    pub herd: herd::Settings,
    /// How many connections are made at once.
    pub dials: usize,
    /// How many comparisons are computed at once.
    pub comparisons: usize,
    /// How many machines are compared at once, counting those that are waited for: the directories of so many are in
    /// memory.
    pub comparing: usize,
    /// How much room there is for directories of machines, in bytes of their encodings.
    pub directory_cache: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            herd: herd::Settings::default(),
            dials: 128,
            comparisons: std::thread::available_parallelism().map_or(1, usize::from),
            comparing: 128,
            directory_cache: 256 * 1024 * 1024,
        }
    }
}

/// What the tasks of all machines share.
pub(super) struct Shared {
    pub(super) dialer: Arc<dyn AgentDialer>,
    pub(super) images: ImageCache,
    pub(super) sources: Vec<String>,
    pub(super) updates: watch::Sender<Updates>,
    pub(super) directories: Arc<DirectoryCache>,
    pub(super) dialing: Semaphore,
    pub(super) computing: Semaphore,
    pub(super) comparing: Semaphore,
    pub(super) changes: watch::Sender<u64>,
    pub(super) begun: Instant,
    /// How patient the controller is with each machine.
    pub(super) patience: Arc<herd::Settings>,
}

/// The runtime of a fleet: a task for each machine, and none that outlives it.
pub struct Controller {
    machines: Box<dyn MachineSource>,
    fleet: Fleet,
    shared: Arc<Shared>,
}

impl Controller {
    /// Joins the parts; [`Controller::run`] sets them going.
    ///
    /// # Errors
    /// [`FleetError`] when the decision whether machines may be updated can't be read.
    pub async fn new(parts: Parts, tuning: Tuning) -> Result<Self, FleetError> {
        let fleet = Fleet::open(parts.cluster).await?;
        let shared = Arc::new(Shared {
            dialer: parts.dialer,
            images: ImageCache::new(parts.images),
            sources: parts.sources,
            updates: fleet.switch(),
            directories: Arc::new(DirectoryCache::new(tuning.directory_cache)),
            dialing: Semaphore::new(tuning.dials.max(1)),
            computing: Semaphore::new(tuning.comparisons.max(1)),
            comparing: Semaphore::new(tuning.comparing.max(1)),
            changes: fleet.bell(),
            begun: Instant::now(),
            patience: Arc::new(tuning.herd),
        });
        Ok(Self { machines: parts.machines, fleet, shared })
    }

    /// The fleet, to look at and to give orders to.
    pub fn fleet(&self) -> Fleet {
        self.fleet.clone()
    }

    /// Makes every machine what it must be and keeps it so, until `shutdown` is ready. Orders that machines are
    /// carrying out then go on there. Dropping the future ends everything, too.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        let Self { mut machines, fleet, shared } = self;
        let mut tasks = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        let mut images = std::pin::pin!(shared.images.run());
        let mut renewal = 0;
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                renewed = shared.dialer.renewed(renewal) => {
                    renewal = renewed;
                    shared.images.renewed();
                    fleet.with_members(|members| members.values().for_each(|member| member.renewed()));
                }
                () = &mut images => {}
                mdb = next_machines(&mut *machines) => apply(mdb, &fleet, &shared, &mut tasks),
                Some(ended) = tasks.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "the task of a machine failed");
                    }
                }
            }
        }
        tasks.shutdown().await;
    }
}

/// The next state of the machine data base. While it can't be read, the one before stays in force. Safe to cancel.
async fn next_machines(machines: &mut dyn MachineSource) -> Mdb {
    loop {
        match machines.next().await {
            Ok(mdb) => return mdb,
            Err(error) => tracing::warn!(error = text(&error), "the machine data base can't be read"),
        }
        tokio::time::sleep(SOURCE_PAUSE).await;
    }
}

/// Adds, changes and removes machines.
fn apply(mdb: Mdb, fleet: &Fleet, shared: &Arc<Shared>, tasks: &mut JoinSet<()>) {
    fleet.with_members(|members| {
        members.extract_if(.., |name, _| !mdb.machines.contains_key(name)).for_each(|(_, gone)| gone.leave());
        for (name, machine) in mdb.machines {
            match members.entry(name) {
                Entry::Occupied(member) => member.get().replace(machine),
                Entry::Vacant(place) => {
                    let member = place.insert(Member::new(machine));
                    tasks.spawn(look_after(shared.clone(), Arc::clone(member)));
                }
            }
        }
        tracing::info!(machines = members.len(), "fleet");
    });
    shared.changes.send_modify(|count| *count = count.wrapping_add(1));
}

/// Runs the task of a machine, and runs it anew when it breaks down: a fault in how one machine is looked after must not
/// leave it alone for good, nor touch the others.
async fn look_after(shared: Arc<Shared>, member: Arc<Member>) {
    let spread = Spread::of(&member.machine().hostname);
    let mut backoff = Backoff::new(shared.patience.retry_min, shared.patience.retry_max, spread);
    loop {
        let runner = Box::pin(Runner::new(shared.clone(), member.clone()).run());
        // Nothing of the runner is used afterwards but the member, whose values are replaced whole.
        let Err(_) = AssertUnwindSafe(runner).catch_unwind().await else { return };
        tracing::error!(sub = member.machine().hostname, "its task broke down; it will be started again");
        shared.broke_down(&member);
        // Boxed: the tasks of all machines have room for what one waits for here.
        Box::pin(tokio::time::sleep(backoff.pause())).await;
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use dominator_core::herd::Status;
    use dominator_core::machine::Machine;
    use dominator_core::port::{Agent, AgentError, Cause, Unreachable};
    use dominator_core_testkit::{MemoryCluster, MemoryImages, MemoryMachines, MemoryObjects};

    use super::*;
    use crate::controller::{FleetControl as _, Switch};

    struct Nowhere;

    #[async_trait]
    impl AgentDialer for Nowhere {
        async fn dial(&self, _: &Machine) -> Result<Arc<dyn Agent>, AgentError> {
            std::future::pending().await
        }
    }

    /// Refuses whoever shows the certificate of before.
    struct Renewable(watch::Sender<u64>);

    #[async_trait]
    impl AgentDialer for Renewable {
        async fn dial(&self, _: &Machine) -> Result<Arc<dyn Agent>, AgentError> {
            let why = if *self.0.borrow() == 0 { Unreachable::BadCertificate } else { Unreachable::NoRoute };
            Err(AgentError::Unreachable { why, cause: Cause::new("so it is") })
        }

        async fn renewed(&self, seen: u64) -> u64 {
            *self.0.subscribe().wait_for(|now| *now != seen).await.unwrap()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn machines_that_refused_us_are_dialled_at_once_when_our_certificate_is_another() {
        let dialer = Arc::new(Renewable(watch::Sender::new(0)));
        let names = ["web1", "web2"];
        let parts = Parts {
            machines: Box::new(MemoryMachines::new(names.map(Machine::named)).0),
            dialer: dialer.clone(),
            images: Arc::new(MemoryImages::new(Arc::new(MemoryObjects::default()))),
            sources: vec!["images:6971".into()],
            cluster: Arc::new(MemoryCluster::default()),
        };
        let controller = Controller::new(parts, Tuning::default()).await.unwrap();
        let fleet = controller.fleet();
        let all = async |status| {
            fleet.wait_until(|subs| subs.len() == 2 && subs.iter().all(|sub| sub.status == status)).await;
        };
        let begun = Instant::now();
        let watched = async {
            all(Status::BadCertificate).await;
            dialer.0.send_replace(1);
            all(Status::NoRouteToHost).await;
        };
        tokio::select! {
            () = controller.run(std::future::pending()) => {}
            () = watched => {}
        }
        assert!(begun.elapsed() < herd::Settings::default().retry_min, "{:?}", begun.elapsed());
    }

    /// Nothing else happens here that a task could wake for.
    #[tokio::test(start_paused = true)]
    async fn a_task_is_called_at_once_for_a_decision_and_ends_with_its_machine() {
        let parts = Parts {
            machines: Box::new(MemoryMachines::new([]).0),
            dialer: Arc::new(Nowhere),
            images: Arc::new(MemoryImages::new(Arc::new(MemoryObjects::default()))),
            sources: vec!["images:6971".into()],
            cluster: Arc::new(MemoryCluster::default()),
        };
        let Controller { fleet, shared, .. } = Controller::new(parts, Tuning::default()).await.unwrap();
        let watched = Member::new(Machine::named("watched"));
        fleet.with_members(|members| members.insert("watched".into(), watched.clone()));
        fleet.switch_updates(Switch::Disabled, "a fire", "alice").await.unwrap();
        assert!(watched.called().now_or_never().is_some());
        let mut tasks = JoinSet::new();
        let machines = [("web1".to_owned(), Machine::named("web1"))].into();
        apply(Mdb { machines }, &fleet, &shared, &mut tasks);
        tokio::task::yield_now().await;
        apply(Mdb::default(), &fleet, &shared, &mut tasks);
        let ended = tokio::time::timeout(Duration::from_secs(1), tasks.join_next()).await;
        assert!(matches!(ended, Ok(Some(Ok(())))), "{ended:?}");
    }
}
