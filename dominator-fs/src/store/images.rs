//! Images by their name: one file each, a manifest and its digest, beside the [`ObjectStore`] that has the rest.

mod check;
mod directories;
mod ending;
mod fsck;
mod garbage;
mod index;
mod load;
mod replace;
mod tombstone;

pub use fsck::Checked;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dominator_core::catalog::{Catalog, Entry, Removal};
use dominator_core::image::{Image, ImageName, ImageState};
use dominator_core::object::ObjectId;
use dominator_core::port::{Cause, ImageError};
use dominator_core::tree::Snapshot;
use rustix::fs::OFlags;

use self::tombstone::Tombstone;
use super::home::{self, Home};
use super::objects::{Afterwards, ObjectStore};
use crate::publish::{self, Durable, Replace};
use crate::root;
use crate::seam::{At, Kernel, Remove, Seam};

/// A directory of images, each a file at its name. Clones share it; all of its methods may be called from many threads
/// at once.
///
/// A name that was used is never free again: what is left of a deleted image is a tombstone, which says which image it was.
/// Directories of images are directories, and each may belong to a group.
#[derive(Clone)]
pub struct ImageStore(Arc<Inner>);

struct Inner {
    path: PathBuf,
    seam: Arc<dyn Seam>,
    home: Home,
    objects: ObjectStore,
    /// Held while files change, as one name must have one writer at a time, and until that is in the catalog, so that its
    /// log has the order in which changes became durable.
    changing: Mutex<()>,
    catalog: Catalog,
    images: Mutex<VecDeque<(ImageName, Arc<Image>)>>,
    trees: Mutex<VecDeque<(ObjectId, Arc<Snapshot>)>>,
}

impl ImageStore {
    /// How many entries the tree of an image may have.
    pub const MAX_INODES: u64 = 4_000_000;
    /// How many manifests are kept in memory.
    const CACHED_IMAGES: usize = 64;
    /// How many trees are kept in memory.
    const CACHED_TREES: usize = 4;
    /// The length of the digest at the end of a file, in bytes.
    const DIGEST: usize = ObjectId::LEN;

    /// Opens the store at `path`, made when it is missing but its parent is there. What a dead process left unfinished
    /// is removed.
    ///
    /// # Errors
    /// [`ImageError::Failed`] when it can't be opened, or when another process has it open.
    pub fn open(path: &Path, objects: ObjectStore) -> Result<Self, ImageError> {
        Self::open_on(path, objects, Arc::new(Kernel))
    }

    /// Opens a store whose changes go through `seam`.
    ///
    /// # Errors
    /// As [`ImageStore::open`].
    pub fn open_on(path: &Path, objects: ObjectStore, seam: Arc<dyn Seam>) -> Result<Self, ImageError> {
        let open = || {
            let home = Home::open(&*seam, path)?;
            walk(home.as_fd(), &mut Vec::new(), 0, &mut |dir, name, _| {
                if name.ends_with(b"~") { seam.remove(At::new(dir, name), Remove::File) } else { Ok(()) }
            })?;
            directories::clear(&*seam, home.as_fd(), 0)?;
            Ok(home)
        };
        let home = open().map_err(|error| {
            failed(format!("the image store at {} can't be opened", path.display()), error)
        })?;
        let inner = Inner {
            path: path.to_owned(),
            seam,
            home,
            objects,
            changing: Mutex::new(()),
            catalog: Catalog::new(index::epoch(), Catalog::LOG),
            images: Mutex::default(),
            trees: Mutex::default(),
        };
        let store = Self(Arc::new(inner));
        store.fill_catalog()?;
        Ok(store)
    }

    /// Which images there are, for those who select and follow them.
    pub fn catalog(&self) -> &Catalog {
        &self.0.catalog
    }

    /// The objects beside.
    pub fn objects(&self) -> &ObjectStore {
        &self.0.objects
    }

    /// Every image's name, in order, as the files are. Files that can't be images are passed over.
    ///
    /// # Errors
    /// [`ImageError::Failed`] when not everything could be looked at.
    pub fn list(&self) -> Result<Vec<ImageName>, ImageError> {
        let mut names = Vec::new();
        let listed = walk(self.0.home.as_fd(), &mut Vec::new(), 0, &mut |dir, name, path| {
            let stat = match root::inode_at(dir, name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                stat => stat?,
            };
            let image = std::str::from_utf8(path).ok().and_then(|path| path.parse().ok());
            names.extend(image.filter(|_| !Tombstone::is_of_length(stat.stx_size)));
            Ok(())
        });
        listed.map_err(|error| failed("the images can't be listed", error))?;
        names.sort();
        Ok(names)
    }

    /// The manifest of an image.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`ImageError::Deleted`]; [`ImageError::Failed`] when it can't be read or is damaged.
    pub fn image(&self, name: &ImageName) -> Result<Arc<Image>, ImageError> {
        if let Some(image) = recall(&self.0.images, name) {
            return Ok(image);
        }
        // Not while one is deleted: what was read before must not be remembered after.
        let _changing = self.changing();
        let image = Arc::new(self.load(name)?);
        remember(&self.0.images, Self::CACHED_IMAGES, name.clone(), Arc::clone(&image));
        Ok(image)
    }

    /// The whole tree of an image. It was verified when the image was added, and every part of it is again when it is
    /// read.
    ///
    /// # Errors
    /// As [`ImageStore::image`]; [`ImageError::Incomplete`] and [`ImageError::Malformed`] when the object store lost or
    /// damaged part of it.
    pub fn tree(&self, name: &ImageName) -> Result<Arc<Snapshot>, ImageError> {
        let image = self.image(name)?;
        let id = image.tree_id().0;
        if let Some(tree) = recall(&self.0.trees, &id) {
            return Ok(tree);
        }
        let tree = Arc::new(load::snapshot(&self.0.objects, &image.tree)?);
        remember(&self.0.trees, Self::CACHED_TREES, id, Arc::clone(&tree));
        Ok(tree)
    }

    /// Adds an image whose objects, directories and hard links are all in the object store. It is durable when this
    /// returns.
    ///
    /// # Errors
    /// [`ImageError::Exists`] and [`ImageError::Deleted`] when the name was used before, [`ImageError::Incomplete`] when
    /// objects are missing, [`ImageError::Malformed`] when no machine could be made so, [`ImageError::Failed`].
    pub fn add(&self, name: &ImageName, image: &Image) -> Result<Durable, ImageError> {
        self.vacant(name)?;
        let tree = load::snapshot(&self.0.objects, &image.tree)?;
        // INVARIANT: held until the image has its name, so that what is found to be there stays there.
        let _held = self.0.objects.hold(garbage::needed_by(image, &tree), Afterwards::Fresh);
        check::complete(&self.0.objects, image, &tree)?;
        let durable = self.publish(name, image)?;
        remember(&self.0.trees, Self::CACHED_TREES, tree.id().0, Arc::new(tree));
        Ok(durable)
    }

    /// Deletes an image, durably; its name is never free again.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`ImageError::Deleted`], [`ImageError::Failed`].
    pub fn delete(&self, name: &ImageName) -> Result<Durable, ImageError> {
        self.age_from_now_on(name);
        let _changing = self.changing();
        match self.look(name)? {
            Look::Nothing => return Err(ImageError::NotFound { name: name.clone() }),
            Look::Deleted => return Err(ImageError::Deleted { name: name.clone() }),
            Look::File => {}
        }
        let tombstone = Tombstone::of(self.load(name));
        forget(&self.0.images, name);
        let (directories, file) = split(name);
        let delete = || {
            let dir = home::directory(&self.0.home, directories.as_bytes())?;
            publish::bytes(
                &*self.0.seam,
                dir.as_fd(),
                file.as_bytes(),
                &tombstone.encode(),
                home::FILE_MODE,
                Replace::Existing,
            )
        };
        let deleted = delete().map_err(|error| failed(format!("image {name} can't be deleted"), error));
        let deleted = self.or_look_again(name, deleted)?;
        self.0.catalog.remove(name, Removal::Deleted);
        Ok(deleted)
    }

    /// What there is at a name.
    ///
    /// # Errors
    /// [`ImageError::Failed`] when it can't be read or is damaged.
    pub fn state(&self, name: &ImageName) -> Result<ImageState, ImageError> {
        match self.image(name) {
            Ok(image) => Ok(ImageState::of(&image)),
            Err(ImageError::NotFound { .. }) => Ok(ImageState::Absent),
            Err(ImageError::Deleted { .. }) => {
                let tombstone = self.contents(name, Tombstone::LEN)?;
                Ok(ImageState::Deleted { was: Tombstone::decode(&tombstone).0 })
            }
            Err(error) => Err(error),
        }
    }

    fn publish(&self, name: &ImageName, image: &Image) -> Result<Durable, ImageError> {
        let contents = Self::file_of(image)?;
        let _changing = self.changing();
        self.vacant(name)?;
        let (dir, file) = self.place_for(name)?;
        let write = || {
            publish::bytes(
                &*self.0.seam,
                dir.as_fd(),
                file.as_bytes(),
                &contents,
                home::FILE_MODE,
                Replace::Never,
            )
        };
        let written = write().map_err(|error| failed(format!("image {name} can't be written"), error));
        let written = self.or_look_again(name, written)?;
        self.0.catalog.put(name, Entry::of(image));
        Ok(written)
    }

    fn file_of(image: &Image) -> Result<Vec<u8>, ImageError> {
        let mut contents = image.encode();
        if contents.len() > Image::MAX_LEN {
            return Err(malformed(format!("its manifest has more than {} bytes", Image::MAX_LEN)));
        }
        contents.extend_from_slice(ObjectId::of(&contents).as_bytes());
        Ok(contents)
    }

    /// Opens the directory for a new image, made with those above it where they are missing.
    fn place_for<'a>(&self, name: &'a ImageName) -> Result<(OwnedFd, &'a str), ImageError> {
        let dir = self.directory_for(&name.directory())?;
        let (_, file) = split(name);
        match home::directory(&dir, file.as_bytes()) {
            Ok(_) => Err(failed(format!("image {name} can't be added"), beside(file))),
            Err(error) if is_absent(&error) => Ok((dir, file)),
            Err(error) => Err(failed(format!("image {name} can't be added"), error)),
        }
    }

    fn vacant(&self, name: &ImageName) -> Result<(), ImageError> {
        match self.look(name)? {
            Look::Nothing => Ok(()),
            Look::Deleted => Err(ImageError::Deleted { name: name.clone() }),
            Look::File => Err(ImageError::Exists { name: name.clone() }),
        }
    }

    fn look(&self, name: &ImageName) -> Result<Look, ImageError> {
        let look = || {
            let stat = root::inode_of(home::beneath(
                &self.0.home,
                name.as_str().as_bytes(),
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            )?)?;
            let kind = rustix::fs::FileType::from_raw_mode(stat.stx_mode.into());
            match (kind.is_dir(), stat.stx_size) {
                (true, _) => Ok(Look::Nothing),
                (false, length) if Tombstone::is_of_length(length) => Ok(Look::Deleted),
                (false, _) => Ok(Look::File),
            }
        };
        match look() {
            Err(error) if is_absent(&error) => Ok(Look::Nothing),
            outcome => outcome.map_err(|error| failed(format!("image {name} can't be looked up"), error)),
        }
    }

    fn load(&self, name: &ImageName) -> Result<Image, ImageError> {
        match self.look(name)? {
            Look::Nothing => return Err(ImageError::NotFound { name: name.clone() }),
            Look::Deleted => return Err(ImageError::Deleted { name: name.clone() }),
            Look::File => {}
        }
        let contents = self.contents(name, Image::MAX_LEN + Self::DIGEST)?;
        let damaged = |why: &str| {
            let path = self.0.path.join(name.as_str());
            let what = format!("image {name} is damaged; restore {} from a copy", path.display());
            ImageError::Failed { what, cause: Cause::new(why) }
        };
        let (manifest, digest) = contents
            .split_last_chunk::<{ Self::DIGEST }>()
            .ok_or_else(|| damaged("the file is too short"))?;
        if ObjectId::of(manifest) != ObjectId::from_bytes(*digest) {
            return Err(damaged("its bytes do not have the digest at their end"));
        }
        Image::decode(manifest).map_err(|error| damaged(&error.to_string()))
    }

    fn contents(&self, name: &ImageName, limit: usize) -> Result<Vec<u8>, ImageError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        home::beneath(&self.0.home, name.as_str().as_bytes(), flags)
            .and_then(|file| home::read(file, limit))
            .map_err(|error| failed(format!("image {name} can't be read"), error))
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        // It guards files, which a panic elsewhere leaves as they are.
        self.0.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ImageStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ImageStore").field(&self.0.path).finish()
    }
}

/// What there is at a name.
enum Look {
    /// No file: the name is free unless it is that of a directory.
    Nothing,
    /// What is left of a deleted image.
    Deleted,
    /// An image, sound or not.
    File,
}

/// Nested deeper than any name allows.
const MAX_DEPTH: usize = ImageName::MAX_LEN;

/// What is done with a file: its directory, its name there, its path below the store.
type Visit<'a> = dyn FnMut(BorrowedFd<'_>, &[u8], &[u8]) -> io::Result<()> + 'a;

/// Calls `visit` with every file that is not hidden.
fn walk(dir: BorrowedFd<'_>, path: &mut Vec<u8>, depth: usize, visit: &mut Visit<'_>) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Ok(());
    }
    for name in home::names(dir)? {
        if name.starts_with(b".") {
            continue;
        }
        let len = path.len();
        if len > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(&name);
        match home::directory(dir, &name) {
            Ok(below) => walk(below.as_fd(), path, depth + 1, visit)?,
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => visit(dir, &name, path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        path.truncate(len);
    }
    Ok(())
}

/// The directories of a name and its last part; `.` for a name of one part.
fn split(name: &ImageName) -> (&str, &str) {
    name.as_str().rsplit_once('/').unwrap_or((".", name.as_str()))
}

/// A name below a file is as absent as one that was never there.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn beside(part: &str) -> io::Error {
    let text = format!("{part} can't be the name of an image and of a directory of images; choose another");
    io::Error::new(io::ErrorKind::AlreadyExists, text)
}

fn failed(what: impl Into<String>, error: io::Error) -> ImageError {
    ImageError::Failed { what: what.into(), cause: Cause::new(error) }
}

fn malformed(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ImageError {
    ImageError::Malformed(Cause::new(why))
}

type Cache<K, V> = Mutex<VecDeque<(K, Arc<V>)>>;

fn entries<K, V>(cache: &Cache<K, V>) -> MutexGuard<'_, VecDeque<(K, Arc<V>)>> {
    // A cache that lost an entry to a panic is a cache still.
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}

fn recall<K: PartialEq, V>(cache: &Cache<K, V>, key: &K) -> Option<Arc<V>> {
    let mut entries = entries(cache);
    let position = entries.iter().position(|(known, _)| known == key)?;
    let entry = entries.remove(position)?;
    let value = Arc::clone(&entry.1);
    entries.push_back(entry);
    Some(value)
}

fn remember<K: PartialEq, V>(cache: &Cache<K, V>, room: usize, key: K, value: Arc<V>) {
    let mut entries = entries(cache);
    entries.retain(|(known, _)| *known != key);
    if entries.len() >= room {
        entries.pop_front();
    }
    entries.push_back((key, value));
}

fn forget<K: PartialEq, V>(cache: &Cache<K, V>, key: &K) {
    entries(cache).retain(|(known, _)| known != key);
}
