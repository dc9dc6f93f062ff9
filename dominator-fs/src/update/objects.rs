#[cfg(feature = "tokio")]
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use dominator_core::inode::Mode;
use dominator_core::object::{ObjectHasher, ObjectId};
use dominator_core::port::{Cause, StoreError, Verified};

use crate::publish::{self, Move, Replace};
use crate::root::{inode_at, names_in, open_file};
use crate::seam::{At, Remove, Seam};
use crate::sparse::Sparse;

/// Objects kept beside a root until an update needs them: hashed on the way in, durable, and hashed again on the way
/// out.
#[derive(Clone)]
pub struct ObjectCache {
    dir: Arc<OwnedFd>,
    seam: Arc<dyn Seam>,
}

impl ObjectCache {
    /// Room that is left to others, in bytes.
    pub const RESERVE: u64 = 16 * 1024 * 1024;
    pub(super) const MODE: Mode = Mode::from_st_mode(0o600);

    /// The cache in `dir`. What a dead attempt left half-written is removed.
    pub(crate) fn open(dir: Arc<OwnedFd>, seam: Arc<dyn Seam>) -> io::Result<Self> {
        let cache = Self { dir, seam };
        for name in names_in(cache.dir.as_fd())? {
            if name.ends_with(b"~") {
                cache.remove_name(&name)?;
            }
        }
        Ok(cache)
    }

    /// The length of an object in bytes, if it is here.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn size(&self, id: &ObjectId) -> io::Result<Option<u64>> {
        match inode_at(&*self.dir, id.to_string().as_bytes()) {
            Ok(stat) => Ok(Some(stat.stx_size)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Room for objects in bytes, and the size of the blocks it comes in.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn free_space(&self) -> io::Result<FreeSpace> {
        let stat = rustix::fs::fstatvfs(&*self.dir)?;
        let block = stat.f_frsize.max(1);
        Ok(FreeSpace { bytes: stat.f_bavail.saturating_mul(block).saturating_sub(Self::RESERVE), block })
    }

    /// Begins to take objects in.
    pub fn intake(&self) -> Intake {
        Intake {
            cache: self.clone(),
            current: None,
            complete: Vec::new(),
            verified: Vec::new(),
            pending_bytes: 0,
        }
    }

    /// Removes every object.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn clear(&self) -> io::Result<()> {
        names_in(self.dir.as_fd())?.iter().try_for_each(|name| self.remove_name(name))
    }

    /// Removes every object but these.
    #[cfg(feature = "tokio")]
    pub(crate) fn retain(&self, wanted: &BTreeSet<ObjectId>) -> io::Result<()> {
        let wanted: BTreeSet<_> = wanted.iter().map(|id| id.to_string().into_bytes()).collect();
        let names = names_in(self.dir.as_fd())?;
        names.iter().filter(|name| !wanted.contains(*name)).try_for_each(|name| self.remove_name(name))
    }

    pub(crate) fn remove(&self, id: &ObjectId) -> io::Result<()> {
        self.remove_name(id.to_string().as_bytes())
    }

    pub(crate) fn open_object(&self, id: &ObjectId) -> io::Result<File> {
        open_file(At::new(self.dir.as_fd(), id.to_string().as_bytes()))
    }

    /// Moves an object to a name outside.
    pub(crate) fn take(&self, id: &ObjectId, to: At<'_>) -> io::Result<()> {
        let name = id.to_string().into_bytes();
        publish::place(&*self.seam, At::new(self.dir.as_fd(), &name), to)
    }

    /// Takes back what was moved out.
    pub(crate) fn give_back(&self, id: &ObjectId, from: At<'_>) -> io::Result<()> {
        let name = id.to_string().into_bytes();
        publish::place(&*self.seam, from, At::new(self.dir.as_fd(), &name))
    }

    fn remove_name(&self, name: &[u8]) -> io::Result<()> {
        match self.seam.remove(At::new(self.dir.as_fd(), name), Remove::File) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// Room on a file-system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeSpace {
    /// In bytes, without what is left to others.
    pub bytes: u64,
    /// The size of a block: even the smallest file takes one.
    pub block: u64,
}

impl FreeSpace {
    /// What files of these lengths would take, in bytes: each is rounded up to blocks, and has an inode of its own.
    pub fn needed(&self, sizes: impl IntoIterator<Item = u64>) -> u64 {
        let rounded = |size: u64| size.div_ceil(self.block).saturating_add(1).saturating_mul(self.block);
        sizes.into_iter().map(rounded).fold(0, u64::saturating_add)
    }
}

/// Objects on their way into the cache. Hashed while they are written; those that are complete become durable in
/// batches, and the rest when [`Intake::finish`] is called. Dropping it removes what is not.
pub struct Intake {
    cache: ObjectCache,
    current: Option<Incoming>,
    /// Written and verified, under their temporary names.
    complete: Vec<Verified>,
    verified: Vec<Verified>,
    pending_bytes: u64,
}

struct Incoming {
    id: ObjectId,
    size: u64,
    file: Sparse<File>,
    hasher: ObjectHasher,
    length: u64,
}

impl Intake {
    /// How many objects, or how many bytes, are written before they are made durable together.
    const BATCH: usize = 4096;
    const BATCH_BYTES: u64 = 256 * 1024 * 1024;

    /// Begins the next object; the one before must be complete.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the one before is not what it was said to be, [`StoreError::Failed`] when the disk
    /// can't take it.
    pub fn begin(&mut self, id: ObjectId, size: u64) -> Result<(), StoreError> {
        self.complete_current()?;
        let temporary = temporary(&id);
        self.cache.remove_name(&temporary).map_err(|error| failed(&id, error))?;
        let at = At::new(self.cache.dir.as_fd(), &temporary);
        let file = self.cache.seam.create(at, ObjectCache::MODE).and_then(Sparse::new);
        let file = file.map_err(|error| failed(&id, error))?;
        self.current = Some(Incoming { id, size, file, hasher: ObjectHasher::new(), length: 0 });
        Ok(())
    }

    /// Takes the next bytes of the object that began last.
    ///
    /// # Errors
    /// [`StoreError::Protocol`] when none has begun or they are more than was said, before any of them is written;
    /// [`StoreError::Failed`] when the disk can't take them.
    pub fn data(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let Some(current) = &mut self.current else {
            return Err(StoreError::Protocol("data before an object began".to_owned()));
        };
        let length = current.length.saturating_add(bytes.len() as u64);
        if length > current.size {
            let what = format!("more than the {} bytes announced for object {}", current.size, current.id);
            return Err(StoreError::Protocol(what));
        }
        current.file.write(&*self.cache.seam, bytes).map_err(|error| failed(&current.id, error))?;
        current.hasher.update(bytes);
        current.length = length;
        Ok(())
    }

    /// Makes everything durable that is complete, also when the last object is not what it was said to be.
    ///
    /// # Errors
    /// As [`Intake::begin`].
    pub fn finish(mut self) -> Result<Vec<Verified>, StoreError> {
        let last = self.complete_current();
        self.publish()?;
        last?;
        Ok(std::mem::take(&mut self.verified))
    }

    /// Gives up the object that began last; what was complete before becomes durable.
    ///
    /// # Errors
    /// As [`Intake::begin`].
    pub fn abandon(mut self) -> Result<Vec<Verified>, StoreError> {
        self.drop_current();
        self.publish()?;
        Ok(std::mem::take(&mut self.verified))
    }

    fn complete_current(&mut self) -> Result<(), StoreError> {
        let Some(current) = self.current.take() else { return Ok(()) };
        match Verified::check(current.id, current.size, current.hasher.finish(), current.length) {
            Ok(verified) => {
                if let Err(error) = current.file.finish(&*self.cache.seam) {
                    drop(self.cache.remove_name(&temporary(&current.id)));
                    return Err(failed(&current.id, error));
                }
                self.pending_bytes = self.pending_bytes.saturating_add(current.size);
                self.complete.push(verified);
            }
            Err(corrupt) => {
                drop(self.cache.remove_name(&temporary(&current.id)));
                return Err(corrupt);
            }
        }
        if self.complete.len() >= Self::BATCH || self.pending_bytes >= Self::BATCH_BYTES {
            self.publish()?;
        }
        Ok(())
    }

    fn publish(&mut self) -> Result<(), StoreError> {
        let names: Vec<_> =
            self.complete.iter().map(|v| (temporary(&v.id()), v.id().to_string().into_bytes())).collect();
        let dir = self.cache.dir.as_fd();
        let moves: Vec<_> =
            names.iter().map(|(from, to)| Move { from: At::new(dir, from), to: At::new(dir, to) }).collect();
        let _durable = publish::batch(&*self.cache.seam, &moves, Replace::Existing).map_err(|error| {
            StoreError::Failed {
                what: "objects could not be made durable".to_owned(),
                cause: Cause::new(error),
            }
        })?;
        self.verified.append(&mut self.complete);
        self.pending_bytes = 0;
        Ok(())
    }

    fn drop_current(&mut self) {
        if let Some(current) = self.current.take() {
            // A leftover is removed when the cache is opened next.
            drop(self.cache.remove_name(&temporary(&current.id)));
        }
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.drop_current();
        for verified in &self.complete {
            drop(self.cache.remove_name(&temporary(&verified.id())));
        }
    }
}

fn temporary(id: &ObjectId) -> Vec<u8> {
    format!("{id}~").into_bytes()
}

fn failed(id: &ObjectId, error: io::Error) -> StoreError {
    StoreError::Failed { what: format!("object {id} could not be written"), cause: Cause::new(error) }
}

/// The id and length of what is in a file, passing its bytes on to `each`.
pub(crate) fn hash(
    mut file: &File,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<(ObjectId, u64)> {
    let (mut hasher, mut length) = (ObjectHasher::new(), 0u64);
    let mut buffer = vec![0; 128 * 1024];
    loop {
        let read = match file.read(&mut buffer) {
            Ok(0) => return Ok((hasher.finish(), length)),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let bytes = buffer.get(..read).unwrap_or_default();
        hasher.update(bytes);
        length = length.saturating_add(read as u64);
        each(bytes)?;
    }
}

impl std::fmt::Debug for ObjectCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObjectCache").field("dir", &self.dir.as_raw_fd()).finish_non_exhaustive()
    }
}
