//! The speed of a disk as files on it show.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use dominator_core::path::{ImagePath, Name};
use rustix::fs::{Dir, FileType, OFlags};
use rustix::io::Errno;

use super::BytesPerSecond;
use super::direct::DirectBuffer;
use super::disk::rate;
use super::meter;
use crate::root::{self, Root};

/// Reads files below `root` until it is known how fast that goes; nothing is known when no read went to a disk.
pub(super) fn files(root: &Root) -> io::Result<Option<BytesPerSecond>> {
    let mut sample = Sample::new();
    let mut directories = VecDeque::from([ImagePath::root()]);
    while let Some(path) = directories.pop_front().filter(|_| !sample.is_enough()) {
        match root.directory(&path) {
            Ok(handle) => sample.directory(root, &path, &handle, &mut directories),
            Err(error) if path.is_root() => return Err(error),
            // One directory more or less does not matter here.
            Err(_) => {}
        }
    }
    Ok(rate(sample.read, sample.took))
}

struct Sample {
    buffer: DirectBuffer,
    began: Instant,
    /// What really was read, and how long those reads took.
    read: u64,
    took: Duration,
}

impl Sample {
    const MOST: u64 = 128 << 20;
    const LONGEST: Duration = Duration::from_secs(1);
    /// All in all, with looking for files.
    const PATIENCE: Duration = Duration::from_secs(2);
    /// Smaller files say more about seeks than about speed.
    const SMALLEST: u64 = 64 << 10;
    /// Of one file, so that a broken one can't be all there is.
    const OF_ONE: u64 = 16 << 20;
    /// How many directories wait to be looked into.
    const WAITING: usize = 1000;

    fn new() -> Self {
        Self { buffer: DirectBuffer::new(1 << 20), began: Instant::now(), read: 0, took: Duration::ZERO }
    }

    fn is_enough(&self) -> bool {
        self.read >= Self::MOST || self.took >= Self::LONGEST || self.began.elapsed() >= Self::PATIENCE
    }

    fn directory(
        &mut self,
        root: &Root,
        path: &ImagePath,
        handle: &OwnedFd,
        directories: &mut VecDeque<ImagePath>,
    ) {
        let Ok(entries) = Dir::read_from(handle) else { return };
        for entry in entries.flatten() {
            let Ok(name) = Name::parse(entry.file_name().to_bytes()) else { continue };
            let Ok(stat) = root::inode_at(handle, name.as_bytes()) else { continue };
            let kind = FileType::from_raw_mode(stat.stx_mode.into());
            if self.is_enough() || root.is_elsewhere(&stat) {
                continue;
            }
            if kind.is_dir() && directories.len() < Self::WAITING {
                directories.extend(path.join(&name));
            } else if kind.is_file() && stat.stx_size >= Self::SMALLEST {
                // One file more or less does not matter here, whatever is wrong with it.
                drop(self.file(handle, name.as_bytes()));
            }
        }
    }

    fn file(&mut self, dir: &OwnedFd, name: &[u8]) -> io::Result<()> {
        let file = open(dir, name)?;
        let mut offset = 0;
        while offset < Self::OF_ONE && !self.is_enough() {
            let (began, before) = (Instant::now(), meter::read_by_this_thread());
            let len = self.buffer.fill(&file, offset)? as u64;
            let read = meter::read_by_this_thread().saturating_sub(before);
            // What the page cache had says nothing about the disk.
            if read > 0 {
                self.read += read;
                self.took += began.elapsed();
            }
            if len < DirectBuffer::ALIGNMENT as u64 {
                break;
            }
            offset += len;
        }
        Ok(())
    }
}

/// Past the page cache, where the file-system can do that: it is neither asked nor filled then.
fn open(dir: &OwnedFd, name: &[u8]) -> io::Result<OwnedFd> {
    match root::open_here(dir.as_fd(), name, OFlags::DIRECT) {
        Err(Errno::INVAL) => Ok(root::open_here(dir.as_fd(), name, OFlags::empty())?),
        outcome => Ok(outcome?),
    }
}
