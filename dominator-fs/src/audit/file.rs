use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dominator_core::inode::Mode;
use rustix::fs::{AtFlags, FlockOperation, OFlags};
use rustix::io::Errno;

use super::{AuditError, Rotation};
use crate::publish;
use crate::seam::{At, Remove, Seam};

/// For its owner only: it says who did what.
const MODE: Mode = Mode::from_st_mode(0o600);
/// How long a process that ends may still have the log.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// The file that is appended to, and its place.
pub(super) struct LogFile {
    seam: Arc<dyn Seam>,
    dir: OwnedFd,
    name: Vec<u8>,
    rotation: Rotation,
    file: Arc<File>,
    len: u64,
    /// Whether the last line has no end.
    is_torn: bool,
}

/// An append that did not come to its end.
pub(super) struct Partial {
    /// How many of the bytes are in the file.
    pub(super) written: usize,
    pub(super) error: io::Error,
}

impl LogFile {
    pub(super) fn open(seam: Arc<dyn Seam>, path: &Path, rotation: Rotation) -> Result<Self, AuditError> {
        let failed = |source: io::Error| AuditError::Io { path: path.into(), source };
        let no_file = || AuditError::NoFile { path: path.into() };
        let name = path.file_name().ok_or_else(no_file)?.as_bytes().to_vec();
        let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(above, flags, rustix::fs::Mode::empty())
            .map_err(|errno| failed(errno.into()))?;
        let until = Instant::now() + PATIENCE;
        let file = loop {
            match open_or_create(&*seam, dir.as_fd(), &name) {
                Ok(file) => break file,
                Err(error) if Errno::from_io_error(&error) == Some(Errno::LOOP) => return Err(no_file()),
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::IsADirectory) =>
                {
                    return Err(no_file());
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(failed(error)),
                Err(_) if Instant::now() >= until => return Err(AuditError::Busy { path: path.into() }),
                Err(_) => std::thread::sleep(LOOK),
            }
        };
        let mut log = Self { seam, dir, name, rotation, file: Arc::new(file), len: 0, is_torn: false };
        log.look().map_err(failed)?;
        Ok(log)
    }

    pub(super) const fn handle(&self) -> &Arc<File> {
        &self.file
    }

    /// Appends whole lines. A half one that is there is ended first.
    pub(super) fn append(&mut self, lines: &[u8]) -> Result<(), Partial> {
        let before = self.len;
        let torn = usize::from(self.is_torn);
        let written = match self.is_torn {
            true => self.seam.write(&self.file, &[b"\n", lines].concat()),
            false => self.seam.write(&self.file, lines),
        };
        let Err(error) = written else {
            self.len += u64::try_from(torn + lines.len()).unwrap_or(u64::MAX);
            self.is_torn = false;
            return Ok(());
        };
        let seen = self.look();
        let grown = usize::try_from(self.len.saturating_sub(before)).unwrap_or(usize::MAX);
        match seen {
            Ok(()) => Err(Partial { written: grown.saturating_sub(torn), error }),
            Err(error) => Err(Partial { written: 0, error }),
        }
    }

    /// Whether it is time to go on in another file, with so many bytes to come.
    pub(super) fn is_full_with(&self, bytes: usize) -> bool {
        self.len > 0 && self.len + u64::try_from(bytes).unwrap_or(u64::MAX) > self.rotation.size
    }

    /// Whether the file is where those look who read it.
    pub(super) fn is_in_place(&self) -> bool {
        let Ok(ours) = self.file.metadata() else { return false };
        rustix::fs::statat(&self.dir, self.name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|there| (there.st_dev, there.st_ino) == (ours.dev(), ours.ino()))
    }

    /// Goes on with what is in the place now, or with a new file.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        self.file = Arc::new(open_or_create(&*self.seam, self.dir.as_fd(), &self.name)?);
        self.look()
    }

    /// Moves all files on by one and goes on in a new one.
    ///
    /// The new one is made first, and files move up to the first number that is free, so that attempts that fail, however
    /// often, cost no file but the last.
    pub(super) fn rotate(&mut self) -> io::Result<()> {
        let next = self.numbered("new");
        match self.seam.remove(self.at(&next), Remove::File) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = create(&*self.seam, self.dir.as_fd(), &next)?;
        let kept = self.rotation.kept();
        let free = (1..=kept).find(|number| !self.is_there(&self.numbered(number)));
        if free.is_none() {
            self.seam.remove(self.at(&self.numbered(kept)), Remove::File)?;
        }
        for number in (1..free.unwrap_or(kept)).rev() {
            self.place(&self.numbered(number), &self.numbered(number + 1))?;
        }
        self.place(&self.name, &self.numbered(1))?;
        self.place(&next, &self.name)?;
        self.file = Arc::new(file);
        self.look()?;
        publish::directories(&*self.seam, [self.dir.as_fd()]).map(drop)
    }

    fn place(&self, from: &[u8], to: &[u8]) -> io::Result<()> {
        publish::place(&*self.seam, self.at(from), self.at(to))
    }

    fn at<'a>(&'a self, name: &'a [u8]) -> At<'a> {
        At::new(self.dir.as_fd(), name)
    }

    fn numbered(&self, number: impl std::fmt::Display) -> Vec<u8> {
        [self.name.as_slice(), format!(".{number}").as_bytes()].concat()
    }

    fn is_there(&self, name: &[u8]) -> bool {
        rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW).err() != Some(Errno::NOENT)
    }

    /// How long the file is, and whether it ends with the end of a line.
    fn look(&mut self) -> io::Result<()> {
        self.len = self.file.metadata()?.len();
        let mut last = [b'\n'];
        if let Some(at) = self.len.checked_sub(1) {
            self.file.read_exact_at(&mut last, at)?;
        }
        self.is_torn = last != [b'\n'];
        Ok(())
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        // A child that is being started has a copy of the handle until it becomes another program.
        rustix::fs::flock(&self.file, FlockOperation::Unlock).unwrap_or_default();
    }
}

fn open_or_create(seam: &dyn Seam, dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<File> {
    match open(dir, name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(file) => {
            if file.metadata()?.mode() & 0o077 != 0 {
                tracing::warn!("the audit log could be read or written by others: no more");
                seam.chmod(At::itself(file.as_fd()), MODE)?;
            }
            return Ok(file);
        }
    }
    let file = create(seam, dir, name)?;
    publish::directories(seam, [dir]).map(|_durable| file)
}

fn create(seam: &dyn Seam, dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<File> {
    seam.create(At::new(dir, name), MODE)?;
    open(dir, name)
}

/// Opens a file, and nothing else, to be appended to by this process alone.
fn open(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<File> {
    // INVARIANT: every write goes to the end, whatever else has the file open; no link leads it elsewhere, and no pipe
    // keeps us waiting.
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(dir, name, flags, rustix::fs::Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}
