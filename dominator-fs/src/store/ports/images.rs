use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dominator_core::catalog::{ExpiryChange, Latest, Position, Selection};
use dominator_core::garbage::Thresholds;
use dominator_core::image::{Image, ImageName, ImageState};
use dominator_core::namespace::{DirectoryName, GroupName, ImageDirectory};
use dominator_core::port::{
    self, Collected, ImageError, ImageUpdates, ObjectStatistics, Parents, Share, Unreferenced,
};
use dominator_core::tree::Snapshot;
use futures_util::StreamExt as _;

use super::Pool;
use crate::store::images::ImageStore;

/// How many images are read or written at a time; others wait for their turn.
const SHARE: usize = 8;
/// How many look for garbage; others wait for their turn, as they would for one another.
const GARBAGE: usize = 2;

/// An [`ImageStore`] as the port. Clones share it.
#[derive(Clone, Debug)]
pub struct LocalImages {
    store: ImageStore,
    keep: Duration,
    pool: Pool,
    /// For what takes all images to be read.
    garbage: Pool,
}

impl LocalImages {
    /// How long objects are kept, unless told otherwise, after they were uploaded, offered or needed last.
    pub const KEEP: Duration = Duration::from_secs(3600);

    /// Serves `store`.
    pub fn new(store: ImageStore) -> Self {
        Self { store, keep: Self::KEEP, pool: Pool::new(SHARE), garbage: Pool::new(GARBAGE) }
    }

    /// Keeps objects for that long after they were uploaded, offered or needed last.
    #[must_use]
    pub fn keeping(self, keep: Duration) -> Self {
        Self { keep, ..self }
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
        self.look_through(move |store| store.relieve(&thresholds, keep, thorough)).await
    }

    async fn look_through<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ImageStore) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, ImageError> {
        let store = self.store.clone();
        let lost = |cause| ImageError::Failed { what: "looking for garbage was given up".into(), cause };
        self.garbage.run(move || work(&store)).await.map_err(lost)?
    }

    /// The store that is served.
    pub fn store(&self) -> &ImageStore {
        &self.store
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ImageStore) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, ImageError> {
        let store = self.store.clone();
        let lost = |cause| ImageError::Failed { what: "work on an image was given up".into(), cause };
        self.pool.run(move || work(&store)).await.map_err(lost)?
    }
}

#[async_trait]
impl port::ImageStore for LocalImages {
    async fn list(&self) -> Result<Vec<ImageName>, ImageError> {
        Ok(self.store.catalog().images().keys().cloned().collect())
    }

    async fn image(&self, name: &ImageName) -> Result<Arc<Image>, ImageError> {
        let name = name.clone();
        self.run(move |store| store.image(&name)).await
    }

    async fn tree(&self, name: &ImageName) -> Result<Arc<Snapshot>, ImageError> {
        let name = name.clone();
        self.run(move |store| store.tree(&name)).await
    }

    async fn add(&self, name: &ImageName, image: Image) -> Result<(), ImageError> {
        let name = name.clone();
        self.run(move |store| store.add(&name, &image).map(drop)).await
    }

    async fn delete(&self, name: &ImageName) -> Result<(), ImageError> {
        let name = name.clone();
        self.run(move |store| store.delete(&name).map(drop)).await
    }

    async fn replace(&self, name: &ImageName, image: Image) -> Result<(), ImageError> {
        let name = name.clone();
        self.run(move |store| store.replace(&name, &image).map(drop)).await
    }

    async fn states(&self, names: &[ImageName]) -> Result<Vec<ImageState>, ImageError> {
        let names = names.to_vec();
        self.run(move |store| names.iter().map(|name| store.state(name)).collect()).await
    }

    async fn select(&self, selection: &Selection) -> Result<Vec<ImageName>, ImageError> {
        Ok(selection.of(&self.store.catalog().images()))
    }

    async fn latest(&self, wanted: &Latest) -> Result<Option<ImageName>, ImageError> {
        Ok(wanted.of(&self.store.catalog().images()))
    }

    async fn updates(
        &self,
        selection: &Selection,
        from: Option<Position>,
    ) -> Result<ImageUpdates, ImageError> {
        let followed = self.store.catalog().follow(selection.clone(), from);
        Ok(ImageUpdates::new(followed.map(Ok)))
    }

    async fn appears(&self, name: &ImageName) -> Result<(), ImageError> {
        self.store.catalog().appears(name).await;
        Ok(())
    }

    async fn change_expiry(&self, name: &ImageName, change: &ExpiryChange) -> Result<(), ImageError> {
        let (name, change) = (name.clone(), *change);
        self.run(move |store| store.change_expiry(&name, &change).map(drop)).await
    }

    async fn expire(&self, now: u64) -> Result<Option<u64>, ImageError> {
        let catalog = self.store.catalog();
        if catalog.next_end().is_some_and(|end| end <= now) {
            self.run(move |store| store.expire(now).map(drop)).await?;
        }
        Ok(catalog.next_end())
    }

    async fn unreferenced(&self) -> Result<Vec<Unreferenced>, ImageError> {
        self.look_through(ImageStore::unreferenced).await
    }

    async fn collect(&self, share: Share) -> Result<Collected, ImageError> {
        let keep = self.keep;
        self.look_through(move |store| store.collect(keep, |garbage| share.of(garbage))).await
    }

    async fn statistics(&self, names: Vec<ImageName>) -> Result<ObjectStatistics, ImageError> {
        self.look_through(move |store| store.statistics(&names)).await
    }

    async fn directories(&self) -> Result<Vec<ImageDirectory>, ImageError> {
        self.run(ImageStore::directories).await
    }

    async fn directory(&self, name: &DirectoryName) -> Result<ImageDirectory, ImageError> {
        let name = name.clone();
        self.run(move |store| store.directory(&name)).await
    }

    async fn make_directory(&self, name: &DirectoryName, parents: Parents) -> Result<(), ImageError> {
        let name = name.clone();
        self.run(move |store| store.make_directory(&name, parents)).await
    }

    async fn chown_directory(
        &self,
        name: &DirectoryName,
        group: Option<GroupName>,
    ) -> Result<(), ImageError> {
        let name = name.clone();
        self.run(move |store| store.chown_directory(&name, group).map(drop)).await
    }

    async fn delete_directory(&self, name: &DirectoryName) -> Result<(), ImageError> {
        let name = name.clone();
        self.run(move |store| store.delete_directory(&name).map(drop)).await
    }
}
