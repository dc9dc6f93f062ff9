use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use regex::bytes::{Regex, RegexBuilder};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tonic::{Request, Response, Status};

use super::driven::{Driven, Items};
use super::{Answer, permit};
use crate::auth::{Caller, Gate};
use crate::log::{BadLevel, Batch, Level, Levels, Line, LogLevels, LogRing, Watcher};
use crate::v1::logger_server::Logger;
use crate::wire::invalid;
use crate::{limits, v1};

/// How much memory an expression may take, in bytes.
const EXPRESSION: usize = 1024 * 1024;
/// How long lines are gathered before more are sent: what sending logs must not make for more to send without a pause.
const PAUSE: Duration = Duration::from_millis(50);

/// The log of this process, served.
pub(super) struct LoggerService {
    ring: Gate<LogRing>,
    levels: Gate<Arc<dyn LogLevels>>,
    turns: Arc<Semaphore>,
}

impl LoggerService {
    pub(super) fn new(ring: LogRing, levels: Arc<dyn LogLevels>) -> Self {
        let turns = Arc::new(Semaphore::new(limits::LOG_WATCHERS));
        Self { ring: Gate::new(ring), levels: Gate::new(levels), turns }
    }
}

#[async_trait]
impl Logger for LoggerService {
    async fn get_level(&self, request: Request<v1::Empty>) -> Result<Response<v1::LogLevel>, Status> {
        Ok(Response::new(level(self.levels.open(permit(&request)?).levels())))
    }

    async fn set_debug_level(
        &self,
        request: Request<v1::SetDebugLevelRequest>,
    ) -> Result<Response<v1::LogLevel>, Status> {
        let v1::SetDebugLevelRequest { level: wanted, seconds } = request.get_ref();
        bounded("a level", wanted, 1)?;
        if seconds.is_some_and(|seconds| !(1..=limits::LOG_LEVEL_SECONDS).contains(&seconds)) {
            return Err(invalid(format!("a time that is not 1 to {} s", limits::LOG_LEVEL_SECONDS)));
        }
        let time =
            seconds.map_or_else(|| "until it is set again".into(), |seconds| format!("for {seconds} s"));
        Caller::of(&request)?.target(format_args!("level {wanted:?} {time}"));
        let levels = self.levels.open(permit(&request)?);
        let set = levels.set(wanted, seconds.map(Duration::from_secs));
        set.map(|levels| Response::new(level(levels))).map_err(|BadLevel(why)| invalid(why))
    }

    async fn print(&self, request: Request<v1::PrintRequest>) -> Result<Response<v1::Empty>, Status> {
        let caller = Caller::of(&request)?;
        caller.permit()?;
        let v1::PrintRequest { text, level } = request.get_ref();
        bounded("a text", text, 1)?;
        let user = caller.user();
        // In quotes: nobody writes what looks like another line, or moves a reader's cursor.
        match parsed(level)? {
            Level::Error => tracing::error!(user, "somebody says: {text:?}"),
            Level::Warn => tracing::warn!(user, "somebody says: {text:?}"),
            Level::Info => tracing::info!(user, "somebody says: {text:?}"),
            Level::Debug => tracing::debug!(user, "somebody says: {text:?}"),
            Level::Trace => tracing::trace!(user, "somebody says: {text:?}"),
        }
        Ok(Response::new(v1::Empty {}))
    }

    type WatchStream = Answer<v1::WatchLogReply>;

    async fn watch(
        &self,
        request: Request<v1::WatchLogRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let ring = self.ring.open(permit(&request)?);
        let request = request.get_ref();
        let wanted = Wanted::parse(request)?;
        let turn = self.turns.clone().try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("{} others watch this log already", limits::LOG_WATCHERS))
        })?;
        let last = usize::try_from(request.last).unwrap_or(usize::MAX);
        let watcher = if request.follow { ring.watch(last) } else { ring.tail(last) };
        let work = async move |items| {
            let _turn = turn;
            show(watcher, wanted, items).await
        };
        Ok(Response::new(Driven::new(work).boxed()))
    }
}

/// Which lines somebody wants to see.
struct Wanted {
    level: Level,
    include: Option<Regex>,
    exclude: Option<Regex>,
}

impl Wanted {
    fn parse(request: &v1::WatchLogRequest) -> Result<Self, Status> {
        let level = if request.level.is_empty() { Level::Trace } else { parsed(&request.level)? };
        let (include, exclude) = (expression(&request.include)?, expression(&request.exclude)?);
        Ok(Self { level, include, exclude })
    }

    fn is(&self, line: &Line) -> bool {
        let text = line.text.as_bytes();
        line.level <= self.level
            && self.include.as_ref().is_none_or(|expression| expression.is_match(text))
            && !self.exclude.as_ref().is_some_and(|expression| expression.is_match(text))
    }

    fn reply(&self, batch: &Batch) -> v1::WatchLogReply {
        let shown = |line: &Arc<Line>| v1::LogLine {
            number: line.number,
            level: line.level.name().into(),
            target: line.target.clone(),
            text: line.text.clone(),
        };
        let lines = batch.lines.iter().filter(|line| self.is(line)).map(shown).collect();
        v1::WatchLogReply { lost: batch.lost, lines }
    }
}

async fn show(mut watcher: Watcher, wanted: Wanted, items: Items<v1::WatchLogReply>) -> Result<(), Status> {
    loop {
        let reply = match timeout(limits::SIGN_OF_LIFE, watcher.next()).await {
            Ok(Some(batch)) => wanted.reply(&batch),
            Ok(None) => return Ok(()),
            Err(_) => v1::WatchLogReply::default(),
        };
        items.give(reply).await?;
        sleep(PAUSE).await;
    }
}

fn level(Levels { level, usual, left }: Levels) -> v1::LogLevel {
    v1::LogLevel { level, usual, seconds_left: left.map(|left| left.as_secs()) }
}

fn parsed(level: &str) -> Result<Level, Status> {
    bounded("a level", level, 1)?;
    level.parse().map_err(|BadLevel(why)| invalid(why))
}

fn bounded(what: &str, text: &str, least: usize) -> Result<(), Status> {
    match (least..=limits::REASON).contains(&text.len()) {
        true => Ok(()),
        false => Err(invalid(format!("{what} that has not {least} to {} bytes", limits::REASON))),
    }
}

/// Bounded in length and in memory, and searched in time that grows with the line only: whoever may watch a log must not be
/// able to hold the daemon by it.
fn expression(text: &str) -> Result<Option<Regex>, Status> {
    bounded("an expression", text, 0)?;
    let mut builder = RegexBuilder::new(text);
    let built = builder.unicode(false).size_limit(EXPRESSION).dfa_size_limit(EXPRESSION).build();
    match text.is_empty() {
        true => Ok(None),
        false => built.map(Some).map_err(|error| invalid(format!("an expression that is none: {error}"))),
    }
}
