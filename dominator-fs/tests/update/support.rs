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
use dominator_fs::update::{Journalled, Recovery, Update, UpdateError, Updater, WorkError};
use dominator_fs_testkit::scenario::view_of;
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
        let view = view_of(&root);
        let updater = Updater::open(root.clone(), Arc::new(Kernel)).unwrap().0;
        Self { dir, root, updater, view }
    }

    /// As if the agent had been started anew.
    pub(crate) fn restart_with(&mut self, seam: Arc<dyn Seam>) {
        self.try_restart_with(seam).unwrap();
    }

    /// The same, where it may fail: there is no updater of this root then.
    pub(crate) fn try_restart_with(&mut self, seam: Arc<dyn Seam>) -> Result<Recovery, WorkError> {
        self.let_go();
        let mut attempts = 0;
        let (updater, recovery) = loop {
            match Updater::open(self.root.clone(), Arc::clone(&seam)) {
                // A process that another test starts at this moment has the lock until it becomes another program.
                Err(WorkError::Busy) if attempts < 60_000 => {
                    attempts += 1;
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                other => break other?,
            }
        };
        self.updater = updater;
        Ok(recovery)
    }

    /// Drops the updater: another one may be opened.
    pub(crate) fn let_go(&mut self) {
        let elsewhere = tempfile::tempdir().unwrap();
        let (none, _) = Updater::open(Root::open(elsewhere.path()).unwrap(), Arc::new(Kernel)).unwrap();
        drop(std::mem::replace(&mut self.updater, none));
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

    /// An update that is ready to be swapped.
    pub(crate) fn journalled(&mut self, operations: Vec<Operation>) -> Update<'_, Journalled> {
        let plan = Plan { operations };
        self.updater.begin(&plan, &self.view).unwrap().stage().unwrap().journal(b"", None).unwrap()
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

    /// Those of the operations that are not as if they had been carried out.
    pub(crate) fn plan_of(&self, operations: &[Operation]) -> Vec<Operation> {
        let snapshot = self.scan();
        let is_right = |at: &ImagePath, wanted: &Inode| {
            let wanted = self.view.inode(wanted);
            snapshot
                .inode(at)
                .is_some_and(|found| found.same_contents(&wanted) && found.same_attributes(&wanted))
        };
        let is_made = |operation: &&Operation| match operation {
            Operation::MakeDirectory { path, inode } | Operation::Put { path, inode } => {
                is_right(path, inode)
            }
            Operation::SetMetadata { paths, inode } => paths.iter().all(|path| is_right(path, inode)),
            Operation::Link { path, target } => self.ino(&path.to_string()) == self.ino(&target.to_string()),
            Operation::Delete { path, .. } => snapshot.inode(path).is_none(),
            other => panic!("{other}"),
        };
        operations.iter().filter(|operation| !is_made(operation)).cloned().collect()
    }

    /// Nothing is left in the work directory but objects once the update is cleaned up.
    pub(crate) fn is_tidy(&mut self) {
        self.updater.clean_up().unwrap();
        for part in ["slots", "conflicts"] {
            let left: Vec<_> = std::fs::read_dir(self.at("/.subd").join(part)).unwrap().collect();
            assert!(left.is_empty(), "{part}: {left:?}");
        }
        assert!(!self.has("/.subd/journal") && !self.has("/.subd/journal~"));
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
