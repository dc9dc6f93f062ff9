//! The objects of a directory that was scanned, read from where they lie when they are asked for.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dominator_core::object::{ObjectHasher, ObjectId};
use dominator_core::path::ImagePath;
use dominator_core::port::{Cause, ObjectSource, Piece, Pieces, StoreError};
use dominator_core::tree::{Directories, DirectoryId, Snapshot};
use dominator_fs::import::ObjectSink;
use dominator_fs::root::{self, Root};
use futures_util::StreamExt;
use indicatif::ProgressBar;
use rustix::fs::{FileType, Mode, OFlags};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// How many pieces wait for the network at most: a few megabytes.
const QUEUE: usize = 16;

/// A sink that takes nothing and remembers what it was offered: the first pass over a directory.
#[derive(Debug, Default)]
pub(crate) struct Offers(pub(crate) BTreeMap<ObjectId, u64>);

impl ObjectSink for Offers {
    fn want(&mut self, offered: &[(ObjectId, u64)]) -> Result<Vec<ObjectId>, StoreError> {
        self.0.extend(offered.iter().copied());
        Ok(Vec::new())
    }

    fn put(&mut self, _: ObjectId, _: u64, _: &mut dyn Read) -> Result<(), StoreError> {
        Err(StoreError::Protocol("an object came that was not wanted".into()))
    }
}

/// A scanned directory as a source of its objects.
#[derive(Clone, Debug)]
pub(crate) struct TreeSource(Arc<Tree>);

#[derive(Debug)]
struct Tree {
    root: Root,
    snapshot: Snapshot,
    files: BTreeMap<ObjectId, (ImagePath, u64)>,
}

impl TreeSource {
    pub(crate) fn new(root: Root, snapshot: Snapshot) -> Self {
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
            what: format!("{path} can't be read any more; add a directory that is at rest"),
            cause: Cause::new(cause),
        };
        let mut file = self.open(path).map_err(failed)?.take(size);
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
            Err(failed(io::Error::other("it changed while it was added")).into())
        }
    }

    fn open(&self, path: &ImagePath) -> io::Result<File> {
        let (directory, name) = self.root.parent(path)?;
        // A device must not be opened to find out that it is one.
        let stat = root::inode_at(&directory, name.as_bytes())?;
        if !FileType::from_raw_mode(stat.stx_mode.into()).is_file() {
            return Err(io::Error::other("it is no file any more"));
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(directory.as_fd(), name.as_bytes(), flags, Mode::empty())?.into())
    }
}

/// A source whose progress is shown.
pub(crate) struct Shown {
    pub(crate) source: Arc<dyn ObjectSource>,
    /// The length of everything that may be asked for.
    pub(crate) sizes: BTreeMap<ObjectId, u64>,
    pub(crate) bar: ProgressBar,
}

#[async_trait]
impl ObjectSource for Shown {
    async fn objects(&self, wanted: Vec<ObjectId>) -> Result<Pieces, StoreError> {
        self.bar.inc_length(wanted.iter().filter_map(|id| self.sizes.get(id)).sum());
        let bar = self.bar.clone();
        let shown = self.source.objects(wanted).await?.inspect(move |piece| {
            if let Ok(Piece::Data(data)) = piece {
                bar.inc(data.len() as u64);
            }
        });
        Ok(Pieces::new(shown))
    }
}

fn begin(id: ObjectId, size: u64, sink: &mut dyn FnMut(Piece) -> bool) -> Result<(), Stopped> {
    if sink(Piece::Begin { id, size }) { Ok(()) } else { Err(Stopped::NobodyListens) }
}

fn data(part: Bytes, sink: &mut dyn FnMut(Piece) -> bool) -> Result<(), Stopped> {
    if sink(Piece::Data(part)) { Ok(()) } else { Err(Stopped::NobodyListens) }
}
