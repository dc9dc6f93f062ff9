//! What is really there: reading it, and rearranging it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, FileType, IFlags, Mode, OFlags, RenameFlags, StatxAttributes, StatxFlags, Timespec,
    Timestamps, XattrFlags,
};

use super::State;
use super::world::{Attributes, Body, Node, NodeId, World};

const NAMED: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

pub(super) fn directory(path: &Path) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).expect("a directory to watch")
}

impl State {
    /// Takes in a directory and all that is in it.
    pub(super) fn take_in(&mut self, top: OwnedFd) -> NodeId {
        let id = NodeId(self.next);
        self.next += 1;
        let mut entries = BTreeMap::new();
        for name in names_in(top.as_fd()) {
            let handle = named(top.as_fd(), &name);
            let node = match self.numbers.get(&number_of(handle.as_fd())) {
                Some(known) => *known,
                None if is_directory(handle.as_fd()) => self.take_in(readable(handle.as_fd())),
                None => self.take(handle),
            };
            entries.insert(name, node);
        }
        self.numbers.insert(number_of(top.as_fd()), id);
        let attributes = attributes_of(top.as_fd());
        self.live.nodes.insert(id, Arc::new(Node { body: Body::Directory(entries), attributes }));
        self.handles.insert(id, top);
        id
    }

    fn take(&mut self, handle: OwnedFd) -> NodeId {
        let (id, node) = self.know(handle);
        self.live.nodes.insert(id, Arc::new(node));
        id
    }

    /// Gives an inode a number, and tells what it is.
    pub(super) fn know(&mut self, handle: OwnedFd) -> (NodeId, Node) {
        let id = NodeId(self.next);
        self.next += 1;
        let node = Node { body: body_of(handle.as_fd()), attributes: attributes_of(handle.as_fd()) };
        self.numbers.insert(number_of(handle.as_fd()), id);
        self.handles.insert(id, handle);
        (id, node)
    }

    pub(super) fn handle(&self, node: NodeId) -> BorrowedFd<'_> {
        self.handles.get(&node).expect("invariant: every inode that is known has a handle").as_fd()
    }

    pub(super) fn restore(&mut self, hoard: &OwnedFd, target: &World) {
        let pinned = |node: &Node| node.attributes.flags != 0;
        for (id, _) in self.live.nodes.iter().filter(|(_, node)| pinned(node)) {
            set_flags(self.handle(*id), 0);
        }
        let opened = self.open_up();
        let mut names = self.live.link_counts();
        self.park(hoard, target, &mut names);
        self.name(hoard, target, &mut names);
        for (id, wanted) in &target.nodes {
            let present = self.live.nodes.get(id).expect("invariant: every inode of a state is known");
            self.dress(*id, present, wanted, opened.contains(id));
        }
        for (id, wanted) in target.nodes.iter().filter(|(_, node)| pinned(node)) {
            set_flags(self.handle(*id), wanted.attributes.flags);
        }
        let mut live = target.clone();
        for (id, node) in &self.live.nodes {
            live.nodes.entry(*id).or_insert_with(|| hoarded_as(node));
        }
        self.live = live;
    }

    /// Takes away every name that is not in `target`; an inode's last one takes it to the hoard.
    fn park(&self, hoard: &OwnedFd, target: &World, names: &mut BTreeMap<NodeId, usize>) {
        for (dir, node) in &self.live.nodes {
            let Body::Directory(entries) = &node.body else { continue };
            let wanted = target.entries(*dir);
            for (name, id) in
                entries.iter().filter(|(name, id)| wanted.and_then(|w| w.get(*name)) != Some(*id))
            {
                let left = names.entry(*id).or_insert(1);
                if *left > 1 {
                    *left -= 1;
                    rustix::fs::unlinkat(self.handle(*dir), name, AtFlags::empty()).expect("one name less");
                } else {
                    names.remove(id);
                    hoarded(self.handle(*dir), name, hoard, *id);
                }
            }
        }
    }

    /// Gives every name that is missing.
    fn name(&self, hoard: &OwnedFd, target: &World, names: &mut BTreeMap<NodeId, usize>) {
        for (dir, node) in &target.nodes {
            let Body::Directory(entries) = &node.body else { continue };
            let present = self.live.entries(*dir);
            for (name, id) in
                entries.iter().filter(|(name, id)| present.and_then(|p| p.get(*name)) != Some(*id))
            {
                let dir = self.handle(*dir);
                let count = names.entry(*id).or_insert(0);
                if *count == 0 {
                    let from = hoard_name(*id);
                    rustix::fs::renameat_with(hoard, &*from, dir, name, RenameFlags::NOREPLACE)
                } else {
                    let from = itself(self.handle(*id));
                    rustix::fs::linkat(CWD, &*from, dir, name, AtFlags::SYMLINK_FOLLOW)
                }
                .expect("a name as it was");
                *count += 1;
            }
        }
    }

    /// Without privileges, directories are opened up as long as their entries change. Says which.
    fn open_up(&self) -> BTreeSet<NodeId> {
        if rustix::process::geteuid().is_root() {
            return BTreeSet::new();
        }
        let closed =
            |node: &Node| matches!(node.body, Body::Directory(_)) && node.attributes.mode & 0o700 != 0o700;
        let closed: BTreeSet<_> =
            self.live.nodes.iter().filter(|(_, node)| closed(node)).map(|(id, _)| *id).collect();
        for id in &closed {
            rustix::fs::chmod(itself(self.handle(*id)), Mode::RWXU).expect("a directory of one's own");
        }
        closed
    }

    fn dress(&self, id: NodeId, present: &Node, wanted: &Node, opened: bool) {
        let handle = self.handle(id);
        let mut changed = opened || present.attributes != wanted.attributes;
        if let (Body::File(is), Body::File(must)) = (&present.body, &wanted.body)
            && is != must
        {
            write_all(handle, must);
            changed = true;
        }
        if changed {
            dress(handle, &wanted.attributes);
        }
    }

    pub(super) fn forget(&mut self, hoard: &OwnedFd, from: NodeId) {
        let reachable = self.live.clone().reachable();
        let gone = self.live.nodes.split_off(&from);
        for (id, node) in gone {
            assert!(!reachable.nodes.contains_key(&id), "{id:?} is in the tree");
            let handle = self.handles.remove(&id).expect("invariant: every inode that is known has a handle");
            if node.attributes.flags != 0 {
                set_flags(handle.as_fd(), 0);
            }
            self.numbers.remove(&number_of(handle.as_fd()));
            let flags = match node.body {
                Body::Directory(_) => AtFlags::REMOVEDIR,
                Body::File(_) | Body::Symlink(_) | Body::Special { .. } => AtFlags::empty(),
            };
            rustix::fs::unlinkat(hoard, hoard_name(id), flags).expect("it waited in the hoard");
        }
        self.next = from.0;
    }

    /// Lets all be changed, and removed.
    pub(super) fn unpin(&self) {
        for (id, _) in self.live.nodes.iter().filter(|(_, node)| node.attributes.flags != 0) {
            set_flags(self.handle(*id), 0);
        }
        self.open_up();
    }

    pub(super) fn check(&self) {
        let known = self.live.clone().reachable();
        for (id, node) in &known.nodes {
            let handle = self.handle(*id);
            let there = Node {
                body: match &node.body {
                    Body::Directory(_) => Body::Directory(self.entries_there(handle)),
                    Body::File(_) | Body::Symlink(_) | Body::Special { .. } => body_of(handle),
                },
                attributes: attributes_of(handle),
            };
            assert_eq!(there, **node, "{id:?} is not what was recorded");
        }
        let names = known.link_counts();
        for (id, node) in known.nodes.iter().filter(|(_, node)| !matches!(node.body, Body::Directory(_))) {
            let links = stat_of(self.handle(*id)).stx_nlink;
            assert_eq!(usize::try_from(links).ok(), names.get(id).copied(), "names of {id:?}: {node:?}");
        }
    }

    fn entries_there(&self, dir: BorrowedFd<'_>) -> BTreeMap<Vec<u8>, NodeId> {
        let known = |name: &[u8]| self.numbers.get(&number_of(named(dir, name).as_fd())).copied();
        let entry = |name: Vec<u8>| {
            let node = known(&name).unwrap_or_else(|| panic!("{name:?} was made past the seam"));
            (name, node)
        };
        names_in(dir).into_iter().map(entry).collect()
    }
}

/// Moves what has that name to the hoard.
pub(super) fn hoarded(dir: BorrowedFd<'_>, name: &[u8], hoard: &OwnedFd, id: NodeId) {
    rustix::fs::renameat_with(dir, name, hoard, &*hoard_name(id), RenameFlags::NOREPLACE)
        .unwrap_or_else(|error| panic!("{:?} can't be put aside: {error}", String::from_utf8_lossy(name)));
}

fn hoard_name(id: NodeId) -> String {
    id.0.to_string()
}

/// What an inode is while it has no name.
fn hoarded_as(node: &Arc<Node>) -> Arc<Node> {
    let mut node = Arc::clone(node);
    if let Body::Directory(entries) = &node.body
        && !entries.is_empty()
    {
        Arc::make_mut(&mut node).body = Body::Directory(BTreeMap::new());
    }
    node
}

/// A handle that only names what is there.
pub(super) fn named(dir: BorrowedFd<'_>, name: &[u8]) -> OwnedFd {
    rustix::fs::openat(dir, name, NAMED, Mode::empty()).expect("what was just there")
}

pub(super) fn number_of(handle: BorrowedFd<'_>) -> u64 {
    stat_of(handle).stx_ino
}

fn stat_of(handle: BorrowedFd<'_>) -> rustix::fs::Statx {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::statx(handle, c"", flags, StatxFlags::BASIC_STATS).expect("an open file can be looked at")
}

fn is_directory(handle: BorrowedFd<'_>) -> bool {
    FileType::from_raw_mode(stat_of(handle).stx_mode.into()).is_dir()
}

fn readable(handle: BorrowedFd<'_>) -> OwnedFd {
    rustix::fs::openat(handle, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .expect("a directory that can be read")
}

fn names_in(dir: BorrowedFd<'_>) -> Vec<Vec<u8>> {
    let entries = rustix::fs::Dir::new(readable(dir)).expect("a directory");
    let names = entries.map(|entry| entry.expect("its next entry").file_name().to_bytes().to_vec());
    let mut names: Vec<_> = names.filter(|name| name != b"." && name != b"..").collect();
    names.sort();
    names
}

fn itself(handle: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", handle.as_raw_fd())
}

pub(super) fn attributes_of(handle: BorrowedFd<'_>) -> Attributes {
    let stat = stat_of(handle);
    let kind = FileType::from_raw_mode(stat.stx_mode.into());
    let timed = !kind.is_dir() && !kind.is_symlink();
    Attributes {
        mode: u32::from(stat.stx_mode) & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        mtime: timed.then_some((stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec)),
        xattrs: xattrs_of(handle),
        flags: flags_of(&stat).bits(),
    }
}

fn body_of(handle: BorrowedFd<'_>) -> Body {
    let stat = stat_of(handle);
    let kind = FileType::from_raw_mode(stat.stx_mode.into());
    match kind {
        FileType::Directory => Body::Directory(BTreeMap::new()),
        FileType::RegularFile => {
            let mut contents = Vec::new();
            let mut file = File::open(itself(handle)).expect("a file that can be read");
            file.read_to_end(&mut contents).expect("its contents");
            Body::File(Arc::new(contents))
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(handle, c"", Vec::new()).expect("where it leads");
            Body::Symlink(target.into_bytes())
        }
        FileType::Fifo | FileType::Socket | FileType::CharacterDevice | FileType::BlockDevice => {
            let device = rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor);
            Body::Special { kind: kind.as_raw_mode(), device }
        }
        FileType::Unknown => panic!("a kind of file nobody knows"),
    }
}

fn xattrs_of(handle: BorrowedFd<'_>) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let path = itself(handle);
    let mut list = vec![0; 64 * 1024];
    // Some file-systems have none.
    let len = rustix::fs::listxattr(&*path, &mut list).unwrap_or(0);
    let names = list.get(..len).unwrap_or_default().split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 64 * 1024];
        let len = rustix::fs::getxattr(&*path, name, &mut value).expect("an attribute that is listed");
        value.truncate(len);
        value
    };
    names.map(|name| (name.to_vec(), value(name))).collect()
}

fn write_all(handle: BorrowedFd<'_>, contents: &[u8]) {
    if !rustix::process::geteuid().is_root() {
        rustix::fs::chmod(itself(handle), Mode::RWXU).expect("a file of one's own");
    }
    let file = File::options().write(true).truncate(true).open(itself(handle));
    file.and_then(|mut file| file.write_all(contents)).expect("contents as they were");
}

fn dress(handle: BorrowedFd<'_>, wanted: &Attributes) {
    let stat = stat_of(handle);
    let path = itself(handle);
    if (stat.stx_uid, stat.stx_gid) != (wanted.uid, wanted.gid) {
        let (uid, gid) = (rustix::fs::Uid::from_raw(wanted.uid), rustix::fs::Gid::from_raw(wanted.gid));
        rustix::fs::chownat(handle, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH).expect("an owner");
    }
    let present = xattrs_of(handle);
    for name in present.keys().filter(|name| !wanted.xattrs.contains_key(*name)) {
        rustix::fs::removexattr(&*path, &**name).expect("one attribute less");
    }
    for (name, value) in wanted.xattrs.iter().filter(|(name, value)| present.get(*name) != Some(*value)) {
        rustix::fs::setxattr(&*path, &**name, value, XattrFlags::empty()).expect("an attribute");
    }
    if !FileType::from_raw_mode(stat.stx_mode.into()).is_symlink() {
        rustix::fs::chmod(&*path, Mode::from_raw_mode(wanted.mode)).expect("a mode");
    }
    if let Some((seconds, nanos)) = wanted.mtime {
        let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, &*path, &times, AtFlags::empty()).expect("a time");
    }
}

/// The flags that keep an inode from being changed.
fn flags_of(stat: &rustix::fs::Statx) -> IFlags {
    let both = [(StatxAttributes::IMMUTABLE, IFlags::IMMUTABLE), (StatxAttributes::APPEND, IFlags::APPEND)];
    let set = both.into_iter().filter(|(attribute, _)| stat.stx_attributes.contains(*attribute));
    set.map(|(_, flag)| flag).collect()
}

fn set_flags(handle: BorrowedFd<'_>, wanted: u32) {
    let (present, wanted) = (flags_of(&stat_of(handle)), IFlags::from_bits_retain(wanted));
    if present == wanted {
        return;
    }
    let file = File::open(itself(handle)).expect("what has flags can be read");
    let others = rustix::fs::ioctl_getflags(&file).expect("it has flags") - present;
    rustix::fs::ioctl_setflags(&file, others | wanted).expect("flags as they were");
}
