//! Small values by key, changed by compare-and-set: the state of a fleet whose one controller keeps it in a directory.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dominator_core::object::ObjectId;
use dominator_core::port::{Cause, ClusterStoreError, Revision};
use rustix::fs::OFlags;

use super::home::{self, Home};
use crate::publish::{self, Durable, Replace};
use crate::seam::{Kernel, Seam};

/// A directory of values, a file each. Clones share it; one process at a time has it open.
#[derive(Clone)]
pub struct DirectoryClusterStore(Arc<Inner>);

struct Inner {
    path: PathBuf,
    seam: Arc<dyn Seam>,
    home: Home,
    changing: Mutex<()>,
}

impl DirectoryClusterStore {
    /// The longest key, in bytes.
    pub const MAX_KEY: usize = 80;
    /// The longest value, in bytes.
    pub const MAX_VALUE: usize = 16 * 1024 * 1024;
    const MAGIC: [u8; 4] = *b"DCS1";
    /// Magic, revision and digest, in bytes.
    const OVERHEAD: usize = 4 + 8 + ObjectId::LEN;

    /// Opens the store at `path`, made when it is missing but its parent is there.
    ///
    /// # Errors
    /// [`ClusterStoreError::Failed`] when it can't be opened, or when another process has it open.
    pub fn open(path: &Path) -> Result<Self, ClusterStoreError> {
        let seam: Arc<dyn Seam> = Arc::new(Kernel);
        let home = Home::open(&*seam, path)
            .map_err(|error| failed(format!("the state at {} can't be opened", path.display()), error))?;
        Ok(Self(Arc::new(Inner { path: path.to_owned(), seam, home, changing: Mutex::new(()) })))
    }

    /// The value of `key` with its revision, nothing when there is none.
    ///
    /// # Errors
    /// [`ClusterStoreError::Failed`] when it can't be read or is damaged: a damaged value is never taken for none.
    pub fn value(&self, key: &str) -> Result<Option<(Vec<u8>, Revision)>, ClusterStoreError> {
        let name = file_name(key)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let contents = match home::beneath(&self.0.home, name.as_bytes(), flags) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.and_then(|file| home::read(file, Self::MAX_VALUE + Self::OVERHEAD)),
        };
        let contents = contents.map_err(|error| failed(format!("{key} can't be read"), error))?;
        decode(&contents).map(Some).ok_or_else(|| {
            let path = self.0.path.join(&name);
            let what = format!("{key} is damaged; restore {} or remove it", path.display());
            failed(
                what,
                io::Error::new(io::ErrorKind::InvalidData, "its bytes do not have the digest at their end"),
            )
        })
    }

    /// Sets `key` if its revision is still `expected` (nothing: if there is no value). Durable when it returns.
    ///
    /// # Errors
    /// [`ClusterStoreError::Conflict`] when it is not; [`ClusterStoreError::Failed`].
    pub fn set(
        &self,
        key: &str,
        value: &[u8],
        expected: Option<Revision>,
    ) -> Result<Revision, ClusterStoreError> {
        if value.len() > Self::MAX_VALUE {
            let text = format!("a value may have {} bytes, not {}", Self::MAX_VALUE, value.len());
            return Err(failed(
                format!("{key} can't be set"),
                io::Error::new(io::ErrorKind::InvalidInput, text),
            ));
        }
        let name = file_name(key)?;
        let _changing = self.changing();
        let current = self.value(key)?.map(|(_, revision)| revision);
        if current != expected {
            return Err(ClusterStoreError::Conflict { key: key.into() });
        }
        let revision = Revision(current.map_or(1, |current| current.0.saturating_add(1)));
        let durable = publish::bytes(
            &*self.0.seam,
            self.0.home.as_fd(),
            name.as_bytes(),
            &encode(value, revision),
            home::FILE_MODE,
            Replace::Existing,
        )
        .map_err(|error| failed(format!("{key} can't be set"), error))?;
        Ok(acknowledged(revision, durable))
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        // It guards files, which a panic elsewhere leaves as they are.
        self.0.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for DirectoryClusterStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DirectoryClusterStore").field(&self.0.path).finish()
    }
}

fn acknowledged(revision: Revision, _proof: Durable) -> Revision {
    revision
}

/// The file of a key: letters, digits and `-_.` as they are, the rest as `%xx`, so that no two keys share one and none
/// is hidden or leaves the directory.
fn file_name(key: &str) -> Result<String, ClusterStoreError> {
    if key.is_empty() || key.len() > DirectoryClusterStore::MAX_KEY {
        let text = format!("a key has 1 to {} bytes", DirectoryClusterStore::MAX_KEY);
        return Err(failed(
            format!("{key:?} can't be a key"),
            io::Error::new(io::ErrorKind::InvalidInput, text),
        ));
    }
    let plain = |byte: u8, first: bool| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || byte == b'.' && !first
    };
    Ok(key
        .bytes()
        .enumerate()
        .map(
            |(place, byte)| {
                if plain(byte, place == 0) { char::from(byte).to_string() } else { format!("%{byte:02x}") }
            },
        )
        .collect())
}

fn encode(value: &[u8], revision: Revision) -> Vec<u8> {
    let mut contents = DirectoryClusterStore::MAGIC.to_vec();
    contents.extend_from_slice(&revision.0.to_be_bytes());
    contents.extend_from_slice(value);
    let digest = ObjectId::of(&contents);
    contents.extend_from_slice(digest.as_bytes());
    contents
}

fn decode(contents: &[u8]) -> Option<(Vec<u8>, Revision)> {
    let (body, digest) = contents.split_last_chunk::<{ ObjectId::LEN }>()?;
    if ObjectId::of(body) != ObjectId::from_bytes(*digest) {
        return None;
    }
    let (revision, value) = body.strip_prefix(&DirectoryClusterStore::MAGIC)?.split_first_chunk::<8>()?;
    Some((value.to_vec(), Revision(u64::from_be_bytes(*revision))))
}

fn failed(what: impl Into<String>, error: io::Error) -> ClusterStoreError {
    ClusterStoreError::Failed { what: what.into(), cause: Cause::new(error) }
}
