mod intake;
mod partial;
mod read_back;
mod room;

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dominator_core::inode::Mode;
use dominator_core::object::{ObjectHasher, ObjectId};

pub use intake::{Intake, Resumed, Taken};
pub use room::FreeSpace;

pub(crate) use read_back::{Expected, ReadBack, read_back};

use crate::publish;
use crate::root::{inode_at, names_in, open_file};
use crate::scan::Identity;
use crate::seam::{At, Remove, Seam};

/// Objects kept beside a root until an update needs them: hashed on the way in, made durable, and read back from the disk
/// and hashed again before they count as being here.
#[derive(Clone)]
pub struct ObjectCache {
    dir: Arc<OwnedFd>,
    seam: Arc<dyn Seam>,
    /// What this process read back, as it was then.
    read: Arc<Mutex<HashMap<ObjectId, Identity>>>,
}

/// Whether the disk has kept an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// This process read it back, and nobody can have changed it since: the directory is ours alone, and it is the same inode
    /// with the same times.
    Surely,
    /// Nobody has looked, or it was another's meanwhile.
    Perhaps,
}

impl ObjectCache {
    /// Room that is left to others, in bytes.
    pub const RESERVE: u64 = 16 * 1024 * 1024;
    /// How many inodes are left to others.
    pub const RESERVED_INODES: u64 = 64;
    pub(super) const MODE: Mode = Mode::from_st_mode(0o600);

    /// The cache in `dir`. What a dead attempt left half-written is removed, but for the beginnings of long objects.
    pub(crate) fn open(dir: Arc<OwnedFd>, seam: Arc<dyn Seam>) -> io::Result<Self> {
        let cache = Self { dir, seam, read: Arc::default() };
        cache.trim_partials()?;
        Ok(cache)
    }

    /// The length of an object in bytes, if it is here.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn size(&self, id: &ObjectId) -> io::Result<Option<u64>> {
        Ok(self.look(id)?.map(|(size, _)| size))
    }

    /// What room there is for objects.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn free_space(&self) -> io::Result<FreeSpace> {
        FreeSpace::of(self.dir.as_fd())
    }

    /// Begins to take objects in.
    pub fn intake(&self) -> Intake {
        Intake::new(self.clone())
    }

    /// Removes every object.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn clear(&self) -> io::Result<()> {
        self.read().clear();
        names_in(self.dir.as_fd())?.iter().try_for_each(|name| self.remove_name(name))
    }

    /// Removes every object but these, and the beginning of every other one.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn retain(&self, wanted: &BTreeSet<ObjectId>) -> io::Result<()> {
        self.read().retain(|id, _| wanted.contains(id));
        let names = names_in(self.dir.as_fd())?;
        let kept = |name: &[u8]| object_of(name).is_some_and(|id| wanted.contains(&id));
        names.iter().filter(|name| !kept(name)).try_for_each(|name| self.remove_name(name))
    }

    pub(crate) fn remove(&self, id: &ObjectId) -> io::Result<()> {
        self.read().remove(id);
        self.remove_name(id.to_string().as_bytes())
    }

    pub(crate) fn open_object(&self, id: &ObjectId) -> io::Result<File> {
        open_file(At::new(self.dir.as_fd(), id.to_string().as_bytes()))
    }

    /// The length of an object in bytes, if it is here, and whether it must be read back from the disk.
    pub(crate) fn look(&self, id: &ObjectId) -> io::Result<Option<(u64, Kept)>> {
        let stat = match inode_at(&*self.dir, id.to_string().as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let same = self.read().get(id).is_some_and(|read| Identity::of(&stat).is_same(read));
        Ok(Some((stat.stx_size, if same { Kept::Surely } else { Kept::Perhaps })))
    }

    /// Moves an object to a name outside.
    pub(crate) fn take(&self, id: &ObjectId, to: At<'_>) -> io::Result<()> {
        let name = id.to_string().into_bytes();
        publish::place(&*self.seam, At::new(self.dir.as_fd(), &name), to)?;
        self.read().remove(id);
        Ok(())
    }

    /// Takes back what was moved out. It counts as not read back.
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

    /// Whole after every statement.
    fn read(&self) -> MutexGuard<'_, HashMap<ObjectId, Identity>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name an object has until it is whole and durable.
fn temporary(id: &ObjectId) -> Vec<u8> {
    format!("{id}~").into_bytes()
}

/// The object that a name is of, whole or not.
fn object_of(name: &[u8]) -> Option<ObjectId> {
    let name = std::str::from_utf8(name).ok()?;
    name.strip_suffix('~').unwrap_or(name).parse().ok()
}

/// The id and length of what is in a file, passing its bytes on to `each`.
pub(crate) fn hash(
    mut file: impl Read,
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
