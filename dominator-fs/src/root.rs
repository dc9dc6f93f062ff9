//! The directory that stands for `/`, and the only ways to reach what is in it: by handle, component by component,
//! never through a symbolic link and never above it.

mod beneath;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dominator_core::inode::{Timestamp, Xattrs};
use dominator_core::path::{ImagePath, Name};
use dominator_core::view::XattrPolicy;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use thiserror::Error;

use beneath::Detached;

use crate::seam::At;

pub use beneath::Beneath;
pub use rustix::fs::Statx;

/// An open directory that a whole image lives in: `/` of this machine, or of one that is not running. Clones share the
/// handle.
#[derive(Clone, Debug)]
pub struct Root {
    handles: Arc<Handles>,
    dev: u64,
    mount: Option<u64>,
    layered: bool,
}

#[derive(Debug)]
struct Handles {
    /// Where every look-up begins.
    top: OwnedFd,
    /// The same directory where the machine has it, and what keeps the mount it is looked at through, if that is another.
    detached: Option<(OwnedFd, OwnedFd)>,
}

impl Root {
    /// How often a look-up starts over when the kernel says that a rename got in its way.
    const MAX_ATTEMPTS: usize = 64;
    /// How every path is resolved: no symbolic links at all, and `/` is the root's handle.
    const RESOLVE: ResolveFlags =
        ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_SYMLINKS);

    /// Opens the directory at `path`. Symbolic links on the way there are followed: the operator chose it.
    ///
    /// # Errors
    /// [`RootError`] when it is no directory or can't be opened.
    pub fn open(path: &Path) -> Result<Self, RootError> {
        let fault = |source: io::Error| RootError { path: path.to_owned(), source };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| fault(error.into()))?;
        Self::of(Handles { top, detached: None }).map_err(fault)
    }

    /// Opens the directory at `path` as [`Root::open`] does, but so that nothing is mounted in it: what other mounts hide is
    /// seen and can be changed, and their mount points are plain directories and files. Nobody else sees a difference. Needs
    /// `CAP_SYS_ADMIN` and Linux 5.2; the second value says why it could not be, and what is mounted is seen then.
    ///
    /// Whether it can be written to is as it is on the machine now; [`Root::follow_machine`] has it be so later.
    ///
    /// # Errors
    /// As [`Root::open`].
    pub fn open_beneath_mounts(path: &Path) -> Result<(Self, Beneath), RootError> {
        let plain = Self::open(path)?;
        let detached = beneath::detach(plain.as_fd()).and_then(|Detached { mount, top }| {
            let host = plain.handles.top.try_clone()?;
            Self::of(Handles { top, detached: Some((host, mount)) })
        });
        Ok(match detached {
            Ok(root) => (root, Beneath::Yes),
            Err(why) => (plain, Beneath::No { why }),
        })
    }

    /// Makes a root that was opened beneath mounts writable when the machine's own has become so, as with a machine whose
    /// root is mounted for reading until it was checked, or no longer writable. Costs two system calls when neither has.
    ///
    /// # Errors
    /// What the kernel says, such as `ENOSYS` before Linux 5.12: open it anew then.
    pub fn follow_machine(&self) -> io::Result<()> {
        let detached = self.handles.detached.as_ref();
        detached.map_or(Ok(()), |(host, mount)| beneath::follow(mount.as_fd(), host.as_fd()))
    }

    fn of(handles: Handles) -> io::Result<Self> {
        const OVERLAYFS: u64 = 0x794c_7630;
        let stat = inode_of(&handles.top)?;
        let kind = rustix::fs::fstatfs(&handles.top)?.f_type;
        let layered = u64::try_from(kind).is_ok_and(|kind| kind == OVERLAYFS);
        Ok(Self { dev: dev_of(&stat), mount: mount_of(&stat), layered, handles: Arc::new(handles) })
    }

    /// The directory where the machine has it, mounted as the machine has it mounted.
    pub(crate) fn on_machine(&self) -> BorrowedFd<'_> {
        self.handles.detached.as_ref().map_or(&self.handles.top, |(host, _)| host).as_fd()
    }

    /// The file-system the root is on, as `st_dev` tells it.
    pub fn dev(&self) -> u64 {
        self.dev
    }

    /// Whether files come from several layers, and become others, in all but their number, when they change first.
    pub(crate) fn is_layered(&self) -> bool {
        self.layered
    }

    /// Whether something with that `stat` is on another file-system, or is where one is mounted: what the image calls
    /// by this name is hidden below it, and renames can neither reach nor replace it.
    pub fn is_elsewhere(&self, stat: &Statx) -> bool {
        // Overlay file-systems give files, but not directories, the device of the layer they come from.
        let directory = is_directory(stat.stx_mode);
        let mount = matches!((self.mount, mount_of(stat)), (Some(ours), Some(other)) if ours != other);
        mount
            || stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
            || directory && dev_of(stat) != self.dev
    }

    /// Opens a directory for reading its entries and as the base of further calls. It may be on another file-system.
    ///
    /// # Errors
    /// What the kernel says; `ELOOP` when a symbolic link is in the way, `ENOTDIR` when something else is.
    pub fn directory(&self, path: &ImagePath) -> io::Result<OwnedFd> {
        self.resolved(path, OFlags::RDONLY, Self::RESOLVE)
    }

    /// As [`Root::directory`], but nothing that is mounted below the root is opened, or even asked.
    ///
    /// # Errors
    /// What the kernel says; `EXDEV` when something is mounted there or on the way there, or when what was there was
    /// moved out of the root meanwhile.
    pub fn directory_here(&self, path: &ImagePath) -> io::Result<OwnedFd> {
        self.resolved(path, OFlags::RDONLY, Self::RESOLVE.union(ResolveFlags::NO_XDEV))
    }

    /// As [`Root::directory_here`], but the handle only names the directory (`O_PATH`): it is the base of further calls, and
    /// can be had at half the price.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn base_here(&self, path: &ImagePath) -> io::Result<OwnedFd> {
        self.resolved(path, OFlags::PATH, Self::RESOLVE.union(ResolveFlags::NO_XDEV))
    }

    fn resolved(&self, path: &ImagePath, how: OFlags, resolve: ResolveFlags) -> io::Result<OwnedFd> {
        let relative = match path.as_bytes() {
            b"/" => b".",
            bytes => bytes.strip_prefix(b"/").unwrap_or(bytes),
        };
        let flags = how | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut attempts = 0;
        loop {
            attempts += 1;
            match rustix::fs::openat2(&self.handles.top, relative, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) if attempts < Self::MAX_ATTEMPTS => {}
                outcome => return Ok(outcome?),
            }
        }
    }

    /// Opens the directory `path` is in, and says its name there.
    ///
    /// # Errors
    /// As [`Root::directory`]; `EISDIR` for the root itself, which has neither.
    pub fn parent(&self, path: &ImagePath) -> io::Result<(OwnedFd, Name)> {
        let (parent, name) = path.split().ok_or(Errno::ISDIR)?;
        Ok((self.directory(&parent)?, name))
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handles.top.as_fd()
    }
}

/// A root that can't be opened.
#[derive(Debug, Error)]
#[error("{} can't be opened as the root of an image; it must be a directory this process may read", path.display())]
pub struct RootError {
    path: PathBuf,
    source: io::Error,
}

/// What `stat` says of `name` in `dir`; of a symbolic link itself, not of what it points to. `name` is one component.
///
/// # Errors
/// What the kernel says.
pub fn inode_at(dir: impl AsFd, name: &[u8]) -> io::Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    Ok(rustix::fs::statx(dir, name, flags, STAT)?)
}

/// What `stat` says of an open file.
///
/// # Errors
/// What the kernel says.
pub fn inode_of(file: impl AsFd) -> io::Result<Statx> {
    Ok(rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, STAT)?)
}

/// The file-system, as `st_dev` tells it.
pub fn dev_of(stat: &Statx) -> u64 {
    rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor)
}

/// The extended attributes of an open file that `policy` covers. None where the file-system has none.
///
/// # Errors
/// What the kernel says; `InvalidData` when there are more than [`Xattrs`] holds.
pub fn xattrs_of(file: impl AsFd, policy: XattrPolicy) -> io::Result<Xattrs> {
    let file = file.as_fd();
    collect_xattrs(
        policy,
        |buffer| rustix::fs::flistxattr(file, buffer),
        |name, buffer| rustix::fs::fgetxattr(file, name, buffer),
    )
}

/// The extended attributes of `name` in `dir` that `policy` covers; of a symbolic link itself. For what can't be opened:
/// symbolic links, devices, pipes. Needs `/proc`.
///
/// # Errors
/// As [`xattrs_of`].
pub fn xattrs_at(dir: impl AsFd, name: &[u8], policy: XattrPolicy) -> io::Result<Xattrs> {
    let path = proc_path(dir.as_fd(), name);
    let path = path.as_path();
    collect_xattrs(
        policy,
        |buffer| rustix::fs::llistxattr(path, buffer),
        |name, buffer| rustix::fs::lgetxattr(path, name, buffer),
    )
}

/// The extended attributes of what `handle` was opened for that `policy` covers; a handle that only names the file
/// (`O_PATH`) is enough. Needs `/proc`.
///
/// # Errors
/// As [`xattrs_of`].
pub fn xattrs_itself(handle: impl AsFd, policy: XattrPolicy) -> io::Result<Xattrs> {
    let path = format!("/proc/self/fd/{}", handle.as_fd().as_raw_fd());
    collect_xattrs(
        policy,
        |buffer| rustix::fs::listxattr(&path, buffer),
        |name, buffer| rustix::fs::getxattr(&path, name, buffer),
    )
}

/// A path for system calls that take no handle. No race hides in it: the directory is named by its handle, and the
/// calls it is for (those that begin with `l`) don't follow the last component.
pub fn proc_path(dir: BorrowedFd<'_>, name: &[u8]) -> PathBuf {
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    path.push(OsStr::from_bytes(name));
    path
}

/// The path of an open directory as the kernel tells it to this process, or to the detached mount it is on. Needs `/proc`.
pub(crate) fn place_of(directory: impl AsFd) -> io::Result<Vec<u8>> {
    let link = format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd());
    Ok(rustix::fs::readlink(link, Vec::new())?.into_bytes())
}

/// Opens a file for reading, following nothing and waiting for nothing.
pub(crate) fn open_file(at: At<'_>) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at.dir, at.name, flags, Mode::empty())?.into())
}

/// Opens a file for reading, with `extra` flags. Should it have become a pipe, this does not wait for a writer; neither a
/// symbolic link nor what is mounted over it is opened. Its access time stays as it is, where this process may have that.
pub(crate) fn open_here(dir: BorrowedFd<'_>, name: &[u8], extra: OFlags) -> rustix::io::Result<OwnedFd> {
    const RESOLVE: ResolveFlags = ResolveFlags::NO_XDEV.union(ResolveFlags::NO_SYMLINKS);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let open = |flags| rustix::fs::openat2(dir, name, flags | extra, Mode::empty(), RESOLVE);
    match open(flags | OFlags::NOATIME) {
        // Only owners and root may leave the access time alone.
        Err(Errno::PERM) => open(flags),
        outcome => outcome,
    }
}

/// Opens a directory for reading its entries, following nothing.
pub(crate) fn open_directory(at: At<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at.dir, at.name, flags, Mode::empty())?)
}

/// The names in an open directory, in no order.
pub(crate) fn names_in(dir: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

/// Whether an open directory holds nothing. Of one that holds millions of names, a few are read.
pub(crate) fn is_empty(dir: BorrowedFd<'_>) -> io::Result<bool> {
    for entry in Dir::read_from(dir)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether `st_mode` is a directory's.
pub(crate) fn is_directory(st_mode: u16) -> bool {
    FileType::from_raw_mode(st_mode.into()).is_dir()
}

/// All that is ever asked for, with the mount it is on and the time of its birth.
const STAT: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::MNT_ID).union(StatxFlags::BTIME);

/// When an inode was made, where the file-system keeps that.
pub(crate) fn born(stat: &Statx) -> Option<Timestamp> {
    let has = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
    has.then(|| Timestamp::new(stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)).flatten()
}

/// Which mount it is on, where the kernel tells.
pub(crate) fn mount_of(stat: &Statx) -> Option<u64> {
    (stat.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(stat.stx_mnt_id)
}

fn collect_xattrs(
    policy: XattrPolicy,
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    value: impl Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<Xattrs> {
    let mut xattrs = Xattrs::default();
    if policy == XattrPolicy::NONE {
        return Ok(xattrs);
    }
    let names = match read_growing(list) {
        Ok(names) => names,
        Err(Errno::NOTSUP) => return Ok(xattrs),
        Err(error) => return Err(error.into()),
    };
    for name in names.split(|byte| *byte == 0).filter(|name| policy.covers(name)) {
        match read_growing(|buffer| value(name, buffer)) {
            Ok(value) => {
                xattrs.insert(name, &value).map_err(|bad| io::Error::new(io::ErrorKind::InvalidData, bad))?
            }
            // It was removed meanwhile.
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(xattrs)
}

/// Nearly all lists and values are short; what is longer can't be longer than what Linux takes.
fn read_growing(read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut short = [0; 512];
    match read(&mut short) {
        Ok(len) => Ok(short.get(..len).unwrap_or_default().to_vec()),
        Err(Errno::RANGE) => {
            let mut long = vec![0; Xattrs::MAX_VALUE];
            let len = read(&mut long)?;
            long.truncate(len);
            Ok(long)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn path(text: &str) -> ImagePath {
        ImagePath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn nothing_above_the_root_or_behind_a_symbolic_link_is_reached() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        symlink("/etc", dir.path().join("out")).unwrap();
        symlink("a", dir.path().join("in")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let (parent, name) = root.parent(&path("/a/b")).unwrap();
        assert_eq!(name.as_bytes(), b"b");
        assert!(inode_at(&parent, b"b").is_ok());
        assert!(root.directory(&path("/")).is_ok());
        for linked in ["/out", "/out/ssl", "/in", "/in/b"] {
            let error = root.directory(&path(linked)).unwrap_err();
            let expected = [Errno::LOOP, Errno::NOTDIR].map(Errno::raw_os_error);
            assert!(error.raw_os_error().is_some_and(|code| expected.contains(&code)), "{linked}: {error}");
        }
        assert!(root.parent(&path("/")).is_err());
    }

    #[test]
    fn attributes_of_a_link_are_not_those_of_its_target() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, b"x").unwrap();
        let long = vec![7; 2000];
        if rustix::fs::setxattr(&file, "user.long", &long, rustix::fs::XattrFlags::empty()).is_err() {
            return;
        }
        symlink("file", dir.path().join("link")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let of = |name: &[u8], policy| xattrs_at(&root, name, policy).unwrap();
        assert_eq!(of(b"file", XattrPolicy::ALL).value(b"user.long"), Some(&*long));
        assert_eq!(
            xattrs_of(std::fs::File::open(&file).unwrap(), XattrPolicy::ALL).unwrap(),
            of(b"file", XattrPolicy::ALL)
        );
        assert!(of(b"file", XattrPolicy::NONE).is_empty());
        assert_eq!(of(b"link", XattrPolicy::ALL).value(b"user.long"), None);
    }
}
