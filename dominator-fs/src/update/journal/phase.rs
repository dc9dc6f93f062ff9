//! How far an update is: records written in place, each into blocks of its own that were reserved, and written, when the
//! journal was made. So no phase needs room on the disk, and a write that tears harms no other record.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use dominator_core::object::ObjectId;

use super::account::Account;
use crate::publish;
use crate::seam::Seam;
use crate::update::trial::{BootId, Reason};

/// What a journal's update has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// All is staged; nothing has changed.
    Prepared,
    /// Paths are changing.
    Swapping,
    /// All of it is made, and durable; if there is a trial, it is on trial.
    Committed(Totals),
    /// It is on trial, and the machine was started with it.
    Booted(Totals, BootId),
    /// It has stood its trial.
    Accepted(Totals),
    /// Paths are changing back.
    Undoing(Reason),
    /// All is as before, and durable.
    Undone(Box<Account>),
}

/// What came of an update, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Totals {
    /// How many operations were carried out, or found everything as it must be.
    pub applied: u64,
    /// How many were left because something must stay that is not in view, or because of a mount.
    pub kept: u64,
    /// How many paths failed.
    pub failed: u64,
}

impl Totals {
    const LEN: usize = 24;

    fn bytes(self) -> Vec<u8> {
        [self.applied, self.kept, self.failed].map(u64::to_be_bytes).concat()
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        let (numbers, []) = bytes.as_chunks::<8>() else { return None };
        let [applied, kept, failed] = *numbers else { return None };
        let [applied, kept, failed] = [applied, kept, failed].map(u64::from_be_bytes);
        Some(Self { applied, kept, failed })
    }
}

impl Phase {
    /// Which block it has, if one, and what stands there.
    fn record(&self) -> Option<(u8, Vec<u8>)> {
        match self {
            Self::Prepared => None,
            Self::Swapping => Some((0, Vec::new())),
            Self::Committed(totals) => Some((1, totals.bytes())),
            Self::Booted(totals, boot) => {
                Some((2, [totals.bytes().as_slice(), boot.as_bytes().as_slice()].concat()))
            }
            Self::Accepted(totals) => Some((3, totals.bytes())),
            Self::Undoing(reason) => Some((4, vec![reason.code()])),
            Self::Undone(account) => Some((5, account.encode(Blocks::room(5)))),
        }
    }

    fn of_record(number: u8, says: &[u8]) -> Option<Self> {
        match (number, says) {
            (0, []) => Some(Self::Swapping),
            (1, totals) => Totals::of(totals).map(Self::Committed),
            (2, says) => {
                let (totals, boot) = says.split_at_checked(Totals::LEN)?;
                Some(Self::Booted(Totals::of(totals)?, BootId::from_bytes(boot.try_into().ok()?)))
            }
            (3, totals) => Totals::of(totals).map(Self::Accepted),
            (4, [reason]) => Reason::of_code(*reason).map(Self::Undoing),
            (5, says) => Account::decode(says).map(|account| Self::Undone(Box::new(account))),
            _ => None,
        }
    }
}

impl Reason {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Halted => 1,
            Self::Unhealthy => 2,
            Self::NeverHealthy => 3,
            Self::Overdue => 4,
            Self::Asked => 5,
            Self::Unjudged => 6,
        }
    }

    pub(super) fn of_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Halted,
            2 => Self::Unhealthy,
            3 => Self::NeverHealthy,
            4 => Self::Overdue,
            5 => Self::Asked,
            6 => Self::Unjudged,
            _ => return None,
        })
    }
}

/// The blocks of the records at the end of a journal.
pub(super) struct Blocks;

impl Blocks {
    /// The size of a block, in bytes: what even large-sectored disks write as one.
    pub(super) const BLOCK: u64 = 4096;
    /// How many records there are; all have one block, and the last has [`Self::LAST`].
    const RECORDS: u8 = 6;
    const LAST: u64 = 8;
    /// How much room all take, in bytes.
    pub(super) const LEN: u64 = (Self::RECORDS as u64 - 1 + Self::LAST) * Self::BLOCK;
    /// How many blocks at the end any version may have.
    const MOST: u64 = 64;
    const MAGIC: [u8; 4] = *b"DJP2";
    /// Magic, which, how long what it says is.
    const HEADER: usize = 4 + 1 + 2;

    /// How much a record can say, in bytes.
    fn room(number: u8) -> usize {
        let blocks = if number + 1 == Self::RECORDS { Self::LAST } else { 1 };
        let len = usize::try_from(blocks * Self::BLOCK).unwrap_or_default();
        len.saturating_sub(Self::HEADER + 2 * ObjectId::LEN)
    }

    /// Whether the records of a journal of any version, which is `len` bytes long, tell of an update that is at its end:
    /// made, and to be undone at most, or undone. What all versions keep to is in `docs/formats/journal.md`.
    pub(super) fn are_over(file: &File, len: u64) -> io::Result<bool> {
        let first = (len / Self::BLOCK).saturating_sub(Self::MOST);
        let mut last: Option<(u8, [u8; ObjectId::LEN])> = None;
        for number in first..len / Self::BLOCK {
            let Some((number, update)) = Self::of_any_version(file, number * Self::BLOCK)? else { continue };
            if last.is_some_and(|(_, other)| other != update) {
                return Ok(false);
            }
            last = Some((last.map_or(number, |(last, _)| last.max(number)), update));
        }
        Ok(last.is_some_and(|(number, _)| matches!(number, 1..=3 | 5)))
    }

    /// The number of the record at `at`, if a whole one is there, and the digest of its update.
    fn of_any_version(file: &File, at: u64) -> io::Result<Option<(u8, [u8; ObjectId::LEN])>> {
        let mut header = [0; Self::HEADER];
        file.read_exact_at(&mut header, at)?;
        let [d, j, p, _, number, high, low] = header;
        if [d, j, p] != [Self::MAGIC[0], Self::MAGIC[1], Self::MAGIC[2]] {
            return Ok(None);
        }
        let says = usize::from(u16::from_be_bytes([high, low]));
        let mut record = vec![0; Self::HEADER + says + 2 * ObjectId::LEN];
        match file.read_exact_at(&mut record, at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let Some((said, digest)) = record.split_last_chunk::<{ ObjectId::LEN }>() else { return Ok(None) };
        let update = said.last_chunk().copied();
        Ok(update.filter(|_| ObjectId::of(said).as_bytes() == digest).map(|update| (number, update)))
    }

    fn encode(update: &ObjectId, number: u8, says: &[u8]) -> Vec<u8> {
        let len =
            u16::try_from(says.len()).expect("invariant: a record has less room than 64 KiB").to_be_bytes();
        let mut record = [&Self::MAGIC, [number].as_slice(), &len, says, update.as_bytes()].concat();
        let digest = ObjectId::of(&record);
        record.extend_from_slice(digest.as_bytes());
        record
    }

    /// Makes it durable that the update with that digest, whose blocks begin at `at`, is in `phase`.
    pub(super) fn write(
        seam: &dyn Seam,
        mut file: &File,
        at: u64,
        update: &ObjectId,
        phase: &Phase,
    ) -> io::Result<()> {
        let Some((number, says)) = phase.record() else { return Ok(()) };
        file.seek(SeekFrom::Start(at + u64::from(number) * Self::BLOCK))?;
        seam.write(file, &Self::encode(update, number, &says))?;
        publish::settle(seam, file)
    }

    /// The phase the records tell. One that is not whole was never written: whoever wrote it did not live to go on.
    pub(super) fn read(file: &File, at: u64, update: &ObjectId) -> io::Result<Phase> {
        let mut phase = Phase::Prepared;
        for number in 0..Self::RECORDS {
            let at = at + u64::from(number) * Self::BLOCK;
            let mut header = [0; Self::HEADER];
            file.read_exact_at(&mut header, at)?;
            let [.., high, low] = header;
            let len = usize::from(u16::from_be_bytes([high, low]));
            if len > Self::room(number) {
                continue;
            }
            let mut record = vec![0; Self::HEADER + len + 2 * ObjectId::LEN];
            file.read_exact_at(&mut record, at)?;
            let says = record.get(Self::HEADER..Self::HEADER + len).unwrap_or_default();
            if Self::encode(update, number, says) == record
                && let Some(told) = Phase::of_record(number, says)
            {
                phase = told;
            }
        }
        Ok(phase)
    }
}
