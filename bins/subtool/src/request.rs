//! What would be done to make a machine be an image: the controller's own decision, shown and not sent.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use dominator_core::herd::Required;
use dominator_core::image::ImageName;
use dominator_core::object::ObjectId;
use dominator_core::plan::{Compared, Comparison, DiffError};
use dominator_core::port::{Agent, ImageStore, PollReply, PollRequest, Scanned};
use dominator_core::tree::{Directory, DirectoryMap, LinkSets, Tree};
use dominator_daemon::remark::{Remark, Step};
use dominator_daemon::report::{Show, remark};
use dominator_daemon::value::HumanBytes;
use dominator_daemon::{During, Failure};
use serde::Serialize;

/// How long the agent may take to answer with a scan.
const WAIT: Duration = Duration::from_secs(30);
/// How many directories are asked for at a time.
const BATCH: usize = 4096;

/// A plan, as shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Request {
    image: String,
    in_sync: bool,
    operations: Vec<Step>,
    /// What the machine would have to fetch, at most: objects it has already are fetched no second time.
    objects: u64,
    bytes: u64,
    /// Paths of which nothing is known.
    unknown: Vec<Remark>,
}

/// Asks the agent and compares.
///
/// # Errors
/// [`Failure`], when something can't be had.
pub(crate) async fn request(
    agent: &dyn Agent,
    images: &dyn ImageStore,
    name: ImageName,
) -> Result<Request, Failure> {
    let image = images.image(&name).await.during(|| format!("can't get {name}"))?;
    let tree = images.tree(&name).await.during(|| format!("can't get {name}"))?;
    let first = agent.poll(PollRequest::default()).await.during(|| "can't poll".into())?;
    let required = Required::new(name, image, &tree, Arc::clone(&first.details.traits));
    let actual = scanned(agent, &required).await?;
    let compared = compare(agent, &required, &actual).await?;
    Ok(Request::of(&required, &compared))
}

impl Request {
    fn of(required: &Required, compared: &Compared) -> Self {
        let objects = compared.plan.objects();
        Self {
            image: required.name.to_string(),
            in_sync: compared.plan.is_empty(),
            operations: compared.plan.operations.iter().map(Step::from).collect(),
            objects: objects.len() as u64,
            bytes: objects.values().sum(),
            unknown: compared.unknown.iter().map(|path| Remark::new(path, "")).collect(),
        }
    }
}

impl Show for Request {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.operations.iter().try_for_each(|step| writeln!(out, "{step}"))?;
        self.unknown.iter().try_for_each(|path| writeln!(out, "unknown {path}"))?;
        match self.in_sync {
            true => writeln!(out, "the machine is what {} says", self.image),
            false => writeln!(
                out,
                "{} operations, up to {} objects of {} to fetch",
                self.operations.len(),
                self.objects,
                HumanBytes(self.bytes)
            ),
        }
    }
}

/// The machine's tree under the view the image needs.
async fn scanned(agent: &dyn Agent, required: &Required) -> Result<Tree, Failure> {
    let mut known = None;
    loop {
        let request = PollRequest { view: Some(required.view_id), known, wait: WAIT };
        let PollReply { scanned, status, .. } = agent.poll(request).await.during(|| "can't poll".into())?;
        known = Some(status.generation);
        match scanned {
            Scanned::Tree(tree) => return Ok(tree),
            Scanned::NotYet => {}
            Scanned::NeedView => {
                remark("subtool", "the agent looks through another view; setting the one the image needs");
                agent.set_view(required.view.clone()).await.during(|| "can't set the view".into())?;
                known = None;
            }
        }
    }
}

/// Gets what differs from the agent until the comparison is complete.
async fn compare(agent: &dyn Agent, required: &Required, actual: &Tree) -> Result<Compared, Failure> {
    let during = || "can't compare".into();
    let (mut directories, mut links) = (DirectoryMap::default(), None);
    loop {
        let comparison =
            Comparison { required: &required.tree, actual, links: links.as_ref(), directories: &directories };
        let missing = match comparison.plan() {
            Err(DiffError::Missing(missing)) => missing,
            compared => return compared.during(during),
        };
        for (id, bytes) in fetch(agent, &missing).await? {
            if id == actual.links.0 {
                links = Some(LinkSets::decode(&bytes).during(during)?);
            } else {
                directories.insert(Directory::decode(bytes).during(during)?);
            }
        }
    }
}

async fn fetch(
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
