use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use dominator_core::object::{ObjectHasher, ObjectId};
use dominator_core::port::{Cause, StoreError, Verified};
use rustix::io::Errno;

use super::{Expected, ObjectCache, ReadBack, read_back, temporary};
use crate::publish::{self, Move, Replace};
use crate::seam::At;
use crate::sparse::Sparse;

/// Objects on their way into the cache. Hashed while they are written; those that are complete become durable in batches,
/// and are read back from the disk, on threads of their own while the next ones come; the rest when [`Intake::finish`] is
/// called. Dropping it removes what is not durable.
pub struct Intake {
    cache: ObjectCache,
    current: Option<Incoming>,
    /// Written and verified, under their temporary names.
    complete: Vec<Verified>,
    pending_bytes: u64,
    taken: Taken,
    settlers: Option<Settlers>,
}

/// What was taken in.
#[derive(Debug, Default)]
pub struct Taken {
    /// Durable, and read back from the disk as it came.
    pub verified: Vec<Verified>,
    /// What the disk gave back as something else, which was removed: it must be got again.
    pub lost: Vec<StoreError>,
}

impl Taken {
    fn add(&mut self, other: Self) {
        self.verified.extend(other.verified);
        self.lost.extend(other.lost);
    }
}

/// The object that comes.
struct Incoming {
    id: ObjectId,
    size: u64,
    file: Sparse<File>,
    hasher: ObjectHasher,
    length: u64,
    resumed: Resumed,
}

/// Whether an object began with what was there from before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumed {
    /// It comes whole.
    No,
    /// It does not: when it turns out wrong, that may be the other's fault.
    Yes,
}

impl Intake {
    /// How many objects, or how many bytes, are written before they are made durable together.
    const BATCH: usize = 2048;
    const BATCH_BYTES: u64 = 64 * 1024 * 1024;

    pub(super) fn new(cache: ObjectCache) -> Self {
        let (complete, taken) = (Vec::new(), Taken::default());
        Self { cache, current: None, complete, pending_bytes: 0, taken, settlers: None }
    }

    /// Begins the next object; the one before must be complete.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the one before is not what it was said to be, [`StoreError::NoSpace`] and
    /// [`StoreError::Failed`] when the disk can't take it.
    pub fn begin(&mut self, id: ObjectId, size: u64) -> Result<(), StoreError> {
        self.end()?;
        let temporary = temporary(&id);
        let at = At::new(self.cache.dir.as_fd(), &temporary);
        let create = || self.cache.seam.create(at, ObjectCache::MODE);
        let file = match create() {
            // The beginning of it that is not wanted, or debris.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.cache.remove_name(&temporary).and_then(|()| create())
            }
            other => other,
        };
        let file = file.and_then(Sparse::new).map_err(|error| self.failed(&id, size, error))?;
        let (hasher, resumed) = (ObjectHasher::new(), Resumed::No);
        self.current = Some(Incoming { id, size, file, hasher, length: 0, resumed });
        Ok(())
    }

    /// Begins the next object with what is here of it, and says how many bytes that are; nothing, when there is nothing to
    /// go on with, and it was not begun.
    ///
    /// # Errors
    /// As [`Intake::begin`].
    pub fn resume(&mut self, id: ObjectId, size: u64) -> Result<Option<u64>, StoreError> {
        self.end()?;
        let opened = self.cache.open_partial(&id, size).and_then(|opened| {
            opened
                .map(|(file, hasher, length)| Ok((Sparse::after(file, length)?, hasher, length)))
                .transpose()
        });
        let opened = opened.map_err(|error| self.failed(&id, size, error))?;
        let Some((file, hasher, length)) = opened else { return Ok(None) };
        self.current = Some(Incoming { id, size, file, hasher, length, resumed: Resumed::Yes });
        Ok(Some(length))
    }

    /// Takes the next bytes of the object that began last.
    ///
    /// # Errors
    /// [`StoreError::Protocol`] when none has begun or they are more than was said, before any of them is written;
    /// [`StoreError::NoSpace`] and [`StoreError::Failed`] when the disk can't take them.
    pub fn data(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let Some(current) = &mut self.current else {
            return Err(StoreError::Protocol("data before an object began".to_owned()));
        };
        let length = current.length.saturating_add(bytes.len() as u64);
        if length > current.size {
            let what = format!("more than the {} bytes announced for object {}", current.size, current.id);
            return Err(StoreError::Protocol(what));
        }
        if let Err(error) = current.file.write(&*self.cache.seam, bytes) {
            let (id, size) = (current.id, current.size);
            return Err(self.failed(&id, size, error));
        }
        current.hasher.update(bytes);
        current.length = length;
        Ok(())
    }

    /// The object that came last, if it has not all come yet, and how many bytes are to come.
    pub fn incomplete(&self) -> Option<(ObjectId, u64)> {
        let current = self.current.as_ref()?;
        let left = current.size.checked_sub(current.length)?;
        (left > 0).then_some((current.id, left))
    }

    /// Whether the object that came last began with what was there from before.
    pub fn resumed(&self) -> Resumed {
        self.current.as_ref().map_or(Resumed::No, |current| current.resumed)
    }

    /// Ends the object that began last: all of it has come.
    ///
    /// # Errors
    /// As [`Intake::begin`]. What is not what it was said to be is removed.
    pub fn end(&mut self) -> Result<Option<ObjectId>, StoreError> {
        let Some(current) = self.current.take() else { return Ok(None) };
        let Incoming { id, size, file, hasher, length, .. } = current;
        let verified = match Verified::check(id, size, hasher.finish(), length) {
            Ok(verified) => verified,
            Err(corrupt) => {
                drop(self.cache.remove_name(&temporary(&id)));
                return Err(corrupt);
            }
        };
        if let Err(error) = file.finish(&*self.cache.seam) {
            drop(self.cache.remove_name(&temporary(&id)));
            return Err(self.failed(&id, size, error));
        }
        self.pending_bytes = self.pending_bytes.saturating_add(size);
        self.complete.push(verified);
        if self.complete.len() >= Self::BATCH || self.pending_bytes >= Self::BATCH_BYTES {
            self.hand_over()?;
        }
        Ok(Some(id))
    }

    /// Gives up the object that began last, for now: what has come of it stays if it is worth going on with.
    pub fn break_off(&mut self) {
        let Some(current) = self.current.take() else { return };
        let worth = current.length >= ObjectCache::PARTIAL && current.length < current.size;
        let kept = worth && current.file.finish(&*self.cache.seam).is_ok();
        if !kept {
            // A leftover is removed when the cache is opened next.
            drop(self.cache.remove_name(&temporary(&current.id)));
        }
    }

    /// Makes everything durable that is complete, also when the last object is not what it was said to be.
    ///
    /// # Errors
    /// As [`Intake::begin`]; [`StoreError::Corrupt`] when the disk did not keep what was written.
    pub fn finish(mut self) -> Result<Vec<Verified>, StoreError> {
        let last = self.end();
        let taken = self.settle()?;
        last?;
        taken.lost.into_iter().next().map_or(Ok(taken.verified), Err)
    }

    /// Gives up the object that began last; what was complete before becomes durable.
    ///
    /// # Errors
    /// As [`Intake::begin`], when the disk fails.
    pub fn abandon(mut self) -> Result<Vec<Verified>, StoreError> {
        self.drop_current();
        Ok(self.settle()?.verified)
    }

    /// Makes everything durable that is complete, and reads it back. More can be taken in afterwards.
    ///
    /// # Errors
    /// As [`Intake::begin`], when the disk fails.
    pub fn settle(&mut self) -> Result<Taken, StoreError> {
        if let Some(settlers) = self.settlers.take() {
            self.taken.add(settlers.join()?);
        }
        let batch = std::mem::take(&mut self.complete);
        self.pending_bytes = 0;
        self.taken.add(settle(&self.cache, batch)?);
        Ok(std::mem::take(&mut self.taken))
    }

    /// Has what is complete made durable while the next objects come.
    fn hand_over(&mut self) -> Result<(), StoreError> {
        let settlers = match self.settlers.take() {
            Some(settlers) => settlers,
            None => Settlers::start(&self.cache)
                .map_err(|error| settling("no thread can be started that waits for the disk", error))?,
        };
        let batch = std::mem::take(&mut self.complete);
        self.pending_bytes = 0;
        match settlers.batches.send(batch) {
            Ok(()) => {
                self.settlers = Some(settlers);
                Ok(())
            }
            // They have failed, and say why.
            Err(_) => settlers.join().map(|taken| self.taken.add(taken)),
        }
    }

    fn drop_current(&mut self) {
        if let Some(current) = self.current.take() {
            // A leftover is removed when the cache is opened next.
            drop(self.cache.remove_name(&temporary(&current.id)));
        }
    }

    fn failed(&self, id: &ObjectId, size: u64, error: io::Error) -> StoreError {
        if matches!(Errno::from_io_error(&error), Some(Errno::NOSPC | Errno::DQUOT)) {
            let free = self.cache.free_space().map_or(0, |free| free.bytes);
            // Where there is room, inodes or a quota are at their end: who reads of bytes would look in the wrong place.
            if free < size {
                return StoreError::NoSpace { need: size, free };
            }
        }
        StoreError::Failed { what: format!("object {id} could not be written"), cause: Cause::new(error) }
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.drop_current();
        for verified in &self.complete {
            drop(self.cache.remove_name(&temporary(&verified.id())));
        }
        if let Some(settlers) = self.settlers.take() {
            // What they have in hand becomes durable; nobody waits to hear of it.
            drop(settlers.join());
        }
    }
}

/// The threads that wait for the disk: it writes one batch while another is read back.
struct Settlers {
    /// Holds none: who has the next batch waits until somebody is free, so that the disk is behind by a few at most.
    batches: SyncSender<Vec<Verified>>,
    threads: Vec<JoinHandle<Result<Taken, StoreError>>>,
}

/// Gone, when one of those who share it has failed: nothing more need come.
type Coming = Arc<Mutex<Option<Receiver<Vec<Verified>>>>>;

impl Settlers {
    const THREADS: usize = 2;

    fn start(cache: &ObjectCache) -> io::Result<Self> {
        let (batches, coming) = sync_channel(0);
        let coming = Arc::new(Mutex::new(Some(coming)));
        let start = |_| {
            let (cache, coming) = (cache.clone(), Arc::clone(&coming));
            std::thread::Builder::new().name("settle".into()).spawn(move || settle_all(&cache, &coming))
        };
        let threads = (0..Self::THREADS).map(start).collect::<io::Result<_>>()?;
        Ok(Self { batches, threads })
    }

    /// Waits until all is settled.
    fn join(self) -> Result<Taken, StoreError> {
        drop(self.batches);
        let join =
            |thread: JoinHandle<_>| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let ended: Vec<Result<Taken, StoreError>> = self.threads.into_iter().map(join).collect();
        let mut all = Taken::default();
        for taken in ended {
            all.add(taken?);
        }
        Ok(all)
    }
}

fn settle_all(cache: &ObjectCache, coming: &Coming) -> Result<Taken, StoreError> {
    let coming = || coming.lock().unwrap_or_else(PoisonError::into_inner);
    let mut taken = Taken::default();
    loop {
        let batch = coming().as_ref().and_then(|coming| coming.recv().ok());
        let Some(batch) = batch else { return Ok(taken) };
        match settle(cache, batch) {
            Ok(settled) => taken.add(settled),
            Err(error) => {
                *coming() = None;
                return Err(error);
            }
        }
    }
}

/// Makes a batch durable under its names, and reads it back. What is not as it was written is removed.
fn settle(cache: &ObjectCache, batch: Vec<Verified>) -> Result<Taken, StoreError> {
    let names: Vec<_> =
        batch.iter().map(|object| (temporary(&object.id()), object.id().to_string().into_bytes())).collect();
    let dir = cache.dir.as_fd();
    let moves: Vec<_> =
        names.iter().map(|(from, to)| Move { from: At::new(dir, from), to: At::new(dir, to) }).collect();
    let _durable = publish::batch(&*cache.seam, &moves, Replace::Existing)
        .map_err(|error| settling("objects could not be made durable", error))?;
    let expected = |(object, (_, name)): (&Verified, (_, Vec<u8>))| Expected {
        name,
        id: object.id(),
        size: object.size(),
    };
    let expected: Vec<_> = batch.iter().zip(names).map(expected).collect();
    let found = read_back(dir, &expected)
        .map_err(|error| settling("objects could not be read back from the disk", error))?;
    let mut taken = Taken::default();
    for (object, found) in batch.into_iter().zip(found) {
        match found {
            ReadBack::Same(identity) => {
                cache.read().insert(object.id(), identity);
                taken.verified.push(object);
            }
            ReadBack::Other { hashed, length } => {
                let id = object.id();
                tracing::error!(%id, "the disk did not keep an object as it was written; look at the kernel's log");
                cache
                    .remove(&id)
                    .map_err(|error| settling("an object the disk lost could not be removed", error))?;
                taken.lost.push(StoreError::Corrupt { id, hashed, length });
            }
        }
    }
    Ok(taken)
}

fn settling(what: &str, error: io::Error) -> StoreError {
    StoreError::Failed { what: what.to_owned(), cause: Cause::new(error) }
}
