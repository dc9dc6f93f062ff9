use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use dominator_core::object::ObjectId;
use dominator_core::port::{AgentDetails, MachineTraits, PollReply, Scanned};
use dominator_core::tree::{Tree, TreeId};
use prost::Message as _;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tonic::Status;

use crate::wire::Held;
use crate::{limits, v1, wire};

/// How many kinds of traits are remembered when no machine has them any more.
const KINDS: usize = 64;
/// How many filters are compiled at once.
const COMPILED_AT_ONCE: usize = 2;

/// What agents answered lately, once for all machines that answered the same: nearly all machines of a fleet do.
///
/// Compiled filters are dear to make and to keep. Machines can send whatever they like, too: compiling that takes neither
/// the threads that serve the others nor all of the processors. What one machine sent is found again only by what it is,
/// never by what a machine calls it, so that none can speak for others.
#[derive(Clone, Debug)]
pub(super) struct KnownAnswers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    traits: Mutex<VecDeque<(v1::MachineTraits, Arc<MachineTraits>)>>,
    details: Mutex<Shared<ObjectId, AgentDetails>>,
    trees: Mutex<Shared<TreeId, Tree>>,
    compiling: Semaphore,
}

/// What an agent answered last and hardly ever changes.
#[derive(Clone, Debug)]
pub(super) struct Answered {
    instance: u64,
    version: u64,
    details: Arc<AgentDetails>,
    tree: Option<(TreeId, Arc<Tree>)>,
}

impl Answered {
    /// What the agent need not tell again.
    pub(super) fn held(&self) -> Held {
        let tree = self.tree.as_ref().map(|(id, _)| *id);
        Held { instance: self.instance, details: self.version, tree }
    }
}

impl KnownAnswers {
    pub(super) fn new() -> Self {
        let (details, trees) = (Mutex::default(), Mutex::default());
        let compiling = Semaphore::new(COMPILED_AT_ONCE);
        Self(Arc::new(Inner { traits: Mutex::default(), details, trees, compiling }))
    }

    /// Fills in what an answer left out as known from the one `before`, which was told to the agent. Safe to cancel.
    pub(super) async fn whole(
        &self,
        answer: v1::PollReply,
        before: Option<&Answered>,
    ) -> Result<(PollReply, Answered), Status> {
        let held = before.and_then(|before| before.tree.as_ref()).map(|(_, tree)| tree);
        let scanned = wire::scanned_from(answer.scanned, held)?;
        let wire = answer.status.ok_or_else(|| wire::invalid("an answer without a status"))?;
        let status = wire::status_from(&wire)?;
        let details = match (wire.same_details, before) {
            (false, _) => self.details(wire).await?,
            (true, Some(before)) if before.held().is_of(&status) => Arc::clone(&before.details),
            (true, _) => return Err(wire::invalid("the same details as before, where there were others")),
        };
        let tree = match &scanned {
            Scanned::Tree(tree) => Some(self.tree(tree)),
            Scanned::NeedView | Scanned::NotYet => None,
        };
        let (instance, version) = (status.instance, status.details);
        let last = Answered { instance, version, details: Arc::clone(&details), tree };
        Ok((PollReply { scanned, status, details }, last))
    }

    /// The details of a status.
    async fn details(&self, status: v1::AgentStatus) -> Result<Arc<AgentDetails>, Status> {
        let details = wire::without_numbers(status);
        let id = ObjectId::of(&details.encode_to_vec());
        if let Some(known) = lock(&self.0.details).find(&id) {
            return Ok(known);
        }
        let traits = details.traits.as_ref();
        let traits = self
            .traits(traits.ok_or_else(|| wire::invalid("an answer without the machine's traits"))?)
            .await?;
        let details = wire::details_from(details, traits)?;
        Ok(lock(&self.0.details).share(id, details))
    }

    /// The tree, with its id.
    fn tree(&self, tree: &Tree) -> (TreeId, Arc<Tree>) {
        let id = tree.id();
        let mut trees = lock(&self.0.trees);
        (id, trees.find(&id).unwrap_or_else(|| trees.share(id, tree.clone())))
    }

    async fn traits(&self, wire: &v1::MachineTraits) -> Result<Arc<MachineTraits>, Status> {
        if wire.encoded_len() > limits::TRAITS {
            return Err(wire::invalid(format!("traits of more than {} bytes", limits::TRAITS)));
        }
        if let Some(traits) = self.find(wire) {
            return Ok(traits);
        }
        let broken = |_| Status::internal("reading the traits was broken off");
        let place = self.0.compiling.acquire().await.map_err(|_| Status::internal("nothing is compiled"))?;
        if let Some(traits) = self.find(wire) {
            return Ok(traits);
        }
        let read = wire.clone();
        let traits = spawn_blocking(move || wire::traits_from(&read)).await.map_err(broken)??;
        drop(place);
        let mut known = lock(&self.0.traits);
        if let Some((_, same)) = known.iter().find(|(from, _)| from == wire) {
            // Two were at it.
            return Ok(same.clone());
        }
        if known.len() >= KINDS {
            known.pop_front();
        }
        let traits = Arc::new(traits);
        known.push_back((wire.clone(), traits.clone()));
        Ok(traits)
    }

    fn find(&self, wire: &v1::MachineTraits) -> Option<Arc<MachineTraits>> {
        lock(&self.0.traits).iter().find(|(from, _)| from == wire).map(|(_, traits)| traits.clone())
    }
}

/// Values that are found for as long as somebody has them.
#[derive(Debug)]
struct Shared<K, V> {
    values: HashMap<K, Weak<V>>,
    /// How many there may be before those nobody has are looked for.
    limit: usize,
}

impl<K, V> Default for Shared<K, V> {
    fn default() -> Self {
        Self { values: HashMap::new(), limit: KINDS }
    }
}

impl<K: Eq + Hash, V> Shared<K, V> {
    fn find(&self, id: &K) -> Option<Arc<V>> {
        self.values.get(id)?.upgrade()
    }

    fn share(&mut self, id: K, value: V) -> Arc<V> {
        if self.values.len() >= self.limit {
            self.values.retain(|_, value| value.strong_count() > 0);
            self.values.shrink_to(KINDS);
            self.limit = (self.values.len() * 2).max(KINDS);
        }
        let value = Arc::new(value);
        self.values.insert(id, Arc::downgrade(&value));
        value
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(lines: Vec<String>) -> v1::MachineTraits {
        let exclusions = Some(v1::Filter { state: v1::FilterState::Lines.into(), lines });
        v1::MachineTraits { exclusions, mtime_nanos: 1, ..v1::MachineTraits::default() }
    }

    fn status(instance: u64, image: u64) -> v1::AgentStatus {
        let traits = Some(wire(vec!["/tmp/.*".into()]));
        let last_image = Some(format!("web/{image}"));
        v1::AgentStatus { instance, scan_count: instance, traits, last_image, ..v1::AgentStatus::default() }
    }

    #[tokio::test]
    async fn traits_are_read_once_for_all_machines_and_not_remembered_for_ever() {
        let known = KnownAnswers::new();
        let length = |known: &KnownAnswers| lock(&known.0.traits).len();
        let usual = wire(vec!["/tmp/.*".into()]);
        let (one, two) = tokio::join!(known.traits(&usual), known.traits(&usual));
        assert!(Arc::ptr_eq(&one.unwrap(), &two.unwrap()));
        assert_eq!(length(&known), 1);
        for number in 0..2 * KINDS {
            known.traits(&wire(vec![format!("/{number}")])).await.unwrap();
        }
        assert_eq!(length(&known), KINDS);
        let endless = wire(vec!["x".repeat(1000); limits::TRAITS / 1000]);
        assert!(known.traits(&endless).await.unwrap_err().message().contains("more than"));
        assert!(known.traits(&wire(vec!["(".into()])).await.is_err());
        assert_eq!(length(&known), KINDS);
    }

    #[tokio::test]
    async fn machines_that_tell_the_same_share_it_and_what_nobody_has_is_forgotten() {
        let known = KnownAnswers::new();
        let one = known.details(status(1, 1)).await.unwrap();
        let two = known.details(status(2, 1)).await.unwrap();
        assert!(Arc::ptr_eq(&one, &two), "only the numbers differ");
        let other = known.details(status(1, 2)).await.unwrap();
        assert_ne!(one, other);
        assert!(Arc::ptr_eq(&one.traits, &other.traits));
        for image in 0..10 * KINDS as u64 {
            known.details(status(1, image)).await.unwrap();
        }
        let length = lock(&known.0.details).values.len();
        assert!(length <= KINDS, "{length}");
        assert!(Arc::ptr_eq(&one, &known.details(status(9, 1)).await.unwrap()));
    }

    #[tokio::test]
    async fn an_answer_that_leaves_out_what_nobody_has_is_refused() {
        use v1::poll_reply::Scanned::{NotYet, SameTree};
        let known = KnownAnswers::new();
        let idle = v1::Activity::Idle.into();
        let answer = |scanned, status: v1::AgentStatus| v1::PollReply {
            scanned: Some(scanned),
            status: Some(v1::AgentStatus { activity: idle, details: 4, ..status }),
        };
        let first = answer(NotYet(v1::Empty {}), status(1, 1));
        let (_, before) = known.whole(first, None).await.unwrap();
        let same = |instance| v1::AgentStatus { instance, same_details: true, ..v1::AgentStatus::default() };
        let fine = known.whole(answer(NotYet(v1::Empty {}), same(1)), Some(&before)).await.unwrap();
        assert!(Arc::ptr_eq(&fine.0.details, &before.details));
        for (answer, before) in [
            (answer(NotYet(v1::Empty {}), same(1)), None),
            (answer(NotYet(v1::Empty {}), same(2)), Some(&before)),
            (answer(SameTree(v1::Empty {}), same(1)), Some(&before)),
        ] {
            assert!(known.whole(answer.clone(), before).await.is_err(), "{answer:?}");
        }
    }
}
