//! Files that replace those of an image.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use dominator_core::filter::Filter;
use dominator_core::image::ImageName;
use dominator_core::inode::{Inode, Xattrs};
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::port::{ObjectSource, Pieces, StoreError};
use dominator_core::tree::Snapshot;
use dominator_core::view::XattrPolicy;
use dominator_daemon::{During, Failure};
use dominator_fs::import::Selection;

use super::edit;
use crate::add::{Tree, read_tree};
use crate::source::in_runs;

/// What replaces files, the last one over those before.
pub(super) struct Layers {
    files: Vec<(ImagePath, Inode, XattrPolicy)>,
    sources: Vec<(BTreeSet<ObjectId>, Arc<dyn ObjectSource>)>,
    /// Removed when dropped.
    _spools: Vec<tempfile::TempDir>,
}

/// Reads directories and archives.
///
/// # Errors
/// [`Failure`] when one can't be read, or is empty.
pub(super) async fn read(paths: Vec<PathBuf>) -> Result<Layers, Failure> {
    let work = move || read_blocking(&paths);
    tokio::task::spawn_blocking(work).await.during(|| "the import was broken off".into())?
}

fn read_blocking(paths: &[PathBuf]) -> Result<Layers, Failure> {
    let mut layers = Layers { files: Vec::new(), sources: Vec::new(), _spools: Vec::new() };
    for path in paths {
        let Tree { imported, offers, source, spool, .. } =
            read_tree(path, Selection::from(&Filter::Empty), None)?;
        let before = layers.files.len();
        imported.snapshot.walk(|path, inode| {
            if !inode.is_directory() {
                layers.files.push((path.clone(), inode.clone(), imported.xattrs));
            }
        });
        if layers.files.len() == before {
            return Err(Failure::new(format!("there is no file in {}", path.display())));
        }
        layers.sources.push((offers.into_keys().collect(), source));
        layers._spools.extend(spool);
    }
    Ok(layers)
}

impl Layers {
    /// Those paths that `tree` lacks, or has as directories.
    pub(super) fn strangers(&self, tree: &Snapshot) -> Vec<String> {
        let strange = |path: &ImagePath| tree.inode(path).is_none_or(|inode| inode.is_directory());
        let paths = self.files.iter().map(|(path, ..)| path).filter(|path| strange(path));
        paths.map(ToString::to_string).collect()
    }

    /// The tree of image `name` with these files in it.
    ///
    /// # Errors
    /// [`Failure`] when one of them is none of the image's files.
    pub(super) fn over(&self, name: &ImageName, tree: &Snapshot) -> Result<Snapshot, Failure> {
        let strangers = self.strangers(tree);
        if !strangers.is_empty() {
            let list = strangers.iter().take(20).map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(Failure::new(format!(
                "{} paths are no files of {name}, and can't be replaced in it: {list}",
                strangers.len()
            )));
        }
        let kept = |(path, inode, carried): &(ImagePath, Inode, XattrPolicy)| {
            let before = tree.inode(path).map(|inode| inode.xattrs).unwrap_or_default();
            (path.clone(), Inode { xattrs: both(&before, &inode.xattrs, *carried), ..inode.clone() })
        };
        let files: Vec<_> = self.files.iter().map(kept).collect();
        edit::with(tree, &files).during(|| format!("files of {name} can't be replaced"))
    }

    /// The objects of the layers, and all others from `base`.
    pub(super) fn source(&self, base: Arc<dyn ObjectSource>) -> Arc<dyn ObjectSource> {
        Arc::new(Stacked { layers: self.sources.clone(), base })
    }
}

/// The new attributes, and of the old ones those of which the layer could say nothing: a tar without attributes takes no
/// capability away.
fn both(before: &Xattrs, new: &Xattrs, carried: XattrPolicy) -> Xattrs {
    let mut all = before.retained(|name| !carried.covers(name));
    for (name, value) in new.iter() {
        // They came out of attributes within the limits; both together may exceed them, and then the new ones count.
        if all.insert(name, value).is_err() {
            return new.clone();
        }
    }
    all
}

struct Stacked {
    layers: Vec<(BTreeSet<ObjectId>, Arc<dyn ObjectSource>)>,
    base: Arc<dyn ObjectSource>,
}

#[async_trait]
impl ObjectSource for Stacked {
    async fn objects(&self, wanted: Vec<ObjectId>) -> Result<Pieces, StoreError> {
        let place = |id: &ObjectId| self.layers.iter().position(|(ids, _)| ids.contains(id));
        let source = |place: Option<usize>| {
            let layer = place.and_then(|place| self.layers.get(place));
            Arc::clone(layer.map_or(&self.base, |(_, source)| source))
        };
        Ok(in_runs(wanted, place, source))
    }
}
