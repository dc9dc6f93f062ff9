//! Where a root is: a directory in memory, or a file-system of its own, behind a loop device, whose power can be cut.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use dominator_fs_testkit::killing::output;
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use tempfile::TempDir;

/// A kind of file-system whose power can be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Without the heuristic that writes files before they are renamed over others: it hides what is missing.
    Ext4,
    Xfs,
}

impl Kind {
    fn mkfs(self, image: &Path) {
        let mut command = match self {
            Self::Ext4 => Command::new("mkfs.ext4"),
            Self::Xfs => Command::new("mkfs.xfs"),
        };
        match self {
            Self::Ext4 => {
                command.args(["-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"])
            }
            Self::Xfs => command.args(["-q", "-f"]),
        };
        run(command.arg(image));
    }

    const fn size(self) -> u64 {
        match self {
            Self::Ext4 => 48 << 20,
            // The least it takes.
            Self::Xfs => 300 << 20,
        }
    }

    const fn mount(self) -> [&'static str; 4] {
        match self {
            Self::Ext4 => ["-t", "ext4", "-o", "loop,noatime,noauto_da_alloc"],
            Self::Xfs => ["-t", "xfs", "-o", "loop,noatime"],
        }
    }
}

/// A directory for trees and images: in memory, where waiting for the disk costs nothing.
pub(crate) fn place() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

/// A file-system that is there as often as wanted, always the same at first.
pub(crate) struct Template {
    place: TempDir,
    kind: Kind,
}

impl Template {
    /// One with what `fill` makes in a directory of it.
    pub(crate) fn new(kind: Kind, fill: impl FnOnce(&Path)) -> Self {
        let template = Self { place: place(), kind };
        let image = template.image();
        fs::File::create(&image).unwrap().set_len(kind.size()).unwrap();
        kind.mkfs(&image);
        let disk = template.mounted(image);
        fs::create_dir(disk.root()).unwrap();
        fill(&disk.root());
        drop(disk);
        template
    }

    /// Another file-system like it.
    pub(crate) fn disk(&self) -> Mounted {
        let image = self.place.path().join("copy");
        run(Command::new("cp").arg("--sparse=always").arg(self.image()).arg(&image));
        self.mounted(image)
    }

    fn image(&self) -> PathBuf {
        self.place.path().join("image")
    }

    fn mounted(&self, image: PathBuf) -> Mounted {
        let at = self.place.path().join("mounted");
        fs::create_dir_all(&at).unwrap();
        let mounted = Mounted { image, at, kind: self.kind };
        mounted.mount();
        mounted
    }
}

/// A file-system that is mounted.
pub(crate) struct Mounted {
    image: PathBuf,
    at: PathBuf,
    kind: Kind,
}

impl Mounted {
    /// The directory that stands for `/`.
    pub(crate) fn root(&self) -> PathBuf {
        self.at.join("root")
    }

    /// Somebody else writes a file, and waits for it: what was done to names and metadata goes to the disk with it.
    pub(crate) fn neighbour(&self) {
        let mut file = fs::File::create(self.at.join("neighbour")).unwrap();
        file.write_all(b"waits").and_then(|()| file.sync_all()).unwrap();
    }

    /// Cuts the power, and mounts what is left.
    pub(crate) fn cut(&self) {
        run(Command::new(env!("CARGO_BIN_EXE_crash-victim")).arg("cut").arg(&self.at));
        self.unmount();
        self.mount();
    }

    fn mount(&self) {
        run(Command::new("mount").args(self.kind.mount()).arg(&self.image).arg(&self.at));
    }

    fn unmount(&self) {
        let mut attempts = 0;
        // Who was killed may take a moment to be gone.
        while let Err(error) = rustix::mount::unmount(&self.at, UnmountFlags::empty()) {
            attempts += 1;
            assert!(error == Errno::BUSY && attempts < 60_000, "{error}: somebody uses it");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.unmount();
        }
    }
}

pub(crate) fn run(command: &mut Command) {
    let output = output(command);
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
