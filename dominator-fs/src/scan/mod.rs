//! Scanning: a [`Snapshot`] of what is below a [`Root`], under a [`View`].
//!
//! One walk by directory handle, many threads, memory for the result and little else. Nothing is opened but
//! directories and regular files, and those never through a symbolic link. What could not be read, or would not hold
//! still, is in the tree as unknown and among the facts; it never ends a scan.
//!
//! A directory where something is mounted is in the tree with the metadata seen there and without entries: what the
//! image calls by its name is hidden below the mount. A file something is mounted over is unknown for the same reason.
//!
//! [`Scanner::rescan`] goes by a [`Cache`] of what earlier scans found, and [`Scrub`] reads everything again.
//!
//! ```
//! use std::sync::Arc;
//! use dominator_core::view::View;
//! use dominator_fs::root::Root;
//! use dominator_fs::scan::{Cache, Cancel, Scanner};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! std::fs::write(dir.path().join("motd"), "hello\n")?;
//! let scanner = Scanner::new(Root::open(dir.path())?, Arc::new(View::everything()));
//! let (mut cache, cancel) = (Cache::new(), Cancel::default());
//! let first = scanner.rescan(&mut cache, &cancel)?;
//! assert_eq!((first.counts.files, first.files_opened, first.bytes_hashed), (1, 1, 6));
//!
//! let second = scanner.rescan(&mut cache, &cancel)?;
//! assert_eq!((second.snapshot.id(), second.files_opened), (first.snapshot.id(), 0));
//!
//! std::fs::write(dir.path().join("motd"), "good evening\n")?;
//! let third = scanner.rescan(&mut cache, &cancel)?;
//! assert_ne!(third.snapshot.id(), second.snapshot.id());
//! # Ok(())
//! # }
//! ```
//!
//! Two changes within one tick of the file-system's clock may show only after the write-back expiry: see [`Cache`].
//!
//! What is not here: any write below the root.

mod agree;
mod cache;
mod contents;
mod files;
mod freshness;
mod identity;
mod installed;
mod known;
mod known_files;
mod listing;
mod look;
mod pending;
mod scrub;
mod stored;
mod walk;

pub use cache::{Cache, CacheError};
pub use freshness::Clock;
pub(crate) use identity::{FileKey, Identity};
pub use installed::Installed;
pub(crate) use scrub::OnDisk;
pub use scrub::{Corruption, Scrub, Step};

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
use rayon::{ThreadPool, ThreadPoolBuilder};
use thiserror::Error;

use self::look::Looker;
use self::pending::Basis;
use self::walk::{Seen, Walk};
use crate::mounts;
use crate::pace::Pacer;
use crate::root::Root;

/// Makes scans of one root under one view.
#[derive(Clone, Debug)]
pub struct Scanner {
    root: Root,
    view: Arc<View>,
    threads: NonZeroUsize,
    progress: Arc<Progress>,
    pacer: Arc<Pacer>,
    clock: Clock,
    expiry: Duration,
}

impl Scanner {
    /// A scanner with a thread for each core this process may use.
    pub fn new(root: Root, view: Arc<View>) -> Self {
        let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let (clock, expiry) = (Clock::system(), freshness::write_back_expiry());
        let (progress, pacer) = (Arc::default(), Arc::new(Pacer::unlimited()));
        Self { root, view, threads, progress, pacer, clock, expiry }
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

    /// Takes no more of the machine than `pacer` allows.
    #[must_use]
    pub fn pace(mut self, pacer: Arc<Pacer>) -> Self {
        self.pacer = pacer;
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
        self.rescan(&mut Cache::new(), cancel)
    }

    /// Scans, and reads only what is not known from `cache` already, which afterwards knows what this scan found. With
    /// an empty cache this is [`Self::scan`]. What was hashed is kept also when the scan fails or is cancelled, even of
    /// files it had come half-way through.
    ///
    /// # Errors
    /// As [`Self::scan`].
    pub fn rescan(&self, cache: &mut Cache, cancel: &Cancel) -> Result<Scan, ScanError> {
        self.go(cache, None, cancel, None)
    }

    /// As [`Self::rescan`], and calls `save` after `every`, after twice that, and so on, with what is known by then: who
    /// keeps that loses at most half of the work when the process dies. For each call everything is walked through once
    /// more, but nothing is read again that was read; as the pauses grow, that costs no more than the scan itself.
    ///
    /// # Errors
    /// As [`Self::scan`].
    pub fn rescan_and_save(
        &self,
        cache: &mut Cache,
        cancel: &Cancel,
        every: Duration,
        save: &mut dyn FnMut(&Cache),
    ) -> Result<Scan, ScanError> {
        self.go(cache, None, cancel, Some(Saver { every, save }))
    }

    /// As [`Self::rescan`], but looks only into `directories` and what is new or changed below them; all else is taken
    /// from `cache` as it is. Where the cache knows too little, it looks at more.
    ///
    /// # Errors
    /// As [`Self::scan`].
    pub fn rescan_only(
        &self,
        cache: &mut Cache,
        directories: &BTreeSet<ImagePath>,
        cancel: &Cancel,
    ) -> Result<Scan, ScanError> {
        let in_view = directories.iter().filter(|path| self.view.reaches(path)).cloned();
        self.go(cache, Some(in_view.collect()), cancel, None)
    }

    fn go(
        &self,
        cache: &mut Cache,
        mut only: Option<BTreeSet<ImagePath>>,
        cancel: &Cancel,
        mut saver: Option<Saver<'_>>,
    ) -> Result<Scan, ScanError> {
        /// Who moves things about all the time gets a whole scan.
        const ROUNDS: usize = 8;
        let (began, everything) = (Instant::now(), only.is_none());
        cache.bind(&self.root).map_err(|source| ScanError::Root { source })?;
        // This thread's part, at the end, counts from here.
        self.pacer.pace(cancel);
        let pool = self.pool()?;
        let (mut bytes_hashed, mut files_opened) = (0, 0);
        let mut round = 0;
        loop {
            let part = saver.as_ref().map_or_else(|| cancel.clone(), |saver| cancel.after(saver.every));
            let walked = self.walk(&pool, cache, only.clone(), &part);
            bytes_hashed += walked.bytes_hashed;
            files_opened += walked.files_opened;
            if let (Err(ScanError::Cancelled), Some(saver)) = (&walked.end, &mut saver)
                && !cancel.is_cancelled()
            {
                saver.save(cache);
                continue;
            }
            walked.end?;
            round += 1;
            if walked.also.is_empty() {
                break;
            }
            only = (round < ROUNDS).then_some(walked.also);
        }
        if everything {
            cache.installed = None;
        }
        let told = || io::Error::other("the scan came to its end and found nothing out of it");
        let top = cache.top.as_mut().ok_or_else(|| ScanError::Root { source: told() })?;
        let links = agree::agree(top);
        let directories = agree::directories(top);
        let scan = Scan {
            facts: agree::facts(top),
            held: agree::held(top).into_iter().chain(mounts::held(&self.root)).collect(),
            counts: top.summary.counts,
            snapshot: Snapshot::new(self.view.id(), top.inode.clone(), links, directories),
            bytes_hashed,
            files_opened,
            elapsed: began.elapsed(),
        };
        self.pacer.pace(cancel);
        Ok(scan)
    }

    fn pool(&self) -> Result<ThreadPool, ScanError> {
        let pacer = Arc::clone(&self.pacer);
        ThreadPoolBuilder::new()
            .num_threads(self.threads.get())
            .thread_name(|number| format!("scan-{number}"))
            .start_handler(move |_| pacer.enter())
            .build()
            .map_err(|error| ScanError::Exhausted { source: io::Error::other(error) })
    }

    /// One walk, after which the cache knows what it found.
    fn walk(
        &self,
        pool: &ThreadPool,
        cache: &mut Cache,
        only: Option<BTreeSet<ImagePath>>,
        cancel: &Cancel,
    ) -> Round {
        let view = self.view.id();
        let basis = if cache.view == Some(view) { Basis::Entries } else { Basis::Contents };
        let whole = only.is_none();
        let walk = Walk {
            looker: Looker::new(self, cancel, cache),
            view: &self.view,
            basis,
            clock: &self.clock,
            expiry: self.expiry,
            only,
            seen: Seen::default(),
        };
        let old = cache.top.take();
        let walked = walk.run(pool, old.clone());
        let looker = walk.looker;
        let cut = walked.end.is_err();
        cache.view = (basis == Basis::Entries || !cut).then_some(view);
        // Of a whole scan that came to its end, only files that are gone are left; else the last ones are those it was
        // at.
        let mut partly = looker.partly.into_inner().unwrap_or_default();
        let stale =
            if cut || !whole { partly.len().saturating_sub(self.threads.get()) } else { partly.len() };
        cache.partly = partly.split_off(stale);
        cache.top = walked.top.or(old.filter(|_| cut));
        let mut also = walked.also;
        also.extend(cache.top.iter().flat_map(|top| agree::others(top, &walked.linked)));
        let (bytes_hashed, files_opened) = (looker.bytes.into_inner(), looker.opened.into_inner());
        Round { end: walked.end, also, bytes_hashed, files_opened }
    }
}

/// Who is told now and then what is known so far.
struct Saver<'a> {
    every: Duration,
    save: &'a mut dyn FnMut(&Cache),
}

impl Saver<'_> {
    fn save(&mut self, cache: &Cache) {
        (self.save)(cache);
        // The walk that comes now begins at the beginning: it must come further than the last one.
        self.every = self.every.saturating_mul(2);
    }
}

/// What one of the walks of a scan came to; the tree is in the cache.
struct Round {
    end: Result<(), ScanError>,
    /// Directories that must be looked at after all.
    also: BTreeSet<ImagePath>,
    bytes_hashed: u64,
    files_opened: u64,
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
    /// by deleting all that is in the tree. Also what something is mounted on, and the directories that lead there.
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
pub struct Cancel {
    told: Arc<AtomicBool>,
    /// When it ends in any case.
    at: Option<Instant>,
}

impl Cancel {
    /// Ends the scan, and every later one this is given to.
    pub fn cancel(&self) {
        self.told.store(true, Ordering::Relaxed);
    }

    /// Whether the scan is to end.
    pub fn is_cancelled(&self) -> bool {
        self.told.load(Ordering::Relaxed) || self.at.is_some_and(|at| at <= Instant::now())
    }

    /// The same, which besides ends by itself after `time`.
    fn after(&self, time: Duration) -> Self {
        Self { told: Arc::clone(&self.told), at: Instant::now().checked_add(time) }
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
