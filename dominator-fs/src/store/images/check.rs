//! What is asked of an image before it gets a name.

use std::collections::HashMap;

use dominator_core::image::Image;
use dominator_core::inode::{Inode, Kind};
use dominator_core::port::ImageError;
use dominator_core::tree::Snapshot;
use dominator_core::view::View;
use thiserror::Error;

use super::load::{Missing, store_failed};
use super::malformed;
use crate::store::objects::ObjectStore;

/// Checks that a machine can be made what `image` says, with the objects that are here.
///
/// # Errors
/// [`ImageError::Malformed`], [`ImageError::Incomplete`], [`ImageError::Failed`].
pub(super) fn complete(objects: &ObjectStore, image: &Image, tree: &Snapshot) -> Result<(), ImageError> {
    if tree.tree.view != View::everything().id() {
        return Err(malformed(Flaw::View));
    }
    let mut flaw = attributes(image, "/", &tree.tree.root).err();
    for (_, directory) in tree.directories.iter() {
        for entry in directory.iter() {
            let (name, inode) = (entry.to_name().to_string(), entry.inode());
            flaw =
                flaw.or_else(|| plain(&name, &inode).and_then(|()| attributes(image, &name, &inode)).err());
        }
    }
    let computed = |inode: Inode| matches!(inode.kind, Kind::Computed { .. });
    let shared = tree.links.iter().flatten().find(|path| tree.inode(path).is_some_and(computed));
    match flaw.or_else(|| shared.map(|path| Flaw::Shared { path: path.to_string() })) {
        Some(flaw) => Err(malformed(flaw)),
        None => present(objects, image, tree),
    }
}

/// Why an image can be none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
enum Flaw {
    #[error("its tree is not that of everything; take it again without a view")]
    View,
    #[error("{name} {why}; make it readable and take the tree again")]
    Unknown { name: String, why: dominator_core::inode::Why },
    #[error("computed file {path} has other names; it may have only one")]
    Shared { path: String },
    #[error("{name} has the extended attribute {attribute:?}, of a class the image says it does not carry")]
    Attribute { name: String, attribute: String },
    #[error("{name} is said to have {size} bytes, but its object has {actual}")]
    Size { name: String, size: u64, actual: u64 },
}

fn plain(name: &str, inode: &Inode) -> Result<(), Flaw> {
    if let Kind::Unknown { why } = inode.kind {
        Err(Flaw::Unknown { name: name.into(), why })
    } else {
        Ok(())
    }
}

fn attributes(image: &Image, name: &str, inode: &Inode) -> Result<(), Flaw> {
    match inode.xattrs.iter().find(|(attribute, _)| !image.xattrs.covers(attribute)) {
        None => Ok(()),
        Some((attribute, _)) => {
            let attribute = String::from_utf8_lossy(attribute).into_owned();
            Err(Flaw::Attribute { name: name.into(), attribute })
        }
    }
}

fn present(objects: &ObjectStore, image: &Image, tree: &Snapshot) -> Result<(), ImageError> {
    let mut sizes = HashMap::new();
    let mut missing = Missing::default();
    // The tree was read, but not held then.
    let read = tree.directories.iter().map(|(id, _)| id.0).chain([tree.tree.links.0]);
    for id in read.chain(image.documents()) {
        if objects.size(&id).map_err(store_failed)?.is_none() {
            missing.add(id);
        }
    }
    for (_, directory) in tree.directories.iter() {
        for entry in directory.iter() {
            let Some((id, size)) = entry.object() else { continue };
            let actual = match sizes.get(&id) {
                Some(actual) => *actual,
                None => {
                    let actual = objects.size(&id).map_err(store_failed)?;
                    if actual.is_none() {
                        missing.add(id);
                    }
                    sizes.insert(id, actual);
                    actual
                }
            };
            if let Some(actual) = actual.filter(|actual| *actual != size) {
                return Err(malformed(Flaw::Size { name: entry.to_name().to_string(), size, actual }));
            }
        }
    }
    missing.none()
}
