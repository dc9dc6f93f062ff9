//! Trees out of images: a [`Snapshot`] written to an empty directory, exactly.
//!
//! Or as an archive of `tar`: [`tar`].
//!
//! What is not here: changing a directory that is in use; that is what [`update`](crate::update) is for.

mod tar;

pub use tar::tar;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use dominator_core::inode::{Inode, Kind, Mode};
use dominator_core::object::ObjectId;
use dominator_core::path::{ImagePath, Name};
use dominator_core::port::StoreError;
use dominator_core::tree::Snapshot;
use dominator_core::view::{XattrClass, XattrPolicy};
use rustix::io::Errno;
use thiserror::Error;

use crate::publish;
use crate::root::{self, Root};
use crate::seam::{At, Node, Seam};
use crate::sparse::Sparse;
use crate::store::images::ImageStore;
use crate::store::objects::ObjectStore;

/// Where the contents of a tree come from.
pub trait ObjectStream {
    /// Calls `take` with each of the objects wanted, in that order. The contents fail rather than end when they are not
    /// those of the object: whoever implements this verifies.
    ///
    /// # Errors
    /// [`ExportError::Source`] when an object can't be had; what `take` says.
    fn stream(
        &mut self,
        wanted: &[ObjectId],
        take: &mut dyn FnMut(ObjectId, &mut dyn Read) -> Result<(), ExportError>,
    ) -> Result<(), ExportError>;
}

impl ObjectStream for &ObjectStore {
    fn stream(
        &mut self,
        wanted: &[ObjectId],
        take: &mut dyn FnMut(ObjectId, &mut dyn Read) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        for id in wanted {
            let mut object = self.open_object(id).map_err(ExportError::Source)?;
            take(*id, &mut object)?;
        }
        Ok(())
    }
}

/// Writes `snapshot` into the empty directory `target`, and returns when it would survive a power cut. What this
/// process may not make or set, and computed files, which have no contents yet, are left out and listed.
///
/// # Errors
/// [`ExportError`]; what was written before it stays.
pub fn directory(
    snapshot: &Snapshot,
    target: &Root,
    objects: &mut dyn ObjectStream,
    seam: &dyn Seam,
) -> Result<Exported, ExportError> {
    snapshot
        .verify(ImageStore::MAX_INODES)
        .map_err(|error| ExportError::Malformed { why: error.to_string() })?;
    let mut export = Export { target, seam, left_out: Vec::new(), absent: HashSet::new() };
    export.empty()?;
    let work = Work::of(snapshot);
    work.others.iter().try_for_each(|(path, inode)| export.make(path, inode))?;
    export.files(&work, objects)?;
    work.links.iter().try_for_each(|(path, first)| export.link(path, first))?;
    // Deepest first: a directory that may not be written to is closed when all is in it.
    for (path, inode) in work.others.iter().rev().filter(|(_, inode)| inode.is_directory()) {
        export.directory_metadata(path, inode)?;
    }
    drop(publish::settle_all(seam, target.as_fd()).map_err(|source| fault(&ImagePath::root(), source))?);
    Ok(Exported { left_out: export.left_out })
}

/// What became of an export.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// What is missing from the directory, in the order it was noticed.
    pub left_out: Vec<LeftOut>,
}

/// Something of the tree that is not in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Where.
    pub path: ImagePath,
    /// What, and why, for a human.
    pub what: String,
}

/// Why a tree could not be written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ExportError {
    /// Something is there.
    #[error("the directory is not empty; choose one that is")]
    NotEmpty,
    /// The tree can't be one.
    #[error("the tree is malformed: {why}")]
    Malformed {
        /// What is wrong.
        why: String,
    },
    /// Contents could not be had.
    #[error("the contents of files can't be had")]
    Source(#[source] StoreError),
    /// The archive could not be written.
    #[error("the archive can't be written")]
    Output(#[source] io::Error),
    /// Something could not be written.
    #[error("{path} can't be written")]
    Write {
        /// What.
        path: ImagePath,
        /// Why.
        source: io::Error,
    },
}

/// A tree sorted by how its parts are made.
struct Work {
    /// All but regular files and further names, directories before what is in them.
    others: Vec<(ImagePath, Inode)>,
    /// Regular files by their contents.
    files: HashMap<ObjectId, Vec<(ImagePath, Inode)>>,
    /// Contents in order of the first file that has them.
    order: Vec<ObjectId>,
    /// Further names, with the first.
    links: BTreeMap<ImagePath, ImagePath>,
}

impl Work {
    fn of(snapshot: &Snapshot) -> Self {
        let mut links = BTreeMap::new();
        for set in snapshot.links.iter() {
            if let [first, others @ ..] = set {
                links.extend(others.iter().map(|other| (other.clone(), first.clone())));
            }
        }
        let mut work = Self { others: Vec::new(), files: HashMap::new(), order: Vec::new(), links };
        snapshot.walk(|path, inode| {
            if work.links.contains_key(path) {
                return;
            }
            let entry = (path.clone(), inode.clone());
            match inode.object() {
                None => work.others.push(entry),
                Some((id, _)) => {
                    let files = work.files.entry(id).or_default();
                    if files.is_empty() {
                        work.order.push(id);
                    }
                    files.push(entry);
                }
            }
        });
        work
    }
}

struct Export<'a> {
    target: &'a Root,
    seam: &'a dyn Seam,
    left_out: Vec<LeftOut>,
    /// Files that were left out wholly.
    absent: HashSet<ImagePath>,
}

/// While it is written, a file is its writer's alone.
const PRIVATE_FILE: Mode = Mode::from_st_mode(0o600);
const PRIVATE_DIRECTORY: Mode = Mode::from_st_mode(0o700);
const BUFFER: usize = 128 * 1024;

impl Export<'_> {
    fn empty(&self) -> Result<(), ExportError> {
        let root = ImagePath::root();
        let names = rustix::fs::Dir::read_from(self.target).map_err(|error| fault(&root, error.into()))?;
        for entry in names {
            let entry = entry.map_err(|error| fault(&root, error.into()))?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                return Err(ExportError::NotEmpty);
            }
        }
        self.clear_attributes().map_err(|source| fault(&root, source))
    }

    /// The attributes of the directory that was given: a default ACL would be inherited by all that is made in it.
    fn clear_attributes(&self) -> io::Result<()> {
        let classes = XattrPolicy::of([XattrClass::Capability, XattrClass::PosixAcl, XattrClass::User]);
        let at = At::new(self.target.as_fd(), b".");
        for (name, _) in root::xattrs_of(self.target, classes)?.iter() {
            self.seam.remove_xattr(at, name)?;
        }
        Ok(())
    }

    fn make(&mut self, path: &ImagePath, inode: &Inode) -> Result<(), ExportError> {
        if path.is_root() {
            return Ok(());
        }
        let (dir, name) = self.place(path)?;
        let at = At::new(dir.as_fd(), name.as_bytes());
        let node = |node| self.seam.mknod(at, node, PRIVATE_FILE);
        let made = match &inode.kind {
            Kind::Directory { .. } => {
                return self.seam.mkdir(at, PRIVATE_DIRECTORY).map_err(|source| fault(path, source));
            }
            Kind::Symlink { target } => self.seam.symlink(target, at),
            Kind::BlockDevice { device, .. } => node(Node::Block(*device)),
            Kind::CharDevice { device, .. } => node(Node::Char(*device)),
            Kind::Fifo { .. } => node(Node::Fifo),
            Kind::Computed { source } => {
                self.leave_out(path, format!("it is computed by {source} for each machine"));
                self.absent.insert(path.clone());
                return Ok(());
            }
            Kind::Regular { .. } | Kind::Unknown { .. } => {
                return Err(ExportError::Malformed { why: format!("{path} is {}", inode.kind_name()) });
            }
            _ => return Err(ExportError::Malformed { why: format!("{path} is of a kind not known here") }),
        };
        match made {
            Ok(()) => self.metadata(path, at, inode),
            Err(error) if is_denied(&error) => {
                self.leave_out(path, format!("a {} can't be made: {error}", inode.kind_name()));
                self.absent.insert(path.clone());
                Ok(())
            }
            Err(source) => Err(fault(path, source)),
        }
    }

    fn files(&mut self, work: &Work, objects: &mut dyn ObjectStream) -> Result<(), ExportError> {
        objects.stream(&work.order, &mut |id, contents| {
            let Some([(first, inode), copies @ ..]) = work.files.get(&id).map(Vec::as_slice) else {
                return Err(ExportError::Source(StoreError::Protocol(format!(
                    "object {id} was not asked for"
                ))));
            };
            let file = self.file(first, inode, &mut |file| self.copy(first, contents, file))?;
            for (path, inode) in copies {
                let copied = self.file(path, inode, &mut |to| self.duplicate(path, &file, to))?;
                drop(copied);
            }
            self.finish(first, inode)?;
            copies.iter().try_for_each(|(path, inode)| self.finish(path, inode))
        })
    }

    fn finish(&mut self, path: &ImagePath, inode: &Inode) -> Result<(), ExportError> {
        let (dir, name) = self.place(path)?;
        self.metadata(path, At::new(dir.as_fd(), name.as_bytes()), inode)
    }

    fn file(
        &self,
        path: &ImagePath,
        inode: &Inode,
        fill: &mut dyn FnMut(&File) -> Result<u64, ExportError>,
    ) -> Result<File, ExportError> {
        let (dir, name) = self.place(path)?;
        let file = self
            .seam
            .create(At::new(dir.as_fd(), name.as_bytes()), PRIVATE_FILE)
            .map_err(|source| fault(path, source))?;
        let written = fill(&file)?;
        match inode.object() {
            Some((_, size)) if size == written => Ok(file),
            _ => Err(ExportError::Malformed { why: format!("{path} has another length than its object") }),
        }
    }

    fn copy(&self, path: &ImagePath, from: &mut dyn Read, to: &File) -> Result<u64, ExportError> {
        let mut to = Sparse::new(to).map_err(|source| fault(path, source))?;
        let mut buffer = vec![0; BUFFER];
        let mut written = 0;
        loop {
            let count = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let what = format!("the contents of {path} can't be read");
                    return Err(ExportError::Source(crate::store::objects::failed(what, error)));
                }
            };
            let bytes = buffer.get(..count).unwrap_or_default();
            to.write(self.seam, bytes).map_err(|source| fault(path, source))?;
            written += count as u64;
        }
        to.finish(self.seam).map_err(|source| fault(path, source))?;
        Ok(written)
    }

    fn duplicate(&self, path: &ImagePath, from: &File, to: &File) -> Result<u64, ExportError> {
        use std::io::Seek;
        if self.seam.reflink(from, to).is_ok() {
            return from.metadata().map(|metadata| metadata.len()).map_err(|source| fault(path, source));
        }
        let mut from = from;
        from.rewind().map_err(|source| fault(path, source))?;
        self.copy(path, &mut from, to)
    }

    fn link(&mut self, path: &ImagePath, first: &ImagePath) -> Result<(), ExportError> {
        if self.absent.contains(first) {
            self.leave_out(path, format!("it is another name of {first}"));
            return Ok(());
        }
        let (from_dir, from) = self.place(first)?;
        let (to_dir, to) = self.place(path)?;
        self.seam
            .link(At::new(from_dir.as_fd(), from.as_bytes()), At::new(to_dir.as_fd(), to.as_bytes()))
            .map_err(|source| fault(path, source))
    }

    fn directory_metadata(&mut self, path: &ImagePath, inode: &Inode) -> Result<(), ExportError> {
        let dir = self.target.directory(path).map_err(|source| fault(path, source))?;
        self.metadata(path, At::new(dir.as_fd(), b"."), inode)
    }

    fn metadata(&mut self, path: &ImagePath, at: At<'_>, inode: &Inode) -> Result<(), ExportError> {
        let seam = self.seam;
        let owned = self.try_set(path, "its owner", seam.chown(at, inode.uid, inode.gid))?;
        for (name, value) in inode.xattrs.iter() {
            let what = format!("its attribute {}", String::from_utf8_lossy(name));
            self.try_set(path, &what, seam.set_xattr(at, name, value))?;
        }
        if !matches!(inode.kind, Kind::Symlink { .. }) {
            // A set-uid file of the wrong owner gives rights nobody meant to give.
            let mode =
                if owned { inode.mode } else { Mode::from_st_mode(u32::from(inode.mode.bits()) & 0o1777) };
            if mode != inode.mode {
                self.leave_out(path, "its set-uid and set-gid bits, as its owner is another".into());
            }
            seam.chmod(at, mode).map_err(|source| fault(path, source))?;
        }
        match &inode.kind {
            Kind::Regular { mtime, .. }
            | Kind::BlockDevice { mtime, .. }
            | Kind::CharDevice { mtime, .. }
            | Kind::Fifo { mtime } => seam.set_mtime(at, *mtime).map_err(|source| fault(path, source)),
            Kind::Computed { .. }
            | Kind::Symlink { .. }
            | Kind::Directory { .. }
            | Kind::Unknown { .. }
            | _ => Ok(()),
        }
    }

    /// Whether it was set; what this process may not set is left out.
    fn try_set(&mut self, path: &ImagePath, what: &str, set: io::Result<()>) -> Result<bool, ExportError> {
        match set {
            Ok(()) => Ok(true),
            Err(error) if is_denied(&error) => {
                self.leave_out(path, format!("{what} can't be set: {error}"));
                Ok(false)
            }
            Err(source) => Err(fault(path, source)),
        }
    }

    fn place(&self, path: &ImagePath) -> Result<(OwnedFd, Name), ExportError> {
        self.target.parent(path).map_err(|source| fault(path, source))
    }

    fn leave_out(&mut self, path: &ImagePath, what: String) {
        self.left_out.push(LeftOut { path: path.clone(), what });
    }
}

/// Whether rights or the file-system forbid it, rather than something having gone wrong.
fn is_denied(error: &io::Error) -> bool {
    [Errno::PERM, Errno::ACCESS, Errno::NOTSUP]
        .map(|errno| Some(errno.raw_os_error()))
        .contains(&error.raw_os_error())
}

fn fault(path: &ImagePath, source: io::Error) -> ExportError {
    ExportError::Write { path: path.clone(), source }
}
