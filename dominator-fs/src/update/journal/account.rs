use std::time::Duration;

use dominator_core::path::ImagePath;
use dominator_core::port::PathFailure;

use crate::update::trial::Reason;
use crate::update::undo::{Conflict, UndoReport};

/// What came of undoing an update, for whoever opens the root next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) reason: Reason,
    /// What kept the update from being finished.
    pub(crate) stopped: Option<PathFailure>,
    pub(crate) report: UndoReport,
}

/// The longest reason that is kept, in bytes.
const MAX_REASON: usize = 1024;

impl Account {
    /// In at most `room` bytes, of which there must be some hundreds. What there is no room for is counted.
    pub(super) fn encode(&self, room: usize) -> Vec<u8> {
        let Self { reason, stopped, report } = self;
        let mut out = vec![reason.code()];
        out.extend(report.undone.to_be_bytes());
        out.extend(u64::try_from(report.window.as_micros()).unwrap_or(u64::MAX).to_be_bytes());
        let place = out.len();
        out.extend([0; 4]);
        let stopped = stopped.iter().map(|at| entry(STOPPED, at, None));
        let failures = report.failures.iter().map(|failure| entry(FAILED, failure, None));
        let conflicts = report.conflicts.iter().map(|Conflict { path, reason, kept }| {
            entry(CONFLICT, &PathFailure { path: path.clone(), reason: reason.clone() }, kept.as_ref())
        });
        let mut more: u32 = 0;
        for entry in stopped.chain(failures).chain(conflicts) {
            if out.len() + entry.len() > room {
                more = more.saturating_add(1);
            } else {
                out.extend(entry);
            }
        }
        out.iter_mut().skip(place).zip(more.to_be_bytes()).for_each(|(to, from)| *to = from);
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut input = Input(bytes);
        let [code] = input.array()?;
        let reason = Reason::of_code(code)?;
        let undone = u64::from_be_bytes(input.array()?);
        let window = Duration::from_micros(u64::from_be_bytes(input.array()?));
        let more = u32::from_be_bytes(input.array()?);
        let mut account =
            Self { reason, stopped: None, report: UndoReport { undone, window, ..UndoReport::default() } };
        while !input.0.is_empty() {
            let [tag] = input.array()?;
            let path = input.path()?;
            let reason = String::from_utf8_lossy(input.bytes()?).into_owned();
            match tag {
                STOPPED => account.stopped = Some(PathFailure { path, reason }),
                FAILED => account.report.failures.push(PathFailure { path, reason }),
                CONFLICT => account.report.conflicts.push(Conflict { path, reason, kept: None }),
                CONFLICT_KEPT => {
                    let kept = Some(input.path()?);
                    account.report.conflicts.push(Conflict { path, reason, kept });
                }
                _ => return None,
            }
        }
        if more > 0 {
            let reason = format!(
                "{more} more paths are not as before, for which the journal had no room; see the log"
            );
            account.report.failures.push(PathFailure { path: ImagePath::root(), reason });
        }
        Some(account)
    }
}

const STOPPED: u8 = 1;
const FAILED: u8 = 2;
const CONFLICT: u8 = 3;
/// As a conflict, and where what did not stay at the path is kept.
const CONFLICT_KEPT: u8 = 4;

fn entry(tag: u8, of: &PathFailure, kept: Option<&ImagePath>) -> Vec<u8> {
    let mut entry = vec![if kept.is_some() { CONFLICT_KEPT } else { tag }];
    let reason = of.reason.as_bytes();
    let reason = reason.get(..reason.len().min(MAX_REASON)).unwrap_or_default();
    let kept = kept.map(ImagePath::as_bytes);
    for part in [of.path.as_bytes(), reason].into_iter().chain(kept) {
        entry.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        entry.extend(part);
    }
    entry
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(u32::from_be_bytes(self.array()?)).ok()?;
        let (first, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(first)
    }

    fn path(&mut self) -> Option<ImagePath> {
        ImagePath::parse(self.bytes()?).ok()
    }
}
