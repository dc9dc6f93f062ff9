//! Reading one file from the disk it is on, whatever of it the page cache has.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Advice, AtFlags, OFlags, StatxFlags, fadvise, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use crate::pace::direct::DirectBuffer;
use crate::root::{inode_of, open_here};
use crate::scan::identity::Identity;

/// A file that is read from its disk.
#[derive(Debug)]
pub(crate) struct OnDisk {
    file: OwnedFd,
    way: Way,
}

/// How the page cache is kept out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By reading past it.
    Direct,
    /// Where the file-system knows no such thing: by asking it to forget the file. It keeps what is mapped, so less is
    /// certain.
    Forget,
}

impl OnDisk {
    /// Opens a name that was a regular file when it was scanned. What is mounted over it is not opened.
    pub(crate) fn open(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Self> {
        let file = match open_here(dir, name, OFlags::DIRECT) {
            Err(Errno::INVAL) => {
                return Ok(Self { file: open_here(dir, name, OFlags::empty())?, way: Way::Forget });
            }
            outcome => outcome?,
        };
        let mut on_disk = Self { file, way: Way::Direct };
        if !reads_direct(&on_disk.file) {
            on_disk.give_up_direct()?;
        }
        Ok(on_disk)
    }

    pub(crate) fn identity(&self) -> io::Result<Identity> {
        Ok(Identity::of(&inode_of(&self.file)?))
    }

    /// Fills the buffer from `offset`, a multiple of [`DirectBuffer::ALIGNMENT`], and says how far.
    pub(crate) fn fill(&mut self, buffer: &mut DirectBuffer, offset: u64) -> io::Result<usize> {
        match self.way {
            Way::Direct => match buffer.fill(&self.file, offset) {
                // Some file-systems say so only now, or want larger blocks than any disk has.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {
                    self.give_up_direct()?;
                    self.fill_forgetting(buffer, offset)
                }
                outcome => outcome,
            },
            Way::Forget => self.fill_forgetting(buffer, offset),
        }
    }

    fn give_up_direct(&mut self) -> io::Result<()> {
        fcntl_setfl(&self.file, fcntl_getfl(&self.file)?.difference(OFlags::DIRECT))?;
        self.way = Way::Forget;
        Ok(())
    }

    fn fill_forgetting(&self, buffer: &mut DirectBuffer, offset: u64) -> io::Result<usize> {
        let range = std::num::NonZeroU64::new(buffer.len() as u64);
        // What was read ahead before is old as well, and what is read now is of no use to others.
        fadvise(&self.file, offset, range, Advice::Random)?;
        fadvise(&self.file, offset, range, Advice::DontNeed)?;
        let outcome = buffer.fill(self.file.as_fd(), offset);
        fadvise(&self.file, offset, range, Advice::DontNeed)?;
        outcome
    }
}

/// Whether direct reads of this file are. Some file-systems take the flag and read through the page cache all the same:
/// ext4 with a journal of data, encrypted files. Those that don't tell are believed.
fn reads_direct(file: &OwnedFd) -> bool {
    let told = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN);
    told.map_or(true, |told| {
        let tells = told.stx_mask & StatxFlags::DIOALIGN.bits() != 0;
        let aligned = |needed: u32| (1..=DirectBuffer::ALIGNMENT).contains(&(needed as usize));
        !tells || aligned(told.stx_dio_mem_align) && aligned(told.stx_dio_offset_align)
    })
}

/// Whether it is the disk that can't read, rather than this process.
pub(super) fn is_medium(error: &io::Error) -> bool {
    // ENODATA is what the kernel makes of a bad sector, EUCLEAN and EBADMSG of broken metadata, EILSEQ of a failed
    // check of integrity.
    matches!(
        Errno::from_io_error(error),
        Some(Errno::IO | Errno::NODATA | Errno::BADMSG | Errno::ILSEQ | Errno::REMOTEIO | Errno::UCLEAN)
    )
}
