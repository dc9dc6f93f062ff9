//! Images that end by themselves, and those who follow what images there are, on a disk and over restarts.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    missing_docs
)]

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::{fs, thread};

use dominator_core::catalog::{
    Change, ExpiryChange, ExpiryLimits, ExpiryRefusal, Followed, ImageUpdate, Latest, Removal, Selection,
};
use dominator_core::filter::Filter;
use dominator_core::image::{Image, ImageName};
use dominator_core::inode::{Inode, Kind, Mode, Xattrs};
use dominator_core::port::ImageError;
use dominator_core::tree::Builder;
use dominator_core::trigger::Triggers;
use dominator_core::view::{View, XattrPolicy};
use dominator_fs::store::images::ImageStore;
use dominator_fs::store::objects::ObjectStore;
use futures_core::Stream;

struct Images {
    dir: tempfile::TempDir,
    images: ImageStore,
    image: Image,
}

fn open(dir: &tempfile::TempDir) -> ImageStore {
    let objects = ObjectStore::open(&dir.path().join("objects")).unwrap();
    ImageStore::open(&dir.path().join("images"), objects).unwrap()
}

impl Images {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let images = open(&dir);
        let kind = Kind::Directory { id: Builder::placeholder() };
        let root = Inode { mode: Mode::from_st_mode(0o755), uid: 0, gid: 0, xattrs: Xattrs::default(), kind };
        let tree = Builder::new(root).unwrap().finish(View::everything().id());
        let mut batch = images.objects().batch();
        let directories = tree.directories.iter().map(|(_, directory)| directory.encoded().to_vec());
        for bytes in directories.chain([tree.links.encode()]) {
            batch.add_bytes(&bytes).unwrap();
        }
        drop(batch.finish().unwrap());
        let image = Image::new(tree.tree, Filter::Empty, Triggers::default(), XattrPolicy::NONE);
        Self { dir, images, image }
    }

    fn reopened(self) -> Self {
        let Self { dir, images, image } = self;
        drop(images);
        Self { images: open(&dir), dir, image }
    }

    fn add(&self, text: &str, created_on: u64, expires_at: Option<u64>) -> Result<(), ImageError> {
        let image = Image { created_on, expires_at, ..self.image.clone() };
        self.images.add(&name(text), &image).map(drop)
    }

    fn names(&self) -> String {
        let known: Vec<_> = self.images.catalog().images().keys().cloned().collect();
        assert_eq!(known, self.images.list().unwrap(), "the catalog is what is on the disk");
        known.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }
}

fn name(text: &str) -> ImageName {
    text.parse().unwrap()
}

fn to(to: Option<u64>, privileged: bool) -> ExpiryChange {
    ExpiryChange { to, now: 50, privileged, limits: ExpiryLimits::default() }
}

fn hear(followed: &mut Followed) -> Vec<ImageUpdate> {
    let mut next = || match Pin::new(&mut *followed).poll_next(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(update) => update,
        Poll::Pending => None,
    };
    std::iter::from_fn(&mut next).collect()
}

#[test]
fn an_image_that_expired_leaves_its_name_free_and_one_that_was_deleted_does_not() {
    let mut store = Images::new();
    store.add("web/1", 1, Some(100)).unwrap();
    store.add("web/2", 2, Some(200)).unwrap();
    store.add("web/3", 3, Some(100)).unwrap();
    drop(store.images.delete(&name("web/3")).unwrap());
    assert_eq!(store.images.expire(99).unwrap(), []);
    store = store.reopened();
    assert_eq!(store.images.expire(150).unwrap(), [name("web/1")]);
    assert!(matches!(store.images.image(&name("web/1")), Err(ImageError::NotFound { .. })));
    for _ in 0..2 {
        assert_eq!(store.names(), "web/2");
        assert!(matches!(store.add("web/3", 4, None), Err(ImageError::Deleted { .. })));
        store = store.reopened();
    }
    store.add("web/1", 5, None).unwrap();
    assert_eq!(store.images.expire(150).unwrap(), [], "it is another image");
    assert_eq!(store.names(), "web/1 web/2");
}

#[test]
fn an_end_that_was_put_off_stays_put_off_also_after_a_restart() {
    let mut store = Images::new();
    store.add("web/1", 1, Some(100)).unwrap();
    store.add("web/2", 1, Some(100)).unwrap();
    let change = |store: &Images, text, change| store.images.change_expiry(&name(text), &change).map(drop);
    change(&store, "web/1", to(Some(500), false)).unwrap();
    change(&store, "web/2", to(None, true)).unwrap();
    for _ in 0..2 {
        let refused = change(&store, "web/1", to(Some(400), true));
        assert!(
            matches!(refused, Err(ImageError::Expiry(ExpiryRefusal::Sooner { end: 500 }))),
            "{refused:?}"
        );
        let refused = change(&store, "web/2", to(Some(400), true));
        assert!(matches!(refused, Err(ImageError::Expiry(ExpiryRefusal::Permanent))), "{refused:?}");
        assert!(matches!(change(&store, "web/9", to(None, true)), Err(ImageError::NotFound { .. })));
        assert_eq!(store.images.expire(499).unwrap(), []);
        assert_eq!(store.images.image(&name("web/1")).unwrap().expires_at, Some(500));
        store = store.reopened();
    }
    assert_eq!(store.images.expire(500).unwrap(), [name("web/1")]);
    assert_eq!(store.names(), "web/2");
}

#[test]
fn of_many_who_put_an_end_off_at_once_the_latest_is_what_remains() {
    let store = Images::new();
    store.add("web/1", 1, Some(100)).unwrap();
    thread::scope(|scope| {
        for end in 0..8 {
            let images = &store.images;
            scope.spawn(move || drop(images.change_expiry(&name("web/1"), &to(Some(200 + end), false))));
        }
    });
    assert_eq!(store.images.image(&name("web/1")).unwrap().expires_at, Some(207));
    assert_eq!(store.images.catalog().next_end(), Some(207));
}

#[test]
fn followers_hear_what_is_done_in_the_order_in_which_it_was_done() {
    let store = Images::new();
    store.add("web/1", 1, Some(100)).unwrap();
    let mut followed = store.images.catalog().follow(Selection::default(), None);
    let heard: Vec<_> = hear(&mut followed)
        .into_iter()
        .filter(|update| !matches!(update, ImageUpdate::Directory(_)))
        .collect();
    let [ImageUpdate::Begin, ImageUpdate::Image { .. }, ImageUpdate::Current(begun)] = &heard[..] else {
        panic!("{heard:?}")
    };
    store.add("web/2", 1, None).unwrap();
    drop(store.images.change_expiry(&name("web/1"), &to(Some(120), false)).unwrap());
    drop(store.images.delete(&name("web/2")).unwrap());
    store.add("web/2", 1, None).unwrap_err();
    store.images.expire(120).unwrap();
    store.add("web/1", 1, None).unwrap();
    let said = hear(&mut followed).into_iter().map(|update| {
        let ImageUpdate::Change { position, change } = update else { panic!("{update:?}") };
        let what = match change {
            Change::Added { .. } => "added",
            Change::Altered { .. } => "altered",
            Change::Removed { why: Removal::Deleted, .. } => "deleted",
            Change::Removed { why: Removal::Expired, .. } => "expired",
            other => panic!("{other:?}"),
        };
        format!("{} {what} {}", position.sequence - begun.sequence, change_of(&change))
    });
    let expected =
        ["1 added web/2", "2 altered web/1", "3 deleted web/2", "4 expired web/1", "5 added web/1"];
    assert_eq!(said.collect::<Vec<_>>(), expected);
    let before = followed;
    let position = hear(&mut store.images.catalog().follow(Selection::default(), None)).pop().unwrap();
    let ImageUpdate::Current(position) = position else { panic!("{position:?}") };
    drop(before);
    let store = store.reopened();
    let mut followed = store.images.catalog().follow(Selection::default(), Some(position));
    assert_eq!(hear(&mut followed)[0], ImageUpdate::Begin, "the log was lost with the process");
}

fn change_of(change: &Change) -> ImageName {
    change.image().unwrap().0.clone()
}

#[test]
fn a_damaged_image_is_listed_and_never_the_latest() {
    let mut store = Images::new();
    store.add("web/1", 1, None).unwrap();
    store.add("web/2", 2, None).unwrap();
    let latest = |store: &Images| {
        let wanted = Latest { directory: "web".into(), ..Latest::default() };
        wanted.of(&store.images.catalog().images()).map(|name| name.to_string())
    };
    assert_eq!(latest(&store).as_deref(), Some("web/2"));
    fs::write(store.dir.path().join("images/web/2"), b"rot").unwrap();
    store = store.reopened();
    assert_eq!((store.names().as_str(), latest(&store).as_deref()), ("web/1 web/2", Some("web/1")));
}
