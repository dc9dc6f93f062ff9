//! What a tree must hold before it may be an image of a whole machine.

use dominator_core::filter::Filter;
use dominator_core::image::ImageName;
use dominator_core::path::ImagePath;
use dominator_core::tree::Snapshot;
use dominator_daemon::Failure;

/// What every machine has, with the kind it must be: an image without them is a mistake that would empty the fleet.
const REQUIRED: [(&str, &str); 4] =
    [("/etc", "directory"), ("/etc/passwd", "file"), ("/usr", "directory"), ("/usr/bin", "directory")];

/// The required paths that `tree` lacks, or has as something else.
pub(crate) fn lacking(tree: &Snapshot) -> Vec<&'static str> {
    let lacks =
        |path: &str, kind: &str| tree.inode(&parsed(path)).is_none_or(|inode| inode.kind_name() != kind);
    REQUIRED.iter().filter(|(path, kind)| lacks(path, kind)).map(|(path, _)| *path).collect()
}

/// The required paths that `filter` leaves out of images, by themselves or with a directory they are in.
pub(crate) fn hidden(filter: &Filter) -> Vec<&'static str> {
    let is_hidden = |path: &str| {
        let way = std::iter::successors(Some(parsed(path)), ImagePath::parent);
        way.filter(|at| !at.is_root()).any(|at| filter.matches(&at))
    };
    REQUIRED.iter().map(|(path, _)| *path).filter(|path| is_hidden(path)).collect()
}

/// Refuses a tree without them.
///
/// # Errors
/// [`Failure`], naming what is missing.
pub(crate) fn refuse(name: &ImageName, tree: &Snapshot) -> Result<(), Failure> {
    let lacking = lacking(tree);
    if lacking.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{name} lacks {}, which every machine needs; if that is meant, say --no-required-paths",
        lacking.join(", ")
    )))
}

fn parsed(path: &str) -> ImagePath {
    ImagePath::parse(path.as_bytes()).expect("invariant: the required paths are in normal form")
}
