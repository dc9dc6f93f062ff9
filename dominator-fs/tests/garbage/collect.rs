use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use dominator_core::garbage::Thresholds;
use dominator_core::image::Document;
use dominator_core::object::ObjectId;
use dominator_core::port::{Amount, Chain, ImageError};
use dominator_fs::store::images::ImageStore;
use dominator_fs::store::objects::Afterwards;
use dominator_fs_testkit::{Call, CallKind, Tap, Tapped};

use crate::support::{KEEP, Lab, files, image, named, parts, tree};

const ONE: &[(&str, &[u8])] = &[("a", b"alpha"), ("b", b"beta")];
const TWO: &[(&str, &[u8])] = &[("b", b"beta"), ("c", b"gamma")];

#[test]
fn what_an_image_needs_stays_and_the_rest_goes_when_it_is_old() {
    let dir = tempfile::tempdir().unwrap();
    let lab = Lab::new(dir.path());
    lab.add("one", ONE);
    lab.add("two", TWO);
    lab.put(b"for nobody");
    assert_eq!(lab.collect(KEEP), (0, 0), "it is young");
    lab.later(KEEP);
    assert_eq!(lab.collect(KEEP), (1, 10));
    drop(lab.images.delete(&named("one")).unwrap());
    assert_eq!(lab.collect(KEEP), (0, 0), "it was needed until now");
    lab.later(KEEP);
    let waiting: Vec<_> = lab.images.unreferenced().unwrap().iter().map(|object| object.id).collect();
    assert!(waiting.contains(&ObjectId::of(b"alpha")) && waiting.len() == 3, "its directories, too");
    assert_eq!(lab.collect(KEEP).0, 3);
    assert!(lab.is_whole("two", TWO) && !lab.is_there(b"alpha"));
    assert_eq!(lab.objects().totals().objects, files(dir.path()) as u64);
    drop(lab.images.delete(&named("two")).unwrap());
    lab.later(KEEP);
    lab.collect(KEEP);
    assert_eq!((files(dir.path()), lab.objects().totals()), (0, Default::default()));
}

#[test]
fn the_oldest_go_first_and_no_more_than_must() {
    let dir = tempfile::tempdir().unwrap();
    let lab = Lab::new(dir.path());
    lab.add("one", ONE);
    for number in 0..10_u8 {
        lab.put(&[number; 100]);
        lab.later(Duration::from_secs(1));
    }
    lab.later(KEEP);
    let collected = lab.images.collect(KEEP, |all| all / 4).unwrap();
    assert_eq!(collected.removed, Amount { objects: 3, bytes: 300 });
    assert_eq!(collected.left, Amount { objects: 7, bytes: 700 });
    assert!((0..10_u8).all(|number| lab.is_there(&[number; 100]) == (number >= 3)));
    assert_eq!(lab.images.collect(KEEP, |_| 0).unwrap().removed, Amount::default());
    let budget = Thresholds::new(0, 0, Some(500)).unwrap();
    assert_eq!(lab.images.relieve(&budget, KEEP, false).unwrap(), None, "nobody has looked");
    assert_eq!(lab.images.relieve(&budget, KEEP, true).unwrap().unwrap().removed.objects, 2);
    let full = Thresholds::new(100, 100, None).unwrap();
    assert_eq!(lab.images.relieve(&full, KEEP, false).unwrap().unwrap().removed.objects, 5);
    assert!(lab.is_whole("one", ONE));
}

#[test]
fn what_is_uploaded_or_read_or_was_offered_lately_stays() {
    let dir = tempfile::tempdir().unwrap();
    let lab = Lab::new(dir.path());
    for name in ["coming", "found", "held", "looked at", "forgotten"] {
        lab.put(name.as_bytes());
    }
    lab.later(KEEP * 2);
    let mut batch = lab.objects().batch();
    batch.add_bytes(b"coming").unwrap();
    batch.add_bytes(b"quite new").unwrap();
    assert!(batch.has(ObjectId::of(b"found"), 5).unwrap());
    let held = lab.objects().hold([ObjectId::of(b"held")], Afterwards::AsBefore);
    drop(lab.objects().hold([ObjectId::of(b"looked at")], Afterwards::Fresh));
    // An upload may take longer than anything is kept.
    assert_eq!(lab.collect(KEEP), (1, 9));
    lab.later(KEEP * 2);
    assert_eq!(lab.collect(KEEP), (1, 9), "it was looked at, long ago by now");
    drop((batch.finish().unwrap(), held));
    assert_eq!(lab.collect(KEEP), (1, 4), "it was read only, and is as old as it is");
    lab.later(KEEP);
    assert_eq!(lab.collect(KEEP).0, 3);
}

#[test]
fn a_file_with_the_bytes_of_a_directory_hides_nothing_of_what_the_directory_needs() {
    let dir = tempfile::tempdir().unwrap();
    let lab = Lab::new(dir.path());
    let inner = tree(ONE);
    let encodings: Vec<_> = inner.directories.iter().map(|(_, one)| one.encoded().to_vec()).collect();
    let disguised: Vec<(String, &[u8])> =
        encodings.iter().enumerate().map(|(number, bytes)| (format!("{number}"), &bytes[..])).collect();
    let disguised: Vec<(&str, &[u8])> = disguised.iter().map(|(name, bytes)| (&name[..], *bytes)).collect();
    // The one is read before the other, whichever that is.
    lab.add("1", &disguised);
    lab.add("2", ONE);
    lab.add("3", &disguised);
    assert_eq!(lab.collect(Duration::ZERO), (0, 0));
    assert!(lab.is_whole("2", ONE) && lab.is_whole("3", &disguised));
}

#[test]
fn what_an_image_says_of_itself_in_objects_stays_and_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let lab = Lab::new(dir.path());
    let tree = tree(ONE);
    lab.upload(&tree, ONE);
    let mut image = image(&tree);
    image.provenance.release_notes = Some(Document::Object(ObjectId::of(b"what changed")));
    let refused = lab.images.add(&named("one"), &image).unwrap_err();
    assert!(matches!(refused, ImageError::Incomplete { .. }), "{refused}");
    lab.put(b"what changed");
    drop(lab.images.add(&named("one"), &image).unwrap());
    assert_eq!(lab.collect(Duration::ZERO), (0, 0));
    assert!(lab.is_there(b"what changed"));
}

/// What somebody, or a disk, does to a store.
type Damage = fn(&Lab);

#[test]
fn nothing_goes_while_an_image_can_not_be_read() {
    let damages: [(&str, Damage); 4] = [
        ("its manifest is damaged", |lab| fs::write(lab.path.join("images/one"), b"not any more").unwrap()),
        ("a directory is missing", |lab| fs::remove_file(lab.file_of(&directory())).unwrap()),
        ("a directory is damaged", |lab| fs::write(lab.file_of(&directory()), b"not any more").unwrap()),
        ("it can't be opened", |lab| {
            fs::remove_file(lab.path.join("images/one")).unwrap();
            std::os::unix::fs::symlink("two", lab.path.join("images/one")).unwrap();
        }),
    ];
    for (why, damage) in damages {
        let dir = tempfile::tempdir().unwrap();
        let lab = Lab::new(dir.path());
        lab.add("one", ONE);
        lab.add("two", TWO);
        lab.put(b"for nobody");
        drop(lab);
        // Nothing of it is remembered.
        let lab = Lab::new(dir.path());
        damage(&lab);
        let refused = lab.images.collect(Duration::ZERO, |all| all);
        assert!(matches!(&refused, Err(ImageError::Failed { .. })), "{why}: {refused:?}");
        let words = Chain(&refused.unwrap_err()).to_string();
        assert!(words.contains("image one"), "{why}: {words}");
        assert!(lab.is_there(b"alpha") && lab.is_there(b"for nobody"), "{why}");
    }
}

fn directory() -> ObjectId {
    let tree = tree(ONE);
    let etc = tree.directories.iter().find(|(_, directory)| directory.len() == 2);
    etc.unwrap().0.0
}

#[test]
fn statistics_tell_what_images_take_together_and_alone() {
    let dir = tempfile::tempdir().unwrap();
    let lab = Lab::new(dir.path());
    let (one, two) = (lab.add("one", ONE), lab.add("two", TWO));
    let all = |tree, files: &[(&str, &[u8])]| {
        parts(tree, files).iter().fold(Amount::default(), |sum, bytes| sum.and(bytes.len() as u64))
    };
    let statistics = lab.images.statistics(&[named("one")]).unwrap();
    assert_eq!(statistics.needed, all(&one, ONE));
    let shared = one.links.encode().len() as u64 + 4;
    let alone = all(&one, ONE);
    assert_eq!(statistics.alone, Amount { objects: alone.objects - 2, bytes: alone.bytes - shared });
    let both = lab.images.statistics(&[named("one"), named("two")]).unwrap();
    assert_eq!(both.needed, both.alone);
    assert_eq!(both.needed.bytes, alone.bytes + all(&two, TWO).bytes - shared);
    assert!(matches!(lab.images.statistics(&[named("three")]), Err(ImageError::NotFound { .. })));
}

/// Does something when a collection has listed the images, and knows what they need only later.
#[derive(Default)]
struct Meanwhile {
    work: OnceLock<Box<dyn Fn() + Send + Sync>>,
    done: AtomicBool,
}

impl Tap for Meanwhile {
    fn before(&self, call: Call<'_>) -> io::Result<()> {
        let wanted = self.work.get().filter(|_| call.kind() == CallKind::Fsync);
        if let Some(work) = wanted
            && !self.done.swap(true, Ordering::SeqCst)
        {
            work();
        }
        Ok(())
    }
}

/// Calls `work` in the midst of a collection that keeps nothing for its youth.
fn during(work: impl Fn(&ImageStore) + Send + Sync + 'static) -> (tempfile::TempDir, Lab) {
    let dir = tempfile::tempdir().unwrap();
    let tap = Arc::new(Meanwhile::default());
    let lab = Lab::on(dir.path(), Arc::new(Tapped(Arc::clone(&tap))));
    lab.add("two", TWO);
    lab.upload(&tree(ONE), ONE);
    lab.put(b"for nobody");
    let images = lab.images.clone();
    assert!(tap.work.set(Box::new(move || work(&images))).is_ok());
    lab.collect(Duration::ZERO);
    assert!(tap.done.load(Ordering::SeqCst));
    (dir, lab)
}

#[test]
fn an_image_that_is_added_during_a_collection_is_complete() {
    let (_dir, lab) = during(|images| drop(images.add(&named("one"), &image(&tree(ONE))).unwrap()));
    assert!(lab.is_whole("one", ONE) && !lab.is_there(b"for nobody"));
}

#[test]
fn what_is_found_there_for_an_upload_during_a_collection_stays() {
    let (_dir, lab) = during(|images| {
        let mut batch = images.objects().batch();
        assert!(batch.has(ObjectId::of(b"alpha"), 5).unwrap());
        drop(batch.finish().unwrap());
        let read = images.objects().hold([ObjectId::of(b"gamma")], Afterwards::AsBefore);
        drop(read);
    });
    assert!(lab.is_there(b"alpha") && !lab.is_there(b"for nobody"));
}

#[test]
fn an_image_that_is_deleted_during_a_collection_keeps_nothing_from_it() {
    let (_dir, lab) = during(|images| drop(images.delete(&named("two")).unwrap()));
    assert!(!lab.is_there(b"for nobody"));
    lab.collect(Duration::ZERO);
    assert_eq!(files(&lab.path), 0);
}

/// Much is shared between rounds and adders, so that objects become garbage and are needed again all the time.
fn contents(adder: u32, round: u32) -> [String; 3] {
    [format!("shared {}", round % 7), format!("own {adder} {}", round % 3), format!("new {adder} {round}")]
}

fn files_in(contents: &[String; 3]) -> Vec<(&str, &[u8])> {
    ["a", "b", "c"].into_iter().zip(contents.iter().map(String::as_bytes)).collect()
}

/// Adds images until then, deletes every other one, and says how many it were.
fn add_until(lab: &Lab, adder: u32, end: Instant) -> u32 {
    let mut round = 0;
    while Instant::now() < end {
        let (name, contents) = (format!("{adder}/{round}"), contents(adder, round));
        add_again_and_again(lab, &name, &files_in(&contents));
        assert!(lab.is_whole(&name, &files_in(&contents)), "{name}");
        if round % 2 == 1 {
            drop(lab.images.delete(&named(&name)).unwrap());
        }
        round += 1;
    }
    round
}

#[test]
fn adders_and_collectors_at_once_lose_nothing_that_was_acknowledged() {
    let seconds =
        std::env::var("DOMINATOR_GARBAGE_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let dir = tempfile::tempdir().unwrap();
    let (lab, ended) = (&Lab::new(dir.path()), &AtomicBool::new(false));
    let end = Instant::now() + Duration::from_secs(seconds);
    let added: u32 = std::thread::scope(|scope| {
        let adders: Vec<_> =
            (0..4_u32).map(|adder| scope.spawn(move || add_until(lab, adder, end))).collect();
        let collector = scope.spawn(move || {
            // One that finds images deleted again and again gives up.
            let collections = std::iter::repeat_with(|| lab.images.collect(Duration::ZERO, |all| all));
            let collections = collections.take_while(|_| !ended.load(Ordering::SeqCst));
            collections.filter_map(Result::ok).map(|one| one.removed.objects).sum::<u64>()
        });
        let added = adders.into_iter().map(|adder| adder.join().unwrap()).sum();
        ended.store(true, Ordering::SeqCst);
        assert!(collector.join().unwrap() > 0);
        added
    });
    eprintln!("{added} images");
    assert!(added > 10, "only {added} images");
    for name in lab.images.list().unwrap() {
        let (adder, round) = name.as_str().split_once('/').unwrap();
        let contents = contents(adder.parse().unwrap(), round.parse().unwrap());
        assert!(lab.is_whole(name.as_str(), &files_in(&contents)), "{name}");
    }
    lab.collect(Duration::ZERO);
    assert_eq!(lab.objects().totals().objects, files(dir.path()) as u64);
}

/// As a tool does that is told that something is missing, with nothing to keep what it sent for a while.
fn add_again_and_again(lab: &Lab, name: &str, files: &[(&str, &[u8])]) {
    let tree = tree(files);
    loop {
        lab.upload(&tree, files);
        match lab.images.add(&named(name), &image(&tree)) {
            Ok(_durable) => return,
            Err(ImageError::Incomplete { .. }) => {}
            Err(error) => panic!("{name}: {}", Chain(&error)),
        }
    }
}

/// What is done, in order, without what it is done to.
#[derive(Default)]
struct Steps(Mutex<Vec<CallKind>>);

impl Tap for Steps {
    fn before(&self, call: Call<'_>) -> io::Result<()> {
        self.0.lock().unwrap().push(call.kind());
        Ok(())
    }
}

/// Images and objects may lie on two disks, of which one loses more than the other.
#[test]
fn nothing_is_removed_before_it_is_durable_which_images_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let steps = Arc::new(Steps::default());
    let lab = Lab::on(dir.path(), Arc::new(Tapped(Arc::clone(&steps))));
    // Two directories of images, of which one has none any more.
    lab.add("web/one", ONE);
    drop(lab.images.delete(&named("web/one")).unwrap());
    steps.0.lock().unwrap().clear();
    assert!(lab.collect(Duration::ZERO).0 > 3);
    let steps = steps.0.lock().unwrap();
    let first = steps.iter().position(|step| *step == CallKind::Remove).unwrap();
    assert_eq!(steps[..first], [CallKind::Fsync, CallKind::Fsync], "both directories, and nothing else");
}
