//! Archives of `tar`: read as a stream, never unpacked.

mod member;
mod pax;
mod spool;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};

use dominator_core::inode::{Inode, Kind, Mode, Xattrs};
use dominator_core::path::ImagePath;
use dominator_core::tree::{Builder, Conflict};
use dominator_core::view::{View, XattrClass, XattrPolicy};
use thiserror::Error;

use self::member::{Archive, Content, Member};
use self::spool::Spool;
use super::{ImportError, Imported, ObjectSink, Selection, deliver};

/// Imports an archive: old, ustar, GNU or pax, not compressed. What `selection` leaves out is, and so is an agent's
/// work directory. `spool` is an empty temporary file (for one, that of
/// [`ObjectStore::spool`](crate::store::objects::ObjectStore::spool)): a member must be read to know its digest, and
/// only then the sink can say whether it wants it.
///
/// Directories that are not in the archive, but have members in them, are made with mode 0755 and owned by root. A path
/// that comes twice is what it was last. Extended attributes are read as GNU tar and star write them.
///
/// # Errors
/// [`ImportError`] naming the member that can't be part of an image: nothing is left out silently.
pub fn tar<'a>(
    mut reader: impl Read,
    selection: impl Into<Selection<'a>>,
    spool: File,
    sink: &mut dyn ObjectSink,
) -> Result<Imported, ImportError> {
    let start = refuse_compressed(&mut reader)?;
    let mut archive = Archive::new(io::Cursor::new(start).chain(reader));
    let mut import = Import::new(selection.into(), Spool::new(spool, sink));
    while let Some(member) = archive.next()? {
        import.take(member, &mut archive)?;
    }
    archive.end()?;
    import.finish()
}

/// What is wrong with an archive or a member of it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ArchiveFault {
    /// It ends too early: the transfer was cut short.
    #[error("the archive ends before its end; get it again")]
    Truncated,
    /// A header does not add up.
    #[error("no archive header: its checksum is wrong")]
    Checksum,
    /// Something comes after the end.
    #[error("the archive goes on after its end; import the parts one by one")]
    Trailing,
    /// A header is longer than allowed.
    #[error("its headers have {len} bytes, more than the {limit} allowed")]
    LongHeader {
        /// In bytes.
        len: u64,
        /// In bytes.
        limit: u64,
    },
    /// There are more members than an image may have.
    #[error("more than {limit} members")]
    TooMany {
        /// How many are allowed.
        limit: u64,
    },
    /// A header says something impossible.
    #[error("its {0} makes no sense")]
    Field(&'static str),
    /// Its name leads out of the image or is too long.
    #[error("its name can't be that of a file in an image: it leads above the root, or is too long")]
    Path,
    /// A kind of file that an image can't have.
    #[error("it is {0}, which an image can't have")]
    Kind(String),
    /// A kind of sparse file that is not read here.
    #[error("it is stored as a sparse file; make the archive without --sparse")]
    Sparse,
    /// It should have no contents, but has.
    #[error("it has contents, but is no regular file")]
    Contents,
    /// A hard link to what was left out.
    #[error("it is a hard link to {target}, which the filter leaves out; filter both or none")]
    Filtered {
        /// The other name.
        target: ImagePath,
    },
    /// It has no place in the tree.
    #[error("{0}")]
    Conflict(Conflict),
    /// An extended attribute can't be one.
    #[error("an extended attribute is out of bounds")]
    Xattr,
}

/// The tree so far.
struct Import<'a> {
    view: View,
    builder: Builder,
    spool: Spool<'a>,
    classes: BTreeSet<XattrClass>,
    dropped: u64,
    budget: u64,
}

impl<'a> Import<'a> {
    /// How many members an archive may have.
    const MAX_MEMBERS: u64 = crate::store::images::ImageStore::MAX_INODES;

    fn new(selection: Selection<'_>, spool: Spool<'a>) -> Self {
        let builder = Builder::new(implicit()).expect("invariant: an implicit directory is a directory");
        let Selection { filter, xattrs } = selection;
        let view = View { filters: vec![filter.clone()], xattrs, ..View::everything() };
        Self { view, builder, spool, classes: BTreeSet::new(), dropped: 0, budget: Self::MAX_MEMBERS }
    }

    fn take(&mut self, member: Member, archive: &mut Archive<impl Read>) -> Result<(), ImportError> {
        let too_many = ArchiveFault::TooMany { limit: Self::MAX_MEMBERS };
        self.budget = self.budget.checked_sub(1).ok_or_else(|| member.fault(too_many))?;
        let path = normalised(&member.path).ok_or_else(|| member.fault(ArchiveFault::Path))?;
        if !self.view.reaches(&path) {
            return archive.skip();
        }
        self.parents(&path).map_err(|conflict| member.fault(ArchiveFault::Conflict(conflict)))?;
        if let Content::Link { target } = &member.content {
            return self.link(&member, &path, target);
        }
        let kind = self.kind(&member, archive)?;
        let mode = if matches!(kind, Kind::Symlink { .. }) { Mode::SYMLINK } else { member.mode };
        let xattrs = self.xattrs(&member)?;
        let inode = Inode { mode, uid: member.uid, gid: member.gid, xattrs, kind };
        self.builder.insert(&path, inode).map_err(|conflict| member.fault(ArchiveFault::Conflict(conflict)))
    }

    fn kind(&mut self, member: &Member, archive: &mut Archive<impl Read>) -> Result<Kind, ImportError> {
        let mtime = member.mtime;
        Ok(match &member.content {
            Content::Regular { size } => {
                Kind::Regular { mtime, size: *size, object: self.spool.take(archive, *size)? }
            }
            Content::Symlink { target } => {
                if !(1..=Inode::MAX_TARGET).contains(&target.len()) || target.contains(&0) {
                    return Err(member.fault(ArchiveFault::Field("target")));
                }
                Kind::Symlink { target: target.as_slice().into() }
            }
            Content::Block(device) => Kind::BlockDevice { mtime, device: *device },
            Content::Char(device) => Kind::CharDevice { mtime, device: *device },
            Content::Fifo => Kind::Fifo { mtime },
            Content::Directory => Kind::Directory { id: Builder::placeholder() },
            Content::Link { .. } => return Err(member.fault(ArchiveFault::Field("kind"))),
        })
    }

    fn link(&mut self, member: &Member, path: &ImagePath, target: &[u8]) -> Result<(), ImportError> {
        let target = normalised(target).ok_or_else(|| member.fault(ArchiveFault::Path))?;
        if !self.view.reaches(&target) {
            return Err(member.fault(ArchiveFault::Filtered { target }));
        }
        self.builder.link(path, &target).map_err(|conflict| member.fault(ArchiveFault::Conflict(conflict)))
    }

    /// Makes the directories on the way that the archive did not mention.
    fn parents(&mut self, path: &ImagePath) -> Result<(), Conflict> {
        let Some(parent) = path.parent() else { return Ok(()) };
        if self.builder.contains(&parent) {
            return Ok(());
        }
        self.parents(&parent)?;
        self.builder.insert(&parent, implicit())
    }

    fn xattrs(&mut self, member: &Member) -> Result<Xattrs, ImportError> {
        let mut xattrs = Xattrs::default();
        self.dropped += member.dropped;
        for (name, value) in &member.xattrs {
            match XattrClass::of(name) {
                None => self.dropped += 1,
                Some(_) if !self.view.xattrs.covers(name) => {}
                Some(class) => {
                    self.classes.insert(class);
                    xattrs.insert(name, value).map_err(|_| member.fault(ArchiveFault::Xattr))?;
                }
            }
        }
        Ok(xattrs)
    }

    fn finish(mut self) -> Result<Imported, ImportError> {
        self.spool.flush()?;
        let snapshot = self.builder.finish(View::everything().id());
        deliver(&snapshot, self.spool.sink())?;
        let xattrs = XattrPolicy::of(self.classes);
        Ok(Imported { snapshot, xattrs, attributes_dropped: self.dropped })
    }
}

/// A directory the archive does not mention.
fn implicit() -> Inode {
    Inode {
        mode: Mode::from_st_mode(0o755),
        uid: 0,
        gid: 0,
        xattrs: Xattrs::default(),
        kind: Kind::Directory { id: Builder::placeholder() },
    }
}

/// The path a member's name stands for; nothing when it leads above the root.
fn normalised(name: &[u8]) -> Option<ImagePath> {
    let mut path = Vec::with_capacity(name.len() + 1);
    for part in name.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")) {
        path.push(b'/');
        path.extend_from_slice(part);
    }
    if path.is_empty() {
        path.push(b'/');
    }
    ImagePath::parse(&path).ok()
}

/// Says by the first bytes what an archive is compressed with, rather than that its first header is wrong.
fn refuse_compressed(reader: &mut impl Read) -> Result<Vec<u8>, ImportError> {
    let mut start = Vec::new();
    reader.take(6).read_to_end(&mut start).map_err(ImportError::Input)?;
    let formats: [(&[u8], &str); 4] =
        [(b"\x1f\x8b", "gzip"), (b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"BZh", "bzip2")];
    match formats.into_iter().find(|(magic, _)| start.starts_with(magic)) {
        Some((_, format)) => Err(ImportError::Compressed { format }),
        None => Ok(start),
    }
}
