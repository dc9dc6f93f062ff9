//! What the stores promise: what was acknowledged is there and is what it was, whatever happened in between.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a test may fail by panicking"
)]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use dominator_core::filter::Filter;
use dominator_core::image::{Document, Image, ImageName, ImageState};
use dominator_core::inode::{Inode, Kind, Mode, Timestamp, Why, Xattrs};
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::port::{ClusterStoreError, ImageError, Revision, StoreError};
use dominator_core::tree::{Builder, Snapshot};
use dominator_core::trigger::Triggers;
use dominator_core::view::{View, XattrPolicy};
use dominator_fs::store::cluster::DirectoryClusterStore;
use dominator_fs::store::images::ImageStore;
use dominator_fs::store::objects::ObjectStore;

fn file_of(store: &Path, id: &ObjectId) -> PathBuf {
    let name = id.to_string();
    store.join(&name[..2]).join(&name[2..])
}

fn add(store: &ObjectStore, bytes: &[u8]) -> ObjectId {
    let id = ObjectId::of(bytes);
    let mut writer = store.begin(id, bytes.len() as u64).unwrap();
    writer.write(bytes).unwrap();
    assert_eq!(writer.finish().unwrap().0.id(), id);
    id
}

/// How many files lie in a directory of the store.
fn count(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

#[test]
fn objects_come_out_as_they_went_in_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(dir.path()).unwrap();
    let contents = [b"".to_vec(), b"x".to_vec(), vec![7; 3_000_000]];
    let ids: Vec<_> = contents.iter().map(|bytes| add(&store, bytes)).collect();
    drop(store);
    let store = ObjectStore::open(dir.path()).unwrap();
    for (id, bytes) in ids.iter().zip(&contents) {
        assert_eq!(store.size(id).unwrap(), Some(bytes.len() as u64));
        assert_eq!(&store.read(id, 4_000_000).unwrap(), bytes);
        assert_eq!(store.map(id).unwrap().as_ref(), bytes);
    }
    let absent = ObjectId::of(b"absent");
    assert_eq!(store.size(&absent).unwrap(), None);
    assert!(matches!(store.open_object(&absent), Err(StoreError::NotFound { id }) if id == absent));
    assert!(matches!(store.read(&ids[2], 1000), Err(StoreError::Protocol(_))));
}

#[test]
fn an_object_found_corrupt_while_it_is_added_again_is_not_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(dir.path()).unwrap();
    let id = add(&store, b"good");
    let mut again = store.begin(id, 4).unwrap();
    again.write(b"good").unwrap();
    fs::write(file_of(dir.path(), &id), b"evil").unwrap();
    assert!(matches!(store.read(&id, 4), Err(StoreError::Corrupt { .. })));
    assert!(matches!(again.finish(), Err(StoreError::Failed { .. })));
    assert_eq!(add(&store, b"good"), id);
    assert_eq!(store.read(&id, 4).unwrap(), b"good");
}

#[test]
fn a_batch_of_thousands_is_kept_whole_and_what_is_here_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(dir.path()).unwrap();
    for _ in 0..2 {
        let mut batch = store.batch();
        for number in 0..2000_u32 {
            batch.add_bytes(&(number / 2).to_be_bytes()).unwrap();
        }
        assert_eq!(batch.finish().unwrap().0.len(), 2000);
    }
    assert!((0..1000_u32).all(|number| store.size(&ObjectId::of(&number.to_be_bytes())).unwrap() == Some(4)));
    assert_eq!(count(&dir.path().join("tmp")), 0);
}

#[test]
fn wrong_bytes_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(dir.path()).unwrap();
    let id = ObjectId::of(b"right");
    let mut longer = store.begin(id, 5).unwrap();
    longer.write(b"righ").unwrap();
    assert!(matches!(longer.write(b"t!"), Err(StoreError::Protocol(_))));
    drop(longer);
    for (bytes, size) in [(&b"wrong"[..], 5), (b"righ", 5), (b"right", 6)] {
        let mut writer = store.begin(id, size).unwrap();
        writer.write(bytes).unwrap();
        assert!(matches!(writer.finish(), Err(StoreError::Corrupt { .. })), "{bytes:?}");
    }
    let mut batch = store.batch();
    let mut wrong = batch.begin(id, 5).unwrap();
    wrong.write(b"wrong").unwrap();
    assert!(batch.add(wrong).is_err());
    let other = batch.add_bytes(b"other").unwrap();
    assert_eq!(batch.finish().unwrap().0.len(), 1);
    assert_eq!((store.size(&id).unwrap(), store.size(&other).unwrap()), (None, Some(5)));
    assert_eq!(count(&dir.path().join("tmp")), 0);
}

#[test]
fn bytes_are_checked_even_for_an_object_that_is_here() {
    let dir = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(dir.path()).unwrap();
    let id = add(&store, b"right");
    let mut writer = store.begin(id, 5).unwrap();
    writer.write(b"wrong").unwrap();
    assert!(matches!(writer.finish(), Err(StoreError::Corrupt { .. })));
    assert_eq!(store.read(&id, 5).unwrap(), b"right");
}

#[test]
fn an_object_that_went_bad_is_never_handed_out_and_can_be_added_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(dir.path()).unwrap();
    let good = vec![b'g'; 300_000];
    let id = ObjectId::of(&good);
    let flipped = [&good[..299_999], b"b"].concat();
    let reads: [fn(&ObjectStore, &ObjectId) -> StoreError; 3] = [
        |store, id| store.read(id, 1_000_000).unwrap_err(),
        |store, id| store.map(id).unwrap_err(),
        |store, id| {
            let mut object = store.open_object(id).unwrap();
            let mut bytes = vec![0; usize::try_from(object.size()).unwrap()];
            let error = object.read_exact(&mut bytes).unwrap_err();
            assert!(object.read(&mut bytes).is_err(), "it stays corrupt");
            error.downcast().unwrap()
        },
    ];
    for (number, read) in reads.iter().enumerate() {
        for (part, bad) in [&flipped[..], &good[..1000]].into_iter().enumerate() {
            assert_eq!(add(&store, &good), id);
            fs::write(file_of(dir.path(), &id), bad).unwrap();
            assert!(matches!(read(&store, &id), StoreError::Corrupt { .. }), "read {number}");
            assert_eq!(store.size(&id).unwrap(), None, "read {number}");
            assert_eq!(count(&dir.path().join("quarantine")), 2 * number + part + 1);
        }
    }
}

#[test]
fn an_object_cut_short_on_the_disk_is_replaced_when_it_is_added_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(dir.path()).unwrap();
    let id = add(&store, b"whole");
    fs::write(file_of(dir.path(), &id), b"wh").unwrap();
    assert_eq!(add(&store, b"whole"), id);
    assert_eq!(store.read(&id, 5).unwrap(), b"whole");
}

#[test]
fn threads_may_add_the_same_object_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(dir.path()).unwrap();
    let barrier = std::sync::Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for round in 0..20_u8 {
                    barrier.wait();
                    add(&store, &[round; 1000]);
                }
            });
        }
    });
    assert!((0..20_u8).all(|round| store.read(&ObjectId::of(&[round; 1000]), 1000).is_ok()));
    assert_eq!((count(&dir.path().join("tmp")), count(&dir.path().join("quarantine"))), (0, 0));
}

#[test]
fn a_store_has_one_process_and_forgets_what_a_dead_one_left_unfinished() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("objects");
    let store = ObjectStore::open(&path).unwrap();
    assert!(matches!(ObjectStore::open(&path), Err(StoreError::Failed { .. })));
    drop(store);
    fs::write(path.join("tmp/12"), b"half an obj").unwrap();
    let store = ObjectStore::open(&path).unwrap();
    assert_eq!(count(&path.join("tmp")), 0);
    assert!(add(&store, b"x") == ObjectId::of(b"x"));
    assert!(ObjectStore::open(&dir.path().join("no/such/parent")).is_err());
}

#[test]
fn a_symbolic_link_in_the_store_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(dir.path()).unwrap();
    let id = ObjectId::of(b"secret");
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::write(&outside, b"secret").unwrap();
    std::os::unix::fs::symlink(outside.path(), file_of(dir.path(), &id)).unwrap();
    assert!(matches!(store.open_object(&id), Err(StoreError::Failed { .. })));
}

struct Images {
    dir: tempfile::TempDir,
    images: ImageStore,
}

impl Images {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let objects = ObjectStore::open(&dir.path().join("objects")).unwrap();
        let images = ImageStore::open(&dir.path().join("images"), objects).unwrap();
        Self { dir, images }
    }

    fn reopened(self) -> Self {
        let Self { dir, images } = self;
        drop(images);
        let objects = ObjectStore::open(&dir.path().join("objects")).unwrap();
        let images = ImageStore::open(&dir.path().join("images"), objects).unwrap();
        Self { dir, images }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("images").join(name)
    }

    /// Everything the tree needs but what `keep` says to leave out.
    fn store(&self, tree: &Snapshot, keep: impl Fn(&ObjectId) -> bool) {
        let mut batch = self.images.objects().batch();
        let all = tree.directories.iter().map(|(_, directory)| directory.encoded().to_vec());
        for bytes in all.chain([tree.links.encode(), b"contents".to_vec()]) {
            if keep(&ObjectId::of(&bytes)) {
                batch.add_bytes(&bytes).unwrap();
            }
        }
        drop(batch.finish().unwrap());
    }
}

fn path(text: &str) -> ImagePath {
    ImagePath::parse(text.as_bytes()).unwrap()
}

fn name(text: &str) -> ImageName {
    text.parse().unwrap()
}

fn inode(kind: Kind) -> Inode {
    Inode { mode: Mode::from_st_mode(0o644), uid: 0, gid: 0, xattrs: Xattrs::default(), kind }
}

fn regular(size: u64) -> Inode {
    inode(Kind::Regular { mtime: Timestamp::default(), size, object: ObjectId::of(b"contents") })
}

fn builder() -> Builder {
    let directory = || inode(Kind::Directory { id: Builder::placeholder() });
    let mut builder = Builder::new(directory()).unwrap();
    builder.insert(&path("/etc"), directory()).unwrap();
    builder.insert(&path("/etc/file"), regular(8)).unwrap();
    builder.link(&path("/etc/link"), &path("/etc/file")).unwrap();
    builder
}

fn tree() -> Snapshot {
    builder().finish(View::everything().id())
}

fn image(tree: &Snapshot) -> Image {
    Image::new(tree.tree.clone(), Filter::Empty, Triggers::default(), XattrPolicy::NONE)
}

#[test]
fn images_come_out_as_they_went_in_also_after_a_restart() {
    let mut store = Images::new();
    let tree = tree();
    store.store(&tree, |_| true);
    let image = image(&tree);
    for text in ["web/2", "web/1", "base", "a/b/c/d"] {
        drop(store.images.add(&name(text), &image).unwrap());
    }
    for _ in 0..2 {
        assert_eq!(store.images.list().unwrap(), ["a/b/c/d", "base", "web/1", "web/2"].map(name));
        assert_eq!(*store.images.image(&name("web/1")).unwrap(), image);
        assert_eq!(store.images.tree(&name("web/1")).unwrap().id(), tree.id());
        let missing = store.images.image(&name("web/3"));
        assert!(matches!(missing, Err(ImageError::NotFound { .. })));
        assert!(matches!(store.images.image(&name("web")), Err(ImageError::NotFound { .. })));
        assert!(matches!(store.images.image(&name("base/below")), Err(ImageError::NotFound { .. })));
        store = store.reopened();
    }
}

#[test]
fn a_name_is_used_once_and_never_again() {
    let mut store = Images::new();
    let tree = tree();
    store.store(&tree, |_| true);
    let (image, web) = (image(&tree), name("web/1"));
    drop(store.images.add(&web, &image).unwrap());
    assert!(matches!(store.images.add(&web, &image), Err(ImageError::Exists { .. })));
    drop(store.images.image(&web).unwrap());
    drop(store.images.delete(&web).unwrap());
    for _ in 0..2 {
        assert!(matches!(store.images.add(&web, &image), Err(ImageError::Deleted { .. })));
        assert!(matches!(store.images.image(&web), Err(ImageError::Deleted { .. })));
        assert!(matches!(store.images.delete(&web), Err(ImageError::Deleted { .. })));
        let was = ImageState::Deleted { was: Some(image.lasting_id()) };
        assert_eq!(store.images.state(&web).unwrap(), was, "a replica deletes this image and no other");
        assert_eq!(store.images.list().unwrap(), []);
        store = store.reopened();
    }
    assert!(matches!(store.images.delete(&name("none")), Err(ImageError::NotFound { .. })));
}

#[test]
fn an_image_is_replaced_by_itself_with_other_owners_or_when_it_was_to_expire() {
    let (mut store, tree) = (Images::new(), tree());
    store.store(&tree, |_| true);
    let (plain, web) = (image(&tree), name("web/1"));
    let ending = Image { expires_at: Some(1), ..plain.clone() };
    let other = Image { created_by: "mallory".into(), ..plain.clone() };
    assert!(matches!(store.images.replace(&web, &plain), Err(ImageError::NotFound { .. })));
    drop(store.images.add(&web, &ending).unwrap());
    for image in [&plain, &ending, &other] {
        drop(store.images.image(&web).unwrap());
        drop(store.images.replace(&web, image).unwrap());
        assert_eq!(*store.images.image(&web).unwrap(), *image, "what was read before is not remembered");
        store = store.reopened();
    }
    assert_eq!(*store.images.image(&web).unwrap(), other);
    assert!(matches!(store.images.replace(&web, &plain), Err(ImageError::Exists { .. })));
}

#[test]
fn a_name_is_not_both_an_image_and_a_directory_of_images() {
    let store = Images::new();
    let tree = tree();
    store.store(&tree, |_| true);
    let image = image(&tree);
    drop(store.images.add(&name("web"), &image).unwrap());
    drop(store.images.add(&name("db/1"), &image).unwrap());
    for text in ["web/1", "db"] {
        let refused = store.images.add(&name(text), &image);
        let Err(ImageError::Failed { cause, .. }) = refused else { panic!("{text}: {refused:?}") };
        assert!(cause.to_string().contains("directory of images"), "{cause}");
    }
    assert_eq!(store.images.list().unwrap(), ["db/1", "web"].map(name));
}

#[test]
fn a_damaged_image_is_an_error_and_not_absent() {
    let store = Images::new();
    let tree = tree();
    store.store(&tree, |_| true);
    let web = name("web/1");
    drop(store.images.add(&web, &image(&tree)).unwrap());
    let sound = fs::read(store.file("web/1")).unwrap();
    let mut store = store.reopened();
    for damage in [&sound[..10], &sound[..sound.len() - 1], &[&sound[1..], b"x"].concat()] {
        fs::write(store.file("web/1"), damage).unwrap();
        let read = store.images.image(&web);
        let Err(ImageError::Failed { what, .. }) = read else { panic!("{read:?}") };
        assert!(what.contains("web/1 is damaged"), "{what}");
        assert_eq!(store.images.list().unwrap(), std::slice::from_ref(&web));
        assert!(matches!(store.images.add(&web, &image(&tree)), Err(ImageError::Exists { .. })));
        store = store.reopened();
    }
    fs::write(store.file("web/1"), &sound).unwrap();
    assert!(store.images.image(&web).is_ok());
}

#[test]
fn an_image_is_not_added_before_all_of_it_is_there() {
    let tree = tree();
    let all: Vec<_> = tree.directories.iter().map(|(id, _)| id.0).collect();
    for missing in all.into_iter().chain([tree.links.id().0, ObjectId::of(b"contents")]) {
        let store = Images::new();
        store.store(&tree, |id| *id != missing);
        let added = store.images.add(&name("web"), &image(&tree));
        let Err(ImageError::Incomplete { first, count: 1.. }) = added else { panic!("{added:?}") };
        assert_eq!(first, missing);
        assert_eq!(store.images.list().unwrap(), []);
    }
}

#[test]
fn an_image_is_not_added_without_the_texts_it_keeps() {
    let (store, tree) = (Images::new(), tree());
    store.store(&tree, |_| true);
    let mut image = image(&tree);
    image.provenance.release_notes = Some(Document::Url("https://example.org/notes".parse().unwrap()));
    image.provenance.build_log = Some(Document::Object(ObjectId::of(b"it was built")));
    let added = store.images.add(&name("web/1"), &image);
    let Err(ImageError::Incomplete { first, count: 1 }) = added else { panic!("{added:?}") };
    assert_eq!(first, add(store.images.objects(), b"it was built"));
    drop(store.images.add(&name("web/1"), &image).unwrap());
    assert_eq!(*store.images.image(&name("web/1")).unwrap(), image);
}

#[test]
fn an_image_no_machine_could_be_is_refused() {
    let check = |what: &str, tree: &Snapshot| {
        let store = Images::new();
        store.store(tree, |_| true);
        let added = store.images.add(&name("web"), &image(tree));
        assert!(matches!(added, Err(ImageError::Malformed(_))), "{what}: {added:?}");
    };
    let with = |at: &str, inode: Inode| {
        let mut builder = builder();
        builder.insert(&path(at), inode).unwrap();
        builder
    };
    let whole = |builder: Builder| builder.finish(View::everything().id());
    check("unknown", &whole(with("/etc/what", Inode::unknown(Why::Changing))));
    check("another length", &whole(with("/etc/file2", regular(9))));
    let mut labelled = regular(8);
    labelled.xattrs.insert(b"user.x", b"y").unwrap();
    check("attributes it does not carry", &whole(with("/etc/file2", labelled)));
    let mut shared = with("/etc/computed", inode(Kind::Computed { source: "generator:6977".into() }));
    shared.link(&path("/etc/too"), &path("/etc/computed")).unwrap();
    check("a computed file of two names", &whole(shared));
    let partial = View { xattrs: XattrPolicy::NONE, ..View::everything() };
    check("another view", &builder().finish(partial.id()));
    let mut other = tree();
    other.links = dominator_core::tree::LinkSets::new([vec![path("/etc"), path("/etc/file")]]);
    other.tree.links = other.links.id();
    check("hard links to a directory", &other);
}

#[test]
fn unfinished_images_are_removed_and_strangers_passed_over() {
    let store = Images::new();
    fs::create_dir(store.file("web")).unwrap();
    fs::write(store.file("web/1~"), b"half").unwrap();
    fs::write(store.file("web/two words"), b"stranger").unwrap();
    fs::write(store.file(".hidden"), b"stranger").unwrap();
    let store = store.reopened();
    assert_eq!(store.images.list().unwrap(), []);
    assert!(!store.file("web/1~").exists());
    assert!(store.file("web/two words").exists());
}

#[test]
fn state_is_changed_only_by_who_knows_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = DirectoryClusterStore::open(dir.path()).unwrap();
    let conflict = |result| matches!(result, Err(ClusterStoreError::Conflict { .. }));
    assert_eq!(store.value("updates/disabled").unwrap(), None);
    assert!(conflict(store.set("updates/disabled", b"no", Some(Revision(1)))));
    let first = store.set("updates/disabled", b"yes", None).unwrap();
    assert!(conflict(store.set("updates/disabled", b"no", None)));
    let second = store.set("updates/disabled", b"no", Some(first)).unwrap();
    assert!(conflict(store.set("updates/disabled", b"yes", Some(first))));
    assert!(DirectoryClusterStore::open(dir.path()).is_err(), "it has one process");
    drop(store);
    let store = DirectoryClusterStore::open(dir.path()).unwrap();
    assert_eq!(store.value("updates/disabled").unwrap(), Some((b"no".to_vec(), second)));
}

#[test]
fn keys_never_share_a_file_and_damaged_state_is_never_taken_for_none() {
    let dir = tempfile::tempdir().unwrap();
    let store = DirectoryClusterStore::open(dir.path()).unwrap();
    let keys = [".", "..", ".lock", "../x", "a/b", "a%2fb", "a~", "ü", "a b"];
    for key in keys {
        store.set(key, key.as_bytes(), None).unwrap();
    }
    for key in keys {
        assert_eq!(store.value(key).unwrap().unwrap().0, key.as_bytes(), "{key}");
    }
    assert!(store.set("", b"", None).is_err());
    assert!(store.set(&"k".repeat(81), b"", None).is_err());
    let file = dir.path().join("a%2fb");
    let sound = fs::read(&file).unwrap();
    for damage in [&b""[..], &sound[..sound.len() - 1], &[&sound[..5], b"x", &sound[6..]].concat()] {
        fs::write(&file, damage).unwrap();
        assert!(matches!(store.value("a/b"), Err(ClusterStoreError::Failed { .. })));
        assert!(matches!(store.set("a/b", b"", None), Err(ClusterStoreError::Failed { .. })));
    }
}

#[test]
fn state_looks_as_specified() {
    let dir = tempfile::tempdir().unwrap();
    let store = DirectoryClusterStore::open(dir.path()).unwrap();
    store.set("updates/disabled", b"yes", None).unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let specified = "444353310000000000000001796573\
                     ea35c0028f079f9494dfd0288c34ee0b92225c61889b3248e9a0c4e21db8ee7e";
    assert_eq!(hex(&fs::read(dir.path().join("updates%2fdisabled")).unwrap()), specified);
}
