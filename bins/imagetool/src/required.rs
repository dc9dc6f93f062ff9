//! What a tree must hold before it may be an image of a whole machine.

use dominator_core::path::ImagePath;
use dominator_core::tree::Snapshot;

/// What every machine has, with the kind it must be: an image without them is a mistake that would empty the fleet.
const REQUIRED: [(&str, &str); 4] =
    [("/etc", "directory"), ("/etc/passwd", "file"), ("/usr", "directory"), ("/usr/bin", "directory")];

/// The required paths that `tree` lacks, or has as something else.
pub(crate) fn lacking(tree: &Snapshot) -> Vec<&'static str> {
    let lacks = |(path, kind): &(&str, &str)| {
        let path =
            ImagePath::parse(path.as_bytes()).expect("invariant: the required paths are in normal form");
        tree.inode(&path).is_none_or(|inode| inode.kind_name() != *kind)
    };
    REQUIRED.iter().filter(|required| lacks(required)).map(|(path, _)| *path).collect()
}
