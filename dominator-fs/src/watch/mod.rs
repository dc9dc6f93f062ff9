//! Hears of changes when they are made, from the kernel: where to look first, never what is so.
//!
//! One mark on the whole file-system (fanotify), not one watch a directory (inotify): it costs the same whatever the size
//! of the tree, and nothing at rest. What it tells are *hints*. Scans find everything without them, only later: a write
//! through another name of a file hints at the directory of the name that was used, one through a mapping when the file is
//! closed, and one to the block device not at all.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use dominator_core::view::View;
//! use dominator_fs::root::Root;
//! use dominator_fs::watch::{Changes, Watch};
//!
//! let root = Root::open("/".as_ref())?;
//! let mut watch = Watch::new(&root)?;
//! match watch.wait(&View::everything(), Some(Duration::from_secs(60)))? {
//!     Changes::Nothing => {}
//!     Changes::Directories(paths) => println!("look at the entries of {paths:?}"),
//!     Changes::Everything => println!("look at everything"),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod record;
mod seen;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dominator_core::path::ImagePath;
use dominator_core::view::View;
use nix::libc;
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use thiserror::Error;

use crate::handle;
use crate::root::{Root, dev_of, inode_of, names_in, open_directory, place_of};
use crate::seam::At;
use seen::Seen;

/// What happened since it was last asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changes {
    /// Nothing in view, in the time given.
    Nothing,
    /// Entries of these directories were made, changed or removed. They were there a moment ago; they may be gone.
    Directories(BTreeSet<ImagePath>),
    /// More than can be told apart, or more than the kernel kept.
    Everything,
}

/// Hears of changes below one root. Dropping it ends that.
#[derive(Debug)]
pub struct Watch {
    group: Fanotify,
    root: Root,
    waker: Waker,
    buffer: Box<[u8]>,
    overflows: u64,
}

/// Makes a [`Watch`] that waits in another thread return.
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

/// Why changes can't be heard of here, or no longer. Scans find them without, a little later.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WatchError {
    /// This process may not: it needs `CAP_SYS_ADMIN` and `CAP_DAC_READ_SEARCH`.
    #[error(
        "this process may not watch a file-system; give it CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH, or do without"
    )]
    NotAllowed(#[source] io::Error),
    /// The file-system can't tell which directories changes are in: overlayfs and network file-systems mostly can't.
    #[error(
        "the file-system of the root can't say where changes are made; do without, or use ext4, xfs or another local one"
    )]
    NoHandles(#[source] io::Error),
    /// The kernel is older than 5.9, or was built without fanotify.
    #[error("this kernel can't say where changes are made; do without, or use Linux 5.9 or newer")]
    OldKernel(#[source] io::Error),
    /// Something else, like too many watches.
    #[error("changes below the root can't be heard of")]
    Io(#[source] io::Error),
}

impl Watch {
    /// How many directories one answer names at most; more than that is everything.
    pub const MAX_DIRECTORIES: usize = 4096;
    /// How many directories are told apart at most, in view or not: as many as the kernel keeps events by default.
    const MAX_HANDLES: usize = 16 * 1024;
    /// How many bytes of events are read at once.
    const BUFFER: usize = 64 * 1024;
    /// How many reads make one answer at most, so that there is one whatever happens meanwhile.
    const MAX_READS: usize = 256;
    /// How long events are left waiting after some that were of no interest: what is written to out of view all the time
    /// does not wake this process all the time.
    const QUIET: Duration = Duration::from_millis(50);

    /// Hears of every change from now on. `/proc` must be there.
    ///
    /// # Errors
    /// [`WatchError`].
    pub fn new(root: &Root) -> Result<Self, WatchError> {
        // Some file-systems report handles that nobody can open.
        let reopened = handle::reopen(root.as_fd()).map_err(refused)?;
        place_of(reopened.as_fd()).map_err(WatchError::Io)?;
        let flags = InitFlags::FAN_CLASS_NOTIF | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK;
        let flags = flags | InitFlags::from_bits_retain(libc::FAN_REPORT_DFID_NAME);
        let group = Fanotify::init(flags, EventFFlags::empty()).map_err(|error| refused(error.into()))?;
        let mark = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_FILESYSTEM;
        let here: Option<&str> = None;
        group.mark(mark, EVENTS, root, here).map_err(|error| refused(error.into()))?;
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let wake = wake.map_err(|error| WatchError::Io(error.into()))?;
        let buffer = vec![0; Self::BUFFER].into();
        let watch = Self { group, root: root.clone(), waker: Waker(Arc::new(wake)), buffer, overflows: 0 };
        // Linux before 6.0 can't. What is not in view is passed over in any case, only later and for more.
        drop(watch.disregard_work_directory());
        Ok(watch)
    }

    /// Has the kernel keep to itself what is done in the work directory: an update of a whole machine makes more events
    /// there than anywhere else, and they would push out those that matter.
    fn disregard_work_directory(&self) -> io::Result<()> {
        let top = self.root.directory(&ImagePath::parse(View::WORK_DIRECTORY).map_err(io::Error::other)?)?;
        let mark = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_IGNORE_SURV;
        let events = EVENTS.union(MaskFlags::FAN_EVENT_ON_CHILD);
        let here: Option<&str> = None;
        for name in names_in(top.as_fd())? {
            if let Ok(directory) = open_directory(At::new(top.as_fd(), &name)) {
                self.group.mark(mark, events, directory, here)?;
            }
        }
        Ok(())
    }

    /// Waits for something to happen in view: at most for `timeout`, for ever without one, and never longer than until
    /// [`Waker::wake`]. Returns at once what has happened already.
    ///
    /// # Errors
    /// [`WatchError::Io`] when the kernel won't tell any more: make another one, or do without.
    pub fn wait(&mut self, view: &View, timeout: Option<Duration>) -> Result<Changes, WatchError> {
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let ready = self.poll(Some(&self.group), end).map_err(WatchError::Io)?;
            let changes =
                if ready.events { self.drain(view).map_err(WatchError::Io)? } else { Changes::Nothing };
            let over = end.is_some_and(|end| end <= Instant::now());
            if ready.woken || over || changes != Changes::Nothing {
                return Ok(changes);
            }
            if ready.events {
                let quiet = Instant::now() + Self::QUIET;
                let quiet = end.map_or(quiet, |end| end.min(quiet));
                if self.poll(None, Some(quiet)).map_err(WatchError::Io)?.woken {
                    return Ok(Changes::Nothing);
                }
            }
        }
    }

    /// What makes [`Watch::wait`] return early, from any thread.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// How often more happened than the kernel's queue takes. Each time the answer was [`Changes::Everything`].
    pub fn overflows(&self) -> u64 {
        self.overflows
    }

    fn poll(&self, group: Option<&Fanotify>, end: Option<Instant>) -> io::Result<Ready> {
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            let mut fds: Vec<_> = std::iter::once(PollFd::new(&*self.waker.0, PollFlags::IN))
                .chain(group.map(|group| PollFd::new(group, PollFlags::IN)))
                .collect();
            match rustix::event::poll(&mut fds, left.as_ref()) {
                Err(Errno::INTR) => continue,
                outcome => outcome?,
            };
            let is_ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
            let (woken, events) = (is_ready(0), is_ready(1));
            if woken {
                self.waker.reset()?;
            }
            return Ok(Ready { woken, events });
        }
    }

    fn drain(&mut self, view: &View) -> io::Result<Changes> {
        let mut seen = Seen::default();
        for _ in 0..Self::MAX_READS {
            match rustix::io::read(&self.group, &mut *self.buffer) {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(len) => {
                    let read = self.buffer.get(..len).unwrap_or_default();
                    record::events(read).for_each(|event| seen.add(event, Self::MAX_HANDLES));
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.overflows += seen.overflows;
        if seen.everything {
            return Ok(Changes::Everything);
        }
        let base = place_of(self.root.as_fd())?;
        let mut hints = BTreeSet::new();
        for (handle, abouts) in seen.directories() {
            if let Some((opened, path)) = self.locate(&base, handle) {
                let mut of = abouts.of(&path, view).peekable();
                if of.peek().is_some() && self.is_at(opened.as_fd(), &path) {
                    hints.extend(of);
                }
            }
            if hints.len() > Self::MAX_DIRECTORIES {
                return Ok(Changes::Everything);
            }
        }
        Ok(if hints.is_empty() { Changes::Nothing } else { Changes::Directories(hints) })
    }

    /// Where a directory is below the root. What is gone by now was an entry of a directory that is told of as well.
    fn locate(&self, base: &[u8], handle: handle::Handle<'_>) -> Option<(OwnedFd, ImagePath)> {
        let opened = handle::open_directory(self.root.as_fd(), handle).ok()?;
        let place = place_of(opened.as_fd()).ok()?;
        let below = if base == b"/" { &*place } else { place.strip_prefix(base)? };
        let path = if below.is_empty() { ImagePath::root() } else { ImagePath::parse(below).ok()? };
        Some((opened, path))
    }

    /// Whether `directory` is what this root has at `path`. The kernel names removed directories, those outside of the part
    /// of a file-system that is mounted, and those hidden below another mount in ways that could mislead.
    fn is_at(&self, directory: BorrowedFd<'_>, path: &ImagePath) -> bool {
        let same = || {
            let (one, other) = (inode_of(directory)?, inode_of(self.root.directory(path)?)?);
            io::Result::Ok((dev_of(&one), one.stx_ino) == (dev_of(&other), other.stx_ino))
        };
        same().unwrap_or(false)
    }
}

impl AsFd for Watch {
    /// Readable when something happened, in view or not.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.group.as_fd()
    }
}

impl Waker {
    /// Makes the wait that is under way return, or the next one when none is.
    pub fn wake(&self) {
        // It can only fail when it was called so often that the wait returns anyway.
        rustix::io::write(&*self.0, &1_u64.to_ne_bytes()).ok();
    }

    fn reset(&self) -> io::Result<()> {
        match rustix::io::read(&*self.0, &mut [0; 8]) {
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Directories(paths) => write!(f, "{} directories", paths.len()),
            Self::Everything => f.write_str("everything"),
        }
    }
}

/// What there was to read.
struct Ready {
    woken: bool,
    events: bool,
}

/// All that can change a tree. Reading is never among it, so that a scan does not hint at itself.
const EVENTS: MaskFlags = MaskFlags::FAN_MODIFY
    .union(MaskFlags::FAN_CLOSE_WRITE)
    .union(MaskFlags::FAN_ATTRIB)
    .union(MaskFlags::FAN_CREATE)
    .union(MaskFlags::FAN_DELETE)
    .union(MaskFlags::FAN_MOVED_FROM)
    .union(MaskFlags::FAN_MOVED_TO)
    .union(MaskFlags::FAN_ONDIR);

fn refused(error: io::Error) -> WatchError {
    match Errno::from_io_error(&error) {
        Some(Errno::PERM | Errno::ACCESS) => WatchError::NotAllowed(error),
        Some(Errno::OPNOTSUPP | Errno::NODEV | Errno::XDEV | Errno::STALE) => WatchError::NoHandles(error),
        Some(Errno::INVAL | Errno::NOSYS) => WatchError::OldKernel(error),
        _ => WatchError::Io(error),
    }
}
