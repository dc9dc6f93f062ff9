use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dominator_core::inode::Kind;
use dominator_core::object::ObjectId;
use dominator_core::path::{ImagePath, Name};
use dominator_core::port::PathFailure;
use dominator_core::tree::Snapshot;
use dominator_core::view::{View, XattrPolicy};
use rustix::fs::{FileType, StatxAttributes};
use thiserror::Error;

use super::objects::{ObjectCache, hash};
use super::{Recovery, UpdateError, Updater, WorkError};
use crate::mounts::{Mounts, MountsError};
use crate::publish::{self, Move, Replace};
use crate::root::{
    Root, RootError, Statx, inode_at, inode_of, is_directory, names_in, open_directory, xattrs_at,
};
use crate::scan::{Cache, Cancel, FileKey, Identity, ScanError, Scanner};
use crate::seam::{At, Remove, Seam};

/// An old root on its way to be the object cache of the one that takes its place: what a machine was holds most of what it
/// is going to be.
///
/// The contents of every file are kept in the root's work directory, where an agent finds them instead of fetching them, and
/// all else is removed. A crash, whenever it comes, loses nothing that is not in the cache: contents are moved, nothing is
/// removed before all of them are there and durable, and a file whose contents are not there is never removed. It can be
/// begun again until it is done. Nobody may be using the root.
#[derive(Debug)]
pub struct Salvage {
    root: Root,
    tree: Snapshot,
    /// Where each content lies, and its length.
    files: BTreeMap<ObjectId, (u64, ImagePath)>,
    /// Every file that was read, as it was then, and its content.
    read: BTreeMap<FileKey, (Identity, ObjectId)>,
}

/// What a directory has to look like to be salvaged: all but contents is lost, and names are soon mistyped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Likeness {
    /// Like a root: with `/etc` and `/usr`, or with the work directory of an agent, as one has that was begun.
    #[default]
    Root,
    /// Like anything.
    Anything,
}

/// What a root holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Names in it, those of directories among them; sockets don't count.
    pub names: u64,
    /// Different contents of files, but for the empty one.
    pub objects: u64,
    /// The length of all of them.
    pub bytes: u64,
    /// Names of what could not be read, and will stay.
    pub unreadable: u64,
}

/// What became of a root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// How many objects were moved into the cache; others were there already.
    pub moved: u64,
    /// How many names were removed.
    pub removed: u64,
    /// What stays, and why.
    pub left: Vec<PathFailure>,
}

/// Why a root was not made a cache of. Nothing that is not in the cache was removed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SalvageError {
    /// It can't be opened.
    #[error(transparent)]
    Root(#[from] RootError),
    /// It is the root of this very process.
    #[error("this is the root of the running system; boot another one first")]
    Running,
    /// A process lives in it.
    #[error("process {process} has its root, its program or its working directory in there; end it first")]
    InUse {
        /// Which.
        process: String,
    },
    /// It is not what was meant, by the looks of it.
    #[error("it has neither /etc and /usr, as a root has, nor the /.subd of an agent")]
    NoRoot,
    /// Something is mounted in it.
    #[error("something is mounted on {path}; unmount it first")]
    MountPoint {
        /// Where.
        path: ImagePath,
    },
    /// What is mounted can't be found out.
    #[error("it can't be found out whether something is mounted in there")]
    Mounts(#[from] MountsError),
    /// It can't be read.
    #[error("it can't be scanned")]
    Scan(#[from] ScanError),
    /// The work directory can't be used.
    #[error(transparent)]
    Work(#[from] WorkError),
    /// What an agent kept in it can't be removed.
    #[error(transparent)]
    CleanUp(#[from] UpdateError),
    /// An agent had been cut off in the middle of an update, which was finished or undone just now.
    #[error("an update that was cut off was finished or undone first; begin again")]
    Recovered,
    /// The disk failed.
    #[error("the disk failed; look at the kernel's log, then begin again")]
    Io(#[from] io::Error),
}

impl Salvage {
    /// How many files are moved together: each keeps its directory open meanwhile.
    const BATCH: usize = 256;

    /// Looks at the root at `path`, and reads all of it. Nothing is changed.
    ///
    /// # Errors
    /// [`SalvageError`]; [`SalvageError::Running`], [`SalvageError::InUse`], [`SalvageError::NoRoot`] and
    /// [`SalvageError::MountPoint`] when it must not be touched.
    pub fn look(path: &Path, likeness: Likeness, cancel: &Cancel) -> Result<Self, SalvageError> {
        let root = Root::open(path)?;
        refuse_living(&root, &fs::canonicalize(path)?)?;
        if let Some(path) = Mounts::of(&root)?.points().first() {
            return Err(SalvageError::MountPoint { path: path.clone() });
        }
        if likeness == Likeness::Root && !looks_like_a_root(&root)? {
            return Err(SalvageError::NoRoot);
        }
        let mut seen = Cache::new();
        let tree =
            Scanner::new(root.clone(), Arc::new(View::everything())).rescan(&mut seen, cancel)?.snapshot;
        let read = seen.files(None).map(|file| (file.identity.key(), (file.identity, file.object))).collect();
        let mut files = BTreeMap::new();
        tree.walk(|path, inode| {
            if let Some((object, size)) = inode.object().filter(|(_, size)| *size > 0) {
                files.entry(object).or_insert_with(|| (size, path.clone()));
            }
        });
        Ok(Self { root, tree, files, read })
    }

    /// What is in it.
    pub fn survey(&self) -> Survey {
        let mut survey = Survey { objects: self.files.len() as u64, ..Survey::default() };
        survey.bytes = self.files.values().map(|(size, _)| size).sum();
        self.tree.walk(|path, inode| {
            survey.names += u64::from(!path.is_root());
            survey.unreadable += u64::from(matches!(inode.kind, Kind::Unknown { .. }));
        });
        survey
    }

    /// Moves the contents of all files into the cache, then removes all else.
    ///
    /// # Errors
    /// [`SalvageError`]; begin again.
    pub fn run(self, seam: &Arc<dyn Seam>) -> Result<Salvaged, SalvageError> {
        let (mut updater, recovery) = Updater::open(self.root.clone(), Arc::clone(seam))?;
        if matches!(recovery, Recovery::Finished { .. } | Recovery::Undone { .. }) {
            updater.clean_up()?;
            return Err(SalvageError::Recovered);
        }
        updater.clean_up()?;
        let Updater { work, objects: cache, .. } = &updater;
        let mut rescue = Rescue {
            salvage: &self,
            seam: &**seam,
            cached: BTreeSet::new(),
            touched: BTreeSet::new(),
            done: Salvaged::default(),
            left: BTreeMap::new(),
        };
        rescue.fill(cache, work.objects.as_fd())?;
        // DURABILITY: from here on names go. What was in the cache before this run counts, too.
        let _durable = publish::settle_all(&**seam, work.objects.as_fd())?;
        rescue.clear(self.root.as_fd(), &ImagePath::root())?;
        let left = rescue.left.into_iter().map(|(path, reason)| PathFailure { path, reason }).collect();
        Ok(Salvaged { left, ..rescue.done })
    }
}

struct Rescue<'a> {
    salvage: &'a Salvage,
    seam: &'a dyn Seam,
    /// Objects that are in the cache, verified in this run.
    cached: BTreeSet<ObjectId>,
    /// Files whose time of change we moved ourselves.
    touched: BTreeSet<FileKey>,
    done: Salvaged,
    left: BTreeMap<ImagePath, String>,
}

/// A file that is ready to be moved.
struct Ready {
    id: ObjectId,
    directory: OwnedFd,
    name: Name,
    to: Vec<u8>,
}

impl Rescue<'_> {
    fn fill(&mut self, cache: &ObjectCache, objects: BorrowedFd<'_>) -> io::Result<()> {
        let mut batch = Vec::new();
        for (id, (size, path)) in &self.salvage.files {
            if is_cached(cache, id, *size) {
                self.cached.insert(*id);
                continue;
            }
            match self.strip(*id, path) {
                Ok(ready) => batch.push(ready),
                Err(error) => self.leave(path, error.to_string()),
            }
            if batch.len() >= Salvage::BATCH {
                self.publish(&mut batch, objects)?;
            }
        }
        self.publish(&mut batch, objects)
    }

    /// Takes everything from a file that a fetched object would not have.
    fn strip(&mut self, id: ObjectId, path: &ImagePath) -> io::Result<Ready> {
        let (directory, name) = self.salvage.root.parent(path)?;
        let stat = inode_at(&directory, name.as_bytes())?;
        if self.unchanged(path, &stat)? != id {
            return Err(changed());
        }
        movable(&stat)?;
        movable(&inode_of(&directory)?)
            .map_err(|error| io::Error::new(error.kind(), format!("of its directory: {error}")))?;
        self.touched.insert(Identity::of(&stat).key());
        let at = At::new(directory.as_fd(), name.as_bytes());
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        self.seam.chown(at, uid, gid)?;
        for (attribute, _) in xattrs_at(&directory, name.as_bytes(), XattrPolicy::ALL)?.iter() {
            self.seam.remove_xattr(at, attribute)?;
        }
        self.seam.chmod(at, ObjectCache::MODE)?;
        Ok(Ready { id, directory, name, to: id.to_string().into_bytes() })
    }

    fn publish(&mut self, batch: &mut Vec<Ready>, objects: BorrowedFd<'_>) -> io::Result<()> {
        let moves: Vec<_> = batch
            .iter()
            .map(|ready| Move {
                from: At::new(ready.directory.as_fd(), ready.name.as_bytes()),
                to: At::new(objects, &ready.to),
            })
            .collect();
        let _durable = publish::batch(self.seam, &moves, Replace::Existing)?;
        self.done.moved += moves.len() as u64;
        self.cached.extend(batch.drain(..).map(|ready| ready.id));
        Ok(())
    }

    /// Removes what is in a directory, but for what must stay. Says whether anything does.
    fn clear(&mut self, dir: BorrowedFd<'_>, path: &ImagePath) -> io::Result<bool> {
        let mut stays = false;
        for name in names_in(dir)? {
            let inner = Name::parse(&name).and_then(|name| path.join(&name));
            let Ok(inner) = inner else {
                self.leave(path, "something in it has a path no tree could hold".into());
                stays = true;
                continue;
            };
            if inner.as_bytes() == View::WORK_DIRECTORY {
                continue;
            }
            match self.clear_name(At::new(dir, &name), &inner) {
                Ok(stayed) => stays |= stayed,
                Err(error) => {
                    self.leave(&inner, error.to_string());
                    stays = true;
                }
            }
        }
        Ok(stays)
    }

    fn clear_name(&mut self, at: At<'_>, path: &ImagePath) -> io::Result<bool> {
        let stat = inode_at(at.dir, at.name)?;
        if self.salvage.root.is_elsewhere(&stat) {
            return Err(rustix::io::Errno::XDEV.into());
        }
        movable(&stat)?;
        if is_directory(stat.stx_mode) {
            if self.clear(open_directory(at)?.as_fd(), path)? {
                return Ok(true);
            }
            self.seam.remove(at, Remove::Directory)?;
        } else {
            if FileType::from_raw_mode(stat.stx_mode.into()).is_file() && stat.stx_size > 0 {
                let object = self.unchanged(path, &stat)?;
                if !self.cached.contains(&object) {
                    return Err(io::Error::other("its contents are not in the cache"));
                }
            }
            if stat.stx_nlink > 1 {
                self.touched.insert(Identity::of(&stat).key());
            }
            self.seam.remove(at, Remove::File)?;
        }
        self.done.removed += 1;
        Ok(false)
    }

    /// The object of a file that is as it was when it was read: the same, and written to by nobody. Who writes can put
    /// the time of modification back, but not that of change.
    fn unchanged(&self, path: &ImagePath, now: &Statx) -> io::Result<ObjectId> {
        let now = Identity::of(now);
        match self.salvage.read.get(&now.key()) {
            Some((read, object)) if read.is_same(&now) => Ok(*object),
            Some((read, object)) if self.touched.contains(&now.key()) && read.is_as_written(&now) => {
                Ok(*object)
            }
            _ => match self.salvage.tree.inode(path).map(|inode| inode.kind) {
                Some(Kind::Unknown { .. }) => Err(io::Error::other("it could not be read")),
                _ => Err(changed()),
            },
        }
    }

    fn leave(&mut self, path: &ImagePath, reason: String) {
        // What could not be moved is met again when the rest is removed.
        self.left.entry(path.clone()).or_insert(reason);
    }
}

fn changed() -> io::Error {
    io::Error::other("it changed since it was read; begin again")
}

/// Refuses what the kernel would let nobody rename or remove.
fn movable(stat: &Statx) -> io::Result<()> {
    let attributes = stat.stx_attributes;
    let fixed = [
        (StatxAttributes::IMMUTABLE, "immutable; chattr -i"),
        (StatxAttributes::APPEND, "append-only; chattr -a"),
    ];
    match fixed.iter().find(|(attribute, _)| attributes.contains(*attribute)) {
        Some((_, what)) => {
            Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("it is {what} changes that")))
        }
        None => Ok(()),
    }
}

/// Whether it has what a root has, or was begun before.
fn looks_like_a_root(root: &Root) -> io::Result<bool> {
    let has = |name: &[u8]| match inode_at(root, name) {
        Ok(stat) => Ok(is_directory(stat.stx_mode)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    };
    Ok(has(b"etc")? && has(b"usr")? || has(b".subd")?)
}

/// Whether an object is in the cache and whole: copies elsewhere are going to be removed because of it.
fn is_cached(cache: &ObjectCache, id: &ObjectId, size: u64) -> bool {
    let here = matches!(cache.size(id), Ok(Some(found)) if found == size);
    here && cache
        .open_object(id)
        .and_then(|file| hash(&file, |_| Ok(())))
        .is_ok_and(|found| found == (*id, size))
}

/// Refuses the root of this process, and one that any process lives in.
fn refuse_living(root: &Root, path: &Path) -> Result<(), SalvageError> {
    let here = inode_of(root)?;
    let same = |found: &fs::Metadata| (found.dev(), found.ino()) == (root.dev(), here.stx_ino);
    if same(&fs::metadata("/")?) {
        return Err(SalvageError::Running);
    }
    for entry in fs::read_dir("/proc")? {
        let process = entry?.file_name().to_string_lossy().into_owned();
        if !process.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        // A process that ended meanwhile, or that we may not look at, says nothing.
        let of = |what: &str| PathBuf::from(format!("/proc/{process}/{what}"));
        let lives = fs::metadata(of("root")).is_ok_and(|found| same(&found))
            || ["root", "cwd", "exe"]
                .iter()
                .any(|what| fs::read_link(of(what)).is_ok_and(|at| at.starts_with(path)));
        if lives {
            return Err(SalvageError::InUse { process });
        }
    }
    Ok(())
}
