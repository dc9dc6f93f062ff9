use std::sync::Arc;

use dominator_core::object::ObjectId;
use dominator_core::plan::Plan;
use dominator_core::view::View;
use dominator_fs::root::Root;
use dominator_fs::seam::Kernel;
use dominator_fs::update::{UpdateError, Updater};
use dominator_fs_testkit::{Disk, left_out, with_mounts};

use crate::support::*;

/// The page cache has what was written, the disk something else: the one who would see it is the next boot.
#[test]
fn what_the_disk_lost_is_found_before_anything_changes_whatever_the_page_cache_has() {
    let name = "what_the_disk_lost_is_found_before_anything_changes_whatever_the_page_cache_has";
    with_mounts(name, move || {
        let disk = match Disk::new(64 << 20) {
            Ok(disk) => disk,
            Err(why) => return left_out(name, &why),
        };
        let contents = vec![7; 100_000];
        let id = ObjectId::of(&contents);
        let open = || Updater::open(Root::open(&disk.path()).unwrap(), Arc::new(Kernel)).unwrap().0;
        let updater = open();
        let mut intake = updater.objects().intake();
        intake.begin(id, contents.len() as u64).unwrap();
        intake.data(&contents).unwrap();
        intake.finish().unwrap();
        drop(updater);
        disk.forget();
        let object = format!("/.subd/objects/{id}");
        let at = disk.path().join(object.trim_start_matches('/'));
        let place = disk.place_of(&object, 20);
        assert_eq!(std::fs::read(&at).unwrap(), contents);
        disk.flip(place);
        assert_eq!(std::fs::read(&at).unwrap(), contents, "the page cache has what it had");
        let mut updater = open();
        let plan = Plan { operations: vec![put("/new", file(0o644, &contents))] };
        let error = updater.apply(&plan, &View::everything()).unwrap_err();
        assert!(matches!(error, UpdateError::Corrupt { id: corrupt } if corrupt == id), "{error:?}");
        assert!(!disk.path().join("new").exists());
        assert_eq!(updater.objects().size(&id).unwrap(), None, "it is fetched again");
    });
}
