//! The log of a process, for those who are elsewhere: its last lines in memory, those who watch it, and what is logged.
//!
//! Whoever logs never waits for those who watch. All there is for them is a ring of lines; who takes them too slowly finds
//! that some were overwritten, and how many.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;

/// How bad, or how small, it is what a line tells. The smaller is the worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Something failed.
    Error,
    /// Something may fail, or was refused.
    Warn,
    /// Something happened.
    Info,
    /// For whoever looks for a fault.
    Debug,
    /// The same, and of everything.
    Trace,
}

impl Level {
    const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// In a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Level {
    type Err = BadLevel;

    fn from_str(text: &str) -> Result<Self, BadLevel> {
        let found = Self::ALL.into_iter().find(|level| level.name() == text);
        found.ok_or_else(|| BadLevel(format!("{text:?} is none of error, warn, info, debug and trace")))
    }
}

/// What can't be a level, and why.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct BadLevel(pub String);

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// How many were logged before it.
    pub number: u64,
    /// How bad it is.
    pub level: Level,
    /// The part of the program that it is from.
    pub target: String,
    /// As it was written, without its end.
    pub text: String,
}

/// The last lines that were logged: [`LogRing::LINES`] of them, and [`LogRing::BYTES`] at most. A clone is the same ring.
#[derive(Clone, Debug)]
pub struct LogRing(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kept: Mutex<Kept>,
    /// How many lines there were, for those who wait for more.
    bell: watch::Sender<Bell>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bell {
    logged: u64,
    ended: bool,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<Arc<Line>>,
    bytes: usize,
    logged: u64,
}

/// Some lines that somebody watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// How many were overwritten before they were taken, after those of the batch before.
    pub lost: u64,
    /// In order.
    pub lines: Vec<Arc<Line>>,
}

impl Default for LogRing {
    fn default() -> Self {
        Self::new()
    }
}

impl LogRing {
    /// How many lines are kept.
    pub const LINES: usize = 1024;
    /// How many bytes they have together, at most.
    pub const BYTES: usize = 256 * 1024;
    /// How many bytes of a line are kept.
    pub const LINE: usize = 8 * 1024;

    /// Without a line.
    pub fn new() -> Self {
        Self(Arc::new(Inner { kept: Mutex::default(), bell: watch::Sender::new(Bell::default()) }))
    }

    /// Adds a line. What is longer than [`LogRing::LINE`] is cut off. Never waits for those who watch, and logs nothing.
    pub fn push(&self, level: Level, target: &str, text: &str) {
        let text = text.get(..text.floor_char_boundary(Self::LINE)).unwrap_or_default();
        let mut kept = self.kept();
        let line = Line { number: kept.logged, level, target: target.into(), text: text.into() };
        kept.bytes += line.weight();
        kept.lines.push_back(Arc::new(line));
        while kept.lines.len() > Self::LINES || kept.bytes > Self::BYTES {
            let oldest = kept.lines.pop_front();
            kept.bytes -= oldest.map_or(0, |line| line.weight());
        }
        kept.logged += 1;
        let logged = kept.logged;
        drop(kept);
        // Two who log at once may ring in the other order.
        self.0.bell.send_modify(|bell| bell.logged = bell.logged.max(logged));
    }

    /// Watches what is logged from now on, after the `last` lines that were.
    pub fn watch(&self, last: usize) -> Watcher {
        let (logged, next) = self.beginning(last);
        Watcher { ring: self.clone(), bell: self.0.bell.subscribe(), next, heard: logged, end: None }
    }

    /// The `last` lines that were logged, and no more.
    pub fn tail(&self, last: usize) -> Watcher {
        let (logged, next) = self.beginning(last);
        let bell = self.0.bell.subscribe();
        Watcher { ring: self.clone(), bell, next, heard: logged, end: Some(logged) }
    }

    /// Has everybody who watches come to an end, when they have taken what there is.
    pub fn end(&self) {
        self.0.bell.send_modify(|bell| bell.ended = true);
    }

    /// How many there were, and the number of the first of the last ones.
    fn beginning(&self, last: usize) -> (u64, u64) {
        let kept = self.kept();
        (kept.logged, kept.logged - kept.lines.len().min(last) as u64)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    const fn weight(&self) -> usize {
        self.target.len() + self.text.len()
    }
}

/// Somebody who watches. Holds nothing of the ring: whoever is slow loses lines.
#[derive(Debug)]
pub struct Watcher {
    ring: LogRing,
    bell: watch::Receiver<Bell>,
    next: u64,
    heard: u64,
    end: Option<u64>,
}

impl Watcher {
    /// How many lines come at once, at most.
    pub const BATCH: usize = 256;

    /// The next lines, as soon as there are any; nothing, when no more will come. Safe to cancel.
    pub async fn next(&mut self) -> Option<Batch> {
        loop {
            if self.end.is_some_and(|end| self.next >= end) {
                return None;
            }
            let batch = self.take();
            if batch != Batch::default() {
                return Some(batch);
            }
            let heard = self.heard;
            let rung = self.bell.wait_for(|bell| bell.logged > heard || bell.ended).await;
            // The sender lives in the ring, so there is no error.
            let bell = rung.map_or_else(|_| Bell { logged: heard, ended: true }, |bell| *bell);
            if bell.logged <= heard {
                return None;
            }
            self.heard = bell.logged;
        }
    }

    /// What there is.
    fn take(&mut self) -> Batch {
        let kept = self.ring.kept();
        let oldest = kept.logged - kept.lines.len() as u64;
        let lost = oldest.saturating_sub(self.next);
        let first = self.next.max(oldest);
        let skipped = usize::try_from(first - oldest).unwrap_or(usize::MAX);
        let wanted = |line: &&Arc<Line>| self.end.is_none_or(|end| line.number < end);
        let lines: Vec<_> =
            kept.lines.iter().skip(skipped).take(Self::BATCH).take_while(wanted).cloned().collect();
        self.next = first + lines.len() as u64;
        self.heard = self.heard.max(self.next);
        Batch { lost, lines }
    }
}

/// What a process logs, and who may have another.
pub trait LogLevels: Send + Sync {
    /// What is logged.
    fn levels(&self) -> Levels;

    /// Has it log by `level`, as in `debug` or `info,dominator_rpc=debug`; for a time, after which the usual level returns,
    /// or until another is set.
    ///
    /// # Errors
    /// [`BadLevel`], and what was in force stays.
    fn set(&self, level: &str, time: Option<Duration>) -> Result<Levels, BadLevel>;
}

/// What a process logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels {
    /// Now.
    pub level: String,
    /// When nobody asked for another for a time.
    pub usual: String,
    /// How long until the usual level returns, if it does.
    pub left: Option<Duration>,
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
