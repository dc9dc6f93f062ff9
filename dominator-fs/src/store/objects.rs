//! Objects by their digest: `ab/<the other 62 digits>`, written once and never changed.

mod index;
mod leases;
mod proven;
mod read;
mod sweep;
mod write;

pub use index::Totals;
pub use leases::{Afterwards, Hold};
pub use read::{MappedObject, ObjectReader};
pub use write::{AddBatch, ObjectWriter};

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use dominator_core::garbage::Disk;
use dominator_core::object::ObjectId;
use dominator_core::port::{Cause, StoreError};
use rustix::fs::OFlags;

use self::index::Index;
use self::leases::Leases;
use self::proven::Proven;
use super::home::{self, Home};
use crate::publish;
use crate::root::{self, Statx};
use crate::seam::{At, Kernel, Seam};

pub(super) use self::index::Entry;
pub(super) use self::sweep::Sweep;

/// A directory of objects. Clones share it; all of its methods may be called from many threads at once.
///
/// What is added is hashed on the way in and is there only when its digest was right and a power cut could no longer
/// take it away. What is read is hashed on the way out: an object that went bad on the disk is never handed out whole,
/// but moved to `quarantine/`, so that it can be added again. Only to those who hash what they get anyway is it sent unhashed,
/// for an hour after it was hashed here, as long as it is the same file.
#[derive(Clone)]
pub struct ObjectStore(Arc<Inner>);

struct Inner {
    path: PathBuf,
    seam: Arc<dyn Seam>,
    home: Home,
    temporary: OwnedFd,
    quarantine: OwnedFd,
    serial: AtomicU64,
    proven: Proven,
    index: Index,
    leases: Leases,
    clock: Clock,
    /// Held while names appear in or vanish from the shards, so that nothing good is ever taken for the bad object
    /// that was there before.
    naming: Mutex<()>,
}

/// What tells the time of day.
type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

impl ObjectStore {
    /// The longest object accepted, in bytes.
    pub const MAX_SIZE: u64 = 1 << 40;

    /// Opens the store at `path`, made when it is missing but its parent is there. What a dead process left unfinished
    /// is removed.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when it can't be opened, or when another process has it open.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_on(path, Arc::new(Kernel))
    }

    /// Opens a store whose changes go through `seam`.
    ///
    /// # Errors
    /// As [`ObjectStore::open`].
    pub fn open_on(path: &Path, seam: Arc<dyn Seam>) -> Result<Self, StoreError> {
        Self::open_with(path, seam, SystemTime::now)
    }

    /// Opens a store that dates objects by `clock`.
    ///
    /// # Errors
    /// As [`ObjectStore::open`].
    pub fn open_with(
        path: &Path,
        seam: Arc<dyn Seam>,
        clock: impl Fn() -> SystemTime + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        Self::try_open(path, seam, Arc::new(clock))
            .map_err(|error| failed(format!("the object store at {} can't be opened", path.display()), error))
    }

    fn try_open(path: &Path, seam: Arc<dyn Seam>, clock: Clock) -> io::Result<Self> {
        let home = Home::open(&*seam, path)?;
        let temporary = home::directory_or_new(&*seam, &home, b"tmp")?;
        let quarantine = home::directory_or_new(&*seam, &home, b"quarantine")?;
        let mut fresh = 0;
        for shard in 0..=u8::MAX {
            fresh += usize::from(home::make_missing(&*seam, &home, shard_name(shard).as_bytes())?);
        }
        if fresh > 0 {
            drop(publish::directories(&*seam, [home.as_fd()])?);
        }
        let debris = home::clear(&*seam, &temporary)?;
        if debris > 0 {
            tracing::info!(store = %path.display(), debris, "removed unfinished objects of a dead process");
        }
        let (index, walked) = Index::open(&home)?;
        let objects = index.totals().objects;
        tracing::debug!(store = %path.display(), objects, walked, "opened; so many shards had changed");
        let inner = Inner {
            path: path.to_owned(),
            seam,
            home,
            temporary,
            quarantine,
            serial: AtomicU64::new(0),
            proven: Proven::default(),
            index,
            leases: Leases::default(),
            clock,
            naming: Mutex::new(()),
        };
        Ok(Self(Arc::new(inner)))
    }

    /// The length of an object in bytes, nothing when it is not here. The contents are not looked at.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when that can't be found out.
    pub fn size(&self, id: &ObjectId) -> Result<Option<u64>, StoreError> {
        let size = match self.handle(id, OFlags::PATH) {
            Ok((_, stat)) => Some(stat.stx_size),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(format!("object {id} can't be looked up"), error)),
        };
        self.0.index.found(id, size, self.now());
        Ok(size)
    }

    /// Keeps objects from being collected as garbage as long as what is returned lives.
    pub fn hold(&self, ids: impl IntoIterator<Item = ObjectId>, afterwards: Afterwards) -> Hold {
        Hold::new(self.clone(), ids, afterwards)
    }

    /// How many objects there are, and how long they are together.
    pub fn totals(&self) -> Totals {
        self.0.index.totals()
    }

    /// The room of the file-system the objects are on.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when that can't be found out.
    pub fn disk(&self) -> Result<Disk, StoreError> {
        self.0.disk().map_err(|error| failed("free space can't be found out", error))
    }

    /// Writes down which objects there are, unless that was done since they changed last. It is done at the end anyway; who
    /// does it in between too spares a start after a crash to look at all shards.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when that can't be. Nothing is lost by it.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        let saved = self.0.index.save(&*self.0.seam, &self.0.home, false, || self.naming());
        saved.map_err(|error| failed("the index of objects can't be written", error))
    }

    /// Makes objects as young as if they were added now.
    pub(super) fn touch<'a>(&self, ids: impl IntoIterator<Item = &'a ObjectId>) {
        self.0.index.touch(ids, self.now());
    }

    /// All objects that `wanted` says yes to, in no order.
    pub(super) fn select(&self, wanted: impl Fn(&ObjectId, &Entry) -> bool) -> Vec<(ObjectId, Entry)> {
        self.0.index.select(wanted)
    }

    /// The time of day, in seconds since 1970.
    pub(super) fn now(&self) -> u64 {
        (self.0.clock)().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    /// Opens an object for reading. It is verified while it is read.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is not here, [`StoreError::Failed`] when it can't be opened.
    pub fn open_object(&self, id: &ObjectId) -> Result<ObjectReader, StoreError> {
        let (file, stat) = self.readable(id)?;
        Ok(ObjectReader::new(self.clone(), *id, stat, file))
    }

    /// Reads a whole object of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`ObjectStore::open_object`]; [`StoreError::Corrupt`] when it went bad on the disk; [`StoreError::Protocol`]
    /// when it is longer than `limit`.
    pub fn read(&self, id: &ObjectId, limit: usize) -> Result<Vec<u8>, StoreError> {
        self.open_object(id)?.read_whole(limit)
    }

    /// Maps an object into memory, verified as a whole before anything of it can be seen. For objects too long to
    /// copy and short enough to be read twice.
    ///
    /// # Errors
    /// As [`ObjectStore::open_object`]; [`StoreError::Corrupt`] when it went bad on the disk.
    pub fn map(&self, id: &ObjectId) -> Result<MappedObject, StoreError> {
        let (file, stat) = self.readable(id)?;
        MappedObject::new(self, *id, &stat, &file)
    }

    /// Opens an object from `offset` on, and says how long all of it is. Nobody verifies it: for who hashes the whole, of
    /// which the beginning is elsewhere.
    ///
    /// # Errors
    /// As [`ObjectStore::open_object`].
    #[cfg(feature = "tokio")]
    pub(super) fn open_rest(&self, id: &ObjectId, offset: u64) -> Result<(File, u64), StoreError> {
        let (file, stat) = self.readable(id)?;
        let mut file = File::from(file);
        io::Seek::seek(&mut file, io::SeekFrom::Start(offset))
            .map_err(|error| failed(format!("object {id} can't be read from {offset} on"), error))?;
        Ok((file, stat.stx_size))
    }

    /// Begins to add an object of `size` bytes that is said to be `id`.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] when it would not fit, [`StoreError::Protocol`] when it is longer than
    /// [`ObjectStore::MAX_SIZE`], [`StoreError::Failed`] when it can't be begun.
    pub fn begin(&self, id: ObjectId, size: u64) -> Result<ObjectWriter, StoreError> {
        ObjectWriter::new(self.clone(), id, size)
    }

    /// Begins to add many objects, which are made durable together.
    pub fn batch(&self) -> AddBatch {
        AddBatch::new(self.clone())
    }

    /// A file without a name in the store's directory of temporary files, for what must be spooled before its digest
    /// is known.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when there can be none.
    pub fn spool(&self) -> Result<File, StoreError> {
        let name = self.temporary_name();
        let at = At::new(self.0.temporary.as_fd(), &name);
        let open = || {
            let file = self.0.seam.create(at, home::FILE_MODE)?;
            self.0.seam.remove(at, crate::seam::Remove::File)?;
            Ok(file)
        };
        open().map_err(|error| failed("no file to spool to could be made", error))
    }

    fn readable(&self, id: &ObjectId) -> Result<(OwnedFd, Statx), StoreError> {
        self.handle(id, OFlags::RDONLY | OFlags::NONBLOCK).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                StoreError::NotFound { id: *id }
            } else {
                failed(format!("object {id} can't be opened"), error)
            }
        })
    }

    fn handle(&self, id: &ObjectId, flags: OFlags) -> io::Result<(OwnedFd, Statx)> {
        let (shard, rest) = split(id);
        let path = format!("{shard}/{rest}");
        let file = home::beneath(&self.0.home, path.as_bytes(), flags | OFlags::NOFOLLOW | OFlags::CLOEXEC)?;
        let stat = root::inode_of(&file)?;
        if !rustix::fs::FileType::from_raw_mode(stat.stx_mode.into()).is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no regular file"));
        }
        Ok((file, stat))
    }

    fn shard(&self, shard: u8) -> io::Result<OwnedFd> {
        home::directory(&self.0.home, shard_name(shard).as_bytes())
    }

    fn temporary_name(&self) -> Vec<u8> {
        self.0.serial.fetch_add(1, Ordering::Relaxed).to_string().into_bytes()
    }

    fn naming(&self) -> MutexGuard<'_, ()> {
        // It guards names on a disk, which a panic elsewhere leaves as they are.
        self.0.naming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the object `id` aside if it still is the file `bad`.
    fn quarantine(&self, id: &ObjectId, bad: &OwnedFd) {
        let _naming = self.naming();
        match self.move_aside(id, Some(bad)) {
            Ok(()) => {
                tracing::error!(store = %self.0.path.display(), object = %id, "a corrupt object was moved to quarantine/");
            }
            Err(error) => {
                tracing::error!(store = %self.0.path.display(), object = %id, %error, "a corrupt object can't be moved");
            }
        }
    }

    /// The caller holds `naming`. With `only`, nothing is done when the name stands for another file by now.
    fn move_aside(&self, id: &ObjectId, only: Option<&OwnedFd>) -> io::Result<()> {
        let (shard, (_, rest)) = (self.shard(shard_of(id))?, split(id));
        let from = At::new(shard.as_fd(), rest.as_bytes());
        if let Some(only) = only {
            let identity = |stat: root::Statx| (root::dev_of(&stat), stat.stx_ino);
            if identity(root::inode_at(&shard, rest.as_bytes())?) != identity(root::inode_of(only)?) {
                return Ok(());
            }
        }
        let mut number = 0;
        loop {
            let name = format!("{id}.{number}");
            let to = At::new(self.0.quarantine.as_fd(), name.as_bytes());
            match publish::place(&*self.0.seam, from, to) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                outcome => break outcome?,
            }
        }
        self.0.index.remove(id);
        drop(publish::directories(&*self.0.seam, [shard.as_fd(), self.0.quarantine.as_fd()])?);
        Ok(())
    }

    /// Room for whoever is not root, in bytes.
    fn free(&self) -> io::Result<u64> {
        Ok(self.0.disk()?.free)
    }
}

impl Inner {
    /// Without what is reserved for root.
    fn disk(&self) -> io::Result<Disk> {
        let stat = rustix::fs::fstatvfs(&self.home)?;
        let reserved = stat.f_bfree.saturating_sub(stat.f_bavail);
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Disk { size: bytes(stat.f_blocks.saturating_sub(reserved)), free: bytes(stat.f_bavail) })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Nobody else has the store any more: what is written here is how the next one finds it.
        if let Err(error) = self.index.save(&*self.seam, &self.home, true, || ()) {
            tracing::warn!(store = %self.path.display(), %error, "the index of objects can't be written");
        }
    }
}

impl fmt::Debug for ObjectStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ObjectStore").field(&self.0.path).finish()
    }
}

/// The error for something of this store that failed; one that travelled as an input/output error comes out again.
pub(crate) fn failed(what: impl Into<String>, error: io::Error) -> StoreError {
    match error.downcast::<StoreError>() {
        Ok(inner) => inner,
        Err(error) => StoreError::Failed { what: what.into(), cause: Cause::new(error) },
    }
}

fn shard_name(shard: u8) -> String {
    format!("{shard:02x}")
}

fn shard_of(id: &ObjectId) -> u8 {
    let [shard, ..] = *id.as_bytes();
    shard
}

/// The shard an object is in and its name there.
fn split(id: &ObjectId) -> (String, String) {
    let shard = shard_of(id);
    let mut rest = id.to_string();
    (shard_name(shard), rest.split_off(2))
}
