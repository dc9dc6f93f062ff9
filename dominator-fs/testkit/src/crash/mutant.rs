use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dominator_core::inode::{Mode, Timestamp};
use dominator_fs::seam::{At, Node, Remove, Rename, Seam};
use rustix::fs::IFlags;
use rustix::io::Errno;

/// A fault to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is ever waited for.
    NoSync,
    /// Contents are not waited for, names are.
    NoSyncOfFiles,
    /// Names are not waited for, contents are.
    NoSyncOfDirectories,
    /// What is put in place gets its metadata there.
    LateMetadata,
    /// The journal gets its name when the first paths have changed.
    LateJournal,
    /// A recovery makes every exchange again, whether it was made or not.
    Replay,
    /// No fault of ours: the disk can't do the renaming of that number.
    Fails(usize),
    /// No fault of ours: the disk takes nothing from the renaming of that number on.
    Breaks(usize),
}

impl Fault {
    /// After how many changes of paths a late journal comes.
    const LATE: usize = 3;

    /// The fault whose `Debug` that is.
    pub fn named(name: &str) -> Option<Self> {
        let all = [
            Self::NoSync,
            Self::NoSyncOfFiles,
            Self::NoSyncOfDirectories,
            Self::LateMetadata,
            Self::LateJournal,
            Self::Replay,
        ];
        all.into_iter().find(|fault| format!("{fault:?}") == name)
    }

    /// What puts this fault into a seam, for an update and for its recoveries.
    pub fn into_seams(self) -> impl Fn(Arc<dyn Seam>) -> Arc<dyn Seam> {
        let exchanges = Arc::default();
        move |seam| {
            let exchanges = Arc::clone(&exchanges);
            Arc::new(Mutant { seam, fault: self, exchanges, state: Mutex::default() }) as Arc<dyn Seam>
        }
    }
}

/// A seam that does not do all it is asked, or not in order. A test that can't tell it from a good one is no test.
struct Mutant {
    seam: Arc<dyn Seam>,
    fault: Fault,
    /// All that were ever made, and are to be made again.
    exchanges: Arc<Mutex<BTreeMap<[Key; 2], [Kept; 2]>>>,
    state: Mutex<State>,
}

/// A directory's number and a name in it.
type Key = (u64, Vec<u8>);
/// A directory and a name in it, for later.
type Kept = (OwnedFd, Vec<u8>);

#[derive(Default)]
struct State {
    /// What was to be done to metadata, and was not.
    undressed: BTreeMap<Key, Vec<Dress>>,
    /// The renaming of the journal that has yet to be done, and after how many others.
    journal: Option<([Kept; 2], Rename, usize)>,
    made: BTreeSet<[Key; 2]>,
    renames: usize,
}

enum Dress {
    Mode(Mode),
    Owner(u32, u32),
    Mtime(Timestamp),
    Xattr(Vec<u8>, Vec<u8>),
}

impl Mutant {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the disk still takes changes.
    fn works(&self) -> io::Result<()> {
        if let Fault::Breaks(nth) = self.fault
            && self.state().renames >= nth
        {
            return Err(Errno::IO.into());
        }
        Ok(())
    }

    /// Counts a renaming, and fails with the one that is to fail.
    fn renames(&self) -> io::Result<()> {
        let mut state = self.state();
        state.renames += 1;
        if self.fault == Fault::Fails(state.renames) { Err(Errno::IO.into()) } else { Ok(()) }
    }

    /// Whether metadata are for later.
    fn puts_off(&self, at: At<'_>, dress: Dress) -> io::Result<bool> {
        let late = self.fault == Fault::LateMetadata && !at.name.is_empty();
        if late {
            self.state().undressed.entry(key(at)?).or_default().push(dress);
        }
        Ok(late)
    }

    /// Does to what came to `at` what was to be done where it was.
    fn dress(&self, was: &Key, at: At<'_>) -> io::Result<()> {
        let late = self.state().undressed.remove(was).unwrap_or_default();
        late.into_iter().try_for_each(|dress| match dress {
            Dress::Mode(mode) => self.seam.chmod(at, mode),
            Dress::Owner(uid, gid) => self.seam.chown(at, uid, gid),
            Dress::Mtime(mtime) => self.seam.set_mtime(at, mtime),
            Dress::Xattr(name, value) => self.seam.set_xattr(at, &name, &value),
        })
    }

    /// Gives the journal its name when enough paths have changed.
    fn journal_is_due(&self) -> io::Result<()> {
        let mut state = self.state();
        let Some((_, _, left)) = &mut state.journal else { return Ok(()) };
        *left -= 1;
        if *left > 0 {
            return Ok(());
        }
        let Some((places, rename, _)) = state.journal.take() else { return Ok(()) };
        drop(state);
        let [from, to] = places.each_ref().map(|(dir, name)| At::new(dir.as_fd(), name));
        self.seam.rename(from, to, rename)
    }

    fn replay(&self) -> io::Result<()> {
        let made = self.state().made.clone();
        let exchanges = self.exchanges.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, places) in exchanges.iter().filter(|(keys, _)| !made.contains(*keys)) {
            let [one, other] = places.each_ref().map(|(dir, name)| At::new(dir.as_fd(), name));
            match self.seam.rename(one, other, Rename::Exchange) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                done => done?,
            }
        }
        Ok(())
    }
}

fn key(at: At<'_>) -> io::Result<Key> {
    Ok((rustix::fs::fstat(at.dir)?.st_ino, at.name.to_vec()))
}

fn kept(at: At<'_>) -> io::Result<Kept> {
    Ok((at.dir.try_clone_to_owned()?, at.name.to_vec()))
}

impl Seam for Mutant {
    fn mkdir(&self, at: At<'_>, mode: Mode) -> io::Result<()> {
        self.works()?;
        self.seam.mkdir(at, mode)
    }

    fn create(&self, at: At<'_>, mode: Mode) -> io::Result<File> {
        self.works()?;
        self.seam.create(at, mode)
    }

    fn write(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        self.works()?;
        self.seam.write(file, bytes)
    }

    fn reflink(&self, from: &File, to: &File) -> io::Result<()> {
        self.works()?;
        self.seam.reflink(from, to)
    }

    fn truncate(&self, file: &File, len: u64) -> io::Result<()> {
        self.works()?;
        self.seam.truncate(file, len)
    }

    fn symlink(&self, target: &[u8], at: At<'_>) -> io::Result<()> {
        self.works()?;
        self.seam.symlink(target, at)
    }

    fn mknod(&self, at: At<'_>, node: Node, mode: Mode) -> io::Result<()> {
        self.works()?;
        self.seam.mknod(at, node, mode)
    }

    fn link(&self, from: At<'_>, to: At<'_>) -> io::Result<()> {
        self.works()?;
        self.seam.link(from, to)
    }

    fn rename(&self, from: At<'_>, to: At<'_>, rename: Rename) -> io::Result<()> {
        self.renames()?;
        self.works()?;
        if self.fault == Fault::LateJournal && to.name == b"journal" {
            self.state().journal = Some(([kept(from)?, kept(to)?], rename, Fault::LATE));
            return Ok(());
        }
        self.seam.rename(from, to, rename)?;
        let keys = [key(from)?, key(to)?];
        if self.fault == Fault::Replay && rename == Rename::Exchange {
            let places = [kept(from)?, kept(to)?];
            self.exchanges.lock().unwrap_or_else(PoisonError::into_inner).insert(keys.clone(), places);
            self.state().made.insert(keys.clone());
        }
        let [was_from, was_to] = &keys;
        self.dress(was_from, to)?;
        self.dress(was_to, from)?;
        self.journal_is_due()
    }

    fn remove(&self, at: At<'_>, remove: Remove) -> io::Result<()> {
        self.works()?;
        self.seam.remove(at, remove)
    }

    fn chmod(&self, at: At<'_>, mode: Mode) -> io::Result<()> {
        self.works()?;
        if self.puts_off(at, Dress::Mode(mode))? { Ok(()) } else { self.seam.chmod(at, mode) }
    }

    fn chown(&self, at: At<'_>, uid: u32, gid: u32) -> io::Result<()> {
        self.works()?;
        if self.puts_off(at, Dress::Owner(uid, gid))? { Ok(()) } else { self.seam.chown(at, uid, gid) }
    }

    fn set_mtime(&self, at: At<'_>, mtime: Timestamp) -> io::Result<()> {
        self.works()?;
        if self.puts_off(at, Dress::Mtime(mtime))? { Ok(()) } else { self.seam.set_mtime(at, mtime) }
    }

    fn set_xattr(&self, at: At<'_>, name: &[u8], value: &[u8]) -> io::Result<()> {
        self.works()?;
        if self.puts_off(at, Dress::Xattr(name.to_vec(), value.to_vec()))? {
            Ok(())
        } else {
            self.seam.set_xattr(at, name, value)
        }
    }

    fn remove_xattr(&self, at: At<'_>, name: &[u8]) -> io::Result<()> {
        self.works()?;
        self.seam.remove_xattr(at, name)
    }

    fn set_flags(&self, fd: BorrowedFd<'_>, flags: IFlags) -> io::Result<()> {
        self.works()?;
        self.seam.set_flags(fd, flags)
    }

    fn fsync(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.works()?;
        let stat = rustix::fs::fstat(fd)?;
        let directory = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
        let lost = match self.fault {
            Fault::NoSync => true,
            Fault::NoSyncOfFiles => !directory,
            Fault::NoSyncOfDirectories => directory,
            Fault::LateMetadata | Fault::LateJournal | Fault::Replay | Fault::Fails(_) | Fault::Breaks(_) => {
                false
            }
        };
        if lost { Ok(()) } else { self.seam.fsync(fd) }
    }

    fn syncfs(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.works()?;
        if self.fault == Fault::Replay {
            self.replay()?;
        }
        if self.fault == Fault::NoSync { Ok(()) } else { self.seam.syncfs(fd) }
    }
}
