use std::time::Duration;

use async_trait::async_trait;
use dominator_core::garbage::Thresholds;
use dominator_core::image::ImageName;
use dominator_core::port::{self, Collected, ImageError, ObjectStatistics, Share, Unreferenced};

use super::Pool;
use crate::store::images::ImageStore;

/// How many look for garbage at a time; others wait for their turn, as they would for one another.
const SHARE: usize = 2;

/// The garbage of an [`ImageStore`] as the port. Clones share it.
#[derive(Clone, Debug)]
pub struct LocalGarbage {
    store: ImageStore,
    keep: Duration,
    pool: Pool,
}

impl LocalGarbage {
    /// How long objects are kept by default after they were uploaded, looked up or needed last.
    pub const KEEP: Duration = Duration::from_secs(3600);

    /// Collects in `store` what was not needed for the duration `keep`.
    pub fn new(store: ImageStore, keep: Duration) -> Self {
        Self { store, keep, pool: Pool::new(SHARE) }
    }

    /// As [`ImageStore::relieve`].
    ///
    /// # Errors
    /// As [`ImageStore::relieve`].
    pub async fn relieve(
        &self,
        thresholds: Thresholds,
        thorough: bool,
    ) -> Result<Option<Collected>, ImageError> {
        let keep = self.keep;
        self.run(move |store| store.relieve(&thresholds, keep, thorough)).await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ImageStore) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, ImageError> {
        let store = self.store.clone();
        let lost = |cause| ImageError::Failed { what: "looking for garbage was given up".into(), cause };
        self.pool.run(move || work(&store)).await.map_err(lost)?
    }
}

#[async_trait]
impl port::Garbage for LocalGarbage {
    async fn unreferenced(&self) -> Result<Vec<Unreferenced>, ImageError> {
        self.run(ImageStore::unreferenced).await
    }

    async fn collect(&self, share: Share) -> Result<Collected, ImageError> {
        let keep = self.keep;
        self.run(move |store| store.collect(keep, |garbage| share.of(garbage))).await
    }

    async fn statistics(&self, names: Vec<ImageName>) -> Result<ObjectStatistics, ImageError> {
        self.run(move |store| store.statistics(&names)).await
    }
}
