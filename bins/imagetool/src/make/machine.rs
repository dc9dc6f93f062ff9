//! An image of what a machine is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use dominator_core::filter::Filter;
use dominator_core::image::{Image, ImageName};
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::port::{
    Agent, AgentDetails, Cause, FileContents, ObjectSource, Piece, Pieces, PollRequest, Scanned, StoreError,
};
use dominator_core::tree::{Directory, DirectoryMap, LinkSets, Snapshot, Tree};
use dominator_core::view::{View, XattrPolicy};
use dominator_daemon::report::remark;
use dominator_daemon::value::HostPort;
use dominator_daemon::{During, Failure, input};
use dominator_fs::store::images::ImageStore;
use dominator_rpc::client::RemoteAgent;
use futures_util::stream;

use super::edit;
use crate::Server;
use crate::add::{self, Added};
use crate::{lint, required};

/// Which machine, and the rest of the image.
pub(super) struct Order {
    pub(super) name: ImageName,
    pub(super) sub: HostPort,
    pub(super) filter: PathBuf,
    pub(super) triggers: PathBuf,
    pub(super) no_required_paths: bool,
}

/// How long the agent may take to answer with a scan.
const WAIT: Duration = Duration::from_secs(30);
/// How many directories are asked for at a time.
const BATCH: usize = 4096;

/// Adds an image of the machine.
///
/// # Errors
/// [`Failure`], also when part of the machine can't be had: an image is whole.
pub(super) async fn add(server: &Server, order: Order) -> Result<Added, Failure> {
    let began = Instant::now();
    add::refuse_taken(server, &order.name).await?;
    lint::warn(&order.filter)?;
    let (filter, triggers) = (input::filter(&order.filter)?, input::triggers(&order.triggers)?);
    let during = || format!("can't make an image of {}", order.sub);
    let agent = RemoteAgent::connect(&server.tls, &order.sub.to_string()).await.during(during)?;
    let agent: Arc<dyn Agent> = Arc::new(agent);
    let (tree, details) = scanned(&*agent).await.during(during)?;
    let whole = whole(&*agent, tree).await.during(during)?;
    let tree = edit::filtered(&whole, &filter);
    refuse_unknown(&tree).during(during)?;
    if filter != Filter::Sparse && !order.no_required_paths {
        required::refuse(&order.name, &tree)?;
    }
    let files = Files::of(agent, &tree).during(during)?;
    let image = Image::new(tree.tree.clone(), filter, triggers, carried(&details));
    let ready = add::Ready::of(tree, Arc::new(files));
    add::send(server, &order.name, image, ready, began).await
}

/// Which classes of attributes the machine's file-system knows.
fn carried(details: &AgentDetails) -> XattrPolicy {
    details.traits.xattrs
}

/// What the agent saw last.
async fn scanned(agent: &dyn Agent) -> Result<(Tree, Arc<AgentDetails>), Failure> {
    let mut known = None;
    loop {
        let reply = agent.poll(PollRequest { view: None, known, wait: WAIT }).await;
        let reply = reply.during(|| "can't poll".into())?;
        known = Some(reply.status.generation);
        match reply.scanned {
            Scanned::Tree(tree) => return Ok((tree, reply.details)),
            Scanned::NotYet => {}
            Scanned::NeedView => {
                remark(
                    "imagetool",
                    "nobody has told the agent yet what to look at; it is told to look at everything",
                );
                let set = agent.set_view(View::everything(), None).await;
                set.during(|| "can't tell the agent what to look at".into())?;
                known = None;
            }
        }
    }
}

/// The tree with all of its directories.
async fn whole(agent: &dyn Agent, tree: Tree) -> Result<Snapshot, Failure> {
    let nonsense = || "the machine's tree makes no sense".to_owned();
    let mut directories = DirectoryMap::default();
    let mut seen = BTreeSet::new();
    let mut level: Vec<ObjectId> = tree.root.directory().map(|id| id.0).into_iter().collect();
    while !level.is_empty() {
        let mut next = BTreeSet::new();
        for batch in level.chunks(BATCH) {
            for bytes in encodings(agent, batch).await? {
                let directory = Directory::decode(bytes).during(nonsense)?;
                next.extend(directory.iter().filter_map(|entry| entry.directory()).map(|id| id.0));
                seen.insert(directories.insert(directory).0);
            }
        }
        level = next.difference(&seen).copied().collect();
    }
    let links = match tree.links == LinkSets::default().id() {
        true => LinkSets::default(),
        false => {
            let bytes = encodings(agent, &[tree.links.0]).await?;
            let bytes = bytes.into_iter().next().unwrap_or_default();
            LinkSets::decode(&bytes).during(nonsense)?
        }
    };
    let snapshot = Snapshot { tree, links, directories };
    snapshot.verify(ImageStore::MAX_INODES).during(nonsense)?;
    Ok(snapshot)
}

/// The adapter has checked that they are what was asked for.
async fn encodings(agent: &dyn Agent, ids: &[ObjectId]) -> Result<Vec<Bytes>, Failure> {
    let encodings = agent.directories(ids.to_vec()).await;
    let encodings = encodings
        .during(|| "the machine changed while it was looked at, or can't tell its directories".into())?;
    if encodings.len() == ids.len() {
        Ok(encodings)
    } else {
        Err(Failure::new("the agent left out directories"))
    }
}

fn refuse_unknown(tree: &Snapshot) -> Result<(), Failure> {
    let mut unknown = Vec::new();
    tree.walk(|path, inode| {
        if inode.is_unknown() {
            unknown.push(path.to_string());
        }
    });
    if unknown.is_empty() {
        return Ok(());
    }
    let (count, some) = (unknown.len(), unknown.iter().take(20).map(String::as_str).collect::<Vec<_>>());
    Err(Failure::new(format!("{count} paths could not be read there; filter them out: {}", some.join(", "))))
}

/// The contents of a machine's files.
struct Files {
    agent: Arc<dyn Agent>,
    files: BTreeMap<ObjectId, (ImagePath, u64)>,
}

impl Files {
    fn of(agent: Arc<dyn Agent>, tree: &Snapshot) -> Result<Self, Failure> {
        let (mut files, mut large) = (BTreeMap::new(), Vec::new());
        tree.walk(|path, inode| {
            if let Some((id, size)) = inode.object() {
                if size > FileContents::MAX_BYTES as u64 {
                    large.push(path.to_string());
                }
                files.entry(id).or_insert_with(|| (path.clone(), size));
            }
        });
        if large.is_empty() {
            return Ok(Self { agent, files });
        }
        Err(Failure::new(format!(
            "an agent tells files of no more than {} bytes; filter these out: {}",
            FileContents::MAX_BYTES,
            large.join(", ")
        )))
    }

    /// As many of the objects as one answer holds.
    fn portions(&self, wanted: Vec<ObjectId>) -> Result<Vec<Vec<(ObjectId, ImagePath)>>, StoreError> {
        let mut portions: Vec<Vec<(ObjectId, ImagePath)>> = Vec::new();
        let mut room = 0;
        for id in wanted {
            let (path, size) = self.files.get(&id).ok_or(StoreError::NotFound { id })?;
            let full = portions.last().is_none_or(|portion| portion.len() >= FileContents::MAX_PATHS);
            if full || *size > room {
                portions.push(Vec::new());
                room = FileContents::MAX_BYTES as u64;
            }
            room -= *size;
            if let Some(portion) = portions.last_mut() {
                portion.push((id, path.clone()));
            }
        }
        Ok(portions)
    }
}

#[async_trait]
impl ObjectSource for Files {
    async fn objects(&self, wanted: Vec<ObjectId>) -> Result<Pieces, StoreError> {
        let portions = self.portions(wanted)?;
        let agent = Arc::clone(&self.agent);
        let pieces = futures_util::StreamExt::then(stream::iter(portions), move |portion| {
            let agent = Arc::clone(&agent);
            async move { contents(&*agent, portion).await.map(|pieces| stream::iter(pieces.into_iter().map(Ok))) }
        });
        Ok(Pieces::new(futures_util::TryStreamExt::try_flatten(pieces)))
    }
}

/// The pieces of some files. What is no longer what was scanned is not sent.
async fn contents(agent: &dyn Agent, portion: Vec<(ObjectId, ImagePath)>) -> Result<Vec<Piece>, StoreError> {
    let failed =
        |path: &ImagePath, cause: Cause| StoreError::Failed { what: format!("{path} can't be got"), cause };
    let paths: Vec<ImagePath> = portion.iter().map(|(_, path)| path.clone()).collect();
    let first = paths.first().cloned().unwrap_or_else(ImagePath::root);
    let files = agent.files(paths).await.map_err(|error| failed(&first, Cause::new(error)))?;
    let mut pieces = Vec::new();
    for ((id, path), file) in portion.into_iter().zip(files) {
        let contents = file.contents.map_err(|why| failed(&path, Cause::new(why)))?;
        if ObjectId::of(&contents) != id {
            return Err(failed(&path, Cause::new("it changed since the agent saw it; try again")));
        }
        pieces.push(Piece::Begin { id, size: contents.len() as u64 });
        let parts = contents.chunks(Piece::MAX_DATA).map(|part| Piece::Data(contents.slice_ref(part)));
        pieces.extend(parts);
    }
    Ok(pieces)
}
