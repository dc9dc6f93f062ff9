use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dominator_core::inode::{Kind, Timestamp};
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::port::{Cause, ObjectSource, Piece, Pieces, StoreError};
use dominator_core::tree::{Directories, DirectoryId, Snapshot};

use super::directory::open;
use crate::root::{self, Root};
use crate::store::ports::batches::{self, Outlet, Stopped};

/// The objects of a directory that was imported, read from where they lie when they are asked for: the contents of files, and
/// the directories and hard links of the tree. Nobody should be writing to the directory: a file whose length or time is
/// another by now ends the stream with an error, at the latest where its object ends. It is not hashed again; whoever takes
/// it in hashes it.
#[derive(Clone, Debug)]
pub struct TreeSource(Arc<Tree>);

#[derive(Debug)]
struct Tree {
    root: Root,
    snapshot: Snapshot,
    files: BTreeMap<ObjectId, Original>,
}

/// Where contents lie.
#[derive(Debug)]
struct Original {
    path: ImagePath,
    size: u64,
    mtime: Timestamp,
}

impl Original {
    /// Whether the file is what it was, as far as can be told without reading it.
    fn is_still(&self, file: &File) -> io::Result<()> {
        let stat = root::inode_of(file)?;
        let mtime = Timestamp::new(stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec);
        if stat.stx_size == self.size && mtime == Some(self.mtime) { Ok(()) } else { Err(changed()) }
    }
}

fn changed() -> io::Error {
    io::Error::other("it changed since it was imported")
}

impl TreeSource {
    /// The objects of `snapshot`, which was imported from `root`.
    pub fn new(root: Root, snapshot: Snapshot) -> Self {
        let mut files = BTreeMap::new();
        snapshot.walk(|path, inode| {
            if let Kind::Regular { mtime, size, object } = inode.kind {
                files.entry(object).or_insert_with(|| Original { path: path.clone(), size, mtime });
            }
        });
        Self(Arc::new(Tree { root, snapshot, files }))
    }
}

#[async_trait]
impl ObjectSource for TreeSource {
    async fn objects(&self, wanted: Vec<ObjectId>) -> Result<Pieces, StoreError> {
        let (sender, receiver) = batches::channel();
        let tree = Arc::clone(&self.0);
        // It ends with the stream: either all was sent, or nobody listens any more.
        tokio::task::spawn_blocking(move || {
            let mut out = Outlet::new(sender);
            let sent = wanted.into_iter().try_for_each(|id| tree.send(id, &mut out));
            out.end(sent);
        });
        Ok(Pieces::new(batches::pieces(receiver)))
    }
}

impl Tree {
    fn send(&self, id: ObjectId, out: &mut Outlet) -> Result<(), Stopped> {
        match self.files.get(&id) {
            Some(original) => self.send_file(id, original, out),
            None => {
                let bytes = self.encoding(id).ok_or(StoreError::NotFound { id })?;
                out.send(Piece::Begin { id, size: bytes.len() as u64 })?;
                bytes
                    .chunks(Piece::MAX_DATA)
                    .try_for_each(|part| out.send(Piece::Data(bytes.slice_ref(part))))
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

    fn send_file(&self, id: ObjectId, original: &Original, out: &mut Outlet) -> Result<(), Stopped> {
        let path = &original.path;
        let failed = |cause: io::Error| StoreError::Failed {
            what: format!("{path} can't be read any more; import a directory that is at rest"),
            cause: Cause::new(cause),
        };
        let file = open(&self.root, path).map_err(failed)?;
        original.is_still(&file).map_err(failed)?;
        out.send(Piece::Begin { id, size: original.size })?;
        let mut left = original.size;
        while left > 0 {
            let part = left.min(Piece::MAX_DATA as u64);
            let mut data = Vec::with_capacity(usize::try_from(part).unwrap_or(Piece::MAX_DATA));
            (&file).take(part).read_to_end(&mut data).map_err(failed)?;
            left -= data.len() as u64;
            // Who wrote meanwhile is found out before the object is whole.
            if left == 0 || data.is_empty() {
                original.is_still(&file).map_err(failed)?;
            }
            if data.is_empty() {
                return Err(failed(changed()).into());
            }
            out.send(Piece::Data(data.into()))?;
        }
        Ok(())
    }
}
