//! Which objects there are, how long they are and since when nobody is known to need them: in memory, and in the file
//! `.index`, so that a start has not to look at each.
//!
//! The files are the truth. The index is written after them, and what it says of a shard is believed only when the shard's
//! directory has not changed since; otherwise the shard is looked at.

mod file;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dominator_core::object::ObjectId;
use rayon::prelude::*;

use super::shard_name;
use crate::publish::{self, Replace};
use crate::root;
use crate::seam::Seam;
use crate::store::home::{self, Home};
use file::Saved;

/// What is known of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Entry {
    /// Its length in bytes.
    pub(in crate::store) size: u64,
    /// When it was added, or was seen to be needed last, in seconds since 1970.
    pub(in crate::store) since: u64,
}

/// How many objects there are and how long they are together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// How many.
    pub objects: u64,
    /// In bytes.
    pub bytes: u64,
}

/// The change time of a shard's directory; nothing where it can't be gone by.
pub(super) type Stamp = Option<(i64, u32)>;

/// How many shards there are.
pub(super) const SHARDS: usize = 256;

#[derive(Debug, Default)]
pub(in crate::store) struct Index {
    entries: Mutex<Entries>,
    /// One writes at a time, as they write under one name.
    saving: Mutex<()>,
}

#[derive(Debug, Default)]
struct Entries {
    objects: HashMap<ObjectId, Entry>,
    bytes: u64,
    /// Whether the file says less than this.
    changed: bool,
}

impl Index {
    const NAME: &'static [u8] = b".index";
    /// How old a change of a directory must be for the next one to get another time.
    const TICK: Duration = Duration::from_secs(1);

    /// What the file says where the shards have not changed since, and what is there where they have. Says how many shards
    /// were looked at.
    pub(super) fn open(home: &Home) -> io::Result<(Self, usize)> {
        let saved = Saved::read(home, Self::NAME);
        let shards = (0..=u8::MAX).into_par_iter();
        let shards = shards.map(|shard| Shard::open(home, shard, &saved)).collect::<io::Result<Vec<_>>>()?;
        let walked = shards.iter().filter(|shard| shard.walked).count();
        let mut entries = Entries { changed: walked > 0, ..Entries::default() };
        entries.objects.reserve(shards.iter().map(|shard| shard.objects.len()).sum());
        for (id, entry) in shards.into_iter().flat_map(|shard| shard.objects) {
            entries.insert(id, entry);
        }
        Ok((Self { entries: Mutex::new(entries), saving: Mutex::default() }, walked))
    }

    /// Writes the file, unless it says all this already. With `last`, nothing is going to change any more. `still` keeps
    /// names from changing while it lives.
    pub(super) fn save<L>(
        &self,
        seam: &dyn Seam,
        home: &Home,
        last: bool,
        still: impl FnOnce() -> L,
    ) -> io::Result<()> {
        let _one = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let saved = {
            let _still = still();
            let stamps = stamps(home, last)?;
            let mut entries = self.entries();
            if !std::mem::take(&mut entries.changed) {
                return Ok(());
            }
            Saved { stamps, objects: entries.objects.iter().map(|(id, entry)| (*id, *entry)).collect() }
        };
        let written = publish::bytes(
            seam,
            home.as_fd(),
            Self::NAME,
            &saved.encode(),
            home::FILE_MODE,
            Replace::Existing,
        );
        if written.is_err() {
            self.entries().changed = true;
        }
        written.map(drop)
    }

    /// An object is here.
    pub(super) fn add(&self, id: ObjectId, size: u64, since: u64) {
        self.entries().insert(id, Entry { size, since });
    }

    /// What a look at the file of an object found.
    pub(super) fn found(&self, id: &ObjectId, size: Option<u64>, now: u64) {
        let mut entries = self.entries();
        let known = entries.objects.get(id).map(|entry| entry.size);
        match size {
            Some(size) if known != Some(size) => entries.insert(*id, Entry { size, since: now }),
            None if known.is_some() => entries.remove(id),
            Some(_) | None => {}
        }
    }

    pub(super) fn remove(&self, id: &ObjectId) {
        self.entries().remove(id);
    }

    /// Somebody has needed these until now.
    pub(super) fn touch<'a>(&self, ids: impl IntoIterator<Item = &'a ObjectId>, now: u64) {
        let mut entries = self.entries();
        for id in ids {
            if let Some(entry) = entries.objects.get_mut(id) {
                entry.since = now;
            }
        }
        entries.changed = true;
    }

    pub(super) fn totals(&self) -> Totals {
        let entries = self.entries();
        Totals { objects: entries.objects.len() as u64, bytes: entries.bytes }
    }

    /// All objects that `wanted` says yes to.
    pub(super) fn select(&self, wanted: impl Fn(&ObjectId, &Entry) -> bool) -> Vec<(ObjectId, Entry)> {
        let entries = self.entries();
        let all = entries.objects.iter().filter(|(id, entry)| wanted(id, entry));
        all.map(|(id, entry)| (*id, *entry)).collect()
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // Whole after every statement; what it lacks is found by the next look at the files.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn insert(&mut self, id: ObjectId, entry: Entry) {
        self.changed = true;
        self.bytes = self.bytes.saturating_add(entry.size);
        if let Some(old) = self.objects.insert(id, entry) {
            self.bytes = self.bytes.saturating_sub(old.size);
        }
    }

    fn remove(&mut self, id: &ObjectId) {
        if let Some(old) = self.objects.remove(id) {
            self.changed = true;
            self.bytes = self.bytes.saturating_sub(old.size);
        }
    }
}

/// What there is in a shard.
struct Shard {
    walked: bool,
    objects: Vec<(ObjectId, Entry)>,
}

impl Shard {
    fn open(home: &Home, shard: u8, saved: &Saved) -> io::Result<Self> {
        let dir = home::directory(home, shard_name(shard).as_bytes())?;
        let known = saved.shard(shard);
        // Before the names are read: what changes after that has another time.
        let stamp = stamp(&dir)?;
        if stamp.is_some() && saved.stamps.get(usize::from(shard)).copied().flatten() == stamp {
            return Ok(Self { walked: false, objects: known.to_vec() });
        }
        let since: HashMap<_, _> = known.iter().map(|(id, entry)| (*id, entry.since)).collect();
        let mut objects = Vec::new();
        for name in home::names(&dir)? {
            let Some(id) = parse(shard, &name) else { continue };
            let stat = root::inode_at(&dir, &name)?;
            if rustix::fs::FileType::from_raw_mode(stat.stx_mode.into()).is_file() {
                // The time of its contents is that of its coming; nobody changes them.
                let added = u64::try_from(stat.stx_mtime.tv_sec).unwrap_or(0);
                let since = since.get(&id).copied().unwrap_or(added);
                objects.push((id, Entry { size: stat.stx_size, since }));
            }
        }
        Ok(Self { walked: true, objects })
    }
}

/// The id whose file that is.
fn parse(shard: u8, name: &[u8]) -> Option<ObjectId> {
    let rest = std::str::from_utf8(name).ok()?;
    let text = format!("{}{rest}", shard_name(shard));
    // Capital digits would name the same object twice.
    text.parse::<ObjectId>().ok().filter(|id| id.to_string() == text)
}

fn stamp(dir: &OwnedFd) -> io::Result<Stamp> {
    let stat = root::inode_of(dir)?;
    Ok(Some((stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec)))
}

/// The change times of all shards. A time that was just now is no evidence, as another change may get the same one, unless
/// no other comes.
fn stamps(home: &Home, last: bool) -> io::Result<Vec<Stamp>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let old = i64::try_from(now.saturating_sub(Index::TICK).as_secs()).unwrap_or(0);
    let stamp_of = |shard| {
        let stamp = stamp(&home::directory(home, shard_name(shard).as_bytes())?)?;
        Ok(stamp.filter(|(seconds, _)| last || *seconds < old))
    };
    (0..=u8::MAX).map(stamp_of).collect()
}
