use std::collections::BTreeSet;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use dominator_core::path::{ImagePath, Name};
use rustix::fs::{Dir, Mode, OFlags, ResolveFlags};

use crate::root::{Root, inode_at, is_directory};

/// Looks through a directory that is to be displaced as a whole, which `path` is or was the path of, for anything the
/// plan does not delete: what is protected, what is not in view, what came since the scan, where something is mounted.
/// Says the first such thing.
pub(super) fn held_by(
    root: &Root,
    dir: BorrowedFd<'_>,
    path: &ImagePath,
    deleted: &BTreeSet<ImagePath>,
) -> io::Result<Option<String>> {
    // Handles are opened anew for each directory: one for each level would run out in deep trees.
    let mut waiting: Vec<(Vec<u8>, ImagePath)> = vec![(b".".to_vec(), path.clone())];
    while let Some((relative, path)) = waiting.pop() {
        let here = open_below(dir, &relative)?;
        // One by one: it may hold millions that the plan knows nothing of.
        for entry in Dir::read_from(&here)? {
            let entry = entry?;
            let raw = entry.file_name().to_bytes();
            if matches!(raw, b"." | b"..") {
                continue;
            }
            let below = Name::parse(raw).ok().and_then(|name| path.join(&name).ok());
            let Some(below) = below.filter(|below| deleted.contains(below)) else {
                return Ok(Some(format!("{path} holds {:?}", String::from_utf8_lossy(raw))));
            };
            let stat = inode_at(&here, raw)?;
            if root.is_elsewhere(&stat) {
                return Ok(Some(format!("something is mounted at {below}")));
            }
            if is_directory(stat.stx_mode) {
                waiting.push(([relative.as_slice(), b"/", raw].concat(), below));
            }
        }
    }
    Ok(None)
}

fn open_below(dir: BorrowedFd<'_>, relative: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(dir, relative, flags, Mode::empty(), resolve)?)
}
