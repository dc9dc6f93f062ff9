use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use futures_core::Stream;
use thiserror::Error;

use super::{Cause, Collected, ObjectStatistics, Replication, Share, Unreferenced};
use crate::catalog::{ExpiryChange, ExpiryRefusal, ImageUpdate, Latest, Position, Selection};
use crate::image::{Image, ImageName, ImageState};
use crate::namespace::{DirectoryName, GroupName, ImageDirectory};
use crate::object::ObjectId;
use crate::tree::Snapshot;

/// Where images are kept by name.
#[async_trait]
pub trait ImageStore: Send + Sync {
    /// Every image's name, in order.
    async fn list(&self) -> Result<Vec<ImageName>, ImageError>;

    /// The manifest of an image.
    async fn image(&self, name: &ImageName) -> Result<Arc<Image>, ImageError>;

    /// The whole tree of an image. It was verified: complete and well-formed.
    async fn tree(&self, name: &ImageName) -> Result<Arc<Snapshot>, ImageError>;

    /// Adds an image whose objects and directories are all in the object store beside.
    async fn add(&self, name: &ImageName, image: Image) -> Result<(), ImageError>;

    /// Deletes an image; its name is never free again.
    async fn delete(&self, name: &ImageName) -> Result<(), ImageError>;

    /// What there is at each of these names, in their order.
    async fn states(&self, names: &[ImageName]) -> Result<Vec<ImageState>, ImageError> {
        let mut states = Vec::with_capacity(names.len());
        for name in names {
            states.push(match self.image(name).await {
                Ok(image) => ImageState::of(&image),
                Err(ImageError::NotFound { .. }) => ImageState::Absent,
                Err(ImageError::Deleted { .. }) => ImageState::Deleted { was: None },
                Err(error) => return Err(error),
            });
        }
        Ok(states)
    }

    /// Puts an image, whose objects are all there, in the place of the one of that name: the same with another expiry or other
    /// owners, or another one after that has expired. For replicas, which keep to what their master has.
    async fn replace(&self, _: &ImageName, _: Image) -> Result<(), ImageError> {
        Err(ImageError::Unsupported)
    }

    /// How it stands to its master, if it is a replica.
    fn replication(&self) -> Option<Arc<dyn Replication>> {
        None
    }

    /// Every directory of images, in order, the root first.
    async fn directories(&self) -> Result<Vec<ImageDirectory>, ImageError> {
        Err(ImageError::Unsupported)
    }

    /// One directory of images.
    async fn directory(&self, _: &DirectoryName) -> Result<ImageDirectory, ImageError> {
        Err(ImageError::Unsupported)
    }

    /// Makes a directory, which belongs to the group of the one it is in.
    async fn make_directory(&self, _: &DirectoryName, _: Parents) -> Result<(), ImageError> {
        Err(ImageError::Unsupported)
    }

    /// Gives a directory, but none below it, to a group, or to none.
    async fn chown_directory(&self, _: &DirectoryName, _: Option<GroupName>) -> Result<(), ImageError> {
        Err(ImageError::Unsupported)
    }

    /// Deletes a directory in which there is nothing: no image, no directory, no name of a deleted image.
    async fn delete_directory(&self, _: &DirectoryName) -> Result<(), ImageError> {
        Err(ImageError::Unsupported)
    }

    /// The names of the images in a selection, in order.
    async fn select(&self, _selection: &Selection) -> Result<Vec<ImageName>, ImageError> {
        Err(ImageError::Unsupported)
    }

    /// The newest image of those that are described, if there is any.
    async fn latest(&self, _wanted: &Latest) -> Result<Option<ImageName>, ImageError> {
        Err(ImageError::Unsupported)
    }

    /// What there is of a selection, then how that changes, in order and without end; only how it changed after `from`,
    /// where that is still known.
    async fn updates(
        &self,
        _selection: &Selection,
        _from: Option<Position>,
    ) -> Result<ImageUpdates, ImageError> {
        Err(ImageError::Unsupported)
    }

    /// Waits until there is an image of that name.
    async fn appears(&self, _name: &ImageName) -> Result<(), ImageError> {
        Err(ImageError::Unsupported)
    }

    /// Changes when an image ends, if that may be. A store elsewhere judges by its own clock and limits, and by who asks
    /// there.
    async fn change_expiry(&self, _name: &ImageName, _change: &ExpiryChange) -> Result<(), ImageError> {
        Err(ImageError::Unsupported)
    }

    /// Removes the images that have passed their time at `now`, in seconds since 1970; their names are free again. Says
    /// when the next one ends.
    async fn expire(&self, _now: u64) -> Result<Option<u64>, ImageError> {
        Err(ImageError::Unsupported)
    }

    /// All objects that no image needs, those first that have waited longest; also those that are too young to be removed.
    async fn unreferenced(&self) -> Result<Vec<Unreferenced>, ImageError> {
        Err(ImageError::Unsupported)
    }

    /// Removes objects that no image needs, what has waited longest first; nothing that is being uploaded or read, or was
    /// lately. Nothing at all when what an image needs can't be found out.
    async fn collect(&self, _: Share) -> Result<Collected, ImageError> {
        Err(ImageError::Unsupported)
    }

    /// What images take, each of which must be there.
    async fn statistics(&self, _: Vec<ImageName>) -> Result<ObjectStatistics, ImageError> {
        Err(ImageError::Unsupported)
    }
}

/// Whether the directories above one that is made are made as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parents {
    /// They must be there, and the directory must not.
    Required,
    /// Those that are missing are made; nothing is when all are there, the directory itself included.
    Made,
}

/// How images change. A stream that ends has broken off: whoever wants more asks again, from where it was.
pub struct ImageUpdates(Pin<Box<dyn Stream<Item = Result<ImageUpdate, ImageError>> + Send>>);

impl ImageUpdates {
    /// Wraps a stream. Who makes it keeps the order.
    pub fn new(stream: impl Stream<Item = Result<ImageUpdate, ImageError>> + Send + 'static) -> Self {
        Self(Box::pin(stream))
    }
}

impl Stream for ImageUpdates {
    type Item = Result<ImageUpdate, ImageError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

impl fmt::Debug for ImageUpdates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageUpdates").finish_non_exhaustive()
    }
}

/// What can go wrong with images.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ImageError {
    /// There is none of that name; looking succeeded.
    #[error("there is no image {name}")]
    NotFound {
        /// Which.
        name: ImageName,
    },
    /// The name is taken.
    #[error("image {name} exists already; names are unique")]
    Exists {
        /// Which.
        name: ImageName,
    },
    /// The name was used once.
    #[error("image {name} was deleted; its name can't be used again")]
    Deleted {
        /// Which.
        name: ImageName,
    },
    /// Objects or directories must be added first.
    #[error("{count} objects of the image are missing, {first} among them; add them first")]
    Incomplete {
        /// One of them.
        first: ObjectId,
        /// How many.
        count: usize,
    },
    /// There is no such directory of images; looking succeeded.
    #[error("there is no directory of images {name}")]
    NoDirectory {
        /// Which.
        name: DirectoryName,
    },
    /// The directory is there.
    #[error("directory {name} exists already")]
    DirectoryExists {
        /// Which.
        name: DirectoryName,
    },
    /// Only empty directories can be deleted.
    #[error("directory {name} is not empty; what is in it, names of deleted images too, would be lost")]
    DirectoryNotEmpty {
        /// Which.
        name: DirectoryName,
    },
    /// This store can't do that.
    #[error("the store of images can't do that")]
    Unsupported,
    /// The image can't be one.
    #[error("the image is malformed")]
    Malformed(#[source] Cause),
    /// When the image ends stands against it.
    #[error(transparent)]
    Expiry(#[from] ExpiryRefusal),
    /// The caller lacks the right.
    #[error("{0}")]
    Denied(String),
    /// The other end can't be reached or went away; try again.
    #[error("the image server can't be reached")]
    Unreachable(#[source] Cause),
    /// It was tried and failed.
    #[error("{what}")]
    Failed {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        cause: Cause,
    },
}
