use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use dominator_core::object::{ObjectHasher, ObjectId};
use dominator_core::port::{StoreError, Verified};

use super::{ObjectStore, failed};
use crate::root::Statx;

/// Reads an object and hashes it on the way. The read that would hand out its last byte fails instead when the digest
/// is wrong, with [`StoreError::Corrupt`] within the error, and the object is moved aside.
pub struct ObjectReader {
    store: ObjectStore,
    id: ObjectId,
    size: u64,
    /// The file, as it was when it was opened.
    stat: Statx,
    read: u64,
    hasher: ObjectHasher,
    state: State,
    file: File,
}

/// Whether the digest was looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    Verified,
    Corrupt,
}

impl ObjectReader {
    pub(super) fn new(store: ObjectStore, id: ObjectId, stat: Statx, file: OwnedFd) -> Self {
        let (hasher, size) = (ObjectHasher::new(), stat.stx_size);
        Self { store, id, size, stat, read: 0, hasher, state: State::Reading, file: file.into() }
    }

    /// The file alone, for who hashes what it reads itself; nothing, when nobody has hashed it here for long.
    #[cfg(feature = "tokio")]
    pub(in crate::store) fn proven(&self) -> Option<&File> {
        self.store.0.proven.has(&self.id, &self.stat).then_some(&self.file)
    }

    /// Which object.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads all of it, at most `limit` bytes.
    pub(super) fn read_whole(mut self, limit: usize) -> Result<Vec<u8>, StoreError> {
        let len = usize::try_from(self.size).ok().filter(|len| *len <= limit).ok_or_else(|| {
            StoreError::Protocol(format!(
                "object {} has {} bytes, more than the {limit} allowed here",
                self.id, self.size
            ))
        })?;
        let mut bytes = Vec::with_capacity(len);
        let id = self.id;
        self.read_to_end(&mut bytes).map_err(|error| failed(format!("object {id} can't be read"), error))?;
        Ok(bytes)
    }

    fn verify(&mut self) -> io::Result<()> {
        let hashed = std::mem::take(&mut self.hasher).finish();
        if let Err(error) = Verified::check(self.id, self.size, hashed, self.read) {
            self.state = State::Corrupt;
            let handle: io::Result<OwnedFd> = self.file.try_clone().map(Into::into);
            if let Ok(handle) = handle {
                self.store.quarantine(&self.id, &handle);
            }
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        self.store.0.proven.add(self.id, &self.stat);
        self.state = State::Verified;
        Ok(())
    }
}

impl Read for ObjectReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.state {
            State::Verified => return Ok(0),
            State::Corrupt => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the object is corrupt"));
            }
            State::Reading => {}
        }
        // Where the file ends is settled: what is longer or shorter by now is not what was opened.
        let left = usize::try_from(self.size - self.read).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len());
        let buffer = buffer.get_mut(..wanted).unwrap_or_default();
        if wanted == 0 && left > 0 {
            return Ok(0);
        }
        let count = self.file.read(buffer)?;
        self.hasher.update(buffer.get(..count).unwrap_or_default());
        self.read += count as u64;
        if self.read == self.size || count == 0 {
            self.verify()?;
        }
        Ok(count)
    }
}

impl fmt::Debug for ObjectReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectReader").field("id", &self.id).field("size", &self.size).finish_non_exhaustive()
    }
}

/// An object in memory, verified, and shared with the page cache rather than copied.
pub struct MappedObject {
    map: memmap2::Mmap,
    verified: Verified,
}

impl MappedObject {
    #[expect(unsafe_code, reason = "a mapping is only as sound as the file behind it")]
    pub(super) fn new(
        store: &ObjectStore,
        id: ObjectId,
        stat: &Statx,
        file: &OwnedFd,
    ) -> Result<Self, StoreError> {
        // SAFETY: nobody may change or truncate the file while it is mapped. Objects are written under another name and
        // never opened for writing once they have theirs; the store's directory is closed to other users and locked
        // against other processes of ours. A disk that fails to deliver a page ends the process with SIGBUS, which is
        // why only objects that were asked for, and none of a live root, are ever mapped.
        let map = unsafe { memmap2::Mmap::map(file) }
            .map_err(|error| failed(format!("object {id} can't be mapped"), error))?;
        let verified = Verified::check(id, stat.stx_size, ObjectId::of(&map), map.len() as u64)
            .inspect_err(|_| store.quarantine(&id, file))?;
        store.0.proven.add(id, stat);
        Ok(Self { map, verified })
    }

    /// Which object, and how long.
    pub fn verified(&self) -> Verified {
        self.verified
    }
}

impl AsRef<[u8]> for MappedObject {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl fmt::Debug for MappedObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MappedObject").field(&self.verified).finish()
    }
}
