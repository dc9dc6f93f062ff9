//! What no scan may ever open, and who tells when one does.

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use dominator_core::object::ObjectId;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::fs::{CWD, FileType, Mode};
use rustix::io::Errno;

/// What the files outside hold.
pub(crate) const SECRET: &[u8] = b"from outside";

/// Directories, each in the one before, that are inside and outside by the same names.
pub(crate) const CHAIN: [&str; 4] = ["", "deeper", "deeper/deeper", "deeper/deeper/deeper"];

/// A tree beside the one that is scanned: `secret`, `pipe` that nobody writes to, `null` where that can be made, and
/// `dir` with names that are inside as well. The kernel tells of everything there that is opened.
pub(crate) struct Outside {
    pub(crate) path: PathBuf,
    watch: OwnedFd,
}

impl Outside {
    pub(crate) fn make(path: &Path) -> Self {
        let dirs = [path.to_owned()].into_iter().chain(CHAIN.map(|below| path.join("dir").join(below)));
        let dirs: Vec<_> = dirs.collect();
        for dir in &dirs {
            fs::create_dir(dir).unwrap();
            fs::write(dir.join("secret"), SECRET).unwrap();
            fs::write(dir.join("inside"), SECRET).unwrap();
            special(&dir.join("pipe"), FileType::Fifo).unwrap();
            // Containers that let nobody make devices need none to be safe from.
            special(&dir.join("null"), FileType::CharacterDevice).unwrap_or_default();
        }
        let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        for dir in &dirs {
            inotify::add_watch(&watch, dir, WatchFlags::OPEN | WatchFlags::ACCESS).unwrap();
        }
        Self { path: path.to_owned(), watch }
    }

    /// Panics if anything there was opened, or could have been without being noticed.
    pub(crate) fn was_left_alone(&self) {
        assert_eq!(self.opened(), Vec::<String>::new(), "opened outside the root");
        drop(fs::read(self.path.join("dir/secret")).unwrap());
        assert!(self.opened().contains(&"secret".into()), "the watch sees nothing at all");
    }

    pub(crate) fn secret() -> ObjectId {
        ObjectId::of(SECRET)
    }

    /// The names of what was opened there since this was asked last; none for one of the directories by itself.
    pub(crate) fn opened(&self) -> Vec<String> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.watch, &mut buffer);
        let mut opened = Vec::new();
        loop {
            match reader.next() {
                Err(Errno::AGAIN) => return opened,
                Ok(event) => {
                    assert!(!event.events().contains(ReadFlags::QUEUE_OVERFLOW));
                    opened.push(
                        event.file_name().map_or_else(String::new, |name| name.to_string_lossy().into()),
                    );
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Makes a pipe, or the device that swallows everything.
pub(crate) fn special(path: &Path, kind: FileType) -> rustix::io::Result<()> {
    rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o644), rustix::fs::makedev(1, 3))
}
