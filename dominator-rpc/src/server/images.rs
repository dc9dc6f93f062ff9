mod replication;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use dominator_core::catalog::{ExpiryLimits, Selection};
use dominator_core::image::{Image, ImageName};
use dominator_core::object::ObjectId;
use dominator_core::port::{ImageError, ImageStore};
use dominator_core::tree::{Directories as _, DirectoryId, Snapshot};
use futures_util::{Stream, StreamExt as _, stream};
use tonic::{Request, Response, Status, Streaming};

use super::catalog::{Catalog, in_batches};
use super::driven::Driven;
use super::namespace::Namespace;
use super::turns::Turns;
use super::{Answer, garbage, next, permit};
use crate::auth::{Caller, Gate, Permit};
use crate::v1::add_image_request::Part as AddPart;
use crate::v1::get_image_reply::Part;
use crate::v1::image_server_server::ImageServer;
use crate::wire::{self, Collector, image_status, invalid};
use crate::{limits, v1};

/// A store of images, served.
pub(super) struct ImageService {
    images: Gate<Arc<dyn ImageStore>>,
    catalog: Catalog,
    namespace: Namespace,
    turns: Turns,
}

#[async_trait]
impl ImageServer for ImageService {
    async fn add_image(
        &self,
        request: Request<Streaming<v1::AddImageRequest>>,
    ) -> Result<Response<v1::Empty>, Status> {
        let caller = Caller::of(&request)?.clone();
        let mut parts = request.into_inner();
        let name = new_name(&mut parts).await?;
        let permit = caller.may_image(&name)?;
        let mut image = new_image(parts).await?;
        image.created_by = caller.user().into();
        image.created_on = self.catalog.now();
        self.catalog.check(&name, &image).map_err(|error| image_status(&error))?;
        self.images.open(permit).add(&name, image).await.map_err(|error| image_status(&error))?;
        Ok(Response::new(v1::Empty {}))
    }

    async fn add_image_trusted(
        &self,
        request: Request<Streaming<v1::AddImageRequest>>,
    ) -> Result<Response<v1::Empty>, Status> {
        let caller = Caller::of(&request)?.clone();
        let mut parts = request.into_inner();
        let name = new_name(&mut parts).await?;
        let permit = caller.may_image(&name)?;
        let image = new_image(parts).await?;
        caller.detail(format_args!("made by {:?}", image.created_by));
        self.images.open(permit).add(&name, image).await.map_err(|error| image_status(&error))?;
        Ok(Response::new(v1::Empty {}))
    }

    async fn get_image_states(
        &self,
        request: Request<v1::ImageNames>,
    ) -> Result<Response<v1::ImageStates>, Status> {
        self.states(&request).await
    }

    async fn get_replication_master(
        &self,
        request: Request<v1::Empty>,
    ) -> Result<Response<v1::GetReplicationMasterReply>, Status> {
        self.replication_master(&request)
    }

    async fn accept_deletions(
        &self,
        request: Request<v1::ImageNames>,
    ) -> Result<Response<v1::ImageNames>, Status> {
        self.deletions_accepted(&request)
    }

    async fn check_image(
        &self,
        request: Request<v1::ImageRequest>,
    ) -> Result<Response<v1::CheckImageReply>, Status> {
        let name = wire::image_name(&request.get_ref().name)?;
        let permit = Caller::of(&request)?.may_image(&name)?;
        let exists = match self.images.open(permit).image(&name).await {
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
        let name = wire::image_name(&request.get_ref().name)?;
        let permit = Caller::of(&request)?.may_image(&name)?;
        if request.get_ref().wait_millis > 0 {
            let wait = Duration::from_millis(request.get_ref().wait_millis);
            self.catalog.wait(permit, &name, wait).await?;
        }
        // Not before: who waits takes no turn of others.
        let turn = self.turns.wait(&request).await?;
        let image = self.image(permit, &name).await?;
        let tree = match request.get_ref().with_tree {
            true => Some(self.images.open(permit).tree(&name).await.map_err(|error| image_status(&error))?),
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
        request: Request<v1::Empty>,
    ) -> Result<Response<Self::ListImagesStream>, Status> {
        let names = self.images.open(permit(&request)?).list().await.map_err(|error| image_status(&error))?;
        Ok(Response::new(in_batches(&names)))
    }

    async fn delete_image(&self, request: Request<v1::ImageRequest>) -> Result<Response<v1::Empty>, Status> {
        let name = wire::image_name(&request.get_ref().name)?;
        let caller = Caller::of(&request)?;
        let permit = caller.may_image(&name)?;
        self.namespace.may_change_image(caller, permit, &name).await?;
        self.images.open(permit).delete(&name).await.map_err(|error| image_status(&error))?;
        Ok(Response::new(v1::Empty {}))
    }

    async fn get_image_expiration(
        &self,
        request: Request<v1::ImageRequest>,
    ) -> Result<Response<v1::GetImageExpirationReply>, Status> {
        let name = wire::image_name(&request.get_ref().name)?;
        let image = self.image(Caller::of(&request)?.may_image(&name)?, &name).await?;
        Ok(Response::new(v1::GetImageExpirationReply { expires_at: image.expires_at }))
    }

    async fn change_image_expiration(
        &self,
        request: Request<v1::ChangeImageExpirationRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        let name = wire::image_name(&request.get_ref().name)?;
        let caller = Caller::of(&request)?;
        let permit = caller.may_image(&name)?;
        self.namespace.may_change_image(caller, permit, &name).await?;
        self.catalog.change_expiry(permit, &name, request.get_ref().expires_at).await
    }

    async fn find_latest_image(
        &self,
        request: Request<v1::FindLatestImageRequest>,
    ) -> Result<Response<v1::FindLatestImageReply>, Status> {
        self.catalog.find_latest(permit(&request)?, request.into_inner()).await
    }

    type ListSelectedImagesStream = Answer<v1::ListImagesReply>;

    async fn list_selected_images(
        &self,
        request: Request<v1::ImageSelection>,
    ) -> Result<Response<Self::ListSelectedImagesStream>, Status> {
        self.catalog.select(permit(&request)?, request.into_inner()).await
    }

    type GetImageUpdatesStream = Answer<v1::ImageUpdates>;

    async fn get_image_updates(
        &self,
        request: Request<v1::GetImageUpdatesRequest>,
    ) -> Result<Response<Self::GetImageUpdatesStream>, Status> {
        let from = request.get_ref().from.map(wire::position_from);
        self.catalog.updates(permit(&request)?, &Selection::default(), from).await
    }

    type GetFilteredImageUpdatesStream = Answer<v1::ImageUpdates>;

    async fn get_filtered_image_updates(
        &self,
        request: Request<v1::GetFilteredImageUpdatesRequest>,
    ) -> Result<Response<Self::GetFilteredImageUpdatesStream>, Status> {
        let permit = permit(&request)?;
        let v1::GetFilteredImageUpdatesRequest { from, selection } = request.into_inner();
        let selection = selection.map(wire::selection_from).unwrap_or_default();
        self.catalog.updates(permit, &selection, from.map(wire::position_from)).await
    }

    type ListUnreferencedObjectsStream = Answer<v1::UnreferencedObjects>;

    async fn list_unreferenced_objects(
        &self,
        request: Request<v1::Empty>,
    ) -> Result<Response<Self::ListUnreferencedObjectsStream>, Status> {
        garbage::list(&self.images, &request).await
    }

    async fn delete_unreferenced_objects(
        &self,
        request: Request<v1::DeleteUnreferencedObjectsRequest>,
    ) -> Result<Response<v1::DeleteUnreferencedObjectsReply>, Status> {
        garbage::delete(&self.images, &request).await
    }

    async fn get_object_statistics_for_images(
        &self,
        request: Request<v1::ObjectStatisticsRequest>,
    ) -> Result<Response<v1::ObjectStatistics>, Status> {
        garbage::statistics(&self.images, &request).await
    }

    async fn check_directory(
        &self,
        request: Request<v1::DirectoryRequest>,
    ) -> Result<Response<v1::CheckDirectoryReply>, Status> {
        self.namespace.check(request).await
    }

    async fn chown_directory(
        &self,
        request: Request<v1::ChownDirectoryRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        self.namespace.chown(request).await
    }

    async fn delete_directory(
        &self,
        request: Request<v1::DirectoryRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        self.namespace.delete(request).await
    }

    type ListDirectoriesStream = Answer<v1::ListDirectoriesReply>;

    async fn list_directories(
        &self,
        request: Request<v1::Empty>,
    ) -> Result<Response<Self::ListDirectoriesStream>, Status> {
        self.namespace.list(permit(&request)?).await
    }

    async fn make_directory(
        &self,
        request: Request<v1::MakeDirectoryRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        self.namespace.make(request).await
    }
}

impl ImageService {
    /// Serves `images`; `clock` dates those that are added, and `expiry` is how far off an end may be put.
    pub(super) fn new(images: Arc<dyn ImageStore>, clock: fn() -> SystemTime, expiry: ExpiryLimits) -> Self {
        let catalog = Catalog::new(images.clone(), clock, expiry);
        let namespace = Namespace::new(images.clone());
        Self { images: Gate::new(images), catalog, namespace, turns: Turns::new(limits::TREES_OF_ADDRESS) }
    }

    async fn image(&self, permit: Permit, name: &ImageName) -> Result<Arc<Image>, Status> {
        self.images.open(permit).image(name).await.map_err(|error| image_status(&error))
    }
}

async fn new_name(parts: &mut Streaming<v1::AddImageRequest>) -> Result<ImageName, Status> {
    let Some(v1::AddImageRequest { part: Some(AddPart::Name(name)) }) = next(parts).await? else {
        return Err(invalid("an image that does not begin with its name"));
    };
    wire::image_name(&name)
}

async fn new_image(mut parts: Streaming<v1::AddImageRequest>) -> Result<Image, Status> {
    let mut manifest = Collector::new("a manifest", Image::MAX_LEN);
    while let Some(part) = next(&mut parts).await? {
        match part.part {
            Some(AddPart::Manifest(data)) => manifest.push(&data)?,
            Some(AddPart::Name(_)) | None => return Err(invalid("an image with a part out of order")),
        }
    }
    let manifest = manifest.finish();
    wire::decode("the manifest", move || Image::decode(&manifest)).await
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
