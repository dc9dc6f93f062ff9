use std::collections::BTreeMap;

use dominator_core::inode::Timestamp;

use super::ArchiveFault;

/// The records of extended headers that say something of a member; those of other keys are not kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    plain: BTreeMap<&'static str, Vec<u8>>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    dropped: u64,
}

const PLAIN: [&str; 8] =
    ["path", "linkpath", "size", "uid", "gid", "mtime", "SCHILY.devmajor", "SCHILY.devminor"];
const XATTR: &[u8] = b"SCHILY.xattr.";
/// Attributes in forms that are not read here.
const DROPPED: [&[u8]; 3] = [b"SCHILY.acl.", b"RHT.security.selinux", b"LIBARCHIVE.xattr."];

impl Records {
    /// Adds the records of `body`: `length key=value\n` each, where a value may hold any byte.
    pub(super) fn add(&mut self, mut body: &[u8]) -> Result<(), ArchiveFault> {
        let fault = ArchiveFault::Field("extended header");
        while !body.is_empty() {
            let space = body.iter().position(|byte| *byte == b' ').ok_or_else(|| fault.clone())?;
            let digits = body.get(..space).unwrap_or_default();
            let len =
                number(digits).and_then(|len| usize::try_from(len).ok()).ok_or_else(|| fault.clone())?;
            let record = body.get(space + 1..len).ok_or_else(|| fault.clone())?;
            let record = record.strip_suffix(b"\n").ok_or_else(|| fault.clone())?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(|| fault.clone())?;
            let (key, value) = record.split_at(equals);
            self.record(key, value.get(1..).unwrap_or_default())?;
            body = body.get(len..).unwrap_or_default();
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), ArchiveFault> {
        if key.starts_with(b"GNU.sparse.") {
            return Err(ArchiveFault::Sparse);
        }
        if let Some(name) = key.strip_prefix(XATTR) {
            self.xattrs.insert(decoded(name), value.into());
        } else if DROPPED.iter().any(|prefix| key.starts_with(prefix)) {
            self.dropped += 1;
        } else if let Some(known) = PLAIN.into_iter().find(|known| known.as_bytes() == key) {
            // An empty value takes the record back.
            if value.is_empty() {
                self.plain.remove(known)
            } else {
                self.plain.insert(known, value.into())
            };
        }
        Ok(())
    }

    /// The bytes of a record.
    pub(super) fn bytes(&self, key: &str) -> Option<&[u8]> {
        self.plain.get(key).map(Vec::as_slice)
    }

    /// The number in a record.
    pub(super) fn number(&self, key: &'static str) -> Result<Option<u64>, ArchiveFault> {
        let parse = |value| number(value).ok_or(ArchiveFault::Field(key));
        self.bytes(key).map(parse).transpose()
    }

    /// The time in a record.
    pub(super) fn mtime(&self) -> Result<Option<Timestamp>, ArchiveFault> {
        let parse = |value| time(value).ok_or(ArchiveFault::Field("mtime"));
        self.bytes("mtime").map(parse).transpose()
    }

    /// Extended attributes, and how many more there are in forms that are not read here.
    pub(super) fn into_xattrs(self) -> (BTreeMap<Vec<u8>, Vec<u8>>, u64) {
        (self.xattrs, self.dropped)
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
}

/// `[-]seconds[.fraction]`, rounded down to nanoseconds.
fn time(value: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(value).ok()?;
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds = i64::try_from(number(whole.as_bytes())?).ok()?;
    let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanos = digits.fold(0, |nanos: u32, digit| nanos * 10 + u32::from(digit - b'0'));
    let finer = fraction.bytes().skip(9).any(|digit| digit != b'0');
    match (negative, nanos + u32::from(negative && finer)) {
        (false, nanos) => Timestamp::new(seconds, nanos),
        (true, 0) => Timestamp::new(-seconds, 0),
        (true, nanos) => Timestamp::new(-seconds - 1, 1_000_000_000 - nanos),
    }
}

/// GNU tar writes `=` and `%` in the names of attributes as `%3D` and `%25`.
fn decoded(name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let [first, tail @ ..] = rest {
        let byte = match rest {
            [b'%', b'3', b'D', after @ ..] => (after, b'='),
            [b'%', b'2', b'5', after @ ..] => (after, b'%'),
            _ => (tail, *first),
        };
        rest = byte.0;
        plain.push(byte.1);
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_hold_any_byte() {
        let mut records = Records::default();
        records.add(b"32 SCHILY.xattr.user.a%3Db=x\n=y\n22 mtime=1700000000.5\n").unwrap();
        assert_eq!(records.mtime(), Ok(Timestamp::new(1_700_000_000, 500_000_000)));
        let (xattrs, dropped) = records.into_xattrs();
        assert_eq!((xattrs, dropped), (BTreeMap::from([(b"user.a=b".to_vec(), b"x\n=y".to_vec())]), 0));
    }

    #[test]
    fn broken_records_are_refused() {
        for bad in [
            b"5 a=b".as_slice(),
            b"a=b\n",
            b"6 a=b\n9",
            b"3 a=b\n",
            b"99999999999999999999 a=b\n",
            b"6 abc\n",
            b"-6 a=b\n",
            b"0 a=b\n",
        ] {
            assert!(Records::default().add(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        let sparse = b"22 GNU.sparse.major=1\n";
        assert_eq!(Records::default().add(sparse), Err(ArchiveFault::Sparse));
    }

    #[test]
    fn times_are_kept_to_the_nanosecond_and_rounded_down() {
        for (text, expected) in [
            ("0", Timestamp::new(0, 0)),
            ("1.123456789", Timestamp::new(1, 123_456_789)),
            ("1.1234567899", Timestamp::new(1, 123_456_789)),
            ("-1", Timestamp::new(-1, 0)),
            ("-1.25", Timestamp::new(-2, 750_000_000)),
            ("-0.9999999999", Timestamp::new(-1, 0)),
            ("", None),
            ("1.x", None),
            ("+1", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(time(text.as_bytes()), expected, "{text}");
        }
    }
}
