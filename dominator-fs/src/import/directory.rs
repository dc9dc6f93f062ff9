use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::Arc;

use dominator_core::object::{ObjectHasher, ObjectId};
use dominator_core::path::ImagePath;
use dominator_core::tree::Snapshot;
use dominator_core::view::{View, XattrClass, XattrPolicy};
use rustix::fs::{Mode, OFlags};

use super::{ImportError, Imported, OFFER, ObjectSink, Selection, deliver};
use crate::root::{self, Root};
use crate::scan::{Cache, Cancel, Clock, Fact, Progress, Scan, Scanner};
use crate::traits;

/// How many paths an error lists.
const LISTED: usize = 20;

/// Imports what is below `root`, which nobody should be writing to. What `selection` leaves out is, and so are
/// sockets and an agent's work directory; of a file-system mounted below there is only the directory it is mounted on.
///
/// The classes of extended attributes the source could carry are those its file-system knows; SELinux labels only if
/// `root` itself has one, since a directory that was made on a machine without SELinux says nothing of labels.
///
/// # Errors
/// [`ImportError`]; an image can't be had in part.
pub fn directory<'a>(
    root: &Root,
    selection: impl Into<Selection<'a>>,
    cancel: &Cancel,
    sink: &mut dyn ObjectSink,
) -> Result<Imported, ImportError> {
    Ok(directory_again(root, selection, &mut Cache::new(), Watched::new(cancel), sink)?.0)
}

/// As [`directory`], but reads only what `cache` does not know from an earlier time, which afterwards knows what this time
/// found: see [`Cache`] for what that means. Also tells how many bytes were read to be hashed.
///
/// # Errors
/// As [`directory`].
pub fn directory_again<'a>(
    root: &Root,
    selection: impl Into<Selection<'a>>,
    cache: &mut Cache,
    watched: Watched<'_>,
    sink: &mut dyn ObjectSink,
) -> Result<(Imported, u64), ImportError> {
    let Watched { cancel, progress, clock } = watched;
    let Selection { filter, xattrs } = selection.into();
    let xattrs = carried(root).and(xattrs);
    let view = View { filters: vec![filter.clone()], xattrs, ..View::everything() };
    let scanner = Scanner::new(root.clone(), Arc::new(view)).progress(progress).clock(clock);
    let scan = scanner.rescan(cache, cancel).map_err(ImportError::Scan)?;
    if !scan.facts.is_empty() {
        return Err(unreadable(&scan.facts));
    }
    let Scan { snapshot, bytes_hashed, .. } = scan;
    let snapshot =
        Snapshot::new(View::everything().id(), snapshot.tree.root, snapshot.links, snapshot.directories);
    contents(root, &snapshot, cancel, sink)?;
    deliver(&snapshot, sink)?;
    Ok((Imported { snapshot, xattrs, attributes_dropped: 0 }, bytes_hashed))
}

/// How an import is watched and ended.
#[derive(Clone, Debug)]
pub struct Watched<'a> {
    /// Ends it early.
    pub cancel: &'a Cancel,
    /// Counts what is done.
    pub progress: Arc<Progress>,
    /// Tells which files changed too short a while ago to be known by their times.
    pub clock: Clock,
}

impl<'a> Watched<'a> {
    /// Watched by nobody.
    pub fn new(cancel: &'a Cancel) -> Self {
        Self { cancel, progress: Arc::default(), clock: Clock::system() }
    }
}

fn carried(root: &Root) -> XattrPolicy {
    let kept = |class: &XattrClass| match class {
        XattrClass::Selinux => root::xattrs_of(root, XattrPolicy::of([XattrClass::Selinux]))
            .is_ok_and(|labels| !labels.is_empty()),
        XattrClass::Capability | XattrClass::PosixAcl | XattrClass::User => traits::is_kept(root, *class),
    };
    XattrPolicy::of(XattrClass::ALL.into_iter().filter(kept))
}

fn unreadable(facts: &[Fact]) -> ImportError {
    let paths = facts.iter().take(LISTED).map(Fact::to_string).collect();
    ImportError::Unreadable { paths, count: facts.len() }
}

/// Gives the contents of the files of `snapshot` that the sink wants to it, each once. `snapshot` was imported from
/// `root`; directories and hard links were given to the sink then and are not offered again.
///
/// # Errors
/// [`ImportError`]; [`ImportError::Changed`] when a file is no longer what it was.
pub fn contents(
    root: &Root,
    snapshot: &Snapshot,
    cancel: &Cancel,
    sink: &mut dyn ObjectSink,
) -> Result<(), ImportError> {
    let mut files: BTreeMap<ObjectId, (u64, ImagePath)> = BTreeMap::new();
    snapshot.walk(|path, inode| {
        if let Some((id, size)) = inode.object() {
            files.entry(id).or_insert_with(|| (size, path.clone()));
        }
    });
    let offers: Vec<_> = files.iter().map(|(id, (size, _))| (*id, *size)).collect();
    let mut wanted = Vec::new();
    for offer in offers.chunks(OFFER) {
        wanted.extend(sink.want(offer).map_err(ImportError::Sink)?);
    }
    // In order of the paths: neighbours on the disk, and a progress a human can follow.
    let mut wanted: Vec<_> =
        wanted.iter().filter_map(|id| files.get(id).map(|(size, path)| (path, *id, *size))).collect();
    wanted.sort();
    for (path, id, size) in wanted {
        if cancel.is_cancelled() {
            return Err(ImportError::Scan(crate::scan::ScanError::Cancelled));
        }
        send(root, path, id, size, sink)?;
    }
    Ok(())
}

fn send(
    root: &Root,
    path: &ImagePath,
    id: ObjectId,
    size: u64,
    sink: &mut dyn ObjectSink,
) -> Result<(), ImportError> {
    let changed = || ImportError::Changed { path: path.clone() };
    let file = open(root, path).map_err(|_| changed())?;
    let mut contents = Unchanged { file, hasher: ObjectHasher::new(), id, left: size, changed: false };
    let put = sink.put(id, size, &mut contents);
    match put {
        Err(_) if contents.changed => Err(changed()),
        put => put.map_err(ImportError::Sink),
    }
}

pub(super) fn open(root: &Root, path: &ImagePath) -> io::Result<File> {
    let (dir, name) = root.parent(path)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    // A device must not be opened to find out that it is one.
    let stat = root::inode_at(&dir, name.as_bytes())?;
    if !rustix::fs::FileType::from_raw_mode(stat.stx_mode.into()).is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(rustix::fs::openat(dir.as_fd(), name.as_bytes(), flags, Mode::empty())?.into())
}

/// Reads a file that must still be what it was when it was scanned, and fails rather than end otherwise.
struct Unchanged {
    file: File,
    hasher: ObjectHasher,
    id: ObjectId,
    left: u64,
    changed: bool,
}

impl Unchanged {
    fn fault(&mut self) -> io::Error {
        self.changed = true;
        io::Error::other("it changed")
    }
}

impl Read for Unchanged {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.file.read(buffer)?;
        if count as u64 > self.left {
            return Err(self.fault());
        }
        if count == 0 {
            let same = self.left == 0 && self.hasher.clone().finish() == self.id;
            return if same { Ok(0) } else { Err(self.fault()) };
        }
        self.hasher.update(buffer.get(..count).unwrap_or_default());
        self.left -= count as u64;
        Ok(count)
    }
}
