//! A small tree, and all that may happen to it.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use memmap2::MmapMut;
use rustix::fs::{CWD, FileType, Mode, RenameFlags, Timespec, Timestamps, XattrFlags};

/// xorshift: the same sequence for the same seed, everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }
}

/// A file that is mapped, and stays so whatever becomes of its names.
struct Mapped {
    file: File,
    memory: MmapMut,
}

/// How finely the file-system tells when something changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Times {
    /// Two changes between which somebody looked have two times.
    Fine,
    /// They may have the same.
    Ticks,
}

pub(crate) struct World {
    dir: tempfile::TempDir,
    maps: bool,
    mapped: Vec<Mapped>,
    /// The inodes written to through mappings since all was known to be on the disk.
    written: BTreeSet<u64>,
    /// The directories in which something happened since the last scan, as far as a watch would tell.
    touched: BTreeSet<String>,
    history: Vec<String>,
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

impl World {
    pub(crate) fn new() -> Self {
        /// As the kernel calls tmpfs.
        const TMPFS: i64 = 0x0102_1994;
        let dir = tempfile::tempdir().unwrap();
        let maps = rustix::fs::statfs(dir.path()).unwrap().f_type != TMPFS;
        let (written, touched, history) = Default::default();
        Self { dir, maps, mapped: Vec::new(), written, touched, history }
    }

    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    /// How finely this file-system tells times.
    pub(crate) fn times(&self) -> Times {
        let probe = tempfile::NamedTempFile::new_in(self.root()).unwrap();
        let changed = || {
            probe.as_file().write_all_at(b"x", 0).unwrap();
            let stat = probe.as_file().metadata().unwrap();
            (stat.ctime(), stat.ctime_nsec())
        };
        let mut times: Vec<_> = std::iter::repeat_with(changed).take(50).collect();
        times.dedup();
        if times.len() == 50 { Times::Fine } else { Times::Ticks }
    }

    /// Returns when a change has another time than any before.
    pub(crate) fn await_a_tick(&self) {
        let probe = tempfile::tempfile_in(self.root()).unwrap();
        let changed = || {
            probe.write_all_at(b"x", 0).unwrap();
            let stat = probe.metadata().unwrap();
            (stat.ctime(), stat.ctime_nsec())
        };
        let before = changed();
        while changed() == before {}
    }

    /// The names of files that may have changed without a new time.
    pub(crate) fn hidden(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let mut rest = vec![String::new()];
        while let Some(dir) = rest.pop() {
            for entry in fs::read_dir(self.at(&dir)).unwrap().map(Result::unwrap) {
                let name = format!("{dir}/{}", entry.file_name().to_str().unwrap());
                if entry.file_type().unwrap().is_dir() {
                    rest.push(name);
                } else if self.written.contains(&entry.ino()) {
                    names.insert(name);
                }
            }
        }
        names
    }

    /// The directories in which something happened, as far as a watch would tell.
    pub(crate) fn touched(&self) -> &BTreeSet<String> {
        &self.touched
    }

    /// A scan saw all that a watch tells of.
    pub(crate) fn seen(&mut self) {
        self.history.push("-- scan".into());
        self.touched.clear();
    }

    /// A scan saw everything, and nothing can be hidden any more.
    pub(crate) fn settled(&mut self) {
        self.seen();
        self.written.clear();
    }

    pub(crate) fn history(&self) -> &[String] {
        &self.history
    }

    /// All that was written through mappings is on the disk: the next write moves a time.
    pub(crate) fn sync(&mut self) {
        self.mapped.iter().for_each(|mapped| mapped.memory.flush().unwrap());
    }

    /// Something happens; often nothing, as what it would happen to is not there.
    pub(crate) fn change(&mut self, random: &mut Random) {
        let (one, other) = (self.name(random), self.name(random));
        let what = random.below(22);
        let done = match what {
            0..=2 => self.write(&one, random),
            3 => self.append(&one),
            4 => self.truncate(&one, random),
            5 => self.map(&one),
            6..=8 => self.write_mapped(random),
            9 => fs::rename(self.at(&one), self.at(&other)).is_ok(),
            10 => {
                let (from, to) = (self.at(&one), self.at(&other));
                rustix::fs::renameat_with(CWD, &from, CWD, &to, RenameFlags::EXCHANGE).is_ok()
            }
            11 => fs::hard_link(self.at(&one), self.at(&other)).is_ok(),
            12 => fs::remove_file(self.at(&one)).is_ok(),
            13 => fs::remove_file(self.at(&one)).is_ok() && self.write(&one, random),
            14 => self.chmod(&one, random),
            15 => self.attribute(&one, random),
            16 => self.write_and_put_time_back(&one, random),
            17 => fs::create_dir(self.at(&one)).is_ok(),
            18 => fs::remove_dir_all(self.at(&one)).is_ok(),
            19 => symlink(random.one(&NAMES), self.at(&one)).is_ok(),
            20 => self.special(&one, random),
            _ => self.chown(&one, random),
        };
        if done {
            self.history.push(format!("{what} {one} {other}"));
            self.touch(&one);
            self.touch(&other);
        }
    }

    /// A watch tells of the directory, and of what is new below it.
    fn touch(&mut self, name: &str) {
        let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
        self.touched.insert(if parent.is_empty() { "/".to_owned() } else { parent.to_owned() });
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root().join(name.trim_start_matches('/'))
    }

    fn name(&self, random: &mut Random) -> String {
        let depth = 1 + random.below(3);
        (0..depth).map(|_| format!("/{}", random.one(&NAMES))).collect()
    }

    fn open(&self, name: &str) -> Option<File> {
        let path = self.at(name);
        let regular = fs::symlink_metadata(&path).ok()?.is_file();
        if regular { OpenOptions::new().read(true).write(true).open(path).ok() } else { None }
    }

    /// Writes over what is there, or makes a file.
    fn write(&mut self, name: &str, random: &mut Random) -> bool {
        let path = self.at(name);
        if path.symlink_metadata().is_err() {
            let len = usize::try_from(random.below(6000)).unwrap();
            return fs::write(path, vec![7; len]).is_ok();
        }
        let Some(file) = self.open(name) else { return false };
        file.write_all_at(&random.below(u64::MAX).to_le_bytes(), random.below(5000)).is_ok()
    }

    fn append(&mut self, name: &str) -> bool {
        let Some(file) = self.open(name) else { return false };
        let len = file.metadata().unwrap().len();
        file.write_all_at(b"more", len).is_ok()
    }

    fn truncate(&mut self, name: &str, random: &mut Random) -> bool {
        let Some(file) = self.open(name) else { return false };
        file.set_len(random.below(6000)).is_ok()
    }

    fn map(&mut self, name: &str) -> bool {
        let Some(file) = self.open(name).filter(|file| self.maps && file.metadata().unwrap().len() > 0)
        else {
            return false;
        };
        #[expect(unsafe_code, reason = "the writer this is about can't be had without a mapping")]
        // SAFETY: the file is this test's own; it is written to, but never through a reference that is held meanwhile,
        // and the mapping is only touched below the length it has just then.
        let memory = unsafe { MmapMut::map_mut(&file) }.unwrap();
        self.mapped.push(Mapped { file, memory });
        self.write_to(self.mapped.len() - 1, 0, 1)
    }

    fn write_mapped(&mut self, random: &mut Random) -> bool {
        if self.mapped.is_empty() {
            return false;
        }
        let which = usize::try_from(random.below(self.mapped.len() as u64)).unwrap();
        let (place, value) = (random.below(6000), random.below(256));
        if self.write_to(which, place, u8::try_from(value).unwrap()) {
            self.history.push(format!("through mapping {which}"));
        }
        // No watch tells of it.
        false
    }

    fn write_to(&mut self, which: usize, place: u64, value: u8) -> bool {
        let mapped = &mut self.mapped[which];
        let stat = mapped.file.metadata().unwrap();
        let place = usize::try_from(place.min(stat.len().saturating_sub(1))).unwrap();
        if stat.len() == 0 || place >= mapped.memory.len() {
            return false;
        }
        mapped.memory[place] = value;
        self.written.insert(stat.ino());
        true
    }

    fn chmod(&mut self, name: &str, random: &mut Random) -> bool {
        let path = self.at(name);
        // A symbolic link would lead to another name, of which nobody were told.
        let link = path.symlink_metadata().is_ok_and(|stat| stat.is_symlink());
        let mode = 0o700 | u32::try_from(random.below(0o100)).unwrap();
        !link && fs::set_permissions(path, fs::Permissions::from_mode(mode)).is_ok()
    }

    fn chown(&mut self, name: &str, random: &mut Random) -> bool {
        let group = u32::try_from(random.below(4)).unwrap();
        std::os::unix::fs::lchown(self.at(name), None, Some(group)).is_ok()
    }

    fn attribute(&mut self, name: &str, random: &mut Random) -> bool {
        let path = self.at(name);
        let (attribute, value) = (format!("user.{}", random.one(&NAMES)), random.below(3).to_string());
        match random.below(3) {
            0 => rustix::fs::lremovexattr(path, attribute).is_ok(),
            _ => rustix::fs::lsetxattr(path, attribute, value.as_bytes(), XattrFlags::empty()).is_ok(),
        }
    }

    /// Whoever wants to hide a change can set the time of modification, but not that of the change.
    fn write_and_put_time_back(&mut self, name: &str, random: &mut Random) -> bool {
        let Some(file) = self.open(name) else { return false };
        let stat = rustix::fs::fstat(&file).unwrap();
        let time = |sec, nsec| Timespec { tv_sec: sec, tv_nsec: i64::try_from(nsec).unwrap() };
        let times = Timestamps {
            last_access: time(stat.st_atime, stat.st_atime_nsec),
            last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
        };
        let written = file.write_all_at(&[u8::try_from(random.below(256)).unwrap()], 0).is_ok();
        written && rustix::fs::futimens(&file, &times).is_ok()
    }

    fn special(&mut self, name: &str, random: &mut Random) -> bool {
        let kind = if random.below(2) == 0 { FileType::Fifo } else { FileType::Socket };
        rustix::fs::mknodat(CWD, self.at(name), kind, Mode::from_raw_mode(0o600), 0).is_ok()
    }
}
