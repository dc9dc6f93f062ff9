use std::time::Duration;

use dominator_core::auth::Role;
use dominator_core::port::Cause;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use thiserror::Error;
use tonic::{Code, Status};

use super::{next, within};
use crate::log::{Level, Levels, Line};
use crate::transport::{Channel, Tls, connect};
use crate::v1::logger_client::LoggerClient;
use crate::{limits, v1, wire};

/// The log of a daemon elsewhere.
#[derive(Clone, Debug)]
pub struct RemoteLog {
    client: LoggerClient<Channel>,
}

/// Which lines to see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// How many of those that were logged before.
    pub last: u32,
    /// Whether also those that are logged from now on.
    pub follow: bool,
    /// Of this level or worse; all, if none is given.
    pub level: Option<Level>,
    /// Only lines in which this regular expression finds something, if it is not empty.
    pub include: String,
    /// No lines in which this one does, if it is not empty.
    pub exclude: String,
}

/// What a log tells those who watch it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogNews {
    /// So many lines were overwritten before they were taken.
    Lost(u64),
    /// A line; what is not printable in it is escaped.
    Line(Line),
}

impl RemoteLog {
    /// Connects to the daemon at `address`, as in `host:port`, which must play the role `expected`.
    ///
    /// # Errors
    /// [`LogError::Unreachable`], with the reason.
    pub async fn connect(tls: &Tls, address: &str, expected: Role) -> Result<Self, LogError> {
        let channel = connect(tls, address, expected).await;
        let channel = channel.map_err(|error| LogError::Unreachable(Cause::new(error)))?;
        Ok(Self { client: LoggerClient::new(channel).max_decoding_message_size(limits::MESSAGE) })
    }

    /// What is logged.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn levels(&self) -> Result<Levels, LogError> {
        let answer = within(limits::CALL, self.client.clone().get_level(v1::Empty {})).await;
        Ok(levels(answer.map_err(error)?.into_inner()))
    }

    /// Has the daemon log by `level`, for a time or until another is set.
    ///
    /// # Errors
    /// [`LogError`]; [`LogError::Invalid`] when it is no level.
    pub async fn set(&self, level: &str, time: Option<Duration>) -> Result<Levels, LogError> {
        let seconds = time.map(|time| time.as_secs());
        let request = v1::SetDebugLevelRequest { level: level.into(), seconds };
        let answer = within(limits::CALL, self.client.clone().set_debug_level(request)).await;
        Ok(levels(answer.map_err(error)?.into_inner()))
    }

    /// Writes a line into the log.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn print(&self, level: Level, text: &str) -> Result<(), LogError> {
        let request = v1::PrintRequest { text: text.into(), level: level.name().into() };
        within(limits::CALL, self.client.clone().print(request)).await.map(drop).map_err(error)
    }

    /// What is and was logged, until no more comes, or an error.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn watch(
        &self,
        query: LogQuery,
    ) -> Result<BoxStream<'static, Result<LogNews, LogError>>, LogError> {
        let LogQuery { last, follow, level, include, exclude } = query;
        let level = level.map_or_else(String::new, |level| level.name().into());
        let request = v1::WatchLogRequest { last, follow, level, include, exclude };
        let mut client = self.client.clone();
        let answer = within(limits::CALL, client.watch(request)).await.map_err(error)?.into_inner();
        // A daemon gives a sign of life long before a stream has stood still for too long.
        let replies = stream::try_unfold(answer, async |mut answer| {
            let reply = next(&mut answer).await.map_err(error)?;
            reply.map(|reply| Ok((news(reply)?, answer))).transpose()
        });
        let news = replies.map(|told: Result<Vec<_>, _>| match told {
            Ok(news) => news.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        });
        Ok(news.flat_map(stream::iter).boxed())
    }
}

fn news(reply: v1::WatchLogReply) -> Result<Vec<LogNews>, LogError> {
    let line = |line: v1::LogLine| {
        let level = line.level.parse().map_err(|_| error(wire::invalid("a line of no level")))?;
        let (target, text) = (printable(&line.target), printable(&line.text));
        Ok(LogNews::Line(Line { number: line.number, level, target, text }))
    };
    let lost = (reply.lost > 0).then_some(Ok(LogNews::Lost(reply.lost)));
    lost.into_iter().chain(reply.lines.into_iter().map(line)).collect()
}

/// A daemon, or who wrote into its log, must not write to our terminal what moves its cursor.
fn printable(text: &str) -> String {
    let escape = |c: char| if c.is_control() && c != '\t' { c.escape_debug().to_string() } else { c.into() };
    text.chars().map(escape).collect()
}

fn levels(v1::LogLevel { level, usual, seconds_left }: v1::LogLevel) -> Levels {
    let (level, usual) = (printable(&level), printable(&usual));
    Levels { level, usual, left: seconds_left.map(Duration::from_secs) }
}

fn error(status: Status) -> LogError {
    let text = wire::said(&status);
    if matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated) {
        LogError::Denied(text)
    } else if status.code() == Code::InvalidArgument {
        LogError::Invalid(text)
    } else {
        LogError::Failed(wire::cause(&status))
    }
}

/// Why nothing was learned of a log, or nothing done about it.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum LogError {
    /// The daemon can't be reached.
    #[error("the daemon can't be reached")]
    Unreachable(#[source] Cause),
    /// We may not.
    #[error("the daemon refuses: {0}")]
    Denied(String),
    /// What was asked for makes no sense.
    #[error("the daemon does not understand: {0}")]
    Invalid(String),
    /// It broke off.
    #[error("the daemon did not answer")]
    Failed(#[source] Cause),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_a_log_moves_the_cursor_of_who_reads_it() {
        assert_eq!(printable("a\tb\x1b[2J\u{9b}1m\r\nä"), "a\tb\\u{1b}[2J\\u{9b}1m\\r\\nä");
    }
}
