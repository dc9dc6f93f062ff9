//! The names of a directory, as the kernel tells them or as they are known.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use dominator_core::path::Name;
use dominator_core::view::View;
use rustix::fs::{FileType, RawDir};

use super::known::{Child, Holding, Known};
use super::pending::{Pending, Place};

/// A name to be looked at.
#[derive(Debug)]
pub(super) enum Candidate {
    /// One that was no directory the last time.
    File(Place),
    /// One that was a directory.
    Directory(Place),
    /// One that was not there, and what the directory says it is.
    New(Name, FileType),
}

/// What a directory holds.
#[derive(Debug)]
pub(super) struct Names(Vec<Listed>);

#[derive(Debug)]
struct Listed {
    ino: u64,
    name: Result<Name, String>,
    kind: FileType,
}

/// Reads the names, each once.
pub(super) fn names(handle: &OwnedFd) -> io::Result<Names> {
    let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
    let mut entries = RawDir::new(handle, &mut buffer);
    rustix::fs::seek(handle, rustix::fs::SeekFrom::Start(0))?;
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            let name = Name::parse(name).map_err(|error| error.to_string());
            names.push(Listed { ino: entry.ino(), name, kind: entry.file_type() });
        }
    }
    // A directory that changes while it is read may tell a name twice.
    names.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    names.dedup_by(|a, b| a.name == b.name);
    Ok(Names(names))
}

/// What of these names is to be looked at under `view`: directories first, and then in order of their inodes, which
/// is mostly the order they are on the disk in.
pub(super) fn candidates(view: &View, pending: &Pending, Names(names): Names) -> Vec<Candidate> {
    let mut known = pending.old.iter().flat_map(|old| old.places()).peekable();
    let mut found = Vec::with_capacity(names.len());
    for Listed { ino, name, kind } in names {
        let name = match in_view(view, pending, name) {
            Ok(Some(name)) => name,
            Ok(None) => {
                pending.holding(Holding::Something);
                continue;
            }
            Err(detail) => {
                pending.missing(detail);
                continue;
            }
        };
        if kind == FileType::Socket {
            pending.holding(Holding::Something);
            continue;
        }
        while known.next_if(|(_, entry, _)| entry.name() < name.as_bytes()).is_some() {}
        let candidate = match known.next_if(|(_, entry, _)| entry.name() == name.as_bytes()) {
            Some((place, _, Child::File(_))) => Candidate::File(place),
            Some((place, _, Child::Directory(_))) => Candidate::Directory(place),
            None => Candidate::New(name, kind),
        };
        found.push((kind != FileType::Directory, ino, candidate));
    }
    found.sort_unstable_by_key(|(file, ino, _)| (*file, *ino));
    found.into_iter().map(|(_, _, candidate)| candidate).collect()
}

/// All that is known to be in a directory that has not changed.
pub(super) fn of(old: &Known) -> Vec<Candidate> {
    let candidate = |(place, _, child)| match child {
        Child::File(_) => Candidate::File(place),
        Child::Directory(_) => Candidate::Directory(place),
    };
    old.places().map(candidate).collect()
}

/// The name, if it is in view, and why not if no tree can hold it.
fn in_view(view: &View, pending: &Pending, name: Result<Name, String>) -> Result<Option<Name>, String> {
    let name = name?;
    let path = pending.path.join(&name).map_err(|error| error.to_string())?;
    Ok(view.shows(&path).then_some(name))
}
