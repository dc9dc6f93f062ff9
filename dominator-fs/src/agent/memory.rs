use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dominator_core::image::ImageName;
use dominator_core::inode::Mode;
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::port::{Cause, Chain};
use dominator_core::trigger::Triggers;
use dominator_core::view::{View, ViewId};
use rustix::fs::{FlockOperation, OFlags};
use thiserror::Error;

use crate::pace::BytesPerSecond;
use crate::publish::{self, Replace};
use crate::root::{Root, inode_at, open_file};
use crate::scan::{Cache, CacheError, Scrub};
#[cfg(test)]
use crate::seam::Kernel;
use crate::seam::{At, Remove, Seam};
use crate::service::{Debt, Due};

/// What an agent remembers beyond its own life, in a directory of its own. Every file is replaced as a whole.
pub(super) struct Memory {
    path: PathBuf,
    dir: OwnedFd,
    /// Through which everything is written but what is only a cache.
    seam: Arc<dyn Seam>,
}

impl Drop for Memory {
    /// A process that is being started has all open files until it becomes another program: closing does not free the lock.
    fn drop(&mut self) {
        if let Err(error) = rustix::fs::flock(&self.dir, FlockOperation::Unlock) {
            tracing::debug!(%error, "the lock of the state directory goes when all who have it open have closed it");
        }
    }
}

/// An update of which everything was done, or tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Concluded {
    /// The digest of its note.
    pub(super) note: ObjectId,
    pub(super) journal: Journal,
}

/// What this agent did with the journal of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Journal {
    /// It left it: where it is gone, somebody else has undone the update.
    Kept,
    /// It removes it, as nothing of the update is to be undone.
    LetGo,
}

/// A state directory that can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// It can't be made, opened, read or written.
    #[error("the state directory {} can't be used", path.display())]
    Io {
        /// Where it is.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Another agent uses it.
    #[error("the state directory {} is in use by another agent; stop that one, or give this one a directory of its own", path.display())]
    Busy {
        /// Where it is.
        path: PathBuf,
    },
    /// A file is not what an agent writes. Look at it and remove it.
    #[error("{} is damaged; remove it", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        cause: Cause,
    },
}

impl Memory {
    const VIEW: &'static str = "view";
    const TRIGGERS: &'static str = "triggers.previous";
    const IMAGE: &'static str = "image.last";
    const OWED: &'static str = "services.owed";
    const SCAN: &'static str = "scan.cache";
    const SCRUB: &'static str = "scrub.progress";
    const CONCLUDED: &'static str = "update.concluded";
    /// Stands behind the update whose journal this agent removes itself.
    const LET_GO: &'static str = "\nlet go";
    const KEPT: &'static str = "directories.kept";
    /// Some thousand paths of usual length; who keeps more is asked to delete them once more after a restart.
    const MAX_KEPT: usize = 1024 * 1024;
    /// How fast the network was that the kernel tells nothing of: an interface and bytes a second.
    const NETWORK: &'static str = "network.speed";
    /// After what time it is measured again.
    const NETWORK_KNOWN: Duration = Duration::from_secs(24 * 3600);
    const NETWORK_BEGINNING: &'static str = "network speed 1";
    /// How fast the disk is.
    pub(super) const DISK_SPEED: &'static [u8] = b"disk.speed";
    /// Stands before a service that is to be reloaded; no name of a service has a space.
    /// Room for every service an image and the one before may know, with all an update before owed to them.
    const MAX_OWED: usize = 4 * Triggers::MAX_COUNT * (Triggers::MAX_SERVICE + "reload ".len() + 1);
    const MODE: Mode = Mode::from_st_mode(0o600);

    /// As [`Memory::open_with`], for the tests of what is kept there.
    #[cfg(test)]
    pub(super) fn open(path: &Path) -> Result<Self, MemoryError> {
        Self::open_with(path, Arc::new(Kernel))
    }

    /// Opens or makes the directory, and takes it for this process.
    pub(super) fn open_with(path: &Path, seam: Arc<dyn Seam>) -> Result<Self, MemoryError> {
        let fault = |source: io::Error| MemoryError::Io { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fault)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map_err(|e| fault(e.into()))?;
        match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), dir, seam }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(MemoryError::Busy { path: path.to_owned() }),
            Err(error) => Err(fault(error.into())),
        }
    }

    pub(super) fn seam(&self) -> &Arc<dyn Seam> {
        &self.seam
    }

    /// The directory itself, for what others keep there.
    pub(super) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// What earlier scans found. Only a cache: one that can't be read is none.
    pub(super) fn scan_cache(&self, root: &Root) -> Option<Cache> {
        match Cache::load(self.dir(), Self::SCAN.as_bytes(), root) {
            Ok(cache) => Some(cache),
            Err(CacheError::Io(error)) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "what earlier scans found is forgotten");
                None
            }
        }
    }

    pub(super) fn remember_scan(&self, cache: &Cache) -> Result<(), CacheError> {
        cache.save(self.dir(), Self::SCAN.as_bytes()).map(|_durable| ())
    }

    /// How far the slow pass over everything is, which takes `time`; a new pass when that can't be read.
    pub(super) fn scrub(&self, time: Duration) -> Scrub {
        Scrub::load(time, self.dir(), Self::SCRUB.as_bytes()).unwrap_or_else(|error| {
            tracing::warn!(%error, "a new scrub begins: how far the last one was can't be read");
            Scrub::new(time)
        })
    }

    pub(super) fn remember_scrub(&self, scrub: &Scrub) -> io::Result<()> {
        scrub.save(self.dir(), Self::SCRUB.as_bytes()).map(drop)
    }

    /// How fast an interface was when that was measured, less than a day ago: who was measured by a slow source, or while
    /// everybody fetched, must not be held to that for ever. Only a cache: what can't be read is measured again.
    pub(super) fn network(&self, interface: &str) -> Option<BytesPerSecond> {
        let written = inode_at(&self.dir, Self::NETWORK.as_bytes()).ok()?.stx_mtime;
        let written =
            UNIX_EPOCH.checked_add(Duration::new(u64::try_from(written.tv_sec).ok()?, written.tv_nsec))?;
        SystemTime::now().duration_since(written).ok().filter(|age| *age < Self::NETWORK_KNOWN)?;
        let bytes = self.read(Self::NETWORK, 4096).ok()??;
        let text = String::from_utf8(bytes).ok()?;
        let mut lines = text.lines();
        let [beginning, of, speed] = [lines.next()?, lines.next()?, lines.next()?];
        let ours = beginning == Self::NETWORK_BEGINNING && of == interface;
        ours.then(|| speed.parse().ok().and_then(BytesPerSecond::new)).flatten()
    }

    pub(super) fn remember_network(&self, interface: &str, speed: BytesPerSecond) -> Result<(), MemoryError> {
        let text = format!("{}\n{interface}\n{}\n", Self::NETWORK_BEGINNING, speed.bytes());
        self.write(Self::NETWORK, text.as_bytes())
    }

    /// The view that was set last. Only a cache: one that can't be read is none.
    pub(super) fn view(&self) -> Option<View> {
        let bytes = match self.read(Self::VIEW, View::MAX_LEN) {
            Ok(bytes) => bytes?,
            Err(error) => {
                tracing::warn!(%error, "the remembered view can't be read");
                return None;
            }
        };
        View::decode(&bytes)
            .inspect_err(|error| tracing::warn!(%error, "the remembered view is damaged"))
            .ok()
    }

    pub(super) fn remember_view(&self, view: &View) -> Result<(), MemoryError> {
        self.write(Self::VIEW, &view.encode())
    }

    /// The triggers of the image the machine was last made to be.
    pub(super) fn triggers(&self) -> Result<Triggers, MemoryError> {
        let json = self.read(Self::TRIGGERS, Triggers::MAX_JSON)?;
        json.map_or_else(
            || Ok(Triggers::default()),
            |json| Triggers::from_json(&json).map_err(|error| self.damaged(Self::TRIGGERS, error)),
        )
    }

    pub(super) fn remember_triggers(&self, triggers: &Triggers) -> Result<(), MemoryError> {
        self.write(Self::TRIGGERS, triggers.to_json().as_bytes())
    }

    /// The image the machine was last made to be.
    pub(super) fn last_image(&self) -> Result<Option<ImageName>, MemoryError> {
        let Some(bytes) = self.read(Self::IMAGE, ImageName::MAX_LEN)? else { return Ok(None) };
        let text = String::from_utf8(bytes).map_err(|error| self.damaged(Self::IMAGE, error))?;
        text.parse().map(Some).map_err(|error| self.damaged(Self::IMAGE, error))
    }

    /// The machine was made something else since, and nobody knows what.
    pub(super) fn forget_image(&self) -> Result<(), MemoryError> {
        self.remove(Self::IMAGE)
    }

    pub(super) fn remember_image(&self, image: &ImageName) -> Result<(), MemoryError> {
        self.write(Self::IMAGE, image.as_str().as_bytes())
    }

    /// What is owed to services that an update stopped or changed the files of.
    pub(super) fn owed(&self) -> Result<Vec<Debt>, MemoryError> {
        let Some(bytes) = self.read(Self::OWED, Self::MAX_OWED)? else { return Ok(Vec::new()) };
        let text = String::from_utf8(bytes).map_err(|error| self.damaged(Self::OWED, error))?;
        let debt = |line: &str| match line.split_once(' ').map(|(word, name)| (Due::of_word(word), name)) {
            Some((Some(due), service)) => Debt { service: service.to_owned(), due },
            Some((None, _)) | None => Debt { service: line.to_owned(), due: Due::Start },
        };
        let owed: Vec<_> = text.lines().map(debt).collect();
        Debt::check(&owed).map_err(|error| self.damaged(Self::OWED, error))?;
        Ok(owed)
    }

    /// Before the first service is stopped, and when all was tried that is owed; none, when all run again.
    pub(super) fn remember_owed(&self, owed: &[Debt]) -> Result<(), MemoryError> {
        let line = |debt: &Debt| match debt.due {
            Due::Start => debt.service.clone(),
            Due::Reload | Due::Stop => format!("{} {}", debt.due.word(), debt.service),
        };
        self.write(Self::OWED, owed.iter().map(line).collect::<Vec<_>>().join("\n").as_bytes())
    }

    /// What the last plan under this view wanted deleted and the machine keeps. Only a cache: what is not told is planned
    /// to be deleted once more.
    pub(super) fn kept(&self, view: ViewId) -> BTreeSet<ImagePath> {
        let bytes = match self.read(Self::KEPT, Self::MAX_KEPT) {
            Ok(bytes) => bytes.unwrap_or_default(),
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "what is kept can't be read");
                return BTreeSet::new();
            }
        };
        let mut parts = bytes.split(|byte| *byte == 0);
        let same_view = parts.next() == Some(view.to_string().as_bytes());
        let paths: Result<_, _> = parts.filter(|_| same_view).map(ImagePath::parse).collect();
        paths.unwrap_or_else(|error| {
            tracing::warn!(%error, "what is kept is damaged");
            BTreeSet::new()
        })
    }

    pub(super) fn remember_kept(&self, view: ViewId, kept: &BTreeSet<ImagePath>) -> Result<(), MemoryError> {
        let mut bytes = view.to_string().into_bytes();
        for path in kept {
            let rest = Self::MAX_KEPT.saturating_sub(bytes.len());
            if path.as_bytes().len() >= rest {
                break;
            }
            bytes.push(0);
            bytes.extend(path.as_bytes());
        }
        self.write(Self::KEPT, &bytes)
    }

    /// The last update with a journal after which all was done that was to be done, or tried. Only a cache: what is not
    /// told is done once more.
    pub(super) fn concluded(&self) -> Option<Concluded> {
        let bytes = self.read(Self::CONCLUDED, 2 * ObjectId::LEN + Self::LET_GO.len()).ok()??;
        let text = String::from_utf8(bytes).ok()?;
        let (note, journal) = match text.strip_suffix(Self::LET_GO) {
            Some(note) => (note, Journal::LetGo),
            None => (text.as_str(), Journal::Kept),
        };
        Some(Concluded { note: note.parse().ok()?, journal })
    }

    pub(super) fn remember_concluded(
        &self,
        Concluded { note, journal }: Concluded,
    ) -> Result<(), MemoryError> {
        let more = match journal {
            Journal::Kept => "",
            Journal::LetGo => Self::LET_GO,
        };
        self.write(Self::CONCLUDED, format!("{note}{more}").as_bytes())
    }

    pub(super) fn read(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>, MemoryError> {
        let file = match open_file(At::new(self.dir.as_fd(), name.as_bytes())) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.fault(source)),
        };
        let mut bytes = Vec::new();
        let most = u64::try_from(limit).unwrap_or(u64::MAX);
        file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| self.fault(error))?;
        if bytes.len() > limit {
            return Err(self.damaged(name, format!("it is longer than {limit} bytes")));
        }
        Ok(Some(bytes))
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), MemoryError> {
        let name = name.as_bytes();
        publish::bytes(&*self.seam, self.dir.as_fd(), name, bytes, Self::MODE, Replace::Existing)
            .map(|_durable| ())
            .map_err(|error| self.fault(error))
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), MemoryError> {
        match self.seam.remove(At::new(self.dir(), name.as_bytes()), Remove::File) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed
                .and_then(|()| publish::directories(&*self.seam, [self.dir()]))
                .map(|_durable| ())
                .map_err(|error| self.fault(error)),
        }
    }

    pub(super) fn fault(&self, source: io::Error) -> MemoryError {
        MemoryError::Io { path: self.path.clone(), source }
    }

    pub(super) fn damaged(
        &self,
        name: &str,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> MemoryError {
        MemoryError::Damaged { path: self.path.join(name), cause: Cause::new(cause) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_remembered_for_its_view_only_and_never_more_than_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::open(dir.path()).unwrap();
        let view = View::everything();
        let other = View { xattrs: dominator_core::view::XattrPolicy::NONE, ..view.clone() };
        let path =
            |number: usize| ImagePath::parse(format!("/{number}/{}", "d".repeat(200)).as_bytes()).unwrap();
        let some: BTreeSet<_> = [path(1), ImagePath::parse(b"/a\nb/\xff").unwrap()].into();
        memory.remember_kept(view.id(), &some).unwrap();
        assert_eq!((memory.kept(view.id()), memory.kept(other.id())), (some, BTreeSet::new()));
        memory.remember_kept(view.id(), &(0..10_000).map(path).collect()).unwrap();
        assert!((4000..10_000).contains(&memory.kept(view.id()).len()));
        std::fs::write(dir.path().join(Memory::KEPT), format!("{}\0/a/../b", view.id())).unwrap();
        assert_eq!(memory.kept(view.id()), BTreeSet::new());
    }
}
