//! Images that end by themselves.

use std::os::fd::AsFd as _;

use dominator_core::catalog::{ExpiryChange, Removal};
use dominator_core::image::{Image, ImageName};
use dominator_core::port::ImageError;

use super::{ImageStore, failed, forget, split};
use crate::publish::{self, Durable};
use crate::seam::{At, Remove};
use crate::store::home;

impl ImageStore {
    /// Changes when an image ends, durably, if that may be.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`ImageError::Deleted`]; [`ImageError::Expiry`] when it may not be;
    /// [`ImageError::Failed`].
    pub fn change_expiry(&self, name: &ImageName, change: &ExpiryChange) -> Result<Durable, ImageError> {
        let _changing = self.changing();
        let image = self.load(name)?;
        // Under the lock: of two who put an end off at once, none makes it sooner than the other has said.
        change.judge(image.expires_at)?;
        let image = Image { expires_at: change.to, ..image };
        let contents = Self::file_of(&image)?;
        self.overwrite(name, &image, &contents)
    }

    /// Removes the images that have passed their time at `now`, in seconds since 1970, durably, and says which. Their names
    /// are free again.
    ///
    /// # Errors
    /// [`ImageError::Failed`] when one can't be removed; the others were all the same.
    pub fn expire(&self, now: u64) -> Result<Vec<ImageName>, ImageError> {
        let mut removed = Vec::new();
        let mut failure = Ok(());
        for name in self.0.catalog.ended(now) {
            match self.end(&name, now) {
                Ok(true) => removed.push(name),
                Ok(false) => {}
                Err(error) => failure = Err(error),
            }
        }
        failure.map(|()| removed)
    }

    /// Removes an image unless its end was put off meanwhile.
    fn end(&self, name: &ImageName, now: u64) -> Result<bool, ImageError> {
        let _changing = self.changing();
        let end = self.0.catalog.get(name).and_then(|entry| entry.expires_at);
        if end.is_none_or(|end| end > now) {
            return Ok(false);
        }
        self.age_from_now_on(name);
        forget(&self.0.images, name);
        let (directories, file) = split(name);
        let remove = || {
            let dir = home::directory(&self.0.home, directories.as_bytes())?;
            self.0.seam.remove(At::new(dir.as_fd(), file.as_bytes()), Remove::File)?;
            // DURABILITY: before it is told that the image is gone. Otherwise a crash brings it back after its name was
            // used again elsewhere.
            publish::directories(&*self.0.seam, [dir.as_fd()])
        };
        let removed = remove()
            .map_err(|error| failed(format!("image {name}, which has expired, can't be removed"), error));
        drop(self.or_look_again(name, removed)?);
        self.0.catalog.remove(name, Removal::Expired);
        tracing::info!(image = %name, "image has expired");
        Ok(true)
    }
}
