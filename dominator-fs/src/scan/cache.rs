//! What earlier scans found.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use dominator_core::inode::Mode;
use dominator_core::view::ViewId;
use thiserror::Error;

use super::contents::Partly;
use super::identity::{FileKey, key_of};
use super::installed::Installed;
use super::known::Known;
use super::stored::{self, Stored};
use crate::publish::{self, Durable, Replace};
use crate::root::{self, Root};
use crate::seam::{At, Kernel, Remove, Seam};

/// What scans of one root found, so that the next one need not read it again.
///
/// It knows files by their identity: device, inode number, size, times of modification and change, mode, owner. What is
/// the same in all of these is held to have the same contents, but for two cases. What had changed only a short while
/// before it was read is read once more when that while is over: a write through a shared mapping of memory to a page
/// that waits to be written to the disk moves no time, nor need one within the same tick of the clock. And what changed
/// without the file-system knowing, on the disk itself, only a scrub finds.
///
/// Some 150 bytes a name, most of them shared with the trees of the scans that made it.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    pub(super) root: Option<FileKey>,
    /// The view it is of; nothing, when it is of several.
    pub(super) view: Option<ViewId>,
    pub(super) top: Option<Arc<Known>>,
    /// Files that a scan which was cancelled did not come to the end of.
    pub(super) partly: Vec<Partly>,
    /// Files that are not to be opened to know what they contain, until a scan of everything has come by.
    pub(super) installed: Option<Arc<Installed>>,
}

/// A cache that can't be kept or used. Nothing is lost with it but time: start with an empty one.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CacheError {
    /// It can't be read or written; `NotFound` where none was ever saved.
    #[error("the scan cache can't be read or written")]
    Io(#[from] io::Error),
    /// It is not what was saved, or of a version this program does not know.
    #[error("the scan cache is damaged ({0}); it will be made anew")]
    Damaged(&'static str),
    /// It tells of another directory.
    #[error("the scan cache is of another root; it will be made anew")]
    OtherRoot,
}

impl Cache {
    const MODE: Mode = Mode::from_st_mode(0o600);

    /// Knows nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads what was saved as `name` in the directory `dir` for `root`. It takes some milliseconds for each ten
    /// thousand names.
    ///
    /// # Errors
    /// [`CacheError`]: go on with an empty one.
    pub fn load(dir: BorrowedFd<'_>, name: &[u8], root: &Root) -> Result<Self, CacheError> {
        let Stored { root: of, view, top } = stored::read(root::open_file(At::new(dir, name))?)?;
        if of != key_of(&root::inode_of(root)?) {
            return Err(CacheError::OtherRoot);
        }
        Ok(Self { root: Some(of), view, top, ..Self::default() })
    }

    /// Saves it as `name` in the directory `dir`, where it replaces the last one as a whole. It is written to `name`
    /// with `~` at its end first, so one name must have one writer at a time. Files that were read half-way are not
    /// saved.
    ///
    /// # Errors
    /// [`CacheError::Io`]; the last one is still there then.
    pub fn save(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<Durable, CacheError> {
        let temporary = [name, b"~"].concat();
        let at = At::new(dir, &temporary);
        match Kernel.remove(at, Remove::File) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        let stored = Stored { root: self.root.unwrap_or_default(), view: self.view, top: self.top.clone() };
        let saved = Kernel
            .create(at, Self::MODE)
            .and_then(|file| stored::write(&Kernel, &file, &stored))
            .and_then(|()| publish::file(&Kernel, dir, &temporary, name, Replace::Existing));
        saved.map_err(|error| {
            // The error that counts is the one above; a leftover is replaced next time.
            drop(Kernel.remove(at, Remove::File));
            error.into()
        })
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.top.is_none()
    }

    /// Whether this is as good as `earlier`, of which it is a later copy: scans have come upon nothing new since. What is
    /// saved need not be saved again then.
    pub fn is_unchanged_since(&self, earlier: &Self) -> bool {
        let same_top = match (&self.top, &earlier.top) {
            (Some(now), Some(before)) => Arc::ptr_eq(now, before),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        same_top && (self.root, self.view) == (earlier.root, earlier.view)
    }

    /// Knows from now on what files contain that were just put in place, in place of those of the time before. Those that
    /// are still as [`Installed`] says are not opened by the next scan of everything; they are read once more after the
    /// write-back expiry.
    pub fn learn(&mut self, installed: Installed) {
        self.installed = (!installed.is_empty()).then(|| Arc::new(installed));
    }

    /// Forgets everything if this is another root than the last time.
    pub(super) fn bind(&mut self, root: &Root) -> io::Result<()> {
        let key = key_of(&root::inode_of(root)?);
        if self.root != Some(key) {
            *self = Self { root: Some(key), installed: self.installed.take(), ..Self::default() };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use dominator_core::inode::Timestamp;
    use dominator_core::view::View;

    use super::*;
    use crate::scan::{Cancel, Clock, Scanner};

    #[test]
    fn a_scan_that_finds_nothing_new_makes_nothing_anew() {
        let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/file"), b"x").unwrap();
        let clock = Clock::new(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(1000);
            Timestamp::new(since.as_secs().try_into().unwrap(), since.subsec_nanos()).unwrap()
        });
        let root = Root::open(dir.path()).unwrap();
        let scanner = Scanner::new(root.clone(), Arc::new(View::everything())).clock(clock);
        let mut cache = Cache::new();
        scanner.rescan(&mut cache, &Cancel::default()).unwrap();
        let home = File::open(state.path()).unwrap();
        let _durable = cache.save(home.as_fd(), b"scan").unwrap();
        for mut cache in [cache, Cache::load(home.as_fd(), b"scan", &root).unwrap()] {
            let before = cache.top.clone().unwrap();
            scanner.rescan(&mut cache, &Cancel::default()).unwrap();
            assert!(Arc::ptr_eq(&before, cache.top.as_ref().unwrap()));
        }
    }
}
