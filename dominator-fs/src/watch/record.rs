//! What a read of a fanotify group gives: records of the kernel's layout, taken apart without trusting any length in them.

use std::ffi::CStr;

use nix::libc;
use thiserror::Error;

use crate::handle::Handle;

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event<'a> {
    /// Something happened in a directory, or to it.
    Directory(Handle<'a>, About<'a>),
    /// There were more events than the queue takes.
    Overflow,
    /// The kernel could not say where: the file had no name it knew.
    Nowhere,
}

/// What an event is about, in the directory it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About<'a> {
    /// The entry of this name.
    Entry(&'a [u8]),
    /// The directory itself.
    Itself,
}

/// The kernel speaks in a way this parser does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an event of the kernel is out of shape: {0}")]
pub(super) struct Malformed(pub(super) &'static str);

/// Takes the events of one read apart. What follows a malformed one can't be told apart and is not given.
pub(super) fn events(buffer: &[u8]) -> impl Iterator<Item = Result<Event<'_>, Malformed>> {
    let mut rest = buffer;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let outcome = event(rest);
        rest = outcome.map_or(&[], |(_, after)| after);
        Some(outcome.map(|(event, _)| event))
    })
}

/// `struct fanotify_event_metadata`: lengths, version and mask, then a descriptor and a process id that mean nothing to us.
const METADATA: usize = 24;
/// `struct fanotify_event_info_header`: type, padding, length.
const INFO_HEADER: usize = 4;
/// The two words that name a file-system.
const FSID: usize = 8;

fn event(buffer: &[u8]) -> Result<(Event<'_>, &[u8]), Malformed> {
    let mut fields = Fields(buffer);
    let len = size(fields.u32()?)?;
    let [version, _reserved] = fields.array()?;
    let metadata = usize::from(u16::from_ne_bytes(fields.array()?));
    let mask = u64::from_ne_bytes(fields.array()?);
    if version != libc::FANOTIFY_METADATA_VERSION {
        return Err(Malformed("its version is another"));
    }
    if metadata < METADATA || len < metadata {
        return Err(Malformed("its lengths contradict each other"));
    }
    let (event, after) = buffer.split_at_checked(len).ok_or(Malformed("it is cut off"))?;
    if mask & libc::FAN_Q_OVERFLOW != 0 {
        return Ok((Event::Overflow, after));
    }
    let records = event.get(metadata..).unwrap_or_default();
    Ok((directory(records)?.map_or(Event::Nowhere, |(handle, about)| Event::Directory(handle, about)), after))
}

/// The first record that names a directory and an entry in it.
fn directory(mut records: &[u8]) -> Result<Option<(Handle<'_>, About<'_>)>, Malformed> {
    while !records.is_empty() {
        let mut fields = Fields(records);
        let [kind, _padding] = fields.array()?;
        let len = usize::from(u16::from_ne_bytes(fields.array()?));
        if len < INFO_HEADER {
            return Err(Malformed("a record is shorter than its head"));
        }
        let (record, after) = records.split_at_checked(len).ok_or(Malformed("a record is cut off"))?;
        let mut fields = Fields(record.get(INFO_HEADER..).unwrap_or_default());
        match kind {
            libc::FAN_EVENT_INFO_TYPE_DFID_NAME => {
                let handle = fields.handle()?;
                let name =
                    CStr::from_bytes_until_nul(fields.0).map_err(|_| Malformed("a name has no end"))?;
                let about = match name.to_bytes() {
                    b"" | b"." => About::Itself,
                    name => About::Entry(name),
                };
                return Ok(Some((handle, about)));
            }
            libc::FAN_EVENT_INFO_TYPE_DFID => return Ok(Some((fields.handle()?, About::Itself))),
            _ => records = after,
        }
    }
    Ok(None)
}

/// What is left to be read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed("it is cut off"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_ne_bytes(self.array()?))
    }

    fn handle(&mut self) -> Result<Handle<'a>, Malformed> {
        let _fsid: [u8; FSID] = self.array()?;
        let len = size(self.u32()?)?;
        let kind = i32::from_ne_bytes(self.array()?);
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(Malformed("a handle is cut off"))?;
        self.0 = rest;
        Ok(Handle { kind, bytes })
    }
}

fn size(raw: u32) -> Result<usize, Malformed> {
    usize::try_from(raw).map_err(|_| Malformed("a length is impossible"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(kind: u8, handle: &[u8], tail: &[u8]) -> Vec<u8> {
        let mut body = vec![0; FSID];
        body.extend(u32::try_from(handle.len()).unwrap().to_ne_bytes());
        body.extend(7_i32.to_ne_bytes());
        body.extend(handle);
        body.extend(tail);
        body.resize(body.len().next_multiple_of(4), 0);
        let len = u16::try_from(INFO_HEADER + body.len()).unwrap();
        [&[kind, 0][..], &len.to_ne_bytes(), &body].concat()
    }

    fn whole(mask: u64, records: &[u8]) -> Vec<u8> {
        let len = u32::try_from(METADATA + records.len()).unwrap();
        let mut event = len.to_ne_bytes().to_vec();
        event.extend([libc::FANOTIFY_METADATA_VERSION, 0, 24, 0]);
        event.extend(mask.to_ne_bytes());
        event.extend([0xff; 4]);
        event.extend([0; 4]);
        event.extend(records);
        event
    }

    const NAMED: u8 = libc::FAN_EVENT_INFO_TYPE_DFID_NAME;

    #[test]
    fn events_one_after_the_other_are_told_apart() {
        let handle = Handle { kind: 7, bytes: b"0123456789ab" };
        let buffer = [
            whole(libc::FAN_MODIFY, &record(NAMED, handle.bytes, b"name\0")),
            whole(libc::FAN_ATTRIB, &record(NAMED, handle.bytes, b".\0")),
            whole(libc::FAN_Q_OVERFLOW, b""),
            whole(libc::FAN_ATTRIB, &record(libc::FAN_EVENT_INFO_TYPE_FID, b"some file", b"")),
            whole(libc::FAN_DELETE, &[record(99, b"?", b""), record(NAMED, b"", b"x\0")].concat()),
            whole(libc::FAN_MODIFY, &record(libc::FAN_EVENT_INFO_TYPE_DFID, handle.bytes, b"")),
        ]
        .concat();
        let expected = [
            Event::Directory(handle, About::Entry(b"name")),
            Event::Directory(handle, About::Itself),
            Event::Overflow,
            Event::Nowhere,
            Event::Directory(Handle { kind: 7, bytes: b"" }, About::Entry(b"x")),
            Event::Directory(handle, About::Itself),
        ];
        assert_eq!(events(&buffer).map(Result::unwrap).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_contradicts_itself_ends_the_reading() {
        let good = whole(libc::FAN_MODIFY, &record(NAMED, b"0123", b"name\0"));
        let set = |at: usize, value: u8| {
            let mut bad = good.clone();
            bad[at] = value;
            bad
        };
        let bad = [
            (set(0, 23), "shorter than its own head"),
            (set(0, 255), "longer than what was read"),
            (set(4, 9), "of another version"),
            (set(6, 3), "with a head that is too short"),
            (set(METADATA + 2, 3), "with a record that would never end"),
            (set(METADATA + 2, 200), "with a record longer than the event"),
            (set(METADATA + 3, 200), "with a record much longer than the event"),
            (set(METADATA + INFO_HEADER + FSID, 200), "with a handle longer than the record"),
            (whole(0, &record(NAMED, b"0123", b"name")), "with a name that has no end"),
            (whole(0, &[99, 0, 0, 0]), "with a record of another kind and of no length"),
            (good[..good.len() - 1].to_vec(), "cut off"),
        ];
        for (mut buffer, why) in bad {
            buffer.extend(if why == "cut off" { &[][..] } else { &good });
            let read: Vec<_> = events(&buffer).take(3).collect();
            // A length that is wrong but fits swallows what follows; it never reads outside of the buffer.
            assert!(matches!(read.as_slice(), [Err(_)] | [Ok(_)]), "{why}: {read:?}");
            assert!(read[0].is_err() || why.contains("longer than what was read"), "{why}: {read:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_read_outside_of_them_or_for_ever(
            changes in prop::collection::vec((0..200_usize, any::<u8>()), 0..6),
            cut in 0..200_usize,
            noise in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut buffer = [
                whole(libc::FAN_MODIFY, &record(NAMED, b"0123456789ab", b"name\0")),
                whole(libc::FAN_CREATE, &record(NAMED, b"0123", b"another\0")),
                noise,
            ].concat();
            for (at, value) in changes {
                if let Some(byte) = buffer.get_mut(at) {
                    *byte = value;
                }
            }
            buffer.truncate(cut.max(1));
            prop_assert!(events(&buffer).count() <= buffer.len() / METADATA + 1);
        }
    }
}
