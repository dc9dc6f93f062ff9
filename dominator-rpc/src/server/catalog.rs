use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dominator_core::catalog::{ExpiryChange, ExpiryLimits, ExpiryRefusal, Position, Selection};
use dominator_core::image::{Image, ImageName};
use dominator_core::port::{Cause, ImageError, ImageStore};
use futures_util::{StreamExt as _, stream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tonic::{Response, Status};

use super::Answer;
use super::driven::Driven;
use crate::auth::{Gate, Permit};
use crate::wire::{self, Packed, image_status};
use crate::{limits, v1};

/// How many names go into one message: with the longest names, half a megabyte.
const NAMES: usize = 1000;

/// What images there are, how that changes, and when they end.
pub(super) struct Catalog {
    images: Gate<Arc<dyn ImageStore>>,
    clock: fn() -> SystemTime,
    limits: ExpiryLimits,
    followers: Arc<Semaphore>,
    waiting: Semaphore,
}

impl Catalog {
    pub(super) fn new(images: Arc<dyn ImageStore>, clock: fn() -> SystemTime, expiry: ExpiryLimits) -> Self {
        let (followers, waiting) = (limits::IMAGE_FOLLOWERS, limits::IMAGE_WAITERS);
        Self {
            images: Gate::new(images),
            clock,
            limits: expiry,
            followers: Arc::new(Semaphore::new(followers)),
            waiting: Semaphore::new(waiting),
        }
    }

    /// Now, in seconds since 1970.
    pub(super) fn now(&self) -> u64 {
        (self.clock)().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
    }

    /// Whether a new image can be one as far as lists are concerned.
    pub(super) fn check(&self, name: &ImageName, image: &Image) -> Result<(), ImageError> {
        if image.is_expired(self.now()) {
            return Err(ImageError::Expiry(ExpiryRefusal::Over));
        }
        let (len, limit) = (wire::entry_len(name, image), limits::IMAGE_ENTRY);
        if len > limit {
            let why = format!("its tags and what it was built from take {len} bytes, and may take {limit}");
            return Err(ImageError::Malformed(Cause::new(why)));
        }
        Ok(())
    }

    /// Waits for an image, if there is none; not longer than is asked for, nor than may be. Safe to cancel.
    pub(super) async fn wait(&self, permit: Permit, name: &ImageName, wait: Duration) -> Result<(), Status> {
        let images = self.images.open(permit);
        match images.image(name).await {
            Err(ImageError::NotFound { .. }) => {}
            // Whoever asked looks again, and gets whatever this is as an answer.
            Ok(_) | Err(_) => return Ok(()),
        }
        let full = |_| Status::resource_exhausted("too many wait for images; try again in a while");
        let _place = self.waiting.try_acquire().map_err(full)?;
        match timeout(wait.min(limits::IMAGE_WAIT), images.appears(name)).await {
            Ok(Err(error)) => Err(image_status(&error)),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    pub(super) async fn find_latest(
        &self,
        permit: Permit,
        wanted: v1::FindLatestImageRequest,
    ) -> Result<Response<v1::FindLatestImageReply>, Status> {
        let latest = self.images.open(permit).latest(&wire::latest_from(wanted)).await;
        let name = latest.map_err(|error| image_status(&error))?.map(|name| name.to_string());
        Ok(Response::new(v1::FindLatestImageReply { name }))
    }

    pub(super) async fn select(
        &self,
        permit: Permit,
        selection: v1::ImageSelection,
    ) -> Result<Response<Answer<v1::ListImagesReply>>, Status> {
        let names = self.images.open(permit).select(&wire::selection_from(selection)).await;
        Ok(Response::new(in_batches(&names.map_err(|error| image_status(&error))?)))
    }

    /// What there is of a selection, and how it changes.
    pub(super) async fn updates(
        &self,
        permit: Permit,
        selection: &Selection,
        from: Option<Position>,
    ) -> Result<Response<Answer<v1::ImageUpdates>>, Status> {
        let full = |_| Status::resource_exhausted("too many follow the images; try again in a while");
        let place = self.followers.clone().try_acquire_owned().map_err(full)?;
        let updates = self.images.open(permit).updates(selection, from).await;
        let updates = updates.map_err(|error| image_status(&error))?;
        let updates = updates.map(|update| wire::update(&update.map_err(|error| image_status(&error))?));
        let messages = Packed::new(updates, limits::BATCH).map(move |batch| {
            let _kept_until_the_end = &place;
            batch.map(|updates| v1::ImageUpdates { updates })
        });
        Ok(Response::new(Driven::stream(messages).boxed()))
    }

    /// Changes when an image ends, which whoever asks may do as far as the image is concerned.
    pub(super) async fn change_expiry(
        &self,
        permit: Permit,
        name: &ImageName,
        to: Option<u64>,
    ) -> Result<Response<v1::Empty>, Status> {
        let privileged = permit.ground().has_power();
        let change = ExpiryChange { to, now: self.now(), privileged, limits: self.limits };
        let changed = self.images.open(permit).change_expiry(name, &change).await;
        changed.map(|()| Response::new(v1::Empty {})).map_err(|error| image_status(&error))
    }
}

/// Names, as many in a message as go into one.
pub(super) fn in_batches(names: &[ImageName]) -> Answer<v1::ListImagesReply> {
    let batch =
        |names: &[ImageName]| v1::ListImagesReply { names: names.iter().map(ToString::to_string).collect() };
    let batches: Vec<_> = names.chunks(NAMES).map(|names| Ok(batch(names))).collect();
    stream::iter(batches).boxed()
}
