use std::fs;
use std::time::{Duration, Instant};

use dominator_core::object::ObjectId;
use dominator_fs::store::objects::{ObjectStore, Totals};

use crate::support::{KEEP, Lab, files};

fn filled(count: u32) -> (tempfile::TempDir, Lab) {
    let dir = tempfile::tempdir().unwrap();
    let lab = Lab::new(dir.path());
    let mut batch = lab.objects().batch();
    for number in 0..count {
        batch.add_bytes(&number.to_be_bytes()).unwrap();
    }
    drop(batch.finish().unwrap());
    (dir, lab)
}

fn totals(objects: u64, bytes: u64) -> Totals {
    let mut totals = Totals::default();
    (totals.objects, totals.bytes) = (objects, bytes);
    totals
}

#[test]
fn a_sound_index_is_believed_and_no_object_looked_at() {
    let (dir, lab) = filled(3000);
    let first = lab.file_of(&ObjectId::of(&0_u32.to_be_bytes()));
    drop(lab);
    // That shows who looked: no name of its directory has changed.
    fs::write(&first, b"another length").unwrap();
    let lab = Lab::new(dir.path());
    assert_eq!(lab.objects().totals(), totals(3000, 12_000));
    // Whoever looks at the object itself is told the truth, and so is the index.
    assert_eq!(lab.objects().size(&ObjectId::of(&0_u32.to_be_bytes())).unwrap(), Some(14));
    assert_eq!(lab.objects().totals(), totals(3000, 12_010));
}

#[test]
fn what_was_changed_without_the_index_is_found_and_ages_are_kept() {
    let (dir, lab) = filled(500);
    lab.later(KEEP);
    let young = lab.put(b"young");
    let (gone, planted) = (ObjectId::of(&7_u32.to_be_bytes()), ObjectId::of(b"planted"));
    let (gone, planted) = (lab.file_of(&gone), lab.file_of(&planted));
    let clock = lab.clock.load(std::sync::atomic::Ordering::SeqCst);
    drop(lab);
    fs::remove_file(gone).unwrap();
    fs::write(&planted, b"planted").unwrap();
    fs::write(planted.with_file_name("no object"), b"").unwrap();
    let lab = Lab::new(dir.path());
    lab.clock.store(clock, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(lab.objects().totals(), totals(501, 499 * 4 + 5 + 7));
    assert_eq!(lab.collect(KEEP), (500, 499 * 4 + 7), "what was planted is of an old day");
    assert_eq!(lab.objects().size(&young).unwrap(), Some(5));
}

/// What somebody, or a disk, does to the file.
type Damage = fn(&mut Vec<u8>);

#[test]
fn an_index_that_is_lost_or_damaged_is_made_anew() {
    let damages: [(&str, Damage); 4] = [
        ("empty", Vec::clear),
        ("cut short", |bytes| bytes.truncate(bytes.len() / 2)),
        ("flipped", |bytes| *bytes.last_mut().unwrap() ^= 1),
        ("of another version", |bytes| bytes[3] = b'9'),
    ];
    let (dir, mut lab) = filled(100);
    let path = dir.path().join("objects/.index");
    for (why, damage) in damages {
        drop(lab);
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes);
        fs::write(&path, bytes).unwrap();
        lab = Lab::new(dir.path());
        assert_eq!(lab.objects().totals(), totals(100, 400), "{why}");
    }
    drop(lab);
    fs::remove_file(&path).unwrap();
    assert_eq!(Lab::new(dir.path()).objects().totals(), totals(100, 400), "lost");
}

#[test]
fn an_object_that_vanished_is_not_said_to_be_there() {
    let (_dir, lab) = filled(2);
    let id = ObjectId::of(&1_u32.to_be_bytes());
    fs::remove_file(lab.file_of(&id)).unwrap();
    assert_eq!(lab.objects().totals(), totals(2, 8));
    assert_eq!(lab.objects().size(&id).unwrap(), None);
    assert_eq!(lab.objects().totals(), totals(1, 4));
    fs::remove_file(lab.file_of(&ObjectId::of(&0_u32.to_be_bytes()))).unwrap();
    lab.later(KEEP);
    assert_eq!(lab.collect(KEEP), (0, 0), "it had gone before");
    assert_eq!(lab.objects().totals(), Totals::default());
}

#[test]
fn what_goes_bad_leaves_the_index_with_the_store() {
    let (_dir, lab) = filled(1);
    let id = ObjectId::of(&0_u32.to_be_bytes());
    fs::write(lab.file_of(&id), b"evil").unwrap();
    assert!(lab.objects().read(&id, 4).is_err());
    assert_eq!(lab.objects().totals(), Totals::default());
}

/// `INDEX_OBJECTS=100000 cargo test -p dominator-fs --test garbage a_start_takes -- --nocapture` measures.
#[test]
fn a_start_takes_no_look_at_each_object() {
    let count = std::env::var("INDEX_OBJECTS").ok().and_then(|text| text.parse().ok()).unwrap_or(5000);
    let (dir, lab) = filled(count);
    drop(lab);
    let path = dir.path().join("objects");
    let start = |what: &str| {
        let begun = Instant::now();
        let store = ObjectStore::open(&path).unwrap();
        let took = begun.elapsed();
        eprintln!("{count} objects, {what}: {took:?}");
        assert_eq!(store.totals().objects, u64::from(count));
        took
    };
    let sound = start("index sound");
    fs::remove_file(path.join(".index")).unwrap();
    start("index lost");
    assert!(sound < Duration::from_secs(2), "{sound:?}");
    assert_eq!(files(dir.path()), count as usize);
}
