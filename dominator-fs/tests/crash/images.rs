//! When an image ends is what it was or what it was changed to; one that has ended is whole or gone; and once that is said,
//! it stays.

use std::sync::Arc;

use dominator_core::catalog::{ExpiryChange, ExpiryLimits};
use dominator_core::filter::Filter;
use dominator_core::image::Image;
use dominator_core::inode::{Inode, Kind, Mode, Xattrs};
use dominator_core::tree::{Builder, Snapshot};
use dominator_core::trigger::Triggers;
use dominator_core::view::{View, XattrPolicy};
use dominator_fs::seam::{Kernel, Seam};
use dominator_fs::store::images::ImageStore;
use dominator_fs::store::objects::ObjectStore;
use dominator_fs_testkit::crash::{Fault, Stage, Sweep, require};

fn empty_tree() -> Snapshot {
    let kind = Kind::Directory { id: Builder::placeholder() };
    let root = Inode { mode: Mode::from_st_mode(0o755), uid: 0, gid: 0, xattrs: Xattrs::default(), kind };
    Builder::new(root).unwrap().finish(View::everything().id())
}

fn swept(wrong: Option<Fault>) -> Sweep {
    let beside = tempfile::tempdir().unwrap();
    let objects = ObjectStore::open(beside.path()).unwrap();
    let tree = empty_tree();
    let mut batch = objects.batch();
    for bytes in tree.directories.iter().map(|(_, directory)| directory.encoded().to_vec()) {
        batch.add_bytes(&bytes).unwrap();
    }
    batch.add_bytes(&tree.links.encode()).unwrap();
    drop(batch.finish().unwrap());
    let [ends_first, ends_later] = ["a/1", "a/2"].map(|name| name.parse().unwrap());
    let image = Image::new(tree.tree, Filter::Empty, Triggers::default(), XattrPolicy::NONE);
    let open = |root: &std::path::Path, seam: Arc<dyn Seam>| {
        ImageStore::open_on(&root.join("images"), objects.clone(), seam)
    };
    let stage = Stage::new(|root| {
        let images = open(root, Arc::new(Kernel)).unwrap();
        for (name, end) in [(&ends_first, 100), (&ends_later, 200)] {
            drop(images.add(name, &Image { expires_at: Some(end), ..image.clone() }).unwrap());
        }
    });
    let seam = wrong.map_or_else(|| stage.seam(), |fault| stage.mutant(fault));
    let (recording, ()) = stage.fs.record(|| {
        let images = open(&stage.root, seam).unwrap();
        let change =
            ExpiryChange { to: Some(300), now: 50, privileged: false, limits: ExpiryLimits::default() };
        drop(images.change_expiry(&ends_later, &change).unwrap());
        stage.fs.promise("put off");
        assert_eq!(images.expire(100).unwrap(), std::slice::from_ref(&ends_first));
        stage.fs.promise("gone");
    });
    stage.sweep(&recording, |crash| {
        let images = open(&stage.root, stage.seam()).map_err(|error| error.to_string())?;
        let first = images.catalog().get(&ends_first);
        let later = images.catalog().get(&ends_later).ok_or("a/2 is gone")?;
        require(first.is_none() || crash.promised != Some("gone"), || "a/1 is back".into())?;
        require(first.is_none_or(|entry| entry.expires_at == Some(100)), || "a/1 is torn".into())?;
        require(later.expires_at == Some(300) || crash.promised.is_none(), || "a/2 ends too soon".into())?;
        require(matches!(later.expires_at, Some(200 | 300)), || format!("a/2 is torn: {later:?}"))?;
        // Its name is free again, and nothing is in the way.
        let ended = images.expire(100).map_err(|error| error.to_string())?;
        require(ended.len() == usize::from(first_was(&ended, "a/1")), || format!("{ended:?} ended"))?;
        images.add(&ends_first, &image).map(drop).map_err(|error| error.to_string())
    })
}

fn first_was(ended: &[dominator_core::image::ImageName], name: &str) -> bool {
    ended.first().is_some_and(|first| first.as_str() == name)
}

#[test]
fn images_that_end_or_are_to_end_later_survive_a_crash_at_any_point() {
    let states = swept(None).clean();
    assert!(states > 5, "only {states} states");
}

#[test]
fn the_sweep_finds_images_that_come_back() {
    for fault in [Fault::NoSync, Fault::NoSyncOfFiles, Fault::NoSyncOfDirectories] {
        swept(Some(fault)).finds(fault);
    }
}
