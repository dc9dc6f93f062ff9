//! How much memory: measured in processes of their own, which the harness starts of itself.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use dominator_core::inode::{Inode, Kind, Mode, Timestamp, Xattrs};
use dominator_core::object::ObjectId;
use dominator_core::path::Name;
use dominator_core::tree::{Directory, DirectoryMap, Snapshot};
use dominator_core::view::View;
use dominator_fs::root::Root;
use dominator_fs::scan::{Cancel, Scanner};
use serde::{Deserialize, Serialize};

use crate::THREADS;
use dominator_benches::table::{Bar, Unit};

/// What a process of its own does.
#[derive(Clone, Debug)]
pub(crate) enum Task {
    /// Scans this directory.
    Scan(PathBuf),
    /// Makes a tree of so many entries.
    Synthetic(u64),
}

impl FromStr for Task {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("scan", root)) => Ok(Self::Scan(root.into())),
            Some(("synthetic", entries)) => entries.parse().map(Self::Synthetic).map_err(|_| text.into()),
            _ => Err(text.into()),
        }
    }
}

/// What the process saw, in bytes.
#[derive(Debug, Serialize, Deserialize)]
struct Seen {
    /// Resident before anything was done.
    before: u64,
    /// The most that was ever resident.
    peak: u64,
    /// What one tree needs.
    tree: u64,
    /// How many entries it has.
    entries: u64,
}

/// Carries out a task and says what was seen.
pub(crate) fn carry_out(task: &Task) {
    let seen = match task {
        Task::Scan(root) => scan(root),
        Task::Synthetic(entries) => synthetic(*entries),
    };
    println!("{}", serde_json::to_string(&seen).unwrap());
}

/// What is promised about memory, of scans of `root` and of a tree of `entries`.
pub(crate) fn bars(root: &Path, entries: u64) -> [Bar; 3] {
    let scan = observe(&format!("scan={}", root.display()));
    let beyond = mebibytes(scan.peak.saturating_sub(scan.before + scan.tree));
    let shown = format!("peak {:.1} MiB, tree {:.1} MiB", mebibytes(scan.peak), mebibytes(scan.tree));
    let large = observe(&format!("synthetic={entries}"));
    let synthetic = mebibytes(large.peak.saturating_sub(large.before));
    [
        Bar::at_most("memory of a full scan of A beyond its tree", shown, beyond, 24.0, Unit::Mebibytes),
        tree_bar("tree of A, an entry", &scan),
        Bar::at_most(
            "a tree of many entries",
            format!("{} entries", large.entries),
            synthetic,
            1024.0,
            Unit::Mebibytes,
        ),
    ]
}

fn tree_bar(work: &str, seen: &Seen) -> Bar {
    let entry = ratio(seen.tree, seen.entries);
    Bar::at_most(work, format!("{} entries", seen.entries), entry, 120.0, Unit::Bytes)
}

fn observe(task: &str) -> Seen {
    let output = Command::new(env::current_exe().unwrap()).args(["--memory", task]).output().unwrap();
    assert!(output.status.success(), "{task}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn scan(root: &Path) -> Seen {
    let scanner = Scanner::new(Root::open(root).unwrap(), Arc::new(View::everything())).threads(THREADS);
    let before = status("VmRSS:");
    let scan = scanner.scan(&Cancel::default()).unwrap();
    let peak = status("VmHWM:");
    let counts = scan.counts;
    let entries = counts.directories + counts.files + counts.symlinks + counts.special + counts.unknown;
    Seen { before, peak, tree: resident(&scan.snapshot), entries }
}

/// What one copy of this tree needs: the first copies fill what the scan gave back.
fn resident(tree: &Snapshot) -> u64 {
    let mut copies = Vec::new();
    let mut copy = |times: usize| {
        copies.extend((0..times).map(|_| copied(tree)));
        status("VmRSS:")
    };
    let filled = copy(4);
    (copy(8) - filled) / 8
}

fn copied(tree: &Snapshot) -> DirectoryMap {
    let mut copy = DirectoryMap::default();
    for (id, directory) in tree.directories.iter() {
        copy.share(*id, Arc::new(Directory::decode(Bytes::copy_from_slice(directory.encoded())).unwrap()));
    }
    copy
}

/// Directories of twenty files each, a thousand of them in each directory above, with names as long as names are.
fn synthetic(entries: u64) -> Seen {
    let before = status("VmRSS:");
    let mut directories = DirectoryMap::default();
    let mut groups = Vec::new();
    for group in 0..entries.div_ceil(1000 * 20) {
        let mut lower = Vec::new();
        for number in group * 1000..(group + 1) * 1000 {
            let files = (number * 20..(number + 1) * 20).map(|number| named("file", number, file(number)));
            lower.push(named("directory", number, add(&mut directories, files)));
        }
        groups.push(named("group", group, add(&mut directories, lower)));
    }
    add(&mut directories, groups);
    let (peak, tree) = (status("VmHWM:"), status("VmRSS:").saturating_sub(before));
    let lens = directories.iter().map(|(_, directory)| u64::try_from(directory.len()).unwrap());
    Seen { before, peak, tree, entries: lens.sum() }
}

fn add(directories: &mut DirectoryMap, entries: impl IntoIterator<Item = (Name, Inode)>) -> Inode {
    inode(Kind::Directory { id: directories.insert(Directory::new(entries).unwrap()) })
}

fn named(kind: &str, number: u64, inode: Inode) -> (Name, Inode) {
    (Name::parse(format!("{kind}-{number:08}").as_bytes()).unwrap(), inode)
}

fn file(number: u64) -> Inode {
    let object = ObjectId::of(&number.to_le_bytes());
    inode(Kind::Regular { mtime: Timestamp::new(1_700_000_000, 0).unwrap(), size: number, object })
}

fn inode(kind: Kind) -> Inode {
    Inode { mode: Mode::from_st_mode(0o644), uid: 0, gid: 0, xattrs: Xattrs::default(), kind }
}

/// A line of `/proc/self/status`, which is in kibibytes; in bytes.
fn status(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

#[expect(clippy::cast_precision_loss, reason = "for people to read")]
fn ratio(bytes: u64, entries: u64) -> f64 {
    bytes as f64 / entries as f64
}
