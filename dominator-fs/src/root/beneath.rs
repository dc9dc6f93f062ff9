//! A mount of one's own of what a directory is on: what other mounts hide on the machine is in plain sight there.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::libc;
use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
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
fn make_private(mount: BorrowedFd<'_>) -> io::Result<()> {
    change(mount, Change { propagation: libc::MS_PRIVATE, ..Change::default() })
}

/// Makes a detached mount one for reading only when `host` is, and one for writing when that is: what is mounted for writing
/// late in a machine's start was cloned before that.
pub(super) fn follow(mount: BorrowedFd<'_>, host: BorrowedFd<'_>) -> io::Result<()> {
    let is_read_only = |directory: BorrowedFd<'_>| {
        io::Result::Ok(rustix::fs::fstatvfs(directory)?.f_flag.contains(StatVfsMountFlags::RDONLY))
    };
    match (is_read_only(host)?, is_read_only(mount)?) {
        (false, true) => change(mount, Change { clear: libc::MOUNT_ATTR_RDONLY, ..Change::default() }),
        (true, false) => change(mount, Change { set: libc::MOUNT_ATTR_RDONLY, ..Change::default() }),
        (true, true) | (false, false) => Ok(()),
    }
}

/// `struct mount_attr`.
#[derive(Default)]
#[repr(C)]
struct Change {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

#[expect(unsafe_code, reason = "neither rustix nor nix has this call")]
fn change(mount: BorrowedFd<'_>, change: Change) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use std::fs::File;

    use dominator_fs_testkit::{Access, mount_tmpfs, remount, with_mounts};

    use super::super::Root;
    use super::Beneath;
    use crate::traits::granularity_of;

    #[test]
    fn a_root_that_is_mounted_for_writing_late_can_be_written_to_then() {
        with_mounts("a_root_that_is_mounted_for_writing_late_can_be_written_to_then", || {
            let dir = tempfile::tempdir().unwrap();
            mount_tmpfs(dir.path(), "mode=755");
            remount(dir.path(), Access::Read);
            let (root, beneath) = Root::open_beneath_mounts(dir.path()).unwrap();
            assert!(matches!(beneath, Beneath::Yes), "{beneath}");
            let is_writable = || {
                root.follow_machine().unwrap();
                granularity_of(&root).is_ok()
            };
            assert!(!is_writable());
            remount(dir.path(), Access::Write);
            assert!(is_writable());
            // What is written to can't be made to stay as it is.
            let file = File::create(dir.path().join("file")).unwrap();
            assert!(is_writable());
            drop(file);
            remount(dir.path(), Access::Read);
            assert!(!is_writable());
        });
    }
}
