use std::sync::Arc;

use dominator_core::image::ImageName;
use dominator_core::namespace::{Change, DirectoryName, GroupName, ImageDirectory, Right};
use dominator_core::port::{ImageError, ImageStore, Parents};
use futures_util::{StreamExt as _, stream};
use tonic::{Request, Response, Status};

use super::Answer;
use crate::auth::{Caller, Gate, Permit};
use crate::v1;
use crate::wire::{self, image_status};

/// How many directories go into one message: with the longest names and groups, less than a megabyte.
const DIRECTORIES: usize = 1000;

/// The directories of a store of images, served; and the one place where is found out who may change what in the store.
pub(super) struct Namespace {
    images: Gate<Arc<dyn ImageStore>>,
}

impl Namespace {
    /// Serves the directories of `images`.
    pub(super) fn new(images: Arc<dyn ImageStore>) -> Self {
        Self { images: Gate::new(images) }
    }

    /// Whether a caller may change or delete an image that is there; by what right is told to the audit.
    ///
    /// # Errors
    /// The answer to the caller, when there is no such image or it may not.
    pub(super) async fn may_change_image(
        &self,
        caller: &Caller,
        permit: Permit,
        name: &ImageName,
    ) -> Result<Right, Status> {
        let image = self.images.open(permit).image(name).await.map_err(|error| image_status(&error))?;
        let directory = self.group(permit, &name.directory()).await;
        let change = Change::Image { image: &image, directory: directory.as_ref() };
        let right = caller.may_change(permit, &format_args!("image {name}"), change)?;
        say(caller, right);
        Ok(right)
    }

    pub(super) async fn check(
        &self,
        request: Request<v1::DirectoryRequest>,
    ) -> Result<Response<v1::CheckDirectoryReply>, Status> {
        let name = wire::directory_name(&request.get_ref().name)?;
        let permit = Caller::of(&request)?.may_directory(&name)?;
        let directory = match self.images.open(permit).directory(&name).await {
            Ok(directory) => Some(wire::directory(&directory)),
            Err(ImageError::NoDirectory { .. }) => None,
            Err(error) => return Err(image_status(&error)),
        };
        Ok(Response::new(v1::CheckDirectoryReply { directory }))
    }

    pub(super) async fn list(
        &self,
        permit: Permit,
    ) -> Result<Response<Answer<v1::ListDirectoriesReply>>, Status> {
        let all = self.images.open(permit).directories().await.map_err(|error| image_status(&error))?;
        let batch = |some: &[ImageDirectory]| v1::ListDirectoriesReply {
            directories: some.iter().map(wire::directory).collect(),
        };
        let batches: Vec<_> = all.chunks(DIRECTORIES).map(|some| Ok(batch(some))).collect();
        Ok(Response::new(stream::iter(batches).boxed()))
    }

    pub(super) async fn make(
        &self,
        request: Request<v1::MakeDirectoryRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        let (caller, asked) = (Caller::of(&request)?, request.get_ref());
        let name = wire::directory_name(&asked.name)?;
        let parents = if asked.parents { Parents::Made } else { Parents::Required };
        let permit = caller.may_directory(&name)?;
        let above = self.above(permit, &name, parents).await;
        let parent = self.group(permit, &above).await;
        let change = Change::MakeDirectory { parent: parent.as_ref() };
        let right = caller.may_change(permit, &format_args!("directory {above}"), change)?;
        say(caller, right);
        let made = self.images.open(permit).make_directory(&name, parents).await;
        made.map(|()| Response::new(v1::Empty {})).map_err(|error| image_status(&error))
    }

    pub(super) async fn chown(
        &self,
        request: Request<v1::ChownDirectoryRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        let (caller, asked) = (Caller::of(&request)?, request.get_ref());
        let (name, new) = (wire::directory_name(&asked.name)?, wire::group_from(&asked.owner_group)?);
        let permit = caller.may_directory(&name)?;
        let parent = match name.parent() {
            Some(above) => self.group(permit, &above).await,
            None => None,
        };
        let old = self.group(permit, &name).await;
        let change = Change::ChownDirectory { parent: parent.as_ref(), old: old.as_ref(), new: new.as_ref() };
        let right = caller.may_change(permit, &format_args!("directory {name}"), change)?;
        let to = new.as_ref().map_or_else(|| "no group".to_owned(), |group| format!("group {group}"));
        caller.detail(format_args!("to {to} as {}", right.word()));
        let given = self.images.open(permit).chown_directory(&name, new).await;
        given.map(|()| Response::new(v1::Empty {})).map_err(|error| image_status(&error))
    }

    pub(super) async fn delete(
        &self,
        request: Request<v1::DirectoryRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        let caller = Caller::of(&request)?;
        let name = wire::directory_name(&request.get_ref().name)?;
        let permit = caller.may_directory(&name)?;
        caller.may_change(permit, &format_args!("directory {name}"), Change::DeleteDirectory)?;
        let deleted = self.images.open(permit).delete_directory(&name).await;
        deleted.map(|()| Response::new(v1::Empty {})).map_err(|error| image_status(&error))
    }

    /// The directory in which one is made: the one above it, or the nearest that is there.
    async fn above(&self, permit: Permit, name: &DirectoryName, parents: Parents) -> DirectoryName {
        let mut above = name.parent().unwrap_or_default();
        while parents == Parents::Made
            && matches!(self.images.open(permit).directory(&above).await, Err(ImageError::NoDirectory { .. }))
        {
            above = above.parent().unwrap_or_default();
        }
        above
    }

    /// The group a directory belongs to, for those who have no power. One whose owner can't be found out counts as
    /// nobody's: who then may do less is told why in the log.
    async fn group(&self, permit: Permit, name: &DirectoryName) -> Option<GroupName> {
        if permit.ground().has_power() {
            return None;
        }
        match self.images.open(permit).directory(name).await {
            Ok(directory) => directory.owner_group,
            Err(ImageError::NoDirectory { .. } | ImageError::Unsupported) => None,
            Err(error) => {
                tracing::warn!(directory = %name, error = wire::text(&error), "nobody is taken for its owner");
                None
            }
        }
    }
}

/// Tells the audit by what right something is done without powers.
fn say(caller: &Caller, right: Right) {
    if right != Right::Power {
        caller.detail(format_args!("as {}", right.word()));
    }
}
