//! The directories images are in, whose they are, and who may change what there.
//!
//! A directory may belong to a group; one that is made inherits the group of the one it is in. [`may`] is the one decision
//! about everything that somebody without powers wants to change.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::auth::Identity;
use crate::codec::{DecodeError, Reader, Writer};
use crate::image::{Image, ImageName};

/// The name of a directory of images: parts separated by `/`, or the root of them all, which is written `.`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirectoryName(
    /// Nothing for the root, so that a directory stands before all that is in it.
    String,
);

impl DirectoryName {
    /// The directory all others are in.
    pub const ROOT: Self = Self(String::new());

    /// As text.
    pub fn as_str(&self) -> &str {
        if self.is_root() { "." } else { &self.0 }
    }

    /// Whether it is the directory all others are in.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The directory an image is in.
    pub fn of(image: &ImageName) -> Self {
        Self(image.stream().unwrap_or_default().to_owned())
    }

    /// The directory it is in; nothing for the root.
    pub fn parent(&self) -> Option<Self> {
        let above = self.0.rsplit_once('/').map_or("", |(above, _)| above);
        (!self.is_root()).then(|| Self(above.to_owned()))
    }

    /// Its name in the directory it is in; nothing for the root.
    pub fn last(&self) -> Option<&str> {
        (!self.is_root()).then(|| self.0.rsplit('/').next().unwrap_or_default())
    }

    /// The names from the root down to it.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|part| !part.is_empty())
    }
}

impl FromStr for DirectoryName {
    type Err = BadDirectoryName;

    fn from_str(text: &str) -> Result<Self, BadDirectoryName> {
        match text {
            "." => Ok(Self::ROOT),
            // What is a directory could be an image, so that what is no image's name is none of a directory.
            _ if text.parse::<ImageName>().is_ok() => Ok(Self(text.to_owned())),
            _ => Err(BadDirectoryName(text.chars().take(120).collect())),
        }
    }
}

impl fmt::Display for DirectoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Text that can't name a directory of images.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} can't name a directory of images: a dot for the root, or parts of letters, digits and -_.:+@=, separated by /, \
     none beginning with a dot"
)]
pub struct BadDirectoryName(String);

/// The name of a group, as certificates have it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName(String);

impl GroupName {
    /// The longest, in bytes.
    pub const MAX_LEN: usize = 256;

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for GroupName {
    type Err = BadGroupName;

    fn from_str(text: &str) -> Result<Self, BadGroupName> {
        let fits = (1..=Self::MAX_LEN).contains(&text.len());
        let clean = !text.contains(|c: char| c.is_control() || c == ',') && text.trim() == text;
        (fits && clean).then(|| Self(text.to_owned())).ok_or(BadGroupName)
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Text that can't be a [`GroupName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the name of a group has 1 to 256 bytes, no comma, no control character, and no space at its ends")]
pub struct BadGroupName;

/// A directory of images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageDirectory {
    /// Its name.
    pub name: DirectoryName,
    /// The group whose members may change what is in it; nobody without powers may, if there is none.
    pub owner_group: Option<GroupName>,
}

/// What is kept of a directory besides its name, encoded as `docs/formats/image.md` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirectoryMetadata {
    /// The group whose members may change what is in it.
    pub owner_group: Option<GroupName>,
}

impl DirectoryMetadata {
    const MAGIC: [u8; 4] = *b"DID1";
    /// The longest encoding, in bytes.
    pub const MAX_LEN: usize = 4096;

    /// The canonical encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::begin(Self::MAGIC);
        w.u8(u8::from(self.owner_group.is_some()));
        if let Some(group) = &self.owner_group {
            w.bytes(group.as_str().as_bytes());
        }
        w.finish()
    }

    /// Reads a canonical encoding.
    ///
    /// # Errors
    /// [`DecodeError`] when it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::open(bytes, Self::MAGIC, Self::MAX_LEN)?;
        let group = if r.flag()? { Some(r.text(GroupName::MAX_LEN)?) } else { None };
        let owner_group = group.map(str::parse).transpose();
        let owner_group = owner_group.map_err(|_| DecodeError::Invalid("a group that can't be one"))?;
        r.end()?;
        Ok(Self { owner_group })
    }
}

/// What somebody wants to change, with all that the answer depends on.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// An image, as it was when somebody asked.
    Image {
        /// The image.
        image: &'a Image,
        /// The group that owns the directory it is in.
        directory: Option<&'a GroupName>,
    },
    /// That there is a directory.
    MakeDirectory {
        /// The group that owns what it is made in: the nearest directory that is there.
        parent: Option<&'a GroupName>,
    },
    /// Whose a directory is.
    ChownDirectory {
        /// The group that owns the directory it is in; none for the root.
        parent: Option<&'a GroupName>,
        /// The group it belongs to.
        old: Option<&'a GroupName>,
        /// The group it is to belong to.
        new: Option<&'a GroupName>,
    },
    /// That there is no such directory any more.
    DeleteDirectory,
}

/// By what right somebody may change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right {
    /// His powers.
    Power,
    /// He added the image.
    Creator,
    /// It was made for him.
    CreatedFor,
    /// He is one of its owners.
    OwnerUser,
    /// He is in a group that is.
    OwnerGroup,
    /// He is in the group that owns the directory the image is in.
    DirectoryGroup,
    /// He is in the group that owns the directory above.
    ParentGroup,
    /// He is in the group that owns the directory and in the one that is to.
    BothGroups,
}

impl Right {
    /// A word for it, as it stands in the audit log.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Power => "power",
            Self::Creator => "creator",
            Self::CreatedFor => "created-for",
            Self::OwnerUser => "owner-user",
            Self::OwnerGroup => "owner-group",
            Self::DirectoryGroup => "directory-group",
            Self::ParentGroup => "parent-group",
            Self::BothGroups => "both-groups",
        }
    }
}

/// Why somebody may not change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("it belongs to others, and the caller has no power over it")]
pub struct NotYours;

/// Decides who may change something. Deny is the default.
///
/// In this order, of which the first counts. An image: powers; who made it, or for whom; its owners, by user, then by
/// group; the group that owns its directory. Making a directory: powers; the group of the one it is made in. Giving it to
/// a group: powers; the group of the one it is in; being in the old group and in the new one. Deleting it: powers.
///
/// # Errors
/// [`NotYours`].
pub fn may(caller: Option<&Identity>, has_power: bool, change: Change<'_>) -> Result<Right, NotYours> {
    if has_power {
        return Ok(Right::Power);
    }
    // INVARIANT: no reader of certificates lets an empty name pass; this is the second lock. An image nobody made says so
    // with an empty name.
    let caller = caller.filter(|caller| !caller.user.is_empty()).ok_or(NotYours)?;
    let among = |group: Option<&GroupName>| group.is_some_and(|it| caller.groups.contains(it.as_str()));
    match change {
        Change::Image { image, directory } => {
            own(caller, image).or_else(|| among(directory).then_some(Right::DirectoryGroup))
        }
        Change::MakeDirectory { parent } => among(parent).then_some(Right::ParentGroup),
        Change::ChownDirectory { parent, .. } if among(parent) => Some(Right::ParentGroup),
        Change::ChownDirectory { old, new, .. } => (among(old) && among(new)).then_some(Right::BothGroups),
        Change::DeleteDirectory => None,
    }
    .ok_or(NotYours)
}

fn own(caller: &Identity, image: &Image) -> Option<Right> {
    if image.created_by == caller.user {
        Some(Right::Creator)
    } else if image.provenance.created_for == caller.user {
        Some(Right::CreatedFor)
    } else if image.owner_users.contains(&caller.user) {
        Some(Right::OwnerUser)
    } else {
        image.owner_groups.iter().any(|group| caller.groups.contains(group)).then_some(Right::OwnerGroup)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_directories_are_those_of_images_and_the_root() {
        for (text, parent, last, parts) in [
            ("web", Some("."), Some("web"), vec!["web"]),
            ("a/b/c", Some("a/b"), Some("c"), vec!["a", "b", "c"]),
            (".", None, None, vec![]),
        ] {
            let name: DirectoryName = text.parse().unwrap();
            assert_eq!(name.to_string(), text);
            assert_eq!(name.parent().map(|it| it.to_string()).as_deref(), parent);
            assert_eq!((name.last(), name.parts().collect::<Vec<_>>()), (last, parts));
        }
        for bad in [
            "",
            "/",
            "..",
            "a/..",
            "a/../b",
            "./a",
            "a/",
            "/a",
            "a//b",
            ".a",
            "a/.metadata",
            "a~",
            "a b",
            "a\n",
        ] {
            assert!(bad.parse::<DirectoryName>().is_err(), "{bad:?}");
        }
        let of = |image: &str| DirectoryName::of(&image.parse().unwrap());
        assert_eq!((of("web"), of("web/1").as_str()), (DirectoryName::ROOT, "web"));
        assert!(DirectoryName::ROOT < of("-/1"));
    }

    #[test]
    fn a_group_is_what_a_certificate_can_say() {
        assert!("web admins".parse::<GroupName>().is_ok());
        for bad in ["", " web", "web ", "a,b", "a\nb", &"g".repeat(257)] {
            assert!(bad.parse::<GroupName>().is_err(), "{bad:?}");
        }
    }
}
