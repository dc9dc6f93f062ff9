//! The walk: a task for each directory, and for each handful of files in it.
//!
//! Tasks are queued with paths, not handles, so that what is open at a time goes by the number of threads, not by how
//! deep or wide the tree is; and no task waits for another, so that stacks stay flat.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dominator_core::inode::{Inode, Why};
use dominator_core::path::{ImagePath, Name};
use dominator_core::view::View;
use rayon::{Scope, ThreadPool};
use rustix::fs::{FileType, RawDir, Statx};
use rustix::io::Errno;

use super::collect::Collected;
use super::look::{self, FileKey, Identity, Look, is_gone, key_of, type_of, unreadable};
use super::{Cancel, Progress, ScanError};
use crate::root::{self, Root};

/// Looks at everything in view.
pub(super) fn walk(
    pool: &ThreadPool,
    root: &Root,
    view: &View,
    cancel: &Cancel,
    progress: &Progress,
) -> Result<Collected, ScanError> {
    let top = root::inode_of(root).map_err(|source| ScanError::Root { source })?;
    let walk = Walk {
        root,
        view,
        cancel,
        progress,
        collected: Mutex::default(),
        linked: Mutex::default(),
        bytes: AtomicU64::new(0),
        opened: AtomicU64::new(0),
        ended: AtomicBool::new(false),
        error: Mutex::default(),
    };
    pool.scope(|scope| walk.run(|| walk.directory(scope, ImagePath::root(), &top)));
    match walk.error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => {
            let mut collected = walk.collected.into_inner().unwrap_or_else(PoisonError::into_inner);
            collected.bytes_hashed = walk.bytes.into_inner();
            collected.files_opened = walk.opened.into_inner();
            Ok(collected)
        }
    }
}

/// What all tasks share.
struct Walk<'a> {
    root: &'a Root,
    view: &'a View,
    cancel: &'a Cancel,
    progress: &'a Progress,
    collected: Mutex<Collected>,
    /// Files of several names, so that they are read once.
    linked: Mutex<HashMap<FileKey, (Identity, Inode)>>,
    /// How much was read; `progress` may be shared with other scans.
    bytes: AtomicU64,
    /// How many regular files were opened.
    opened: AtomicU64,
    ended: AtomicBool,
    /// Why it ended early: the first reason.
    error: Mutex<Option<ScanError>>,
}

/// How many names one task looks at: enough to be worth a task, few enough to share out a directory of large files.
const HANDFUL: usize = 16;

impl<'a> Walk<'a> {
    /// Runs a task, unless the walk has ended; ends the walk when the task fails.
    fn run(&self, task: impl FnOnce() -> Result<(), ScanError>) {
        if self.ended.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = self.check().and_then(|()| task()) {
            self.ended.store(true, Ordering::Relaxed);
            lock(&self.error).get_or_insert(error);
        }
    }

    fn check(&self) -> Result<(), ScanError> {
        if self.cancel.is_cancelled() { Err(ScanError::Cancelled) } else { Ok(()) }
    }

    /// Looks at a directory, of which `seen` was told when its name was.
    fn directory<'s>(&'s self, scope: &Scope<'s>, path: ImagePath, seen: &Statx) -> Result<(), ScanError>
    where
        'a: 's,
    {
        let opened = match self.open_directory(&path, seen) {
            Ok(opened) => opened,
            Err(error) if path.is_root() => return Err(ScanError::Root { source: error }),
            Err(error) => return self.no_directory(&path, &error),
        };
        lock(&self.collected).enter(path.clone(), self.view.inode(&opened.inode));
        let mut files = Vec::new();
        let directory = Arc::new((path, opened.handle));
        let (path, handle) = (&directory.0, directory.1.as_fd());
        for (raw, kind) in opened.names {
            let Some((name, below)) = self.in_view(path, &raw) else { continue };
            // A directory is handed on before any file is looked at, so that this one is closed early.
            match kind {
                FileType::Directory | FileType::Unknown => match root::inode_at(handle, &raw) {
                    Ok(stat) if type_of(&stat).is_dir() => self.hand_on(scope, below, handle, &raw, stat)?,
                    Ok(_) => files.push(name),
                    Err(error) if is_gone(&error) => {}
                    Err(error) => self.add(path, name, unreadable(&error)?),
                },
                FileType::Socket => lock(&self.collected).hold(path),
                FileType::RegularFile
                | FileType::Symlink
                | FileType::Fifo
                | FileType::CharacterDevice
                | FileType::BlockDevice => files.push(name),
            }
        }
        let mut files = files.into_iter().peekable();
        while files.peek().is_some() {
            let handful: Vec<_> = files.by_ref().take(HANDFUL).collect();
            let directory = Arc::clone(&directory);
            scope.spawn(move |scope| {
                self.run(|| self.files(scope, &directory.0, directory.1.as_fd(), handful))
            });
        }
        Ok(())
    }

    fn open_directory(&self, path: &ImagePath, seen: &Statx) -> io::Result<Opened> {
        let handle = self.root.directory(path)?;
        let stat = root::inode_of(&handle)?;
        if key_of(&stat) != key_of(seen) {
            return Err(Errno::NOTDIR.into());
        }
        let xattrs = root::xattrs_of(&handle, self.view.xattrs)?;
        Ok(Opened { names: names(&handle)?, inode: look::directory(&stat, xattrs), handle })
    }

    /// A directory that was there when its name was read is not, or not readable.
    fn no_directory(&self, path: &ImagePath, error: &io::Error) -> Result<(), ScanError> {
        let look = match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT) => return Ok(()),
            Some(Errno::NOTDIR | Errno::LOOP) => {
                Look::Unknown(Why::Changing, "something else took the place of a directory".into())
            }
            _ => unreadable(error)?,
        };
        if let Some((parent, name)) = path.split() {
            self.add(&parent, name, look);
        }
        Ok(())
    }

    /// The name and path, if they are in view and can be in a tree at all.
    fn in_view(&self, directory: &ImagePath, raw: &[u8]) -> Option<(Name, ImagePath)> {
        let parsed = Name::parse(raw).and_then(|name| Ok((directory.join(&name)?, name)));
        match parsed {
            Ok((below, name)) if self.view.shows(&below) => return Some((name, below)),
            Ok(_) => lock(&self.collected).hold(directory),
            Err(error) => {
                let mut collected = lock(&self.collected);
                collected.fact(directory.clone(), Why::Unreadable, error.to_string());
                collected.hold(directory);
            }
        }
        None
    }

    /// Queues a directory found at `path`. One where something is mounted is not entered.
    fn hand_on<'s>(
        &'s self,
        scope: &Scope<'s>,
        path: ImagePath,
        parent: BorrowedFd<'_>,
        name: &[u8],
        stat: Statx,
    ) -> Result<(), ScanError>
    where
        'a: 's,
    {
        if !self.root.is_elsewhere(&stat) {
            scope.spawn(move |scope| self.run(|| self.directory(scope, path, &stat)));
            return Ok(());
        }
        match root::xattrs_at(parent, name, self.view.xattrs) {
            Ok(xattrs) => {
                let mut collected = lock(&self.collected);
                collected.hold(&path);
                collected.enter(path, self.view.inode(&look::directory(&stat, xattrs)));
                Ok(())
            }
            Err(error) => self.no_directory(&path, &error),
        }
    }

    /// Looks at a handful of names that were no directories when the directory was read.
    fn files<'s>(
        &'s self,
        scope: &Scope<'s>,
        path: &ImagePath,
        dir: BorrowedFd<'_>,
        names: Vec<Name>,
    ) -> Result<(), ScanError>
    where
        'a: 's,
    {
        let mut looks = Vec::with_capacity(names.len());
        for name in names {
            self.check()?;
            let stat = match root::inode_at(dir, name.as_bytes()) {
                Ok(stat) => stat,
                Err(error) if is_gone(&error) => continue,
                Err(error) => {
                    looks.push((name, unreadable(&error)?, None));
                    continue;
                }
            };
            match type_of(&stat) {
                FileType::Socket => lock(&self.collected).hold(path),
                FileType::Directory => {
                    if let Ok(below) = path.join(&name) {
                        self.hand_on(scope, below, dir, name.as_bytes(), stat)?;
                    }
                }
                FileType::RegularFile
                | FileType::Symlink
                | FileType::Fifo
                | FileType::CharacterDevice
                | FileType::BlockDevice
                | FileType::Unknown => {
                    let look = self.file(dir, &name, &stat)?;
                    self.progress.files.fetch_add(1, Ordering::Relaxed);
                    looks.push((name, look, (stat.stx_nlink > 1).then(|| key_of(&stat))));
                }
            }
        }
        let mut collected = lock(&self.collected);
        for (name, look, key) in looks {
            collected.add(path, name, self.under_view(look), key);
        }
        Ok(())
    }

    fn file(&self, dir: BorrowedFd<'_>, name: &Name, stat: &Statx) -> Result<Look, ScanError> {
        if self.root.is_elsewhere(stat) {
            return Ok(Look::Unknown(Why::Unreadable, "something is mounted over it".into()));
        }
        let identity = Identity::of(stat);
        if stat.stx_nlink > 1
            && let Some((same, inode)) = lock(&self.linked).get(&key_of(stat))
            && *same == identity
        {
            return Ok(Look::Known(inode.clone()));
        }
        self.opened.fetch_add(u64::from(type_of(stat).is_file()), Ordering::Relaxed);
        let look = look::look(dir, name.as_bytes(), stat, self.view.xattrs, &|len| {
            self.progress.bytes.fetch_add(len as u64, Ordering::Relaxed);
            self.bytes.fetch_add(len as u64, Ordering::Relaxed);
            self.check()
        })?;
        if let (Look::Known(inode), true) = (&look, stat.stx_nlink > 1) {
            lock(&self.linked).insert(key_of(stat), (identity, inode.clone()));
        }
        Ok(look)
    }

    fn under_view(&self, look: Look) -> Look {
        match look {
            Look::Known(inode) => Look::Known(self.view.inode(&inode)),
            Look::Unknown(..) | Look::Vanished => look,
        }
    }

    fn add(&self, directory: &ImagePath, name: Name, look: Look) {
        lock(&self.collected).add(directory, name, look, None);
    }
}

/// A directory, open, and what it says it holds.
struct Opened {
    handle: OwnedFd,
    inode: Inode,
    names: Vec<(Vec<u8>, FileType)>,
}

/// The names in a directory, in order of their inodes, which is mostly the order they are on the disk in.
fn names(handle: &OwnedFd) -> io::Result<Vec<(Vec<u8>, FileType)>> {
    let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
    let mut entries = RawDir::new(handle, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push((entry.ino(), name.to_vec(), entry.file_type()));
        }
    }
    names.sort_by_key(|(ino, _, _)| *ino);
    Ok(names.into_iter().map(|(_, name, kind)| (name, kind)).collect())
}

/// Locks; a thread that panicked while it held the lock ends the whole pool anyway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
