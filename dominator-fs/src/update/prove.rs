use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use dominator_core::inode::Mode;

use super::objects::{Expected, ReadBack, read_back};
use super::stage::Staging;
use super::{UpdateError, WorkDirectory};
use crate::publish;
use crate::root::{inode_at, open_file};
use crate::seam::At;

impl Staging<'_> {
    /// Reads what was staged back from the disk, but for what was read back when it came: the swap only renames, so the
    /// blocks that are read here are those that will be in place. See `docs/decisions/0012-read-back-before-the-swap.md`.
    pub(super) fn read_back(&self) -> Result<(), UpdateError> {
        let slots = self.updater.work.slots.as_fd();
        let expected: Vec<_> = self
            .unread
            .iter()
            .map(|(slot, id, size)| Expected { name: slot.name(), id: *id, size: *size })
            .collect();
        let found = match read_back(slots, &expected) {
            // Without privileges, what its owner must not read must be opened up first.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                expected.iter().map(|file| self.opened_up(file)).collect()
            }
            other => other,
        };
        let found = found.map_err(UpdateError::Work)?;
        let mut missing = BTreeSet::new();
        for ((slot, id, _), found) in self.unread.iter().zip(found) {
            match found {
                ReadBack::Same(_) => {}
                // It was another's before it was ours, and has changed since it was scanned.
                ReadBack::Other { .. } if self.local.contains(slot) => drop(missing.insert(*id)),
                ReadBack::Other { .. } => return Err(UpdateError::Corrupt { id: *id }),
            }
        }
        if missing.is_empty() { Ok(()) } else { Err(UpdateError::Missing(missing)) }
    }

    /// Nobody else can reach the slot: it is no matter which mode the file has meanwhile.
    fn opened_up(&self, file: &Expected) -> io::Result<ReadBack> {
        let (seam, slots) = (&*self.updater.seam, self.updater.work.slots.as_fd());
        let at = At::new(slots, &file.name);
        let mode = Mode::from_st_mode(inode_at(at.dir, at.name)?.stx_mode.into());
        seam.chmod(at, WorkDirectory::FILE)?;
        let opened: File = open_file(at)?;
        let found = read_back(slots, std::slice::from_ref(file))?;
        seam.chmod(at, mode)?;
        publish::settle(seam, &opened)?;
        found.into_iter().next().ok_or_else(|| io::Error::other("nothing was read back"))
    }
}
