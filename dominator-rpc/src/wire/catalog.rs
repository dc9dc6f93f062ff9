//! What is asked about images, and how they change.

use std::sync::Arc;
use std::time::Duration;

use dominator_core::catalog::{
    Change, Entry, Epoch, ExpiryRefusal, ImageUpdate, Latest, Position, Removal, Selection, TagMatches,
};
use dominator_core::image::{Build, Image, ImageName};
use prost::Message as _;
use tonic::Status;

use super::pack::Weighed;
use super::{directory, directory_from, directory_name, image_name, invalid};
use crate::v1;
use crate::v1::expiry_refusal::Why;
use crate::v1::image_change::Change as ChangeKind;
use crate::v1::image_update::Update as UpdateKind;

impl Weighed for v1::ImageUpdate {
    fn weight(&self) -> usize {
        self.encoded_len()
    }
}

/// How much of an image every list tells, in bytes.
pub(crate) fn entry_len(name: &ImageName, image: &Image) -> usize {
    entry(name, &Entry::of(image)).encoded_len()
}

/// Tags and the values of each that will do.
fn tags(matches: &TagMatches) -> std::collections::HashMap<String, v1::TagValues> {
    let values = |values: &std::collections::BTreeSet<String>| v1::TagValues {
        values: values.iter().cloned().collect(),
    };
    matches.iter().map(|(key, some)| (key.clone(), values(some))).collect()
}

fn tags_from(tags: std::collections::HashMap<String, v1::TagValues>) -> TagMatches {
    TagMatches::new(tags.into_iter().map(|(key, some)| (key, some.values.into_iter().collect())))
}

/// Some of the images.
pub(crate) fn selection(selection: &Selection) -> v1::ImageSelection {
    v1::ImageSelection {
        within: selection.within.to_string(),
        tags: tags(&selection.tags),
        ignore_expiring: selection.ignore_expiring,
    }
}

/// Some of the images.
pub(crate) fn selection_from(selection: v1::ImageSelection) -> Selection {
    let v1::ImageSelection { within, tags, ignore_expiring } = selection;
    let Ok(within) = within.parse();
    Selection { within, tags: tags_from(tags), ignore_expiring }
}

/// The newest of some images.
pub(crate) fn latest(latest: &Latest) -> v1::FindLatestImageRequest {
    v1::FindLatestImageRequest {
        directory: latest.directory.clone(),
        commit_or_branch: latest.commit_or_branch.clone(),
        tags: tags(&latest.tags),
        ignore_expiring: latest.ignore_expiring,
    }
}

/// The newest of some images.
pub(crate) fn latest_from(latest: v1::FindLatestImageRequest) -> Latest {
    let v1::FindLatestImageRequest { directory, commit_or_branch, tags, ignore_expiring } = latest;
    Latest { directory, commit_or_branch, tags: tags_from(tags), ignore_expiring }
}

/// How far somebody is.
pub(crate) fn position(position: Position) -> v1::ImagePosition {
    v1::ImagePosition { epoch: position.epoch.0, sequence: position.sequence }
}

/// How far somebody is.
pub(crate) fn position_from(position: v1::ImagePosition) -> Position {
    Position { epoch: Epoch(position.epoch), sequence: position.sequence }
}

fn entry(name: &ImageName, entry: &Entry) -> v1::ImageEntry {
    v1::ImageEntry {
        name: name.to_string(),
        created_on: entry.created_on,
        expires_at: entry.expires_at,
        tags: entry.tags.clone().into_iter().collect(),
        build_branch: entry.build.branch.clone(),
        build_commit_id: entry.build.commit_id.clone(),
        build_git_url: entry.build.git_url.clone(),
        damaged: entry.damaged,
    }
}

fn entry_from(entry: v1::ImageEntry) -> Result<(ImageName, Arc<Entry>), Status> {
    let name = image_name(&entry.name)?;
    let build =
        Build { branch: entry.build_branch, commit_id: entry.build_commit_id, git_url: entry.build_git_url };
    let entry = Entry {
        created_on: entry.created_on,
        expires_at: entry.expires_at,
        tags: entry.tags.into_iter().collect(),
        build,
        damaged: entry.damaged,
    };
    Ok((name, Arc::new(entry)))
}

/// What is told to those who follow. Nothing for what this version can't tell: they would go on without it.
pub(crate) fn update(update: &ImageUpdate) -> Result<v1::ImageUpdate, Status> {
    let update = match update {
        ImageUpdate::Begin => UpdateKind::Begin(true),
        ImageUpdate::Directory(it) => UpdateKind::Directory(directory(it)),
        ImageUpdate::Image { name, entry: known } => UpdateKind::Image(entry(name, known)),
        ImageUpdate::Current(at) => UpdateKind::Current(position(*at)),
        ImageUpdate::Change { position: at, change } => {
            UpdateKind::Change(v1::ImageChange { position: Some(position(*at)), change: Some(kind(change)?) })
        }
        _ => return Err(untold()),
    };
    Ok(v1::ImageUpdate { update: Some(update) })
}

fn kind(change: &Change) -> Result<ChangeKind, Status> {
    Ok(match change {
        Change::Added { name, entry: known } => ChangeKind::Added(entry(name, known)),
        Change::Altered { name, entry: known } => ChangeKind::Altered(entry(name, known)),
        Change::Removed { name, entry: known, why } => {
            let expired = *why == Removal::Expired;
            ChangeKind::Removed(v1::RemovedImage { image: Some(entry(name, known)), expired })
        }
        Change::Directory(it) => ChangeKind::Directory(directory(it)),
        Change::DirectoryRemoved(name) => ChangeKind::DirectoryRemoved(name.to_string()),
        _ => return Err(untold()),
    })
}

fn untold() -> Status {
    Status::internal("a change of a kind that this server can't tell of")
}

/// What is told to those who follow.
pub(crate) fn update_from(update: v1::ImageUpdate) -> Result<ImageUpdate, Status> {
    Ok(match update.update.ok_or_else(unknown)? {
        UpdateKind::Begin(_) => ImageUpdate::Begin,
        UpdateKind::Directory(it) => ImageUpdate::Directory(directory_from(&it)?),
        UpdateKind::Image(image) => {
            let (name, entry) = entry_from(image)?;
            ImageUpdate::Image { name, entry }
        }
        UpdateKind::Current(at) => ImageUpdate::Current(position_from(at)),
        UpdateKind::Change(v1::ImageChange { position, change }) => {
            let position = position.map(position_from).ok_or_else(unknown)?;
            ImageUpdate::Change { position, change: kind_from(change.ok_or_else(unknown)?)? }
        }
    })
}

fn kind_from(change: ChangeKind) -> Result<Change, Status> {
    Ok(match change {
        ChangeKind::Added(image) => {
            let (name, entry) = entry_from(image)?;
            Change::Added { name, entry }
        }
        ChangeKind::Altered(image) => {
            let (name, entry) = entry_from(image)?;
            Change::Altered { name, entry }
        }
        ChangeKind::Removed(v1::RemovedImage { image, expired }) => {
            let (name, entry) = entry_from(image.ok_or_else(unknown)?)?;
            let why = if expired { Removal::Expired } else { Removal::Deleted };
            Change::Removed { name, entry, why }
        }
        ChangeKind::Directory(it) => Change::Directory(directory_from(&it)?),
        ChangeKind::DirectoryRemoved(name) => Change::DirectoryRemoved(directory_name(&name)?),
    })
}

/// One that is passed over would leave whoever follows with what is not so.
fn unknown() -> Status {
    invalid("a change of images of an unknown kind; the server is of another version")
}

/// Why an end stays what it is.
pub(crate) fn expiry_refusal(refusal: &ExpiryRefusal) -> Option<v1::ExpiryRefusal> {
    let why = match refusal {
        ExpiryRefusal::Permanent => Why::Permanent(true),
        ExpiryRefusal::Over => Why::Over(true),
        ExpiryRefusal::Removal => Why::Removal(true),
        ExpiryRefusal::Sooner { end } => Why::Sooner(*end),
        ExpiryRefusal::TooLate { limit } => Why::TooLate(limit.as_secs()),
        _ => return None,
    };
    Some(v1::ExpiryRefusal { why: Some(why) })
}

/// Why an end stays what it is.
pub(crate) fn expiry_refusal_from(refusal: &v1::ExpiryRefusal) -> Option<ExpiryRefusal> {
    Some(match refusal.why? {
        Why::Permanent(_) => ExpiryRefusal::Permanent,
        Why::Over(_) => ExpiryRefusal::Over,
        Why::Removal(_) => ExpiryRefusal::Removal,
        Why::Sooner(end) => ExpiryRefusal::Sooner { end },
        Why::TooLate(seconds) => ExpiryRefusal::TooLate { limit: Duration::from_secs(seconds) },
    })
}
