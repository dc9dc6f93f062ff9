use std::io;
use std::os::fd::AsFd;

use dominator_core::inode::Mode;
use dominator_core::path::ImagePath;
use dominator_core::port::PathFailure;

use super::Updater;
use super::metadata::{Attributes, Rules, dress, redress};
use super::stage::handle;
use crate::mounts::{Mounts, MountsError};
use crate::publish;
use crate::root::inode_of;
use crate::seam::At;

/// How one change to the tree is taken back.
#[derive(Debug)]
pub(super) enum Undo {
    /// Nothing was at the path; what is there goes back to its slot.
    Placed { path: ImagePath, slot: Vec<u8> },
    /// What was at the path lies in the slot.
    Exchanged { path: ImagePath, slot: Vec<u8> },
    /// What was at the path lies aside.
    Deleted { path: ImagePath, slot: Vec<u8> },
    /// There was an empty directory with these attributes.
    Removed { path: ImagePath, before: Attributes },
    /// The attributes of a directory were these.
    Directory { path: ImagePath, before: Attributes },
    /// The attributes of a file were these.
    File { path: ImagePath, before: Attributes },
}

/// Takes changes back, the last one first, and says what could not be.
pub(super) fn undo(
    updater: &Updater,
    rules: Rules,
    mounts: &mut Mounts,
    done: Vec<Undo>,
) -> Vec<PathFailure> {
    let one = |undo: Undo| {
        let path = undo.path().clone();
        let outcome = match undo.moves().then(|| mounted_within(mounts, &path)).transpose() {
            Ok(Some(Some(reason))) => Err(reason),
            Ok(_) => take_back(updater, rules, undo).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        outcome.err().map(|reason| PathFailure { path, reason })
    };
    done.into_iter().rev().filter_map(one).collect()
}

impl Undo {
    /// Whether what is at the path by now is moved away.
    fn moves(&self) -> bool {
        match self {
            Self::Placed { .. } | Self::Exchanged { .. } => true,
            Self::Deleted { .. } | Self::Removed { .. } | Self::Directory { .. } | Self::File { .. } => false,
        }
    }

    fn path(&self) -> &ImagePath {
        match self {
            Self::Placed { path, .. }
            | Self::Exchanged { path, .. }
            | Self::Deleted { path, .. }
            | Self::Removed { path, .. }
            | Self::Directory { path, .. }
            | Self::File { path, .. } => path,
        }
    }
}

/// Why what is at `path` must stay there, if it must.
fn mounted_within(mounts: &mut Mounts, path: &ImagePath) -> Result<Option<String>, MountsError> {
    mounts.refresh()?;
    Ok(mounts.within(path).map(|point| format!("something was mounted at {point} meanwhile")))
}

fn take_back(updater: &Updater, rules: Rules, undo: Undo) -> io::Result<()> {
    let (root, seam, work) = (&updater.root, &*updater.seam, &updater.work);
    match undo {
        Undo::Placed { path, slot } => {
            let (dir, name) = root.parent(&path)?;
            publish::place(seam, At::new(dir.as_fd(), name.as_bytes()), At::new(work.staging.as_fd(), &slot))
        }
        Undo::Exchanged { path, slot } => {
            let (dir, name) = root.parent(&path)?;
            publish::exchange(
                seam,
                At::new(dir.as_fd(), name.as_bytes()),
                At::new(work.staging.as_fd(), &slot),
            )
        }
        Undo::Deleted { path, slot } => {
            let (dir, name) = root.parent(&path)?;
            publish::place(seam, At::new(work.aside.as_fd(), &slot), At::new(dir.as_fd(), name.as_bytes()))
        }
        Undo::Removed { path, before } => {
            let (dir, name) = root.parent(&path)?;
            let at = At::new(dir.as_fd(), name.as_bytes());
            seam.mkdir(at, Mode::from_st_mode(0o700))?;
            dress(seam, at, &before, rules)
        }
        Undo::Directory { path, before } => {
            let dir = root.directory(&path)?;
            let now = Attributes::read(dir.as_fd(), &inode_of(&dir)?, rules)?;
            redress(seam, dir.as_fd(), &now, &before, rules)
        }
        Undo::File { path, before } => {
            let file = handle(updater, &path)?;
            let now = Attributes::read(file.as_fd(), &inode_of(&file)?, rules)?;
            redress(seam, file.as_fd(), &now, &before, rules)
        }
    }
}
