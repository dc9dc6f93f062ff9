use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use dominator_core::inode::Inode;
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::plan::Operation;
use dominator_core::tree::Snapshot;
use dominator_core::view::XattrPolicy;
use rustix::fs::{FileType, OFlags, StatxAttributes};

use super::Updater;
use super::contents::copy;
use super::error::Trouble;
use super::fetched::Checked;
use super::id::Id;
use super::metadata::{Attributes, Rules};
use super::stage::{Fault, Staging, handle, is_absent};
use super::step::{Made, Old, Prepared, Slot, Step, Written};
use super::writers;
use crate::root::{Statx, inode_at, inode_of, open_here};
use crate::seam::At;

/// Where in the tree contents lie that an update needs, so that nobody has to fetch them. A claim of an earlier scan: what
/// is taken from there is read back from the disk and hashed before it is put in place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Local(BTreeMap<ObjectId, ImagePath>);

impl Local {
    /// Looks for objects among the files of a tree; those that are `going` are preferred, as they can be had for nothing.
    pub fn find(tree: &Snapshot, wanted: &BTreeSet<ObjectId>, going: impl Fn(&ImagePath) -> bool) -> Self {
        let mut found = BTreeMap::new();
        if !wanted.is_empty() {
            tree.walk(|path, inode| {
                if let Some((object, _)) = inode.object()
                    && wanted.contains(&object)
                    && (!found.contains_key(&object) || going(path))
                {
                    found.insert(object, path.clone());
                }
            });
        }
        Self(found)
    }

    /// Whether an object was found.
    pub fn has(&self, id: &ObjectId) -> bool {
        self.0.contains_key(id)
    }

    /// How many were found.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none was found.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// How what lies in the tree is taken from there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// For each object, where it lies.
    pub(super) from: BTreeMap<ObjectId, ImagePath>,
    /// For some, the path at which the file that is there gets its second name, before it loses the first.
    pub(super) linked: BTreeMap<ObjectId, ImagePath>,
}

impl Updater {
    /// Says where contents lie that updates from now on may take instead of objects that are not in the cache.
    pub fn offer(&mut self, local: Local) {
        self.local = local;
    }
}

impl Checked<'_> {
    /// Finds out which objects that are not in the cache can be taken from the tree, and how.
    pub(super) fn take_locally(&mut self, updater: &Updater, missing: &BTreeSet<ObjectId>) -> io::Result<()> {
        let offered = |id: &ObjectId| updater.local.0.get(id).map(|path| (*id, path.clone()));
        let mut from: BTreeMap<_, _> = missing.iter().filter_map(offered).collect();
        let mut going = BTreeMap::new();
        let mut gone = BTreeSet::new();
        for (id, path) in &from {
            let size = self.uses.get(id).map(|(_, size)| *size);
            match look(updater, path) {
                Ok(stat) if Some(stat.stx_size) == size => drop(going.insert(path.clone(), stat)),
                Ok(_) => drop(gone.insert(*id)),
                Err(error) if is_absent(&error) => drop(gone.insert(*id)),
                Err(error) => return Err(error),
            }
        }
        from.retain(|id, _| !gone.contains(id));
        let deleted: BTreeSet<_> =
            self.operations.iter().filter_map(|operation| deleted(operation)).collect();
        going.retain(|path, stat| deleted.contains(path) && is_alone(stat));
        let mut linked = BTreeMap::new();
        for operation in &self.operations {
            if let Operation::Put { path, inode } = operation
                && let Some((id, _)) = inode.object()
                && let Some(source) = from.get(&id)
                && going.contains_key(source)
                && self.is_right(updater, source, inode)?
            {
                going.remove(source);
                linked.insert(id, path.clone());
            }
        }
        self.taken = Taken { from, linked };
        Ok(())
    }

    /// Whether a file has the metadata it must have at its new place, they give nobody rights, and nobody has it open for
    /// writing: what is written to the old file is not meant for the new one.
    fn is_right(&self, updater: &Updater, source: &ImagePath, inode: &Inode) -> io::Result<bool> {
        let found = match handle(updater, source) {
            Err(error) if is_absent(&error) => return Ok(false),
            other => other?,
        };
        let stat = inode_of(&found)?;
        let wanted = Attributes::of(inode, self.rules);
        let right = is_alone(&stat)
            && !wanted.is_privileged()
            && everything(&found, &stat, self.rules)?.meet(&wanted, self.rules);
        if !right {
            return Ok(false);
        }
        let (dir, name) = updater.root.parent(source)?;
        Ok(writers::has_none(At::new(dir.as_fd(), name.as_bytes())))
    }

    /// How many files are made of an object that is not the cache's own.
    pub(super) fn copies(&self, id: &ObjectId, count: usize) -> usize {
        let Taken { from, linked } = &self.taken;
        match from.contains_key(id) && !linked.contains_key(id) {
            true => count,
            false => count.saturating_sub(1),
        }
    }
}

impl Staging<'_> {
    /// Makes a file of contents that lie in the tree: by sharing its blocks where the file-system can, else of the very file
    /// when it is about to lose its only name there, else by copying. Nothing when the cache has the object.
    pub(super) fn take_from_tree(
        &mut self,
        path: &ImagePath,
        inode: &Inode,
        slot: Slot,
        there: Option<&Statx>,
    ) -> Result<Option<()>, Fault> {
        let Some((id, size)) = inode.object() else { return Ok(None) };
        let Some(source) = self.checked.taken.from.get(&id).cloned() else { return Ok(None) };
        // What can't be read any more is fetched.
        let gone = |trouble: Trouble| match trouble {
            Trouble::Path(_) => Fault::Gone(id),
            Trouble::Halt(_) => trouble.into(),
        };
        self.unread.push((slot, id, size));
        self.local.insert(slot);
        let moves = self.checked.taken.linked.get(&id) == Some(path) && !self.blocks_are_shared(&source);
        if moves && self.second_name(&source, inode, slot)? {
            let name = slot.name();
            let stat = inode_at(self.updater.work.slots.as_fd(), &name)?;
            self.settled.push(slot);
            let made = Made::File { written: Written::of(&stat), object: None };
            self.put_at(path, slot, &stat, Old::of(&self.updater.root, there), made);
            return Ok(Some(()));
        }
        let opened = self
            .updater
            .root
            .parent(&source)
            .and_then(|(dir, name)| Ok(open_here(dir.as_fd(), name.as_bytes(), OFlags::empty())?));
        let from = opened.map_err(Trouble::of_reading).map_err(gone)?.into();
        let name = slot.name();
        copy(self.updater, &from, size, At::new(self.updater.work.slots.as_fd(), &name)).map_err(gone)?;
        self.dressed(path, inode, slot, there, None).map(Some)
    }

    /// Whether files can share blocks here. Then a file that moves is another at its new place, and what is written to that
    /// is not in the old one when the update is undone.
    fn blocks_are_shared(&mut self, source: &ImagePath) -> bool {
        let Updater { root, seam, work, .. } = self.updater;
        *self.shared.get_or_insert_with(|| {
            let opened = root
                .parent(source)
                .and_then(|(dir, name)| Ok(open_here(dir.as_fd(), name.as_bytes(), OFlags::empty())?));
            opened.is_ok_and(|source| work.can_share(&**seam, &source.into()))
        })
    }

    /// Gives a file its second name, in a slot. Where that can't be, or it is no longer what it was when it was looked at,
    /// it is copied instead.
    fn second_name(&self, source: &ImagePath, inode: &Inode, slot: Slot) -> Result<bool, Fault> {
        let (seam, slots) = (&*self.updater.seam, self.updater.work.slots.as_fd());
        let name = slot.name();
        let at = At::new(slots, &name);
        let linked = self
            .updater
            .root
            .parent(source)
            .and_then(|(dir, name)| seam.link(At::new(dir.as_fd(), name.as_bytes()), at));
        if linked.is_err() {
            return Ok(false);
        }
        let stat = inode_at(at.dir, at.name)?;
        let rules = self.checked.rules;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = rustix::fs::openat(at.dir, at.name, flags, rustix::fs::Mode::empty());
        let found = found.map_err(io::Error::from)?;
        let same = stat.stx_nlink == 2
            && is_file(&stat)
            && writers::has_none(at)
            && everything(&found, &stat, rules)?.meet(&Attributes::of(inode, rules), rules);
        if !same {
            seam.remove(at, crate::seam::Remove::File)?;
        }
        Ok(same)
    }
}

/// Files that an update gave a second name before they lose the first: where they are put, and what was proven to be
/// there.
pub(super) fn linked(prepared: &Prepared) -> BTreeMap<Id, (&ImagePath, Written)> {
    let deleted = |step: &Step| match step {
        Step::Delete { old, directory: false, .. } => Some(*old),
        Step::Delete { .. } | Step::Put { .. } | Step::Attributes(_) => None,
    };
    let deleted: BTreeSet<_> = prepared.steps.iter().filter_map(deleted).collect();
    let mut linked = BTreeMap::new();
    for step in &prepared.steps {
        if let Step::Put { path, new, made: Made::File { written, object: None }, .. } = step
            && deleted.contains(new)
        {
            linked.insert(*new, (path, *written));
        }
    }
    linked
}

impl Updater {
    /// Looks once more at files that were there before under another name: whoever opened one by that since it was proven
    /// could go on writing to it, meaning another. Says the first that is no longer what was proven.
    pub(super) fn are_proven(&self, prepared: &Prepared) -> Result<(), (ImagePath, io::Error)> {
        for (id, (path, proven)) in linked(prepared) {
            let look = || {
                let (dir, name) = self.root.parent(path)?;
                let at = At::new(dir.as_fd(), name.as_bytes());
                let stat = inode_at(at.dir, at.name)?;
                // What is not there failed, or was replaced since.
                Ok(self.root.id(&stat) != id || (Written::of(&stat) == proven && writers::has_none(at)))
            };
            match look() {
                Ok(true) => {}
                Err(error) if is_absent(&error) => {}
                Ok(false) => {
                    let why = "somebody writes to it, by the name it had before; the next attempt copies it";
                    return Err((path.clone(), io::Error::other(why)));
                }
                Err(error) => return Err((path.clone(), error)),
            }
        }
        Ok(())
    }
}

/// What is at a path that contents are taken from, if it is a file on the root's own file-system.
fn look(updater: &Updater, path: &ImagePath) -> io::Result<Statx> {
    let (dir, name) = updater.root.parent(path)?;
    let stat = inode_at(&dir, name.as_bytes())?;
    if is_file(&stat) && !updater.root.is_elsewhere(&stat) {
        Ok(stat)
    } else {
        Err(rustix::io::Errno::NOENT.into())
    }
}

/// Whether a file has one name and nothing keeps it from getting another.
fn is_alone(stat: &Statx) -> bool {
    let fixed = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
    is_file(stat) && stat.stx_nlink == 1 && !stat.stx_attributes.intersects(fixed)
}

/// All metadata of a file, also those the view does not look at: a new file would not have them at its place, and a second
/// name must not bring rights there.
fn everything(found: &OwnedFd, stat: &Statx, rules: Rules) -> io::Result<Attributes> {
    Attributes::read(found.as_fd(), stat, Rules { xattrs: XattrPolicy::ALL, ..rules })
}

fn is_file(stat: &Statx) -> bool {
    FileType::from_raw_mode(stat.stx_mode.into()).is_file()
}

fn deleted<'o>(operation: &'o &Operation) -> Option<&'o ImagePath> {
    if let Operation::Delete { path, directory: false } = operation { Some(path) } else { None }
}
