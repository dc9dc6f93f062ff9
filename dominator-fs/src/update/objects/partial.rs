use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use dominator_core::object::{ObjectHasher, ObjectId};
use rustix::fs::{Mode, OFlags};

use super::{ObjectCache, hash, object_of, temporary};
use crate::root::{inode_at, inode_of, names_in};

/// The beginnings of objects whose streams broke off. Nothing in them is believed before the whole was hashed.
impl ObjectCache {
    /// From which length on a beginning is worth keeping, in bytes.
    pub const PARTIAL: u64 = 1024 * 1024;
    /// How many beginnings are kept.
    pub const PARTIALS: usize = 4;
    /// How long all of them together may be, in bytes; the one that was written to last may be longer.
    pub const PARTIAL_BYTES: u64 = 4 * 1024 * 1024 * 1024;

    /// How much of an object is here, if it is worth going on with.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn partial(&self, id: &ObjectId) -> io::Result<Option<u64>> {
        match inode_at(&*self.dir, &temporary(id)) {
            Ok(stat) => Ok(Some(stat.stx_size).filter(|len| *len >= Self::PARTIAL)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes what is half-written, but for some beginnings of long objects: those written to last. Returns how long they
    /// are, in bytes.
    ///
    /// Nothing may be taken in meanwhile: what is whole but not durable yet has such a name, too.
    pub(crate) fn trim_partials(&self) -> io::Result<BTreeMap<ObjectId, u64>> {
        let mut partials = Vec::new();
        for name in names_in(self.dir.as_fd())?.into_iter().filter(|name| name.ends_with(b"~")) {
            let stat = inode_at(&*self.dir, &name)?;
            match object_of(&name).filter(|_| stat.stx_size >= Self::PARTIAL) {
                Some(id) => {
                    let written = (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec);
                    partials.push((std::cmp::Reverse(written), stat.stx_size, id));
                }
                None => self.remove_name(&name)?,
            }
        }
        partials.sort();
        let (mut left, mut kept) = (Self::PARTIAL_BYTES, BTreeMap::new());
        for (_, size, id) in partials {
            // An object that takes longer than a stream lasts would else begin anew for ever. There was room for all of it.
            let fits = kept.is_empty() || (size <= left && kept.len() < Self::PARTIALS);
            if fits {
                left = left.saturating_sub(size);
                kept.insert(id, size);
            } else {
                self.remove_name(&temporary(&id))?;
            }
        }
        Ok(kept)
    }

    /// Opens the beginning of an object of `size` bytes to go on after it, and hashes it: this process need not be the one
    /// that wrote it. One that is longer than the object can be nothing of it, and is removed.
    pub(super) fn open_partial(
        &self,
        id: &ObjectId,
        size: u64,
    ) -> io::Result<Option<(File, ObjectHasher, u64)>> {
        if self.partial(id)?.is_none() {
            return Ok(None);
        }
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file: File = rustix::fs::openat(&*self.dir, temporary(id), flags, Mode::empty())?.into();
        if inode_of(&file)?.stx_size >= size {
            self.remove_name(&temporary(id))?;
            return Ok(None);
        }
        let mut hasher = ObjectHasher::new();
        let (_, length) = hash(&file, |bytes| {
            hasher.update(bytes);
            Ok(())
        })?;
        Ok(Some((file, hasher, length)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::seam::Kernel;

    #[test]
    fn the_beginning_that_was_written_to_last_stays_however_long_it_is() {
        let place = tempfile::tempdir().unwrap();
        let dir: std::os::fd::OwnedFd = File::open(place.path()).unwrap().into();
        let begun = |name: &str, size: u64, age: u64| {
            let id = ObjectId::of(name.as_bytes());
            let file = File::create(place.path().join(format!("{id}~"))).unwrap();
            file.set_len(size).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
            id
        };
        let old = begun("old", ObjectCache::PARTIAL, 2);
        let long = begun("long", ObjectCache::PARTIAL_BYTES + 1, 1);
        let cache = ObjectCache::open(Arc::new(dir), Arc::new(Kernel)).unwrap();
        assert_eq!(cache.partial(&long).unwrap(), Some(ObjectCache::PARTIAL_BYTES + 1));
        assert_eq!(cache.partial(&old).unwrap(), None, "there is no room for another");
        let new = begun("new", ObjectCache::PARTIAL, 0);
        let kept = cache.trim_partials().unwrap();
        assert_eq!(kept.into_keys().collect::<Vec<_>>(), [new], "a later one counts more");
    }
}
