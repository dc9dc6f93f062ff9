use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use dominator_core::path::ImagePath;
use rustix::fs::OFlags;

use super::Updater;
use crate::root::{inode_at, is_directory, names_in};

/// What lies in `/.subd/conflicts` until a person removes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conflicts {
    /// The first of it.
    pub paths: Vec<ImagePath>,
    /// How much more there is.
    pub more: u64,
    /// The room all of it takes, in bytes; what is in more than [`Conflicts::MAX_LOOKED`] files is not counted.
    pub bytes: u64,
}

impl Conflicts {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.more.saturating_add(self.paths.len() as u64)
    }

    /// How many files are looked at: whoever fills the directory does not keep the machine busy.
    pub const MAX_LOOKED: usize = 10_000;
}

impl Updater {
    /// Looks at what was kept of what somebody had changed. Names `most` of it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn conflicts(&self, most: usize) -> io::Result<Conflicts> {
        let top = self.work.conflicts.as_fd();
        let names = names_in(top)?;
        let mut found = Conflicts { more: names.len().saturating_sub(most) as u64, ..Conflicts::default() };
        for name in names.iter().take(most) {
            // What somebody else put there may have any name.
            let path = [b"/.subd/conflicts/".as_slice(), name].concat();
            found.paths.extend(ImagePath::parse(&path));
        }
        found.paths.sort();
        let mut left = Conflicts::MAX_LOOKED;
        let mut waiting: Vec<Vec<u8>> = vec![b".".to_vec()];
        while let Some(relative) = waiting.pop() {
            let Some(here) = gone_is_fine(open(top, &relative))? else { continue };
            for name in names_in(here.as_fd())? {
                let Some(rest) = left.checked_sub(1) else { return Ok(found) };
                left = rest;
                let Some(stat) = gone_is_fine(inode_at(&here, &name))? else { continue };
                found.bytes = found.bytes.saturating_add(stat.stx_blocks.saturating_mul(512));
                if is_directory(stat.stx_mode) && !self.root.is_elsewhere(&stat) {
                    waiting.push([relative.as_slice(), b"/", &name].concat());
                }
            }
        }
        Ok(found)
    }

    /// Removes all of it, for good, and says what that was; names `most` of it. Only a person can know that none of it is
    /// missed: this is no part of any cleaning up. What something is mounted in stays.
    ///
    /// # Errors
    /// What the kernel says. Some of it may be gone then.
    pub fn remove_conflicts(&mut self, most: usize) -> io::Result<Conflicts> {
        let found = self.conflicts(most)?;
        self.work.remove_conflicts(&*self.seam)?;
        Ok(found)
    }
}

fn open(top: BorrowedFd<'_>, relative: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_SYMLINKS;
    Ok(rustix::fs::openat2(top, relative, flags, rustix::fs::Mode::empty(), resolve)?)
}

/// A person may be removing it at this moment.
fn gone_is_fine<T>(looked: io::Result<T>) -> io::Result<Option<T>> {
    match looked {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}
