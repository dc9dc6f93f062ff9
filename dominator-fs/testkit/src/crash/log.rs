use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use dominator_fs::seam::Rename;

use super::world::{Attributes, Node, NodeId, World};

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) dir: NodeId,
    pub(super) name: Vec<u8>,
}

/// One change that was made, or one wait for the disk.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Make {
        node: NodeId,
        fresh: Node,
        at: Place,
    },
    Link {
        node: NodeId,
        at: Place,
    },
    Rename {
        from: Place,
        to: Place,
        how: Rename,
    },
    Remove {
        at: Place,
    },
    /// Metadata, as [`Entry::after`] has them.
    Attributes,
    Length {
        node: NodeId,
        len: usize,
    },
    Write {
        node: NodeId,
        offset: usize,
        bytes: Arc<[u8]>,
    },
    Sync {
        node: NodeId,
    },
    SyncAll,
    /// Something was promised.
    Mark(&'static str),
}

/// An [`Op`] and what else is known of it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) op: Op,
    /// The inodes that are different on the disk after it.
    pub(super) touched: Vec<NodeId>,
    /// What the metadata of an inode are after it.
    pub(super) after: Option<(NodeId, Attributes)>,
}

/// Everything that was done, one thing after another, and what was there before.
#[derive(Clone, Debug)]
pub struct Recording {
    pub(super) base: World,
    pub(super) log: Vec<Entry>,
}

/// What a crash may leave.
#[derive(Clone, Debug)]
pub struct Crash {
    /// What is there after it.
    pub world: World,
    /// After how many changes and waits it came.
    pub at: usize,
    /// What was promised last before it.
    pub promised: Option<&'static str>,
    /// What came, and what it took.
    pub how: How,
}

/// What a crash takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The process died: nothing.
    Killed,
    /// The power was cut, on a file-system that keeps changes of metadata in order (ext4, xfs): the first of them are
    /// there, at least up to the last that somebody waited for.
    Ordered {
        /// How many of the changes that were made are there.
        kept: usize,
        /// What became of contents nobody waited for.
        data: Data,
    },
    /// The power was cut, on a file-system where waiting for one thing persists that alone, and what it can't do
    /// without: nobody else's changes, and of a file not even its name.
    Lazy {
        /// How many changes from the beginning are there anyway.
        kept: usize,
    },
}

/// What becomes of contents nobody waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// Not written: what was there before, nothing in a new file.
    Lost,
    /// Written.
    Kept,
    /// Some sectors of it written, chosen by this number.
    Torn(u64),
}

/// What is written at once, or not.
const SECTOR: usize = 512;
/// How many different choices of sectors are tried.
const TEARS: u64 = 2;

impl Recording {
    /// How many changes and waits were recorded.
    pub fn len(&self) -> usize {
        self.log.len()
    }

    /// Whether nothing was done.
    pub fn is_empty(&self) -> bool {
        self.log.is_empty()
    }

    /// What was there before.
    pub fn before(&self) -> &World {
        &self.base
    }

    /// Every state that a crash may leave, each once for each promise that had been made by then.
    pub fn crashes(&self) -> Vec<Crash> {
        self.some_crashes(1)
    }

    /// As [`Self::crashes`], but only of every so many moments, and the moments after somebody waited; and there only
    /// every so many cuts.
    pub fn some_crashes(&self, every: usize) -> Vec<Crash> {
        let mut found = Found::default();
        for at in 0..=self.log.len() {
            let waited = matches!(self.last(at), Some(Op::Sync { .. } | Op::SyncAll | Op::Mark(_)));
            if !at.is_multiple_of(every) && !waited {
                continue;
            }
            let moment = self.moment(at);
            let mut add = |world: World, how| {
                found.add(Crash { world: world.reachable(), at, promised: moment.promised, how });
            };
            add(self.ordered(&moment, at, Data::Kept), How::Killed);
            for kept in (self.first_cut(&moment)..at).step_by(every).chain([at]) {
                for data in [Data::Lost, Data::Kept].into_iter().chain((1..=TEARS).map(Data::Torn)) {
                    add(self.ordered(&moment, kept, data), How::Ordered { kept, data });
                }
            }
            if waited || at == self.log.len() {
                for kept in steps(moment.settled..at) {
                    add(self.lazy(&moment, kept), How::Lazy { kept });
                }
            }
        }
        found.crashes
    }

    /// The last thing that was done before a crash, for people.
    pub fn told(&self, at: usize) -> String {
        self.last(at).map_or_else(|| "nothing".to_owned(), ToString::to_string)
    }

    fn last(&self, at: usize) -> Option<&Op> {
        at.checked_sub(1).and_then(|last| self.log.get(last)).map(|entry| &entry.op)
    }

    fn until(&self, at: usize) -> impl DoubleEndedIterator<Item = (usize, &Entry)> + ExactSizeIterator {
        self.log.get(..at).unwrap_or_default().iter().enumerate()
    }

    fn moment(&self, at: usize) -> Moment {
        let mut moment = Moment { at, ..Moment::default() };
        for (index, entry) in self.until(at) {
            match &entry.op {
                Op::Sync { node } => {
                    moment.waited.insert(*node, index);
                    let last = self.until(index).rev().find(|(_, entry)| entry.touched.contains(node));
                    moment.barrier = moment.barrier.max(last.map_or(0, |(last, _)| last + 1));
                }
                Op::SyncAll => (moment.settled, moment.barrier) = (index, index),
                Op::Mark(what) => moment.promised = Some(what),
                Op::Make { .. }
                | Op::Link { .. }
                | Op::Rename { .. }
                | Op::Remove { .. }
                | Op::Attributes
                | Op::Length { .. }
                | Op::Write { .. } => {}
            }
        }
        moment
    }

    /// Of which cuts at this moment something new can come. After a change of names or metadata, or bytes at the end of
    /// a file, only the one that keeps it: all shorter ones could have come before.
    fn first_cut(&self, moment: &Moment) -> usize {
        let new = match self.last(moment.at) {
            Some(Op::Sync { .. } | Op::SyncAll | Op::Mark(_)) => true,
            Some(Op::Write { node, offset, .. }) => {
                let before = self.ordered(&self.moment(moment.at - 1), moment.at - 1, Data::Kept);
                before.len(*node).is_some_and(|len| *offset < len)
            }
            _ => false,
        };
        if new { moment.barrier } else { moment.at }
    }

    fn ordered(&self, moment: &Moment, kept: usize, data: Data) -> World {
        let mut world = self.base.clone();
        for (index, entry) in self.until(moment.at) {
            if let Op::Write { node, offset, bytes } = &entry.op {
                let durable = index < moment.settled || moment.waited_for(*node, index);
                let data = if durable { Data::Kept } else { data };
                put(&mut world, (*node, *offset, bytes), index, data, index < kept);
            } else if index < kept {
                world.change(&entry.op);
            }
            if let (true, Some((node, attributes))) = (index < kept, &entry.after) {
                world.dress(*node, attributes);
            }
        }
        world
    }

    fn lazy(&self, moment: &Moment, kept: usize) -> World {
        let (names, inodes) = self.brought(moment, kept);
        let mut world = self.base.clone();
        for (index, entry) in self.until(moment.at) {
            let settled = |node: &NodeId| index < kept || moment.waited_for(*node, index);
            if let Op::Write { node, offset, bytes } = &entry.op {
                if settled(node) {
                    world.write(*node, *offset, bytes);
                }
            } else if names.contains(&index) || matches!(&entry.op, Op::Length { node, .. } if settled(node))
            {
                world.change(&entry.op);
            }
            if let Some((node, attributes)) = &entry.after
                && (index < kept || inodes.get(node).is_some_and(|sync| index < *sync))
            {
                world.dress(*node, attributes);
            }
        }
        world
    }

    /// The changes of names that waiting for directories brought to the disk, with all they build on; and up to where
    /// the metadata of inodes came with them, or were waited for.
    fn brought(&self, moment: &Moment, kept: usize) -> (BTreeSet<usize>, BTreeMap<NodeId, usize>) {
        let mut names: BTreeSet<usize> = (0..kept).collect();
        let mut inodes = moment.waited.clone();
        let mut waiting: Vec<(usize, usize)> = Vec::new();
        for (index, entry) in self.until(moment.at) {
            let syncs = entry.op.places().filter_map(|place| moment.waited.get(&place.dir));
            if let Some(sync) = syncs.max().filter(|sync| index < **sync) {
                waiting.push((index, *sync));
            }
        }
        while let Some((index, sync)) = waiting.pop() {
            let Some(entry) = self.log.get(index) else { continue };
            for node in &entry.touched {
                let known = inodes.entry(*node).or_insert(sync);
                *known = sync.max(*known);
            }
            if names.insert(index) {
                waiting.extend(self.needed(index, entry).map(|before| (before, sync)));
            }
        }
        (names, inodes)
    }

    /// The changes that the one at `index` can't do without: what made the inodes, and who had the names before.
    fn needed(&self, index: usize, entry: &Entry) -> impl Iterator<Item = usize> {
        let mut needed = BTreeSet::new();
        let mut places: Vec<_> = entry.op.places().collect();
        for (before, earlier) in self.until(index).rev() {
            if let Op::Make { node, .. } = &earlier.op
                && entry.touched.contains(node)
            {
                needed.insert(before);
            }
            if places.iter().any(|place| earlier.op.places().any(|other| other == *place)) {
                needed.insert(before);
                places.retain(|place| earlier.op.places().all(|other| other != *place));
            }
        }
        needed.into_iter()
    }
}

/// What had been done by the time of a crash.
#[derive(Debug, Default)]
struct Moment {
    at: usize,
    promised: Option<&'static str>,
    /// How many changes from the beginning came before the last wait for everything.
    settled: usize,
    /// How many changes from the beginning somebody waited for, where order is kept: waiting for an inode waits for its
    /// last change, and for all that came before it.
    barrier: usize,
    /// For each inode, up to where it was waited for.
    waited: BTreeMap<NodeId, usize>,
}

impl Moment {
    fn waited_for(&self, node: NodeId, change: usize) -> bool {
        self.waited.get(&node).is_some_and(|sync| change < *sync)
    }
}

/// Crashes, each state once.
#[derive(Default)]
struct Found {
    seen: HashSet<(World, Option<&'static str>)>,
    crashes: Vec<Crash>,
}

impl Found {
    fn add(&mut self, crash: Crash) {
        if self.seen.insert((crash.world.clone(), crash.promised)) {
            self.crashes.push(crash);
        }
    }
}

/// Writes what survives of one write. `logged` says whether the file's new length would have.
fn put(
    world: &mut World,
    (node, offset, bytes): (NodeId, usize, &[u8]),
    index: usize,
    data: Data,
    logged: bool,
) {
    let Some(len) = world.len(node) else { return };
    let limit = if logged { usize::MAX } else { len };
    let mut from = offset;
    while from < (offset + bytes.len()).min(limit) {
        let to = ((from / SECTOR + 1) * SECTOR).min(offset + bytes.len()).min(limit);
        let survives = match data {
            Data::Lost => false,
            Data::Kept => true,
            Data::Torn(seed) => chance(&(seed, index, from)) % 2 == 0,
        };
        if survives && let Some(piece) = bytes.get(from - offset..to - offset) {
            world.write(node, from, piece);
        }
        from = to;
    }
}

fn chance(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// A handful of numbers of a range, the first among them.
fn steps(range: Range<usize>) -> impl Iterator<Item = usize> {
    let step = (range.len() / 4).max(1);
    range.step_by(step)
}

impl Op {
    /// The names it changes.
    fn places(&self) -> impl Iterator<Item = &Place> {
        let both = match self {
            Self::Make { at, .. } | Self::Link { at, .. } | Self::Remove { at } => [Some(at), None],
            Self::Rename { from, to, .. } => [Some(from), Some(to)],
            Self::Attributes
            | Self::Length { .. }
            | Self::Write { .. }
            | Self::Sync { .. }
            | Self::SyncAll
            | Self::Mark(_) => [None, None],
        };
        both.into_iter().flatten()
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Make { node, at, .. } => write!(f, "make {} {at}", node.0),
            Self::Link { node, at } => write!(f, "link {} {at}", node.0),
            Self::Rename { from, to, how } => write!(f, "rename {from} {to} {how:?}"),
            Self::Remove { at } => write!(f, "remove {at}"),
            Self::Attributes => write!(f, "metadata"),
            Self::Length { node, len } => write!(f, "length of {} {len}", node.0),
            Self::Write { node, offset, bytes } => write!(f, "write {} {offset}+{}", node.0, bytes.len()),
            Self::Sync { node } => write!(f, "fsync {}", node.0),
            Self::SyncAll => write!(f, "syncfs"),
            Self::Mark(what) => write!(f, "promise {what}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.dir.0, String::from_utf8_lossy(&self.name))
    }
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "crash {} ({:?}, promised {:?})", self.at, self.how, self.promised)
    }
}
