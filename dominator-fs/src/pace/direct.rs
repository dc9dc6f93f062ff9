//! Reads that go past the page cache.

use std::io;
use std::os::fd::AsFd;

/// Memory a disk can write to directly.
#[derive(Debug)]
pub(crate) struct DirectBuffer {
    bytes: Vec<u8>,
    begin: usize,
    len: usize,
}

impl DirectBuffer {
    /// Where offsets, lengths and memory begin and end: no disk in use has larger blocks.
    pub(crate) const ALIGNMENT: usize = 4096;

    /// One of `len` bytes, rounded up to whole blocks.
    pub(crate) fn new(len: usize) -> Self {
        let len = len.next_multiple_of(Self::ALIGNMENT);
        let bytes = vec![0; len.saturating_add(Self::ALIGNMENT)];
        let begin = bytes.as_ptr().align_offset(Self::ALIGNMENT);
        Self { bytes, begin, len }
    }

    /// Fills it from `offset` of a file opened with `O_DIRECT`, and says with what. Less than a whole buffer means that
    /// the file ends there.
    pub(crate) fn read(&mut self, file: impl AsFd, offset: u64) -> io::Result<&[u8]> {
        let buffer = self.bytes.get_mut(self.begin..self.begin.saturating_add(self.len)).unwrap_or_default();
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pread(file.as_fd(), rest, offset.saturating_add(filled as u64)) {
                Ok(len) => filled += len,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            // What is not whole blocks is the end, and the next read from there would not be aligned.
            if filled % Self::ALIGNMENT != 0 || filled == 0 {
                break;
            }
        }
        Ok(buffer.get(..filled).unwrap_or_default())
    }
}
