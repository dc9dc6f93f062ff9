//! Paths of a machine changed by hand. A controller changes them back, if an image says otherwise.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use dominator_core::inode::{Inode, Kind, Mode, Timestamp, Xattrs};
use dominator_core::object::{ObjectHasher, ObjectId};
use dominator_core::path::ImagePath;
use dominator_core::plan::{Operation, Plan};
use dominator_core::port::{
    Agent, Cause, FetchRequest, LockToken, ObjectSource, Piece, Pieces, StoreError, UpdateRequest,
};
use dominator_daemon::report::remark;
use dominator_daemon::{During, Failure};
use dominator_rpc::client::RemoteObjects;
use futures_util::stream;

use crate::lock::holding;
use crate::machine::MachineTree;
use crate::outcome::Report;

/// Deletes paths with all below that is in view.
///
/// # Errors
/// [`Failure`], when one is not there, or it can't be done.
pub(crate) async fn delete(agent: &dyn Agent, paths: &[ImagePath]) -> Result<Report, Failure> {
    holding(agent, async |lock| {
        let mut machine = MachineTree::of(agent).await?;
        let (mut operations, mut named) = (Vec::new(), BTreeSet::new());
        for path in paths {
            let inode = machine.inode(path).await?;
            let inode = inode.filter(|_| !path.is_root()).ok_or_else(|| {
                Failure::new(format!("there is no {path} in view that could be deleted; nothing was"))
            })?;
            for (path, directory) in machine.below(path, &inode).await? {
                if named.insert(path.clone()) {
                    operations.push(Operation::Delete { path, directory });
                }
            }
        }
        update(agent, &machine, Plan { operations }, lock).await
    })
    .await
}

/// Puts the contents of a file of ours at `path`. They go by way of the store of objects at `address`, as agents take
/// nothing but what they fetch. Mode and time are those of our file; the owner and attributes those of what it
/// replaces, if there is a file.
///
/// # Errors
/// [`Failure`], when it can't be done.
pub(crate) async fn push_file(
    agent: &dyn Agent,
    store: &RemoteObjects,
    address: String,
    local: &Path,
    path: &ImagePath,
) -> Result<Report, Failure> {
    let during = || format!("can't read {}", local.display());
    let metadata = std::fs::metadata(local).during(during)?;
    if !metadata.is_file() {
        return Err(Failure::new(format!("{} is no file", local.display())));
    }
    let file = LocalFile::read(local).during(during)?;
    let nanos = u32::try_from(metadata.mtime_nsec()).unwrap_or_default();
    let mtime = Timestamp::new(metadata.mtime(), nanos).unwrap_or_default();
    store.push(&[(file.id, file.size)], &file).await.during(|| "can't hand the file over".into())?;
    holding(agent, async |lock| {
        let mut machine = MachineTree::of(agent).await?;
        let (uid, gid, xattrs) = match machine.inode(path).await? {
            Some(there) if there.is_directory() => {
                return Err(Failure::new(format!("{path} is a directory; nothing was done")));
            }
            Some(there) => (there.uid, there.gid, there.xattrs),
            None => (0, 0, Xattrs::default()),
        };
        let kind = Kind::Regular { mtime, size: file.size, object: file.id };
        let inode = Inode { mode: Mode::from_st_mode(metadata.mode()), uid, gid, xattrs, kind };
        let plan = Plan { operations: vec![Operation::Put { path: path.clone(), inode }] };
        let request = FetchRequest { needs: plan.needs(), sources: vec![address], lock };
        if !request.needs.objects.is_empty() {
            agent.fetch(request).await.during(|| "the machine could not fetch the file".into())?;
        }
        update(agent, &machine, plan, lock).await
    })
    .await
}

async fn update(
    agent: &dyn Agent,
    machine: &MachineTree<'_>,
    plan: Plan,
    lock: Option<LockToken>,
) -> Result<Report, Failure> {
    let request = UpdateRequest { lock, ..UpdateRequest::new(machine.id(), machine.view(), plan) };
    let report = agent.update(request).await.during(|| "nothing was changed".into())?;
    if let Err(error) = agent.clean_up(lock).await {
        remark("subtool", &format!("what was fetched is not cleaned up: {error}"));
    }
    Ok(Report::from(&report))
}

/// A file of this machine as the object it is.
struct LocalFile {
    path: PathBuf,
    id: ObjectId,
    size: u64,
}

impl LocalFile {
    /// Hashes it.
    fn read(path: &Path) -> std::io::Result<Self> {
        let (mut file, mut hasher, mut size) = (File::open(path)?, ObjectHasher::new(), 0);
        while let Some(data) = piece(&mut file)? {
            hasher.update(&data);
            size += data.len() as u64;
        }
        Ok(Self { path: path.to_owned(), id: hasher.finish(), size })
    }
}

#[async_trait]
impl ObjectSource for LocalFile {
    async fn objects(&self, wanted: Vec<ObjectId>) -> Result<Pieces, StoreError> {
        let failed = |error| StoreError::Failed { what: "reading failed".into(), cause: Cause::new(error) };
        let (id, size) = (self.id, self.size);
        if wanted.is_empty() {
            return Ok(Pieces::new(stream::empty()));
        }
        if let Some(id) = wanted.into_iter().find(|wanted| *wanted != id) {
            return Err(StoreError::NotFound { id });
        }
        let file = File::open(&self.path).map_err(failed)?;
        // Nothing else is done meanwhile that a slow disk could hold up.
        let data = stream::try_unfold(file, move |mut file| async move {
            Ok(piece(&mut file).map_err(failed)?.map(|data| (Piece::Data(data), file)))
        });
        let begin = stream::iter([Ok(Piece::Begin { id, size })]);
        Ok(Pieces::new(futures_util::StreamExt::chain(begin, data)))
    }
}

/// The next bytes of a file, if there are any.
fn piece(file: &mut File) -> std::io::Result<Option<Bytes>> {
    let mut data = Vec::new();
    file.take(Piece::MAX_DATA as u64).read_to_end(&mut data)?;
    Ok((!data.is_empty()).then(|| data.into()))
}
