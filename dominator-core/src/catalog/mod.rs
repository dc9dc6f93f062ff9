//! Which images there are: an index of what is asked about them, without their trees, and a log of how it changes, for
//! those who follow it. [`Selection`] and [`Latest`] choose among images, [`ExpiryChange`] judges who may put off their
//! end. Who keeps images keeps a [`Catalog`] of them and tells it of every change once that is durable.
//!
//! A follower gets [`ImageUpdate`]s: everything there is, then every change in the order in which it was made. After a
//! break it goes on from its last [`Position`], or begins anew when the log does not reach back that far. Nothing is kept
//! for a follower but how far it is, however slow it is.

mod expiry;
mod follow;
mod log;
mod select;

pub use expiry::{ExpiryChange, ExpiryLimits, ExpiryRefusal};
pub use follow::Followed;
pub use log::{Change, Epoch, ImageUpdate, Position, Removal};
pub use select::{Latest, Selection, TagMatches, Within};

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use crate::image::{Build, Image, ImageName};
use crate::namespace::{DirectoryName, GroupName, ImageDirectory};
use log::UpdateLog;

/// What is known of an image without looking at it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// When it was added, in seconds since 1970.
    pub created_on: u64,
    /// When it ceases to be, in seconds since 1970; never, if not given.
    pub expires_at: Option<u64>,
    /// Words to select it by.
    pub tags: BTreeMap<String, String>,
    /// What it was built from.
    pub build: Build,
    /// Its manifest can't be read: the name is taken, and nothing else is known.
    pub damaged: bool,
}

impl Entry {
    /// What is to be known of `image`.
    pub fn of(image: &Image) -> Self {
        Self {
            created_on: image.created_on,
            expires_at: image.expires_at,
            tags: image.tags.clone(),
            build: image.provenance.build.clone(),
            damaged: false,
        }
    }

    /// Of an image whose manifest can't be read.
    pub fn damaged() -> Self {
        Self { damaged: true, ..Self::default() }
    }
}

/// Images by name.
pub type Entries = BTreeMap<ImageName, Arc<Entry>>;

/// The images there are, and how that changes. Clones share it.
#[derive(Clone)]
pub struct Catalog(Arc<Mutex<State>>);

struct State {
    /// Shared with those who are being told of all of it, who must not see it change meanwhile.
    images: Arc<Entries>,
    directories: BTreeMap<DirectoryName, Option<GroupName>>,
    /// Those that end, the first first.
    ending: BTreeSet<(u64, ImageName)>,
    log: UpdateLog,
    waiting: BTreeMap<u64, Waker>,
    /// The number of the next who waits.
    next: u64,
}

impl Catalog {
    /// How many changes the log holds unless said otherwise: a follower that was away for as many begins anew.
    pub const LOG: usize = 16 * 1024;

    /// A catalog of nothing but the root. `epoch` must be another than that of any log before; the log holds `room` changes.
    pub fn new(epoch: Epoch, room: usize) -> Self {
        let state = State {
            ending: BTreeSet::new(),
            images: Arc::default(),
            directories: [(DirectoryName::ROOT, None)].into(),
            log: UpdateLog::new(epoch, room),
            waiting: BTreeMap::new(),
            next: 0,
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Takes in what there was before anybody followed: nobody is told.
    pub fn fill(
        &self,
        directories: impl IntoIterator<Item = ImageDirectory>,
        images: impl IntoIterator<Item = (ImageName, Entry)>,
    ) {
        let mut state = self.state();
        state.directories.extend(directories.into_iter().map(|it| (it.name, it.owner_group)));
        for (name, entry) in images {
            state.ending.extend(entry.expires_at.map(|end| (end, name.clone())));
            Arc::make_mut(&mut state.images).insert(name, Arc::new(entry));
        }
    }

    /// Notes that an image was added, or is another than it was. Call it in the order in which that became durable.
    pub fn put(&self, name: &ImageName, entry: Entry) {
        let mut state = self.state();
        let entry = Arc::new(entry);
        let before = Arc::make_mut(&mut state.images).insert(name.clone(), Arc::clone(&entry));
        if let Some(end) = before.as_ref().and_then(|before| before.expires_at) {
            state.ending.remove(&(end, name.clone()));
        }
        state.ending.extend(entry.expires_at.map(|end| (end, name.clone())));
        let change = match before {
            None => Change::Added { name: name.clone(), entry },
            Some(_) => Change::Altered { name: name.clone(), entry },
        };
        state.note(change);
    }

    /// Notes that an image is gone. Call it in the order in which that became durable.
    pub fn remove(&self, name: &ImageName, why: Removal) {
        let mut state = self.state();
        let Some(entry) = Arc::make_mut(&mut state.images).remove(name) else { return };
        if let Some(end) = entry.expires_at {
            state.ending.remove(&(end, name.clone()));
        }
        state.note(Change::Removed { name: name.clone(), entry, why });
    }

    /// Notes that a directory was made or belongs to others. Call it in the order in which that became durable.
    pub fn put_directory(&self, directory: ImageDirectory) {
        let mut state = self.state();
        let ImageDirectory { name, owner_group } = directory.clone();
        let before = state.directories.insert(name, owner_group);
        if before.as_ref() != Some(&directory.owner_group) {
            state.note(Change::Directory(directory));
        }
    }

    /// Notes that a directory is gone. Call it in the order in which that became durable.
    pub fn remove_directory(&self, name: &DirectoryName) {
        let mut state = self.state();
        if state.directories.remove(name).is_some() {
            state.note(Change::DirectoryRemoved(name.clone()));
        }
    }

    /// All directories as they are now, each after the one it is in.
    pub fn directories(&self) -> Vec<ImageDirectory> {
        self.state().directories().collect()
    }

    /// What is known of an image; nothing, when there is none.
    pub fn get(&self, name: &ImageName) -> Option<Arc<Entry>> {
        self.state().images.get(name).cloned()
    }

    /// All images as they are now.
    pub fn images(&self) -> Arc<Entries> {
        Arc::clone(&self.state().images)
    }

    /// The images whose time has come at `now`, in seconds since 1970, the first to end first.
    pub fn ended(&self, now: u64) -> Vec<ImageName> {
        let state = self.state();
        state.ending.iter().take_while(|(end, _)| *end <= now).map(|(_, name)| name.clone()).collect()
    }

    /// When the next image ends, in seconds since 1970.
    pub fn next_end(&self) -> Option<u64> {
        self.state().ending.first().map(|(end, _)| *end)
    }

    /// What there is of a selection, then every change of it; only the changes after `from`, when the log still has them
    /// all.
    pub fn follow(&self, selection: Selection, from: Option<Position>) -> Followed {
        Followed::new(self.clone(), selection, from)
    }

    /// Waits until there is an image of that name. Safe to cancel.
    pub async fn appears(&self, name: &ImageName) {
        follow::Appears::new(self, name).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics between two changes of a state that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn note(&mut self, change: Change) {
        self.log.append(change);
        // Whoever still waits after having looked says so again.
        std::mem::take(&mut self.waiting).into_values().for_each(Waker::wake);
    }

    fn directories(&self) -> impl Iterator<Item = ImageDirectory> {
        let directories = self.directories.iter();
        directories.map(|(name, group)| ImageDirectory { name: name.clone(), owner_group: group.clone() })
    }

    fn wait(&mut self, number: &mut Option<u64>, waker: &Waker) {
        let number = *number.get_or_insert_with(|| {
            self.next += 1;
            self.next
        });
        self.waiting.insert(number, waker.clone());
    }
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalog").finish_non_exhaustive()
    }
}
