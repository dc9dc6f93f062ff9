mod replication;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dominator_core::auth::Role;
use dominator_core::catalog::{ExpiryChange, Latest, Position, Selection};
use dominator_core::image::{Image, ImageName, ImageState};
use dominator_core::namespace::{DirectoryName, GroupName, ImageDirectory};
use dominator_core::object::ObjectId;
use dominator_core::port::{
    Cause, Collected, ImageError, ImageStore, ImageUpdates, ObjectStatistics, Parents, Share, Unreferenced,
};
use dominator_core::tree::{Directory, DirectoryId, DirectoryMap, LinkSets, Snapshot};
use futures_util::{Stream, stream};
use tonic::Status;

use super::{catalog, next, within};
use crate::transport::{Channel, Tls, connect, connect_lazily};
use crate::v1::add_image_request::Part as AddPart;
use crate::v1::get_image_reply::Part;
use crate::v1::image_server_client::ImageServerClient;
use crate::wire::{self, Assembler, Collector, Sequence, image_error};
use crate::{limits, v1};

const GETTING: &str = "getting the image failed";

/// A store of images elsewhere. Trees that come from it are verified: complete, well-formed, and what the manifest
/// names.
#[derive(Clone, Debug)]
pub struct RemoteImages {
    pub(super) client: ImageServerClient<Channel>,
}

/// An image as it came.
struct Received {
    manifest: Vec<u8>,
    objects: Vec<(ObjectId, Bytes)>,
}

impl RemoteImages {
    /// Connects to the image server at `address`, as in `host:port`.
    ///
    /// # Errors
    /// [`ImageError::Unreachable`], with the reason.
    pub async fn connect(tls: &Tls, address: &str) -> Result<Self, ImageError> {
        let channel = connect(tls, address, Role::ImageServer).await;
        let channel = channel.map_err(|error| ImageError::Unreachable(Cause::new(error)))?;
        Ok(Self::over(channel))
    }

    /// The image server at `address`, to which the first call connects: for those who can wait for it.
    pub fn lazy(tls: &Tls, address: &str) -> Self {
        Self::over(connect_lazily(tls, address, Role::ImageServer))
    }

    /// Over a connection there is.
    pub(crate) fn over(channel: Channel) -> Self {
        Self { client: ImageServerClient::new(channel).max_decoding_message_size(limits::MESSAGE) }
    }

    /// Whether there is an image of that name.
    ///
    /// # Errors
    /// [`ImageError`] when that could not be found out.
    pub async fn exists(&self, name: &ImageName) -> Result<bool, ImageError> {
        let mut client = self.client.clone();
        let answer = within(limits::CALL, client.check_image(request(name))).await;
        answer.map(|answer| answer.get_ref().exists).map_err(|status| image_error("the check failed", status))
    }

    /// When an image ceases to be, in seconds since 1970; nothing for one that stays.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] when there is none, others when that could not be found out.
    pub async fn expires_at(&self, name: &ImageName) -> Result<Option<u64>, ImageError> {
        let mut client = self.client.clone();
        let answer = within(limits::CALL, client.get_image_expiration(request(name))).await;
        let answer = answer.map_err(|status| image_error("getting the expiry failed", status))?;
        Ok(answer.get_ref().expires_at)
    }

    /// The manifest of an image, for which the server waits so long where there is none.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] when there was none for so long.
    pub async fn image_within(&self, name: &ImageName, wait: Duration) -> Result<Arc<Image>, ImageError> {
        let received = within(wait + limits::ORDER, self.receive_all(name, false, wait)).await;
        decoded(received.map_err(|status| image_error(GETTING, status))?).await
    }

    /// Whole, or not at all: a server that never ends is left.
    async fn receive(&self, name: &ImageName, with_tree: bool) -> Result<Received, Status> {
        within(limits::ORDER, self.receive_all(name, with_tree, Duration::ZERO)).await
    }

    async fn receive_all(
        &self,
        name: &ImageName,
        with_tree: bool,
        wait: Duration,
    ) -> Result<Received, Status> {
        let mut client = self.client.clone();
        let wait_millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let request = v1::GetImageRequest { name: name.to_string(), with_tree, wait_millis };
        let mut answer = within(wait + limits::STALL, client.get_image(request)).await?.into_inner();
        let mut manifest = Collector::new("a manifest", Image::MAX_LEN);
        let mut assembler = Assembler::new(Sequence::any(), Directory::MAX_LEN, limits::IMAGE_BYTES);
        let mut objects = Vec::new();
        while let Some(message) = next(&mut answer).await? {
            match message.part {
                Some(Part::Manifest(part)) => manifest.push(&part)?,
                Some(Part::Objects(pieces)) if with_tree => {
                    for piece in wire::unpack(pieces)? {
                        objects.extend(assembler.push(piece).map_err(wire::invalid)?);
                    }
                }
                Some(Part::Objects(_)) | None => return Err(wire::invalid("a part nobody asked for")),
            }
        }
        assembler.end().map_err(wire::invalid)?;
        Ok(Received { manifest: manifest.finish(), objects })
    }
}

#[async_trait]
impl ImageStore for RemoteImages {
    async fn list(&self) -> Result<Vec<ImageName>, ImageError> {
        let failed = |status| image_error("listing images failed", status);
        let mut client = self.client.clone();
        let answer = within(limits::CALL, client.list_images(v1::Empty {})).await.map_err(failed)?;
        catalog::names(answer.into_inner()).await.map_err(failed)
    }

    async fn image(&self, name: &ImageName) -> Result<Arc<Image>, ImageError> {
        let received = self.receive(name, false).await.map_err(|status| image_error(GETTING, status))?;
        decoded(received).await
    }

    async fn tree(&self, name: &ImageName) -> Result<Arc<Snapshot>, ImageError> {
        let received = self.receive(name, true).await.map_err(|status| image_error(GETTING, status))?;
        let built = tokio::task::spawn_blocking(move || build(received)).await;
        built
            .map_err(|error| ImageError::Failed { what: GETTING.into(), cause: Cause::new(error) })?
            .map(Arc::new)
    }

    async fn add(&self, name: &ImageName, image: Image) -> Result<(), ImageError> {
        let parts = manifest_parts(name, &image);
        let mut client = self.client.clone();
        // The server looks for every object of the image first.
        let answer = within(limits::ORDER, client.add_image(parts)).await;
        answer.map(drop).map_err(|status| image_error("adding the image failed", status))
    }

    async fn states(&self, names: &[ImageName]) -> Result<Vec<ImageState>, ImageError> {
        self.states_of(names).await
    }

    async fn delete(&self, name: &ImageName) -> Result<(), ImageError> {
        let mut client = self.client.clone();
        let answer = within(limits::STALL, client.delete_image(request(name))).await;
        answer.map(drop).map_err(|status| image_error("deleting the image failed", status))
    }

    async fn unreferenced(&self) -> Result<Vec<Unreferenced>, ImageError> {
        self.list_unreferenced().await
    }

    async fn collect(&self, share: Share) -> Result<Collected, ImageError> {
        self.delete_unreferenced(share).await
    }

    async fn statistics(&self, names: Vec<ImageName>) -> Result<ObjectStatistics, ImageError> {
        self.object_statistics(&names).await
    }

    async fn select(&self, selection: &Selection) -> Result<Vec<ImageName>, ImageError> {
        catalog::select(self, selection).await
    }

    async fn latest(&self, wanted: &Latest) -> Result<Option<ImageName>, ImageError> {
        catalog::latest(self, wanted).await
    }

    async fn updates(
        &self,
        selection: &Selection,
        from: Option<Position>,
    ) -> Result<ImageUpdates, ImageError> {
        catalog::updates(self, selection, from).await
    }

    async fn appears(&self, name: &ImageName) -> Result<(), ImageError> {
        catalog::appears(self, name).await
    }

    async fn change_expiry(&self, name: &ImageName, change: &ExpiryChange) -> Result<(), ImageError> {
        catalog::change_expiry(self, name, change.to).await
    }

    async fn directories(&self) -> Result<Vec<ImageDirectory>, ImageError> {
        let failed = |status| image_error("listing directories failed", status);
        let mut client = self.client.clone();
        let answer = within(limits::CALL, client.list_directories(v1::Empty {})).await.map_err(failed)?;
        let (mut answer, mut directories) = (answer.into_inner(), Vec::new());
        while let Some(message) = next(&mut answer).await.map_err(failed)? {
            if directories.len() + message.directories.len() > limits::IMAGES {
                return Err(failed(Status::resource_exhausted("more directories than can be")));
            }
            for directory in &message.directories {
                directories.push(wire::directory_from(directory).map_err(failed)?);
            }
        }
        Ok(directories)
    }

    async fn directory(&self, name: &DirectoryName) -> Result<ImageDirectory, ImageError> {
        let failed = |status| image_error("the check failed", status);
        let mut client = self.client.clone();
        let request = v1::DirectoryRequest { name: name.to_string() };
        let answer = within(limits::CALL, client.check_directory(request)).await.map_err(failed)?;
        match &answer.get_ref().directory {
            Some(directory) => wire::directory_from(directory).map_err(failed),
            None => Err(ImageError::NoDirectory { name: name.clone() }),
        }
    }

    async fn make_directory(&self, name: &DirectoryName, parents: Parents) -> Result<(), ImageError> {
        let mut client = self.client.clone();
        let request = v1::MakeDirectoryRequest { name: name.to_string(), parents: parents == Parents::Made };
        let answer = within(limits::STALL, client.make_directory(request)).await;
        answer.map(drop).map_err(|status| image_error("making the directory failed", status))
    }

    async fn chown_directory(
        &self,
        name: &DirectoryName,
        group: Option<GroupName>,
    ) -> Result<(), ImageError> {
        let mut client = self.client.clone();
        let owner_group = wire::group(group.as_ref());
        let request = v1::ChownDirectoryRequest { name: name.to_string(), owner_group };
        let answer = within(limits::STALL, client.chown_directory(request)).await;
        answer.map(drop).map_err(|status| image_error("giving the directory to a group failed", status))
    }

    async fn delete_directory(&self, name: &DirectoryName) -> Result<(), ImageError> {
        let mut client = self.client.clone();
        let request = v1::DirectoryRequest { name: name.to_string() };
        let answer = within(limits::STALL, client.delete_directory(request)).await;
        answer.map(drop).map_err(|status| image_error("deleting the directory failed", status))
    }
}

async fn decoded(received: Received) -> Result<Arc<Image>, ImageError> {
    let image = wire::decode("the manifest", move || Image::decode(&received.manifest)).await;
    image.map(Arc::new).map_err(|status| image_error(GETTING, status))
}

fn manifest_parts(name: &ImageName, image: &Image) -> impl Stream<Item = v1::AddImageRequest> + Send + use<> {
    let name = AddPart::Name(name.to_string());
    let manifest = wire::chunks(image.encode()).map(AddPart::Manifest);
    let parts = std::iter::once(name).chain(manifest);
    stream::iter(parts.map(|part| v1::AddImageRequest { part: Some(part) }))
}

fn request(name: &ImageName) -> v1::ImageRequest {
    v1::ImageRequest { name: name.to_string() }
}

/// Joins manifest and objects, whose ids were verified when they came.
fn build(received: Received) -> Result<Snapshot, ImageError> {
    let tree =
        Image::decode(&received.manifest).map_err(|error| ImageError::Malformed(Cause::new(error)))?.tree;
    let malformed = |error| ImageError::Malformed(Cause::new(error));
    let mut links = LinkSets::default();
    let mut directories = DirectoryMap::default();
    for (id, bytes) in received.objects {
        if id == tree.links.0 {
            links = LinkSets::decode(&bytes).map_err(malformed)?;
        } else {
            directories.share(DirectoryId(id), Arc::new(Directory::decode(bytes).map_err(malformed)?));
        }
    }
    let snapshot = Snapshot { tree, links, directories };
    snapshot.verify(limits::IMAGE_INODES).map_err(|error| ImageError::Malformed(Cause::new(error)))?;
    Ok(snapshot)
}
