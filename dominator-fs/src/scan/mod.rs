//! Scanning: a [`Snapshot`] of what is below a [`Root`], under a [`View`].
//!
//! One walk by directory handle, many threads, memory for the result and little else. Nothing is opened but
//! directories and regular files, and those never through a symbolic link. What could not be read, or would not hold
//! still, is in the tree as unknown and among the facts; it never ends a scan.
//!
//! A directory where something is mounted is in the tree with the metadata seen there and without entries: what the
//! image calls by its name is hidden below the mount. A file something is mounted over is unknown for the same reason.
//!
//! [`Scanner::rescan`] goes by a [`Cache`] of what earlier scans found.
//!
//! What is not here: any write below the root.

mod cache;
mod collect;
mod freshness;
mod look;
mod walk;

pub use cache::{Cache, CacheError};
pub use freshness::Clock;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dominator_core::inode::Why;
use dominator_core::path::ImagePath;
use dominator_core::tree::Snapshot;
use dominator_core::view::View;
use thiserror::Error;

use crate::root::Root;

/// Makes scans of one root under one view.
#[derive(Clone, Debug)]
pub struct Scanner {
    root: Root,
    view: Arc<View>,
    threads: NonZeroUsize,
    progress: Arc<Progress>,
    clock: Clock,
    expiry: Duration,
}

impl Scanner {
    /// A scanner with a thread for each core this process may use.
    pub fn new(root: Root, view: Arc<View>) -> Self {
        let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let (clock, expiry) = (Clock::system(), freshness::write_back_expiry());
        Self { root, view, threads, progress: Arc::default(), clock, expiry }
    }

    /// Uses `threads` threads.
    #[must_use]
    pub fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = threads;
        self
    }

    /// Counts in `progress` what is done.
    #[must_use]
    pub fn progress(mut self, progress: Arc<Progress>) -> Self {
        self.progress = progress;
        self
    }

    /// Takes the time from `clock` instead of the system. It must be the clock the file-system takes its times from, or
    /// move with it.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Holds that what was changed is on the disk after `expiry`, instead of what this kernel says of itself. From then
    /// on no write to a file goes without a new time of change; what was looked at before is looked at once more.
    #[must_use]
    pub fn write_back_expiry(mut self, expiry: Duration) -> Self {
        self.expiry = expiry;
        self
    }

    /// Scans. It blocks for as long as reading every file in view takes, or until `cancel` says so, which it notices
    /// within the time a few hundred kilobytes take to be read.
    ///
    /// # Errors
    /// [`ScanError`]: the root itself can't be read, this process ran out of something, or the scan was cancelled.
    pub fn scan(&self, cancel: &Cancel) -> Result<Scan, ScanError> {
        let began = Instant::now();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(self.threads.get())
            .thread_name(|number| format!("scan-{number}"))
            .build()
            .map_err(|error| ScanError::Exhausted { source: io::Error::other(error) })?;
        let collected = walk::walk(&pool, &self.root, &self.view, cancel, &self.progress)?;
        let mut scan = collected
            .assemble(&self.view)
            .ok_or(ScanError::Root { source: io::ErrorKind::NotFound.into() })?;
        scan.elapsed = began.elapsed();
        Ok(scan)
    }

    /// Scans, and reads only what is not known from `cache` already, which afterwards knows what this scan found. With
    /// an empty cache this is [`Self::scan`]. What was hashed is kept also when the scan fails or is cancelled.
    ///
    /// # Errors
    /// As [`Self::scan`].
    pub fn rescan(&self, cache: &mut Cache, cancel: &Cancel) -> Result<Scan, ScanError> {
        cache.bind(&self.root).map_err(|source| ScanError::Root { source })?;
        self.scan(cancel)
    }

    /// As [`Self::rescan`], but looks only into `directories` and what is new below them; all else is taken from
    /// `cache` as it is. Where the cache knows nothing yet, it looks at everything.
    ///
    /// # Errors
    /// As [`Self::scan`].
    pub fn rescan_only(
        &self,
        cache: &mut Cache,
        directories: &BTreeSet<ImagePath>,
        cancel: &Cancel,
    ) -> Result<Scan, ScanError> {
        tracing::trace!(directories = directories.len(), "looking again");
        self.rescan(cache, cancel)
    }
}

/// What a scan found.
#[derive(Clone, Debug)]
pub struct Scan {
    /// The tree.
    pub snapshot: Snapshot,
    /// What could not be found out, and of which path, in order of the paths. Each of these paths is unknown in the
    /// tree or, where its name is none a tree could hold, missing from it.
    pub facts: Vec<Fact>,
    /// Directories in view that hold, at any depth, something that is not in the tree or unknown: they can't be deleted
    /// by deleting all that is in the tree.
    pub held: BTreeSet<ImagePath>,
    /// How much was read, in bytes. A file of several names is read once.
    pub bytes_hashed: u64,
    /// How many regular files were opened.
    pub files_opened: u64,
    /// How many names of each kind there are.
    pub counts: Counts,
    /// How long it took.
    pub elapsed: Duration,
}

/// How many names of each kind a tree has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Directories, `/` included.
    pub directories: u64,
    /// Regular files.
    pub files: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Devices and pipes.
    pub special: u64,
    /// Paths of which nothing could be found out.
    pub unknown: u64,
}

/// Something that could not be found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Where; the directory, when the name in it is none a tree could hold.
    pub path: ImagePath,
    /// Why.
    pub why: Why,
    /// What happened, for a human.
    pub detail: String,
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.path, self.why, self.detail)
    }
}

/// Ends a scan early, from any thread. Clones are one and the same.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Ends the scan, and every later one this is given to.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the scan is to end.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// How far a scan is, to be read from another thread. Never goes down.
#[derive(Debug, Default)]
pub struct Progress {
    files: AtomicU64,
    bytes: AtomicU64,
}

impl Progress {
    /// How many names that are no directories were looked at.
    pub fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    /// How many bytes were hashed.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Why there is no scan.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ScanError {
    /// It was told to end.
    #[error("the scan was cancelled")]
    Cancelled,
    /// Not even the root can be read.
    #[error("the root directory can't be read; is it still there, and may this process read it?")]
    Root {
        /// What happened.
        source: io::Error,
    },
    /// This process ran out of file descriptors, threads or memory; what the machine is was not at fault. Try again
    /// with fewer threads or higher limits.
    #[error("this process ran out of file descriptors, threads or memory during the scan")]
    Exhausted {
        /// What happened.
        source: io::Error,
    },
}
