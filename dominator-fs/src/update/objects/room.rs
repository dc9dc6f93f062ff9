use std::io;
use std::os::fd::BorrowedFd;

use dominator_core::port::StoreError;

use super::ObjectCache;

/// Room on a file-system, as it counts it, without what is left to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeSpace {
    /// In bytes.
    pub bytes: u64,
    /// The size of a block: even the smallest file takes one.
    pub block: u64,
    /// How many inodes can be made; nothing, where the file-system makes them as it needs them.
    pub inodes: Option<u64>,
}

impl FreeSpace {
    /// What an inode and its name take beside the contents, in bytes, where inodes are made as they are needed.
    const INODE: u64 = 1024;

    pub(super) fn of(dir: BorrowedFd<'_>) -> io::Result<Self> {
        let stat = rustix::fs::fstatvfs(dir)?;
        // Blocks are counted in fragments, which are not always what is best read at once.
        let block = stat.f_frsize.max(1);
        let bytes = stat.f_bavail.saturating_mul(block).saturating_sub(ObjectCache::RESERVE);
        let inodes = stat.f_favail.saturating_sub(ObjectCache::RESERVED_INODES);
        Ok(Self { bytes, block, inodes: (stat.f_files > 0).then_some(inodes) })
    }

    /// What files of these lengths would take, in bytes: each is rounded up to blocks, and has an inode of its own.
    pub fn needed(&self, sizes: impl IntoIterator<Item = u64>) -> u64 {
        let rounded =
            |size: u64| size.div_ceil(self.block).saturating_mul(self.block).saturating_add(Self::INODE);
        sizes.into_iter().map(rounded).fold(0, u64::saturating_add)
    }

    /// Whether there is room for so many bytes and inodes.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] and [`StoreError::NoInodes`].
    pub fn suffices(&self, bytes: u64, inodes: u64) -> Result<(), StoreError> {
        if bytes > self.bytes {
            return Err(StoreError::NoSpace { need: bytes, free: self.bytes });
        }
        match self.inodes {
            Some(free) if inodes > free => Err(StoreError::NoInodes { need: inodes, free }),
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_counted_in_the_units_of_the_file_system() {
        let room = FreeSpace { bytes: 100_000, block: 4096, inodes: Some(5) };
        assert_eq!(room.needed([0, 1, 4096, 4097]), 4 * 4096 + 4 * 1024);
        assert_eq!(room.needed([u64::MAX, u64::MAX]), u64::MAX);
        assert!(room.suffices(100_000, 5).is_ok());
        assert!(matches!(
            room.suffices(100_001, 5),
            Err(StoreError::NoSpace { need: 100_001, free: 100_000 })
        ));
        assert!(matches!(room.suffices(1, 6), Err(StoreError::NoInodes { need: 6, free: 5 })));
        let endless = FreeSpace { inodes: None, ..room };
        assert!(endless.suffices(1, u64::MAX).is_ok());
    }
}
