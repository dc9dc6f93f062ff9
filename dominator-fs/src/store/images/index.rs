//! The catalog of the images in a store, kept in step with the files.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use dominator_core::catalog::{Entry, Epoch, Removal};
use dominator_core::image::ImageName;
use dominator_core::port::ImageError;

use super::{ImageStore, Look};

/// The epoch of a log that is lost with this process.
pub(super) fn epoch() -> Epoch {
    Epoch(RandomState::new().build_hasher().finish())
}

impl ImageStore {
    /// Reads what every image says of itself, once: what is asked for later is answered from memory.
    pub(super) fn fill_catalog(&self) -> Result<(), ImageError> {
        let names = self.list()?.into_iter();
        let known = names.map(|name| (self.entry(&name), name));
        self.0.catalog.fill(self.known_directories()?, known.map(|(entry, name)| (name, entry)));
        Ok(())
    }

    /// Passes on whether a change of that image was made. Where it was not, there may be one all the same: then the catalog
    /// says what there is now.
    pub(super) fn or_look_again<T>(
        &self,
        name: &ImageName,
        changed: Result<T, ImageError>,
    ) -> Result<T, ImageError> {
        changed.inspect_err(|_| match self.look(name) {
            Ok(Look::File) => {
                let entry = self.entry(name);
                if self.0.catalog.get(name).is_none_or(|known| *known != entry) {
                    self.0.catalog.put(name, entry);
                }
            }
            Ok(Look::Deleted) => self.0.catalog.remove(name, Removal::Deleted),
            Ok(Look::Nothing) => self.0.catalog.remove(name, Removal::Expired),
            Err(error) => tracing::warn!(image = %name, %error, "it is not known what there is of the image"),
        })
    }

    /// What is to be known of an image that has a file.
    fn entry(&self, name: &ImageName) -> Entry {
        match self.load(name) {
            Ok(image) => Entry::of(&image),
            Err(error) => {
                tracing::error!(image = %name, %error, "the image can't be read");
                Entry::damaged()
            }
        }
    }
}
