//! What is remembered of calls that change something: who made them, by which certificate, from where, what they were to
//! do to what, on what ground they were let in, and what came of it.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use thiserror::Error;
use time::OffsetDateTime;

use super::Ground;

/// Where the records of a server go.
///
/// The records of one call come in the order of its events; those of different calls in any order.
pub trait AuditLog: Send + Sync {
    /// Takes a record, and says by `written` what became of it: once, from any thread, maybe before it returns. A log that
    /// drops `written` without a word has failed.
    ///
    /// It is called on the threads that serve the network, twice or thrice a call that changes something: it must not wait
    /// for a disk or a network, and should be done within some ten microseconds. `Ok` means that the record outlives this
    /// process, not that it is safe from a power cut; the server lets no call in before, for a while (or at all, if it is
    /// told that there must be a log).
    fn append(&self, record: &AuditRecord, written: Written);
}

/// Hears what became of a record.
pub type Written = Box<dyn FnOnce(Result<(), AuditFault>) + Send>;

/// Why a record is not in the log, or not yet.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AuditFault {
    /// It will be if the log can be written again while this process lives.
    #[error("the audit log can't be written: {0}")]
    Unwritable(String),
    /// It never will be: too many wait already. The log will say how many were lost.
    #[error("the audit log can't be written, and too many records wait already")]
    Full,
    /// The log is closed.
    #[error("the audit log is closed")]
    Closed,
}

/// One event of one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// When, since 1970.
    pub when: Duration,
    /// Which call.
    pub call: CallId,
    /// What happened.
    pub event: AuditEvent,
    /// Who called.
    pub caller: Arc<AuditCaller>,
    /// What was called, as `Service.Method`.
    pub method: Cow<'static, str>,
    /// On what ground it was let in, in a word; nothing when it was not.
    pub ground: Option<Cow<'static, str>>,
    /// What it is done to: an image, a machine, a service; nothing as long as nobody knows.
    pub target: Option<String>,
    /// How many records of this caller were left out before this one.
    pub suppressed: u64,
}

/// Tells calls apart, also those of different processes that write the same log one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallId {
    /// When the server began to count, in nanoseconds since 1970.
    pub server: u64,
    /// The how manyeth call it was.
    pub number: u64,
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}", self.server, self.number)
    }
}

/// Who called, and from where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditCaller {
    /// The user's name in the certificate.
    pub user: String,
    /// The machine the certificate was made for, if it was for one.
    pub node: Option<String>,
    /// The certificate's serial number, as tools show it, which is unique among those of its authority.
    pub serial: Option<String>,
    /// The SHA-256 of the certificate, in hexadecimal digits, which is unique.
    pub fingerprint: Option<String>,
    /// The address and port of the other end.
    pub peer: String,
}

/// What happened to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuditEvent {
    /// It was let in; nothing was done yet.
    Begun,
    /// It is known what it is to be done to; nothing was done to it yet.
    Aimed,
    /// It is over.
    Ended {
        /// How.
        outcome: Outcome,
        /// How long after it had begun.
        took: Duration,
        /// What there is to say of what was done.
        detail: Option<String>,
    },
    /// It was not let in.
    Denied {
        /// As the caller was told.
        why: String,
    },
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// With an answer, good or bad.
    Answered {
        /// Its status, a word such as `ok` or `not_found`.
        status: &'static str,
        /// What the caller was told of it; empty when it went well.
        message: String,
    },
    /// The caller went away, or gave up, before it was answered. What it had begun may go on.
    Cancelled,
    /// The answer had begun, and the caller went away or gave up before its end. All was done of a call with a short answer.
    CutOff,
    /// The code that served it failed.
    Panicked,
}

impl Outcome {
    /// In one word.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Answered { status, .. } => status,
            Self::Cancelled => "cancelled",
            Self::CutOff => "cut_off",
            Self::Panicked => "panicked",
        }
    }
}

/// What a log says of itself, among the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuditNotice {
    /// A file begins here, or is gone on with.
    Opened(Opening),
    /// So many records are missing here, as they could not be written.
    Lost(u64),
}

/// Why a log opens a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Opening {
    /// The process started. Calls before that have no end in the log were cut off with the process before it.
    Start,
    /// The file before was full.
    Rotation,
    /// The file before was not there any more: somebody has moved or removed it.
    Missing,
}

impl AuditNotice {
    /// The version of the encoding, which stands in every [`AuditNotice::Opened`].
    pub const FORMAT: u32 = 1;

    /// The notice as a line of the log, with its end.
    pub fn line(&self, when: Duration) -> String {
        let mut line = Line { time: rfc3339(when), ..Line::default() };
        match self {
            Self::Opened(why) => {
                line.event = "opened";
                line.format = Some(Self::FORMAT);
                line.why = Some(short(why.word(), NAME));
            }
            Self::Lost(count) => {
                line.event = "lost";
                line.count = Some(*count);
            }
        }
        line.encode()
    }
}

impl Opening {
    const fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Rotation => "rotation",
            Self::Missing => "missing",
        }
    }
}

impl AuditRecord {
    /// The longest line, with its end, in bytes.
    pub const MAX_LINE: usize = 40 * 1024;
    /// How much is kept of a target, a message or a detail, in bytes. What is longer ends with `…`.
    pub const MAX_TEXT: usize = 1024;

    /// Whether it tells of somebody who was let in with power, and so of what may have changed something. The others are the
    /// first that a log without room does without.
    pub fn has_power(&self) -> bool {
        let powerless = [Ground::Public, Ground::Unauthenticated].map(Ground::word);
        self.ground.as_deref().is_some_and(|ground| !powerless.contains(&ground))
    }

    /// The record as a line of the log, with its end: a JSON object of printable ASCII characters, whatever the texts hold,
    /// so that nobody can end a line, hide a part of one, or write to the terminal of whoever reads it.
    pub fn line(&self) -> String {
        let caller = &*self.caller;
        let name = |text: &Option<String>| text.as_deref().map(|text| short(text, NAME).into_owned());
        let mut line = Line {
            time: rfc3339(self.when),
            call: Some(self.call.to_string()),
            user: Some(short(&caller.user, NAME)),
            node: name(&caller.node),
            serial: name(&caller.serial),
            fingerprint: name(&caller.fingerprint),
            peer: Some(short(&caller.peer, NAME)),
            method: Some(short(&self.method, NAME)),
            ground: self.ground.as_deref().map(|ground| short(ground, NAME)),
            target: self.target.as_deref().map(|target| short(target, Self::MAX_TEXT)),
            suppressed: Some(self.suppressed).filter(|count| *count > 0),
            ..Line::default()
        };
        match &self.event {
            AuditEvent::Begun => line.event = "begun",
            AuditEvent::Aimed => line.event = "aimed",
            AuditEvent::Denied { why } => {
                line.event = "denied";
                line.why = Some(short(why, Self::MAX_TEXT));
            }
            AuditEvent::Ended { outcome, took, detail } => {
                line.event = "ended";
                line.outcome = Some(outcome.word());
                line.took_ms = Some(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
                line.detail = detail.as_deref().map(|detail| short(detail, Self::MAX_TEXT));
                if let Outcome::Answered { message, .. } = outcome {
                    line.why = Some(short(message, Self::MAX_TEXT)).filter(|why| !why.is_empty());
                }
            }
        }
        line.encode()
    }
}

/// How much is kept of a name, in bytes.
const NAME: usize = 256;

/// The keys of a line, in order.
#[derive(Default, Serialize)]
struct Line<'a> {
    time: String,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ground: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    took_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    suppressed: Option<u64>,
}

impl Line<'_> {
    fn encode(&self) -> String {
        let json = serde_json::to_string(self).expect("invariant: all keys are strings");
        let mut line = printable(json);
        line.push('\n');
        line
    }
}

/// The same JSON in printable ASCII: what is not stands in a string, where `\u` and four digits mean the same. Letters that
/// look like others, marks that turn the direction of a line, and what starts a terminal's command can be seen for what
/// they are.
fn printable(json: String) -> String {
    let is_plain = |c: char| (' '..='~').contains(&c);
    if json.chars().all(is_plain) {
        return json;
    }
    let mut line = String::with_capacity(json.len() * 2);
    for character in json.chars() {
        if is_plain(character) {
            line.push(character);
        } else {
            let mut units = [0; 2];
            let units = character.encode_utf16(&mut units);
            line.extend(units.iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    line
}

/// No more of a text than `limit` bytes, and then a sign that there was more.
fn short(text: &str, limit: usize) -> Cow<'_, str> {
    if text.len() <= limit {
        return Cow::Borrowed(text);
    }
    let kept = text.get(..text.floor_char_boundary(limit)).unwrap_or_default();
    Cow::Owned(format!("{kept}…"))
}

/// A time in UTC to the millisecond. After the year 9999 it stands still.
fn rfc3339(since_1970: Duration) -> String {
    let seconds = i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX).min(LAST_SECOND);
    let time = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (hour, minute, second) = time.to_hms();
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    let millis = since_1970.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// The last second of the year 9999.
const LAST_SECOND: i64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn record(user: &str, method: &str, target: &str, event: AuditEvent) -> AuditRecord {
        let caller = AuditCaller {
            user: user.into(),
            node: None,
            serial: Some("0x1f".into()),
            fingerprint: Some("ab".repeat(32)),
            peer: "192.0.2.1:4711".into(),
        };
        AuditRecord {
            when: Duration::from_millis(1_800_000_000_007),
            call: CallId { server: 0x1f, number: 3 },
            event,
            caller: Arc::new(caller),
            method: method.to_owned().into(),
            ground: Some("certificate".into()),
            target: Some(target.into()),
            suppressed: 0,
        }
    }

    #[test]
    fn a_line_says_who_did_what_from_where_to_what_and_what_came_of_it() {
        let outcome = Outcome::Answered { status: "not_found", message: "there is no such image".into() };
        let ended = AuditEvent::Ended { outcome, took: Duration::from_millis(12), detail: None };
        let prints = "ab".repeat(32);
        assert_eq!(
            record("alice", "ImageServer.DeleteImage", "base/1", ended).line(),
            format!(
                "{{\"time\":\"2027-01-15T08:00:00.007Z\",\"event\":\"ended\",\"call\":\"1f-3\",\"user\":\"alice\",\
                 \"serial\":\"0x1f\",\"fingerprint\":\"{prints}\",\"peer\":\"192.0.2.1:4711\",\
                 \"method\":\"ImageServer.DeleteImage\",\"ground\":\"certificate\",\"target\":\"base/1\",\
                 \"outcome\":\"not_found\",\"took_ms\":12,\"why\":\"there is no such image\"}}\n"
            )
        );
        assert_eq!(
            AuditNotice::Opened(Opening::Rotation).line(Duration::ZERO),
            "{\"time\":\"1970-01-01T00:00:00.000Z\",\"event\":\"opened\",\"format\":1,\"why\":\"rotation\"}\n"
        );
        let lost = AuditNotice::Lost(7).line(Duration::MAX);
        assert_eq!(lost, "{\"time\":\"9999-12-31T23:59:59.999Z\",\"event\":\"lost\",\"count\":7}\n");
    }

    #[test]
    fn a_name_can_not_end_a_line_nor_write_to_a_terminal() {
        let hostile = "x\"}\n{\"user\":\"root\u{1b}]0;\u{7f}\u{9b}31m\u{202e}\u{2028}Ω🔑\\\r\0";
        let line = record(hostile, "Subd.Poll", hostile, AuditEvent::Begun).line();
        assert_eq!(line.find('\n'), Some(line.len() - 1), "{line:?}");
        assert!(line.trim_end().bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line:?}");
        let read: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&read["user"], &read["target"]),
            (&hostile.into(), &hostile.into()),
            "and nothing is lost"
        );
    }

    proptest! {
        #[test]
        fn every_line_is_one_short_object_of_printable_characters(
            user in any::<String>(),
            text in "\\PC*|(?s:.{0,3000})",
            repeated in 1..2000_usize,
        ) {
            let text = text.repeat(repeated.min(100_000 / text.len().max(1)));
            let outcome = Outcome::Answered { status: "internal", message: text.clone() };
            let detail = Some(text.clone());
            let ended = AuditEvent::Ended { outcome, took: Duration::MAX, detail };
            for event in [ended, AuditEvent::Denied { why: text.clone() }] {
                let mut record = record(&user, &text, &text, event);
                record.ground = Some(text.clone().into());
                let line = record.line();
                prop_assert!(line.len() <= AuditRecord::MAX_LINE);
                let body = line.strip_suffix('\n').unwrap();
                prop_assert!(body.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
                let read: Value = serde_json::from_str(body).unwrap();
                if user.len() <= NAME {
                    prop_assert_eq!(read["user"].as_str(), Some(user.as_str()));
                }
            }
        }
    }

    #[test]
    fn the_longest_line_is_as_long_as_is_said() {
        let worst = "\u{1}".repeat(5000);
        let outcome = Outcome::Answered { status: "failed_precondition", message: worst.clone() };
        let ended = AuditEvent::Ended { outcome, took: Duration::MAX, detail: Some(worst.clone()) };
        let mut record = record(&worst, &worst, &worst, ended);
        record.ground = Some(worst.clone().into());
        record.call = CallId { server: u64::MAX, number: u64::MAX };
        record.suppressed = u64::MAX;
        let name = || Some(worst.clone());
        let peer = worst.clone();
        record.caller =
            Arc::new(AuditCaller { node: name(), serial: name(), fingerprint: name(), user: worst, peer });
        let line = record.line();
        assert!(line.len() <= AuditRecord::MAX_LINE, "{}", line.len());
        let read: Value = serde_json::from_str(&line).unwrap();
        assert!(read["target"].as_str().unwrap().ends_with('…'), "what was cut is seen to be");
    }
}
