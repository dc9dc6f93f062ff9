//! The index as a file: `docs/formats/store.md`.

use std::io;

use dominator_core::object::ObjectId;
use rustix::fs::OFlags;

use super::{Entry, SHARDS, Stamp};
use crate::store::home::{self, Home};

/// What the file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Saved {
    /// The change time of each shard, none at all when there was no file.
    pub(super) stamps: Vec<Stamp>,
    /// In the order of their ids.
    pub(super) objects: Vec<(ObjectId, Entry)>,
}

const MAGIC: [u8; 4] = *b"DOI1";
const STAMP: usize = 12;
const OBJECT: usize = ObjectId::LEN + 16;
/// The longest file that is read, in bytes: of 85 million objects.
const MAX_LEN: usize = 4 << 30;
/// What stands for a time that can't be gone by.
const UNKNOWN: u32 = u32::MAX;

impl Saved {
    /// What the file says; nothing when it says nothing that can be believed.
    pub(super) fn read(home: &Home, name: &[u8]) -> Self {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let read = home::beneath(home, name, flags).and_then(|file| home::read(file, MAX_LEN));
        match read {
            Ok(bytes) => Self::decode(&bytes).unwrap_or_else(|| {
                tracing::warn!("the index of objects is damaged or of another version, and is made anew");
                Self::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::default(),
            Err(error) => {
                tracing::warn!(%error, "the index of objects can't be read, and is made anew");
                Self::default()
            }
        }
    }

    /// The objects of one shard.
    pub(super) fn shard(&self, shard: u8) -> &[(ObjectId, Entry)] {
        let first = |(id, _): &(ObjectId, Entry)| super::super::shard_of(id);
        let from = self.objects.partition_point(|object| first(object) < shard);
        let to = self.objects.partition_point(|object| first(object) <= shard);
        self.objects.get(from..to).unwrap_or_default()
    }

    /// The file that says this.
    pub(super) fn encode(mut self) -> Vec<u8> {
        self.objects.sort_unstable_by_key(|(id, _)| *id);
        let len = MAGIC.len() + SHARDS * STAMP + self.objects.len() * OBJECT + ObjectId::LEN;
        let mut out = Vec::with_capacity(len);
        out.extend_from_slice(&MAGIC);
        for stamp in &self.stamps {
            let (seconds, nanos) = stamp.unwrap_or((0, UNKNOWN));
            out.extend_from_slice(&seconds.to_be_bytes());
            out.extend_from_slice(&nanos.to_be_bytes());
        }
        for (id, entry) in &self.objects {
            out.extend_from_slice(id.as_bytes());
            out.extend_from_slice(&entry.size.to_be_bytes());
            out.extend_from_slice(&entry.since.to_be_bytes());
        }
        out.extend_from_slice(ObjectId::of(&out).as_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, digest) = bytes.split_last_chunk::<{ ObjectId::LEN }>()?;
        if ObjectId::of(body) != ObjectId::from_bytes(*digest) {
            return None;
        }
        let (stamps, objects) = body.strip_prefix(&MAGIC)?.split_at_checked(SHARDS * STAMP)?;
        let (objects, rest) = objects.as_chunks::<OBJECT>();
        let objects: Vec<_> = objects.iter().filter_map(object).collect();
        let sound = rest.is_empty() && objects.is_sorted_by(|(a, _), (b, _)| a < b);
        sound.then(|| Self { stamps: stamps.as_chunks::<STAMP>().0.iter().map(stamp).collect(), objects })
    }
}

fn stamp(bytes: &[u8; STAMP]) -> Stamp {
    let (seconds, nanos) = bytes.split_first_chunk::<8>()?;
    let nanos = u32::from_be_bytes(*nanos.first_chunk()?);
    (nanos != UNKNOWN).then_some((i64::from_be_bytes(*seconds), nanos))
}

fn object(bytes: &[u8; OBJECT]) -> Option<(ObjectId, Entry)> {
    let (id, rest) = bytes.split_first_chunk::<{ ObjectId::LEN }>()?;
    let (size, since) = rest.split_first_chunk::<8>()?;
    let since = u64::from_be_bytes(*since.first_chunk()?);
    Some((ObjectId::from_bytes(*id), Entry { size: u64::from_be_bytes(*size), since }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Saved {
        let mut stamps = vec![None; SHARDS];
        stamps[0x2d] = Some((1_700_000_000, 5));
        let object = |text: &[u8], since| (ObjectId::of(text), Entry { size: text.len() as u64, since });
        let mut objects = vec![object(b"x", 7), object(b"another", 1_700_000_001)];
        objects.sort_by_key(|(id, _)| *id);
        Saved { stamps, objects }
    }

    fn copy(saved: &Saved) -> Saved {
        Saved { stamps: saved.stamps.clone(), objects: saved.objects.clone() }
    }

    #[test]
    fn an_index_is_read_as_it_was_written_and_what_is_damaged_not_at_all() {
        let encoded = copy(&example()).encode();
        assert_eq!(Saved::decode(&encoded), Some(example()));
        for at in [0, 3, 4, 100, encoded.len() - 33, encoded.len() - 1] {
            let mut flipped = encoded.clone();
            flipped[at] ^= 1;
            assert_eq!(Saved::decode(&flipped), None, "byte {at}");
        }
        assert!((0..encoded.len()).all(|len| Saved::decode(&encoded[..len]).is_none()));
        let sealed = |body: &[u8]| [body, ObjectId::of(body).as_bytes()].concat();
        let body = &encoded[..encoded.len() - 32];
        let twice = [body, &body[body.len() - OBJECT..]].concat();
        for (bad, why) in [
            (sealed(&[b"DOI2", &body[4..]].concat()), "another version"),
            (sealed(&twice), "an object twice"),
            (sealed(&body[..body.len() - 1]), "half an object"),
            (sealed(b"DOI1"), "no shards"),
        ] {
            assert_eq!(Saved::decode(&bad), None, "{why}");
        }
    }

    #[test]
    fn the_form_is_that_of_the_golden_file() {
        assert_eq!(example().encode(), include_bytes!("../../../../tests/golden/index.bin"));
    }

    #[test]
    fn objects_are_found_by_their_shard() {
        let saved = example();
        let found: usize = (0..=u8::MAX).map(|shard| saved.shard(shard).len()).sum();
        assert_eq!(found, 2);
        assert_eq!(saved.shard(0x2d), &saved.objects[..1], "x is 2d71…");
    }
}
