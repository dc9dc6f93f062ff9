//! What files of the machine contain, for people who ask.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use bytes::Bytes;
use dominator_core::path::ImagePath;
use dominator_core::port::{AgentError, FileContents};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use super::Shared;
use crate::root::{inode_of, place_of};
use crate::seam::itself_path;

/// What each contains, or why that can't be told.
pub(super) fn contents(shared: &Shared, paths: Vec<ImagePath>) -> Result<Vec<FileContents>, AgentError> {
    if paths.len() > FileContents::MAX_PATHS {
        let most = FileContents::MAX_PATHS;
        return Err(AgentError::NotNow(format!("at most {most} files are told at a time; ask for fewer")));
    }
    let mut left = FileContents::MAX_BYTES;
    let read = |path: ImagePath| {
        let contents = one(shared, &path, left).map_err(|error| error.to_string());
        left -= contents.as_ref().map_or(0, Bytes::len);
        FileContents { path, contents }
    };
    Ok(paths.into_iter().map(read).collect())
}

/// As processes of the machine see it, with all that is mounted.
fn one(shared: &Shared, path: &ImagePath, left: usize) -> io::Result<Bytes> {
    let looked = look(shared, path)?;
    let inode = inode_of(&looked)?;
    // To open some devices is to do something.
    if FileType::from_raw_mode(inode.stx_mode.into()) != FileType::RegularFile {
        return Err(io::Error::other("it is no plain file"));
    }
    if is_protected(shared, &looked)? {
        return Err(io::Error::other("this machine protects it"));
    }
    let too_long = || io::Error::other(format!("it is longer than the {left} bytes that may still be told"));
    // Nothing is read of what is too long anyway, all memory of the machine (/proc/kcore) above all.
    if inode.stx_size > left as u64 {
        return Err(too_long());
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(itself_path(looked.as_fd()), flags, Mode::empty())?);
    let mut bytes = Vec::new();
    file.take((left as u64).saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() > left {
        true => Err(too_long()),
        false => Ok(bytes.into()),
    }
}

/// What is there, without opening it. No link of /proc leads out of the root.
fn look(shared: &Shared, path: &ImagePath) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let top = shared.root.on_machine();
    Ok(rustix::fs::openat2(top, path.as_bytes(), flags, Mode::empty(), resolve)?)
}

/// Links may lead to what is protected: what counts is where the file is, and which.
fn is_protected(shared: &Shared, file: &OwnedFd) -> io::Result<bool> {
    let place = place_of(file)?;
    let top = place_of(shared.root.on_machine().as_fd())?;
    let inside = place.strip_prefix(top.strip_suffix(b"/").unwrap_or(&top));
    let Some(Ok(path)) = inside.map(ImagePath::parse) else { return Ok(true) };
    let protected = shared.lock().traits().protected.clone();
    let work = path.as_bytes().starts_with(b"/.subd/");
    let is_below = std::iter::successors(Some(path), ImagePath::parent).any(|path| protected.contains(&path));
    if work || is_below {
        return Ok(true);
    }
    // A backup may be a hard link, and all may be mounted elsewhere once more.
    let this = identity(file)?;
    let is_it = |path: &ImagePath| look(shared, path).and_then(|other| identity(&other)).ok() == Some(this);
    Ok(protected.iter().any(is_it))
}

fn identity(file: &OwnedFd) -> io::Result<(u32, u32, u64)> {
    let inode = inode_of(file)?;
    Ok((inode.stx_dev_major, inode.stx_dev_minor, inode.stx_ino))
}
