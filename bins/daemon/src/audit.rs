//! Where a daemon keeps its audit log.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Args;
use dominator_core::auth::{AuditFault, AuditLog, AuditRecord, Written};
use dominator_rpc::auth::Audit;

use crate::failure::{During, Failure, chain};

/// How long a log that can't be begun is left alone before the next attempt.
const PAUSE: Duration = Duration::from_secs(1);

/// Which log of calls a daemon keeps.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Audit")]
pub struct AuditOptions {
    /// Record every call that changes something in this file [default: STATE-DIR/audit.log]
    #[arg(long, value_name = "FILE")]
    pub audit_log: Option<PathBuf>,
    /// Begin another file when it has this many bytes
    #[arg(long, value_name = "BYTES", default_value = "16777216", value_parser = clap::value_parser!(u64).range(65536..))]
    pub audit_log_size: u64,
    /// Keep this many full ones, the latest FILE.1
    #[arg(long, value_name = "COUNT", default_value = "8", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub audit_log_count: u32,
    /// Refuse calls that would change something while they can't be recorded
    #[arg(long)]
    pub audit_required: bool,
}

impl AuditOptions {
    /// The file that is written.
    pub fn file(&self, state_dir: &Path) -> PathBuf {
        self.audit_log.clone().unwrap_or_else(|| state_dir.join("audit.log"))
    }

    /// Has `open` begin the log: at this path, so many bytes a file, so many full files kept. One that is only wanted and
    /// can't be begun is tried again for as long as the daemon runs: an agent that does not start can't be told to mend it.
    ///
    /// # Errors
    /// [`Failure`] when it can't, and must be.
    pub(crate) fn begin<L, E>(
        &self,
        state_dir: &Path,
        open: impl Fn(&Path, u64, u32) -> Result<L, E> + Send + 'static,
    ) -> Result<Audit, Failure>
    where
        L: AuditLog + 'static,
        E: Error + Send + Sync + 'static,
    {
        let (path, size, count) = (self.file(state_dir), self.audit_log_size, self.audit_log_count);
        let open = move || open(&path, size, count);
        match open() {
            Ok(log) if self.audit_required => Ok(Audit::required(Arc::new(log))),
            Ok(log) => Ok(Audit::to(Arc::new(log))),
            Err(error) if self.audit_required => Err(error).during(|| "can't begin the audit log".into()),
            Err(error) => {
                let log = Late::begin(chain(&error), open);
                Ok(Audit::to(Arc::new(log.during(|| "can't go on without the audit log".into())?)))
            }
        }
    }
}

/// A log that is still to be begun. Until then every record fails, which is counted and told with each.
struct Late<L> {
    shared: Arc<Shared<L>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared<L> {
    log: OnceLock<L>,
    state: Mutex<State>,
    ended: Condvar,
}

struct State {
    /// Why the last attempt failed.
    why: String,
    /// How many records came too early.
    missed: u64,
    is_ended: bool,
}

impl<L: AuditLog + 'static> Late<L> {
    fn begin<E: Error + 'static>(
        why: String,
        open: impl Fn() -> Result<L, E> + Send + 'static,
    ) -> std::io::Result<Self> {
        tracing::error!(why, "can't begin the audit log: calls go on and are not recorded; trying again");
        let state = Mutex::new(State { why, missed: 0, is_ended: false });
        let shared = Arc::new(Shared { log: OnceLock::new(), state, ended: Condvar::new() });
        let trying = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("audit-begin".into());
        let thread = thread.spawn(move || trying.keep_trying(&open))?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl<L: AuditLog> AuditLog for Late<L> {
    fn append(&self, record: &AuditRecord, written: Written) {
        if let Some(log) = self.shared.log.get() {
            return log.append(record, written);
        }
        let mut state = self.shared.state();
        state.missed += 1;
        let why = state.why.clone();
        drop(state);
        written(Err(AuditFault::Unwritable(why)));
    }
}

impl<L> Shared<L> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep_trying<E: Error + 'static>(&self, open: &impl Fn() -> Result<L, E>) {
        while self.may_try_again() {
            match open() {
                Ok(log) => {
                    let missing = self.state().missed;
                    tracing::warn!(missing, "the audit log is begun; records of calls before are missing");
                    // INVARIANT: only this thread sets it, and once.
                    self.log.get_or_init(|| log);
                    return;
                }
                Err(error) => {
                    let why = chain(&error);
                    tracing::error!(why, "still can't begin the audit log");
                    self.state().why = why;
                }
            }
        }
    }

    /// Waits for the next attempt; whether there is one.
    fn may_try_again(&self) -> bool {
        let (due, mut state) = (Instant::now() + PAUSE, self.state());
        while !state.is_ended {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            state = self.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }
}

impl<L> Drop for Late<L> {
    fn drop(&mut self) {
        self.shared.state().is_ended = true;
        self.shared.ended.notify_all();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::{Sender, channel};

    use clap::{Args as _, Command, FromArgMatches as _};
    use dominator_core::auth::{AuditCaller, AuditEvent, CallId};

    use super::*;

    struct Notes;

    impl AuditLog for Notes {
        fn append(&self, _: &AuditRecord, written: Written) {
            written(Ok(()));
        }
    }

    fn options(arguments: &[&str]) -> AuditOptions {
        let command = AuditOptions::augment_args(Command::new("x"));
        let matches = command.get_matches_from([&["x"], arguments].concat());
        AuditOptions::from_arg_matches(&matches).unwrap()
    }

    fn refused(_: &Path, _: u64, _: u32) -> Result<Notes, io::Error> {
        Err(io::Error::other("a read-only disk"))
    }

    fn told(log: &impl AuditLog) -> Result<(), AuditFault> {
        let record = AuditRecord {
            when: Duration::ZERO,
            call: CallId { server: 1, number: 1 },
            event: AuditEvent::Begun,
            caller: Arc::new(AuditCaller::default()),
            method: "Subd.Update".into(),
            ground: None,
            target: None,
            suppressed: 0,
        };
        let (sender, receiver) = channel();
        log.append(&record, Box::new(move |outcome| sender.send(outcome).unwrap()));
        receiver.recv().unwrap()
    }

    #[test]
    fn a_log_that_can_not_be_begun_keeps_only_those_from_starting_who_must_have_one() {
        options(&[]).begin(Path::new("/nowhere"), refused).unwrap();
        let failure = options(&["--audit-required"]).begin(Path::new("/nowhere"), refused).unwrap_err();
        assert_eq!(chain(&failure), "can't begin the audit log: a read-only disk");
    }

    #[test]
    fn a_log_that_can_not_be_begun_is_begun_as_soon_as_it_can() {
        let (works, (begun, is_begun)) = (Arc::new(AtomicBool::new(false)), channel());
        let (mended, begun): (_, Sender<()>) = (works.clone(), begun);
        let log = Late::begin("a read-only disk".into(), move || {
            begun.send(()).unwrap();
            if works.load(Ordering::SeqCst) { Ok(Notes) } else { Err(io::Error::other("still read-only")) }
        });
        let log = log.unwrap();
        assert_eq!(told(&log), Err(AuditFault::Unwritable("a read-only disk".into())));
        is_begun.recv().unwrap();
        mended.store(true, Ordering::SeqCst);
        while told(&log).is_err() {
            std::thread::yield_now();
        }
    }
}
