//! What became of a path from image to image.

use std::io::{self, Write};

use dominator_core::image::ImageName;
use dominator_core::inode::Inode;
use dominator_core::path::ImagePath;
use dominator_core::port::ImageStore;
use dominator_daemon::report::Show;
use dominator_daemon::value::rfc3339_at;
use dominator_daemon::{During, Failure};
use serde::Serialize;

use crate::diff::{ADDED, CHANGED, REMOVED, details};

/// The images in which a path changed, the oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct History {
    path: String,
    /// How many images were looked into.
    images: u64,
    changes: Vec<Change>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Change {
    image: String,
    created_on: String,
    why: &'static str,
    detail: String,
}

/// Looks into the images that stand in the same directory as `name` and are not newer.
///
/// # Errors
/// [`Failure`] when one can't be got.
pub(super) async fn trace(
    images: &dyn ImageStore,
    name: &ImageName,
    path: ImagePath,
) -> Result<History, Failure> {
    let during = |name: &ImageName| format!("can't get {name}");
    let last = images.image(name).await.during(|| during(name))?.created_on;
    let mut stream = Vec::new();
    for other in images.list().await.during(|| "can't list the images".into())? {
        if other.stream() == name.stream() {
            let created = images.image(&other).await.during(|| during(&other))?.created_on;
            // Those of one second are in order of their names.
            if (created, &other) <= (last, name) {
                stream.push((created, other));
            }
        }
    }
    stream.sort();
    let mut history = History { path: path.to_string(), images: stream.len() as u64, changes: Vec::new() };
    let mut before: Option<Inode> = None;
    for (created, image) in stream {
        let now = images.tree(&image).await.during(|| during(&image))?.inode(&path);
        let change = match (&before, &now) {
            (None, Some(new)) => Some((ADDED, new.kind_name().into())),
            (Some(old), None) => Some((REMOVED, old.kind_name().into())),
            (Some(old), Some(new)) if old != new => Some((CHANGED, details(old, new).join(", "))),
            (Some(_), Some(_)) | (None, None) => None,
        };
        let change = change.map(|(why, detail)| Change {
            image: image.to_string(),
            created_on: rfc3339_at(created),
            why,
            detail,
        });
        history.changes.extend(change);
        before = now;
    }
    Ok(history)
}

impl Show for History {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        for Change { image, created_on, why, detail } in &self.changes {
            writeln!(out, "{created_on} {image}: {why} ({detail})")?;
        }
        writeln!(out, "{}: {} changes in {} images", self.path, self.changes.len(), self.images)
    }
}
