//! Disks of our own: ext4 in files behind loop devices, fresh each time, as a file-system that has deleted much is slow.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use dominator_benches::contender::run;

/// What disks are made of.
pub(crate) struct Disks {
    /// The directory of the files behind them.
    pub(crate) images: PathBuf,
    /// The directory of the places where they are mounted.
    pub(crate) places: PathBuf,
    /// How large each is, in bytes.
    pub(crate) size: u64,
}

/// A file-system, mounted until it is dropped.
pub(crate) struct Disk {
    path: PathBuf,
}

impl Disks {
    /// A fresh one.
    pub(crate) fn mount(&self, name: &str) -> Disk {
        let (image, path) = (self.images.join(format!(".{name}.disk")), self.places.join(name));
        File::create(&image).unwrap().set_len(self.size).unwrap();
        // What is initialised later would be written while others are measured.
        let mut made = Command::new("mkfs.ext4");
        run(made.args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"]).arg(&image));
        fs::create_dir_all(&path).unwrap();
        let device = loop_device(&image);
        run(Command::new("mount").arg(&device).arg(&path));
        // In use, both go as soon as nobody has them any more.
        run(Command::new("losetup").arg("--detach").arg(&device));
        fs::remove_file(&image).unwrap();
        Disk { path }
    }
}

impl Disk {
    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What can't be unmounted is when the last process has ended.
        drop(Command::new("umount").arg(&self.path).status());
    }
}

/// Past the page cache, in which everything would be twice otherwise.
fn loop_device(image: &Path) -> String {
    let mut set_up = Command::new("losetup");
    let output = set_up.args(["--find", "--show", "--direct-io=on"]).arg(image).output().unwrap();
    assert!(output.status.success(), "{set_up:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Nothing that was written before is on its way to a disk any more.
pub(crate) fn settle() {
    rustix::fs::sync();
}
