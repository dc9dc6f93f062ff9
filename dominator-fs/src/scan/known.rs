//! What is known of a directory: its entries, and what tells whether they are still the same.

use std::sync::Arc;

use dominator_core::inode::{Inode, Kind, Timestamp};
use dominator_core::tree::{Directory, Entry};
use rustix::fs::FileType;

use super::identity::{Freshness, Identity, Links};
use super::pending::Place;
use super::{Counts, Fact};

/// A directory as it was when it was last looked at, with all that is below it.
#[derive(Debug)]
pub(crate) struct Known {
    /// What it was when its names were read.
    pub(super) identity: Identity,
    /// Its own inode under the view, which names its entries.
    pub(super) inode: Inode,
    pub(super) directory: Arc<Directory>,
    /// Of each entry that is no directory, in order.
    pub(super) identities: Box<[Identity]>,
    /// Each entry that is a directory, in order.
    pub(super) below: Box<[Arc<Known>]>,
    /// What could not be found out of names in it.
    pub(super) facts: Box<[Fact]>,
    /// When what is fresh in it was looked at.
    pub(super) looked: Timestamp,
    pub(super) extent: Extent,
    /// Whether it holds something that is not in the tree: a socket, what is not in view, what no tree can hold.
    pub(super) holding: Holding,
    pub(super) summary: Summary,
}

/// Whether all of a directory was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    Whole,
    /// The scan ended before: what is known is true, but there is more.
    Partial,
}

/// Whether a directory holds something that is not in the tree, or unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Holding {
    #[default]
    Nothing,
    Something,
}

/// What is in a directory and below it, all together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) counts: Counts,
    pub(super) holding: Holding,
    pub(super) facts: u64,
    /// Names of files that have several.
    pub(super) links: u64,
}

/// An entry of a known directory, with what is beside it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Child<'a> {
    File(&'a Identity),
    Directory(&'a Arc<Known>),
}

impl Known {
    /// The entries in order, each with what is beside it.
    pub(super) fn children(&self) -> impl Iterator<Item = (Entry<'_>, Child<'_>)> {
        let (mut identities, mut below) = (self.identities.iter(), self.below.iter());
        self.directory.iter().filter_map(move |entry| {
            let child = match entry.directory() {
                Some(_) => Child::Directory(below.next()?),
                None => Child::File(identities.next()?),
            };
            Some((entry, child))
        })
    }

    /// The entries in order, each with its place and what is beside it.
    pub(super) fn places(&self) -> impl Iterator<Item = (Place, Entry<'_>, Child<'_>)> {
        let (mut entry, mut files, mut directories) = (0, 0, 0);
        self.children().map(move |(found, child)| {
            let rank = match child {
                Child::File(_) => &mut files,
                Child::Directory(_) => &mut directories,
            };
            let place = Place { entry, rank: *rank };
            (entry, *rank) = (entry + 1, *rank + 1);
            (place, found, child)
        })
    }

    /// The directory of that name in it.
    pub(super) fn child(&self, name: &[u8]) -> Option<&Arc<Known>> {
        let found = self.children().find(|(entry, _)| entry.name() == name);
        found.and_then(|(_, child)| match child {
            Child::Directory(known) => Some(known),
            Child::File(_) => None,
        })
    }

    /// Whether its names are those it has, if it still is what it was.
    pub(super) fn is_settled(&self) -> bool {
        let Known { extent, facts, identity, .. } = self;
        *extent == Extent::Whole && facts.is_empty() && identity.freshness == Freshness::Settled
    }

    /// The same directory with other entries, `identities` and `below` being beside them.
    pub(super) fn with_entries(
        &self,
        directory: Directory,
        identities: Box<[Identity]>,
        below: Box<[Arc<Known>]>,
        facts: Box<[Fact]>,
    ) -> Self {
        let mut inode = self.inode.clone();
        inode.kind = Kind::Directory { id: directory.id() };
        let known = Self {
            identity: self.identity,
            inode,
            directory: Arc::new(directory),
            identities,
            below,
            facts,
            looked: self.looked,
            extent: self.extent,
            holding: self.holding,
            summary: Summary::default(),
        };
        known.summarise()
    }

    /// Adds up what is in it. To be called when everything else is in place.
    pub(super) fn summarise(mut self) -> Self {
        let mut sum = Summary { facts: self.facts.len() as u64, ..Summary::default() };
        sum.counts.directories = 1;
        for (entry, child) in self.children() {
            match child {
                Child::Directory(known) => sum.add(&known.summary),
                Child::File(identity) => {
                    sum.links += u64::from(identity.links == Links::Several);
                    *sum.counts.of(identity, entry) += 1;
                }
            }
        }
        if self.holding == Holding::Something || sum.counts.unknown > 0 {
            sum.holding = Holding::Something;
        }
        self.summary = sum;
        self
    }
}

impl Counts {
    fn of(&mut self, identity: &Identity, entry: Entry<'_>) -> &mut u64 {
        if entry.is_unknown() {
            return &mut self.unknown;
        }
        match identity.file_type() {
            FileType::RegularFile => &mut self.files,
            FileType::Symlink => &mut self.symlinks,
            FileType::Fifo
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Directory
            | FileType::Socket
            | FileType::Unknown => &mut self.special,
        }
    }
}

impl Summary {
    fn add(&mut self, other: &Self) {
        self.counts.directories += other.counts.directories;
        self.counts.files += other.counts.files;
        self.counts.symlinks += other.counts.symlinks;
        self.counts.special += other.counts.special;
        self.counts.unknown += other.counts.unknown;
        self.facts += other.facts;
        self.links += other.links;
        if other.holding == Holding::Something {
            self.holding = Holding::Something;
        }
    }
}

/// Trees may be thousands of directories deep, more than the stack takes one inside the other.
impl Drop for Known {
    fn drop(&mut self) {
        let mut all = std::mem::take(&mut self.below).into_vec();
        while let Some(known) = all.pop() {
            if let Some(mut known) = Arc::into_inner(known) {
                all.extend(std::mem::take(&mut known.below));
            }
        }
    }
}
