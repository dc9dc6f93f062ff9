//! A directory that is being looked at: what was found in it so far, and putting it together when that is all.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use dominator_core::inode::{Inode, Kind, Timestamp, Why};
use dominator_core::path::{ImagePath, Name};
use dominator_core::tree::{Directory, DirectoryId, DirectoryWriter, Entry};

use super::Fact;
use super::identity::Identity;
use super::known::{Extent, Holding, Known, Summary};
use super::walk::lock;

/// A directory some of which is not known yet.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) path: ImagePath,
    /// The directory it is in; nothing for the root.
    pub(super) parent: Option<Arc<Pending>>,
    /// What was known of it, under this view or another.
    pub(super) old: Option<Arc<Known>>,
    /// How many tasks are still to bring something: itself, its files, its directories.
    left: AtomicUsize,
    found: Mutex<Found>,
}

/// What was found of a directory so far, in no order.
#[derive(Debug, Default)]
struct Found {
    own: Own,
    batches: Vec<Batch>,
    /// Which entries of the old directory, and which of its identities, are as they were.
    kept: Vec<Place>,
    below: Vec<(Name, Arc<Known>)>,
    facts: Vec<Fact>,
    holding: Holding,
    cut: Cut,
}

/// What is known of the directory itself.
#[derive(Debug, Default)]
pub(super) enum Own {
    /// Nothing: the scan was over before its turn came.
    #[default]
    NotSeen,
    /// It is gone.
    Vanished,
    /// It could not be looked at.
    Unknown(Why, String),
    /// It is held to be what it was.
    AsBefore,
    /// It was listed, and what is fresh in it was looked at, at that time.
    Listed { identity: Identity, inode: Inode, looked: Timestamp },
}

/// Whether something was left out because the scan was over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Cut {
    #[default]
    No,
    Yes,
}

/// Where in an old directory an entry stands: among all, and among those that are, or are not, directories.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) entry: u32,
    pub(super) rank: u32,
}

/// Names that were looked at: a few entries, each with its identity.
#[derive(Debug, Default)]
pub(super) struct Batch {
    writer: DirectoryWriter,
    identities: Vec<Identity>,
}

impl Batch {
    /// Adds a name. Nothing happens if no directory can hold it beside the others, and says so.
    pub(super) fn push(&mut self, name: &Name, inode: &Inode, identity: Identity) -> Result<(), String> {
        self.writer.push(name, inode).map_err(|error| error.to_string())?;
        self.identities.push(identity);
        Ok(())
    }
}

/// What an old directory is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Basis {
    /// It is of the same view: what has not changed is taken over.
    Entries,
    /// It is of another view, or of several: only the contents of files that have not changed are known.
    Contents,
}

/// What became of a directory.
#[derive(Debug)]
pub(super) enum Outcome {
    Known(Arc<Known>),
    Vanished,
    Unknown(Why, String),
    /// Nobody looked.
    NotSeen,
}

impl Pending {
    /// With one task to come: the one that looks at the directory itself.
    pub(super) fn new(path: ImagePath, parent: Option<Arc<Pending>>, old: Option<Arc<Known>>) -> Self {
        Self { path, parent, old, left: AtomicUsize::new(1), found: Mutex::default() }
    }

    /// One more task is to come.
    pub(super) fn expect_one(&self) {
        self.left.fetch_add(1, Ordering::Relaxed);
    }

    /// A task is done; says whether it was the last.
    pub(super) fn done(&self) -> bool {
        self.left.fetch_sub(1, Ordering::AcqRel) == 1
    }

    pub(super) fn own(&self, own: Own) {
        lock(&self.found).own = own;
    }

    pub(super) fn add(&self, batch: Batch) {
        lock(&self.found).batches.push(batch);
    }

    pub(super) fn keep(&self, kept: Vec<Place>) {
        let mut found = lock(&self.found);
        if found.kept.is_empty() {
            found.kept = kept;
        } else {
            found.kept.extend(kept);
        }
    }

    /// Whether it holds something that is not in the tree; that it does is never taken back.
    pub(super) fn holding(&self, holding: Holding) {
        if holding == Holding::Something {
            lock(&self.found).holding = holding;
        }
    }

    /// Something in it could not be found out, and nothing stands for it in the tree.
    pub(super) fn missing(&self, detail: String) {
        let mut found = lock(&self.found);
        found.facts.push(Fact { path: self.path.clone(), why: Why::Unreadable, detail });
        found.holding = Holding::Something;
    }

    /// Takes over what could not be found out when it was looked at the last time.
    pub(super) fn same_doubts(&self, old: &Known) {
        let mut found = lock(&self.found);
        found.facts = old.facts.to_vec();
        found.holding = old.holding;
    }

    /// A name is unknown.
    pub(super) fn unknown(&self, name: &Name, why: Why, detail: String, identity: Identity) {
        let mut batch = Batch::default();
        match batch.push(name, &Inode::unknown(why), identity) {
            Ok(()) => self.add(batch),
            Err(detail) => self.missing(detail),
        }
        let path = self.path.join(name).unwrap_or_else(|_| self.path.clone());
        lock(&self.found).facts.push(Fact { path, why, detail });
    }

    /// Something was left out: the scan is over.
    pub(super) fn cut(&self) {
        lock(&self.found).cut = Cut::Yes;
    }

    /// What became of a directory in this one.
    pub(super) fn receive(&self, name: &Name, outcome: Outcome, old: Option<&Arc<Known>>) {
        match (outcome, old) {
            (Outcome::Known(known), _) => {
                let mut found = lock(&self.found);
                if known.extent == Extent::Partial {
                    found.cut = Cut::Yes;
                }
                found.below.push((name.clone(), known));
            }
            (Outcome::Vanished, _) => {}
            (Outcome::Unknown(why, detail), _) => self.unknown(name, why, detail, Identity::default()),
            (Outcome::NotSeen, old) => {
                let mut found = lock(&self.found);
                found.cut = Cut::Yes;
                found.below.extend(old.map(|old| (name.clone(), Arc::clone(old))));
            }
        }
    }

    /// Puts together what was found. To be called when all tasks are done.
    pub(super) fn complete(&self, basis: Basis) -> Outcome {
        let mut found = std::mem::take(&mut *lock(&self.found));
        match std::mem::take(&mut found.own) {
            Own::NotSeen => Outcome::NotSeen,
            Own::AsBefore => self.old.clone().map_or(Outcome::NotSeen, Outcome::Known),
            Own::Vanished => Outcome::Vanished,
            Own::Unknown(why, detail) => Outcome::Unknown(why, detail),
            Own::Listed { identity, inode, looked } => {
                let old = self.old.as_ref();
                found.below.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
                let before = old.filter(|old| found.is_as_before(old, basis, &identity, &inode));
                Outcome::Known(match before {
                    Some(old) => Arc::clone(old),
                    None => found.assemble(&self.path, identity, inode, looked, old),
                })
            }
        }
    }
}

/// An entry of the directory to be, and where it comes from.
enum Source<'a> {
    Looked(Entry<'a>, Identity),
    Below(&'a Name, &'a Arc<Known>),
}

impl<'a> Source<'a> {
    fn name(&self) -> &'a [u8] {
        match self {
            Self::Looked(entry, _) => entry.name(),
            Self::Below(name, _) => name.as_bytes(),
        }
    }
}

impl Found {
    fn assemble(
        mut self,
        path: &ImagePath,
        identity: Identity,
        mut inode: Inode,
        looked: Timestamp,
        old: Option<&Arc<Known>>,
    ) -> Arc<Known> {
        let batches: Vec<_> = std::mem::take(&mut self.batches)
            .into_iter()
            .map(|batch| (batch.writer.finish(), batch.identities))
            .collect();
        let mut sources: Vec<Source<'_>> = Vec::new();
        for (entries, identities) in &batches {
            sources.extend(entries.iter().zip(identities).map(|(e, identity)| Source::Looked(e, *identity)));
        }
        for place in &self.kept {
            let entry = old.and_then(|old| old.directory.nth(place.entry as usize));
            let identity = old.and_then(|old| old.identities.get(place.rank as usize));
            sources.extend(entry.zip(identity).map(|(entry, identity)| Source::Looked(entry, *identity)));
        }
        sources.extend(self.below.iter().map(|(name, known)| Source::Below(name, known)));
        sources.sort_unstable_by(|a, b| a.name().cmp(b.name()));
        let written = write(&sources);
        drop(sources);
        if let Some(detail) = written.full {
            self.facts.push(Fact { path: path.clone(), why: Why::Unreadable, detail });
            self.holding = Holding::Something;
        }
        let extent = if self.cut == Cut::Yes { Extent::Partial } else { Extent::Whole };
        let (directory, id) = named(written.directory, extent, old);
        inode.kind = Kind::Directory { id };
        let known = Known {
            identity,
            inode,
            directory,
            identities: written.identities.into(),
            below: written.below.into(),
            facts: self.facts.into(),
            looked,
            extent,
            holding: self.holding,
            summary: Summary::default(),
        };
        Arc::new(known.summarise())
    }

    /// Whether nothing at all is other than it was.
    fn is_as_before(&self, old: &Known, basis: Basis, identity: &Identity, inode: &Inode) -> bool {
        basis == Basis::Entries
            && self.batches.is_empty()
            && self.facts.is_empty()
            && old.facts.is_empty()
            && (self.cut, old.extent) == (Cut::No, Extent::Whole)
            && (old.identity, old.holding) == (*identity, self.holding)
            && old.inode.same_attributes(inode)
            && self.kept.len() == old.identities.len()
            && self.below.len() == old.below.len()
            // What is shared with the old one was looked up there under the name it has.
            && self.below.iter().zip(&old.below).all(|((_, new), old)| Arc::ptr_eq(new, old))
    }
}

/// The parts of a known directory, as written.
struct Written {
    directory: Directory,
    identities: Vec<Identity>,
    below: Vec<Arc<Known>>,
    /// Not everything fitted, and why.
    full: Option<String>,
}

/// Writes the entries, which are in order.
fn write(sources: &[Source<'_>]) -> Written {
    let mut writer = DirectoryWriter::new();
    let (mut identities, mut below) = (Vec::with_capacity(sources.len()), Vec::new());
    let mut full = None;
    for source in sources {
        let written = match source {
            Source::Looked(entry, _) => writer.copy(*entry),
            Source::Below(name, known) => writer.push(name, &known.inode),
        };
        match (written, source) {
            (Ok(()), Source::Looked(_, identity)) => identities.push(*identity),
            (Ok(()), Source::Below(_, known)) => below.push(Arc::clone(known)),
            (Err(error), _) => full = Some(error.to_string()),
        }
    }
    Written { directory: writer.finish(), identities, below, full }
}

/// The directory, shared with the old one if that is equal, and its name, which is not made up anew then. One that is
/// not whole is in no tree and needs none.
fn named(directory: Directory, extent: Extent, old: Option<&Arc<Known>>) -> (Arc<Directory>, DirectoryId) {
    let old = old.filter(|old| *old.directory == directory && old.extent == Extent::Whole);
    let same = old.and_then(|old| Some((Arc::clone(&old.directory), old.inode.directory()?)));
    same.unwrap_or_else(|| {
        let id = match extent {
            Extent::Whole => directory.id(),
            Extent::Partial => Directory::default().id(),
        };
        (Arc::new(directory), id)
    })
}
