use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::str::FromStr;
use std::sync::Arc;

use super::{Change, Entries, Entry, ImageUpdate};
use crate::image::ImageName;
use crate::namespace::DirectoryName;

/// Which tags an image must have: of every key one of the values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagMatches(BTreeMap<String, BTreeSet<String>>);

impl TagMatches {
    /// Of every key, the values that will do.
    pub fn new(matches: impl IntoIterator<Item = (String, BTreeSet<String>)>) -> Self {
        Self(matches.into_iter().collect())
    }

    /// Of every key, the values that will do.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &BTreeSet<String>)> {
        self.0.iter()
    }

    /// Whether these tags will do.
    pub fn matches(&self, tags: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|(key, values)| tags.get(key).is_some_and(|value| values.contains(value)))
    }
}

impl FromIterator<(String, String)> for TagMatches {
    /// Keys that come more than once have more than one value that will do.
    fn from_iter<I: IntoIterator<Item = (String, String)>>(tags: I) -> Self {
        let mut matches = Self::default();
        for (key, value) in tags {
            matches.0.entry(key).or_default().insert(value);
        }
        matches
    }
}

/// In which directory images are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Within {
    /// Everywhere.
    #[default]
    Everything,
    /// In that directory itself.
    Directory(String),
    /// In that directory and all below.
    Below(String),
}

impl FromStr for Within {
    type Err = Infallible;

    /// As the reference has it: nothing or `.` is everywhere, `dir/` that directory itself, `dir` it with all below.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.strip_suffix('/') {
            _ if text.is_empty() || text == "." => Self::Everything,
            Some(directory) => Self::Directory(directory.into()),
            None => Self::Below(text.into()),
        })
    }
}

impl std::fmt::Display for Within {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Everything => Ok(()),
            Self::Directory(directory) => write!(f, "{directory}/"),
            Self::Below(directory) => f.write_str(directory),
        }
    }
}

impl Within {
    fn has(&self, name: &ImageName) -> bool {
        self.is_about(&name.directory())
    }

    /// Whether what is in `directory` itself is looked for.
    fn is_about(&self, directory: &DirectoryName) -> bool {
        match self {
            Self::Everything => true,
            Self::Directory(wanted) => wanted == directory.as_str(),
            Self::Below(wanted) => directory
                .as_str()
                .strip_prefix(wanted.as_str())
                .is_some_and(|rest| matches!(rest.as_bytes(), [] | [b'/', ..])),
        }
    }
}

/// Some of the images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only those in there.
    pub within: Within,
    /// Only those with such tags.
    pub tags: TagMatches,
    /// Only those that don't end by themselves.
    pub ignore_expiring: bool,
}

impl Selection {
    /// Whether an image is among them.
    pub fn has(&self, name: &ImageName, entry: &Entry) -> bool {
        self.within.has(name) && suits(entry, &self.tags, self.ignore_expiring)
    }

    /// The names of those among `images`, in order.
    pub fn of(&self, images: &Entries) -> Vec<ImageName> {
        let chosen = images.iter().filter(|(name, entry)| self.has(name, entry));
        chosen.map(|(name, _)| name.clone()).collect()
    }

    /// What of an update is about them; nothing, if nothing is.
    ///
    /// Of a change that is about others its position is left, so that whoever follows can go on from there. An image may come
    /// to be among them when it is altered; none ceases to be, as all that is altered is that an end is put off.
    pub fn update(&self, update: ImageUpdate) -> Option<ImageUpdate> {
        match &update {
            ImageUpdate::Begin | ImageUpdate::Current(_) => Some(update),
            ImageUpdate::Directory(directory) => self.within.is_about(&directory.name).then_some(update),
            ImageUpdate::Image { name, entry } => self.has(name, entry).then_some(update),
            ImageUpdate::Change { position, change } => {
                let is_theirs = match change {
                    Change::Directory(directory) => self.within.is_about(&directory.name),
                    Change::DirectoryRemoved(name) => self.within.is_about(name),
                    Change::Added { name, entry }
                    | Change::Altered { name, entry }
                    | Change::Removed { name, entry, .. } => self.has(name, entry),
                };
                Some(if is_theirs { update } else { ImageUpdate::Current(*position) })
            }
        }
    }
}

/// The newest of some images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latest {
    /// The directory it is in itself; nothing or `.` for names without one.
    pub directory: String,
    /// Only those built from that commit or branch.
    pub commit_or_branch: Option<String>,
    /// Only those with such tags.
    pub tags: TagMatches,
    /// Only those that don't end by themselves.
    pub ignore_expiring: bool,
}

impl Latest {
    /// The one of `images` that was added last; of those of one second, the one whose name comes last.
    pub fn of(&self, images: &Entries) -> Option<ImageName> {
        let directory = self.directory.trim_end_matches('/');
        let directory = if directory.is_empty() { "." } else { directory };
        let is_there = |name: &ImageName| name.stream().unwrap_or(".") == directory;
        let is_built = |entry: &Entry| {
            let wanted = self.commit_or_branch.as_ref();
            wanted.is_none_or(|wanted| *wanted == entry.build.commit_id || *wanted == entry.build.branch)
        };
        let suits = |entry: &Arc<Entry>| {
            !entry.damaged && is_built(entry) && suits(entry, &self.tags, self.ignore_expiring)
        };
        let chosen = images.iter().filter(|(name, entry)| is_there(name) && suits(entry));
        chosen.max_by_key(|(name, entry)| (entry.created_on, *name)).map(|(name, _)| name.clone())
    }
}

fn suits(entry: &Entry, tags: &TagMatches, ignore_expiring: bool) -> bool {
    !(ignore_expiring && entry.expires_at.is_some()) && tags.matches(&entry.tags)
}
