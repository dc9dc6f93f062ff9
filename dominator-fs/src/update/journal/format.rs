//! A prepared update in a file, as `docs/formats/journal.md` says: written and read piece by piece, never as a whole.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use dominator_core::inode::{Mode, Timestamp, Xattrs};
use dominator_core::object::{ObjectHasher, ObjectId};
use dominator_core::path::ImagePath;
use dominator_core::port::PathFailure;
use dominator_core::view::{Ownership, XattrPolicy};

use super::JournalError;
use crate::seam::Seam;
use crate::update::id::Id;
use crate::update::metadata::{Attributes, Rules};
use crate::update::step::{Change, Lift, Lifted, Made, Old, Prepared, Slot, Step, Target, Written};
use crate::update::trial::{Judged, Trial};

const MAGIC: [u8; 4] = *b"DJN2";
/// How much is written or read at a time, in bytes.
const BUFFER: usize = 64 * 1024;
/// The longest note, in bytes.
pub(super) const MAX_NOTE: usize = 16 * 1024 * 1024;
/// The longest reason of a failure that is kept, in bytes.
const MAX_REASON: usize = 4096;

/// Writes a prepared update where `file` stands. Says how many bytes that took, and their digest.
pub(super) fn write(
    seam: &dyn Seam,
    file: &File,
    root: Id,
    (note, trial): (&[u8], Option<Trial>),
    prepared: &Prepared,
) -> io::Result<(u64, ObjectId)> {
    let mut out = Output { seam, file, buffer: Vec::new(), hasher: ObjectHasher::new(), written: 0 };
    out.raw(&MAGIC)?;
    out.id(root)?;
    out.bytes(note)?;
    out.trial(trial)?;
    let ignored = u8::from(prepared.rules.ownership == Ownership::Ignored);
    out.raw(&[ignored, prepared.rules.xattrs.bits()])?;
    out.raw(&prepared.done.to_be_bytes())?;
    out.count(prepared.failures.len())?;
    for failure in &prepared.failures {
        out.bytes(failure.path.as_bytes())?;
        let reason = failure.reason.as_bytes();
        out.bytes(reason.get(..reason.len().min(MAX_REASON)).unwrap_or_default())?;
    }
    out.count(prepared.lifts.len())?;
    prepared.lifts.iter().try_for_each(|lift| out.lift(lift))?;
    out.count(prepared.steps.len())?;
    prepared.steps.iter().try_for_each(|step| out.step(step))?;
    out.finish()
}

/// Whether a file is a journal that another version wrote.
pub(super) fn is_of_another_version(file: &File) -> io::Result<bool> {
    let mut magic = [0; MAGIC.len()];
    match file.read_exact_at(&mut magic, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        other => other?,
    }
    let [ours @ .., _] = MAGIC;
    Ok(magic != MAGIC && magic.starts_with(&ours) && magic.last().is_some_and(u8::is_ascii_digit))
}

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Loaded {
    pub(super) root: Id,
    pub(super) note: Vec<u8>,
    pub(super) trial: Option<Trial>,
    pub(super) prepared: Prepared,
    pub(super) digest: ObjectId,
    /// How many bytes it took.
    pub(super) len: u64,
}

/// Reads a prepared update from where `file` stands, of which there are at most `left` bytes.
pub(super) fn read(file: &File, left: u64) -> Result<Loaded, JournalError> {
    let from = BufReader::with_capacity(BUFFER, file);
    let mut input = Input { from, left, read: 0, hasher: ObjectHasher::new() };
    if input.array()? != MAGIC {
        return Err(JournalError::Damaged("it is another kind of file"));
    }
    let root = input.id()?;
    let note = input.bytes(MAX_NOTE)?;
    let trial = input.trial()?;
    let ownership = if input.flag()? { Ownership::Ignored } else { Ownership::Kept };
    let [bits] = input.array()?;
    let xattrs = XattrPolicy::from_bits(bits).ok_or(JournalError::Damaged("attributes of no class"))?;
    let done = u64::from_be_bytes(input.array()?);
    let failures = (0..input.count(9)?).map(|_| input.failure()).collect::<Result<_, _>>()?;
    let lifts = (0..input.count(10)?).map(|_| input.lift()).collect::<Result<_, _>>()?;
    let steps = (0..input.count(26)?).map(|_| input.step()).collect::<Result<_, _>>()?;
    let prepared = Prepared { rules: Rules { ownership, xattrs }, steps, lifts, done, failures };
    let (len, digest) = input.finish()?;
    Ok(Loaded { root, note, trial, prepared, digest, len })
}

struct Output<'a> {
    seam: &'a dyn Seam,
    file: &'a File,
    buffer: Vec<u8>,
    hasher: ObjectHasher,
    written: u64,
}

impl Output<'_> {
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.hasher.update(&self.buffer);
        self.seam.write(self.file, &self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<(u64, ObjectId)> {
        self.flush()?;
        let digest = self.hasher.finish();
        self.seam.write(self.file, digest.as_bytes())?;
        Ok((self.written + ObjectId::LEN as u64, digest))
    }

    fn count(&mut self, count: usize) -> io::Result<()> {
        self.raw(&u32::try_from(count).map_err(io::Error::other)?.to_be_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.count(bytes.len())?;
        self.raw(bytes)
    }

    fn id(&mut self, id: Id) -> io::Result<()> {
        self.raw(&id.ino.to_be_bytes())?;
        self.raw(&id.generation.to_be_bytes())
    }

    fn time(&mut self, time: Timestamp) -> io::Result<()> {
        self.raw(&time.seconds().to_be_bytes())?;
        self.raw(&time.nanos().to_be_bytes())
    }

    fn mode(&mut self, mode: Mode) -> io::Result<()> {
        self.raw(&mode.bits().to_be_bytes())
    }

    fn trial(&mut self, trial: Option<Trial>) -> io::Result<()> {
        self.raw(&[match trial.map(|trial| trial.judged) {
            None => 0,
            Some(Judged::AfterServices) => 1,
            Some(Judged::AfterReboot) => 2,
        }])?;
        let millis = |trial: Trial| u32::try_from(trial.deadline.as_millis()).unwrap_or(u32::MAX);
        trial.map_or(Ok(()), |trial| self.raw(&millis(trial).to_be_bytes()))
    }

    fn lift(&mut self, lift: &Lift) -> io::Result<()> {
        self.bytes(lift.path.as_bytes())?;
        match lift.what {
            Lifted::Flags(flags) => {
                self.raw(&[1])?;
                self.raw(&flags.to_be_bytes())
            }
            Lifted::Mode { inode, before, after } => {
                self.raw(&[2])?;
                self.id(inode)?;
                self.mode(before)?;
                self.mode(after)
            }
        }
    }

    fn step(&mut self, step: &Step) -> io::Result<()> {
        match step {
            Step::Put { path, slot, new, old, made } => {
                self.raw(&[1])?;
                self.bytes(path.as_bytes())?;
                self.raw(&slot.0.to_be_bytes())?;
                self.id(*new)?;
                self.old(*old)?;
                self.made(made)
            }
            Step::Attributes(change) => {
                self.raw(&[2])?;
                self.count(change.paths.len())?;
                change.paths.iter().try_for_each(|path| self.bytes(path.as_bytes()))?;
                self.id(change.inode)?;
                self.raw(&[match change.of {
                    Target::Directory => 1,
                    Target::File => 2,
                    Target::Other => 3,
                }])?;
                self.attributes(&change.before)?;
                self.attributes(&change.after)
            }
            Step::Delete { path, slot, old, directory } => {
                self.raw(&[3])?;
                self.bytes(path.as_bytes())?;
                self.raw(&slot.0.to_be_bytes())?;
                self.id(*old)?;
                self.raw(&[u8::from(*directory)])
            }
        }
    }

    fn old(&mut self, old: Old) -> io::Result<()> {
        self.raw(&[match old {
            Old::Nothing => 0,
            Old::Directory(_) => 1,
            Old::Other(_) => 2,
        }])?;
        old.id().map_or(Ok(()), |id| self.id(id))
    }

    fn made(&mut self, made: &Made) -> io::Result<()> {
        match made {
            Made::File { written, object } => {
                self.raw(&[1])?;
                self.raw(&written.size.to_be_bytes())?;
                self.time(written.mtime)?;
                self.raw(&[u8::from(object.is_some())])?;
                object.map_or(Ok(()), |object| self.raw(object.as_bytes()))
            }
            Made::Directory => self.raw(&[2]),
            Made::Other => self.raw(&[3]),
            Made::Link => self.raw(&[4]),
        }
    }

    fn attributes(&mut self, of: &Attributes) -> io::Result<()> {
        self.raw(&[u8::from(of.mode.is_some())])?;
        of.mode.map_or(Ok(()), |mode| self.mode(mode))?;
        self.raw(&of.uid.to_be_bytes())?;
        self.raw(&of.gid.to_be_bytes())?;
        self.count(of.xattrs.iter().count())?;
        for (name, value) in of.xattrs.iter() {
            self.bytes(name)?;
            self.bytes(value)?;
        }
        self.raw(&[u8::from(of.mtime.is_some())])?;
        of.mtime.map_or(Ok(()), |mtime| self.time(mtime))
    }
}

struct Input<'a> {
    from: BufReader<&'a File>,
    /// How much there still is, in bytes: nothing can be longer.
    left: u64,
    read: u64,
    hasher: ObjectHasher,
}

impl Input<'_> {
    fn exactly(&mut self, into: &mut [u8]) -> Result<(), JournalError> {
        let len = into.len() as u64;
        self.left = self.left.checked_sub(len).ok_or(CUT_SHORT)?;
        self.from.read_exact(into)?;
        self.hasher.update(into);
        self.read += len;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], JournalError> {
        let mut array = [0; N];
        self.exactly(&mut array)?;
        Ok(array)
    }

    fn flag(&mut self) -> Result<bool, JournalError> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [_] => Err(JournalError::Damaged("a flag that is none")),
        }
    }

    /// A count of items of at least `size` bytes each, which must be there before anybody makes room for them.
    fn count(&mut self, size: u64) -> Result<usize, JournalError> {
        let count = u32::from_be_bytes(self.array()?);
        if u64::from(count) > self.left / size {
            return Err(CUT_SHORT);
        }
        usize::try_from(count).map_err(|_| CUT_SHORT)
    }

    fn bytes(&mut self, limit: usize) -> Result<Vec<u8>, JournalError> {
        let len = self.count(1)?;
        if len > limit {
            return Err(JournalError::Damaged("something too long"));
        }
        let mut bytes = vec![0; len];
        self.exactly(&mut bytes)?;
        Ok(bytes)
    }

    fn path(&mut self) -> Result<ImagePath, JournalError> {
        let bytes = self.bytes(ImagePath::MAX_LEN)?;
        ImagePath::parse(&bytes).map_err(|_| JournalError::Damaged("a path that is none"))
    }

    fn id(&mut self) -> Result<Id, JournalError> {
        let (ino, generation) = (u64::from_be_bytes(self.array()?), u64::from_be_bytes(self.array()?));
        Ok(Id { ino, generation })
    }

    fn time(&mut self) -> Result<Timestamp, JournalError> {
        let (seconds, nanos) = (i64::from_be_bytes(self.array()?), u32::from_be_bytes(self.array()?));
        Timestamp::new(seconds, nanos).ok_or(JournalError::Damaged("a time that is none"))
    }

    fn mode(&mut self) -> Result<Mode, JournalError> {
        let bits = u16::from_be_bytes(self.array()?);
        let mode = Mode::from_st_mode(bits.into());
        if mode.bits() == bits { Ok(mode) } else { Err(JournalError::Damaged("a mode that is none")) }
    }

    fn slot(&mut self) -> Result<Slot, JournalError> {
        Ok(Slot(u32::from_be_bytes(self.array()?)))
    }

    fn trial(&mut self) -> Result<Option<Trial>, JournalError> {
        let judged = match self.array()? {
            [0] => return Ok(None),
            [1] => Judged::AfterServices,
            [2] => Judged::AfterReboot,
            [_] => return Err(JournalError::Damaged("a trial of no known kind")),
        };
        let deadline = Duration::from_millis(u32::from_be_bytes(self.array()?).into());
        Ok(Some(Trial { deadline, judged }))
    }

    fn failure(&mut self) -> Result<PathFailure, JournalError> {
        let path = self.path()?;
        Ok(PathFailure { path, reason: String::from_utf8_lossy(&self.bytes(MAX_REASON)?).into_owned() })
    }

    fn lift(&mut self) -> Result<Lift, JournalError> {
        let path = self.path()?;
        let what = match self.array()? {
            [1] => Lifted::Flags(u32::from_be_bytes(self.array()?)),
            [2] => Lifted::Mode { inode: self.id()?, before: self.mode()?, after: self.mode()? },
            [_] => return Err(JournalError::Damaged("something lifted of no known kind")),
        };
        Ok(Lift { path, what })
    }

    fn step(&mut self) -> Result<Step, JournalError> {
        Ok(match self.array()? {
            [1] => Step::Put {
                path: self.path()?,
                slot: self.slot()?,
                new: self.id()?,
                old: self.old()?,
                made: self.made()?,
            },
            [2] => Step::Attributes(Box::new(self.change()?)),
            [3] => Step::Delete {
                path: self.path()?,
                slot: self.slot()?,
                old: self.id()?,
                directory: self.flag()?,
            },
            [_] => return Err(JournalError::Damaged("a step of no known kind")),
        })
    }

    fn old(&mut self) -> Result<Old, JournalError> {
        Ok(match self.array()? {
            [0] => Old::Nothing,
            [1] => Old::Directory(self.id()?),
            [2] => Old::Other(self.id()?),
            [_] => return Err(JournalError::Damaged("a former inode of no known kind")),
        })
    }

    fn made(&mut self) -> Result<Made, JournalError> {
        Ok(match self.array()? {
            [1] => {
                let written = Written { size: u64::from_be_bytes(self.array()?), mtime: self.time()? };
                let object = if self.flag()? { Some(ObjectId::from_bytes(self.array()?)) } else { None };
                Made::File { written, object }
            }
            [2] => Made::Directory,
            [3] => Made::Other,
            [4] => Made::Link,
            [_] => return Err(JournalError::Damaged("a new inode of no known kind")),
        })
    }

    fn change(&mut self) -> Result<Change, JournalError> {
        let paths: Vec<_> = (0..self.count(5)?).map(|_| self.path()).collect::<Result<_, _>>()?;
        if paths.is_empty() {
            return Err(JournalError::Damaged("metadata for nothing"));
        }
        let inode = self.id()?;
        let of = match self.array()? {
            [1] => Target::Directory,
            [2] => Target::File,
            [3] => Target::Other,
            [_] => return Err(JournalError::Damaged("metadata of no known kind of file")),
        };
        Ok(Change { paths, inode, of, before: self.attributes()?, after: self.attributes()? })
    }

    fn attributes(&mut self) -> Result<Attributes, JournalError> {
        let mode = if self.flag()? { Some(self.mode()?) } else { None };
        let (uid, gid) = (u32::from_be_bytes(self.array()?), u32::from_be_bytes(self.array()?));
        let mut xattrs = Xattrs::default();
        let mut last = Vec::new();
        for _ in 0..self.count(9)? {
            let name = self.bytes(Xattrs::MAX_NAME)?;
            let value = self.bytes(Xattrs::MAX_VALUE)?;
            if name <= last || xattrs.insert(&name, &value).is_err() {
                return Err(JournalError::Damaged("attributes that are none, or out of order"));
            }
            last = name;
        }
        let mtime = if self.flag()? { Some(self.time()?) } else { None };
        Ok(Attributes { mode, uid, gid, xattrs, mtime })
    }

    /// What was read is what was written.
    fn finish(mut self) -> Result<(u64, ObjectId), JournalError> {
        let digest = std::mem::take(&mut self.hasher).finish();
        let told: [u8; ObjectId::LEN] = self.array()?;
        if told == *digest.as_bytes() {
            Ok((self.read, digest))
        } else {
            Err(JournalError::Damaged("its digest is wrong"))
        }
    }
}

const CUT_SHORT: JournalError = JournalError::Damaged("it is cut short");
