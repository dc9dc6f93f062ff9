use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dominator_fs::seam::Seam;
use tempfile::TempDir;

use super::{Crash, CrashFs, Fault, Recording, disk};

/// A directory where crashes are played.
#[derive(Debug)]
pub struct Stage {
    /// The directory itself.
    pub root: PathBuf,
    /// Who watches it.
    pub fs: Arc<CrashFs>,
    _dir: TempDir,
}

impl Stage {
    /// One with what `setup` puts into it.
    ///
    /// # Panics
    /// When it can't be made.
    pub fn new(setup: impl FnOnce(&Path)) -> Self {
        let dir = place().or_else(|_| tempfile::tempdir()).expect("a directory of its own");
        let [root, hoard] = ["root", "hoard"].map(|name| dir.path().join(name));
        fs::create_dir(&root).and_then(|()| fs::create_dir(&hoard)).expect("directories");
        setup(&root);
        let fs = Arc::new(CrashFs::over(&root, &hoard));
        Self { root, fs, _dir: dir }
    }

    /// What all changes must be made by.
    pub fn seam(&self) -> Arc<dyn Seam> {
        Arc::clone(&self.fs) as Arc<dyn Seam>
    }

    /// A seam with a fault.
    pub fn mutant(&self, fault: Fault) -> Arc<dyn Seam> {
        fault.into_seams()(self.seam())
    }

    /// The directory, open.
    pub fn open(&self) -> OwnedFd {
        disk::directory(&self.root)
    }

    /// Plays every crash of what was recorded, and tells what `judge` has to say against what it leaves.
    pub fn sweep(&self, recording: &Recording, judge: impl FnMut(&Crash) -> Result<(), String>) -> Sweep {
        self.sweep_some(recording, 1, judge)
    }

    /// As [`Self::sweep`], but only of [`Recording::some_crashes`].
    pub fn sweep_some(
        &self,
        recording: &Recording,
        every: usize,
        mut judge: impl FnMut(&Crash) -> Result<(), String>,
    ) -> Sweep {
        let crashes = recording.some_crashes(every);
        let known = self.fs.known();
        let mut complaints = Vec::new();
        let mut states = 0;
        for crash in &crashes {
            states += 1;
            self.fs.restore(&crash.world);
            self.fs.forget(known);
            if let Err(complaint) = judge(crash) {
                let last = recording.told(crash.at);
                complaints.push(format!("{crash} after {last:?}: {complaint}"));
            }
            if complaints.len() == Sweep::ENOUGH {
                break;
            }
        }
        self.fs.restore(recording.before());
        self.fs.forget(known);
        Sweep { states, complaints }
    }
}

/// What came of a sweep.
#[derive(Debug)]
pub struct Sweep {
    /// How many different states crashes left.
    pub states: usize,
    /// What was wrong with some of them.
    pub complaints: Vec<String>,
}

impl Sweep {
    /// After how many complaints it is clear that something is wrong.
    const ENOUGH: usize = 5;

    /// Nothing may be wrong. Says how many states there were.
    ///
    /// # Panics
    /// When something is.
    #[track_caller]
    pub fn clean(self) -> usize {
        assert!(self.complaints.is_empty(), "in {} states: {:#?}", self.states, self.complaints);
        self.states
    }

    /// The fault that was put in must be found.
    ///
    /// # Panics
    /// When it was not.
    #[track_caller]
    pub fn finds(self, fault: Fault) {
        assert!(!self.complaints.is_empty(), "{fault:?} was not found in {} states", self.states);
    }
}

/// A directory in memory, where there is one that keeps extended attributes: nothing here needs a disk.
fn place() -> io::Result<TempDir> {
    let dir = tempfile::tempdir_in("/dev/shm")?;
    let tried = rustix::fs::setxattr(dir.path(), "user.try", b"", rustix::fs::XattrFlags::empty());
    rustix::fs::removexattr(dir.path(), "user.try").and(tried)?;
    Ok(dir)
}

/// A complaint unless it holds.
///
/// # Errors
/// The complaint.
pub fn require(holds: bool, complaint: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(complaint()) }
}
