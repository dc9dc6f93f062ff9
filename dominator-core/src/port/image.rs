use std::sync::Arc;

use async_trait::async_trait;
use thiserror::Error;

use super::Cause;
use crate::image::{Image, ImageName};
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
    /// The image can't be one.
    #[error("the image is malformed")]
    Malformed(#[source] Cause),
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
