//! A directory of images is there with its owner, or not at all; and once that is said, it stays.

use std::path::Path;
use std::sync::Arc;

use dominator_core::namespace::{DirectoryName, GroupName};
use dominator_core::port::{ImageError, Parents};
use dominator_fs::seam::{Kernel, Seam};
use dominator_fs::store::images::ImageStore;
use dominator_fs::store::objects::ObjectStore;
use dominator_fs_testkit::crash::{Fault, Stage, Sweep, require};

fn opened(root: &Path, objects: &Path, seam: Arc<dyn Seam>) -> ImageStore {
    ImageStore::open_on(&root.join("images"), ObjectStore::open(objects).unwrap(), seam).unwrap()
}

fn group(name: &str) -> Option<GroupName> {
    Some(name.parse().unwrap())
}

fn swept(wrong: Option<Fault>) -> Sweep {
    let (web, new): (DirectoryName, DirectoryName) = ("web".parse().unwrap(), "web/new".parse().unwrap());
    let objects = tempfile::tempdir().unwrap();
    let stage = Stage::new(|root| {
        let images = opened(root, objects.path(), Arc::new(Kernel));
        images.make_directory(&web, Parents::Required).unwrap();
        let _durable = images.chown_directory(&web, group("admins")).unwrap();
    });
    let seam = wrong.map_or_else(|| stage.seam(), |fault| stage.mutant(fault));
    let (recording, ()) = stage.fs.record(|| {
        let images = opened(&stage.root, objects.path(), seam);
        images.make_directory(&new, Parents::Required).unwrap();
        stage.fs.promise("made");
        let _durable = images.chown_directory(&new, group("ops")).unwrap();
        stage.fs.promise("given");
        let _durable = images.delete_directory(&new).unwrap();
        stage.fs.promise("deleted");
    });
    stage.sweep(&recording, |crash| {
        let images = opened(&stage.root, objects.path(), stage.seam());
        let owner = match images.directory(&new) {
            Ok(directory) => directory.owner_group.map_or_else(|| "nobody".to_owned(), |it| it.to_string()),
            Err(ImageError::NoDirectory { .. }) => "absent".to_owned(),
            Err(error) => format!("{error}"),
        };
        let allowed: &[&str] = match crash.promised {
            None => &["absent", "admins"],
            Some("made") => &["admins", "ops"],
            Some("given") => &["ops", "absent"],
            Some(_) => &["absent"],
        };
        require(allowed.contains(&owner.as_str()), || format!("{:?}: {owner}", crash.promised))?;
        let left = stage.fs.world().names("/images/web");
        require(left.iter().all(|name| !name.ends_with('~')), || format!("debris: {left:?}"))?;
        // Whoever tries again is not hindered by what was left.
        images.make_directory(&new, Parents::Made).map_err(|error| error.to_string())
    })
}

#[test]
fn directories_of_images_survive_a_crash_at_any_point() {
    let states = swept(None).clean();
    assert!(states >= 15, "only {states} states");
}

#[test]
fn the_sweep_finds_a_store_of_images_that_waits_for_nothing() {
    for fault in [Fault::NoSync, Fault::NoSyncOfFiles, Fault::NoSyncOfDirectories] {
        swept(Some(fault)).finds(fault);
    }
}
