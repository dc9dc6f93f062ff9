use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;

/// How long anything may take before a test is given up: a computer under emulation, beside other tests on two cores, takes
/// minutes to start.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// What became of a program that ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Outcome {
    /// Runs a program to its end.
    pub fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// What it printed, when it succeeded; else the test fails.
    pub fn success(self) -> String {
        assert!(self.status.success(), "{self:?}");
        self.stdout
    }

    /// What it complained about, when it failed; else the test fails.
    pub fn failure(self) -> String {
        assert!(!self.status.success(), "{self:?}");
        self.stderr
    }

    /// Its exit code.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// What it printed, as JSON.
    pub fn json(self) -> Value {
        let text = self.success();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

/// A daemon that runs. It is ended when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: Arc<Log>,
    reader: Option<JoinHandle<()>>,
}

/// The JSON lines a daemon has logged.
#[derive(Debug, Default)]
struct Log {
    lines: Mutex<Lines>,
    grown: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    lines: Vec<String>,
    ended: bool,
}

impl Process {
    /// Starts a daemon that logs JSON, and waits until it listens.
    pub fn start(name: &str, command: &mut Command) -> Self {
        let process = Self::watch(name, command.args(["--log-format", "json"]));
        process.wait_for(0, "listening on", |line| line.contains("listening on "));
        process
    }

    /// Starts any program that says on its standard error what it does.
    pub(crate) fn watch(name: &str, command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stderr = child.stderr.take().expect("invariant: it was piped");
        let log = Arc::new(Log::default());
        let kept = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                kept.change(|lines| lines.lines.push(line));
            }
            kept.change(|lines| lines.ended = true);
        });
        Self { name: name.into(), child, log, reader: Some(reader) }
    }

    /// Its number among the processes of the machine.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How many lines it has logged: where to wait for more from.
    pub fn mark(&self) -> usize {
        self.log.lock().lines.len()
    }

    /// All it has logged from `mark` on.
    pub fn log_since(&self, mark: usize) -> Vec<String> {
        self.log.lock().lines.iter().skip(mark).cloned().collect()
    }

    /// Waits for a line after `mark` and returns it.
    pub fn wait_for(&self, mark: usize, what: &str, matches: impl Fn(&str) -> bool) -> String {
        let said = self.says(mark, PATIENCE, matches);
        said.unwrap_or_else(|all| panic!("{} did not say {what:?}:\n{}", self.name, all.join("\n")))
    }

    /// Waits so long for a line after `mark`, but not for one that ended.
    ///
    /// # Errors
    /// All it has said instead.
    pub(crate) fn says(
        &self,
        mark: usize,
        limit: Duration,
        matches: impl Fn(&str) -> bool,
    ) -> Result<String, Vec<String>> {
        let deadline = Instant::now() + limit;
        let mut lines = self.log.lock();
        loop {
            if let Some(line) = lines.lines.iter().skip(mark).find(|line| matches(line)) {
                return Ok(line.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || lines.ended {
                return Err(lines.lines.clone());
            }
            (lines, _) = self.log.grown.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for an event after `mark`: a line with this message and these fields.
    pub fn wait_for_event(&self, mark: usize, message: &str, fields: &[(&str, &str)]) -> String {
        let says = |line: &str| {
            let event: Value = serde_json::from_str(line).unwrap_or_default();
            let field = |name: &str| {
                event.pointer(&format!("/fields/{name}")).and_then(Value::as_str).map(str::to_owned)
            };
            field("message").as_deref() == Some(message)
                && fields.iter().all(|(name, value)| field(name).as_deref() == Some(*value))
        };
        self.wait_for(mark, &format!("{message} {fields:?}"), says)
    }

    /// Waits until it ended.
    pub(crate) fn wait_until_ended(&self) {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.log.lock();
        while !lines.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} does not end:\n{}", self.name, lines.lines.join("\n"));
            (lines, _) = self.log.grown.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Makes it read its certificates again.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// Asks it to end, and waits for that.
    pub fn end(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        // Its log may be held open by what it started: only it itself tells that it ended.
        let end =
            pidfd_open(self.pid(), PidfdFlags::empty()).expect("a child that was not waited for is there");
        let patience = Timespec::try_from(PATIENCE).expect("invariant: it is some minutes");
        let ended = poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&patience));
        let said = self.log_since(0).join("\n");
        assert_eq!(ended, Ok(1), "{} was asked to end and does not:\n{said}", self.name);
        self.child.wait().expect("a child can be waited for")
    }

    fn signal(&self, signal: Signal) {
        // One that has ended already needs no signal.
        kill_process(self.pid(), signal).ok();
    }

    fn pid(&self) -> Pid {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        pid.expect("invariant: the kernel gives out process ids")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if let Some(reader) = self.reader.take() {
            drop(reader.join());
        }
    }
}

impl Log {
    fn lock(&self) -> std::sync::MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Lines)) {
        change(&mut self.lock());
        self.grown.notify_all();
    }
}
