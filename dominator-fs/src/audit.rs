//! The audit log as a file: one JSON object a line (`docs/formats/audit.md`), only ever appended to, rotated by size.
//!
//! Whoever appends waits for no disk: lines are queued, and written by a thread of the log's own. A disk that is full or
//! broken makes the queue wait; when that is full, too, records are lost, and the log says how many as soon as it can be
//! written again. All of it is loud: events of level error, and the answer to whoever brought the record.

mod file;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dominator_core::auth::{AuditFault, AuditLog, AuditNotice, AuditRecord, Opening, Written};
use thiserror::Error;

use crate::publish;
use crate::seam::{Kernel, Seam};
use file::LogFile;

/// How many bytes of lines wait for the disk at most: some ten thousand records. Those of callers without power take no more
/// than half of it.
pub const QUEUE: usize = 4 * 1024 * 1024;
/// How many bytes are written at once.
const BATCH: usize = 64 * 1024;
/// How long a log that can't be written is left alone before the next attempt.
const PAUSE: Duration = Duration::from_secs(1);
/// How long lines may be in the kernel's memory before the disk is asked to have them.
const UNSETTLED: Duration = Duration::from_secs(1);

/// When a file is full, and how many full ones are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// From how many bytes on.
    pub size: u64,
    /// Besides the one that is written: `audit.log.1` is the latest. At least one is.
    pub kept: u32,
}

impl Default for Rotation {
    /// Eight of 16 MiB.
    fn default() -> Self {
        Self { size: 16 * 1024 * 1024, kept: 8 }
    }
}

impl Rotation {
    /// The most files that can be kept.
    pub const MAX_KEPT: u32 = 1000;

    /// Every file a log at `path` may have.
    pub fn files(self, path: &Path) -> Vec<PathBuf> {
        let beside = |ending: String| {
            let mut name = path.as_os_str().to_owned();
            name.push(ending);
            PathBuf::from(name)
        };
        let kept = (1..=self.kept()).map(|number| beside(format!(".{number}")));
        [path.to_owned(), beside(".new".into())].into_iter().chain(kept).collect()
    }

    fn kept(self) -> u32 {
        self.kept.clamp(1, Self::MAX_KEPT)
    }
}

/// An audit log in files. What was appended is written and settled when it is dropped.
#[derive(Debug)]
pub struct AuditFile {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// A log that can't be begun.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The system does not let us.
    #[error("can't write the audit log {}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is something else.
    #[error("{} is no file: an audit log is never a symbolic link, a pipe or a device; name another", path.display())]
    NoFile {
        /// Where.
        path: PathBuf,
    },
    /// Another process writes it.
    #[error("another process writes the audit log {}; give each its own", path.display())]
    Busy {
        /// Where.
        path: PathBuf,
    },
}

impl AuditFile {
    /// Goes on with the log at `path`, or begins it. Blocks, for seconds when a process that ends still has it.
    ///
    /// A disk without room for lines is no error: the log waits for some.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn open(path: &Path, rotation: Rotation) -> Result<Self, AuditError> {
        Self::open_on(Arc::new(Kernel), path, rotation)
    }

    /// The same through `seam`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_on(seam: Arc<dyn Seam>, path: &Path, rotation: Rotation) -> Result<Self, AuditError> {
        let file = LogFile::open(Arc::clone(&seam), path, rotation)?;
        let shared = Arc::new(Shared::default());
        shared.queue().push(Entry::notice(AuditNotice::Opened(Opening::Start)));
        let mut log = Self { shared: Arc::clone(&shared), threads: Vec::new() };
        let failed = |source| AuditError::Io { path: path.into(), source };
        let settling = Arc::clone(&shared);
        log.start("audit-settle", move || settle(&settling, &*seam)).map_err(failed)?;
        let writer = Writer { file, shared, next_file: Instant::now() };
        log.start("audit-write", move || writer.run()).map_err(failed)?;
        Ok(log)
    }

    fn start(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.threads.push(std::thread::Builder::new().name(name.into()).spawn(work)?);
        Ok(())
    }
}

impl AuditLog for AuditFile {
    fn append(&self, record: &AuditRecord, written: Written) {
        let line = record.line();
        // Whoever has no power must not take the room of those whose calls must be recorded.
        let room = if record.has_power() { QUEUE } else { QUEUE / 2 };
        let mut queue = self.shared.queue();
        let fault = if queue.is_closed {
            AuditFault::Closed
        } else if queue.bytes + line.len() > room {
            queue.lost += 1;
            if queue.lost == 1 {
                tracing::error!("the audit log takes no more: records of calls are being lost");
            }
            AuditFault::Full
        } else {
            if queue.lost > 0 {
                let lost = std::mem::take(&mut queue.lost);
                queue.push(Entry::notice(AuditNotice::Lost(lost)));
            }
            self.shared.filled.notify_one();
            let Some(why) = queue.failing.clone() else {
                queue.push(Entry { line, written: Some(written) });
                return;
            };
            queue.push(Entry { line, written: None });
            AuditFault::Unwritable(why)
        };
        drop(queue);
        written(Err(fault));
    }
}

impl Drop for AuditFile {
    fn drop(&mut self) {
        self.shared.queue().is_closed = true;
        self.shared.filled.notify_all();
        // The writer closes what is to be settled.
        while let Some(thread) = self.threads.pop() {
            drop(thread.join());
        }
    }
}

/// What whoever appends and the two threads have in common.
#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
    unsettled: Mutex<Unsettled>,
    written: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// How many records found no place since one did.
    lost: u64,
    /// Why the last attempt to write failed.
    failing: Option<String>,
    is_closed: bool,
}

/// Files with lines that a power cut could take away.
#[derive(Debug, Default)]
struct Unsettled {
    files: Vec<Arc<File>>,
    is_closed: bool,
}

/// A line, and who waits for it to be written.
struct Entry {
    line: String,
    written: Option<Written>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.line.fmt(f)
    }
}

impl Entry {
    fn notice(notice: AuditNotice) -> Self {
        let when = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { line: notice.line(when), written: None }
    }
}

impl Queue {
    fn push(&mut self, entry: Entry) {
        self.bytes += entry.line.len();
        self.entries.push_back(entry);
    }

    fn take_batch(&mut self) -> Vec<Entry> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(entry) =
            self.entries.pop_front_if(|entry| bytes == 0 || bytes + entry.line.len() <= BATCH)
        {
            bytes += entry.line.len();
            batch.push(entry);
        }
        self.bytes -= bytes;
        batch
    }

    /// Puts back what could not be written, before what came in the meantime.
    fn put_back(&mut self, batch: impl DoubleEndedIterator<Item = Entry>) {
        for entry in batch.rev() {
            self.bytes += entry.line.len();
            self.entries.push_front(entry);
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unsettled(&self) -> MutexGuard<'_, Unsettled> {
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unsettle(&self, file: &Arc<File>) {
        let mut unsettled = self.unsettled();
        if !unsettled.files.iter().any(|known| Arc::ptr_eq(known, file)) {
            unsettled.files.push(Arc::clone(file));
        }
        self.written.notify_one();
    }

    /// Waits for lines; nothing when there will be no more, or when the last that are there can't be written.
    fn next_batch(&self) -> Option<Vec<Entry>> {
        let mut queue = self.queue();
        let failed = queue.failing.is_some();
        let retry = Instant::now() + PAUSE;
        while !queue.is_closed && (queue.entries.is_empty() || (failed && Instant::now() < retry)) {
            queue = match failed {
                false => self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner),
                true => {
                    let left = retry.saturating_duration_since(Instant::now());
                    self.filled.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        if queue.lost > 0 && queue.is_closed {
            let lost = std::mem::take(&mut queue.lost);
            queue.push(Entry::notice(AuditNotice::Lost(lost)));
        }
        let batch = queue.take_batch();
        (!batch.is_empty()).then_some(batch)
    }
}

/// The thread that writes.
struct Writer {
    file: LogFile,
    shared: Arc<Shared>,
    /// When the next attempt to begin a file may be made.
    next_file: Instant,
}

impl Writer {
    fn run(mut self) {
        while let Some(batch) = self.shared.next_batch() {
            let closing = self.shared.queue().is_closed;
            if !self.write(batch) && closing {
                let left = self.shared.queue().entries.len();
                tracing::error!(left, "the audit log could not be written to its end");
                break;
            }
        }
    }

    /// Writes lines and says so to whoever waits for that; whether all were written.
    fn write(&mut self, batch: Vec<Entry>) -> bool {
        let batch = self.place(batch);
        let bytes: String = batch.iter().map(|entry| entry.line.as_str()).collect();
        let outcome = self.file.append(bytes.as_bytes());
        self.shared.unsettle(self.file.handle());
        match outcome {
            Ok(()) => {
                if self.shared.queue().failing.take().is_some() {
                    tracing::warn!("the audit log is written again");
                }
                for written in batch.into_iter().filter_map(|entry| entry.written) {
                    written(Ok(()));
                }
                true
            }
            Err(partial) => {
                self.failed(batch, partial.written, &partial.error);
                false
            }
        }
    }

    /// Sees to it that the file is in its place and has room; a new one begins with a notice.
    fn place(&mut self, batch: Vec<Entry>) -> Vec<Entry> {
        if Instant::now() < self.next_file {
            return batch;
        }
        let bytes = batch.iter().map(|entry| entry.line.len()).sum();
        let (why, placed) = if !self.file.is_in_place() {
            tracing::error!("the audit log is not in its place any more: another is begun");
            (Opening::Missing, self.file.reopen())
        } else if self.file.is_full_with(bytes) {
            (Opening::Rotation, self.file.rotate())
        } else {
            return batch;
        };
        match placed {
            Ok(()) => std::iter::once(Entry::notice(AuditNotice::Opened(why))).chain(batch).collect(),
            Err(error) => {
                // What can be written still is, to the file that is open.
                self.next_file = Instant::now() + PAUSE;
                tracing::error!(%error, "the audit log can't go on in a new file");
                batch
            }
        }
    }

    fn failed(&self, batch: Vec<Entry>, mut written: usize, error: &io::Error) {
        let mut left = VecDeque::from(batch);
        let mut told = Vec::new();
        while let Some(entry) = left.pop_front_if(|entry| entry.line.len() <= written) {
            written -= entry.line.len();
            told.extend(entry.written.map(|tell| (tell, Ok(()))));
        }
        let why = error.to_string();
        for entry in &mut left {
            let fault = AuditFault::Unwritable(why.clone());
            told.extend(entry.written.take().map(|tell| (tell, Err(fault))));
        }
        let mut queue = self.shared.queue();
        if queue.failing.replace(why).is_none() {
            tracing::error!(%error, "the audit log can't be written; its records wait");
        }
        queue.put_back(left.into_iter());
        // Who was queued meanwhile must not wait for a disk that is known to fail.
        for entry in &mut queue.entries {
            let fault = AuditFault::Unwritable(error.to_string());
            told.extend(entry.written.take().map(|tell| (tell, Err(fault))));
        }
        drop(queue);
        for (tell, outcome) in told {
            tell(outcome);
        }
    }
}

impl Drop for Writer {
    /// Also when the thread fails: nobody must wait for it.
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        queue.is_closed = true;
        let left = std::mem::take(&mut queue.entries);
        drop(queue);
        for written in left.into_iter().filter_map(|entry| entry.written) {
            written(Err(AuditFault::Closed));
        }
        self.shared.unsettled().is_closed = true;
        self.shared.written.notify_all();
    }
}

/// Has the disk take what was written, now and then, beside the thread that writes: a disk that takes its time must not
/// keep calls waiting.
fn settle(shared: &Shared, seam: &dyn Seam) {
    loop {
        let mut unsettled = shared.unsettled();
        while unsettled.files.is_empty() && !unsettled.is_closed {
            unsettled = shared.written.wait(unsettled).unwrap_or_else(PoisonError::into_inner);
        }
        if unsettled.files.is_empty() {
            return;
        }
        let due = Instant::now() + UNSETTLED;
        while !unsettled.is_closed && Instant::now() < due {
            let left = due.saturating_duration_since(Instant::now());
            unsettled =
                shared.written.wait_timeout(unsettled, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let files = std::mem::take(&mut unsettled.files);
        drop(unsettled);
        for file in files {
            if let Err(error) = publish::settle(seam, &file) {
                tracing::error!(%error, "the disk did not take the audit log: a power cut may take some of it away");
            }
        }
    }
}
