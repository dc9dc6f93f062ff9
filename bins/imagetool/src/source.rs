//! What is on its way to a server: what was offered, and a source that shows how far it is.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dominator_core::object::ObjectId;
use dominator_core::port::{ObjectSource, Piece, Pieces, StoreError};
use dominator_core::tree::Snapshot;
use dominator_fs::import::ObjectSink;
use futures_util::{StreamExt, TryStreamExt, stream};
use indicatif::ProgressBar;

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

/// The objects of a tree: its directories and hard links from memory, the contents of files from elsewhere.
pub(crate) struct WithTree {
    encodings: Arc<BTreeMap<ObjectId, Bytes>>,
    contents: Arc<dyn ObjectSource>,
}

impl WithTree {
    /// Those of `tree`; `contents` has its files.
    pub(crate) fn new(tree: Snapshot, contents: Arc<dyn ObjectSource>) -> Self {
        let directories = tree.directories.iter().map(|(id, directory)| (id.0, directory.encoded().clone()));
        let links = (tree.tree.links.0, Bytes::from(tree.links.encode()));
        Self { encodings: Arc::new(directories.chain([links]).collect()), contents }
    }
}

#[async_trait]
impl ObjectSource for WithTree {
    async fn objects(&self, wanted: Vec<ObjectId>) -> Result<Pieces, StoreError> {
        let memory: Arc<dyn ObjectSource> = Arc::new(Memory(Arc::clone(&self.encodings)));
        let is_here = |id: &ObjectId| self.encodings.contains_key(id);
        Ok(in_runs(wanted, is_here, |here| Arc::clone(if here { &memory } else { &self.contents })))
    }
}

struct Memory(Arc<BTreeMap<ObjectId, Bytes>>);

#[async_trait]
impl ObjectSource for Memory {
    async fn objects(&self, wanted: Vec<ObjectId>) -> Result<Pieces, StoreError> {
        let mut pieces = Vec::new();
        for id in wanted {
            let bytes = self.0.get(&id).ok_or(StoreError::NotFound { id })?;
            pieces.push(Ok(Piece::Begin { id, size: bytes.len() as u64 }));
            pieces.extend(bytes.chunks(Piece::MAX_DATA).map(|part| Ok(Piece::Data(bytes.slice_ref(part)))));
        }
        Ok(Pieces::new(stream::iter(pieces)))
    }
}

/// Objects out of several sources, in the order wanted: `place` says of each object where it is, `source` what that is.
pub(crate) fn in_runs<P: PartialEq>(
    wanted: Vec<ObjectId>,
    place: impl Fn(&ObjectId) -> P,
    source: impl Fn(P) -> Arc<dyn ObjectSource>,
) -> Pieces {
    let mut runs: Vec<(P, Vec<ObjectId>)> = Vec::new();
    for id in wanted {
        let here = place(&id);
        match runs.last_mut() {
            Some((last, ids)) if *last == here => ids.push(id),
            _ => runs.push((here, vec![id])),
        }
    }
    let runs: Vec<_> = runs.into_iter().map(|(place, ids)| (source(place), ids)).collect();
    let streams = stream::iter(runs).then(|(source, ids)| async move { source.objects(ids).await });
    Pieces::new(streams.try_flatten())
}
