use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use dominator_core::inode::{Mode, Timestamp};
use dominator_fs::seam::{At, IFlags, Kernel, Node, Remove, Rename, Seam};

/// One change to a file-system that somebody asks for.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "each is a method of the seam, with what it is called with")]
pub enum Call<'a> {
    Mkdir(At<'a>, Mode),
    Create(At<'a>, Mode),
    Write(&'a File, &'a [u8]),
    Reflink(&'a File, &'a File),
    Truncate(&'a File, u64),
    Symlink(&'a [u8], At<'a>),
    Mknod(At<'a>, Node, Mode),
    Link(At<'a>, At<'a>),
    Rename(At<'a>, At<'a>, Rename),
    Remove(At<'a>, Remove),
    Chmod(At<'a>, Mode),
    Chown(At<'a>, u32, u32),
    SetMtime(At<'a>, Timestamp),
    SetXattr(At<'a>, &'a [u8], &'a [u8]),
    RemoveXattr(At<'a>, &'a [u8]),
    SetFlags(BorrowedFd<'a>, IFlags),
    Fsync(BorrowedFd<'a>),
    Syncfs(BorrowedFd<'a>),
}

/// What a call is, without what it is called with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "as those of `Call`")]
pub enum CallKind {
    Mkdir,
    Create,
    Write,
    Reflink,
    Truncate,
    Symlink,
    Mknod,
    Link,
    Rename,
    Remove,
    Chmod,
    Chown,
    SetMtime,
    SetXattr,
    RemoveXattr,
    SetFlags,
    Fsync,
    Syncfs,
}

impl Call<'_> {
    /// What it is.
    pub const fn kind(&self) -> CallKind {
        match self {
            Self::Mkdir(..) => CallKind::Mkdir,
            Self::Create(..) => CallKind::Create,
            Self::Write(..) => CallKind::Write,
            Self::Reflink(..) => CallKind::Reflink,
            Self::Truncate(..) => CallKind::Truncate,
            Self::Symlink(..) => CallKind::Symlink,
            Self::Mknod(..) => CallKind::Mknod,
            Self::Link(..) => CallKind::Link,
            Self::Rename(..) => CallKind::Rename,
            Self::Remove(..) => CallKind::Remove,
            Self::Chmod(..) => CallKind::Chmod,
            Self::Chown(..) => CallKind::Chown,
            Self::SetMtime(..) => CallKind::SetMtime,
            Self::SetXattr(..) => CallKind::SetXattr,
            Self::RemoveXattr(..) => CallKind::RemoveXattr,
            Self::SetFlags(..) => CallKind::SetFlags,
            Self::Fsync(..) => CallKind::Fsync,
            Self::Syncfs(..) => CallKind::Syncfs,
        }
    }
}

/// Somebody who hears of every call.
pub trait Tap: Send + Sync {
    /// Right before the call, which is not made when this fails.
    ///
    /// # Errors
    /// What the caller is told instead.
    fn before(&self, call: Call<'_>) -> io::Result<()>;

    /// Right after a call that succeeded.
    fn after(&self, call: Call<'_>) {
        let _ = call;
    }

    /// Whether files share blocks, as on some file-systems. Here they are copied for that.
    fn shares(&self) -> bool {
        false
    }
}

impl<T: Tap + ?Sized> Tap for Arc<T> {
    fn before(&self, call: Call<'_>) -> io::Result<()> {
        (**self).before(call)
    }

    fn after(&self, call: Call<'_>) {
        (**self).after(call);
    }

    fn shares(&self) -> bool {
        (**self).shares()
    }
}

/// The kernel, with somebody who hears of every call and may have it fail.
pub struct Tapped<T>(pub T);

impl<T: Tap> Tapped<T> {
    fn call<R>(&self, call: Call<'_>, real: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        self.0.before(call)?;
        let made = real()?;
        self.0.after(call);
        Ok(made)
    }
}

impl<T: Tap> Seam for Tapped<T> {
    fn mkdir(&self, at: At<'_>, mode: Mode) -> io::Result<()> {
        self.call(Call::Mkdir(at, mode), || Kernel.mkdir(at, mode))
    }
    fn create(&self, at: At<'_>, mode: Mode) -> io::Result<File> {
        self.call(Call::Create(at, mode), || Kernel.create(at, mode))
    }
    fn write(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        self.call(Call::Write(file, bytes), || Kernel.write(file, bytes))
    }
    fn reflink(&self, from: &File, to: &File) -> io::Result<()> {
        self.call(Call::Reflink(from, to), || {
            if self.0.shares() { copy(from, to) } else { Kernel.reflink(from, to) }
        })
    }
    fn truncate(&self, file: &File, len: u64) -> io::Result<()> {
        self.call(Call::Truncate(file, len), || Kernel.truncate(file, len))
    }
    fn symlink(&self, target: &[u8], at: At<'_>) -> io::Result<()> {
        self.call(Call::Symlink(target, at), || Kernel.symlink(target, at))
    }
    fn mknod(&self, at: At<'_>, node: Node, mode: Mode) -> io::Result<()> {
        self.call(Call::Mknod(at, node, mode), || Kernel.mknod(at, node, mode))
    }
    fn link(&self, from: At<'_>, to: At<'_>) -> io::Result<()> {
        self.call(Call::Link(from, to), || Kernel.link(from, to))
    }
    fn rename(&self, from: At<'_>, to: At<'_>, rename: Rename) -> io::Result<()> {
        self.call(Call::Rename(from, to, rename), || Kernel.rename(from, to, rename))
    }
    fn remove(&self, at: At<'_>, remove: Remove) -> io::Result<()> {
        self.call(Call::Remove(at, remove), || Kernel.remove(at, remove))
    }
    fn chmod(&self, at: At<'_>, mode: Mode) -> io::Result<()> {
        self.call(Call::Chmod(at, mode), || Kernel.chmod(at, mode))
    }
    fn chown(&self, at: At<'_>, uid: u32, gid: u32) -> io::Result<()> {
        self.call(Call::Chown(at, uid, gid), || Kernel.chown(at, uid, gid))
    }
    fn set_mtime(&self, at: At<'_>, mtime: Timestamp) -> io::Result<()> {
        self.call(Call::SetMtime(at, mtime), || Kernel.set_mtime(at, mtime))
    }
    fn set_xattr(&self, at: At<'_>, name: &[u8], value: &[u8]) -> io::Result<()> {
        self.call(Call::SetXattr(at, name, value), || Kernel.set_xattr(at, name, value))
    }
    fn remove_xattr(&self, at: At<'_>, name: &[u8]) -> io::Result<()> {
        self.call(Call::RemoveXattr(at, name), || Kernel.remove_xattr(at, name))
    }
    fn set_flags(&self, fd: BorrowedFd<'_>, flags: IFlags) -> io::Result<()> {
        self.call(Call::SetFlags(fd, flags), || Kernel.set_flags(fd, flags))
    }
    fn fsync(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.call(Call::Fsync(fd), || Kernel.fsync(fd))
    }
    fn syncfs(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.call(Call::Syncfs(fd), || Kernel.syncfs(fd))
    }
}

impl<T> fmt::Debug for Tapped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tapped").finish_non_exhaustive()
    }
}

fn copy(from: &File, to: &File) -> io::Result<()> {
    let mut contents = vec![0; usize::try_from(from.metadata()?.len()).map_err(io::Error::other)?];
    from.read_exact_at(&mut contents, 0)?;
    to.write_all_at(&contents, 0)
}
