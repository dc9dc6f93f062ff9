//! Images in the place of others, for replicas.

use std::os::fd::AsFd as _;

use dominator_core::catalog::Entry;
use dominator_core::image::{Image, ImageName};
use dominator_core::port::ImageError;

use super::{ImageStore, check, failed, forget, garbage, load, split};
use crate::publish::{self, Durable, Replace};
use crate::store::home;
use crate::store::objects::Afterwards;

impl ImageStore {
    /// Puts an image, whose objects are all in the object store, in the place of the one of that name: the same with
    /// another expiry or other owners, or another one, if what is there was to expire. It is durable when this returns.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`ImageError::Deleted`]; [`ImageError::Exists`] when another image is there for good; others
    /// as [`ImageStore::add`].
    pub fn replace(&self, name: &ImageName, image: &Image) -> Result<Durable, ImageError> {
        let tree = load::snapshot(&self.0.objects, &image.tree)?;
        // INVARIANT: held until the image has its name, so that what is found to be there stays there.
        let _held = self.0.objects.hold(garbage::needed_by(image, &tree), Afterwards::Fresh);
        check::complete(&self.0.objects, image, &tree)?;
        let contents = Self::file_of(image)?;
        let _changing = self.changing();
        let before = self.load(name)?;
        if before.lasting_id() != image.lasting_id() && before.expires_at.is_none() {
            return Err(ImageError::Exists { name: name.clone() });
        }
        self.overwrite(name, image, &contents)
    }

    /// Writes an image over what is at its name, and notes it. Call it while the store is kept from changing.
    pub(super) fn overwrite(
        &self,
        name: &ImageName,
        image: &Image,
        contents: &[u8],
    ) -> Result<Durable, ImageError> {
        forget(&self.0.images, name);
        let (directories, file) = split(name);
        let write = || {
            let dir = home::directory(&self.0.home, directories.as_bytes())?;
            let (seam, mode) = (&*self.0.seam, home::FILE_MODE);
            publish::bytes(seam, dir.as_fd(), file.as_bytes(), contents, mode, Replace::Existing)
        };
        let written = write().map_err(|error| failed(format!("image {name} can't be replaced"), error));
        let written = self.or_look_again(name, written)?;
        self.0.catalog.put(name, Entry::of(image));
        Ok(written)
    }
}
