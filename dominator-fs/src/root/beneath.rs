//! A mount of one's own of what a directory is on: what other mounts hide on the machine is in plain sight there.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::libc;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;

/// Whether a root is seen without what is mounted over parts of it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Beneath {
    /// It is: mount points are plain directories and files there.
    Yes,
    /// It is seen as everybody sees it: what is hidden below mounts stays out of sight.
    No {
        /// What the kernel said.
        why: io::Error,
    },
}

impl fmt::Display for Beneath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes => f.write_str("the root is seen without what is mounted over it"),
            Self::No { why } => {
                write!(f, "what is hidden below mounts is not looked at: {why}")?;
                match Errno::from_io_error(why) {
                    Some(Errno::PERM) => {
                        f.write_str("; give this process CAP_SYS_ADMIN to have it looked at")
                    }
                    Some(Errno::NOSYS) => f.write_str("; Linux 5.2 or newer has what is needed"),
                    _ => Ok(()),
                }
            }
        }
    }
}

/// A mount that is nowhere in any tree of mounts.
#[derive(Debug)]
pub(super) struct Detached {
    /// The mount ends when this is closed.
    pub(super) mount: OwnedFd,
    /// Its top directory.
    pub(super) top: OwnedFd,
}

/// Makes a mount of the file-system `directory` is on, with that directory at its top and nothing mounted in it.
pub(super) fn detach(directory: BorrowedFd<'_>) -> io::Result<Detached> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let mount = rustix::mount::open_tree(directory, c"", flags)?;
    match make_private(mount.as_fd()) {
        // Linux older than 5.12 can't be asked, and never lets later mounts of the machine appear in such a mount.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOSYS) => {}
        outcome => outcome?,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::openat(&mount, c".", flags, Mode::empty())?;
    Ok(Detached { mount, top })
}

/// Nothing that is mounted elsewhere shall appear in it.
#[expect(unsafe_code, reason = "neither rustix nor nix has this call")]
fn make_private(mount: BorrowedFd<'_>) -> io::Result<()> {
    /// `struct mount_attr`.
    #[repr(C)]
    struct Change {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let change = Change { set: 0, clear: 0, propagation: libc::MS_PRIVATE, user_namespace: 0 };
    // SAFETY: the name is a string of C, and `change` lives through the call, is laid out as a `mount_attr`, and is as long
    // as is said. The kernel only reads both.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const change,
            size_of::<Change>(),
        )
    };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
