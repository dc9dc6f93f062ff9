//! A tree as an archive: what [`import::tar`](crate::import::tar) reads back as the same tree, and every other `tar`, too.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;

use dominator_core::inode::{Inode, Kind, Timestamp};
use dominator_core::object::ObjectId;
use dominator_core::path::ImagePath;
use dominator_core::tree::Snapshot;
use tar::{EntryType, Header};

use super::{BUFFER, ExportError, Exported, LeftOut, ObjectStream};
use crate::store::images::ImageStore;

/// Writes `snapshot` to `out` as an archive in the format of POSIX (pax), in the order of its paths, so that the same tree
/// is the same bytes. Computed files, which have no contents yet, are left out and listed.
///
/// # Errors
/// [`ExportError`]; what was written is no archive then.
pub fn tar(
    snapshot: &Snapshot,
    out: &mut dyn Write,
    objects: &mut dyn ObjectStream,
) -> Result<Exported, ExportError> {
    snapshot
        .verify(ImageStore::MAX_INODES)
        .map_err(|error| ExportError::Malformed { why: error.to_string() })?;
    let mut archive = Archive { out, firsts: firsts(snapshot), left_out: Vec::new() };
    let mut entries = Vec::new();
    snapshot.walk(|path, inode| entries.push((path.clone(), inode.clone())));
    let mut rest = entries.as_slice();
    while !rest.is_empty() {
        let (portion, after) = rest.split_at(archive.portion(rest));
        archive.write(portion, objects)?;
        rest = after;
    }
    archive.put(&[0; 2 * BLOCK])?;
    archive.out.flush().map_err(ExportError::Output)?;
    Ok(Exported { left_out: archive.left_out })
}

const BLOCK: usize = 512;
/// How many objects are asked for at a time.
const PORTION: usize = 1000;

/// Of every inode with several names, each further name with the first.
fn firsts(snapshot: &Snapshot) -> BTreeMap<ImagePath, ImagePath> {
    let mut firsts = BTreeMap::new();
    for set in snapshot.links.iter() {
        if let [first, others @ ..] = set {
            firsts.extend(others.iter().map(|other| (other.clone(), first.clone())));
        }
    }
    firsts
}

struct Archive<'a> {
    out: &'a mut dyn Write,
    firsts: BTreeMap<ImagePath, ImagePath>,
    left_out: Vec<LeftOut>,
}

type Entry = (ImagePath, Inode);

impl Archive<'_> {
    /// The object that must come for this entry: what is empty, or only another name, needs none.
    fn needed(&self, (path, inode): &Entry) -> Option<ObjectId> {
        let (id, size) = inode.object()?;
        (size > 0 && !self.firsts.contains_key(path)).then_some(id)
    }

    /// How many entries can be written with one stream, in which no object comes twice.
    fn portion(&self, entries: &[Entry]) -> usize {
        let mut seen = HashSet::new();
        let fits = |entry: &Entry| match self.needed(entry) {
            Some(id) => seen.len() < PORTION && seen.insert(id),
            None => true,
        };
        entries.iter().map(fits).take_while(|fits| *fits).count().max(1)
    }

    fn write(&mut self, entries: &[Entry], objects: &mut dyn ObjectStream) -> Result<(), ExportError> {
        let wanted: Vec<ObjectId> = entries.iter().filter_map(|entry| self.needed(entry)).collect();
        let mut rest = entries;
        if !wanted.is_empty() {
            objects.stream(&wanted, &mut |id, contents| {
                let Some(at) = rest.iter().position(|entry| self.needed(entry) == Some(id)) else {
                    return Err(ExportError::Malformed { why: format!("object {id} was not asked for") });
                };
                let (before, after) = rest.split_at(at);
                before.iter().try_for_each(|entry| self.entry(entry))?;
                rest = after;
                if let Some((entry, after)) = rest.split_first() {
                    self.entry(entry)?;
                    self.contents(entry, contents)?;
                    rest = after;
                }
                Ok(())
            })?;
        }
        rest.iter().try_for_each(|entry| self.entry(entry))
    }

    /// All of an entry but its contents.
    fn entry(&mut self, (path, inode): &Entry) -> Result<(), ExportError> {
        let mut header = Header::new_ustar();
        let mut records = Records::default();
        let first = self.firsts.get(path);
        let kind = match (&inode.kind, first) {
            (Kind::Computed { source }, _) => {
                let what = format!("it is computed by {source} for each machine");
                self.left_out.push(LeftOut { path: path.clone(), what });
                return Ok(());
            }
            (_, Some(first)) => {
                records.target(&mut header, relative(first));
                EntryType::Link
            }
            (Kind::Symlink { target }, None) => {
                records.target(&mut header, target);
                EntryType::Symlink
            }
            (kind, None) => entry_type(kind, path)?,
        };
        header.set_entry_type(kind);
        if let Kind::BlockDevice { device, .. } | Kind::CharDevice { device, .. } = &inode.kind {
            records.device(&mut header, "SCHILY.devmajor", device.major);
            records.device(&mut header, "SCHILY.devminor", device.minor);
        }
        let size = inode.object().map_or(0, |(_, size)| size);
        records.name(&mut header, relative(path), inode.is_directory());
        records.size(&mut header, if first.is_some() { 0 } else { size });
        records.owners(&mut header, inode);
        header.set_mode(inode.mode.bits().into());
        records.time(&mut header, inode.modified());
        if first.is_none() {
            inode.xattrs.iter().for_each(|(name, value)| records.xattr(name, value));
        }
        self.headers(header, &records)
    }

    fn headers(&mut self, mut header: Header, records: &Records) -> Result<(), ExportError> {
        if !records.0.is_empty() {
            let mut extension = Header::new_ustar();
            extension.set_entry_type(EntryType::XHeader);
            write_name(&mut extension, b"PaxHeaders/x");
            extension.set_mode(0o644);
            extension.set_size(records.0.len() as u64);
            extension.set_cksum();
            self.put(extension.as_bytes())?;
            self.put(&records.0)?;
            self.pad(records.0.len() as u64)?;
        }
        header.set_cksum();
        self.put(header.as_bytes())
    }

    fn contents(&mut self, (path, inode): &Entry, contents: &mut dyn Read) -> Result<(), ExportError> {
        let size = inode.object().map_or(0, |(_, size)| size);
        let mut buffer = vec![0; BUFFER];
        let mut written = 0;
        loop {
            let count = match contents.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let what = format!("the contents of {path} can't be read");
                    return Err(ExportError::Source(crate::store::objects::failed(what, error)));
                }
            };
            self.put(buffer.get(..count).unwrap_or_default())?;
            written += count as u64;
        }
        if written != size {
            return Err(ExportError::Malformed { why: format!("{path} has another length than its object") });
        }
        self.pad(size)
    }

    fn pad(&mut self, size: u64) -> Result<(), ExportError> {
        let padding = size.next_multiple_of(BLOCK as u64) - size;
        let zeros = [0; BLOCK];
        self.put(zeros.get(..usize::try_from(padding).unwrap_or_default()).unwrap_or_default())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        self.out.write_all(bytes).map_err(ExportError::Output)
    }
}

fn entry_type(kind: &Kind, path: &ImagePath) -> Result<EntryType, ExportError> {
    Ok(match kind {
        Kind::Regular { .. } => EntryType::Regular,
        Kind::Directory { .. } => EntryType::Directory,
        Kind::BlockDevice { .. } => EntryType::Block,
        Kind::CharDevice { .. } => EntryType::Char,
        Kind::Fifo { .. } => EntryType::Fifo,
        Kind::Computed { .. } | Kind::Symlink { .. } | Kind::Unknown { .. } | _ => {
            return Err(ExportError::Malformed { why: format!("{path} is of a kind no archive has") });
        }
    })
}

/// As names stand in archives: none begins with a slash, or it would be unpacked over somebody's root.
fn relative(path: &ImagePath) -> &[u8] {
    match path.as_bytes() {
        b"/" => b".",
        absolute => absolute.get(1..).unwrap_or_default(),
    }
}

fn write_name(header: &mut Header, name: &[u8]) {
    if let Some(field) = header.as_ustar_mut() {
        field.name.iter_mut().zip(name).for_each(|(to, from)| *to = *from);
    }
}

/// What a header has no room for.
#[derive(Default)]
struct Records(Vec<u8>);

impl Records {
    /// The largest number of seven octal digits, and of eleven.
    const SHORT: u32 = 0o777_7777;
    const LONG: u64 = 0o777_7777_7777;

    fn name(&mut self, header: &mut Header, name: &[u8], directory: bool) {
        let name = if directory { [name, b"/"].concat() } else { name.to_vec() };
        if name.len() > 100 || !name.is_ascii() {
            self.record("path", &name);
        }
        write_name(header, name.get(..100).unwrap_or(&name));
    }

    fn target(&mut self, header: &mut Header, target: &[u8]) {
        if target.len() > 100 || !target.is_ascii() {
            self.record("linkpath", target);
        }
        if let Some(field) = header.as_ustar_mut() {
            field.linkname.iter_mut().zip(target).for_each(|(to, from)| *to = *from);
        }
    }

    fn size(&mut self, header: &mut Header, size: u64) {
        if size > Self::LONG {
            self.record("size", size.to_string().as_bytes());
        }
        header.set_size(size.min(Self::LONG));
    }

    fn owners(&mut self, header: &mut Header, inode: &Inode) {
        for (key, id) in [("uid", inode.uid), ("gid", inode.gid)] {
            if id > Self::SHORT {
                self.record(key, id.to_string().as_bytes());
            }
        }
        header.set_uid(inode.uid.min(Self::SHORT).into());
        header.set_gid(inode.gid.min(Self::SHORT).into());
    }

    fn device(&mut self, header: &mut Header, key: &str, number: u32) {
        if number > Self::SHORT {
            self.record(key, number.to_string().as_bytes());
        }
        let short = number.min(Self::SHORT);
        // It fails for headers without such a field only; this one has it.
        match key {
            "SCHILY.devmajor" => header.set_device_major(short).ok(),
            _ => header.set_device_minor(short).ok(),
        };
    }

    fn time(&mut self, header: &mut Header, modified: Option<Timestamp>) {
        let Some(time) = modified else { return header.set_mtime(0) };
        let whole = u64::try_from(time.seconds()).ok().filter(|seconds| *seconds <= Self::LONG);
        if time.nanos() != 0 || whole.is_none() {
            self.record("mtime", seconds(time).as_bytes());
        }
        header.set_mtime(whole.unwrap_or_default());
    }

    fn xattr(&mut self, name: &[u8], value: &[u8]) {
        // As GNU tar does: what would end the key is written as a number.
        let mut key = b"SCHILY.xattr.".to_vec();
        for byte in name {
            match byte {
                b'%' => key.extend_from_slice(b"%25"),
                b'=' => key.extend_from_slice(b"%3D"),
                other => key.push(*other),
            }
        }
        self.bytes(&key, value);
    }

    fn record(&mut self, key: &str, value: &[u8]) {
        self.bytes(std::ffi::OsStr::new(key).as_bytes(), value);
    }

    /// A record says its own length, digits included.
    fn bytes(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while len != rest + len.to_string().len() {
            len = rest + len.to_string().len();
        }
        self.0.extend_from_slice(len.to_string().as_bytes());
        for part in [b" ", key, b"=", value, b"\n"] {
            self.0.extend_from_slice(part);
        }
    }
}

/// Seconds since 1970 with their fraction; before, the fraction counts away from 1970, too.
fn seconds(time: Timestamp) -> String {
    let total = i128::from(time.seconds()) * 1_000_000_000 + i128::from(time.nanos());
    let sign = if total < 0 { "-" } else { "" };
    let (whole, nanos) = (total.unsigned_abs() / 1_000_000_000, total.unsigned_abs() % 1_000_000_000);
    format!("{sign}{whole}.{nanos:09}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_counted_backwards() {
        let rows = [
            (0, 5, "0.000000005"),
            (7, 500_000_000, "7.500000000"),
            (-1, 500_000_000, "-0.500000000"),
            (-2, 0, "-2.000000000"),
        ];
        for (whole, nanos, text) in rows {
            assert_eq!(seconds(Timestamp::new(whole, nanos).unwrap()), text);
        }
    }

    #[test]
    fn a_record_counts_its_own_digits() {
        for len in [1, 5, 6, 90, 92, 93, 94, 95, 990, 994, 995, 1000] {
            let mut records = Records::default();
            records.record("k", &vec![b'x'; len]);
            let digits = records.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let said: usize = String::from_utf8_lossy(&records.0[..digits]).parse().unwrap();
            assert_eq!(said, records.0.len());
        }
    }
}
