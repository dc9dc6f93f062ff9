//! Archives that are compressed, as told by their first bytes and never by their names.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;
use thiserror::Error;

use super::ImportError;

/// What decompressing may take. An archive comes from elsewhere, and a few kilobytes can unpack to a full disk or ask for
/// gigabytes of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnpackLimits {
    /// To how much an archive may unpack, in bytes.
    pub unpacked: u64,
    /// How far back compressed data may point, which is memory, in bytes; a power of two.
    pub window: u32,
}

impl Default for UnpackLimits {
    /// 64 GiB, and 128 MiB: more than `xz -9` and `zstd -19` need, less than `zstd --ultra --long=31`.
    fn default() -> Self {
        Self { unpacked: 64 << 30, window: 128 << 20 }
    }
}

/// An archive unpacks to more than is allowed. It comes as the cause of an [`io::Error`], since it is noticed on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("it unpacks to more than the {limit} bytes allowed")]
pub struct UnpacksToTooMuch {
    /// In bytes.
    pub limit: u64,
}

const GZIP: &[u8] = b"\x1f\x8b";
const XZ: &[u8] = b"\xfd7zXZ\0";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";

/// What `reader` has, decompressed if its first bytes are those of gzip, xz or zstd; else as it is. Several compressed
/// parts after each other are one. Reading fails where the data are damaged, cut off, or exceed `limits`.
///
/// # Errors
/// [`ImportError::Input`] when the beginning can't be read.
pub fn unpacked<'r>(reader: impl Read + 'r, limits: UnpackLimits) -> Result<Box<dyn Read + 'r>, ImportError> {
    let mut reader = BufReader::new(reader);
    let mut start = Vec::new();
    reader.by_ref().take(XZ.len() as u64).read_to_end(&mut start).map_err(ImportError::Input)?;
    let (gzip, xz, zstd) = (start.starts_with(GZIP), start.starts_with(XZ), start.starts_with(ZSTD));
    let whole = BufReader::new(io::Cursor::new(start).chain(reader));
    Ok(if gzip {
        bounded(MultiGzDecoder::new(whole), limits)
    } else if xz {
        bounded(XzReader::new_mem_limit(whole, true, limits.window / 1024 + XZ_STATE), limits)
    } else if zstd {
        let mut decoder = zstd::Decoder::with_buffer(whole).map_err(ImportError::Input)?;
        decoder.window_log_max(limits.window.max(1).ilog2()).map_err(ImportError::Input)?;
        bounded(decoder, limits)
    } else {
        Box::new(whole)
    })
}

/// What xz takes beside its window, in KiB.
const XZ_STATE: u32 = 1024;

fn bounded<'r>(reader: impl Read + 'r, limits: UnpackLimits) -> Box<dyn Read + 'r> {
    Box::new(Bounded { reader, left: limits.unpacked, limit: limits.unpacked })
}

/// A reader that fails, rather than ends, at its bound.
struct Bounded<R> {
    reader: R,
    left: u64,
    limit: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        let left = self.left.checked_sub(count as u64);
        self.left = left.ok_or_else(|| io::Error::other(UnpacksToTooMuch { limit: self.limit }))?;
        Ok(count)
    }
}
