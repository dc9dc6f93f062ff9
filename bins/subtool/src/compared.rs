//! What a machine lacks to be an image: the controller's own comparison, made by hand.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dominator_core::activation::{Activation, changed};
use dominator_core::herd::Required;
use dominator_core::image::ImageName;
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::plan::{Compared, Comparison, DiffError, Plan, PlanSummary};
use dominator_core::port::{
    Agent, AgentDetails, AgentMode, ImageStore, LockToken, PollReply, PollRequest, Scanned,
};
use dominator_core::tree::{Directory, LinkSets, Snapshot, Tree};
use dominator_core::trigger::Triggers;
use dominator_daemon::report::remark;
use dominator_daemon::{During, Failure};

/// How long the agent may take to answer with a scan.
const WAIT: Duration = Duration::from_secs(30);
/// How many directories are asked for at a time.
const BATCH: usize = 4096;

/// A machine beside an image.
#[derive(Debug)]
pub(crate) struct Visit {
    /// What it must be.
    pub(crate) required: Required,
    /// What the agent says of itself.
    pub(crate) details: Arc<AgentDetails>,
    /// What it is, as far as it differs.
    pub(crate) actual: Snapshot,
    /// What is to be done.
    pub(crate) plan: Plan,
    /// What has to go, but can't.
    pub(crate) kept: Vec<ImagePath>,
    /// Paths of which nothing is known.
    pub(crate) unknown: BTreeSet<ImagePath>,
    /// How many paths the machine has not.
    pub(crate) added: u64,
    /// How many paths are deleted.
    pub(crate) deleted: u64,
}

impl Visit {
    /// Gets the image, has the machine looked at under its view, and compares.
    ///
    /// # Errors
    /// [`Failure`], when something can't be had.
    pub(crate) async fn make(
        agent: &dyn Agent,
        images: &dyn ImageStore,
        name: &ImageName,
        lock: Option<LockToken>,
    ) -> Result<Self, Failure> {
        let during = || format!("can't get {name}");
        let image = images.image(name).await.during(during)?;
        let tree = images.tree(name).await.during(during)?;
        let first = agent.poll(PollRequest::default()).await.during(|| "can't poll".into())?;
        let required = Required::new(name.clone(), image, &tree, Arc::clone(&first.details.traits));
        let (actual, details) = scanned(agent, &required, lock).await?;
        let (compared, actual) = compare(agent, &required, actual).await?;
        let Compared { plan, unknown, added, deleted } = compared;
        let (plan, kept) = plan.without_kept(&details.kept);
        Ok(Self { required, details, actual, plan, kept, unknown, added, deleted })
    }

    /// The plan as people read it. What is done to services depends on what the machine was before; where that image
    /// can't be had, only the new one counts.
    pub(crate) async fn summary(&self, images: &dyn ImageStore) -> PlanSummary {
        let before = match &self.details.last_image {
            Some(name) if *name == self.required.name => Some(self.required.image.clone()),
            Some(name) => match images.image(name).await {
                Ok(image) => Some(image),
                Err(error) => {
                    remark("subtool", &format!("services only {name} knew are not shown: {error}"));
                    None
                }
            },
            None => None,
        };
        let nothing = Triggers::default();
        let previous = before.as_ref().map_or(&nothing, |image| &image.triggers);
        let changed = changed(&self.plan, &self.actual);
        let activation = match self.details.mode {
            AgentMode::Normal | AgentMode::ReadOnly | AgentMode::UpdatesDisabled => {
                Activation::new(previous, &self.required.image.triggers, changed.iter().copied())
            }
            // It leaves services alone.
            AgentMode::TriggersDisabled => Activation::nothing(),
        };
        PlanSummary::of(&self.plan)
            .with_services(activation.actions())
            .with_paths(&self.kept, &self.details.traits.protected)
    }

    /// Whether the machine is what the image says.
    pub(crate) fn is_in_sync(&self) -> bool {
        self.plan.is_empty()
    }
}

/// The machine's tree under the view the image needs, and what the agent says of itself.
async fn scanned(
    agent: &dyn Agent,
    required: &Required,
    lock: Option<LockToken>,
) -> Result<(Tree, Arc<AgentDetails>), Failure> {
    let mut known = None;
    loop {
        let request = PollRequest { view: Some(required.view_id), known, wait: WAIT };
        let PollReply { scanned, status, details } =
            agent.poll(request).await.during(|| "can't poll".into())?;
        known = Some(status.generation);
        match scanned {
            Scanned::Tree(tree) => return Ok((tree, details)),
            Scanned::NotYet => {}
            Scanned::NeedView => {
                remark("subtool", "the agent looks through another view; setting the one the image needs");
                agent.set_view(required.view.clone(), lock).await.during(|| "can't set the view".into())?;
                known = None;
            }
        }
    }
}

/// Gets what differs from the agent until the comparison is complete.
async fn compare(
    agent: &dyn Agent,
    required: &Required,
    tree: Tree,
) -> Result<(Compared, Snapshot), Failure> {
    let during = || "can't compare".into();
    // What both have need not be got, and is looked into when services are thought of.
    let mut directories = required.tree.directories.clone();
    let mut links = (tree.links == required.tree.tree.links).then(|| required.tree.links.clone());
    loop {
        let comparison = Comparison {
            required: &required.tree,
            actual: &tree,
            links: links.as_ref(),
            directories: &directories,
        };
        let missing = match comparison.plan() {
            Err(DiffError::Missing(missing)) => missing,
            compared => {
                let compared = compared.during(during)?;
                return Ok((compared, Snapshot { tree, links: links.unwrap_or_default(), directories }));
            }
        };
        for (id, bytes) in directories_of(agent, &missing).await? {
            if id == tree.links.0 {
                links = Some(LinkSets::decode(&bytes).during(during)?);
            } else {
                directories.insert(Directory::decode(bytes).during(during)?);
            }
        }
    }
}

/// The encodings of these directories and link sets.
///
/// # Errors
/// [`Failure`], when not all of them came.
pub(crate) async fn directories_of(
    agent: &dyn Agent,
    ids: &BTreeSet<ObjectId>,
) -> Result<Vec<(ObjectId, bytes::Bytes)>, Failure> {
    let ids: Vec<ObjectId> = ids.iter().copied().collect();
    let mut fetched = Vec::with_capacity(ids.len());
    for batch in ids.chunks(BATCH) {
        let encodings = agent.directories(batch.to_vec()).await.during(|| "can't get directories".into())?;
        fetched.extend(batch.iter().copied().zip(encodings));
    }
    // The adapter has checked the digests; a short answer would have us ask for ever.
    if fetched.len() == ids.len() { Ok(fetched) } else { Err(Failure::new("the agent left out directories")) }
}
