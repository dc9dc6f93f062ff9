//! What image servers that copy each other ask each other, and operators ask them.

use dominator_core::image::{Image, ImageName, ImageState};
use dominator_core::port::{ImageError, ReplicationStatus};

use super::{RemoteImages, manifest_parts};
use crate::client::within;
use crate::wire::{self, image_error};
use crate::{limits, v1};

impl RemoteImages {
    /// Adds an image as it is: with who made it and when, which only somebody who is believed may say. For replicas.
    ///
    /// # Errors
    /// As [`add`](dominator_core::port::ImageStore::add).
    pub async fn add_trusted(&self, name: &ImageName, image: Image) -> Result<(), ImageError> {
        let mut client = self.client.clone();
        let answer = within(limits::ORDER, client.add_image_trusted(manifest_parts(name, &image))).await;
        answer.map(drop).map_err(|status| image_error("adding the image failed", status))
    }

    /// How the server stands to its master, and how many images it holds in all, of which the first thousand are named;
    /// nothing, if it is no replica.
    ///
    /// # Errors
    /// [`ImageError`] when that could not be found out.
    pub async fn replication_master(&self) -> Result<Option<(ReplicationStatus, u64)>, ImageError> {
        let failed = |status| image_error("asking for the master failed", status);
        let mut client = self.client.clone();
        let answer = within(limits::CALL, client.get_replication_master(v1::Empty {})).await;
        wire::replication_status_from(answer.map_err(failed)?.into_inner()).map_err(failed)
    }

    /// Has a replica delete images that its master has lost, when it, asked once more, still does not have them. Returns those
    /// that are not held, or can't be given up.
    ///
    /// # Errors
    /// [`ImageError`] when that could not be said.
    pub async fn accept_deletions(&self, names: &[ImageName]) -> Result<Vec<ImageName>, ImageError> {
        let failed = |status| image_error("accepting deletions failed", status);
        let mut refused = Vec::new();
        for some in names.chunks(limits::NAMES) {
            let mut client = self.client.clone();
            let answer = within(limits::CALL, client.accept_deletions(wire_names(some))).await;
            for name in &answer.map_err(failed)?.into_inner().names {
                refused.push(wire::image_name(name).map_err(failed)?);
            }
        }
        Ok(refused)
    }

    pub(super) async fn states_of(&self, names: &[ImageName]) -> Result<Vec<ImageState>, ImageError> {
        let failed = |status| image_error("asking for images failed", status);
        let mut states = Vec::with_capacity(names.len());
        for some in names.chunks(limits::NAMES) {
            let mut client = self.client.clone();
            let answer = within(limits::CALL, client.get_image_states(wire_names(some))).await;
            let answer = answer.map_err(failed)?.into_inner();
            if answer.states.len() != some.len() {
                return Err(failed(wire::invalid("not as many states as names")));
            }
            for state in answer.states {
                states.push(wire::image_state_from(state).map_err(failed)?);
            }
        }
        Ok(states)
    }
}

fn wire_names(names: &[ImageName]) -> v1::ImageNames {
    v1::ImageNames { names: names.iter().map(ToString::to_string).collect() }
}
