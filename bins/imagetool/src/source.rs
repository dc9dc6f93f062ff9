//! What is on its way to a server: what was offered, and a source that shows how far it is.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use async_trait::async_trait;
use dominator_core::object::ObjectId;
use dominator_core::port::{ObjectSource, Piece, Pieces, StoreError};
use dominator_fs::import::ObjectSink;
use futures_util::StreamExt;
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
