//! What images need of the object store beside, and collecting the rest.
//!
//! What is needed is found out anew each time, from the images: no count can be wrong. The order is what makes it safe.
//! First it is written down what is held from then on; then the images are listed, and those that were deleted are deleted
//! for good; then all that they need is found out. What is not among that and was not held at any time since is garbage.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use dominator_core::garbage::Thresholds;
use dominator_core::image::{Image, ImageName};
use dominator_core::object::ObjectId;
use dominator_core::port::{Amount, Cause, Collected, ImageError, ObjectStatistics, Unreferenced};
use dominator_core::tree::{Directory, DirectoryId, Snapshot};

use super::load::{self, store_failed};
use super::{ImageStore, MAX_DEPTH, failed, malformed};
use crate::publish;
use crate::seam::Seam;
use crate::store::home;
use crate::store::objects::{Entry, ObjectStore, Sweep};

/// How often it is begun anew when images are deleted meanwhile.
const ATTEMPTS: usize = 10;

impl ImageStore {
    /// All objects that no image needs, those first that have waited longest.
    ///
    /// # Errors
    /// [`ImageError::Failed`] when an image can't be read.
    pub fn unreferenced(&self) -> Result<Vec<Unreferenced>, ImageError> {
        let sweep = Sweep::begin(self.objects());
        let needed = self.needed()?;
        let found = sweep.oldest(|id, _| !needed.has(id));
        Ok(found.into_iter().map(|(id, Entry { size, since })| Unreferenced { id, size, since }).collect())
    }

    /// Removes garbage that was not needed for the duration `keep`, what has waited longest first, until `enough` bytes of
    /// all that there are have gone. Needs no free room on the disk.
    ///
    /// # Errors
    /// [`ImageError::Failed`] when an image can't be read: nothing is removed then. Or when something can't be removed.
    pub fn collect(&self, keep: Duration, enough: impl FnOnce(u64) -> u64) -> Result<Collected, ImageError> {
        let objects = self.objects();
        let sweep = Sweep::begin(objects);
        let needed = self.needed()?;
        let before = objects.now().saturating_sub(keep.as_secs());
        let garbage = sweep.oldest(|id, entry| entry.since <= before && !needed.has(id));
        let amount = garbage.iter().fold(Amount::default(), |sum, (_, entry)| sum.and(entry.size));
        let enough = enough(amount.bytes);
        // All of it goes with what has no bytes.
        let all = enough > 0 && enough >= amount.bytes;
        let mut removed = Amount::default();
        for (id, entry) in &garbage {
            if !all && removed.bytes >= enough {
                break;
            }
            let gone = sweep.remove(id);
            if gone.map_err(|error| failed(format!("object {id} can't be removed"), error))? {
                removed = removed.and(entry.size);
            }
        }
        drop(sweep);
        if removed.objects > 0 {
            tracing::info!(objects = removed.objects, bytes = removed.bytes, "collected garbage");
            // A disk that is full still may have no room for it; nothing but time is lost then.
            if let Err(error) = objects.checkpoint() {
                tracing::warn!(%error, "the index of objects was not written");
            }
        }
        let left = Amount {
            objects: amount.objects.saturating_sub(removed.objects),
            bytes: amount.bytes.saturating_sub(removed.bytes),
        };
        Ok(Collected { removed, left })
    }

    /// Collects as much garbage as the thresholds ask for; nothing when they ask for none. Whether there is more of it than
    /// they allow is only looked at with `thorough`, as that takes all images to be read.
    ///
    /// # Errors
    /// As [`ImageStore::collect`].
    pub fn relieve(
        &self,
        thresholds: &Thresholds,
        keep: Duration,
        thorough: bool,
    ) -> Result<Option<Collected>, ImageError> {
        let disk = self.objects().disk().map_err(store_failed)?;
        if thresholds.is_full(disk) || thorough && thresholds.has_budget() {
            return self.collect(keep, |garbage| thresholds.excess(disk, garbage)).map(Some);
        }
        Ok(None)
    }

    /// What the images of those names take.
    ///
    /// # Errors
    /// As [`ImageStore::image`] for those; [`ImageError::Failed`] when another can't be read.
    pub fn statistics(&self, names: &[ImageName]) -> Result<ObjectStatistics, ImageError> {
        let mut these = Needed::default();
        for name in names {
            these.image(self.objects(), &*self.image(name)?)?;
        }
        let mut others = Needed::default();
        for name in self.list()?.into_iter().filter(|name| !names.contains(name)) {
            match self.image(&name) {
                Ok(image) => others.image(self.objects(), &image)?,
                Err(ImageError::NotFound { .. } | ImageError::Deleted { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let amount = |wanted: &dyn Fn(&ObjectId) -> bool| {
            let sizes = self.objects().select(|id, _| wanted(id));
            sizes.iter().fold(Amount::default(), |sum, (_, entry)| sum.and(entry.size))
        };
        Ok(ObjectStatistics {
            needed: amount(&|id| these.has(id)),
            alone: amount(&|id| these.has(id) && !others.has(id)),
        })
    }

    /// Before an image is deleted: what it needs was needed until now. When that can't be found out, it is as old as it is.
    pub(super) fn age_from_now_on(&self, name: &ImageName) {
        let needed = self.load(name).and_then(|image| {
            let mut needed = Needed::default();
            needed.image(self.objects(), &image).map(|()| needed)
        });
        match needed {
            Ok(needed) => self.objects().touch(&needed.objects),
            Err(ImageError::NotFound { .. } | ImageError::Deleted { .. }) => {}
            Err(error) => tracing::warn!(image = %name, %error, "what a deleted image needed is not known"),
        }
    }

    /// What all images need.
    fn needed(&self) -> Result<Needed, ImageError> {
        for _ in 0..ATTEMPTS {
            let names = self.list()?;
            // DURABILITY: an image that is gone from the list may be back after a power cut, unless that is on the disk.
            let settled = settle(&*self.0.seam, self.0.home.as_fd(), 0);
            settled.map_err(|error| failed("what was deleted can't be made durable", error))?;
            if let Some(needed) = self.needed_by_all(&names)? {
                return Ok(needed);
            }
        }
        let cause = Cause::new("images were deleted all the time; try again");
        Err(ImageError::Failed { what: "what images need can't be found out".into(), cause })
    }

    /// Nothing when one of them is gone.
    fn needed_by_all(&self, names: &[ImageName]) -> Result<Option<Needed>, ImageError> {
        let mut needed = Needed::default();
        for name in names {
            match self.image(name).and_then(|image| needed.image(self.objects(), &image)) {
                Ok(()) => {}
                Err(ImageError::NotFound { .. } | ImageError::Deleted { .. }) => return Ok(None),
                Err(error) => {
                    let what = format!("nothing is collected, as what image {name} needs can't be found out");
                    return Err(ImageError::Failed { what, cause: Cause::new(error) });
                }
            }
        }
        Ok(Some(needed))
    }
}

/// Makes the names in a directory of images and in those below durable. Not `syncfs`: that fails for what others could not
/// write to a full disk.
fn settle(seam: &dyn Seam, dir: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
    drop(publish::directories(seam, [dir])?);
    for name in home::names(dir)?.into_iter().filter(|name| depth < MAX_DEPTH && !name.starts_with(b".")) {
        match home::directory(dir, &name) {
            Ok(below) => settle(seam, below.as_fd(), depth + 1)?,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotADirectory | io::ErrorKind::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What an image needs whose tree is at hand.
pub(super) fn needed_by(image: &Image, tree: &Snapshot) -> Vec<ObjectId> {
    let directories = tree.directories.iter().map(|(id, _)| id.0);
    directories.chain(tree.objects().into_keys()).chain(own_objects(image)).collect()
}

/// What an image names itself.
pub(super) fn own_objects(image: &Image) -> impl Iterator<Item = ObjectId> {
    image.documents().chain([image.tree.links.0])
}

/// What some images need.
#[derive(Debug, Default)]
struct Needed {
    objects: HashSet<ObjectId>,
    /// The directories among them that were looked into. A file may have the very bytes of a directory: that an object is
    /// needed does not say that what a directory of the same bytes names is.
    read: HashSet<DirectoryId>,
}

impl Needed {
    fn has(&self, id: &ObjectId) -> bool {
        self.objects.contains(id)
    }

    fn image(&mut self, objects: &ObjectStore, image: &Image) -> Result<(), ImageError> {
        self.objects.extend(own_objects(image));
        let mut waiting: Vec<_> = image.tree.root.directory().into_iter().collect();
        let mut missing = load::Missing::default();
        while let Some(id) = waiting.pop() {
            if !self.read.insert(id) {
                continue;
            }
            self.objects.insert(id.0);
            let Some(bytes) = missing.note(objects.read(&id.0, Directory::MAX_LEN))? else { continue };
            let directory = Directory::decode(bytes).map_err(malformed)?;
            waiting.extend(directory.iter().filter_map(|entry| entry.directory()));
            self.objects.extend(directory.iter().filter_map(|entry| entry.object()).map(|(id, _)| id));
        }
        missing.none()
    }
}
