//! What stands in the way of an update by the owner's will: flags that make files immutable or append-only, and, for who
//! has no privileges, directories closed to their owner. It is lifted while the update is made, which the journal says.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use dominator_core::inode::Mode;
use dominator_core::path::ImagePath;
use dominator_core::port::PathFailure;
use rustix::fs::{FileType, OFlags, StatxAttributes};

use super::Updater;
use super::error::Trouble;
use super::id::Id;
use super::stage::is_absent;
use super::step::{Lift, Lifted, Prepared, Slot, Step};
use crate::root::{Root, Statx, inode_at, inode_of, is_directory, open_file};
use crate::seam::{At, IFlags};

/// What a prepared update has to lift.
#[derive(Debug)]
pub(super) struct Lifts {
    root: Root,
    flags: BTreeMap<ImagePath, IFlags>,
    modes: BTreeMap<ImagePath, (Id, Mode, Mode)>,
}

impl Lifts {
    pub(super) fn of_root(root: &Root) -> Self {
        Self { root: root.clone(), flags: BTreeMap::new(), modes: BTreeMap::new() }
    }

    /// Names are going to come and go in a directory.
    pub(super) fn directory(&mut self, path: &ImagePath, stat: &Statx) {
        self.changed(path, stat);
        let ours = stat.stx_uid == rustix::process::geteuid().as_raw();
        if ours && !is_privileged() && !is_open(Mode::from_st_mode(stat.stx_mode.into())) {
            let mode = Mode::from_st_mode(stat.stx_mode.into());
            self.modes.entry(path.clone()).or_insert((self.root.id(stat), mode, mode));
        }
    }

    /// Something is going to be moved away. A directory that moves is written to.
    pub(super) fn displaced(&mut self, path: &ImagePath, stat: &Statx) {
        if is_directory(stat.stx_mode) { self.directory(path, stat) } else { self.changed(path, stat) }
    }

    /// Metadata of something are going to change.
    pub(super) fn changed(&mut self, path: &ImagePath, stat: &Statx) {
        let set = stat.stx_attributes;
        let mut flags = IFlags::empty();
        flags.set(IFlags::IMMUTABLE, set.contains(StatxAttributes::IMMUTABLE));
        flags.set(IFlags::APPEND, set.contains(StatxAttributes::APPEND));
        if !flags.is_empty() {
            self.flags.insert(path.clone(), flags);
        }
    }

    /// Without privileges, a directory gets the mode it must have when all is in it.
    pub(super) fn until_the_end(&mut self, path: &ImagePath, inode: Id, before: Mode, after: Mode) {
        let closed = !is_open(before) || !is_open(after);
        if closed && !is_privileged() {
            self.modes.insert(path.clone(), (inode, before, after));
        }
    }

    /// All of it, outer directories first.
    pub(super) fn all(self) -> Vec<Lift> {
        let modes = self
            .modes
            .into_iter()
            .map(|(path, (inode, before, after))| Lift { path, what: Lifted::Mode { inode, before, after } });
        let flags =
            self.flags.into_iter().map(|(path, flags)| Lift { path, what: Lifted::Flags(flags.bits()) });
        modes.chain(flags).collect()
    }
}

/// How an update ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Made,
    Undone,
}

impl Updater {
    /// Lifts all that is not lifted. What can't be is told by the change it stands in the way of.
    pub(super) fn lift(&self, lifts: &[Lift]) -> Result<(), (ImagePath, io::Error)> {
        for Lift { path, what } in lifts {
            let lifted = match *what {
                Lifted::Flags(flags) => self.change_flags(path, |now| now.difference(known(flags))),
                Lifted::Mode { inode, .. } => self.change_mode(path, inode, opened),
            };
            if let Err(Trouble::Halt(error)) = lifted.map_err(Trouble::from) {
                return Err((path.clone(), error));
            }
        }
        Ok(())
    }

    /// Makes what was lifted as it must be in the end, also what has taken its place. Says what could not be.
    pub(super) fn lower(
        &self,
        prepared: &Prepared,
        end: End,
    ) -> Result<Vec<PathFailure>, (ImagePath, io::Error)> {
        let mut failures = Vec::new();
        let mut note = |path: &ImagePath, lowered: io::Result<()>| match lowered.map_err(Trouble::from) {
            Ok(()) => Ok(()),
            Err(Trouble::Halt(error)) => Err((path.clone(), error)),
            Err(Trouble::Path(reason)) => {
                let reason = format!("its flags or mode could not be set again: {reason}");
                failures.push(PathFailure { path: path.clone(), reason });
                Ok(())
            }
        };
        for Lift { path, what } in prepared.lifts.iter().rev() {
            let lowered = match (*what, end) {
                (Lifted::Flags(flags), _) => self.change_flags(path, |now| now.union(known(flags))),
                (Lifted::Mode { inode, after, .. }, End::Made) => self.change_mode(path, inode, |_| after),
                (Lifted::Mode { inode, before, .. }, End::Undone) => {
                    self.change_mode(path, inode, |_| before)
                }
            };
            note(path, lowered)?;
        }
        if end == End::Made {
            for (path, slot, old, flags) in displaced(prepared) {
                note(path, self.flag_elsewhere(slot, old, flags))?;
            }
        }
        Ok(failures)
    }

    /// What was displaced, and has further names, is as immutable by those as it was.
    fn flag_elsewhere(&self, slot: Slot, old: Id, flags: u32) -> io::Result<()> {
        let name = slot.name();
        let at = At::new(self.work.slots.as_fd(), &name);
        let stat = match inode_at(at.dir, at.name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let is_file = FileType::from_raw_mode(stat.stx_mode.into()).is_file();
        if !is_file || stat.stx_nlink < 2 || self.root.id(&stat) != old {
            return Ok(());
        }
        let file = open_file(at)?;
        let now = rustix::fs::ioctl_getflags(&file)?;
        self.seam.set_flags(file.as_fd(), now.union(known(flags)))
    }

    fn change_flags(&self, path: &ImagePath, change: impl Fn(IFlags) -> IFlags) -> io::Result<()> {
        let Some(stat) = there(&self.root, path)? else { return Ok(()) };
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        // Nothing else has flags, or could be opened without waking what is behind it.
        if !kind.is_file() && !kind.is_dir() {
            return Ok(());
        }
        let file = open(&self.root, path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let now = rustix::fs::ioctl_getflags(&file)?;
        let wanted = change(now);
        if wanted == now { Ok(()) } else { self.seam.set_flags(file.as_fd(), wanted) }
    }

    fn change_mode(&self, path: &ImagePath, inode: Id, change: impl Fn(Mode) -> Mode) -> io::Result<()> {
        let dir = match open(&self.root, path, OFlags::PATH) {
            Err(error) if is_absent(&error) => return Ok(()),
            other => other?,
        };
        let stat = inode_of(&dir)?;
        let now = Mode::from_st_mode(stat.stx_mode.into());
        let wanted = change(now);
        if self.root.id(&stat) != inode || wanted == now {
            return Ok(());
        }
        self.seam.chmod(At::itself(dir.as_fd()), wanted)
    }
}

/// The slots of what had flags and was displaced.
fn displaced(prepared: &Prepared) -> Vec<(&ImagePath, Slot, Id, u32)> {
    let lifted = prepared.lifts.iter().filter_map(|Lift { path, what }| match what {
        Lifted::Flags(flags) => Some((path, *flags)),
        Lifted::Mode { .. } => None,
    });
    let lifted: BTreeMap<_, _> = lifted.collect();
    let steps = prepared.steps.iter().filter_map(|step| match step {
        Step::Put { path, slot, old, .. } => Some((path, *slot, old.id()?)),
        Step::Delete { path, slot, old, .. } => Some((path, *slot, *old)),
        Step::Attributes(_) => None,
    });
    steps.filter_map(|(path, slot, old)| Some((path, slot, old, *lifted.get(path)?))).collect()
}

/// What is at a path, unless something else is mounted there by now.
fn there(root: &Root, path: &ImagePath) -> io::Result<Option<Statx>> {
    let found = match path.is_root() {
        true => inode_of(root),
        false => root.parent(path).and_then(|(dir, name)| inode_at(&dir, name.as_bytes())),
    };
    match found {
        Err(error) if is_absent(&error) => Ok(None),
        other => other.map(|stat| (path.is_root() || !root.is_elsewhere(&stat)).then_some(stat)),
    }
}

fn open(root: &Root, path: &ImagePath, how: OFlags) -> io::Result<OwnedFd> {
    let flags = how | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |dir, name: &[u8]| rustix::fs::openat(dir, name, flags, rustix::fs::Mode::empty());
    if path.is_root() {
        return Ok(open(root.as_fd(), b".")?);
    }
    let (dir, name) = root.parent(path)?;
    Ok(open(dir.as_fd(), name.as_bytes())?)
}

/// Only the flags that stand in the way, whatever the journal says.
pub(super) fn known(flags: u32) -> IFlags {
    IFlags::from_bits_truncate(flags).intersection(IFlags::IMMUTABLE.union(IFlags::APPEND))
}

fn is_open(mode: Mode) -> bool {
    mode.bits() & 0o700 == 0o700
}

fn opened(mode: Mode) -> Mode {
    Mode::from_st_mode(u32::from(mode.bits()) | 0o700)
}

pub(super) fn is_privileged() -> bool {
    rustix::process::geteuid().is_root()
}
