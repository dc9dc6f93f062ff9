//! Objects: bytes named by their digest. File contents, directories and link lists are all objects.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use sha2::{Digest, Sha256};
use thiserror::Error;

/// How object ids are made. One algorithm per tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// SHA-256 (FIPS 180-4), 32 bytes.
    #[default]
    Sha256,
}

/// The name of an object: the SHA-256 digest of its bytes. The empty object has a name, too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectId([u8; Self::LEN]);

impl ObjectId {
    /// The length in bytes.
    pub const LEN: usize = 32;

    /// Takes a digest that was computed elsewhere. It is a claim until the bytes were hashed.
    pub const fn from_bytes(digest: [u8; Self::LEN]) -> Self {
        Self(digest)
    }

    /// The raw digest.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The id of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = ObjectHasher::new();
        hasher.update(bytes);
        hasher.finish()
    }
}

impl Hash for ObjectId {
    /// Eight bytes of a digest are as random as all of them. They go through a table's keyed hash all the same: digests
    /// that agree in a few bits are easily found.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [first, ..] = self.0.as_chunks::<8>().0 else { return };
        state.write_u64(u64::from_ne_bytes(*first));
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In one piece: every object's file is named by this.
        let mut text = [0; 2 * Self::LEN];
        for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(self.0) {
            *pair = [byte >> 4, byte & 0xf]
                .map(|digit| if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
        }
        f.write_str(str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ObjectId {
    type Err = BadObjectId;

    /// Accepts exactly 64 lower-case hexadecimal digits, so that a name has one spelling.
    fn from_str(text: &str) -> Result<Self, BadObjectId> {
        let bad = || BadObjectId(text.chars().take(80).collect());
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return Err(bad()) };
        let pairs: &[[u8; 2]; Self::LEN] = pairs.try_into().map_err(|_| bad())?;
        let mut id = [0; Self::LEN];
        for (byte, [high, low]) in id.iter_mut().zip(pairs) {
            *byte = digit(*high).ok_or_else(bad)? << 4 | digit(*low).ok_or_else(bad)?;
        }
        Ok(Self(id))
    }
}

/// Text that is no object id.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is not an object id; it has 64 lower-case hexadecimal digits")]
pub struct BadObjectId(String);

/// Hashes an object piece by piece.
#[derive(Clone, Debug, Default)]
pub struct ObjectHasher(Sha256);

impl ObjectHasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The id of all that was taken in.
    pub fn finish(self) -> ObjectId {
        ObjectId(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_sha256_and_have_one_spelling() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(ObjectId::of(b"").to_string(), empty);
        assert_eq!(empty.parse(), Ok(ObjectId::of(b"")));
        for bad in ["", "e3", &empty.to_uppercase(), &format!("{empty}00"), &format!("{}g", &empty[..63])] {
            assert!(bad.parse::<ObjectId>().is_err(), "{bad}");
        }
    }
}
