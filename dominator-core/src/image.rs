//! Images: what a machine must be, under a unique name.

mod provenance;
mod state;

pub use provenance::{BadDocumentUrl, Build, Document, DocumentUrl, Package, Provenance};

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

pub use self::state::{ImageState, LastingId};

use crate::codec::{DecodeError, Reader, Writer};
use crate::filter::Filter;
use crate::health::HealthChecks;
use crate::namespace::DirectoryName;
use crate::object::ObjectId;
use crate::tree::{Tree, TreeId};
use crate::trigger::Triggers;
use crate::view::{XattrPolicy, decode_filter, encode_filter};

/// The name of an image, unique for ever: parts separated by `/`, as in `web/2026-11-22:10:00:00`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName(String);

impl ImageName {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 512;
    const MAX_PART: usize = 200;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory it is in.
    pub fn directory(&self) -> DirectoryName {
        DirectoryName::of(self)
    }

    /// The image stream: all but the last part, nothing for a name of one part.
    pub fn stream(&self) -> Option<&str> {
        self.0.rsplit_once('/').map(|(stream, _)| stream)
    }
}

impl FromStr for ImageName {
    type Err = BadImageName;

    fn from_str(text: &str) -> Result<Self, BadImageName> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.:+@=,".contains(&b);
        // A leading dot hides files and a trailing tilde marks unfinished ones in the store.
        let part = |part: &str| {
            !part.is_empty()
                && part.len() <= Self::MAX_PART
                && !part.starts_with('.')
                && part.bytes().all(allowed)
        };
        if text.len() <= Self::MAX_LEN && text.split('/').all(part) {
            Ok(Self(text.into()))
        } else {
            Err(BadImageName(text.chars().take(120).collect()))
        }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Text that can't name an image.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} can't name an image: parts of letters, digits and -_.:+@=, separated by /, none beginning with a dot"
)]
pub struct BadImageName(String);

/// The digest of an image's manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageId(pub ObjectId);

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The manifest of an image. Its directories and file contents are objects beside it. Encoded as
/// `docs/formats/image.md` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// What the machine must be, under [`View::everything`](crate::view::View::everything).
    pub tree: Tree,
    /// What of the machine is left alone.
    pub filter: Filter,
    /// Which services are concerned.
    pub triggers: Triggers,
    /// What must be true of a machine for the image to stay on it.
    pub health: HealthChecks,
    /// Which classes of extended attributes the source could carry. Others are left alone on the machine.
    pub xattrs: XattrPolicy,
    /// Who added it: the user name in the certificate, set by the server.
    pub created_by: String,
    /// When, in seconds since 1970, set by the server.
    pub created_on: u64,
    /// When it ceases to be, in seconds since 1970; never, if not given.
    pub expires_at: Option<u64>,
    /// Free words about it.
    pub annotations: BTreeMap<String, String>,
    /// Words to select it by.
    pub tags: BTreeMap<String, String>,
    /// Users who may change and delete it.
    pub owner_users: Vec<String>,
    /// Groups whose members may.
    pub owner_groups: Vec<String>,
    /// Where it comes from and what is known of it.
    pub provenance: Provenance,
}

impl Image {
    const MAGIC: [u8; 4] = *b"DIM3";
    /// The longest encoding accepted, in bytes.
    pub const MAX_LEN: usize = 96 * 1024 * 1024;
    /// The longest text in a manifest, in bytes.
    pub const MAX_TEXT: usize = 64 * 1024;

    /// An image of a tree that nobody has added yet.
    pub fn new(tree: Tree, filter: Filter, triggers: Triggers, xattrs: XattrPolicy) -> Self {
        Self {
            tree,
            filter,
            triggers,
            health: HealthChecks::default(),
            xattrs,
            created_by: String::new(),
            created_on: 0,
            expires_at: None,
            annotations: BTreeMap::new(),
            tags: BTreeMap::new(),
            owner_users: Vec::new(),
            owner_groups: Vec::new(),
            provenance: Provenance::default(),
        }
    }

    /// The id of the manifest.
    pub fn id(&self) -> ImageId {
        ImageId(ObjectId::of(&self.encode()))
    }

    /// The id of the tree.
    pub fn tree_id(&self) -> TreeId {
        self.tree.id()
    }

    /// The objects it needs besides its tree and what that names: its release notes and build log, where they are kept.
    pub fn documents(&self) -> impl Iterator<Item = ObjectId> {
        self.provenance.objects()
    }

    /// Whether it has passed its time at `now`, in seconds since 1970.
    pub fn is_expired(&self, now: u64) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }

    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::begin(Self::MAGIC);
        w.bytes(&self.tree.encode());
        encode_filter(&mut w, &self.filter);
        w.bytes(self.triggers.to_json().as_bytes());
        w.bytes(self.health.to_json().as_bytes());
        w.u8(self.xattrs.bits());
        w.bytes(self.created_by.as_bytes());
        w.u64(self.created_on);
        w.u8(u8::from(self.expires_at.is_some()));
        if let Some(end) = self.expires_at {
            w.u64(end);
        }
        encode_map(&mut w, &self.annotations);
        encode_map(&mut w, &self.tags);
        encode_list(&mut w, &self.owner_users);
        encode_list(&mut w, &self.owner_groups);
        self.provenance.encode(&mut w);
        w.finish()
    }

    /// Reads a canonical encoding.
    ///
    /// # Errors
    /// [`DecodeError`] when it is none, or filter, triggers or health checks in it can't be used.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::open(bytes, Self::MAGIC, Self::MAX_LEN)?;
        let tree = Tree::decode(r.bytes(Tree::MAX_LEN)?)?;
        let filter = decode_filter(&mut r)?;
        let json = r.bytes(Triggers::MAX_JSON)?;
        let triggers =
            Triggers::from_json(json).map_err(|_| DecodeError::Invalid("triggers that are none"))?;
        if triggers.to_json().as_bytes() != json {
            return Err(DecodeError::Invalid("triggers in another spelling"));
        }
        let health = decode_health(r.bytes(HealthChecks::MAX_JSON)?)?;
        let xattrs =
            XattrPolicy::from_bits(r.u8()?).ok_or(DecodeError::Invalid("an unknown class of attributes"))?;
        let created_by = r.text(Self::MAX_TEXT)?.to_owned();
        let created_on = r.u64()?;
        let expires_at = if r.flag()? { Some(r.u64()?) } else { None };
        let (annotations, tags) = (decode_map(&mut r)?, decode_map(&mut r)?);
        let (owner_users, owner_groups) = (decode_list(&mut r)?, decode_list(&mut r)?);
        let provenance = Provenance::decode(&mut r)?;
        r.end()?;
        Ok(Self {
            tree,
            filter,
            triggers,
            health,
            xattrs,
            created_by,
            created_on,
            expires_at,
            annotations,
            tags,
            owner_users,
            owner_groups,
            provenance,
        })
    }
}

fn decode_health(json: &[u8]) -> Result<HealthChecks, DecodeError> {
    let health =
        HealthChecks::from_json(json).map_err(|_| DecodeError::Invalid("health checks that are none"))?;
    if health.to_json().as_bytes() != json {
        return Err(DecodeError::Invalid("health checks in another spelling"));
    }
    Ok(health)
}

fn encode_map(w: &mut Writer, map: &BTreeMap<String, String>) {
    w.count(map.len());
    for (key, value) in map {
        w.bytes(key.as_bytes());
        w.bytes(value.as_bytes());
    }
}

fn decode_map(r: &mut Reader<'_>) -> Result<BTreeMap<String, String>, DecodeError> {
    let mut map = BTreeMap::new();
    for _ in 0..r.count(8)? {
        let (key, value) = (r.text(Image::MAX_TEXT)?, r.text(Image::MAX_TEXT)?);
        if map.last_key_value().is_some_and(|(last, _): (&String, &String)| last.as_str() >= key) {
            return Err(DecodeError::Invalid("keys out of order"));
        }
        map.insert(key.into(), value.into());
    }
    Ok(map)
}

fn encode_list(w: &mut Writer, list: &[String]) {
    w.count(list.len());
    list.iter().for_each(|item| w.bytes(item.as_bytes()));
}

fn decode_list(r: &mut Reader<'_>) -> Result<Vec<String>, DecodeError> {
    (0..r.count(4)?).map(|_| Ok(r.text(Image::MAX_TEXT)?.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_not_leave_the_store_or_hide_in_it() {
        for good in ["web", "web/2026-11-22:10:00:00", "a/b/c+d@e=f,g"] {
            assert!(good.parse::<ImageName>().is_ok(), "{good}");
        }
        for bad in
            ["", "/web", "web/", "a//b", "a/../b", ".web", "a/.b", "a b", "a~", "a\n", "ü", &"x".repeat(201)]
        {
            assert!(bad.parse::<ImageName>().is_err(), "{bad:?}");
        }
        assert_eq!("web/1".parse::<ImageName>().unwrap().stream(), Some("web"));
    }
}
