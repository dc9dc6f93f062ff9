use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use super::Entry;
use crate::image::ImageName;
use crate::namespace::{DirectoryName, ImageDirectory};

/// One life of a log: drawn at random when it begins, so that numbers of another are not taken for its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(pub u64);

/// How far somebody is who follows: everything up to here is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// Of which log.
    pub epoch: Epoch,
    /// The number of the last change that is known; changes are numbered from 1 on without gaps.
    pub sequence: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}:{}", self.epoch.0, self.sequence)
    }
}

/// What is told to those who follow the images.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImageUpdate {
    /// All directories and images follow, up to [`ImageUpdate::Current`]. What was known before counts for nothing.
    Begin,
    /// There is this directory. Each comes after the one it is in.
    Directory(ImageDirectory),
    /// There is this image. All of them come after the directories.
    Image {
        /// Which.
        name: ImageName,
        /// What is known of it.
        entry: Arc<Entry>,
    },
    /// What was told by now is all there is at that position.
    Current(Position),
    /// Something changed.
    Change {
        /// What is known with it.
        position: Position,
        /// What.
        change: Change,
    },
}

/// What can change.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// There is a new image.
    Added {
        /// Which.
        name: ImageName,
        /// What is known of it.
        entry: Arc<Entry>,
    },
    /// What is known of an image is something else, such as when it ends.
    Altered {
        /// Which.
        name: ImageName,
        /// What is known of it now.
        entry: Arc<Entry>,
    },
    /// An image is gone.
    Removed {
        /// Which.
        name: ImageName,
        /// What was known of it.
        entry: Arc<Entry>,
        /// What became of it.
        why: Removal,
    },
    /// There is a new directory, or it belongs to others than before.
    Directory(ImageDirectory),
    /// A directory is gone; there was nothing in it.
    DirectoryRemoved(DirectoryName),
}

impl Change {
    /// The image that changed, and what is, or was, known of it; nothing, if a directory did.
    pub fn image(&self) -> Option<(&ImageName, &Arc<Entry>)> {
        match self {
            Self::Added { name, entry }
            | Self::Altered { name, entry }
            | Self::Removed { name, entry, .. } => Some((name, entry)),
            Self::Directory(_) | Self::DirectoryRemoved(_) => None,
        }
    }
}

/// How an image can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Removal {
    /// Somebody deleted it: its name is never free again.
    Deleted,
    /// Its time had come: its name is free.
    Expired,
}

/// The last changes, in order.
#[derive(Debug)]
pub(super) struct UpdateLog {
    epoch: Epoch,
    /// The number of the last change.
    last: u64,
    changes: VecDeque<Change>,
    room: usize,
}

impl UpdateLog {
    pub(super) fn new(epoch: Epoch, room: usize) -> Self {
        Self { epoch, last: 0, changes: VecDeque::new(), room }
    }

    pub(super) fn append(&mut self, change: Change) {
        self.last += 1;
        self.changes.push_back(change);
        if self.changes.len() > self.room {
            self.changes.pop_front();
        }
    }

    /// Where somebody is who knows everything.
    pub(super) fn end(&self) -> Position {
        Position { epoch: self.epoch, sequence: self.last }
    }

    /// Whether every change after that position is still here.
    pub(super) fn reaches_back_to(&self, position: Position) -> bool {
        let lacks = self.last.checked_sub(position.sequence);
        position.epoch == self.epoch && lacks.is_some_and(|lacks| lacks <= self.changes.len() as u64)
    }

    /// The first change after a position that it reaches back to.
    pub(super) fn after(&self, position: Position) -> Option<(Position, &Change)> {
        let lacks = usize::try_from(self.last.checked_sub(position.sequence)?).ok()?;
        let change = self.changes.get(self.changes.len().checked_sub(lacks)?)?;
        Some((Position { sequence: position.sequence + 1, ..position }, change))
    }
}
