use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use dominator_core::path::ImagePath;
use rustix::io::Errno;

use crate::root::Root;

/// Opens the directories paths are in, but none that is mounted there, and keeps the last one: plans go through one directory
/// after the other.
#[derive(Debug)]
pub(super) struct Parents {
    root: Root,
    last: Option<(Box<[u8]>, OwnedFd)>,
}

impl Parents {
    pub(super) fn of_root(root: &Root) -> Self {
        Self { root: root.clone(), last: None }
    }

    /// The directory `path` is in, and its name there.
    pub(super) fn of<'p>(&mut self, path: &'p ImagePath) -> io::Result<(BorrowedFd<'_>, &'p [u8])> {
        let bytes = path.as_bytes();
        let slash = bytes.iter().rposition(|byte| *byte == b'/').filter(|_| !path.is_root());
        let (parent, name) = slash.and_then(|slash| bytes.split_at_checked(slash)).ok_or(Errno::ISDIR)?;
        let name = name.strip_prefix(b"/").unwrap_or(name);
        let known = self.last.take().filter(|(known, _)| **known == *parent);
        let (known, dir) = match known {
            Some(known) => known,
            None => {
                let directory = path.parent().unwrap_or_else(ImagePath::root);
                (parent.into(), self.root.base_here(&directory)?)
            }
        };
        let last = self.last.insert((known, dir));
        Ok((last.1.as_fd(), name))
    }

    /// Whether the directory `path` is in is the one that was opened last.
    pub(super) fn is_last(&self, path: &ImagePath) -> bool {
        let parent = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte == b'/');
        let slash = parent(path.as_bytes()).and_then(|slash| path.as_bytes().get(..slash));
        self.last.as_ref().zip(slash).is_some_and(|((known, _), parent)| **known == *parent)
    }
}
