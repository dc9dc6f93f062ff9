//! The seam: the only way anything on a disk is changed.
//!
//! Every call is relative to a directory handle and never follows the last component, so that nobody who renames
//! directories or plants symbolic links meanwhile can lead it elsewhere. [`Kernel`] is the real thing; a test may put a
//! model in its place that cuts the power.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::root::proc_path;
use dominator_core::inode::{Device, Mode, Timestamp};
use nix::libc;
use rustix::fs::{AtFlags, FileType, OFlags, RenameFlags, Timespec, Timestamps, XattrFlags};

use rustix::io::Errno;

pub use rustix::fs::IFlags;

/// A name in an open directory, or an open file itself.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    /// The directory, or the file itself when the name is empty.
    pub dir: BorrowedFd<'a>,
    /// The name, a single component, or nothing.
    pub name: &'a [u8],
}

impl<'a> At<'a> {
    /// `name` in `dir`.
    pub const fn new(dir: BorrowedFd<'a>, name: &'a [u8]) -> Self {
        Self { dir, name }
    }

    /// What `handle` was opened for, whatever names it has by now. Only for setting metadata.
    pub const fn itself(handle: BorrowedFd<'a>) -> Self {
        Self { dir: handle, name: b"" }
    }
}

/// What a rename does when the new name is taken, or must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rename {
    /// What is there is replaced.
    Replace,
    /// It fails with `EEXIST`.
    Never,
    /// Both change places; fails with `ENOENT` when the new name is free.
    Exchange,
}

/// A file without contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// A named pipe.
    Fifo,
    /// A block device.
    Block(Device),
    /// A character device.
    Char(Device),
}

/// Whether a name that is removed is a directory's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remove {
    /// Anything but a directory.
    File,
    /// An empty directory.
    Directory,
}

/// Every change that can be made to a file-system.
///
/// # Errors
/// All methods: what the kernel says.
pub trait Seam: Send + Sync {
    /// Makes a directory.
    fn mkdir(&self, at: At<'_>, mode: Mode) -> io::Result<()>;
    /// Makes a file that was not there and opens it for reading and writing.
    fn create(&self, at: At<'_>, mode: Mode) -> io::Result<File>;
    /// Writes all of `bytes` where the file stands.
    fn write(&self, file: &File, bytes: &[u8]) -> io::Result<()>;
    /// Makes `to` share all contents of `from`, without copying; many file-systems can't.
    fn reflink(&self, from: &File, to: &File) -> io::Result<()>;
    /// Sets the length.
    fn truncate(&self, file: &File, len: u64) -> io::Result<()>;
    /// Makes a symbolic link.
    fn symlink(&self, target: &[u8], at: At<'_>) -> io::Result<()>;
    /// Makes a pipe or a device node.
    fn mknod(&self, at: At<'_>, node: Node, mode: Mode) -> io::Result<()>;
    /// Gives an inode another name.
    fn link(&self, from: At<'_>, to: At<'_>) -> io::Result<()>;
    /// Renames. Only [`crate::publish`] calls this.
    fn rename(&self, from: At<'_>, to: At<'_>, rename: Rename) -> io::Result<()>;
    /// Removes a name.
    fn remove(&self, at: At<'_>, remove: Remove) -> io::Result<()>;
    /// Sets the mode; symbolic links have none to set.
    fn chmod(&self, at: At<'_>, mode: Mode) -> io::Result<()>;
    /// Sets owner and group.
    fn chown(&self, at: At<'_>, uid: u32, gid: u32) -> io::Result<()>;
    /// Sets the time of the last modification; that of the last access stays.
    fn set_mtime(&self, at: At<'_>, mtime: Timestamp) -> io::Result<()>;
    /// Sets an extended attribute.
    fn set_xattr(&self, at: At<'_>, name: &[u8], value: &[u8]) -> io::Result<()>;
    /// Removes an extended attribute.
    fn remove_xattr(&self, at: At<'_>, name: &[u8]) -> io::Result<()>;
    /// Sets what `chattr` sets of an open file or directory: whether it is immutable, append-only and so on.
    fn set_flags(&self, fd: BorrowedFd<'_>, flags: IFlags) -> io::Result<()>;
    /// Waits until contents and metadata of a file or directory would survive a power cut. Only [`crate::publish`]
    /// calls this.
    fn fsync(&self, fd: BorrowedFd<'_>) -> io::Result<()>;
    /// Waits for everything of the file-system `fd` is on. Only [`crate::publish`] calls this.
    fn syncfs(&self, fd: BorrowedFd<'_>) -> io::Result<()>;
}

/// The real file-system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kernel;

impl Seam for Kernel {
    fn mkdir(&self, at: At<'_>, mode: Mode) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(at.dir, at.name, raw(mode))?)
    }

    fn create(&self, at: At<'_>, mode: Mode) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(at.dir, at.name, flags, raw(mode))?.into())
    }

    fn write(&self, mut file: &File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn reflink(&self, from: &File, to: &File) -> io::Result<()> {
        Ok(rustix::fs::ioctl_ficlone(to, from)?)
    }

    fn truncate(&self, file: &File, len: u64) -> io::Result<()> {
        file.set_len(len)
    }

    fn symlink(&self, target: &[u8], at: At<'_>) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(target, at.dir, at.name)?)
    }

    fn mknod(&self, at: At<'_>, node: Node, mode: Mode) -> io::Result<()> {
        let (kind, device) = match node {
            Node::Fifo => (FileType::Fifo, Device { major: 0, minor: 0 }),
            Node::Block(device) => (FileType::BlockDevice, device),
            Node::Char(device) => (FileType::CharacterDevice, device),
        };
        let device = rustix::fs::makedev(device.major, device.minor);
        Ok(rustix::fs::mknodat(at.dir, at.name, kind, raw(mode), device)?)
    }

    fn link(&self, from: At<'_>, to: At<'_>) -> io::Result<()> {
        Ok(rustix::fs::linkat(from.dir, from.name, to.dir, to.name, AtFlags::empty())?)
    }

    fn rename(&self, from: At<'_>, to: At<'_>, rename: Rename) -> io::Result<()> {
        let flags = match rename {
            Rename::Replace => RenameFlags::empty(),
            Rename::Never => RenameFlags::NOREPLACE,
            Rename::Exchange => RenameFlags::EXCHANGE,
        };
        Ok(rustix::fs::renameat_with(from.dir, from.name, to.dir, to.name, flags)?)
    }

    fn remove(&self, at: At<'_>, remove: Remove) -> io::Result<()> {
        let flags = match remove {
            Remove::File => AtFlags::empty(),
            Remove::Directory => AtFlags::REMOVEDIR,
        };
        Ok(rustix::fs::unlinkat(at.dir, at.name, flags)?)
    }

    fn chmod(&self, at: At<'_>, mode: Mode) -> io::Result<()> {
        match chmod_itself(at, mode) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOSYS) => {}
            other => return other,
        }
        // Linux older than 6.6 can't be told not to follow; a handle to the file itself can't be swapped.
        let opened;
        let handle = if at.name.is_empty() {
            at.dir
        } else {
            opened = handle(at)?;
            opened.as_fd()
        };
        Ok(rustix::fs::chmod(itself_path(handle), raw(mode))?)
    }

    fn chown(&self, at: At<'_>, uid: u32, gid: u32) -> io::Result<()> {
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        Ok(rustix::fs::chownat(at.dir, at.name, Some(uid), Some(gid), ITSELF)?)
    }

    fn set_mtime(&self, at: At<'_>, mtime: Timestamp) -> io::Result<()> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
            last_modification: Timespec { tv_sec: mtime.seconds(), tv_nsec: mtime.nanos().into() },
        };
        Ok(rustix::fs::utimensat(at.dir, at.name, &times, ITSELF)?)
    }

    fn set_xattr(&self, at: At<'_>, name: &[u8], value: &[u8]) -> io::Result<()> {
        if at.name.is_empty() {
            return Ok(rustix::fs::setxattr(itself_path(at.dir), name, value, XattrFlags::empty())?);
        }
        Ok(rustix::fs::lsetxattr(proc_path(at.dir, at.name), name, value, XattrFlags::empty())?)
    }

    fn remove_xattr(&self, at: At<'_>, name: &[u8]) -> io::Result<()> {
        if at.name.is_empty() {
            return Ok(rustix::fs::removexattr(itself_path(at.dir), name)?);
        }
        Ok(rustix::fs::lremovexattr(proc_path(at.dir, at.name), name)?)
    }

    fn set_flags(&self, fd: BorrowedFd<'_>, flags: IFlags) -> io::Result<()> {
        Ok(rustix::fs::ioctl_setflags(fd, flags)?)
    }

    fn fsync(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(rustix::fs::fsync(fd)?)
    }

    fn syncfs(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(rustix::fs::syncfs(fd)?)
    }
}

fn raw(mode: Mode) -> rustix::fs::Mode {
    rustix::fs::Mode::from_raw_mode(mode.bits().into())
}

#[expect(unsafe_code, reason = "neither rustix nor nix has this call")]
fn chmod_itself(at: At<'_>, mode: Mode) -> io::Result<()> {
    let name = CString::new(at.name)?;
    // SAFETY: the name is a string of C and lives through the call, which only reads it.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_fchmodat2,
            at.dir.as_raw_fd(),
            name.as_ptr(),
            libc::c_uint::from(mode.bits()),
            libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH,
        )
    };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A handle that only names the file: opening it reads nothing, follows nothing and wakes no device.
fn handle(at: At<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at.dir, at.name, flags, rustix::fs::Mode::empty())?)
}

/// A path to what `handle` was opened for. The kernel resolves it to that very file, even a symbolic link.
pub(crate) fn itself_path(handle: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", handle.as_raw_fd())
}

/// Neither is a symbolic link followed, nor is a name needed.
const ITSELF: AtFlags = AtFlags::SYMLINK_NOFOLLOW.union(AtFlags::EMPTY_PATH);
