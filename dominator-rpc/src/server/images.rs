use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use dominator_core::authorise::Decision;
use dominator_core::image::{Image, ImageName};
use dominator_core::object::ObjectId;
use dominator_core::port::{ImageError, ImageStore};
use dominator_core::tree::{Directories as _, DirectoryId, Snapshot};
use futures_util::{Stream, StreamExt as _, stream};
use tonic::{Request, Response, Status, Streaming};

use super::driven::Driven;
use super::turns::Turns;
use super::{Answer, next};
use crate::authorise::Caller;
use crate::v1::add_image_request::Part as AddPart;
use crate::v1::get_image_reply::Part;
use crate::v1::image_server_server::ImageServer;
use crate::wire::{self, Collector, image_status, invalid};
use crate::{limits, v1};

/// How many names go into one message: with the longest names, half a megabyte.
const NAMES: usize = 1000;

/// A store of images, served.
pub(super) struct ImageService {
    images: Arc<dyn ImageStore>,
    clock: fn() -> SystemTime,
    turns: Turns,
}

#[async_trait]
impl ImageServer for ImageService {
    async fn add_image(
        &self,
        request: Request<Streaming<v1::AddImageRequest>>,
    ) -> Result<Response<v1::Empty>, Status> {
        let user = caller(&request)?.identity.user.clone();
        let (name, mut image) = new_image(request.into_inner()).await?;
        image.created_by = user;
        image.created_on = (self.clock)().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
        self.images.add(&name, image).await.map_err(|error| image_status(&error))?;
        Ok(Response::new(v1::Empty {}))
    }

    async fn check_image(
        &self,
        request: Request<v1::ImageRequest>,
    ) -> Result<Response<v1::CheckImageReply>, Status> {
        let exists = match self.images.image(&wire::image_name(&request.get_ref().name)?).await {
            Ok(_) => true,
            Err(ImageError::NotFound { .. } | ImageError::Deleted { .. }) => false,
            Err(error) => return Err(image_status(&error)),
        };
        Ok(Response::new(v1::CheckImageReply { exists }))
    }

    type GetImageStream = Answer<v1::GetImageReply>;

    async fn get_image(
        &self,
        request: Request<v1::GetImageRequest>,
    ) -> Result<Response<Self::GetImageStream>, Status> {
        let turn = self.turns.wait(&request).await?;
        let request = request.get_ref();
        let name = wire::image_name(&request.name)?;
        let image = self.image(&name).await?;
        let tree = match request.with_tree {
            true => Some(self.images.tree(&name).await.map_err(|error| image_status(&error))?),
            false => None,
        };
        let manifest = stream::iter(wire::chunks(image.encode())).map(|part| Ok(Part::Manifest(part)));
        let objects = stream::iter(tree).flat_map(tree_objects).map(|message| message.map(Part::Objects));
        let parts = manifest.chain(objects);
        let parts = parts.inspect(move |_| {
            let _kept_until_the_end = &turn;
        });
        let parts = parts.map(|part| part.map(|part| v1::GetImageReply { part: Some(part) }));
        Ok(Response::new(Driven::stream(parts).boxed()))
    }

    type ListImagesStream = Answer<v1::ListImagesReply>;

    async fn list_images(
        &self,
        _request: Request<v1::Empty>,
    ) -> Result<Response<Self::ListImagesStream>, Status> {
        let names = self.images.list().await.map_err(|error| image_status(&error))?;
        let batch = |names: &[ImageName]| v1::ListImagesReply {
            names: names.iter().map(ToString::to_string).collect(),
        };
        let batches: Vec<_> = names.chunks(NAMES).map(|names| Ok(batch(names))).collect();
        Ok(Response::new(stream::iter(batches).boxed()))
    }

    async fn delete_image(&self, request: Request<v1::ImageRequest>) -> Result<Response<v1::Empty>, Status> {
        let name = wire::image_name(&request.get_ref().name)?;
        let caller = caller(&request)?;
        if !may_change(caller, &*self.image(&name).await?) {
            let user = &caller.identity.user;
            tracing::warn!(user, image = %name, "deletion refused");
            return Err(Status::permission_denied(format!(
                "access to method denied: {user:?} neither made nor owns image {name}, and its certificate does not \
                 list ImageServer.DeleteImage"
            )));
        }
        self.images.delete(&name).await.map_err(|error| image_status(&error))?;
        Ok(Response::new(v1::Empty {}))
    }

    async fn get_image_expiration(
        &self,
        request: Request<v1::ImageRequest>,
    ) -> Result<Response<v1::GetImageExpirationReply>, Status> {
        let image = self.image(&wire::image_name(&request.get_ref().name)?).await?;
        Ok(Response::new(v1::GetImageExpirationReply { expires_at: image.expires_at }))
    }
}

impl ImageService {
    /// Serves `images`; `clock` dates those that are added.
    pub(super) fn new(images: Arc<dyn ImageStore>, clock: fn() -> SystemTime) -> Self {
        Self { images, clock, turns: Turns::new(limits::TREES_OF_ADDRESS) }
    }

    async fn image(&self, name: &ImageName) -> Result<Arc<Image>, Status> {
        self.images.image(name).await.map_err(|error| image_status(&error))
    }
}

fn caller<T>(request: &Request<T>) -> Result<&Caller, Status> {
    // INVARIANT: the door puts a caller into every request it lets pass.
    request.extensions().get::<Caller>().ok_or_else(|| Status::unauthenticated("nobody is calling"))
}

/// Whether a caller may change or delete an image: by the method list, as its maker, or as an owner.
fn may_change(caller: &Caller, image: &Image) -> bool {
    let identity = &caller.identity;
    caller.decision == Decision::Listed
        || image.created_by == identity.user
        || image.owner_users.contains(&identity.user)
        || image.owner_groups.iter().any(|group| identity.groups.contains(group))
}

async fn new_image(mut parts: Streaming<v1::AddImageRequest>) -> Result<(ImageName, Image), Status> {
    let Some(v1::AddImageRequest { part: Some(AddPart::Name(name)) }) = next(&mut parts).await? else {
        return Err(invalid("an image that does not begin with its name"));
    };
    let name = wire::image_name(&name)?;
    let mut manifest = Collector::new("a manifest", Image::MAX_LEN);
    while let Some(part) = next(&mut parts).await? {
        match part.part {
            Some(AddPart::Manifest(data)) => manifest.push(&data)?,
            Some(AddPart::Name(_)) | None => return Err(invalid("an image with a part out of order")),
        }
    }
    let manifest = manifest.finish();
    let image = wire::decode("the manifest", move || Image::decode(&manifest)).await?;
    Ok((name, image))
}

/// The hard links and directories of a tree.
fn tree_objects(tree: Arc<Snapshot>) -> impl Stream<Item = Result<v1::ObjectPieces, Status>> + Send {
    let ids: Vec<DirectoryId> = tree.directories.iter().map(|(id, _)| *id).collect();
    let links = (tree.tree.links.0, Bytes::from(tree.links.encode()));
    let directories = ids.into_iter().filter_map(move |id| {
        tree.directories.directory(&id).map(|directory| (id.0, directory.encoded().clone()))
    });
    let objects = std::iter::once(links).chain(directories);
    wire::pack_pieces(wire::encodings(stream::iter(objects.map(Ok::<(ObjectId, Bytes), Status>))))
}
