//! Files whose contents are known because somebody put them in place.

use std::collections::HashMap;

use dominator_core::inode::Timestamp;
use dominator_core::object::ObjectId;
use rustix::fs::Statx;

use super::identity::{FileKey, key_of};

/// Files that were just put in place, with contents that were read back from the disk before: a scan need not open them
/// to know what they contain. See [`Cache::learn`](super::Cache::learn).
///
/// A file here was made where nobody else could reach it, got its final metadata there, was read back and hashed, and
/// then only renamed. Its contents are held to be what was read when a scan finds all of this:
///
/// * It is the same inode: device, number and time of birth. What was put in its place since is another.
/// * It is as long as it was, and was last modified when the image says. A write after the rename sets another time; so
///   does the first write through a shared mapping, as what was read back has no page that waits for the disk.
/// * It last changed before the last rename was done. Renames change that time themselves, so it can't be compared with
///   the one before; but nobody can set it, and so whoever wrote to the file and put its time of modification back
///   afterwards has moved it past the end.
///
/// One thing these don't tell: a write whose time of modification was put back before the last rename was done, or within
/// the same tick of the clock. So all these files are held to be fresh, however long ago they changed: as with every
/// other file that changed a short while before it was looked at, they are read once more after the write-back expiry,
/// and it shows then.
#[derive(Clone, Debug, Default)]
pub struct Installed {
    files: HashMap<FileKey, File>,
    /// When the last of them was in place.
    until: Timestamp,
}

/// What tells that a file is what was put in place, and what it contains.
#[derive(Clone, Copy, Debug)]
struct File {
    written: Written,
    object: ObjectId,
}

/// What a rename does not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Written {
    size: u64,
    mtime: (i64, u32),
    born: (i64, u32),
}

impl Installed {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Adds a file nobody else could reach so far, of which `object` was read back from the disk and which was as `stat`
    /// says after that, with the time of modification it is to keep.
    pub(crate) fn add(&mut self, stat: &Statx, object: ObjectId) {
        self.files.insert(key_of(stat), File { written: Written::of(stat), object });
    }

    /// All of them are in place now.
    pub(crate) fn in_place(self, until: Timestamp) -> Self {
        Self { until, ..self }
    }

    /// What a file contains, if it is one of these and as it was put in place.
    pub(super) fn contents(&self, stat: &Statx) -> Option<ObjectId> {
        let file = self.files.get(&key_of(stat))?;
        let changed = Timestamp::new(stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec)?;
        (file.written == Written::of(stat) && changed <= self.until).then_some(file.object)
    }
}

impl Written {
    fn of(stat: &Statx) -> Self {
        Self {
            size: stat.stx_size,
            mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
            born: (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt;
    use std::path::Path;
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use dominator_core::path::ImagePath;
    use dominator_core::view::View;

    use super::*;
    use crate::root::{Root, inode_of};
    use crate::scan::{Cache, Cancel, Clock, Scan, Scanner};

    const EXPIRY: Duration = Duration::from_secs(36);

    /// A root, and beside it a place nobody else can reach.
    struct Machine {
        dir: tempfile::TempDir,
        slots: tempfile::TempDir,
        cache: Cache,
    }

    impl Machine {
        fn new() -> Self {
            let (dir, slots) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let mut machine = Self { dir, slots, cache: Cache::new() };
            machine.write("old", "as it was");
            fs::create_dir(machine.dir.path().join("elsewhere")).unwrap();
            machine.scan(0);
            machine
        }

        fn write(&self, name: &str, contents: &str) {
            fs::write(self.dir.path().join(name), contents).unwrap();
        }

        /// Puts files in place as an update does, one of them where another is, and one with two names.
        fn install(&mut self) {
            let mut installed = Installed::new();
            for name in ["old", "new", "first"] {
                let slot = self.slots.path().join(name);
                fs::write(&slot, format!("contents of {name}")).unwrap();
                let file = fs::File::options().write(true).open(&slot).unwrap();
                file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
                installed.add(&inode_of(&file).unwrap(), ObjectId::of(&fs::read(&slot).unwrap()));
                fs::rename(&slot, self.dir.path().join(name)).unwrap();
            }
            fs::hard_link(self.dir.path().join("first"), self.dir.path().join("second")).unwrap();
            self.cache.learn(installed.in_place(Clock::system().now()));
        }

        fn scanner(&self, ahead: i64) -> Scanner {
            let now = move || {
                let now = Clock::system().now();
                Timestamp::new(now.seconds() + ahead, now.nanos()).unwrap()
            };
            Scanner::new(Root::open(self.dir.path()).unwrap(), Arc::new(View::everything()))
                .clock(Clock::new(now))
                .write_back_expiry(EXPIRY)
        }

        fn scan(&mut self, ahead: i64) -> Scan {
            self.scanner(ahead).rescan(&mut self.cache, &Cancel::default()).unwrap()
        }

        /// What a scan finds that knows nothing.
        fn truth(&self) -> Scan {
            self.scanner(0).scan(&Cancel::default()).unwrap()
        }

        /// A scan opens only so many files, and finds what is.
        fn opens(&mut self, ahead: i64, expected: u64, case: &str) {
            let scan = self.scan(ahead);
            assert_eq!(scan.files_opened, expected, "{case}");
            assert_eq!(scan.snapshot.id(), self.truth().snapshot.id(), "{case}");
        }
    }

    fn overwrite(path: &Path, contents: &str) {
        fs::File::options().write(true).open(path).unwrap().write_all_at(contents.as_bytes(), 0).unwrap();
    }

    /// As `cp --preserve` or an archiver does, at a time that can be told from that of the installation.
    fn overwrite_and_put_the_time_back(path: &Path, contents: &str) {
        let before = fs::metadata(path).unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        let installed = Clock::system().now();
        loop {
            file.write_all_at(contents.as_bytes(), 0).unwrap();
            file.set_modified(before.modified().unwrap()).unwrap();
            let stat = inode_of(&file).unwrap();
            if Timestamp::new(stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec).unwrap() > installed {
                return;
            }
        }
    }

    #[test]
    fn what_was_put_in_place_is_not_opened_and_once_more_when_it_is_on_the_disk() {
        let mut machine = Machine::new();
        machine.install();
        machine.opens(0, 0, "after the installation");
        machine.opens(10, 0, "a little later");
        machine.opens(40, 3, "after the expiry");
        machine.opens(80, 0, "later");
    }

    #[test]
    fn a_scan_that_comes_late_opens_nothing_and_the_next_reads_it() {
        let mut machine = Machine::new();
        machine.scan(1000);
        machine.install();
        machine.opens(1000, 0, "long after the installation");
        machine.opens(1001, 3, "it was not read then");
        machine.opens(1002, 0, "now it was");
    }

    #[test]
    fn a_file_that_was_changed_after_it_was_put_in_place_is_read() {
        type Change = fn(&Path);
        let changes: [(&str, Change); 5] = [
            ("written to", |path| overwrite(path, "CONTENTS")),
            ("written to, its time put back", |path| overwrite_and_put_the_time_back(path, "CONTENTS")),
            ("longer", |path| fs::write(path, "contents of new and more").unwrap()),
            ("replaced", |path| {
                fs::write(path.with_extension("other"), "CONTENTS of new").unwrap();
                fs::rename(path.with_extension("other"), path).unwrap();
            }),
            ("removed and made anew", |path| {
                fs::remove_file(path).unwrap();
                fs::write(path, "CONTENTS of new").unwrap();
            }),
        ];
        for (case, change) in changes {
            let mut machine = Machine::new();
            machine.install();
            change(&machine.dir.path().join("new"));
            machine.opens(0, 1, case);
        }
    }

    #[test]
    fn what_a_cancelled_scan_did_not_come_to_is_not_opened_by_the_next() {
        let mut machine = Machine::new();
        machine.install();
        let cancel = Cancel::default();
        cancel.cancel();
        machine.scanner(0).rescan(&mut machine.cache, &cancel).unwrap_err();
        machine.opens(0, 0, "the scan of everything");
        assert!(machine.cache.installed.is_none(), "it is in the tree now");
    }

    #[test]
    fn what_a_scan_of_some_directories_left_out_is_not_opened_by_the_next_and_what_it_saw_is_read_in_time() {
        for (directory, opened) in [("/elsewhere", 0), ("/", 3)] {
            let mut machine = Machine::new();
            machine.install();
            let some = [ImagePath::parse(directory.as_bytes()).unwrap()].into();
            machine.scanner(0).rescan_only(&mut machine.cache, &some, &Cancel::default()).unwrap();
            machine.opens(40, opened, directory);
        }
    }
}
