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

    /// How many bytes it takes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The first `filled` bytes.
    pub(crate) fn bytes(&self, filled: usize) -> &[u8] {
        let end = self.begin.saturating_add(filled.min(self.len));
        self.bytes.get(self.begin..end).unwrap_or_default()
    }

    /// Fills it from `offset` of a file, also of one opened with `O_DIRECT`, and says how far. Less than all of it means
    /// that the file ends there.
    pub(crate) fn fill(&mut self, file: impl AsFd, offset: u64) -> io::Result<usize> {
        let buffer = self.bytes.get_mut(self.begin..self.begin.saturating_add(self.len)).unwrap_or_default();
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let len = match rustix::io::pread(file.as_fd(), rest, offset.saturating_add(filled as u64)) {
                Ok(len) => len,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            filled += len;
            // What is not whole blocks is the end as well, and reading on from there would not be aligned.
            if len == 0 || filled % Self::ALIGNMENT != 0 {
                break;
            }
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};

    #[test]
    fn a_file_of_any_length_is_read_to_its_end_and_no_further() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut buffer = DirectBuffer::new(3 * DirectBuffer::ALIGNMENT - 1);
        assert_eq!(buffer.len(), 3 * DirectBuffer::ALIGNMENT);
        let contents: Vec<u8> = (0..20_000_u32).flat_map(u32::to_le_bytes).collect();
        for len in [0, 1, 4095, 4096, 4097, 8192, 12_287, 12_288, 12_289, 24_576, 50_000] {
            std::fs::write(&path, &contents[..len]).unwrap();
            for flags in [OFlags::RDONLY, OFlags::RDONLY | OFlags::DIRECT] {
                // Not every file-system knows direct reads.
                let Ok(file) = rustix::fs::open(&path, flags, Mode::empty()) else { continue };
                let mut read = Vec::new();
                loop {
                    let filled = buffer.fill(&file, read.len() as u64).unwrap();
                    read.extend_from_slice(buffer.bytes(filled));
                    if filled < buffer.len() {
                        break;
                    }
                }
                assert!(read == contents[..len], "{len} bytes with {flags:?}");
            }
        }
    }
}
