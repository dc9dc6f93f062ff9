//! Directories of images: real ones, each with a small file that says whose it is.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use dominator_core::namespace::{DirectoryMetadata, DirectoryName, GroupName, ImageDirectory};
use dominator_core::object::ObjectId;
use dominator_core::port::{Cause, ImageError, Parents};
use rustix::fs::OFlags;

use super::{ImageStore, beside, failed, is_absent};
use crate::publish::{self, Durable, Replace};
use crate::seam::{At, Remove, Seam};
use crate::store::home;

/// Whose a directory is. Hidden, so that no image is called so.
const METADATA: &[u8] = b".metadata";
const DIGEST: usize = ObjectId::LEN;

impl ImageStore {
    /// Every directory of images, in order, the root first. What can't be the name of one is passed over.
    ///
    /// # Errors
    /// [`ImageError::Failed`] when not everything could be looked at, or it is not known whose a directory is.
    pub fn directories(&self) -> Result<Vec<ImageDirectory>, ImageError> {
        let names = self.directory_names()?;
        let found = names.iter().map(|name| self.directory(name));
        found.filter(|found| !matches!(found, Err(ImageError::NoDirectory { .. }))).collect()
    }

    /// Tells the catalog of all directories, once.
    pub(super) fn known_directories(&self) -> Result<Vec<ImageDirectory>, ImageError> {
        Ok(self.directory_names()?.into_iter().filter_map(|name| self.known_directory(&name)).collect())
    }

    /// A directory as the catalog knows it: one whose owner can't be found out is nobody's there.
    fn known_directory(&self, name: &DirectoryName) -> Option<ImageDirectory> {
        match self.directory(name) {
            Ok(directory) => Some(directory),
            Err(ImageError::NoDirectory { .. }) => None,
            Err(error) => {
                tracing::error!(directory = %name, %error, "nobody is taken for its owner");
                Some(ImageDirectory { name: name.clone(), owner_group: None })
            }
        }
    }

    /// Has the catalog say what there is, whether a change was made or failed half way.
    fn note(&self, name: &DirectoryName) {
        match self.known_directory(name) {
            Some(directory) => self.0.catalog.put_directory(directory),
            None => self.0.catalog.remove_directory(name),
        }
    }

    fn directory_names(&self) -> Result<Vec<DirectoryName>, ImageError> {
        let mut names = vec![DirectoryName::ROOT];
        let mut next = 0;
        while let Some(name) = names.get(next).cloned() {
            next += 1;
            // One that is deleted meanwhile has nothing in it.
            match self.below(&name) {
                Ok(below) => names.extend(below),
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(failed(format!("directory {name} can't be listed"), error)),
            }
        }
        names.sort();
        Ok(names)
    }

    /// One directory of images.
    ///
    /// # Errors
    /// [`ImageError::NoDirectory`]; [`ImageError::Failed`] when it can't be looked at, or it is not known whose it is.
    pub fn directory(&self, name: &DirectoryName) -> Result<ImageDirectory, ImageError> {
        let dir = self.open_directory(name)?;
        Ok(ImageDirectory { name: name.clone(), owner_group: self.owner(name, dir.as_fd())? })
    }

    /// Makes a directory, which belongs to the group of the one it is in. It is durable when this returns.
    ///
    /// # Errors
    /// [`ImageError::NoDirectory`] when one above it is missing, and [`ImageError::DirectoryExists`] when it is there, both
    /// unless parents are to be made; [`ImageError::Failed`], also when one of the names is that of an image, or it is not
    /// known whose the directory above is.
    pub fn make_directory(&self, name: &DirectoryName, parents: Parents) -> Result<(), ImageError> {
        let _changing = self.changing();
        if parents == Parents::Required {
            if let Some(parent) = name.parent() {
                drop(self.open_directory(&parent)?);
            }
            match self.open_directory(name) {
                Ok(_) => return Err(ImageError::DirectoryExists { name: name.clone() }),
                Err(ImageError::NoDirectory { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.directory_for(name).map(drop)
    }

    /// Gives a directory, but none below it, to a group, or to none. It is durable when this returns.
    ///
    /// # Errors
    /// [`ImageError::NoDirectory`], [`ImageError::Failed`].
    pub fn chown_directory(
        &self,
        name: &DirectoryName,
        group: Option<GroupName>,
    ) -> Result<Durable, ImageError> {
        let _changing = self.changing();
        let dir = self.open_directory(name)?;
        let written = write_owner(&*self.0.seam, dir.as_fd(), group);
        self.note(name);
        written.map_err(|error| failed(format!("directory {name} can't be given to a group"), error))
    }

    /// Deletes an empty directory, durably. Its name is free again.
    ///
    /// # Errors
    /// [`ImageError::NoDirectory`]; [`ImageError::DirectoryNotEmpty`] when there is anything in it, the name of a deleted
    /// image included; [`ImageError::Failed`].
    pub fn delete_directory(&self, name: &DirectoryName) -> Result<Durable, ImageError> {
        let _changing = self.changing();
        let not_empty = || ImageError::DirectoryNotEmpty { name: name.clone() };
        let (Some(parent), Some(last)) = (name.parent(), name.last()) else { return Err(not_empty()) };
        let (above, dir) = (self.open_directory(&parent)?, self.open_directory(name)?);
        let failed = |error| failed(format!("directory {name} can't be deleted"), error);
        // INVARIANT: nothing comes into it from here on, as `changing` is held.
        if home::names(&dir).map_err(failed)?.iter().any(|it| it != METADATA && !it.ends_with(b"~")) {
            return Err(not_empty());
        }
        let (seam, temporary) = (&*self.0.seam, unfinished(last));
        let delete = || {
            remove_unfinished(seam, above.as_fd(), &temporary)?;
            publish::place(
                seam,
                At::new(above.as_fd(), last.as_bytes()),
                At::new(above.as_fd(), &temporary),
            )?;
            let durable = publish::directories(seam, [above.as_fd()])?;
            // What is left of it when this fails is removed when the store is opened.
            drop(remove_unfinished(seam, above.as_fd(), &temporary));
            Ok(durable)
        };
        let deleted = delete().map_err(failed);
        self.note(name);
        deleted
    }

    /// Opens a directory for what comes into it, made with those above it where they are missing. `changing` is held.
    pub(super) fn directory_for(&self, name: &DirectoryName) -> Result<OwnedFd, ImageError> {
        let mut here = DirectoryName::ROOT;
        let mut dir = self.open_directory(&here)?;
        for next in below_root(name) {
            let part = next.last().unwrap_or_default();
            let cannot = |error| failed(format!("directory {next} can't be made"), error);
            dir = match home::directory(&dir, part.as_bytes()) {
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // Whose it is to be must be known.
                    let group = self.owner(&here, dir.as_fd())?;
                    let made = make(&*self.0.seam, dir.as_fd(), part, group);
                    self.note(&next);
                    made.map_err(cannot)?
                }
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                    return Err(cannot(beside(part)));
                }
                Err(error) => return Err(cannot(error)),
            };
            here = next;
        }
        Ok(dir)
    }

    fn open_directory(&self, name: &DirectoryName) -> Result<OwnedFd, ImageError> {
        home::directory(&self.0.home, name.as_str().as_bytes()).map_err(|error| match is_absent(&error) {
            true => ImageError::NoDirectory { name: name.clone() },
            false => failed(format!("directory {name} can't be opened"), error),
        })
    }

    /// The directories in one that can be named.
    fn below(&self, name: &DirectoryName) -> io::Result<Vec<DirectoryName>> {
        let dir = home::directory(&self.0.home, name.as_str().as_bytes())?;
        let mut below = Vec::new();
        for entry in home::names(&dir)? {
            let Ok(text) = std::str::from_utf8(&entry) else { continue };
            let full = if name.is_root() { text.to_owned() } else { format!("{name}/{text}") };
            // The root's own name is a dot, which no entry has.
            let Ok(full) = full.parse::<DirectoryName>() else { continue };
            match home::directory(&dir, &entry) {
                Ok(_) => below.push(full),
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(below)
    }

    /// The group a directory belongs to.
    fn owner(&self, name: &DirectoryName, dir: BorrowedFd<'_>) -> Result<Option<GroupName>, ImageError> {
        let what = || {
            let path = self.0.path.join(name.as_str()).join(".metadata");
            format!(
                "it is not known whose directory {name} is, as {} can't be used; set it anew",
                path.display()
            )
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match home::beneath(dir, METADATA, flags) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            outcome => outcome.map_err(|error| failed(what(), error))?,
        };
        let contents = home::read(file, DirectoryMetadata::MAX_LEN + DIGEST);
        let contents = contents.map_err(|error| failed(what(), error))?;
        let damaged = |why: &str| ImageError::Failed { what: what(), cause: Cause::new(why) };
        let (metadata, digest) =
            contents.split_last_chunk::<DIGEST>().ok_or_else(|| damaged("the file is too short"))?;
        if ObjectId::of(metadata) != ObjectId::from_bytes(*digest) {
            return Err(damaged("its bytes do not have the digest at their end"));
        }
        let metadata = DirectoryMetadata::decode(metadata);
        metadata.map(|it| it.owner_group).map_err(|error| damaged(&error.to_string()))
    }
}

/// Removes what a dead process left of a directory that it made or deleted, or of a file; fine when there is nothing.
///
/// # Errors
/// What the kernel says; `DirectoryNotEmpty` when there is in it what is not ours.
pub(super) fn remove_unfinished(seam: &dyn Seam, above: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    let dir = match home::directory(above, name) {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return seam.remove(At::new(above, name), Remove::File);
        }
        Err(error) => return Err(error),
    };
    let ours = |name: &&Vec<u8>| *name == METADATA || name.ends_with(b"~");
    for name in home::names(&dir)?.iter().filter(ours) {
        seam.remove(At::new(dir.as_fd(), name), Remove::File)?;
    }
    seam.remove(At::new(above, name), Remove::Directory)
}

/// Removes what a dead process left of directories, everywhere.
pub(super) fn clear(seam: &dyn Seam, dir: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
    for name in home::names(dir)? {
        let below = match home::directory(dir, &name) {
            Ok(below) if depth < super::MAX_DEPTH && !name.starts_with(b".") => below,
            Ok(_) => continue,
            Err(error) if is_absent(&error) => continue,
            Err(error) => return Err(error),
        };
        if !name.ends_with(b"~") {
            clear(seam, below.as_fd(), depth + 1)?;
            continue;
        }
        match remove_unfinished(seam, dir, &name) {
            // It is nothing of ours.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            outcome => outcome?,
        }
    }
    Ok(())
}

/// The directories from below the root down to one.
fn below_root(name: &DirectoryName) -> impl Iterator<Item = DirectoryName> {
    let up = std::iter::successors(Some(name.clone()), DirectoryName::parent);
    let mut up: Vec<_> = up.filter(|name| !name.is_root()).collect();
    up.reverse();
    up.into_iter()
}

/// Makes a directory that is whole when its name appears.
fn make(seam: &dyn Seam, above: BorrowedFd<'_>, name: &str, group: Option<GroupName>) -> io::Result<OwnedFd> {
    let temporary = unfinished(name);
    remove_unfinished(seam, above, &temporary)?;
    home::make_missing(seam, above, &temporary)?;
    let dir = home::directory(above, &temporary)?;
    if group.is_some() {
        drop(write_owner(seam, dir.as_fd(), group)?);
    }
    publish::place(seam, At::new(above, &temporary), At::new(above, name.as_bytes()))?;
    drop(publish::directories(seam, [above])?);
    Ok(dir)
}

fn write_owner(seam: &dyn Seam, dir: BorrowedFd<'_>, owner_group: Option<GroupName>) -> io::Result<Durable> {
    let mut contents = DirectoryMetadata { owner_group }.encode();
    contents.extend_from_slice(ObjectId::of(&contents).as_bytes());
    publish::bytes(seam, dir, METADATA, &contents, home::FILE_MODE, Replace::Existing)
}

fn unfinished(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"~"].concat()
}
