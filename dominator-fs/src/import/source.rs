use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dominator_core::object::{ObjectHasher, ObjectId};
use dominator_core::path::ImagePath;
use dominator_core::port::{Cause, ObjectSource, Piece, Pieces, StoreError};
use dominator_core::tree::{Directories, DirectoryId, Snapshot};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::directory::open;
use crate::root::Root;

/// How many pieces wait for the network at most: a few megabytes.
const QUEUE: usize = 16;

/// The objects of a directory that was imported, read from where they lie when they are asked for: the contents of files, and
/// the directories and hard links of the tree. Nobody should be writing to the directory: what changed meanwhile ends the
/// stream with an error, at the latest where its object ends, and is never handed out as whole.
#[derive(Clone, Debug)]
pub struct TreeSource(Arc<Tree>);

#[derive(Debug)]
struct Tree {
    root: Root,
    snapshot: Snapshot,
    files: BTreeMap<ObjectId, (ImagePath, u64)>,
}

impl TreeSource {
    /// The objects of `snapshot`, which was imported from `root`.
    pub fn new(root: Root, snapshot: Snapshot) -> Self {
        let mut files = BTreeMap::new();
        snapshot.walk(|path, inode| {
            if let Some((object, size)) = inode.object() {
                files.entry(object).or_insert_with(|| (path.clone(), size));
            }
        });
        Self(Arc::new(Tree { root, snapshot, files }))
    }
}

#[async_trait]
impl ObjectSource for TreeSource {
    async fn objects(&self, wanted: Vec<ObjectId>) -> Result<Pieces, StoreError> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let tree = Arc::clone(&self.0);
        // It ends with the stream: either all was sent, or nobody listens any more.
        tokio::task::spawn_blocking(move || {
            let mut sink = |piece| sender.blocking_send(Ok(piece)).is_ok();
            let sent = wanted.into_iter().try_for_each(|id| tree.send(id, &mut sink));
            if let Err(Stopped::Failed(error)) = sent {
                drop(sender.blocking_send(Err(error)));
            }
        });
        Ok(Pieces::new(ReceiverStream::new(receiver)))
    }
}

/// Why no more is sent.
enum Stopped {
    NobodyListens,
    Failed(StoreError),
}

impl From<StoreError> for Stopped {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

impl Tree {
    fn send(&self, id: ObjectId, sink: &mut dyn FnMut(Piece) -> bool) -> Result<(), Stopped> {
        match self.files.get(&id) {
            Some((path, size)) => self.send_file(path, id, *size, sink),
            None => {
                let bytes = self.encoding(id).ok_or(StoreError::NotFound { id })?;
                begin(id, bytes.len() as u64, sink)?;
                bytes.chunks(Piece::MAX_DATA).try_for_each(|part| data(bytes.slice_ref(part), sink))
            }
        }
    }

    /// The encoding of a directory or of the link sets.
    fn encoding(&self, id: ObjectId) -> Option<Bytes> {
        if id == self.snapshot.tree.links.0 {
            return Some(self.snapshot.links.encode().into());
        }
        self.snapshot.directories.directory(&DirectoryId(id)).map(|directory| directory.encoded().clone())
    }

    fn send_file(
        &self,
        path: &ImagePath,
        id: ObjectId,
        size: u64,
        sink: &mut dyn FnMut(Piece) -> bool,
    ) -> Result<(), Stopped> {
        let failed = |cause: io::Error| StoreError::Failed {
            what: format!("{path} can't be read any more; import a directory that is at rest"),
            cause: Cause::new(cause),
        };
        let mut file = open(&self.root, path).map_err(failed)?.take(size);
        begin(id, size, sink)?;
        let (mut hasher, mut sent) = (ObjectHasher::new(), 0);
        while sent < size {
            let mut part = vec![0; Piece::MAX_DATA];
            let count = file.read(&mut part).map_err(failed)?;
            if count == 0 {
                break;
            }
            part.truncate(count);
            hasher.update(&part);
            sent += count as u64;
            data(part.into(), sink)?;
        }
        if sent == size && hasher.finish() == id {
            Ok(())
        } else {
            Err(failed(io::Error::other("it changed since it was imported")).into())
        }
    }
}

fn begin(id: ObjectId, size: u64, sink: &mut dyn FnMut(Piece) -> bool) -> Result<(), Stopped> {
    if sink(Piece::Begin { id, size }) { Ok(()) } else { Err(Stopped::NobodyListens) }
}

fn data(part: Bytes, sink: &mut dyn FnMut(Piece) -> bool) -> Result<(), Stopped> {
    if sink(Piece::Data(part)) { Ok(()) } else { Err(Stopped::NobodyListens) }
}
