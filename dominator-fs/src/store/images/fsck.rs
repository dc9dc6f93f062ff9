//! Reading everything again, and getting from elsewhere what is damaged.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Seek as _, Write as _};
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use dominator_core::image::{Image, ImageName};
use dominator_core::object::ObjectId;
use dominator_core::port::{Amount, Cause, ImageError, StoreError};
use dominator_core::tree::Directory;

use super::garbage::own_objects;
use super::load::store_failed;
use super::{ImageStore, malformed};
use crate::export::{ExportError, ObjectStream};
use crate::scan::Cancel;
use crate::store::objects::{self, Afterwards, ObjectStore};

/// What was found by [`ImageStore::fsck`].
#[derive(Debug, Default)]
pub struct Checked {
    /// What is sound.
    pub sound: Amount,
    /// Objects that were damaged, and lie in `quarantine/` now, in order.
    pub damaged: Vec<ObjectId>,
    /// Objects that could not be read, and why. They are where they were.
    pub unreadable: Vec<(ObjectId, StoreError)>,
    /// Objects that images need and that are not here, damaged ones included, with the images.
    pub missing: BTreeMap<ObjectId, Vec<ImageName>>,
    /// Objects that came from elsewhere.
    pub healed: Vec<ObjectId>,
    /// Images of which it can't be said what they need, and why.
    pub unknown: Vec<(ImageName, ImageError)>,
}

impl Checked {
    /// Whether every image is complete and everything could be read.
    pub fn is_sound(&self) -> bool {
        self.missing.is_empty() && self.unreadable.is_empty() && self.unknown.is_empty()
    }
}

impl ImageStore {
    /// Reads all objects, `threads` at a time, and looks for all that images need. What is damaged is moved aside. What is
    /// missing comes from `source`, if there is one that has it.
    ///
    /// # Errors
    /// [`ImageError::Failed`] when the images can't be listed, or when it was cancelled.
    pub fn fsck(
        &self,
        threads: NonZeroUsize,
        cancel: &Cancel,
        mut source: Option<&mut dyn ObjectStream>,
    ) -> Result<Checked, ImageError> {
        let mut checked = self.verify_all(threads, cancel)?;
        loop {
            (checked.missing, checked.unknown) = self.missing(cancel)?;
            // A directory that has come may name more that is missing.
            let wanted: Vec<_> = checked.missing.keys().copied().collect();
            let before = checked.healed.len();
            if let Some(source) = source.as_deref_mut() {
                let came = wanted.into_iter().filter(|id| heal(self.objects(), source, *id));
                checked.healed.extend(came);
            }
            if checked.healed.len() == before {
                return Ok(checked);
            }
        }
    }

    fn verify_all(&self, threads: NonZeroUsize, cancel: &Cancel) -> Result<Checked, ImageError> {
        let mut all: Vec<_> = self.objects().select(|_, _| true).into_iter().map(|(id, _)| id).collect();
        all.sort_unstable();
        let (next, found) = (AtomicUsize::new(0), Mutex::new(Checked::default()));
        std::thread::scope(|scope| {
            for _ in 0..threads.get() {
                scope.spawn(|| {
                    while let Some(id) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if cancel.is_cancelled() {
                            return;
                        }
                        let read = verify(self.objects(), id);
                        found.lock().unwrap_or_else(PoisonError::into_inner).note(*id, read);
                    }
                });
            }
        });
        if cancel.is_cancelled() {
            return Err(cancelled());
        }
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.damaged.sort_unstable();
        Ok(found)
    }

    /// What images need that is not here, and the images of which that is not known.
    #[expect(clippy::type_complexity, reason = "the two fields it is for")]
    fn missing(
        &self,
        cancel: &Cancel,
    ) -> Result<(BTreeMap<ObjectId, Vec<ImageName>>, Vec<(ImageName, ImageError)>), ImageError> {
        let (mut missing, mut unknown) = (BTreeMap::<_, Vec<_>>::new(), Vec::new());
        for name in self.list()? {
            if cancel.is_cancelled() {
                return Err(cancelled());
            }
            match self.image(&name).and_then(|image| lacks(self.objects(), &image)) {
                Ok(ids) => ids.into_iter().for_each(|id| missing.entry(id).or_default().push(name.clone())),
                Err(ImageError::NotFound { .. } | ImageError::Deleted { .. }) => {}
                Err(error) => unknown.push((name, error)),
            }
        }
        Ok((missing, unknown))
    }
}

impl Checked {
    fn note(&mut self, id: ObjectId, read: Result<u64, StoreError>) {
        match read {
            Ok(size) => self.sound = self.sound.and(size),
            // Collected since.
            Err(StoreError::NotFound { .. }) => {}
            Err(StoreError::Corrupt { .. }) => self.damaged.push(id),
            Err(error) => self.unreadable.push((id, error)),
        }
    }
}

/// Reads an object to its end, which moves it aside when it is damaged. Says how long it is.
fn verify(objects: &ObjectStore, id: &ObjectId) -> Result<u64, StoreError> {
    let mut object = objects.open_object(id)?;
    io::copy(&mut object, &mut io::sink())
        .map_err(|error| objects::failed(format!("object {id} can't be read"), error))
}

/// What an image needs and what is not here, as far as its directories are.
fn lacks(objects: &ObjectStore, image: &Image) -> Result<BTreeSet<ObjectId>, ImageError> {
    let mut lacking = BTreeSet::new();
    let mut seen: BTreeSet<ObjectId> = own_objects(image).collect();
    for id in &seen {
        if objects.size(id).map_err(store_failed)?.is_none() {
            lacking.insert(*id);
        }
    }
    let mut waiting: Vec<_> = image.tree.root.directory().into_iter().collect();
    let mut read: BTreeSet<_> = waiting.iter().copied().collect();
    while let Some(id) = waiting.pop() {
        let bytes = match objects.read(&id.0, Directory::MAX_LEN) {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. } | StoreError::Corrupt { .. }) => {
                lacking.insert(id.0);
                continue;
            }
            Err(error) => return Err(store_failed(error)),
        };
        let directory = Directory::decode(bytes).map_err(malformed)?;
        waiting.extend(directory.iter().filter_map(|entry| entry.directory()).filter(|id| read.insert(*id)));
        for (id, size) in directory.iter().filter_map(|entry| entry.object()) {
            if seen.insert(id) && objects.size(&id).map_err(store_failed)? != Some(size) {
                lacking.insert(id);
            }
        }
    }
    Ok(lacking)
}

/// Whether an object came from `source` and is here now. What is wrong with it is told in the log.
fn heal(objects: &ObjectStore, source: &mut dyn ObjectStream, id: ObjectId) -> bool {
    let _held = objects.hold([id], Afterwards::Fresh);
    let taken = source.stream(&[id], &mut |id, contents| {
        // How long it is is not known before.
        let mut spool = || {
            let mut file = objects.spool().map_err(io::Error::other)?;
            let size = io::copy(contents, &mut file)?;
            file.flush().and_then(|()| file.rewind()).map(|()| (file, size))
        };
        let failed =
            |error| ExportError::Source(objects::failed(format!("object {id} can't be kept"), error));
        let (mut file, size) = spool().map_err(failed)?;
        let mut writer = objects.begin(id, size).map_err(ExportError::Source)?;
        let written = writer.write_all(&mut file).and_then(|()| writer.finish());
        written.map(drop).map_err(ExportError::Source)
    });
    if let Err(error) = &taken {
        tracing::warn!(object = %id, %error, "a damaged object did not come from elsewhere");
    }
    taken.is_ok() && objects.size(&id).is_ok_and(|size| size.is_some())
}

fn cancelled() -> ImageError {
    ImageError::Failed { what: "the check was given up".into(), cause: Cause::new("it was cancelled") }
}
