use dominator_core::namespace::{BadDirectoryName, BadGroupName, DirectoryName, GroupName, ImageDirectory};
use tonic::Status;

use super::invalid;
use crate::v1;

/// The name of a directory of images.
pub(crate) fn directory_name(name: &str) -> Result<DirectoryName, Status> {
    name.parse().map_err(|error: BadDirectoryName| invalid(error.to_string()))
}

/// A group; empty for none.
pub(crate) fn group(group: Option<&GroupName>) -> String {
    group.map(ToString::to_string).unwrap_or_default()
}

/// A group; empty for none.
pub(crate) fn group_from(group: &str) -> Result<Option<GroupName>, Status> {
    let group = (!group.is_empty()).then(|| group.parse()).transpose();
    group.map_err(|error: BadGroupName| invalid(error.to_string()))
}

/// A directory of images.
pub(crate) fn directory(directory: &ImageDirectory) -> v1::ImageDirectory {
    let owner_group = group(directory.owner_group.as_ref());
    v1::ImageDirectory { name: directory.name.to_string(), owner_group }
}

/// A directory of images.
pub(crate) fn directory_from(directory: &v1::ImageDirectory) -> Result<ImageDirectory, Status> {
    let (name, owner_group) = (directory_name(&directory.name)?, group_from(&directory.owner_group)?);
    Ok(ImageDirectory { name, owner_group })
}
