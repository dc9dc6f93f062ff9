//! What image servers that copy each other ask each other, and operators ask them.

use std::sync::Arc;

use dominator_core::image::ImageName;
use dominator_core::port::{ImageError, Replication};
use tonic::{Request, Response, Status};

use super::ImageService;
use crate::auth::{Caller, Permit};
use crate::wire::{self, image_status, invalid};
use crate::{limits, v1};

impl ImageService {
    pub(super) async fn states(
        &self,
        request: &Request<v1::ImageNames>,
    ) -> Result<Response<v1::ImageStates>, Status> {
        let (names, permit) = names(request)?;
        let states = self.images.open(permit).states(&names).await.map_err(|error| image_status(&error))?;
        Ok(Response::new(v1::ImageStates { states: states.into_iter().map(wire::image_state).collect() }))
    }

    pub(super) fn replication_master(
        &self,
        request: &Request<v1::Empty>,
    ) -> Result<Response<v1::GetReplicationMasterReply>, Status> {
        let replication = self.images.open(super::permit(request)?).replication();
        let status = replication.map(|replication| replication.status()).unwrap_or_default();
        Ok(Response::new(wire::replication_status(status)))
    }

    pub(super) fn deletions_accepted(
        &self,
        request: &Request<v1::ImageNames>,
    ) -> Result<Response<v1::ImageNames>, Status> {
        let (names, permit) = names(request)?;
        let replication: Option<Arc<dyn Replication>> = self.images.open(permit).replication();
        let replication = replication.ok_or_else(|| image_status(&ImageError::Unsupported))?;
        Caller::of(request)?.detail(format_args!("{} names", names.len()));
        let refused = replication.accept_deletions(&names);
        Ok(Response::new(v1::ImageNames { names: refused.iter().map(ToString::to_string).collect() }))
    }
}

/// The names of a request, of which there is one at least, and all of which the caller may touch.
fn names(request: &Request<v1::ImageNames>) -> Result<(Vec<ImageName>, Permit), Status> {
    let (caller, texts) = (Caller::of(request)?, &request.get_ref().names);
    if texts.len() > limits::NAMES {
        return Err(invalid(format!("{} names where {} are the limit", texts.len(), limits::NAMES)));
    }
    let (mut names, mut permit) = (Vec::with_capacity(texts.len()), None);
    for text in texts {
        let name = wire::image_name(text)?;
        permit = Some(caller.may_image(&name)?);
        names.push(name);
    }
    let permit = permit.ok_or_else(|| invalid("no name was given"))?;
    Ok((names, permit))
}
