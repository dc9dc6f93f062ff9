use std::collections::BTreeSet;
use std::sync::Arc;

use crate::image::{Image, ImageName};
use crate::inode::Kind;
use crate::path::ImagePath;
use crate::port::MachineTraits;
use crate::tree::{Snapshot, TreeId};
use crate::view::{View, ViewId};

/// Which image a machine must be, as far as the controller has it.
#[derive(Clone, Debug, Default)]
pub enum Wanted {
    /// The machine data base names none.
    #[default]
    Undefined,
    /// The one named is not here, for the reason given.
    NotReady(ImageName, String),
    /// The one named.
    Ready(ImageName, Arc<Image>),
}

/// What a machine must be, under the view that suits it.
#[derive(Clone, Debug)]
pub struct Required {
    /// Which image this is.
    pub name: ImageName,
    /// Its manifest.
    pub image: Arc<Image>,
    /// The machine's part in the view.
    pub traits: Arc<MachineTraits>,
    /// The view.
    pub view: View,
    /// The id of the view.
    pub view_id: ViewId,
    /// The image's tree under it.
    pub tree: Snapshot,
    /// The id of that.
    pub tree_id: TreeId,
    /// How many entries that has.
    pub inodes: u64,
    /// Files in view that a generator must make.
    pub computed: BTreeSet<ImagePath>,
}

impl Required {
    /// What a machine of these traits must be. `tree` is the image's own tree. Takes time in proportion to the tree:
    /// keep the result for all machines alike.
    pub fn new(name: ImageName, image: Arc<Image>, tree: &Snapshot, traits: Arc<MachineTraits>) -> Self {
        let view = traits.view(&image, tree);
        let tree = view.apply(tree);
        let (mut inodes, mut computed) = (0, BTreeSet::new());
        tree.walk(|path, inode| {
            inodes += 1;
            if matches!(inode.kind, Kind::Computed { .. }) {
                computed.insert(path.clone());
            }
        });
        let (view_id, tree_id) = (view.id(), tree.id());
        Self { name, image, traits, view, view_id, tree, tree_id, inodes, computed }
    }

    /// Whether only the paths of the image are looked at, and its name is not recorded on the machine.
    pub fn is_sparse(&self) -> bool {
        self.view.only.is_some()
    }

    /// What speaks against an update that adds and deletes so many paths: a machine that loses more than half of what it
    /// has was given the wrong image, or an image that came out wrong.
    pub fn danger(&self, added: u64, deleted: u64) -> Option<String> {
        let has = self.inodes.saturating_add(deleted).saturating_sub(added);
        if self.is_sparse() {
            None
        } else if self.inodes < has / 2 {
            Some(format!("the image has {} inodes, less than half of the machine's {has}", self.inodes))
        } else if deleted > has / 2 {
            Some(format!("{deleted} paths would be deleted, more than half of the machine's {has}"))
        } else {
            None
        }
    }
}
