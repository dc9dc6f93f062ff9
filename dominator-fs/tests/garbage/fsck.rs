use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;

use dominator_core::object::ObjectId;
use dominator_core::port::{Amount, ImageError};
use dominator_fs::export::ObjectStream;
use dominator_fs::scan::Cancel;
use dominator_fs::store::images::Checked;

use crate::support::{Lab, named, parts, tree};

const ONE: &[(&str, &[u8])] = &[("a", b"alpha"), ("b", b"beta")];
const TWO: &[(&str, &[u8])] = &[("b", b"beta"), ("c", b"gamma")];
const THREADS: NonZeroUsize = NonZeroUsize::new(3).unwrap();

fn filled() -> (tempfile::TempDir, Lab) {
    let dir = tempfile::tempdir().unwrap();
    let lab = Lab::new(dir.path());
    lab.add("one", ONE);
    lab.add("two", TWO);
    lab.put(b"for nobody");
    (dir, lab)
}

fn check(lab: &Lab, source: Option<&mut dyn ObjectStream>) -> Checked {
    lab.images.fsck(THREADS, &Cancel::default(), source).unwrap()
}

/// Changes one bit of an object, which changes no time that anybody looks at.
fn flip(lab: &Lab, id: &ObjectId) {
    let path = lab.file_of(id);
    let mut bytes = fs::read(&path).unwrap();
    bytes[0] ^= 0x10;
    fs::write(&path, bytes).unwrap();
}

#[test]
fn a_sound_store_is_called_so() {
    let (_dir, lab) = filled();
    let checked = check(&lab, None);
    let totals = lab.objects().totals();
    assert!(checked.is_sound() && checked.damaged.is_empty() && checked.healed.is_empty());
    assert_eq!(checked.sound, Amount { objects: totals.objects, bytes: totals.bytes });
}

#[test]
fn each_damaged_object_is_moved_aside_told_of_with_its_images_and_comes_back_from_elsewhere() {
    let all: BTreeMap<ObjectId, Vec<&str>> =
        [("one", ONE), ("two", TWO)].into_iter().fold(BTreeMap::new(), |mut all, (name, files)| {
            for bytes in parts(&tree(files), files) {
                all.entry(ObjectId::of(&bytes)).or_insert_with(Vec::new).push(name);
            }
            all
        });
    assert!(all.len() > 6);
    let (_elsewhere, whole) = filled();
    for (bad, images) in &all {
        let (dir, lab) = filled();
        // It was read before, and found to be good.
        lab.objects().read(bad, 1000).unwrap();
        flip(&lab, bad);
        let checked = check(&lab, None);
        assert_eq!(checked.damaged, [*bad]);
        assert!(!checked.is_sound());
        let names: Vec<_> = images.iter().map(|name| named(name)).collect();
        assert_eq!(checked.missing.get(bad), Some(&names), "{bad}");
        assert!(lab.objects().read(bad, 1000).is_err(), "it is not handed out");
        let aside: Vec<_> = fs::read_dir(dir.path().join("objects/quarantine")).unwrap().collect();
        assert_eq!(aside.len(), 1);
        let mut source = whole.objects();
        let healed = check(&lab, Some(&mut source));
        assert!(healed.is_sound() && healed.healed == [*bad], "{healed:?}");
        assert!(lab.is_whole("one", ONE) && lab.is_whole("two", TWO));
    }
}

#[test]
fn a_store_that_lost_everything_but_its_manifests_gets_it_all_back() {
    let (dir, lab) = filled();
    let (_elsewhere, whole) = filled();
    for shard in (0..=255_u8).map(|shard| dir.path().join(format!("objects/{shard:02x}"))) {
        fs::read_dir(shard).unwrap().for_each(|entry| fs::remove_file(entry.unwrap().path()).unwrap());
    }
    drop(lab);
    let lab = Lab::new(dir.path());
    let mut source = whole.objects();
    let checked = check(&lab, Some(&mut source));
    assert!(checked.is_sound(), "{checked:?}");
    assert!(lab.is_whole("one", ONE) && lab.is_whole("two", TWO) && !lab.is_there(b"for nobody"));
}

#[test]
fn what_nobody_needs_is_damaged_all_the_same_and_missed_by_nobody() {
    let (_dir, lab) = filled();
    let id = ObjectId::of(b"for nobody");
    flip(&lab, &id);
    let checked = check(&lab, None);
    assert_eq!(checked.damaged, [id]);
    assert!(checked.is_sound());
}

#[test]
fn an_image_that_can_not_be_read_is_told_of_and_the_others_are_checked() {
    let (dir, lab) = filled();
    drop(lab);
    fs::write(dir.path().join("images/one"), b"not any more").unwrap();
    let lab = Lab::new(dir.path());
    flip(&lab, &ObjectId::of(b"gamma"));
    let checked = check(&lab, None);
    let unknown: Vec<_> = checked.unknown.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(unknown, [named("one")]);
    assert_eq!(checked.missing.into_keys().collect::<Vec<_>>(), [ObjectId::of(b"gamma")]);
    let cancel = Cancel::default();
    cancel.cancel();
    assert!(matches!(lab.images.fsck(THREADS, &cancel, None), Err(ImageError::Failed { .. })));
}
