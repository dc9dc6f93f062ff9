//! What is logged, changed while the daemon runs.

use std::convert::Infallible;
use std::time::Duration;

use dominator_rpc::log::{BadLevel, Levels, LogLevels, LogRing};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::failure::chain;

/// The log of this process: its last lines, and what gets into it.
#[derive(Debug)]
pub struct LogControl {
    filter: reload::Handle<EnvFilter, Registry>,
    wish: watch::Sender<Wish>,
    ring: LogRing,
}

#[derive(Clone, Debug)]
struct Wish {
    usual: String,
    /// Another level for a time, and when that is over.
    now: Option<(String, Instant)>,
}

impl LogControl {
    pub(super) fn new(filter: reload::Handle<EnvFilter, Registry>, usual: &str, ring: LogRing) -> Self {
        Self { filter, wish: watch::Sender::new(Wish { usual: usual.into(), now: None }), ring }
    }

    /// The last lines.
    pub fn ring(&self) -> LogRing {
        self.ring.clone()
    }

    /// Has the usual level return when the time of another is over, for as long as this is polled. Safe to cancel.
    pub async fn keep(&self) -> Infallible {
        let mut wishes = self.wish.subscribe();
        loop {
            let end = wishes.borrow_and_update().now.as_ref().map(|(_, end)| *end);
            let over = async {
                match end {
                    Some(end) => sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The sender lives in this value, so there is no error.
                changed = wishes.changed() => drop(changed),
                () = over => self.back(),
            }
        }
    }

    /// The usual level again, if the time of another is over.
    fn back(&self) {
        let mut returned = None;
        self.wish.send_if_modified(|wish| {
            // Somebody may have set another at the last moment.
            if wish.now.take_if(|(_, end)| *end <= Instant::now()).is_none() {
                return false;
            }
            returned = Some((self.apply(&wish.usual), wish.usual.clone()));
            true
        });
        match returned {
            Some((Ok(()), level)) => tracing::info!(level, "the usual log level has returned"),
            Some((Err(BadLevel(why)), level)) => {
                tracing::error!(level, "the usual log level can't return: {why}");
            }
            None => {}
        }
    }

    fn apply(&self, level: &str) -> Result<(), BadLevel> {
        let filter = parse(level)?;
        self.filter.reload(filter).map_err(|error| BadLevel(chain(&error)))
    }
}

impl LogLevels for &'static LogControl {
    fn levels(&self) -> Levels {
        LogControl::levels(self)
    }

    fn set(&self, level: &str, time: Option<Duration>) -> Result<Levels, BadLevel> {
        LogControl::set(self, level, time)
    }
}

impl LogControl {
    /// What is logged.
    pub fn levels(&self) -> Levels {
        let Wish { usual, now } = self.wish.borrow().clone();
        let left = now.as_ref().map(|(_, end)| end.saturating_duration_since(Instant::now()));
        let level = now.map_or_else(|| usual.clone(), |(level, _)| level);
        Levels { level, usual, left }
    }

    /// As [`LogLevels::set`].
    fn set(&self, level: &str, time: Option<Duration>) -> Result<Levels, BadLevel> {
        parse(level)?;
        let seconds = time.map(|time| time.as_secs());
        // Said under the level before, too: who turns the log off is seen doing it.
        tracing::info!(level, seconds, "the log level is being changed");
        let mut applied = Ok(());
        self.wish.send_if_modified(|wish| {
            applied = self.apply(level);
            if applied.is_err() {
                return false;
            }
            match time {
                Some(time) => wish.now = Some((level.into(), Instant::now() + time)),
                None => *wish = Wish { usual: level.into(), now: None },
            }
            true
        });
        applied.map(|()| self.levels())
    }
}

/// A single word that is no level would be taken for a part of the program, of which everything is logged, and of all else
/// nothing: a log that a misspelt word silences.
pub(super) fn misspelt(level: &str) -> Option<&str> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_word = |part: &&str| !part.contains(['=', '[', ']', '{', '}', '"']);
    level.split(',').map(str::trim).filter(is_word).find(|word| !LEVELS.contains(word))
}

/// No regular expressions for values of fields: they have no bound.
fn parse(level: &str) -> Result<EnvFilter, BadLevel> {
    if let Some(word) = misspelt(level) {
        return Err(BadLevel(format!(
            "{level:?} is no log level: {word:?} is neither a level nor TARGET=LEVEL"
        )));
    }
    let parsed = EnvFilter::builder().with_regex(false).parse(level);
    parsed.map_err(|error| BadLevel(format!("{level:?} is no log level: {}", chain(&error))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::dispatcher::DefaultGuard;
    use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};

    /// A control of what this thread logs.
    fn control(usual: &str) -> (LogControl, DefaultGuard) {
        let (filter, handle) = reload::Layer::new(parse(usual).unwrap());
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::sink).boxed();
        let subscriber = tracing_subscriber::registry().with(filter).with(lines);
        let control = LogControl::new(handle, usual, LogRing::new());
        (control, tracing::dispatcher::set_default(&subscriber.into()))
    }

    fn logs_debug() -> bool {
        tracing::enabled!(tracing::Level::DEBUG)
    }

    fn levels(level: &str, usual: &str, left: Option<u64>) -> Levels {
        Levels { level: level.into(), usual: usual.into(), left: left.map(Duration::from_secs) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_level_that_is_set_for_a_time_returns_by_itself() {
        let (control, _logging) = control("info");
        assert!(!logs_debug());
        let minute = Duration::from_secs(60);
        assert_eq!(control.set("debug", Some(minute)), Ok(levels("debug", "info", Some(60))));
        let keep = async {
            tokio::time::timeout(minute / 2, control.keep()).await.unwrap_err();
            assert!(logs_debug(), "half of the time is left");
            assert_eq!(control.levels(), levels("debug", "info", Some(30)));
            // Whoever sets it again sets the time again.
            control.set("debug", Some(minute)).unwrap();
            tokio::time::timeout(minute * 3 / 4, control.keep()).await.unwrap_err();
            assert!(logs_debug());
            tokio::time::timeout(minute / 2, control.keep()).await.unwrap_err();
        };
        keep.await;
        assert!(!logs_debug());
        assert_eq!(control.levels(), levels("info", "info", None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_level_that_is_set_for_good_stays_and_what_is_none_changes_nothing() {
        let (control, _logging) = control("info");
        control.set("warn", Some(Duration::from_secs(9))).unwrap();
        control.set("debug", None).unwrap();
        tokio::time::timeout(Duration::from_secs(3600), control.keep()).await.unwrap_err();
        assert!(logs_debug());
        assert_eq!(control.levels(), levels("debug", "debug", None));
        for bad in ["loud", "debgu", "", "info,dominator_rpc", "info,[", "dominator=louder"] {
            let BadLevel(why) = control.set(bad, None).unwrap_err();
            assert!(why.contains("is no log level"), "{why}");
        }
        assert_eq!(control.levels(), levels("debug", "debug", None));
    }
}
