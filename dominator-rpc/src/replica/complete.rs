//! All objects of an image, wherever they are.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use dominator_core::image::Image;
use dominator_core::object::ObjectId;
use dominator_core::port::{Cause, ImageError, ObjectSource, ObjectStore, StoreError};
use dominator_core::tree::{Directory, DirectoryId};
use futures_util::TryStreamExt as _;

use crate::limits;
use crate::wire::{Assembler, Sequence};

/// Has all objects of `image` be in `here`: those that are missing are fetched from `source`, if there is one. Returns them
/// with their lengths in bytes.
///
/// # Errors
/// [`ImageError::Incomplete`] when objects are missing and there is no source, [`ImageError::Malformed`], others of either
/// store.
pub(super) async fn complete(
    here: &dyn ObjectStore,
    source: Option<&dyn ObjectSource>,
    image: &Image,
) -> Result<Vec<(ObjectId, u64)>, ImageError> {
    let mut all = Vec::new();
    let mut files: HashSet<ObjectId> = image.documents().chain([image.tree.links.0]).collect();
    let mut wave: Vec<ObjectId> = image.tree.root.directory().map(|id| id.0).into_iter().collect();
    let mut seen: HashSet<ObjectId> = wave.iter().copied().collect();
    let mut budget = limits::IMAGE_INODES;
    // A level of directories at a time: what is in the next one is known only then.
    while !wave.is_empty() {
        all.extend(have(here, source, &wave).await?);
        let mut below = Vec::new();
        for directory in directories(here, wave).await? {
            let entries = u64::try_from(directory.len()).unwrap_or(u64::MAX);
            budget = budget.checked_sub(entries).ok_or_else(too_large)?;
            files.extend(directory.iter().filter_map(|entry| entry.object()).map(|(id, _)| id));
            let directories = directory.iter().filter_map(|entry| entry.directory());
            below.extend(directories.map(|DirectoryId(id)| id).filter(|id| seen.insert(*id)));
        }
        wave = below;
    }
    let files: Vec<ObjectId> = files.into_iter().filter(|id| !seen.contains(id)).collect();
    for some in files.chunks(limits::OBJECTS_IN_CALL) {
        all.extend(have(here, source, some).await?);
    }
    Ok(all)
}

/// Has these objects be here; with their lengths.
async fn have(
    here: &dyn ObjectStore,
    source: Option<&dyn ObjectSource>,
    ids: &[ObjectId],
) -> Result<Vec<(ObjectId, u64)>, ImageError> {
    let mut sizes = here.sizes(ids).await.map_err(stores)?;
    let missing: Vec<ObjectId> = lacking(ids, &sizes).collect();
    if let (Some(source), false) = (source, missing.is_empty()) {
        here.add(source.objects(missing).await.map_err(stores)?).await.map_err(stores)?;
        sizes = here.sizes(ids).await.map_err(stores)?;
    }
    let count = lacking(ids, &sizes).count();
    if let Some(first) = lacking(ids, &sizes).next() {
        return Err(ImageError::Incomplete { first, count });
    }
    Ok(ids.iter().copied().zip(sizes.into_iter().flatten()).collect())
}

fn lacking<'a>(ids: &'a [ObjectId], sizes: &'a [Option<u64>]) -> impl Iterator<Item = ObjectId> + 'a {
    ids.iter().zip(sizes).filter(|(_, size)| size.is_none()).map(|(id, _)| *id)
}

async fn directories(here: &dyn ObjectStore, ids: Vec<ObjectId>) -> Result<Vec<Arc<Directory>>, ImageError> {
    let malformed = |why: String| ImageError::Malformed(Cause::new(why));
    let mut assembler =
        Assembler::new(Sequence::of(ids.iter().copied()), Directory::MAX_LEN, limits::IMAGE_BYTES);
    let mut pieces = here.objects(ids).await.map_err(stores)?;
    let mut encoded: Vec<(ObjectId, Bytes)> = Vec::new();
    while let Some(piece) = pieces.try_next().await.map_err(stores)? {
        encoded.extend(assembler.push(piece).map_err(malformed)?);
    }
    assembler.end().map_err(malformed)?;
    let decode = |(_, bytes)| Directory::decode(bytes).map(Arc::new);
    let decoded: Result<Vec<_>, _> = encoded.into_iter().map(decode).collect();
    decoded.map_err(|error| ImageError::Malformed(Cause::new(error)))
}

fn too_large() -> ImageError {
    ImageError::Malformed(Cause::new(format!("its tree has more than {} entries", limits::IMAGE_INODES)))
}

/// What an object store's error is to who wants an image.
pub(super) fn stores(error: StoreError) -> ImageError {
    match error {
        StoreError::Unreachable(cause) => ImageError::Unreachable(cause),
        StoreError::TooSlow { .. } => ImageError::Unreachable(Cause::new(error)),
        StoreError::Denied(why) => ImageError::Denied(why),
        StoreError::NotFound { .. }
        | StoreError::Corrupt { .. }
        | StoreError::Protocol(_)
        | StoreError::NoSpace { .. }
        | StoreError::NoInodes { .. }
        | StoreError::Sources(_)
        | StoreError::Failed { .. }
        | _ => ImageError::Failed {
            what: "the objects of the image can't be had".into(),
            cause: Cause::new(error),
        },
    }
}
