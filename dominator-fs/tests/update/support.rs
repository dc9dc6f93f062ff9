use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dominator_core::inode::{Inode, Kind, Mode, Timestamp, Xattrs};
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::plan::{Comparison, Operation, Plan};
use dominator_core::port::UpdateReport;
use dominator_core::tree::{Builder, Snapshot};
use dominator_core::view::View;
use dominator_fs::root::{Beneath, Root};
use dominator_fs::scan::{Cancel, Scanner};
use dominator_fs::seam::{Kernel, Seam};
use dominator_fs::traits::traits_of;
use dominator_fs::update::{UpdateError, Updater};
use tempfile::TempDir;

/// A machine: a directory of its own with an updater.
pub(crate) struct Machine {
    pub(crate) dir: TempDir,
    pub(crate) root: Root,
    pub(crate) updater: Updater,
    pub(crate) view: View,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self::within(tempfile::tempdir().unwrap())
    }

    /// Seen without what is mounted in it.
    pub(crate) fn beneath_mounts() -> Self {
        Self::beneath_mounts_in(tempfile::tempdir().unwrap())
    }

    pub(crate) fn beneath_mounts_in(dir: TempDir) -> Self {
        let (root, beneath) = Root::open_beneath_mounts(dir.path()).unwrap();
        assert!(matches!(beneath, Beneath::Yes), "{beneath}");
        Self::with(dir, root)
    }

    pub(crate) fn within(dir: TempDir) -> Self {
        let root = Root::open(dir.path()).unwrap();
        Self::with(dir, root)
    }

    fn with(dir: TempDir, root: Root) -> Self {
        let traits = traits_of(&root);
        let view = View { xattrs: traits.xattrs, ownership: traits.ownership, ..View::everything() };
        let updater = Updater::new(root.clone(), Arc::new(Kernel)).unwrap();
        Self { dir, root, updater, view }
    }

    /// As if the agent had been started anew.
    pub(crate) fn restart_with(&mut self, seam: Arc<dyn Seam>) {
        let elsewhere = tempfile::tempdir().unwrap();
        let none = Updater::new(Root::open(elsewhere.path()).unwrap(), Arc::new(Kernel)).unwrap();
        drop(std::mem::replace(&mut self.updater, none));
        self.updater = Updater::new(self.root.clone(), seam).unwrap();
    }

    /// What can't be deleted by deleting all that is in the tree.
    pub(crate) fn held(&self) -> BTreeSet<ImagePath> {
        let scanner = Scanner::new(self.root.clone(), Arc::new(self.view.clone()));
        scanner.scan(&Cancel::default()).unwrap().held
    }

    /// Where `path` of the image is for the test.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path.trim_start_matches('/'))
    }

    pub(crate) fn write(&self, path: &str, contents: &[u8]) {
        std::fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        std::fs::write(self.at(path), contents).unwrap();
    }

    pub(crate) fn read(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.at(path)).unwrap()
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.at(path).symlink_metadata().is_ok()
    }

    pub(crate) fn ino(&self, path: &str) -> u64 {
        self.at(path).symlink_metadata().unwrap().ino()
    }

    pub(crate) fn mode(&self, path: &str) -> u32 {
        self.at(path).symlink_metadata().unwrap().mode() & 0o7777
    }

    /// Takes an object into the cache.
    pub(crate) fn offer(&self, contents: &[u8]) -> ObjectId {
        let id = ObjectId::of(contents);
        let mut intake = self.updater.objects().intake();
        intake.begin(id, contents.len() as u64).unwrap();
        intake.data(contents).unwrap();
        intake.finish().unwrap();
        id
    }

    pub(crate) fn apply(&mut self, operations: Vec<Operation>) -> Result<UpdateReport, UpdateError> {
        self.updater.apply(&Plan { operations }, &self.view)
    }

    /// Applies and expects everything to be done.
    pub(crate) fn applied(&mut self, operations: Vec<Operation>) -> UpdateReport {
        let report = self.apply(operations).unwrap();
        assert!(report.is_success(), "{:?}", report.failures);
        self.is_tidy();
        report
    }

    pub(crate) fn scan(&self) -> Snapshot {
        scan(&self.root, &self.view)
    }

    /// The plan that makes this machine like `required`.
    pub(crate) fn plan_for(&self, required: &Snapshot) -> Plan {
        let actual = self.scan();
        let comparison = Comparison {
            required,
            actual: &actual.tree,
            links: Some(&actual.links),
            directories: &actual.directories,
        };
        comparison.plan().unwrap().plan
    }

    /// Nothing is left in the work directory but objects.
    pub(crate) fn is_tidy(&self) {
        for part in ["staging", "aside"] {
            let left: Vec<_> = std::fs::read_dir(self.at("/.subd").join(part)).unwrap().collect();
            assert!(left.is_empty(), "{part}: {left:?}");
        }
    }
}

pub(crate) fn scan(root: &Root, view: &View) -> Snapshot {
    let scan = Scanner::new(root.clone(), Arc::new(view.clone()))
        .threads(1.try_into().unwrap())
        .scan(&Cancel::default())
        .unwrap();
    assert_eq!(scan.facts, []);
    scan.snapshot
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(crate) fn path(text: &str) -> ImagePath {
    ImagePath::parse(text.as_bytes()).unwrap()
}

fn ids() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

pub(crate) fn inode(mode: u32, kind: Kind) -> Inode {
    let (uid, gid) = ids();
    Inode { mode: Mode::from_st_mode(mode), uid, gid, xattrs: Xattrs::default(), kind }
}

pub(crate) fn file(mode: u32, contents: &[u8]) -> Inode {
    let mtime = Timestamp::new(1_000_000_000, 123_456_789).unwrap();
    inode(mode, Kind::Regular { mtime, size: contents.len() as u64, object: ObjectId::of(contents) })
}

pub(crate) fn symlink(target: &str) -> Inode {
    inode(0o777, Kind::Symlink { target: target.as_bytes().into() })
}

pub(crate) fn directory(mode: u32) -> Inode {
    inode(mode, Kind::Directory { id: Builder::placeholder() })
}

pub(crate) fn put(at: &str, inode: Inode) -> Operation {
    Operation::Put { path: path(at), inode }
}

pub(crate) fn make(at: &str, mode: u32) -> Operation {
    Operation::MakeDirectory { path: path(at), inode: directory(mode) }
}

pub(crate) fn link(at: &str, target: &str) -> Operation {
    Operation::Link { path: path(at), target: path(target) }
}

pub(crate) fn set(paths: &[&str], inode: Inode) -> Operation {
    Operation::SetMetadata { paths: paths.iter().map(|p| path(p)).collect(), inode }
}

pub(crate) fn delete(at: &str) -> Operation {
    Operation::Delete { path: path(at), directory: false }
}

pub(crate) fn delete_directory(at: &str) -> Operation {
    Operation::Delete { path: path(at), directory: true }
}

pub(crate) fn failed_paths(report: &UpdateReport) -> Vec<String> {
    report.failures.iter().map(|failure| failure.path.to_string()).collect()
}

pub(crate) fn mtime(path: &Path) -> (i64, i64) {
    let metadata = path.symlink_metadata().unwrap();
    (metadata.mtime(), metadata.mtime_nsec())
}
