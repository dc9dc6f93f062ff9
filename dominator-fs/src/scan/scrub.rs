//! Scrubbing: everything in view is read again, slowly and from the disk itself, and compared with what it was.
//!
//! A scan goes by what the file-system says of a file; contents can change without its knowing: a disk that forgets, a
//! cable, memory, or somebody who writes to the device. That is *silent corruption*. What the scrub found takes the
//! place of what was in the [`Cache`], so that the next tree differs and the file is replaced like any other that
//! differs.
//!
//! What is not here: a thread. Whoever scans calls [`Scrub::step`] between scans.

mod pass;
mod reading;

use std::collections::HashSet;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use dominator_core::inode::{Mode, Timestamp, Why};
use dominator_core::object::{ObjectHasher, ObjectId};
use dominator_core::path::ImagePath;
use rustix::io::Errno;

use self::pass::{Pass, Position};
pub(crate) use self::reading::OnDisk;
use self::reading::is_medium;
use super::cache::Cache;
use super::identity::{FileKey, Freshness, Identity, Links};
use super::known_files::KnownFile;
use super::{Cancel, Fact};
use crate::pace::Pacer;
use crate::pace::direct::DirectBuffer;
use crate::publish::{self, Durable, Replace};
use crate::root::{Root, open_file};
use crate::seam::{At, Kernel};

/// Reads everything again, pass after pass.
#[derive(Debug)]
pub struct Scrub {
    time: Duration,
    pass: Option<Pass>,
    /// A large file that was read in part. A restart begins it anew.
    partly: Option<Partly>,
    /// Files of several names this pass has read, so that they are read once; as many as are worth the memory.
    linked: HashSet<FileKey>,
}

impl Scrub {
    /// How long a pass takes by default.
    pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    /// How much a step reads, in bytes.
    const STEP: u64 = 4 << 20;
    /// How many files a step opens.
    const FILES: usize = 256;
    const PIECE: usize = 128 << 10;
    /// How many files of several names are remembered.
    const LINKED: usize = 100_000;
    /// How long to wait while nothing is known to read.
    const IDLE: Duration = Duration::from_secs(60);

    /// Begins the first pass. A pass takes `time`, or longer where the pacer allows less.
    pub fn new(time: Duration) -> Self {
        Self { time, pass: None, partly: None, linked: HashSet::new() }
    }

    /// Goes on where [`Self::save`] was called; with a new pass where it was not, or what was saved is damaged.
    ///
    /// # Errors
    /// What the kernel says; nothing saved is no error.
    pub fn load(time: Duration, dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Self> {
        let file = match open_file(At::new(dir, name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::new(time)),
            outcome => outcome?,
        };
        let mut bytes = Vec::new();
        file.take(Pass::LIMIT).read_to_end(&mut bytes)?;
        Ok(Self { pass: Pass::decode(&bytes), ..Self::new(time) })
    }

    /// Saves how far it is as `name` in the directory `dir`. Save the cache first: a finding that is in neither would
    /// be made again only by the next pass.
    ///
    /// # Errors
    /// What the kernel says; what was saved before is still there then.
    pub fn save(&self, dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<Durable>> {
        let mode = Mode::from_st_mode(0o600);
        let save = |pass: &Pass| publish::bytes(&Kernel, dir, name, &pass.encode(), mode, Replace::Existing);
        self.pass.as_ref().map(save).transpose()
    }

    /// Reads the next few MiB, if that is due at `now`, under the limits of `pacer`. `root` and `cache` are those of the
    /// scans; what is found goes into `cache`. A file that is not what the cache knows is left to the next scan.
    ///
    /// Cancelled, it returns within the time one piece of 128 KiB takes to be read, and loses nothing.
    pub fn step(
        &mut self,
        root: &Root,
        cache: &mut Cache,
        now: Timestamp,
        pacer: &Pacer,
        cancel: &Cancel,
    ) -> Step {
        let mut step = Step::default();
        let Some(position) = self.position(cache, now) else {
            step.wait = Self::IDLE;
            return step;
        };
        step.wait = self.wait(now);
        if !step.wait.is_zero() {
            return step;
        }
        let batch = batch(cache, &position);
        if batch.is_empty() {
            self.end();
        }
        let mut left = Self::STEP;
        let mut buffer = DirectBuffer::new(Self::PIECE);
        for file in batch {
            if cancel.is_cancelled() || left == 0 {
                break;
            }
            let before = left;
            let verdict = self.verify(root, &file, &mut buffer, &mut left, pacer, cancel);
            step.read = step.read.saturating_add(before - left);
            self.judge(cache, file, verdict, &mut step);
        }
        step.wait = self.wait(now);
        step
    }

    /// How far the pass is, as parts of a whole: bytes behind, and bytes in all.
    pub fn progress(&self) -> (u64, u64) {
        let partly = self.partly.as_ref().map_or(0, |partly| partly.done);
        self.pass
            .as_ref()
            .map_or((0, 0), |pass| (pass.done.saturating_add(partly).min(pass.total), pass.total))
    }

    /// When the pass began; nothing before the first step.
    pub fn began(&self) -> Option<Timestamp> {
        self.pass.as_ref().map(|pass| pass.began)
    }

    /// What the pass has behind it; one begins when the last one's time is over.
    fn position(&mut self, cache: &Cache, now: Timestamp) -> Option<Position> {
        if let Some(pass) = &mut self.pass {
            pass.notice(now);
            if pass.position != Position::End || !pass.wait(now, self.time, 0).is_zero() {
                return Some(pass.position.clone());
            }
        }
        let total = cache.bytes();
        if total == 0 {
            return None;
        }
        self.linked.clear();
        self.pass = Some(Pass { began: now, total, done: 0, position: Position::Beginning });
        Some(Position::Beginning)
    }

    fn wait(&self, now: Timestamp) -> Duration {
        let partly = self.partly.as_ref().map_or(0, |partly| partly.done);
        self.pass.as_ref().map_or(Self::IDLE, |pass| pass.wait(now, self.time, partly))
    }

    fn end(&mut self) {
        self.partly = None;
        if let Some(pass) = &mut self.pass {
            pass.position = Position::End;
        }
    }

    /// Notes what came of a file, and that it is behind.
    fn judge(&mut self, cache: &mut Cache, file: KnownFile, verdict: Verdict, step: &mut Step) {
        match verdict {
            Verdict::Unfinished => return,
            Verdict::Intact => step.files += 1,
            Verdict::Left => step.left += 1,
            Verdict::Unreadable(error) => step.unreadable.push(Fact {
                path: file.path.clone(),
                why: Why::Unreadable,
                detail: format!("unreadable on disk: {error}"),
            }),
            Verdict::Other(found) => {
                cache.correct(&file, found);
                let path = file.path.clone();
                step.corrupt.push(Corruption { path, expected: file.object, found });
            }
        }
        self.partly = None;
        if let Some(pass) = &mut self.pass {
            pass.done = pass.done.saturating_add(file.identity.size);
            pass.position = Position::After(file.path);
        }
    }

    /// Reads a file, on from where it was left, but at most `left` bytes, and compares.
    fn verify(
        &mut self,
        root: &Root,
        file: &KnownFile,
        buffer: &mut DirectBuffer,
        left: &mut u64,
        pacer: &Pacer,
        cancel: &Cancel,
    ) -> Verdict {
        let identity = &file.identity;
        // What is fresh may have changed in ways a scan will find; that is no corruption.
        if identity.freshness == Freshness::Fresh || self.was_read(identity) {
            return Verdict::Left;
        }
        let mut on_disk = match open(root, &file.path) {
            Ok(on_disk) => on_disk,
            Err(error) if is_medium(&error) => return Verdict::Unreadable(error),
            Err(_) => return Verdict::Left,
        };
        if !on_disk.identity().is_ok_and(|now| now.is_same(identity)) {
            return Verdict::Left;
        }
        let partly = self.partly.take().filter(|partly| partly.is_of(file));
        let mut partly = partly.unwrap_or_else(|| Partly::new(file));
        while partly.done < identity.size {
            if *left == 0 || cancel.is_cancelled() {
                self.partly = Some(partly);
                return Verdict::Unfinished;
            }
            let filled = match on_disk.fill(buffer, partly.done) {
                Ok(0) => break,
                Ok(filled) => filled,
                Err(error) => return Verdict::Unreadable(error),
            };
            partly.add(buffer.bytes(filled));
            *left = left.saturating_sub(filled as u64);
            pacer.pace(cancel);
        }
        // Only a file that is still the same now was the same all the time.
        if !on_disk.identity().is_ok_and(|now| now.is_same(identity)) {
            return Verdict::Left;
        }
        match partly.hasher.finish() {
            found if found == file.object => Verdict::Intact,
            found => Verdict::Other(found),
        }
    }

    /// Whether this pass has read the file by another name; it has now.
    fn was_read(&mut self, identity: &Identity) -> bool {
        match identity.links {
            Links::One => false,
            Links::Several if self.linked.len() >= Self::LINKED => self.linked.contains(&identity.key()),
            // A file that is read in parts is met again under its own name.
            Links::Several
                if self.partly.as_ref().is_some_and(|partly| partly.identity.key() == identity.key()) =>
            {
                false
            }
            Links::Several => !self.linked.insert(identity.key()),
        }
    }
}

/// What a step did.
#[derive(Debug, Default)]
pub struct Step {
    /// How much was read, in bytes.
    pub read: u64,
    /// How many files were found to be what they were.
    pub files: u64,
    /// How many were left to the next scan: they changed, or were read under another name.
    pub left: u64,
    /// Silent corruption.
    pub corrupt: Vec<Corruption>,
    /// What the disk can't read any more.
    pub unreadable: Vec<Fact>,
    /// When the next step is due.
    pub wait: Duration,
}

/// A file whose contents changed although the file-system says that it did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corruption {
    /// Where it is; other names of the file are not told.
    pub path: ImagePath,
    /// What it contained.
    pub expected: ObjectId,
    /// What it contains.
    pub found: ObjectId,
}

/// What came of a file.
enum Verdict {
    Intact,
    Other(ObjectId),
    /// To the next scan.
    Left,
    Unreadable(io::Error),
    /// There is more of it than a step reads.
    Unfinished,
}

/// A file that was hashed up to some point.
#[derive(Debug)]
struct Partly {
    path: ImagePath,
    identity: Identity,
    done: u64,
    hasher: ObjectHasher,
}

impl Partly {
    fn new(file: &KnownFile) -> Self {
        Self { path: file.path.clone(), identity: file.identity, done: 0, hasher: ObjectHasher::new() }
    }

    fn is_of(&self, file: &KnownFile) -> bool {
        self.path == file.path && self.identity == file.identity
    }

    /// More than the file had is not of the file; that it has more is noticed by its identity.
    fn add(&mut self, piece: &[u8]) {
        let rest = usize::try_from(self.identity.size - self.done).unwrap_or(usize::MAX);
        let piece = piece.get(..rest).unwrap_or(piece);
        self.hasher.update(piece);
        self.done += piece.len() as u64;
    }
}

/// The files of one step.
fn batch(cache: &Cache, position: &Position) -> Vec<KnownFile> {
    let after = match position {
        Position::Beginning => None,
        Position::After(path) => Some(path),
        Position::End => return Vec::new(),
    };
    let mut sum = 0_u64;
    let fits = |file: &KnownFile| {
        let before = sum;
        sum = sum.saturating_add(file.identity.size);
        before < Scrub::STEP
    };
    cache.files(after).take(Scrub::FILES).take_while(fits).collect()
}

fn open(root: &Root, path: &ImagePath) -> io::Result<OnDisk> {
    let (parent, name) = path.split().ok_or(Errno::ISDIR)?;
    OnDisk::open(root.directory_here(&parent)?.as_fd(), name.as_bytes())
}

#[cfg(test)]
mod tests;
