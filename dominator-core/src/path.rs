//! Names and paths of an image: bytes, never joined to a path of the machine as text.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;

use thiserror::Error;

/// One component of a path: 1 to 255 bytes, neither `.` nor `..`, without `/` and NUL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

impl Name {
    /// The longest name Linux file-systems take, in bytes.
    pub const MAX_LEN: usize = 255;

    /// Checks `raw`.
    ///
    /// # Errors
    /// [`BadPath`] when it is no single, plain name.
    pub fn parse(raw: &[u8]) -> Result<Self, BadPath> {
        if Self::is_valid(raw) { Ok(Self(raw.into())) } else { Err(BadPath::new(raw)) }
    }

    /// Whether `raw` could be one.
    pub(crate) fn is_valid(raw: &[u8]) -> bool {
        let plain = !matches!(raw, b"" | b"." | b"..") && !raw.iter().any(|b| matches!(b, b'/' | 0));
        plain && raw.len() <= Self::MAX_LEN
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(&self.0, f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// An absolute path within an image: `/` or `/` followed by [`Name`]s with single slashes between, at most 4096 bytes in
/// all.
///
/// The order is that of the components, so that a directory stands right before all that is in it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ImagePath(Box<[u8]>);

impl ImagePath {
    /// The longest path, in bytes.
    pub const MAX_LEN: usize = 4096;
    /// How many names a path can have: as many as fit, of one letter each. Any user of a machine makes such a tree in a
    /// minute; nobody may go through one by recursion.
    pub const MAX_DEPTH: usize = Self::MAX_LEN / 2;

    /// The root directory, `/`.
    pub fn root() -> Self {
        Self(Box::from(*b"/"))
    }

    /// Checks `raw`, which must be in normal form.
    ///
    /// # Errors
    /// [`BadPath`] when it is relative, too long, or holds an empty, `.` or `..` component, NUL, or an overlong name.
    pub fn parse(raw: &[u8]) -> Result<Self, BadPath> {
        let bad = || BadPath::new(raw);
        let rest = raw.strip_prefix(b"/").ok_or_else(bad)?;
        let clean = rest.is_empty() || rest.split(|b| *b == b'/').all(Name::is_valid);
        if clean && raw.len() <= Self::MAX_LEN { Ok(Self(raw.into())) } else { Err(bad()) }
    }

    /// The bytes, from the leading `/` on.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is `/`.
    pub fn is_root(&self) -> bool {
        self.0.len() == 1
    }

    /// The path of `name` in this directory.
    ///
    /// # Errors
    /// [`BadPath`] when it would be longer than [`Self::MAX_LEN`].
    pub fn join(&self, name: &Name) -> Result<Self, BadPath> {
        self.join_valid(&name.0)
    }

    /// The path of `name`, which [`Name::is_valid`], in this directory.
    pub(crate) fn join_valid(&self, name: &[u8]) -> Result<Self, BadPath> {
        let slash = usize::from(!self.is_root());
        let mut bytes = Vec::with_capacity(self.0.len() + slash + name.len());
        bytes.extend_from_slice(&self.0);
        if !self.is_root() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        if bytes.len() <= Self::MAX_LEN { Ok(Self(bytes.into())) } else { Err(BadPath::new(&bytes)) }
    }

    /// The directory this path is in and its name there; nothing for the root.
    pub fn split(&self) -> Option<(Self, Name)> {
        if self.is_root() {
            return None;
        }
        let slash = self.0.iter().rposition(|b| *b == b'/')?;
        let (parent, name) = self.0.split_at(slash);
        let parent = if parent.is_empty() { Self::root() } else { Self(parent.into()) };
        Some((parent, Name(name.get(1..)?.into())))
    }

    /// The directory this path is in; nothing for the root.
    pub fn parent(&self) -> Option<Self> {
        self.split().map(|(parent, _)| parent)
    }

    /// The components as bytes, none for the root.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|part| !part.is_empty())
    }

    /// The components as names, none for the root.
    pub fn names(&self) -> impl Iterator<Item = Name> {
        self.components().map(|part| Name(part.into()))
    }

    /// Whether this is `other` or below it.
    pub fn is_within(&self, other: &Self) -> bool {
        other.is_root()
            || self.0.strip_prefix(&*other.0).is_some_and(|rest| rest.first().is_none_or(|b| *b == b'/'))
    }
}

impl Ord for ImagePath {
    fn cmp(&self, other: &Self) -> Ordering {
        // Component by component: the slash that ends one comes before every byte of a name, none of which is NUL.
        let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
        let at = common_prefix(&self.0, &other.0);
        self.0.get(at).map(key).cmp(&other.0.get(at).map(key))
    }
}

/// How many bytes two slices begin with in common.
pub(crate) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    // Blocks are compared as fast as memory is read, bytes are not.
    let mut at = equal_blocks::<512>(a, b, 0);
    at = equal_blocks::<32>(a, b, at);
    equal_blocks::<1>(a, b, at)
}

/// Where blocks of `N` bytes from `at` on cease to be equal.
fn equal_blocks<const N: usize>(a: &[u8], b: &[u8], at: usize) -> usize {
    let [(a, _), (b, _)] = [a, b].map(|bytes| bytes.get(at..).unwrap_or_default().as_chunks::<N>());
    at + N * a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl PartialOrd for ImagePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for ImagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(&self.0, f)
    }
}

impl fmt::Debug for ImagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// A name or path that can't be one of an image.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{shown:?} is no image path: it must be absolute, without empty, `.` or `..` parts and NUL, \
     255 bytes a name, 4096 in all"
)]
pub struct BadPath {
    shown: String,
}

impl BadPath {
    fn new(raw: &[u8]) -> Self {
        Self { shown: String::from_utf8_lossy(raw.get(..120).unwrap_or(raw)).into_owned() }
    }
}

/// Writes bytes so that a terminal can take them and two names never look alike: UTF-8 as it is, the rest, control
/// characters and the backslash as `\xNN`.
fn write_escaped(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c == '\\' {
                let mut utf8 = [0; 4];
                c.encode_utf8(&mut utf8).bytes().try_for_each(|b| write!(f, "\\x{b:02x}"))?;
            } else {
                write!(f, "{c}")?;
            }
        }
        chunk.invalid().iter().try_for_each(|b| write!(f, "\\x{b:02x}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostile_paths_can_not_be_built() {
        let long = [b"/".as_slice(), &[b'a'; 256]].concat();
        let deep = b"/a".repeat(2049);
        let wide = format!("/{}", "x".repeat(255)).repeat(17);
        for bad in [
            b"".as_slice(),
            b"etc",
            b"//",
            b"/etc/",
            b"/etc//passwd",
            b"/./etc",
            b"/etc/..",
            b"/a\0b",
            b"..",
            &long,
            &deep,
            wide.as_bytes(),
        ] {
            assert!(ImagePath::parse(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
        for bad in [b"".as_slice(), b".", b"..", b"a/b", b"a\0", &[b'x'; 256]] {
            assert!(Name::parse(bad).is_err());
        }
        let deepest = ImagePath::parse(&b"/a".repeat(ImagePath::MAX_DEPTH)).unwrap();
        assert!(deepest.join(&Name::parse(b"a").unwrap()).is_err());
        let longest = ImagePath::parse(&wide.as_bytes()[..4096]).unwrap();
        assert!(longest.join(&Name::parse(b"a").unwrap()).is_err());
    }

    #[test]
    fn a_directory_stands_right_before_what_is_in_it() {
        let mut paths: Vec<_> = ["/a-b", "/a/b", "/a", "/", "/a!"]
            .iter()
            .map(|p| ImagePath::parse(p.as_bytes()).unwrap())
            .collect();
        paths.sort();
        assert_eq!(
            paths.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["/", "/a", "/a/b", "/a!", "/a-b"]
        );
    }

    #[test]
    fn within_goes_by_components() {
        let path = |p: &str| ImagePath::parse(p.as_bytes()).unwrap();
        assert!(path("/tmp/x").is_within(&path("/tmp")) && path("/tmp").is_within(&path("/")));
        assert!(!path("/tmpfoo").is_within(&path("/tmp")));
    }

    proptest! {
        #[test]
        fn join_and_split_are_inverse(parts in prop::collection::vec(prop::collection::vec(1u8..=255, 1..20), 1..8)) {
            let mut path = ImagePath::root();
            for part in &parts {
                let Ok(name) = Name::parse(part) else { return Ok(()) };
                let longer = path.join(&name).unwrap();
                prop_assert_eq!(longer.split(), Some((path, name)));
                prop_assert_eq!(ImagePath::parse(longer.as_bytes()), Ok(longer.clone()));
                path = longer;
            }
        }

        #[test]
        fn paths_are_in_the_order_of_their_components(
            a in prop::collection::vec("[ab!-]{1,3}", 0..40), b in prop::collection::vec("[ab!-]{1,3}", 0..40),
        ) {
            let path = |parts: &[String]| ImagePath::parse(format!("/{}", parts.join("/")).as_bytes());
            let (Ok(a), Ok(b)) = (path(&a), path(&b)) else { return Ok(()) };
            prop_assert_eq!(a.cmp(&b), a.components().cmp(b.components()));
            let longer = a.join(&Name::parse(b"a").unwrap()).unwrap();
            prop_assert_eq!(a.cmp(&longer), std::cmp::Ordering::Less);
        }

        #[test]
        fn two_paths_never_look_alike(a in prop::collection::vec(any::<u8>(), 0..6), b in prop::collection::vec(any::<u8>(), 0..6)) {
            if let (Ok(a), Ok(b)) = (Name::parse(&a), Name::parse(&b)) {
                prop_assert_eq!(a == b, a.to_string() == b.to_string());
            }
        }
    }
}
