use bytes::{Bytes, BytesMut};
use dominator_core::object::ObjectId;
use dominator_core::plan::Need;
use tonic::Status;

use super::invalid;
use crate::{limits, v1};

/// One digest.
pub(crate) fn digest(bytes: &[u8]) -> Result<ObjectId, Status> {
    let digest = <[u8; ObjectId::LEN]>::try_from(bytes);
    digest.map(ObjectId::from_bytes).map_err(|_| invalid("a digest that has not 32 bytes"))
}

/// Ids as one string of bytes.
pub(crate) fn ids<'a>(ids: impl IntoIterator<Item = &'a ObjectId>) -> Bytes {
    let mut bytes = BytesMut::new();
    ids.into_iter().for_each(|id| bytes.extend_from_slice(id.as_bytes()));
    bytes.freeze()
}

/// Ids from one string of bytes, at most `limit` of them.
pub(crate) fn ids_from(bytes: &[u8], limit: usize) -> Result<Vec<ObjectId>, Status> {
    let (digests, []) = bytes.as_chunks::<{ ObjectId::LEN }>() else {
        return Err(invalid("ids whose bytes are no multiple of 32"));
    };
    if digests.len() > limit {
        return Err(invalid(format!("{} ids where {limit} are the limit", digests.len())));
    }
    Ok(digests.iter().map(|digest| ObjectId::from_bytes(*digest)).collect())
}

/// Ids with lengths.
pub(crate) fn sized(objects: &[(ObjectId, u64)]) -> v1::SizedObjects {
    v1::SizedObjects {
        ids: ids(objects.iter().map(|(id, _)| id)),
        sizes: objects.iter().map(|(_, size)| *size).collect(),
    }
}

/// Ids with the room they take.
pub(crate) fn needed(objects: &[(ObjectId, Need)]) -> v1::NeededObjects {
    v1::NeededObjects {
        ids: ids(objects.iter().map(|(id, _)| id)),
        sizes: objects.iter().map(|(_, need)| need.size).collect(),
        uses: objects.iter().map(|(_, need)| need.uses).collect(),
    }
}

/// Ids with the room they take.
pub(crate) fn needed_from(objects: &v1::NeededObjects) -> Result<Vec<(ObjectId, Need)>, Status> {
    let ids = ids_from(&objects.ids, limits::IDS)?;
    let uses = &objects.uses;
    if ids.len() != objects.sizes.len() || !(uses.is_empty() || uses.len() == ids.len()) {
        return Err(invalid("not as many lengths or uses as ids"));
    }
    let uses = uses.iter().copied().chain(std::iter::repeat(1));
    let needs = objects.sizes.iter().zip(uses).map(|(size, uses)| Need { size: *size, uses });
    Ok(ids.into_iter().zip(needs).collect())
}

/// Ids with lengths, as many of one as of the other.
pub(crate) fn sized_from(objects: &v1::SizedObjects) -> Result<Vec<(ObjectId, u64)>, Status> {
    let ids = ids_from(&objects.ids, limits::IDS)?;
    if ids.len() != objects.sizes.len() {
        return Err(invalid("not as many lengths as ids"));
    }
    Ok(ids.into_iter().zip(objects.sizes.iter().copied()).collect())
}
