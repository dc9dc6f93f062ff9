use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;

use dominator_core::inode::{Inode, Kind, Mode};
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;

use super::error::Trouble;
use super::objects::{Kept, hash};
use super::stage::{Fault, Staging};
use super::step::Slot;
use super::{Updater, WorkDirectory};
use crate::publish;
use crate::root::{Statx, inode_of, open_file};
use crate::seam::{At, Node};
use crate::sparse::Sparse;

impl Staging<'_> {
    /// Makes a file of an object in a slot, and says whether the cache's own became it: the last use takes it. Unless this
    /// process has read it back from the disk since it came, it is read back later, with all that are copied.
    pub(super) fn contents(
        &mut self,
        slot: Slot,
        object: ObjectId,
        size: u64,
    ) -> Result<Option<ObjectId>, Fault> {
        let updater = self.updater;
        let name = slot.name();
        let at = At::new(updater.work.slots.as_fd(), &name);
        if size == 0 {
            updater.seam.create(at, WorkDirectory::FILE)?;
            return if object == ObjectId::of(b"") { Ok(None) } else { Err(Fault::Corrupt(object)) };
        }
        let last = match self.checked.uses.get_mut(&object) {
            Some((count, _)) => {
                *count = count.saturating_sub(1);
                *count == 0
            }
            None => false,
        };
        if !last {
            let hashed = copy(updater, &updater.objects.open_object(&object)?, size, at)?;
            self.unread.push((slot, object, size));
            return if hashed == (object, size) { Ok(None) } else { Err(Fault::Corrupt(object)) };
        }
        match updater.objects.look(&object)? {
            Some((length, Kept::Surely)) if length == size => {}
            Some((length, Kept::Perhaps)) if length == size => self.unread.push((slot, object, size)),
            Some(_) | None => return Err(Fault::Corrupt(object)),
        }
        updater.objects.take(&object, at)?;
        Ok(Some(object))
    }

    /// Makes something without contents in a slot.
    pub(super) fn special(&self, slot: Slot, inode: &Inode) -> Result<(), Fault> {
        let (name, seam) = (slot.name(), &*self.updater.seam);
        let at = At::new(self.updater.work.slots.as_fd(), &name);
        let mode = Mode::from_st_mode(0o600);
        match &inode.kind {
            Kind::Symlink { target } => seam.symlink(target, at)?,
            Kind::BlockDevice { device, .. } => seam.mknod(at, Node::Block(*device), mode)?,
            Kind::CharDevice { device, .. } => seam.mknod(at, Node::Char(*device), mode)?,
            Kind::Fifo { .. } => seam.mknod(at, Node::Fifo, mode)?,
            Kind::Computed { .. } => {
                return Err(Trouble::because("a computed file that was not computed").into());
            }
            Kind::Regular { .. } | Kind::Directory { .. } | Kind::Unknown { .. } => {
                return Err(Trouble::because("nothing that can be put").into());
            }
            _ => return Err(Trouble::because("a kind of file this agent does not know").into()),
        }
        Ok(())
    }

    /// Makes a file in a slot with the contents that `inode` says the one at `path` has, which is `found`.
    pub(super) fn renewed(
        &mut self,
        path: &ImagePath,
        inode: &Inode,
        found: &Statx,
        slot: Slot,
    ) -> Result<(), Fault> {
        let Some(expected) = inode.object() else { return self.special(slot, inode) };
        let updater = self.updater;
        let (dir, name) = updater.root.parent(path)?;
        let from = open_file(At::new(dir.as_fd(), name.as_bytes())).map_err(Trouble::of_reading)?;
        let stat = inode_of(&from)?;
        if stat.stx_ino != found.stx_ino {
            return Err(Trouble::because("it changed since it was scanned").into());
        }
        // Nobody's holes of a terabyte stop an update for want of room.
        if stat.stx_size != expected.1 {
            return Err(Trouble::because("its contents changed since it was scanned").into());
        }
        let free = updater.objects.free_space()?;
        if free.needed([stat.stx_size]) > free.bytes {
            return Err(Trouble::Halt(rustix::io::Errno::NOSPC.into()).into());
        }
        let name = slot.name();
        let copied = copy(updater, &from, expected.1, At::new(updater.work.slots.as_fd(), &name))?;
        if copied == expected {
            self.unread.push((slot, copied.0, copied.1));
            Ok(())
        } else {
            Err(Trouble::because("its contents changed since it was scanned").into())
        }
    }

    /// DURABILITY: all of it before the first rename, or a crash leaves names with nothing behind them.
    pub(super) fn settle(&self) -> io::Result<()> {
        let Updater { seam, work, .. } = self.updater;
        let slots = work.slots.as_fd();
        if self.settled.len() >= publish::MANY {
            let _durable = publish::settle_all(&**seam, slots)?;
            return Ok(());
        }
        for slot in &self.settled {
            match open_file(At::new(slots, &slot.name())) {
                Ok(file) => publish::settle(&**seam, &file)?,
                // A file without read permission, and no privilege to read it nevertheless.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    let _durable = publish::settle_all(&**seam, slots)?;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        let _durable = publish::directories(&**seam, [slots, work.objects.as_fd()])?;
        Ok(())
    }
}

/// Copies a file of `size` bytes to a new one, sharing the blocks where the file-system can, and hashes what came out. Of a
/// longer one a byte more: somebody may be making it longer as fast as it is copied.
pub(super) fn copy(
    updater: &Updater,
    from: &File,
    size: u64,
    at: At<'_>,
) -> Result<(ObjectId, u64), Trouble> {
    let to = updater.seam.create(at, WorkDirectory::FILE)?;
    let most = size.saturating_add(1);
    if updater.seam.reflink(from, &to).is_ok() {
        return hash((&to).take(most), |_| Ok(())).map_err(Trouble::of_reading);
    }
    let mut to = Sparse::new(to)?;
    let mut refused = None;
    let hashed = hash(from.take(most), |bytes| {
        to.write(&*updater.seam, bytes).map_err(|error| {
            let kind = error.kind();
            refused = Some(error);
            kind.into()
        })
    });
    match (hashed, refused) {
        (_, Some(error)) => Err(error.into()),
        (Err(error), None) => Err(Trouble::of_reading(error)),
        (Ok(hashed), None) => {
            to.finish(&*updater.seam)?;
            Ok(hashed)
        }
    }
}
