use std::fs::DirBuilder;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dominator_core::image::ImageName;
use dominator_core::inode::Mode;
use dominator_core::port::{Cause, Chain};
use dominator_core::trigger::{Trigger, Triggers};
use dominator_core::view::View;
use rustix::fs::{FlockOperation, OFlags};
use thiserror::Error;

use crate::publish::{self, Replace};
use crate::root::{Root, open_file};
use crate::scan::{Cache, CacheError, Scrub};
use crate::seam::{At, Kernel};
use crate::service::{Debt, Due};
use crate::update::Ledger;

/// What an agent remembers beyond its own life, in a directory of its own. Every file is replaced as a whole.
#[derive(Debug)]
pub(super) struct Memory {
    path: PathBuf,
    dir: OwnedFd,
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
    /// How fast the disk is.
    pub(super) const DISK_SPEED: &'static [u8] = b"disk.speed";
    /// Stands before a service that is to be reloaded; no name of a service has a space.
    const RELOAD: &'static str = "reload ";
    /// Room for every service an image and the one before may know, with all an update before owed to them.
    const MAX_OWED: usize = 4 * Triggers::MAX_COUNT * (Triggers::MAX_SERVICE + Self::RELOAD.len() + 1);
    const MODE: Mode = Mode::from_st_mode(0o600);

    /// Opens or makes the directory, and takes it for this process.
    pub(super) fn open(path: &Path) -> Result<Self, MemoryError> {
        let fault = |source: io::Error| MemoryError::Io { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fault)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map_err(|e| fault(e.into()))?;
        match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), dir }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(MemoryError::Busy { path: path.to_owned() }),
            Err(error) => Err(fault(error.into())),
        }
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

    pub(super) fn remember_image(&self, image: &ImageName) -> Result<(), MemoryError> {
        self.write(Self::IMAGE, image.as_str().as_bytes())
    }

    /// What is owed to services that an update stopped or changed the files of.
    pub(super) fn owed(&self) -> Result<Vec<Debt>, MemoryError> {
        let Some(bytes) = self.read(Self::OWED, Self::MAX_OWED)? else { return Ok(Vec::new()) };
        let text = String::from_utf8(bytes).map_err(|error| self.damaged(Self::OWED, error))?;
        let debt = |line: &str| match line.strip_prefix(Self::RELOAD) {
            Some(service) => Debt { service: service.to_owned(), due: Due::Reload },
            None => Debt { service: line.to_owned(), due: Due::Start },
        };
        let owed: Vec<_> = text.lines().map(debt).collect();
        // As strict as with an image's triggers: what stands here becomes an argument of a command.
        let named = |debt: &Debt| Trigger { service: debt.service.clone(), ..Trigger::default() };
        for part in owed.chunks(Triggers::MAX_COUNT) {
            let triggers = Triggers::new(part.iter().map(named).collect());
            triggers.map_err(|error| self.damaged(Self::OWED, error))?;
        }
        Ok(owed)
    }

    /// Before the first service is stopped, and when all was tried that is owed; none, when all run again.
    pub(super) fn remember_owed(&self, owed: &[Debt]) -> Result<(), MemoryError> {
        let line = |debt: &Debt| match debt.due {
            Due::Start => debt.service.clone(),
            Due::Reload => format!("{}{}", Self::RELOAD, debt.service),
        };
        self.write(Self::OWED, owed.iter().map(line).collect::<Vec<_>>().join("\n").as_bytes())
    }

    fn read(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>, MemoryError> {
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

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), MemoryError> {
        let name = name.as_bytes();
        publish::bytes(&Kernel, self.dir.as_fd(), name, bytes, Self::MODE, Replace::Existing)
            .map(|_durable| ())
            .map_err(|error| self.fault(error))
    }

    fn fault(&self, source: io::Error) -> MemoryError {
        MemoryError::Io { path: self.path.clone(), source }
    }

    fn damaged(&self, name: &str, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> MemoryError {
        MemoryError::Damaged { path: self.path.join(name), cause: Cause::new(cause) }
    }
}

impl Ledger for Memory {
    fn note(&self, owed: &[Debt]) -> io::Result<()> {
        self.remember_owed(owed).map_err(io::Error::other)
    }
}
