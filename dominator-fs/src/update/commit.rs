use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use dominator_core::path::ImagePath;
use dominator_core::port::UpdateReport;

use super::{UpdateError, Updater};
use crate::publish::{self, Durable, MANY};
use crate::root::open_file;
use crate::seam::At;

/// An update that is in place, but would not survive a power cut yet.
#[derive(Debug)]
#[must_use = "the update is not durable until it is committed"]
pub struct Swapped<'u> {
    pub(super) updater: &'u mut Updater,
    pub(super) report: UpdateReport,
    /// Directories whose entries or metadata changed.
    pub(super) touched: BTreeSet<ImagePath>,
    /// Files whose metadata changed in place.
    pub(super) changed: BTreeSet<ImagePath>,
    /// Whether there was a change that can't be waited for alone.
    pub(super) wait_for_all: bool,
}

/// An update that is in place and survives a power cut.
#[derive(Debug)]
pub struct Committed {
    /// What was done.
    pub report: UpdateReport,
    /// Evidence.
    pub durable: Durable,
}

impl Swapped<'_> {
    /// How many operations were carried out, and what went wrong so far.
    pub fn report(&self) -> &UpdateReport {
        &self.report
    }

    /// Makes the update durable, and removes what it displaced.
    ///
    /// # Errors
    /// [`UpdateError::NotDurable`] when the disk would not confirm it.
    pub fn commit(self) -> Result<Committed, UpdateError> {
        let durable = self.settle().map_err(UpdateError::NotDurable)?;
        self.updater.unsettled = false;
        if let Err(error) = self.updater.work.remove_debris(&*self.updater.seam) {
            // It is out of everybody's sight, and removed before the next update.
            tracing::warn!(%error, "what the update displaced could not be removed yet");
        }
        Ok(Committed { report: self.report, durable })
    }

    fn settle(&self) -> io::Result<Durable> {
        let Updater { root, seam, .. } = &*self.updater;
        if self.wait_for_all || self.touched.len() + self.changed.len() >= MANY {
            return publish::settle_all(&**seam, root.as_fd());
        }
        for path in &self.changed {
            let (dir, name) = root.parent(path)?;
            match open_file(At::new(dir.as_fd(), name.as_bytes())) {
                Ok(file) => publish::settle(&**seam, &file)?,
                // Not readable for its owner, who has no privileges: this can't wait for it alone.
                Err(_) => return publish::settle_all(&**seam, root.as_fd()),
            }
        }
        let mut dirs: Vec<OwnedFd> = Vec::new();
        for path in &self.touched {
            match root.directory(path) {
                Ok(dir) => dirs.push(dir),
                // It was deleted, or replaced; the directory it was in is touched, too.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                // It is there, but can't be waited for alone.
                Err(_) => return publish::settle_all(&**seam, root.as_fd()),
            }
        }
        publish::directories(&**seam, dirs.iter().map(AsFd::as_fd))
    }
}
