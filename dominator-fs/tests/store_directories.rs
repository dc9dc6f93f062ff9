//! What the image store promises of directories: they are whose they were said to be, also after a restart and a crash,
//! and none takes the name of a deleted image with it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::fs;
use std::path::PathBuf;

use dominator_core::filter::Filter;
use dominator_core::image::{Image, ImageName};
use dominator_core::inode::{Inode, Kind, Mode, Xattrs};
use dominator_core::namespace::{DirectoryName, GroupName};
use dominator_core::port::{ImageError, Parents};
use dominator_core::tree::{Builder, Snapshot};
use dominator_core::trigger::Triggers;
use dominator_core::view::{View, XattrPolicy};
use dominator_fs::store::images::ImageStore;
use dominator_fs::store::objects::ObjectStore;

struct Store {
    dir: tempfile::TempDir,
    images: ImageStore,
}

fn open(dir: &tempfile::TempDir) -> Result<ImageStore, ImageError> {
    ImageStore::open(&dir.path().join("images"), ObjectStore::open(&dir.path().join("objects")).unwrap())
}

impl Store {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { images: open(&dir).unwrap(), dir }
    }

    fn reopened(self) -> Self {
        let Self { dir, images } = self;
        drop(images);
        Self { images: open(&dir).unwrap(), dir }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join("images").join(name)
    }

    /// Adds an image without files.
    fn add(&self, name: &str) -> Result<(), ImageError> {
        let tree = tree();
        let mut batch = self.images.objects().batch();
        for (_, directory) in tree.directories.iter() {
            batch.add_bytes(directory.encoded()).unwrap();
        }
        batch.add_bytes(&tree.links.encode()).unwrap();
        drop(batch.finish().unwrap());
        let image = Image::new(tree.tree, Filter::Empty, Triggers::default(), XattrPolicy::NONE);
        self.images.add(&image_name(name), &image).map(drop)
    }

    fn make(&self, name: &str) -> Result<(), ImageError> {
        self.images.make_directory(&directory(name), Parents::Required)
    }

    fn make_all(&self, name: &str) -> Result<(), ImageError> {
        self.images.make_directory(&directory(name), Parents::Made)
    }

    fn chown(&self, name: &str, owner: &str) -> Result<(), ImageError> {
        self.images.chown_directory(&directory(name), group(owner)).map(drop)
    }

    fn remove(&self, name: &str) -> Result<(), ImageError> {
        self.images.delete_directory(&directory(name)).map(drop)
    }

    /// Every directory with its group, as `web:admins`. The catalog knows the same.
    fn shown(&self) -> Vec<String> {
        let group = |group: Option<GroupName>| group.map(|it| it.to_string()).unwrap_or_default();
        assert_eq!(self.images.catalog().directories(), self.images.directories().unwrap());
        let shown = self.images.directories().unwrap().into_iter();
        shown.map(|it| format!("{}:{}", it.name, group(it.owner_group))).collect()
    }
}

fn tree() -> Snapshot {
    let kind = Kind::Directory { id: Builder::placeholder() };
    let root = Inode { mode: Mode::from_st_mode(0o755), uid: 0, gid: 0, xattrs: Xattrs::default(), kind };
    Builder::new(root).unwrap().finish(View::everything().id())
}

fn image_name(name: &str) -> ImageName {
    name.parse().unwrap()
}

fn directory(name: &str) -> DirectoryName {
    name.parse().unwrap()
}

fn group(name: &str) -> Option<GroupName> {
    (!name.is_empty()).then(|| name.parse().unwrap())
}

#[test]
fn a_directory_belongs_to_the_group_of_the_one_it_was_made_in_also_after_a_restart() {
    let mut store = Store::new();
    store.make("web").unwrap();
    store.chown("web", "web admins").unwrap();
    store.make("web/front").unwrap();
    store.make_all("web/back/a/b").unwrap();
    store.make_all("web/back/a/b").unwrap();
    // What an image makes on its way inherits as well.
    store.add("web/new/1").unwrap();
    store.add("other/1").unwrap();
    store.chown("web/back", "back").unwrap();
    store.make("web/back/c").unwrap();
    store.chown("web/front", "").unwrap();
    let expected = [
        ".:",
        "other:",
        "web:web admins",
        "web/back:back",
        "web/back/a:web admins",
        "web/back/a/b:web admins",
        "web/back/c:back",
        "web/front:",
        "web/new:web admins",
    ];
    for _ in 0..2 {
        assert_eq!(store.shown(), expected);
        let one = store.images.directory(&directory("web/back")).unwrap();
        assert_eq!((one.name, one.owner_group), (directory("web/back"), group("back")));
        store = store.reopened();
    }
    store.chown(".", "everybody").unwrap();
    store.make("third").unwrap();
    assert!(store.reopened().shown().contains(&"third:everybody".to_owned()));
}

#[test]
fn directories_are_made_where_there_is_one_and_none_yet() {
    let store = Store::new();
    assert!(matches!(store.make("web/1"), Err(ImageError::NoDirectory { name }) if name == directory("web")));
    store.make("web").unwrap();
    assert!(matches!(store.make("web"), Err(ImageError::DirectoryExists { .. })));
    assert!(matches!(store.make("."), Err(ImageError::DirectoryExists { .. })));
    store.make_all(".").unwrap();
    let absent = directory("none");
    assert!(matches!(store.images.directory(&absent), Err(ImageError::NoDirectory { .. })));
    assert!(matches!(store.chown("none", "g"), Err(ImageError::NoDirectory { .. })));
    assert!(matches!(store.remove("none"), Err(ImageError::NoDirectory { .. })));
    assert_eq!(store.shown(), [".:", "web:"]);
}

#[test]
fn a_directory_is_deleted_only_when_no_image_and_no_name_of_a_deleted_one_is_lost() {
    let mut store = Store::new();
    let refused = |store: &Store, name| {
        assert!(matches!(store.remove(name), Err(ImageError::DirectoryNotEmpty { .. })), "{name}");
    };
    store.add("web/1").unwrap();
    store.make("web/empty").unwrap();
    store.chown("web/empty", "web").unwrap();
    refused(&store, "web");
    store.remove("web/empty").unwrap();
    store.make("web/empty").unwrap();
    assert_eq!(store.shown(), [".:", "web:", "web/empty:"], "whose it was is forgotten");
    store.remove("web/empty").unwrap();
    refused(&store, "web");
    drop(store.images.delete(&image_name("web/1")).unwrap());
    for _ in 0..2 {
        refused(&store, "web");
        refused(&store, ".");
        assert!(matches!(store.add("web/1"), Err(ImageError::Deleted { .. })));
        store = store.reopened();
    }
}

#[test]
fn a_name_is_that_of_an_image_or_of_a_directory_and_of_neither_unasked() {
    let store = Store::new();
    store.add("web/1").unwrap();
    store.make("empty").unwrap();
    drop(store.images.delete(&image_name("web/1")).unwrap());
    for refused in [store.make("web/1"), store.make_all("web/1/2"), store.add("empty"), store.add("web")] {
        let Err(ImageError::Failed { cause, .. }) = refused else { panic!("{refused:?}") };
        assert!(cause.to_string().contains("directory of images"), "{cause}");
    }
    assert!(matches!(store.make("web/1/2"), Err(ImageError::NoDirectory { .. })));
    assert_eq!(store.shown(), [".:", "empty:", "web:"]);
}

#[test]
fn whose_a_directory_is_is_never_guessed() {
    let mut store = Store::new();
    store.make("web").unwrap();
    store.chown("web", "web").unwrap();
    let sound = fs::read(store.at("web/.metadata")).unwrap();
    for damage in
        [&b""[..], &sound[..10], &sound[..sound.len() - 1], &[&sound[..9], b"x", &sound[10..]].concat()]
    {
        fs::write(store.at("web/.metadata"), damage).unwrap();
        store = store.reopened();
        let unknown = |outcome: Result<(), ImageError>| {
            let Err(ImageError::Failed { what, .. }) = outcome else { panic!("{outcome:?}") };
            assert!(what.contains("it is not known whose directory web is"), "{what}");
        };
        unknown(store.images.directory(&directory("web")).map(drop));
        unknown(store.images.directories().map(drop));
        unknown(store.make("web/new"));
        unknown(store.add("web/new/1"));
        // What needs no new directory goes on.
        store
            .add("web/1")
            .unwrap_or_else(|error| assert!(matches!(error, ImageError::Exists { .. }), "{error}"));
        assert!(store.images.image(&image_name("web/1")).is_ok());
    }
    store.chown("web", "web").unwrap();
    assert_eq!(fs::read(store.at("web/.metadata")).unwrap(), sound);
    assert_eq!(store.shown(), [".:", "web:web"]);
}

#[test]
fn the_file_of_a_directory_is_as_specified() {
    let store = Store::new();
    store.make("web").unwrap();
    assert!(!store.at("web/.metadata").exists());
    store.chown("web", "web admins").unwrap();
    let hex: String =
        fs::read(store.at("web/.metadata")).unwrap().iter().map(|b| format!("{b:02x}")).collect();
    let page = include_str!("../../docs/formats/image.md").replace([' ', '\n'], "");
    assert!(page.contains(&hex), "{hex}");
}

#[test]
fn what_was_left_of_directories_is_removed_and_strangers_stay() {
    let store = Store::new();
    store.make("web").unwrap();
    for left in ["new~", "web/old~"] {
        fs::create_dir(store.at(left)).unwrap();
        fs::write(store.at(left).join(".metadata"), b"half").unwrap();
        fs::write(store.at(left).join(".metadata~"), b"half").unwrap();
    }
    fs::create_dir_all(store.at("stranger~/below")).unwrap();
    fs::create_dir_all(store.at(".hidden~")).unwrap();
    let store = store.reopened();
    assert!(!store.at("new~").exists() && !store.at("web/old~").exists());
    assert!(store.at("stranger~/below").exists() && store.at(".hidden~").exists());
    assert_eq!(store.shown(), [".:", "web:"]);
    store.remove("web").unwrap();
}

#[test]
fn a_directory_that_is_a_symbolic_link_is_none() {
    let store = Store::new();
    let outside = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(outside.path(), store.at("web")).unwrap();
    assert!(store.images.directory(&directory("web")).is_err());
    assert!(store.make("web/1").is_err() && store.make_all("web/1").is_err() && store.add("web/1").is_err());
    assert!(store.chown("web", "g").is_err() && store.remove("web").is_err());
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}
