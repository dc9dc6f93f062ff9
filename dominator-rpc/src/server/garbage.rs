//! What images take, and what the server keeps for nobody.

use std::sync::Arc;

use dominator_core::image::ImageName;
use dominator_core::port::{ImageStore, Share, Unreferenced};
use futures_util::{StreamExt as _, stream};
use tonic::{Request, Response, Status};

use super::{Answer, permit};
use crate::auth::{Caller, Gate};
use crate::wire::{self, image_status, invalid};
use crate::{limits, v1};

type Images = Gate<Arc<dyn ImageStore>>;

/// Answers `ListUnreferencedObjects`.
pub(super) async fn list(
    images: &Images,
    request: &Request<v1::Empty>,
) -> Result<Response<Answer<v1::UnreferencedObjects>>, Status> {
    let found = images.open(permit(request)?).unreferenced().await.map_err(|error| image_status(&error))?;
    let batch = |objects: &[Unreferenced]| v1::UnreferencedObjects {
        ids: wire::ids(objects.iter().map(|object| &object.id)),
        sizes: objects.iter().map(|object| object.size).collect(),
        since: objects.iter().map(|object| object.since).collect(),
    };
    let batches: Vec<_> = found.chunks(limits::IDS).map(|objects| Ok(batch(objects))).collect();
    Ok(Response::new(stream::iter(batches).boxed()))
}

/// Answers `DeleteUnreferencedObjects`.
pub(super) async fn delete(
    images: &Images,
    request: &Request<v1::DeleteUnreferencedObjectsRequest>,
) -> Result<Response<v1::DeleteUnreferencedObjectsReply>, Status> {
    let v1::DeleteUnreferencedObjectsRequest { percent, bytes } = *request.get_ref();
    let percent = u8::try_from(percent).ok().filter(|percent| *percent <= 100);
    let percent = percent.ok_or_else(|| invalid("a share of more than 100 percent"))?;
    let store = images.open(permit(request)?);
    let collected = store.collect(Share { percent, bytes }).await.map_err(|error| image_status(&error))?;
    let removed = collected.removed;
    Caller::of(request)?.detail(format_args!("{} objects, {} bytes", removed.objects, removed.bytes));
    let (removed, left) = (wire::amount(removed), wire::amount(collected.left));
    Ok(Response::new(v1::DeleteUnreferencedObjectsReply { removed: Some(removed), left: Some(left) }))
}

/// Answers `GetObjectStatisticsForImages`.
pub(super) async fn statistics(
    images: &Images,
    request: &Request<v1::ObjectStatisticsRequest>,
) -> Result<Response<v1::ObjectStatistics>, Status> {
    let texts = &request.get_ref().names;
    if texts.len() > limits::NAMES {
        return Err(invalid(format!("{} names where {} are the limit", texts.len(), limits::NAMES)));
    }
    let caller = Caller::of(request)?;
    let (mut names, mut permit) = (Vec::<ImageName>::new(), None);
    for text in texts {
        let name = wire::image_name(text)?;
        permit = Some(caller.may_image(&name)?);
        names.push(name);
    }
    let permit = permit.ok_or_else(|| invalid("no image is named"))?;
    let statistics = images.open(permit).statistics(names).await.map_err(|error| image_status(&error))?;
    let (needed, alone) = (wire::amount(statistics.needed), wire::amount(statistics.alone));
    Ok(Response::new(v1::ObjectStatistics { needed: Some(needed), alone: Some(alone) }))
}
