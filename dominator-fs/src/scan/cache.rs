//! What earlier scans found.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use dominator_core::inode::Mode;
use dominator_core::object::ObjectId;
use dominator_core::view::ViewId;
use rustix::fs::OFlags;
use thiserror::Error;

use super::contents::Partly;
use super::identity::{FileKey, key_of};
use super::known::Known;
use crate::publish::{self, Durable, Replace};
use crate::root::{self, Root};
use crate::seam::Kernel;

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
    const MAGIC: [u8; 4] = *b"DSC1";

    /// Knows nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads what was saved as `name` in the directory `dir` for `root`.
    ///
    /// # Errors
    /// [`CacheError`]: go on with an empty one.
    pub fn load(dir: BorrowedFd<'_>, name: &[u8], root: &Root) -> Result<Self, CacheError> {
        const LEN: usize = 4 + 16 + ObjectId::LEN;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(dir, name, flags, rustix::fs::Mode::empty()).map_err(io::Error::from)?;
        let mut bytes = Vec::new();
        File::from(file).take(LEN as u64 + 1).read_to_end(&mut bytes)?;
        let bytes: [u8; LEN] = bytes.try_into().map_err(|_| CacheError::Damaged("its length"))?;
        let cache = Self { root: Some(key_of(&root::inode_of(root)?)), ..Self::default() };
        let ours = cache.encoded();
        match bytes.strip_prefix(&Self::MAGIC) {
            None => Err(CacheError::Damaged("its beginning")),
            Some(_) if bytes.as_slice() == ours => Ok(cache),
            Some(_) => Err(CacheError::OtherRoot),
        }
    }

    /// Saves it as `name` in the directory `dir`, where it replaces the last one as a whole.
    ///
    /// # Errors
    /// [`CacheError::Io`]; the last one is still there then.
    pub fn save(&self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<Durable, CacheError> {
        let mode = Mode::from_st_mode(0o600);
        Ok(publish::bytes(&Kernel, dir, name, &self.encoded(), mode, Replace::Existing)?)
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.top.is_none()
    }

    /// Forgets everything if this is another root than the last time.
    pub(super) fn bind(&mut self, root: &Root) -> io::Result<()> {
        let key = key_of(&root::inode_of(root)?);
        if self.root != Some(key) {
            *self = Self { root: Some(key), ..Self::default() };
        }
        Ok(())
    }

    fn encoded(&self) -> Vec<u8> {
        let (dev, ino) = self.root.unwrap_or_default();
        let mut bytes = [&Self::MAGIC[..], &dev.to_be_bytes(), &ino.to_be_bytes()].concat();
        let digest = ObjectId::of(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        bytes
    }
}
