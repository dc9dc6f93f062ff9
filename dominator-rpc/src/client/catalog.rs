use std::time::Duration;

use dominator_core::catalog::{ImageUpdate, Latest, Position, Selection};
use dominator_core::image::ImageName;
use dominator_core::port::{ImageError, ImageUpdates};
use futures_util::{StreamExt as _, stream};
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::{RemoteImages, next, within};
use crate::wire::{self, image_error};
use crate::{limits, v1};

/// How long one call waits for an image. Shorter than connections get old, so that none is cut off for it.
const WAIT: Duration = Duration::from_secs(300);

/// Waits for an image, one call after another.
pub(super) async fn appears(images: &RemoteImages, name: &ImageName) -> Result<(), ImageError> {
    loop {
        let began = Instant::now();
        match images.image_within(name, WAIT).await {
            Ok(_) => return Ok(()),
            // A server that answers at once does not know what waiting is.
            Err(ImageError::NotFound { .. }) if began.elapsed() < WAIT / 2 => {
                return Err(ImageError::Unsupported);
            }
            Err(ImageError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
}

pub(super) async fn select(
    images: &RemoteImages,
    selection: &Selection,
) -> Result<Vec<ImageName>, ImageError> {
    let mut client = images.client.clone();
    let answer = within(limits::CALL, client.list_selected_images(wire::selection(selection))).await;
    let names = match answer {
        Ok(answer) => names(answer.into_inner()).await,
        Err(status) => Err(status),
    };
    names.map_err(|status| image_error("listing images failed", status))
}

/// The names of an answer, which must be no more than there can be.
pub(super) async fn names(mut answer: Streaming<v1::ListImagesReply>) -> Result<Vec<ImageName>, Status> {
    let mut names = Vec::new();
    while let Some(message) = next(&mut answer).await? {
        if names.len() + message.names.len() > limits::IMAGES {
            return Err(Status::resource_exhausted("more images than can be"));
        }
        for name in &message.names {
            names.push(wire::image_name(name)?);
        }
    }
    Ok(names)
}

pub(super) async fn latest(images: &RemoteImages, wanted: &Latest) -> Result<Option<ImageName>, ImageError> {
    let failed = |status| image_error("looking for the latest image failed", status);
    let mut client = images.client.clone();
    let answer = within(limits::CALL, client.find_latest_image(wire::latest(wanted))).await;
    let name = answer.map_err(failed)?.into_inner().name;
    name.map(|name| wire::image_name(&name)).transpose().map_err(failed)
}

pub(super) async fn updates(
    images: &RemoteImages,
    selection: &Selection,
    from: Option<Position>,
) -> Result<ImageUpdates, ImageError> {
    let failed = |status| image_error("following the images failed", status);
    let mut client = images.client.clone();
    let from = from.map(wire::position);
    let answer = if *selection == Selection::default() {
        within(limits::CALL, client.get_image_updates(v1::GetImageUpdatesRequest { from })).await
    } else {
        let selection = Some(wire::selection(selection));
        let request = v1::GetFilteredImageUpdatesRequest { from, selection };
        within(limits::CALL, client.get_filtered_image_updates(request)).await
    };
    // It may be silent for as long as nothing happens: that the server is there is seen below the calls.
    let messages = answer.map_err(failed)?.into_inner();
    let updates = messages.flat_map(move |message| stream::iter(parsed(message)));
    Ok(ImageUpdates::new(updates.map(move |update| update.map_err(failed))))
}

/// The updates in a message, up to the first that is none.
fn parsed(message: Result<v1::ImageUpdates, Status>) -> Vec<Result<ImageUpdate, Status>> {
    match message {
        Ok(message) => message.updates.into_iter().map(wire::update_from).collect(),
        Err(status) => vec![Err(status)],
    }
}

pub(super) async fn change_expiry(
    images: &RemoteImages,
    name: &ImageName,
    expires_at: Option<u64>,
) -> Result<(), ImageError> {
    let mut client = images.client.clone();
    let request = v1::ChangeImageExpirationRequest { name: name.to_string(), expires_at };
    let answer = within(limits::STALL, client.change_image_expiration(request)).await;
    answer.map(drop).map_err(|status| image_error("changing the expiry failed", status))
}
