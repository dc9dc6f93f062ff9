//! New files with holes where there is nothing but zeros.
//!
//! Everything this crate writes that may be long goes through here: objects on their way into a store or a cache, copies of
//! them, and exported trees. Whether what they come from had the holes is neither known nor asked: a hole and zeros are the
//! same bytes, and an object is its bytes.

use std::borrow::Borrow;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};

use crate::root;
use crate::seam::Seam;

/// A file that was empty, being written from its beginning on. Blocks of zeros are passed over instead of written. Its
/// length is right when [`Sparse::finish`] has returned.
#[derive(Debug)]
pub(crate) struct Sparse<F> {
    file: F,
    /// In what the file-system gives room away, in bytes; only an aim, as zeros of any length may be passed over.
    block: usize,
    len: u64,
    /// Whether the last that came was passed over, so that the file is shorter than it must be.
    open_end: bool,
}

/// What blocks are compared with. Blocks that are longer than this count as several.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

impl<F: Borrow<File>> Sparse<F> {
    /// Begins to fill `file`, which must be empty and stand at its beginning.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn new(file: F) -> io::Result<Self> {
        let block = usize::try_from(root::inode_of(file.borrow())?.stx_blksize).unwrap_or(ZEROS.len());
        Ok(Self { file, block: block.clamp(512, ZEROS.len()), len: 0, open_end: false })
    }

    /// Goes on with `file` after its end.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn after(file: F, len: u64) -> io::Result<Self> {
        file.borrow().seek(SeekFrom::Start(len))?;
        Ok(Self { len, ..Self::new(file)? })
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn write(&mut self, seam: &dyn Seam, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (data, rest) = self.split(bytes, |zeros| !zeros);
            if !data.is_empty() {
                seam.write(self.file.borrow(), data)?;
                self.len += data.len() as u64;
                self.open_end = false;
            }
            let (zeros, rest) = self.split(rest, |zeros| zeros);
            if !zeros.is_empty() {
                self.len += zeros.len() as u64;
                self.file.borrow().seek(SeekFrom::Start(self.len))?;
                self.open_end = true;
            }
            bytes = rest;
        }
        Ok(())
    }

    /// Gives the file its length if it ends with a hole. What is in it is then what was written.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn finish(self, seam: &dyn Seam) -> io::Result<F> {
        if self.open_end {
            seam.truncate(self.file.borrow(), self.len)?;
        }
        Ok(self.file)
    }

    /// The first blocks of which `wanted` says so when it is told whether they are zeros, and the rest. Blocks begin where
    /// those of the file do.
    fn split<'b>(&self, bytes: &'b [u8], wanted: impl Fn(bool) -> bool) -> (&'b [u8], &'b [u8]) {
        let block = self.block as u64;
        // INVARIANT: `at` never exceeds the length, so that this is the block's rest, at most `self.block`.
        let to_boundary =
            |at: usize| usize::try_from(block - (self.len + at as u64) % block).unwrap_or(self.block);
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let piece = rest.get(..to_boundary(at)).unwrap_or(rest);
            if !wanted(ZEROS.get(..piece.len()) == Some(piece)) {
                break;
            }
            at += piece.len();
        }
        bytes.split_at_checked(at).unwrap_or((bytes, &[]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seam::Kernel;
    use proptest::prelude::*;
    use std::os::unix::fs::MetadataExt;

    /// Writes `pieces` and returns how many bytes of the disk the file takes.
    fn check(pieces: &[&[u8]]) -> u64 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = File::options().write(true).create_new(true).open(&path).unwrap();
        let mut sparse = Sparse::new(file).unwrap();
        pieces.iter().for_each(|piece| sparse.write(&Kernel, piece).unwrap());
        drop(sparse.finish(&Kernel).unwrap());
        assert!(std::fs::read(&path).unwrap() == pieces.concat());
        std::fs::metadata(&path).unwrap().blocks() * 512
    }

    #[test]
    fn zeros_take_no_room_wherever_they_are() {
        let (zeros, data) = (vec![0; 1 << 20], vec![7; 64 * 1024]);
        for pieces in [[&zeros[..], &data, &zeros], [&data, &zeros, &zeros], [&zeros, &zeros, &data]] {
            let taken = check(&pieces);
            assert!(taken <= 192 * 1024, "{taken} bytes");
        }
        assert_eq!(check(&[&zeros]), 0);
    }

    #[test]
    fn zeros_that_come_in_bits_take_no_room_either() {
        let bits = vec![[0; 1000].as_slice(); 5000];
        assert_eq!(check(&bits), 0);
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(
            runs in prop::collection::vec((any::<bool>(), 1_usize..9000), 0..12),
            cut in 1_usize..9000,
        ) {
            let bytes: Vec<u8> =
                runs.iter().flat_map(|(zero, len)| std::iter::repeat_n(u8::from(!zero), *len)).collect();
            check(&bytes.chunks(cut).collect::<Vec<_>>());
        }
    }
}
