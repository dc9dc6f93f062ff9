use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use dominator_core::object::{ObjectHasher, ObjectId};
use dominator_core::port::{Cause, StoreError, Verified};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::{Afterwards, Hold, ObjectStore, failed, shard_of, split};
use crate::publish::{self, Durable};
use crate::seam::{At, Remove};
use crate::sparse::Sparse;
use crate::store::home;

/// How much is read at a time, in bytes.
const BUFFER: usize = 128 * 1024;

/// An object on its way into the store. Dropped before [`ObjectWriter::finish`], it leaves nothing behind.
pub struct ObjectWriter {
    store: ObjectStore,
    id: ObjectId,
    size: u64,
    written: u64,
    hasher: ObjectHasher,
    hold: Hold,
    /// Nothing when the object is here already: the bytes are hashed all the same, so that they are not acknowledged
    /// for less than they are.
    temporary: Option<Temporary>,
}

impl ObjectWriter {
    pub(super) fn new(store: ObjectStore, id: ObjectId, size: u64) -> Result<Self, StoreError> {
        if size > ObjectStore::MAX_SIZE {
            let limit = ObjectStore::MAX_SIZE;
            return Err(StoreError::Protocol(format!("object {id} has {size} bytes, more than {limit}")));
        }
        let hold = store.hold([id], Afterwards::Fresh);
        let temporary = if store.size(&id)? == Some(size) {
            None
        } else {
            let free = store.free().map_err(|error| failed("free space can't be found out", error))?;
            if size > free {
                return Err(StoreError::NoSpace { need: size, free });
            }
            let made = Temporary::new(&store);
            Some(made.map_err(|error| no_space_or_failed(&store, size, begun(&id), error))?)
        };
        Ok(Self { store, id, size, written: 0, hasher: ObjectHasher::new(), hold, temporary })
    }

    /// Takes in the next bytes.
    ///
    /// # Errors
    /// [`StoreError::Protocol`] with the first byte beyond the size announced, [`StoreError::NoSpace`],
    /// [`StoreError::Failed`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let after = self.written.saturating_add(bytes.len() as u64);
        if after > self.size {
            return Err(StoreError::Protocol(format!(
                "object {} goes on after the {} bytes announced",
                self.id, self.size
            )));
        }
        self.hasher.update(bytes);
        if let Some(Temporary { file: Some(file), .. }) = &mut self.temporary {
            let written = file.write(&*self.store.0.seam, bytes);
            written.map_err(|error| no_space_or_failed(&self.store, self.size, begun(&self.id), error))?;
        }
        self.written = after;
        Ok(())
    }

    /// Takes in all of `contents`.
    ///
    /// # Errors
    /// As [`ObjectWriter::write`]; [`StoreError::Failed`] when `contents` can't be read.
    pub fn write_all(&mut self, contents: &mut dyn Read) -> Result<(), StoreError> {
        let mut buffer = vec![0; BUFFER];
        loop {
            match contents.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => self.write(buffer.get(..count).unwrap_or_default())?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(failed(format!("the contents of object {} can't be read", self.id), error));
                }
            }
        }
    }

    /// Checks what came and makes it durable under its name.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the bytes are not those of the object; nothing of them is kept.
    pub fn finish(self) -> Result<(Verified, Durable), StoreError> {
        let store = self.store.clone();
        let (staged, _hold) = self.stage()?;
        let verified = staged.verified;
        Ok((verified, publish(&store, vec![staged], BTreeSet::new())?))
    }

    fn stage(self) -> Result<(Staged, Hold), StoreError> {
        let verified = Verified::check(self.id, self.size, self.hasher.finish(), self.written)?;
        let mut temporary = self.temporary;
        // One open file for each of thousands is one too many.
        if let Some(file) = temporary.as_mut().and_then(|temporary| temporary.file.take()) {
            let finished = file.finish(&*self.store.0.seam);
            finished.map_err(|error| no_space_or_failed(&self.store, self.size, begun(&self.id), error))?;
        }
        Ok((Staged { verified, temporary }, self.hold))
    }
}

impl fmt::Debug for ObjectWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectWriter")
            .field("id", &self.id)
            .field("size", &self.size)
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}

/// Many objects on their way into the store, made durable together. What was not, when it is dropped, is not kept.
#[derive(Debug)]
pub struct AddBatch {
    store: ObjectStore,
    staged: Vec<Staged>,
    kept: Vec<Verified>,
    coming: HashSet<ObjectId>,
    /// All of them, those that are here included, until the end.
    hold: Hold,
    /// Shards of objects that were found here instead of being added.
    present: BTreeSet<u8>,
}

impl AddBatch {
    /// After how many objects those that wait are made durable, so that no more than these are lost with the process.
    const MAX_STAGED: usize = 16 * 1024;

    pub(super) fn new(store: ObjectStore) -> Self {
        let hold = store.hold([], Afterwards::Fresh);
        let (staged, kept) = (Vec::new(), Vec::new());
        Self { store, staged, kept, coming: HashSet::new(), hold, present: BTreeSet::new() }
    }

    /// Begins an object, to be handed to [`AddBatch::add`].
    ///
    /// # Errors
    /// As [`ObjectStore::begin`].
    pub fn begin(&self, id: ObjectId, size: u64) -> Result<ObjectWriter, StoreError> {
        self.store.begin(id, size)
    }

    /// Whether an object of that length is here, or is going to be with this batch. One that is here is acknowledged
    /// with the batch, as it was here when it was asked for.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when that can't be found out.
    pub fn has(&mut self, id: ObjectId, size: u64) -> Result<bool, StoreError> {
        if self.coming.contains(&id) {
            return Ok(true);
        }
        self.hold.add(id);
        let here = self.store.size(&id)? == Some(size);
        if here {
            self.present.insert(shard_of(&id));
        }
        Ok(here)
    }

    /// Takes in an object that is complete.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the bytes are not those of the object; nothing of them is kept, and the batch goes
    /// on without.
    pub fn add(&mut self, object: ObjectWriter) -> Result<(), StoreError> {
        let (staged, hold) = object.stage()?;
        self.hold.absorb(hold);
        self.coming.insert(staged.verified.id());
        self.staged.push(staged);
        if self.staged.len() >= Self::MAX_STAGED { self.flush().map(drop) } else { Ok(()) }
    }

    /// Takes in an object that is in memory, and names it.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], [`StoreError::Failed`].
    pub fn add_bytes(&mut self, bytes: &[u8]) -> Result<ObjectId, StoreError> {
        let id = ObjectId::of(bytes);
        let mut writer = self.begin(id, bytes.len() as u64)?;
        writer.write(bytes)?;
        self.add(writer)?;
        Ok(id)
    }

    /// Makes all of them durable under their names.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when that went wrong; any of them may be kept, then.
    pub fn finish(mut self) -> Result<(Vec<Verified>, Durable), StoreError> {
        let durable = self.flush()?;
        Ok((self.kept, durable))
    }

    fn flush(&mut self) -> Result<Durable, StoreError> {
        let staged = std::mem::take(&mut self.staged);
        let verified: Vec<_> = staged.iter().map(|staged| staged.verified).collect();
        let durable = publish(&self.store, staged, std::mem::take(&mut self.present))?;
        self.kept.extend(verified);
        Ok(durable)
    }
}

/// An object whose digest was right, under a temporary name unless it was in place before.
#[derive(Debug)]
struct Staged {
    verified: Verified,
    temporary: Option<Temporary>,
}

/// A file in `tmp/`, removed when dropped unless it was renamed.
struct Temporary {
    store: ObjectStore,
    name: Vec<u8>,
    file: Option<Sparse<File>>,
    renamed: bool,
}

impl Temporary {
    fn new(store: &ObjectStore) -> io::Result<Self> {
        let name = store.temporary_name();
        let file = store.0.seam.create(At::new(store.0.temporary.as_fd(), &name), home::FILE_MODE)?;
        // From here on it is removed when something goes wrong.
        let mut temporary = Self { store: store.clone(), name, file: None, renamed: false };
        temporary.file = Some(Sparse::new(file)?);
        Ok(temporary)
    }

    fn at(&self) -> At<'_> {
        At::new(self.store.0.temporary.as_fd(), &self.name)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            // What can't be removed is removed when the store is opened next.
            drop(self.store.0.seam.remove(self.at(), Remove::File));
        }
    }
}

impl fmt::Debug for Temporary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.name))
    }
}

/// Makes objects durable under their names, with those that were found in the shards `present`.
fn publish(store: &ObjectStore, staged: Vec<Staged>, present: BTreeSet<u8>) -> Result<Durable, StoreError> {
    let count = staged.len();
    try_publish(store, staged, &present).map_err(|error| {
        no_space_or_failed(store, 0, format!("{count} objects could not be made durable"), error)
    })
}

fn try_publish(store: &ObjectStore, mut staged: Vec<Staged>, present: &BTreeSet<u8>) -> io::Result<Durable> {
    let seam = &*store.0.seam;
    // DURABILITY: the contents before the names, or a crash leaves names with nothing behind them.
    settle(store, &staged)?;
    let _naming = store.naming();
    let wanted = staged.iter().map(|object| shard_of(&object.verified.id()));
    let wanted: BTreeSet<u8> = wanted.chain(present.iter().copied()).collect();
    let open = |shard: u8| Ok((shard, store.shard(shard)?));
    let shards: BTreeMap<u8, OwnedFd> = wanted.into_iter().map(open).collect::<io::Result<_>>()?;
    for object in &mut staged {
        let id = object.verified.id();
        let Some(temporary) = &mut object.temporary else {
            still_here(store, object.verified)?;
            continue;
        };
        let shard = shards.get(&shard_of(&id)).expect("invariant: the shards of all staged objects are open");
        let (_, rest) = split(&id);
        temporary.renamed =
            place(store, object.verified, temporary.at(), At::new(shard.as_fd(), rest.as_bytes()))?;
    }
    // DURABILITY: the shards of objects that were here before are waited for, too: whoever put them there may not have
    // got to it yet.
    let durable = publish::directories(seam, shards.values().map(AsFd::as_fd))?;
    let now = store.now();
    staged.iter().for_each(|object| store.0.index.add(object.verified.id(), object.verified.size(), now));
    Ok(durable)
}

/// What was here when it was begun may have been found corrupt since, and moved aside: nothing is acknowledged then.
fn still_here(store: &ObjectStore, verified: Verified) -> io::Result<()> {
    if store.handle(&verified.id(), OFlags::PATH).is_ok_and(|(_, stat)| stat.stx_size == verified.size()) {
        return Ok(());
    }
    let text = format!("object {} was here, but was found corrupt meanwhile; add it again", verified.id());
    Err(io::Error::other(text))
}

/// Gives a settled file its name, unless the object came in by another way meanwhile.
fn place(store: &ObjectStore, verified: Verified, from: At<'_>, to: At<'_>) -> io::Result<bool> {
    match publish::place(&*store.0.seam, from, to) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if store
                .handle(&verified.id(), OFlags::PATH)
                .is_ok_and(|(_, stat)| stat.stx_size == verified.size())
            {
                return Ok(false);
            }
            store.move_aside(&verified.id(), None)?;
            publish::place(&*store.0.seam, from, to)?;
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

fn settle(store: &ObjectStore, staged: &[Staged]) -> io::Result<()> {
    let seam = &*store.0.seam;
    let fresh = || staged.iter().filter_map(|object| object.temporary.as_ref());
    if fresh().count() >= publish::MANY {
        return publish::settle_all(seam, store.0.temporary.as_fd()).map(drop);
    }
    for temporary in fresh() {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = home::beneath(&store.0.temporary, &temporary.name, flags)?;
        publish::settle(seam, &file.into())?;
    }
    Ok(())
}

fn no_space_or_failed(store: &ObjectStore, need: u64, what: String, error: io::Error) -> StoreError {
    let full = [Errno::NOSPC, Errno::DQUOT].map(|full| Some(full.raw_os_error()));
    if full.contains(&error.raw_os_error()) {
        return StoreError::NoSpace { need, free: store.free().unwrap_or(0) };
    }
    StoreError::Failed { what, cause: Cause::new(error) }
}

fn begun(id: &ObjectId) -> String {
    format!("object {id} can't be written")
}
