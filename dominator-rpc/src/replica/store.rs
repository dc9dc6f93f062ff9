use std::sync::Arc;

use async_trait::async_trait;
use dominator_core::catalog::{ExpiryChange, Latest, Position, Selection};
use dominator_core::image::{Image, ImageName, ImageState};
use dominator_core::namespace::{DirectoryName, GroupName, ImageDirectory};
use dominator_core::port::{
    Cause, Collected, ImageError, ImageStore, ImageUpdates, ObjectStatistics, Parents, Replication, Share,
    Unreferenced,
};
use dominator_core::tree::Snapshot;

use super::Shared;
use super::complete::{complete, stores};

/// The images of a replica. What is added is added at the master first; nothing else can be changed here.
#[derive(Clone, Debug)]
pub struct ReplicaImages(Arc<Shared>);

impl ReplicaImages {
    pub(super) const fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    fn here(&self) -> &dyn ImageStore {
        &*self.0.here.images
    }

    fn refused(&self, what: String) -> ImageError {
        let master = &self.0.master.address;
        ImageError::Failed { what, cause: Cause::new(format!("this is a replica; ask its master, {master}")) }
    }

    /// The name is free here, as far as can be told before it is used.
    async fn is_free(&self, name: &ImageName) -> Result<(), ImageError> {
        match self.here().states(std::slice::from_ref(name)).await?.first() {
            Some(ImageState::Present { .. }) => Err(ImageError::Exists { name: name.clone() }),
            Some(ImageState::Deleted { .. }) => Err(ImageError::Deleted { name: name.clone() }),
            Some(ImageState::Absent) | None => Ok(()),
        }
    }
}

#[async_trait]
impl ImageStore for ReplicaImages {
    async fn list(&self) -> Result<Vec<ImageName>, ImageError> {
        self.here().list().await
    }

    async fn image(&self, name: &ImageName) -> Result<Arc<Image>, ImageError> {
        self.here().image(name).await
    }

    async fn tree(&self, name: &ImageName) -> Result<Arc<Snapshot>, ImageError> {
        self.here().tree(name).await
    }

    /// Returns when every server up to the first one has it. After an error, the master may have it all the same: then it
    /// comes here as all that the master has.
    async fn add(&self, name: &ImageName, image: Image) -> Result<(), ImageError> {
        let Shared { master, here, .. } = &*self.0;
        self.is_free(name).await?;
        let objects = complete(&*here.objects, None, &image).await?;
        let sent = master.objects.push(&objects, &*here.objects).await.map_err(stores)?;
        // INVARIANT: it is the master's before it is ours, so that what is acknowledged here can't be lost there.
        master.images.add_trusted(name, image.clone()).await?;
        let bytes: u64 = sent.iter().map(|object| object.size()).sum();
        tracing::info!(image = %name, objects = sent.len(), bytes, "the master has taken the image in");
        let ours = image.lasting_id();
        match self.here().add(name, image).await {
            // The other task was quicker.
            Err(ImageError::Exists { .. }) if self.here().image(name).await?.lasting_id() == ours => Ok(()),
            added => added,
        }
    }

    async fn delete(&self, name: &ImageName) -> Result<(), ImageError> {
        Err(self.refused(format!("image {name} can't be deleted here")))
    }

    async fn states(&self, names: &[ImageName]) -> Result<Vec<ImageState>, ImageError> {
        self.here().states(names).await
    }

    /// What its own replicas keep to is what is here.
    async fn updates(
        &self,
        selection: &Selection,
        from: Option<Position>,
    ) -> Result<ImageUpdates, ImageError> {
        self.here().updates(selection, from).await
    }

    async fn select(&self, selection: &Selection) -> Result<Vec<ImageName>, ImageError> {
        self.here().select(selection).await
    }

    async fn latest(&self, wanted: &Latest) -> Result<Option<ImageName>, ImageError> {
        self.here().latest(wanted).await
    }

    async fn appears(&self, name: &ImageName) -> Result<(), ImageError> {
        self.here().appears(name).await
    }

    async fn change_expiry(&self, name: &ImageName, _: &ExpiryChange) -> Result<(), ImageError> {
        Err(self.refused(format!("the end of image {name} can't be changed here")))
    }

    async fn expire(&self, now: u64) -> Result<Option<u64>, ImageError> {
        self.here().expire(now).await
    }

    async fn directories(&self) -> Result<Vec<ImageDirectory>, ImageError> {
        self.here().directories().await
    }

    async fn directory(&self, name: &DirectoryName) -> Result<ImageDirectory, ImageError> {
        self.here().directory(name).await
    }

    async fn make_directory(&self, name: &DirectoryName, _: Parents) -> Result<(), ImageError> {
        Err(self.refused(format!("directory {name} can't be made here")))
    }

    async fn chown_directory(&self, name: &DirectoryName, _: Option<GroupName>) -> Result<(), ImageError> {
        Err(self.refused(format!("directory {name} can't be given away here")))
    }

    async fn delete_directory(&self, name: &DirectoryName) -> Result<(), ImageError> {
        Err(self.refused(format!("directory {name} can't be deleted here")))
    }

    async fn unreferenced(&self) -> Result<Vec<Unreferenced>, ImageError> {
        self.here().unreferenced().await
    }

    async fn collect(&self, share: Share) -> Result<Collected, ImageError> {
        self.here().collect(share).await
    }

    async fn statistics(&self, names: Vec<ImageName>) -> Result<ObjectStatistics, ImageError> {
        self.here().statistics(names).await
    }

    fn replication(&self) -> Option<Arc<dyn Replication>> {
        Some(Arc::clone(&self.0) as Arc<dyn Replication>)
    }
}
