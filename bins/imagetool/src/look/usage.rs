//! How much room an image takes on a disk.

use std::collections::HashSet;
use std::io::{self, Write};

use dominator_core::image::ImageName;
use dominator_core::inode::Kind;
use dominator_core::path::ImagePath;
use dominator_core::tree::{Directories as _, Snapshot};
use dominator_daemon::report::Show;
use dominator_daemon::value::HumanBytes;
use serde::Serialize;

/// An estimate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Usage {
    image: String,
    /// In bytes.
    block_size: u64,
    /// Several names of one count once.
    inodes: u64,
    /// The length of all files, in bytes.
    file_bytes: u64,
    /// What the blocks for all of it take, in bytes.
    allocated_bytes: u64,
}

/// A symbolic link shorter than this needs no block of its own, in ext4 and others.
const INLINE_TARGET: usize = 60;

impl Usage {
    pub(super) fn of(name: &ImageName, tree: &Snapshot, block_size: u64) -> Self {
        let further: HashSet<&ImagePath> = tree.links.iter().flat_map(|set| set.iter().skip(1)).collect();
        let mut usage =
            Self { image: name.to_string(), block_size, inodes: 0, file_bytes: 0, allocated_bytes: 0 };
        tree.walk(|path, inode| {
            if further.contains(path) {
                return;
            }
            usage.inodes += 1;
            let length = match &inode.kind {
                Kind::Regular { size, .. } => {
                    usage.file_bytes = usage.file_bytes.saturating_add(*size);
                    *size
                }
                Kind::Symlink { target } if target.len() >= INLINE_TARGET => target.len() as u64,
                Kind::Directory { id } => {
                    let directory = tree.directories.directory(id);
                    // A name, its length, its kind and a number: 8 bytes and the name, in fours.
                    let entry = |name: &[u8]| (8 + name.len() as u64).next_multiple_of(4);
                    directory.map_or(0, |all| all.iter().map(|one| entry(one.name())).sum::<u64>()).max(1)
                }
                Kind::Symlink { .. } | Kind::Computed { .. } | Kind::BlockDevice { .. } => 0,
                Kind::CharDevice { .. } | Kind::Fifo { .. } | Kind::Unknown { .. } | _ => 0,
            };
            let blocks = length.div_ceil(block_size);
            usage.allocated_bytes = usage.allocated_bytes.saturating_add(blocks.saturating_mul(block_size));
        });
        usage
    }
}

impl Show for Usage {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { image, block_size, inodes, file_bytes, allocated_bytes } = self;
        let (files, all) = (HumanBytes(*file_bytes), HumanBytes(*allocated_bytes));
        writeln!(
            out,
            "{image}: {inodes} inodes, files of {files}, about {all} in blocks of {block_size} bytes"
        )
    }
}
