use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use dominator_core::filter::Filter;
use dominator_core::image::{Image, ImageName};
use dominator_core::inode::{Inode, Kind, Mode, Timestamp, Xattrs};
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::tree::{Builder, Snapshot};
use dominator_core::trigger::Triggers;
use dominator_core::view::{View, XattrPolicy};
use dominator_fs::seam::{Kernel, Seam};
use dominator_fs::store::images::ImageStore;
use dominator_fs::store::objects::ObjectStore;

/// How long objects are kept in these tests.
pub(crate) const KEEP: Duration = Duration::from_secs(3600);

/// Both stores in a directory, and what time it is there.
pub(crate) struct Lab {
    pub(crate) path: PathBuf,
    pub(crate) images: ImageStore,
    pub(crate) clock: Arc<AtomicU64>,
}

impl Lab {
    pub(crate) fn new(path: &Path) -> Self {
        Self::on(path, Arc::new(Kernel))
    }

    pub(crate) fn on(path: &Path, seam: Arc<dyn Seam>) -> Self {
        let clock = Arc::new(AtomicU64::new(2_000_000_000));
        let time = Arc::clone(&clock);
        let now = move || UNIX_EPOCH + Duration::from_secs(time.load(Ordering::SeqCst));
        let objects = ObjectStore::open_with(&path.join("objects"), Arc::clone(&seam), now).unwrap();
        let images = ImageStore::open_on(&path.join("images"), objects, seam).unwrap();
        Self { path: path.to_owned(), images, clock }
    }

    pub(crate) fn objects(&self) -> &ObjectStore {
        self.images.objects()
    }

    pub(crate) fn later(&self, by: Duration) {
        self.clock.fetch_add(by.as_secs(), Ordering::SeqCst);
    }

    pub(crate) fn put(&self, bytes: &[u8]) -> ObjectId {
        let mut batch = self.objects().batch();
        let id = batch.add_bytes(bytes).unwrap();
        drop(batch.finish().unwrap());
        id
    }

    /// Puts all objects an image of those files needs.
    pub(crate) fn upload(&self, tree: &Snapshot, files: &[(&str, &[u8])]) {
        let mut batch = self.objects().batch();
        for bytes in parts(tree, files) {
            batch.add_bytes(&bytes).unwrap();
        }
        drop(batch.finish().unwrap());
    }

    pub(crate) fn add(&self, name: &str, files: &[(&str, &[u8])]) -> Snapshot {
        let tree = tree(files);
        self.upload(&tree, files);
        drop(self.images.add(&named(name), &image(&tree)).unwrap());
        tree
    }

    /// Collects all garbage there is, and says how much went.
    pub(crate) fn collect(&self, keep: Duration) -> (u64, u64) {
        let removed = self.images.collect(keep, |all| all).unwrap().removed;
        (removed.objects, removed.bytes)
    }

    pub(crate) fn is_there(&self, bytes: &[u8]) -> bool {
        self.objects().size(&ObjectId::of(bytes)).unwrap().is_some()
    }

    pub(crate) fn file_of(&self, id: &ObjectId) -> PathBuf {
        let name = id.to_string();
        self.path.join("objects").join(&name[..2]).join(&name[2..])
    }

    /// Whether all of an image can be read, as it was.
    pub(crate) fn is_whole(&self, name: &str, files: &[(&str, &[u8])]) -> bool {
        let read = |bytes: &Vec<u8>| self.objects().read(&ObjectId::of(bytes), 1 << 20).unwrap() == *bytes;
        let tree = tree(files);
        self.images.tree(&named(name)).unwrap().id() == tree.id() && parts(&tree, files).iter().all(read)
    }
}

pub(crate) fn named(name: &str) -> ImageName {
    name.parse().unwrap()
}

/// What must be in the object store for an image of those files.
pub(crate) fn parts(tree: &Snapshot, files: &[(&str, &[u8])]) -> Vec<Vec<u8>> {
    let directories = tree.directories.iter().map(|(_, directory)| directory.encoded().to_vec());
    directories.chain([tree.links.encode()]).chain(files.iter().map(|(_, bytes)| bytes.to_vec())).collect()
}

pub(crate) fn tree(files: &[(&str, &[u8])]) -> Snapshot {
    let inode =
        |kind| Inode { mode: Mode::from_st_mode(0o644), uid: 0, gid: 0, xattrs: Xattrs::default(), kind };
    let directory = || inode(Kind::Directory { id: Builder::placeholder() });
    let path = |text: &str| ImagePath::parse(text.as_bytes()).unwrap();
    let mut builder = Builder::new(directory()).unwrap();
    builder.insert(&path("/etc"), directory()).unwrap();
    for (name, bytes) in files {
        let (size, object) = (bytes.len() as u64, ObjectId::of(bytes));
        let file = inode(Kind::Regular { mtime: Timestamp::default(), size, object });
        builder.insert(&path(&format!("/etc/{name}")), file).unwrap();
    }
    builder.finish(View::everything().id())
}

pub(crate) fn image(tree: &Snapshot) -> Image {
    Image::new(tree.tree.clone(), Filter::Empty, Triggers::default(), XattrPolicy::NONE)
}

/// How many files there are in the shards.
pub(crate) fn files(path: &Path) -> usize {
    let shards = fs::read_dir(path.join("objects")).unwrap().map(|entry| entry.unwrap());
    let shards = shards.filter(|entry| entry.file_name().len() == 2 && entry.path().is_dir());
    shards.map(|shard| fs::read_dir(shard.path()).unwrap().count()).sum()
}
