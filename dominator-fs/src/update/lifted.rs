//! What is immutable or append-only and stands in the way of a single step, though no journal says so: links to it are made
//! before there is one, somebody made it so after, and it may have names that no update knows.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::WorkDirectory;
use super::lift::known;
use crate::handle::{self, OwnedHandle};
use crate::publish::{self, Replace};
use crate::root::{Root, inode_at, inode_of, open_file};
use crate::seam::{At, IFlags, Remove, Seam};

impl WorkDirectory {
    const LIFTED: &'static [u8] = b"lifted";

    /// Has something done to a name of an inode that somebody may have made immutable or append-only, by this name or
    /// another it has. The inode stays so, also if this process dies meanwhile: whoever opens the root next is left word,
    /// where the disk takes it and the file-system has handles.
    pub(super) fn despite_flags(
        &self,
        seam: &dyn Seam,
        at: At<'_>,
        act: impl Fn() -> io::Result<()>,
    ) -> io::Result<()> {
        let (file, flags) = match act() {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::PERM) => fixed(at, error)?,
            other => return other,
        };
        // DURABILITY: word of it before it is lifted, and it is fixed again before the word goes.
        let word = self.leave_word(seam, &file, flags);
        if let Err(error) = &word {
            tracing::warn!(%error, "something immutable is changed, and nobody would know if that were cut off");
        }
        seam.set_flags(file.as_fd(), flags.difference(known(flags.bits())))?;
        let done = act();
        if inode_of(&file)?.stx_nlink > 0 {
            seam.set_flags(file.as_fd(), flags)?;
        }
        if word.is_ok() {
            publish::settle(seam, &file)?;
            seam.remove(At::new(self.top.as_fd(), Self::LIFTED), Remove::File)?;
        }
        done
    }

    fn leave_word(&self, seam: &dyn Seam, file: &File, flags: IFlags) -> io::Result<()> {
        let inode = handle::of(file.as_fd())?;
        let (word, top) = (Word { flags: known(flags.bits()), inode }, self.top.as_fd());
        publish::bytes(seam, top, Self::LIFTED, word.written()?.as_bytes(), Self::FILE, Replace::Existing)
            .map(drop)
    }

    /// Makes what a process that died had lifted as it was.
    pub(super) fn lower_what_was_left(&self, seam: &dyn Seam, root: &Root) -> io::Result<()> {
        let top = self.top.as_fd();
        // Looked for first: whoever only opens a root changes nothing.
        if inode_at(top, b"lifted~").is_ok() {
            seam.remove(At::new(top, b"lifted~"), Remove::File)?;
        }
        let at = At::new(top, Self::LIFTED);
        let file = match open_file(at) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let mut text = String::new();
        file.take(Word::LONGEST).read_to_string(&mut text)?;
        match Word::read(&text) {
            Some(word) => word.lower(seam, root)?,
            None => {
                tracing::error!("/.subd/lifted is damaged; something that was immutable may be so no more")
            }
        }
        seam.remove(at, Remove::File)
    }
}

/// What is at a name, and its flags, if they are why something was refused.
fn fixed(at: At<'_>, refused: io::Error) -> io::Result<(File, IFlags)> {
    let kind = FileType::from_raw_mode(inode_at(at.dir, at.name)?.stx_mode.into());
    if !kind.is_file() && !kind.is_dir() {
        return Err(refused);
    }
    let file = open_file(at)?;
    let flags = rustix::fs::ioctl_getflags(&file)?;
    if known(flags.bits()).is_empty() { Err(refused) } else { Ok((file, flags)) }
}

/// What was lifted, and of what.
#[derive(Debug, PartialEq, Eq)]
struct Word {
    flags: IFlags,
    inode: OwnedHandle,
}

impl Word {
    const BEGINNING: &str = "lifted 1\n";
    /// In bytes; handles have 128 at most.
    const LONGEST: u64 = 1024;

    fn written(&self) -> io::Result<String> {
        let mut text = format!("{}{} {} ", Self::BEGINNING, self.flags.bits(), self.inode.kind);
        for byte in &self.inode.bytes {
            write!(text, "{byte:02x}").map_err(io::Error::other)?;
        }
        text.push('\n');
        Ok(text)
    }

    fn read(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix(Self::BEGINNING)?.strip_suffix('\n')?.split(' ');
        let mut next = || parts.next();
        let (flags, kind, digits) = (next()?.parse().ok()?, next()?.parse().ok()?, next()?.as_bytes());
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let (pairs, rest) = digits.as_chunks::<2>();
        let bytes = pairs.iter().map(|pair| byte(pair)).collect::<Option<_>>()?;
        let whole = rest.is_empty() && next().is_none();
        whole.then(|| Self { flags: known(flags), inode: OwnedHandle { kind, bytes } })
    }

    fn lower(&self, seam: &dyn Seam, root: &Root) -> io::Result<()> {
        let file: File = match handle::open_file(root.as_fd(), self.inode.as_handle()) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::STALE) => return Ok(()),
            other => other?.into(),
        };
        let now = rustix::fs::ioctl_getflags(&file)?;
        if !now.contains(self.flags) {
            seam.set_flags(file.as_fd(), now.union(self.flags))?;
        }
        publish::settle(seam, &file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_of_what_was_lifted_is_read_as_it_was_left() {
        let inode = OwnedHandle { kind: 1, bytes: vec![0, 0x7f, 0xff, 1] };
        let word = Word { flags: IFlags::IMMUTABLE, inode };
        let text = word.written().unwrap();
        assert_eq!(text, "lifted 1\n16 1 007fff01\n");
        assert_eq!(Word::read(&text), Some(word));
        for damaged in
            ["", "lifted 2\n16 1 00\n", "lifted 1\n16 1 0\n", "lifted 1\n16 1 00", "lifted 1\n16 1 00 \n"]
        {
            assert_eq!(Word::read(damaged), None, "{damaged:?}");
        }
    }
}
