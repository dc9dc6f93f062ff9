//! The blocks of an archive. The `tar` crate knows the fields of a header; how headers, extensions and contents follow
//! each other is read here, so that every length is checked before anything is allocated.

use std::collections::BTreeMap;
use std::io::Read;

use dominator_core::inode::{Device, Mode, Timestamp};
use tar::{EntryType, Header};

use super::pax::Records;
use super::spool::read_full;
use super::{ArchiveFault, ImportError};
use crate::store::objects::ObjectStore;

const BLOCK: usize = 512;
/// The longest extension of a member, in bytes: room for many extended attributes.
const MAX_EXTENSION: u64 = 4 * 1024 * 1024;
/// How much of nothing may follow the end of an archive, in bytes.
const MAX_TAIL: u64 = 64 * 1024 * 1024;

/// An archive being read.
pub(super) struct Archive<R> {
    reader: R,
    offset: u64,
    /// Contents of the current member that were not read yet, and what fills up its last block.
    contents: u64,
    padding: u64,
    global: Records,
}

/// One file of an archive, without its contents.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) path: Vec<u8>,
    pub(super) mode: Mode,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Timestamp,
    pub(super) content: Content,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// How many extended attributes it has in forms that are not read here.
    pub(super) dropped: u64,
}

/// What a member is.
#[derive(Debug)]
pub(super) enum Content {
    Regular { size: u64 },
    Link { target: Vec<u8> },
    Symlink { target: Vec<u8> },
    Block(Device),
    Char(Device),
    Fifo,
    Directory,
}

impl Member {
    pub(super) fn fault(&self, fault: ArchiveFault) -> ImportError {
        member_fault(&self.path, fault)
    }
}

/// What came before a member's own header.
#[derive(Default)]
struct Extensions {
    records: Option<Records>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<R: Read> Archive<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, offset: 0, contents: 0, padding: 0, global: Records::default() }
    }

    /// The next member; what was not read of the one before is passed over. Nothing after the last.
    pub(super) fn next(&mut self) -> Result<Option<Member>, ImportError> {
        self.skip()?;
        let mut extensions = Extensions::default();
        while let Some(header) = self.header()? {
            let size = header.entry_size().map_err(|_| self.broken(ArchiveFault::Field("size")))?;
            let kind = header.entry_type();
            if kind == EntryType::XGlobalHeader {
                let body = self.extension(size)?;
                self.global.add(&body).map_err(|fault| self.broken(fault))?;
            } else if kind == EntryType::XHeader {
                let body = self.extension(size)?;
                let mut records = self.global.clone();
                let name = header.path_bytes();
                records.add(&body).map_err(|fault| member_fault(&name, fault))?;
                extensions.records = Some(records);
            } else if kind == EntryType::GNULongName {
                extensions.long_name = Some(self.name(size)?);
            } else if kind == EntryType::GNULongLink {
                extensions.long_link = Some(self.name(size)?);
            } else {
                return self.member(&header, size, extensions).map(Some);
            }
        }
        Ok(None)
    }

    /// Fills the buffer with the next of the member's contents.
    pub(super) fn read_contents(&mut self, buffer: &mut [u8]) -> Result<(), ImportError> {
        self.exactly(buffer)?;
        self.contents = self.contents.saturating_sub(buffer.len() as u64);
        Ok(())
    }

    /// Passes over what was not read of the member.
    pub(super) fn skip(&mut self) -> Result<(), ImportError> {
        let mut left = self.contents + self.padding;
        let mut buffer = [0; 16 * BLOCK];
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(buffer.len()).min(buffer.len());
            self.exactly(buffer.get_mut(..wanted).unwrap_or_default())?;
            left -= wanted as u64;
        }
        (self.contents, self.padding) = (0, 0);
        Ok(())
    }

    /// Reads what fills up an archive after its end, so that whoever writes it is not cut off.
    pub(super) fn end(&mut self) -> Result<(), ImportError> {
        let mut buffer = [0; 16 * BLOCK];
        let mut tail = 0;
        loop {
            let count = read_full(&mut self.reader, &mut buffer).map_err(ImportError::Input)?;
            tail += count as u64;
            let rest = buffer.get(..count).unwrap_or_default();
            if tail > MAX_TAIL || rest.iter().any(|byte| *byte != 0) {
                return Err(self.broken(ArchiveFault::Trailing));
            }
            if count < buffer.len() {
                return Ok(());
            }
        }
    }

    /// The next header, nothing at the end of the archive: two blocks of zeros, without which it is not whole.
    fn header(&mut self) -> Result<Option<Header>, ImportError> {
        let mut header = Header::new_old();
        self.exactly(header.as_mut_bytes())?;
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            let mut second = [0; BLOCK];
            self.exactly(&mut second)?;
            let end = second.iter().all(|byte| *byte == 0);
            return if end { Ok(None) } else { Err(self.broken(ArchiveFault::Checksum)) };
        }
        let field = CHECKSUM_FIELD;
        let sum = header.as_bytes().iter().enumerate().fold(0, |sum: u32, (place, byte)| {
            sum + u32::from(if field.contains(&place) { b' ' } else { *byte })
        });
        if header.cksum().ok() == Some(sum) {
            Ok(Some(header))
        } else {
            Err(self.broken(ArchiveFault::Checksum))
        }
    }

    fn member(&mut self, header: &Header, size: u64, extensions: Extensions) -> Result<Member, ImportError> {
        let records = extensions.records.unwrap_or_else(|| self.global.clone());
        let path = records.bytes("path").map(<[u8]>::to_vec).or(extensions.long_name);
        let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
        let fields = Fields { header, records: &records, long_link: extensions.long_link };
        let member = fields.member(path.clone(), size).map_err(|fault| member_fault(&path, fault))?;
        if let Content::Regular { size } = member.content {
            self.contents = size;
            self.padding = padding(size);
        }
        let (xattrs, dropped) = records.into_xattrs();
        Ok(Member { xattrs, dropped, ..member })
    }

    /// The contents of a header that extends the next.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, ImportError> {
        let long = ArchiveFault::LongHeader { len: size, limit: MAX_EXTENSION };
        let len = usize::try_from(size).ok().filter(|_| size <= MAX_EXTENSION);
        let mut body = vec![0; len.ok_or_else(|| self.broken(long))?];
        self.exactly(&mut body)?;
        self.padding = padding(size);
        self.skip()?;
        Ok(body)
    }

    fn name(&mut self, size: u64) -> Result<Vec<u8>, ImportError> {
        let mut name = self.extension(size)?;
        // What comes after the terminator is nobody's.
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    fn exactly(&mut self, buffer: &mut [u8]) -> Result<(), ImportError> {
        let count = read_full(&mut self.reader, buffer).map_err(ImportError::Input)?;
        self.offset += count as u64;
        if count == buffer.len() { Ok(()) } else { Err(self.broken(ArchiveFault::Truncated)) }
    }

    fn broken(&self, fault: ArchiveFault) -> ImportError {
        ImportError::Archive { offset: self.offset, fault }
    }
}

/// Where a header keeps its checksum, which counts as spaces.
const CHECKSUM_FIELD: std::ops::Range<usize> = 148..156;

/// A header with all that goes before it: what the extensions say outweighs it.
struct Fields<'a> {
    header: &'a Header,
    records: &'a Records,
    long_link: Option<Vec<u8>>,
}

impl Fields<'_> {
    fn member(self, path: Vec<u8>, size: u64) -> Result<Member, ArchiveFault> {
        let size = self.records.number("size")?.unwrap_or(size);
        if size > ObjectStore::MAX_SIZE {
            return Err(ArchiveFault::Field("size"));
        }
        let uid = self.id("uid", self.header.uid())?;
        let gid = self.id("gid", self.header.gid())?;
        let mode = self.header.mode().map_err(|_| ArchiveFault::Field("mode"))?;
        let mtime = match self.records.mtime()? {
            Some(mtime) => mtime,
            None => self.header_mtime()?,
        };
        let content = self.content(&path, size)?;
        if size > 0 && !matches!(content, Content::Regular { .. }) {
            return Err(ArchiveFault::Contents);
        }
        let (xattrs, dropped) = (BTreeMap::new(), 0);
        Ok(Member { path, mode: Mode::from_st_mode(mode), uid, gid, mtime, content, xattrs, dropped })
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "what is not known by name is refused by letter")]
    fn content(self, path: &[u8], size: u64) -> Result<Content, ArchiveFault> {
        Ok(match self.header.entry_type() {
            // Archives from before there was a type for directories.
            EntryType::Regular if path.ends_with(b"/") => Content::Directory,
            EntryType::Regular | EntryType::Continuous => Content::Regular { size },
            EntryType::Link => Content::Link { target: self.target()? },
            EntryType::Symlink => Content::Symlink { target: self.target()? },
            EntryType::Char => Content::Char(self.device()?),
            EntryType::Block => Content::Block(self.device()?),
            EntryType::Directory => Content::Directory,
            EntryType::Fifo => Content::Fifo,
            EntryType::GNUSparse => return Err(ArchiveFault::Sparse),
            other => {
                let letter = char::from(other.as_byte()).escape_default();
                return Err(ArchiveFault::Kind(format!("of type '{letter}'")));
            }
        })
    }

    fn target(self) -> Result<Vec<u8>, ArchiveFault> {
        let target = self.records.bytes("linkpath").map(<[u8]>::to_vec).or(self.long_link);
        target
            .or_else(|| self.header.link_name_bytes().map(|name| name.into_owned()))
            .ok_or(ArchiveFault::Field("target"))
    }

    fn id(&self, key: &'static str, header: std::io::Result<u64>) -> Result<u32, ArchiveFault> {
        let fault = ArchiveFault::Field(key);
        let id = match self.records.number(key)? {
            Some(id) => id,
            None => header.map_err(|_| fault.clone())?,
        };
        u32::try_from(id).map_err(|_| fault)
    }

    fn header_mtime(&self) -> Result<Timestamp, ArchiveFault> {
        let fault = ArchiveFault::Field("mtime");
        let seconds = self.header.mtime().map_err(|_| fault.clone())?;
        // GNU tar writes times before 1970 as binary numbers in two's complement.
        Timestamp::new(seconds.cast_signed(), 0).ok_or(fault)
    }

    fn device(&self) -> Result<Device, ArchiveFault> {
        let fault = ArchiveFault::Field("device number");
        let part = |key, header: std::io::Result<Option<u32>>| match self.records.number(key)? {
            Some(number) => u32::try_from(number).map_err(|_| fault.clone()),
            None => header.ok().flatten().ok_or_else(|| fault.clone()),
        };
        Ok(Device {
            major: part("SCHILY.devmajor", self.header.device_major())?,
            minor: part("SCHILY.devminor", self.header.device_minor())?,
        })
    }
}

fn member_fault(path: &[u8], fault: ArchiveFault) -> ImportError {
    let shown = path.get(..200).unwrap_or(path);
    ImportError::Member { member: String::from_utf8_lossy(shown).into_owned(), fault }
}

fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size
}
