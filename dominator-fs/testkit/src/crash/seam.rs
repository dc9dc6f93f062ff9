//! The [`Seam`]: does what is asked, and writes it down.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use dominator_core::inode::{Mode, Timestamp};
use dominator_fs::seam::{At, Kernel, Node as Special, Remove, Rename, Seam};
use rustix::fs::IFlags;

use super::disk::{attributes_of, hoarded, named, number_of};
use super::log::{Op, Place};
use super::world::{Body, NodeId};
use super::{CrashFs, State};

impl Seam for CrashFs {
    fn mkdir(&self, at: At<'_>, mode: Mode) -> io::Result<()> {
        let mut state = self.state();
        Kernel.mkdir(at, mode)?;
        state.made(at);
        Ok(())
    }

    fn create(&self, at: At<'_>, mode: Mode) -> io::Result<File> {
        let mut state = self.state();
        let file = Kernel.create(at, mode)?;
        state.made(at);
        Ok(file)
    }

    fn write(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let mut position: &File = file;
        let offset = position.stream_position()?;
        Kernel.write(file, bytes)?;
        state.written(file, offset, bytes);
        Ok(())
    }

    fn reflink(&self, from: &File, to: &File) -> io::Result<()> {
        let mut state = self.state();
        Kernel.reflink(from, to)?;
        let mut contents = Vec::new();
        let mut reader = to.try_clone()?;
        let position = reader.stream_position()?;
        reader.seek(SeekFrom::Start(0))?;
        reader.read_to_end(&mut contents)?;
        reader.seek(SeekFrom::Start(position))?;
        state.written(to, 0, &contents);
        Ok(())
    }

    fn truncate(&self, file: &File, len: u64) -> io::Result<()> {
        let mut state = self.state();
        Kernel.truncate(file, len)?;
        let node = state.node(file.as_fd());
        let len = usize::try_from(len).expect("a length that fits into memory");
        state.did(Op::Length { node, len }, vec![node], Some(node));
        Ok(())
    }

    fn symlink(&self, target: &[u8], at: At<'_>) -> io::Result<()> {
        let mut state = self.state();
        Kernel.symlink(target, at)?;
        state.made(at);
        Ok(())
    }

    fn mknod(&self, at: At<'_>, node: Special, mode: Mode) -> io::Result<()> {
        let mut state = self.state();
        Kernel.mknod(at, node, mode)?;
        state.made(at);
        Ok(())
    }

    fn link(&self, from: At<'_>, to: At<'_>) -> io::Result<()> {
        let mut state = self.state();
        Kernel.link(from, to)?;
        let node = state.at(from).expect("what was linked");
        let at = state.place(to);
        let touched = vec![at.dir, node];
        state.did(Op::Link { node, at }, touched, None);
        Ok(())
    }

    fn rename(&self, from: At<'_>, to: At<'_>, rename: Rename) -> io::Result<()> {
        let mut state = self.state();
        let (moved, displaced) = (state.at(from), state.at(to));
        let last = displaced.filter(|node| moved != displaced && state.is_last_name(*node));
        match last.filter(|_| rename == Rename::Replace) {
            // What goes for good is put aside instead, where nobody sees it: its inode is needed again.
            Some(gone) => {
                let plain = state.body(moved).zip(state.body(displaced));
                let fits = plain.is_some_and(|(one, other)| is_directory(one) == is_directory(other));
                if !fits {
                    return Kernel.rename(from, to, rename);
                }
                Kernel.rename(from, to, Rename::Exchange)?;
                hoarded(from.dir, from.name, &self.hoard, gone);
            }
            None => Kernel.rename(from, to, rename)?,
        }
        let (from, to) = (state.place(from), state.place(to));
        let touched = [Some(from.dir), Some(to.dir), moved, displaced].into_iter().flatten().collect();
        state.did(Op::Rename { from, to, how: rename }, touched, None);
        Ok(())
    }

    fn remove(&self, at: At<'_>, remove: Remove) -> io::Result<()> {
        let mut state = self.state();
        let Some(node) = state.at(at) else { return Kernel.remove(at, remove) };
        let empty = match state.body(Some(node)) {
            Some(Body::Directory(entries)) => remove == Remove::Directory && entries.is_empty(),
            _ => remove == Remove::File,
        };
        if empty && state.is_last_name(node) {
            hoarded(at.dir, at.name, &self.hoard, node);
        } else {
            Kernel.remove(at, remove)?;
        }
        let at = state.place(at);
        let touched = vec![at.dir, node];
        state.did(Op::Remove { at }, touched, None);
        Ok(())
    }

    fn chmod(&self, at: At<'_>, mode: Mode) -> io::Result<()> {
        self.dressed(at, |at| Kernel.chmod(at, mode))
    }

    fn chown(&self, at: At<'_>, uid: u32, gid: u32) -> io::Result<()> {
        self.dressed(at, |at| Kernel.chown(at, uid, gid))
    }

    fn set_mtime(&self, at: At<'_>, mtime: Timestamp) -> io::Result<()> {
        self.dressed(at, |at| Kernel.set_mtime(at, mtime))
    }

    fn set_xattr(&self, at: At<'_>, name: &[u8], value: &[u8]) -> io::Result<()> {
        self.dressed(at, |at| Kernel.set_xattr(at, name, value))
    }

    fn remove_xattr(&self, at: At<'_>, name: &[u8]) -> io::Result<()> {
        self.dressed(at, |at| Kernel.remove_xattr(at, name))
    }

    fn set_flags(&self, fd: BorrowedFd<'_>, flags: IFlags) -> io::Result<()> {
        self.dressed(At::itself(fd), |_| Kernel.set_flags(fd, flags))
    }

    fn fsync(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let mut state = self.state();
        let node = state.node(fd);
        state.did(Op::Sync { node }, Vec::new(), None);
        Ok(())
    }

    fn syncfs(&self, _fd: BorrowedFd<'_>) -> io::Result<()> {
        self.state().did(Op::SyncAll, Vec::new(), None);
        Ok(())
    }
}

impl CrashFs {
    fn dressed(&self, at: At<'_>, change: impl FnOnce(At<'_>) -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state();
        change(at)?;
        let node = state.at(at).expect("what was changed");
        state.did(Op::Attributes, vec![node], Some(node));
        Ok(())
    }
}

impl State {
    fn node(&self, handle: BorrowedFd<'_>) -> NodeId {
        let number = number_of(handle);
        *self.numbers.get(&number).unwrap_or_else(|| panic!("inode {number} is not watched"))
    }

    fn place(&self, at: At<'_>) -> Place {
        Place { dir: self.node(at.dir), name: at.name.to_vec() }
    }

    fn at(&self, at: At<'_>) -> Option<NodeId> {
        if at.name.is_empty() { Some(self.node(at.dir)) } else { self.live.lookup(&self.place(at)) }
    }

    fn body(&self, node: Option<NodeId>) -> Option<&Body> {
        node.and_then(|node| self.live.node(node)).map(|node| &node.body)
    }

    fn is_last_name(&self, node: NodeId) -> bool {
        self.live.link_counts().get(&node) == Some(&1)
    }

    /// Something is there that was not.
    fn made(&mut self, at: At<'_>) {
        let place = self.place(at);
        let (node, fresh) = self.know(named(at.dir, at.name));
        let touched = vec![place.dir, node];
        self.did(Op::Make { node, fresh, at: place }, touched, None);
    }

    fn written(&mut self, file: &File, offset: u64, bytes: &[u8]) {
        let node = self.node(file.as_fd());
        let offset = usize::try_from(offset).expect("a place that fits into memory");
        self.did(Op::Write { node, offset, bytes: Arc::from(bytes) }, vec![node], Some(node));
    }

    /// Notes what was done, with the metadata it left an inode with.
    fn did(&mut self, op: Op, touched: Vec<NodeId>, dressed: Option<NodeId>) {
        let after = dressed.map(|node| (node, attributes_of(self.handle(node))));
        self.note(op, touched, after);
    }
}

fn is_directory(body: &Body) -> bool {
    matches!(body, Body::Directory(_))
}
