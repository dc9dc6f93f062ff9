//! One name of one directory: what it is, found out so that it can't be a mixture of two things.

use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use dominator_core::inode::{Device, Inode, Kind, Mode, Timestamp, Why, Xattrs};
use dominator_core::object::ObjectId;
use dominator_core::tree::Builder;
use dominator_core::view::XattrPolicy;
use rustix::fs::{FileType, OFlags, Statx};
use rustix::io::Errno;

use super::cache::Cache;
use super::contents::{Partly, read_on};
use super::freshness::Moment;
use super::identity::{FileKey, Freshness, Identity, Links, mtime_of, type_of};
use super::installed::Installed;
use super::walk::lock;
use super::{Cancel, Progress, ScanError, Scanner};
use crate::pace::Pacer;
use crate::root::{self, Root};

/// What was found out of a name.
#[derive(Debug)]
pub(super) enum Look {
    /// What it is, not yet under any view.
    Known(Inode, Identity),
    /// Nothing certain.
    Unknown(Why, String, Identity),
    /// It is gone.
    Vanished,
    /// A directory or a socket, which are not for looking at here.
    Other(Statx),
}

/// A name to look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    pub(super) dir: BorrowedFd<'a>,
    pub(super) name: &'a [u8],
    /// What it was a moment ago; nothing, if the directory just called it a regular file.
    pub(super) stat: Option<Statx>,
    /// What it was when it was last looked at, and when that was.
    pub(super) before: Option<(Identity, Timestamp)>,
    /// What its contents are, if it still is what it was.
    pub(super) object: Option<ObjectId>,
}

/// Looks at names, for one scan.
pub(super) struct Looker<'a> {
    pub(super) root: &'a Root,
    pub(super) policy: XattrPolicy,
    pub(super) cancel: &'a Cancel,
    pub(super) pacer: &'a Pacer,
    pub(super) progress: &'a Progress,
    /// How much was read; `progress` may be shared with other scans.
    pub(super) bytes: AtomicU64,
    /// How many regular files were opened.
    pub(super) opened: AtomicU64,
    /// The scan is over, and not by `cancel`.
    pub(super) ended: AtomicBool,
    /// Files of several names, so that they are read once.
    linked: Mutex<HashMap<FileKey, (Identity, Inode)>>,
    /// Files an earlier scan, or this one, did not come to the end of.
    pub(super) partly: Mutex<Vec<Partly>>,
    /// Files that need not be opened.
    pub(super) installed: Option<Arc<Installed>>,
}

impl<'a> Looker<'a> {
    pub(super) fn new(scanner: &'a Scanner, cancel: &'a Cancel, cache: &mut Cache) -> Self {
        Self {
            root: &scanner.root,
            policy: scanner.view.xattrs,
            cancel,
            pacer: &scanner.pacer,
            progress: &scanner.progress,
            bytes: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            linked: Mutex::default(),
            partly: Mutex::new(std::mem::take(&mut cache.partly)),
            installed: cache.installed.clone(),
        }
    }

    /// Whether the scan may go on.
    pub(super) fn check(&self) -> Result<(), ScanError> {
        let ended = self.ended.load(Ordering::Relaxed) || self.cancel.is_cancelled();
        if ended { Err(ScanError::Cancelled) } else { Ok(()) }
    }

    /// A piece of a file was read.
    pub(super) fn piece(&self, len: usize) -> Result<(), ScanError> {
        self.progress.bytes.fetch_add(len as u64, Ordering::Relaxed);
        self.bytes.fetch_add(len as u64, Ordering::Relaxed);
        self.pacer.pace(self.cancel);
        self.check()
    }

    /// Looks at a name. What changes while it is looked at is looked at once more, and then given up.
    pub(super) fn look(&self, mut subject: Subject<'_>, moment: Moment) -> Result<Look, ScanError> {
        for _ in 0..2 {
            let outcome = match subject.stat {
                None => self.file(&subject, moment)?,
                Some(stat) => match type_of(&stat) {
                    FileType::Directory | FileType::Socket => return Ok(Look::Other(stat)),
                    _ if self.root.is_elsewhere(&stat) => {
                        let detail = "something is mounted over it".into();
                        return Ok(Look::Unknown(Why::Unreadable, detail, Identity::default()));
                    }
                    FileType::RegularFile => self.known_file(&subject, &stat, moment)?,
                    FileType::Symlink
                    | FileType::Fifo
                    | FileType::CharacterDevice
                    | FileType::BlockDevice
                    | FileType::Unknown => self.without_opening(&subject, &stat, moment),
                },
            };
            match outcome {
                Ok((inode, identity)) => return Ok(Look::Known(inode, identity)),
                Err(Setback::Changed) => {}
                Err(Setback::Failed(error)) => return self.failed(&subject, &error),
            }
            match root::inode_at(subject.dir, subject.name) {
                Ok(now) => subject.stat = Some(now),
                Err(error) if is_gone(&error) => return Ok(Look::Vanished),
                Err(error) => return self.failed(&subject, &error),
            }
        }
        let identity = subject.stat.as_ref().map(Identity::of).unwrap_or_default();
        Ok(Look::Unknown(Why::Changing, Why::Changing.to_string(), identity))
    }

    /// It can't be looked at; but whether it has other names may still be told.
    fn failed(&self, subject: &Subject<'_>, error: &io::Error) -> Result<Look, ScanError> {
        let (why, detail) = unreadable(error)?;
        let stat = subject.stat.or_else(|| root::inode_at(subject.dir, subject.name).ok());
        Ok(Look::Unknown(why, detail, stat.as_ref().map(Identity::of).unwrap_or_default()))
    }

    /// A regular file that may not have to be read.
    fn known_file(&self, subject: &Subject<'_>, stat: &Statx, moment: Moment) -> Result<Found, ScanError> {
        let identity = Identity::of(stat);
        if let Some(found) = self.other_name(&identity) {
            return Ok(Ok(found));
        }
        let same = subject.before.filter(|(before, _)| before.is_same(&identity));
        if let (Some((before, _)), Some(object)) = (same, subject.object)
            && before.freshness == Freshness::Settled
        {
            return Ok(self.contents(subject, stat, object, Freshness::Settled));
        }
        // One that was looked at since it was put in place is read like all others.
        if same.is_none()
            && let Some(object) = self.installed.as_ref().and_then(|installed| installed.contents(stat))
        {
            return Ok(self.contents(subject, stat, object, Freshness::Fresh));
        }
        self.file(subject, moment)
    }

    fn file(&self, subject: &Subject<'_>, moment: Moment) -> Result<Found, ScanError> {
        let (file, stat) = match self.open(subject) {
            Ok(opened) => opened,
            Err(setback) => return Ok(Err(setback)),
        };
        let before = Identity::of(&stat);
        if let Some(found) = self.other_name(&before) {
            return Ok(Ok(found));
        }
        let attributes = || Ok((root::xattrs_of(&file, self.policy)?, mtime(&stat)?));
        let (xattrs, mtime) = match attributes().map_err(Setback::of) {
            Ok(attributes) => attributes,
            Err(setback) => return Ok(Err(setback)),
        };
        let mut partly = self.resume(&before, moment);
        let read = read_on(&file, &mut partly, |len| self.piece(len));
        let (object, began) = match read {
            Ok(Ok(())) => partly.finish(),
            Ok(Err(setback)) => return Ok(Err(setback)),
            Err(error) => {
                self.put_aside(partly);
                return Err(error);
            }
        };
        match root::inode_of(&file) {
            Ok(after) if Identity::of(&after) == before => {}
            Ok(_) => return Ok(Err(Setback::Changed)),
            Err(error) => return Ok(Err(Setback::of(error))),
        }
        let identity = subject.judged(before, began);
        let inode = inode(&stat, xattrs, Kind::Regular { mtime, size: stat.stx_size, object });
        if identity.links == Links::Several {
            lock(&self.linked).insert(identity.key(), (identity, inode.clone()));
        }
        Ok(Ok((inode, identity)))
    }

    /// Opens what was a regular file a moment ago, and still is.
    fn open(&self, subject: &Subject<'_>) -> Result<(OwnedFd, Statx), Setback> {
        let file = root::open_here(subject.dir, subject.name, OFlags::empty())
            .map_err(|error| Setback::of(error.into()))?;
        let stat = root::inode_of(&file).map_err(Setback::of)?;
        let expected = subject.stat.is_none_or(|seen| Identity::of(&seen).key() == Identity::of(&stat).key());
        if expected && type_of(&stat) == FileType::RegularFile {
            self.opened.fetch_add(1, Ordering::Relaxed);
            Ok((file, stat))
        } else {
            Err(Setback::Changed)
        }
    }

    /// What was found under another name of the same file.
    fn other_name(&self, identity: &Identity) -> Option<(Inode, Identity)> {
        if identity.links == Links::One {
            return None;
        }
        let linked = lock(&self.linked);
        let (same, inode) = linked.get(&identity.key())?;
        same.is_same(identity).then(|| (inode.clone(), *same))
    }

    fn resume(&self, identity: &Identity, moment: Moment) -> Partly {
        let mut partly = lock(&self.partly);
        match partly.iter().position(|partly| partly.identity.is_same(identity)) {
            Some(place) => partly.swap_remove(place),
            None => Partly::new(*identity, moment),
        }
    }

    fn put_aside(&self, partly: Partly) {
        if partly.is_worth_keeping() {
            lock(&self.partly).push(partly);
        }
    }

    /// A regular file whose contents are known already.
    fn contents(&self, subject: &Subject<'_>, stat: &Statx, object: ObjectId, freshness: Freshness) -> Found {
        let mtime = mtime(stat).map_err(Setback::of)?;
        let kind = Kind::Regular { mtime, size: stat.stx_size, object };
        self.attributes_of(subject, stat, kind, freshness)
    }

    fn without_opening(&self, subject: &Subject<'_>, stat: &Statx, moment: Moment) -> Found {
        let device = Device { major: stat.stx_rdev_major, minor: stat.stx_rdev_minor };
        let time = || mtime(stat).map_err(Setback::of);
        let kind = match type_of(stat) {
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(subject.dir, subject.name, Vec::new());
                let target = target.map_err(|error| Setback::of(error.into()))?.into_bytes();
                Kind::Symlink { target: target.into() }
            }
            FileType::BlockDevice => Kind::BlockDevice { mtime: time()?, device },
            FileType::CharacterDevice => Kind::CharDevice { mtime: time()?, device },
            FileType::Fifo => Kind::Fifo { mtime: time()? },
            FileType::RegularFile | FileType::Directory | FileType::Socket | FileType::Unknown => {
                return Err(Setback::Changed);
            }
        };
        let freshness = subject.judged(Identity::of(stat), moment).freshness;
        self.attributes_of(subject, stat, kind, freshness)
    }

    fn attributes_of(&self, subject: &Subject<'_>, stat: &Statx, kind: Kind, freshness: Freshness) -> Found {
        let xattrs = root::xattrs_at(subject.dir, subject.name, self.policy).map_err(Setback::of)?;
        let after = root::inode_at(subject.dir, subject.name).map_err(Setback::of)?;
        let identity = Identity::of(stat);
        if Identity::of(&after) == identity {
            Ok((inode(stat, xattrs, kind), identity.with(freshness)))
        } else {
            Err(Setback::Changed)
        }
    }
}

impl Subject<'_> {
    /// What a look is worth that began at `began`.
    fn judged(&self, identity: Identity, began: Moment) -> Identity {
        let before = self.before.filter(|(before, _)| before.is_same(&identity)).map(|(_, when)| when);
        identity.with(began.freshness(identity.changed(), before))
    }
}

/// A whole inode, or why there is none.
type Found = Result<(Inode, Identity), Setback>;

/// Why a look came to nothing.
pub(super) enum Setback {
    Changed,
    Failed(io::Error),
}

impl Setback {
    pub(super) fn of(error: io::Error) -> Self {
        let code = error.raw_os_error().map(Errno::from_raw_os_error);
        match code {
            // Gone, became a symbolic link, became none, became a socket, something is mounted over it: the next look
            // tells.
            Some(Errno::NOENT | Errno::LOOP | Errno::INVAL | Errno::NXIO | Errno::STALE | Errno::XDEV) => {
                Self::Changed
            }
            _ => Self::Failed(error),
        }
    }
}

/// An error that concerns this name only; one that concerns this process ends the scan.
pub(super) fn unreadable(error: &io::Error) -> Result<(Why, String), ScanError> {
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    if matches!(code, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM)) {
        return Err(ScanError::Exhausted { source: io::Error::new(error.kind(), error.to_string()) });
    }
    Ok((Why::Unreadable, error.to_string()))
}

pub(super) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// The inode of a directory whose entries are not known yet.
pub(super) fn directory(stat: &Statx, xattrs: Xattrs) -> Inode {
    inode(stat, xattrs, Kind::Directory { id: Builder::placeholder() })
}

fn inode(stat: &Statx, xattrs: Xattrs, kind: Kind) -> Inode {
    let symlink = matches!(kind, Kind::Symlink { .. });
    let mode = if symlink { Mode::SYMLINK } else { Mode::from_st_mode(stat.stx_mode.into()) };
    Inode { mode, uid: stat.stx_uid, gid: stat.stx_gid, xattrs, kind }
}

fn mtime(stat: &Statx) -> io::Result<Timestamp> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "its time of modification is none");
    mtime_of(stat).ok_or_else(broken)
}
