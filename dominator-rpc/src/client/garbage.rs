//! What images take, and what a server keeps for nobody.

use dominator_core::image::ImageName;
use dominator_core::port::{Collected, ImageError, ObjectStatistics, Share, Unreferenced};

use super::images::RemoteImages;
use super::{next, within};
use crate::wire::{self, image_error, invalid};
use crate::{limits, v1};

impl RemoteImages {
    pub(super) async fn list_unreferenced(&self) -> Result<Vec<Unreferenced>, ImageError> {
        let failed = |status| image_error("listing objects that no image needs failed", status);
        let mut client = self.client.clone();
        let answer = within(limits::ORDER, client.list_unreferenced_objects(v1::Empty {})).await;
        let (mut answer, mut found) = (answer.map_err(failed)?.into_inner(), Vec::new());
        while let Some(batch) = next(&mut answer).await.map_err(failed)? {
            let ids = wire::ids_from(&batch.ids, limits::IDS).map_err(failed)?;
            if ids.len() != batch.sizes.len() || ids.len() != batch.since.len() {
                return Err(failed(invalid("not as many lengths or times as ids")));
            }
            if found.len() + ids.len() > limits::UNREFERENCED {
                return Err(failed(invalid("more objects than can be")));
            }
            let rest = batch.sizes.into_iter().zip(batch.since);
            found.extend(ids.into_iter().zip(rest).map(|(id, (size, since))| Unreferenced {
                id,
                size,
                since,
            }));
        }
        Ok(found)
    }

    pub(super) async fn delete_unreferenced(&self, share: Share) -> Result<Collected, ImageError> {
        let Share { percent, bytes } = share;
        let request = v1::DeleteUnreferencedObjectsRequest { percent: percent.into(), bytes };
        let mut client = self.client.clone();
        let answer = within(limits::ORDER, client.delete_unreferenced_objects(request)).await;
        let failed = |status| image_error("deleting objects that no image needs failed", status);
        let answer = answer.map_err(failed)?.into_inner();
        Ok(Collected { removed: wire::amount_from(answer.removed), left: wire::amount_from(answer.left) })
    }

    pub(super) async fn object_statistics(
        &self,
        names: &[ImageName],
    ) -> Result<ObjectStatistics, ImageError> {
        let names = names.iter().map(ToString::to_string).collect();
        let mut client = self.client.clone();
        let call = client.get_object_statistics_for_images(v1::ObjectStatisticsRequest { names });
        let failed = |status| image_error("finding out what the images take failed", status);
        let answer = within(limits::ORDER, call).await.map_err(failed)?.into_inner();
        Ok(ObjectStatistics {
            needed: wire::amount_from(answer.needed),
            alone: wire::amount_from(answer.alone),
        })
    }
}
