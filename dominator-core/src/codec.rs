//! The canonical encoding under every format of the project: big-endian integers, length-prefixed bytes, nothing else.
//!
//! One value has one encoding and one encoding has one value; what breaks that is refused. Specified in
//! `docs/formats/encoding.md`.

use thiserror::Error;

use crate::object::ObjectId;

/// Appends values in canonical form.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    /// Starts a top-level value: four bytes that say what it is, the last of them the version.
    pub(crate) fn begin(magic: [u8; 4]) -> Self {
        Self(magic.to_vec())
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn id(&mut self, id: &ObjectId) {
        self.0.extend_from_slice(id.as_bytes());
    }

    /// A count of items or bytes that follow.
    pub(crate) fn count(&mut self, count: usize) {
        // Everything encoded was built under the limits of this module's readers, all far below 2^32.
        self.u32(u32::try_from(count).expect("invariant: counts are limited far below 2^32"));
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    /// Bytes that are canonical already.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Corrects a count at `at`, where one was written before it was known.
    pub(crate) fn set_count(&mut self, at: usize, count: usize) {
        let mut right = Self::default();
        right.count(count);
        if let Some(place) = self.0.get_mut(at..at + right.0.len()) {
            place.copy_from_slice(&right.0);
        }
    }

    /// How much was written, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// What was written.
    pub(crate) fn written(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Reads values in canonical form; every length is checked against what is there before anything is allocated.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    len: usize,
}

impl<'a> Reader<'a> {
    /// Opens a top-level value of the given kind, at most `limit` bytes long.
    pub(crate) fn open(bytes: &'a [u8], magic: [u8; 4], limit: usize) -> Result<Self, DecodeError> {
        if bytes.len() > limit {
            return Err(DecodeError::TooLong { len: bytes.len(), limit });
        }
        match bytes.strip_prefix(magic.as_slice()) {
            Some(rest) => Ok(Self { rest, len: bytes.len() }),
            None => Err(DecodeError::WrongKind { expected: String::from_utf8_lossy(&magic).into_owned() }),
        }
    }

    /// Reads values that are part of something that was checked before.
    pub(crate) fn within(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, len: bytes.len() }
    }

    /// How much was read, in bytes.
    pub(crate) fn position(&self) -> usize {
        self.len - self.rest.len()
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array().map(i64::from_be_bytes)
    }

    pub(crate) fn id(&mut self) -> Result<ObjectId, DecodeError> {
        self.array().map(ObjectId::from_bytes)
    }

    /// A count of items of at least `size` bytes each: more than could be there are refused before anybody reserves
    /// room for them.
    pub(crate) fn count(&mut self, size: usize) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.u32()?).map_err(|_| DecodeError::Truncated)?;
        match count.checked_mul(size.max(1)) {
            Some(bytes) if bytes <= self.rest.len() => Ok(count),
            _ => Err(DecodeError::Truncated),
        }
    }

    pub(crate) fn bytes(&mut self, limit: usize) -> Result<&'a [u8], DecodeError> {
        let len = self.count(1)?;
        if len > limit { Err(DecodeError::TooLong { len, limit }) } else { self.take(len) }
    }

    pub(crate) fn text(&mut self, limit: usize) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes(limit)?).map_err(|_| DecodeError::Invalid("text that is not UTF-8"))
    }

    /// A flag: exactly 0 or 1.
    pub(crate) fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Invalid("a flag that is neither 0 nor 1")),
        }
    }

    /// Nothing may follow the value.
    pub(crate) fn end(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing { at: self.position() }) }
    }
}

/// Bytes that are no canonical encoding of what they should be. Whoever sent them is at fault; nothing was taken over.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Another kind of value, or a version this program does not know.
    #[error("not a {expected:?} of a version known here; sender and receiver may be too many versions apart")]
    WrongKind {
        /// The four bytes that were expected, as text.
        expected: String,
    },
    /// The bytes end before the value does.
    #[error("the encoding is cut short")]
    Truncated,
    /// A value is followed by more.
    #[error("bytes follow the end of the value, from offset {at} on")]
    Trailing {
        /// Where the value ended, in bytes.
        at: usize,
    },
    /// Longer than its limit.
    #[error("{len} bytes where {limit} are the limit")]
    TooLong {
        /// What was announced, in bytes.
        len: usize,
        /// What is allowed, in bytes.
        limit: usize,
    },
    /// A value that the format does not allow, or not in this place or order.
    #[error("the encoding holds {0}")]
    Invalid(&'static str),
}
