//! The JSON of a record.

use std::time::Duration;

use dominator_core::health::HealthOutcome;
use dominator_core::inode::Timestamp;
use dominator_core::path::ImagePath;
use dominator_core::plan::{PlanSummary, PlannedAction};
use dominator_core::port::{
    Note, PathFailure, ServiceOutcome, ServiceState, TrialReason, UndoReason, UpdateOutcome, UpdateRecord,
};
use serde::{Deserialize, Serialize};

/// How many services, checks, paths and failures a record names at most, each.
const MAX_NAMED: usize = 200;
/// How much is kept of what is said for people, in bytes.
const MAX_WORDS: usize = 500;

/// The text of `record`, which names as much as there is room for; nothing when it is longer than `limit` all the same.
pub(super) fn encode(record: &UpdateRecord, limit: usize) -> Option<Vec<u8>> {
    [MAX_NAMED, MAX_NAMED / 10, 0].into_iter().find_map(|named| {
        let text = serde_json::to_vec_pretty(&Written::of(&cut(record, named))).ok()?;
        (text.len() <= limit).then_some(text)
    })
}

/// As much of it as names no more than `named` of each kind.
fn cut(record: &UpdateRecord, named: usize) -> UpdateRecord {
    let mut record = record.clone();
    record.services.truncate(named);
    record.health.truncate(named);
    record.plan.services.truncate(named);
    record.plan.kept.truncate(named);
    record.plan.protected.truncate(named);
    if let UpdateOutcome::Undone { failures, .. } = &mut record.outcome {
        failures.truncate(named);
    }
    record
}

/// The record of `number` with this text.
pub(super) fn decode(text: &[u8], number: u64) -> Result<UpdateRecord, serde_json::Error> {
    serde_json::from_slice::<Written>(text).map(|written| written.record(number))
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Written {
    image: Option<String>,
    previous: Option<String>,
    began: Time,
    ended: Option<Time>,
    outcome: Outcome,
    plan: Plan,
    services: Vec<Service>,
    health: Vec<Health>,
    window_seconds: f64,
    note: Option<String>,
}

/// Seconds since 1970, and nanoseconds after that.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Time(i64, u32);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Outcome {
    is: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    detail: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    failures: Vec<Failure>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    path: String,
    reason: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Plan {
    directories: u64,
    files: u64,
    symlinks: u64,
    specials: u64,
    links: u64,
    metadata: u64,
    deletions: u64,
    bytes: u64,
    services: Vec<Action>,
    kept: Vec<String>,
    protected: Vec<String>,
    window_seconds: f64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Action {
    service: String,
    action: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    service: String,
    action: String,
    before: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Health {
    name: String,
    attempts: u32,
    took_seconds: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Written {
    fn of(record: &UpdateRecord) -> Self {
        let service = |of: &ServiceOutcome| Service {
            service: of.service.clone(),
            action: of.action.clone(),
            before: of.before.text().to_owned(),
            error: of.error.as_deref().map(words),
        };
        let health = |of: &HealthOutcome| Health {
            name: of.name.clone(),
            attempts: of.attempts,
            took_seconds: of.took.as_secs_f64(),
            error: of.error.as_deref().map(words),
        };
        Self {
            image: record.image.as_ref().map(ToString::to_string),
            previous: record.previous.as_ref().map(ToString::to_string),
            began: Time::of(record.began),
            ended: record.ended.map(Time::of),
            outcome: Outcome::of(&record.outcome),
            plan: Plan::of(&record.plan),
            services: record.services.iter().map(service).collect(),
            health: record.health.iter().map(health).collect(),
            window_seconds: record.window.as_secs_f64(),
            note: record.note.as_ref().map(ToString::to_string),
        }
    }

    fn record(self, number: u64) -> UpdateRecord {
        let service = |of: Service| ServiceOutcome {
            before: spelt(ServiceState::ALL, ServiceState::text, Some(&of.before)).unwrap_or_default(),
            service: of.service,
            action: of.action,
            error: of.error,
        };
        let health = |of: Health| HealthOutcome {
            name: of.name,
            attempts: of.attempts,
            error: of.error,
            took: seconds(of.took_seconds),
        };
        UpdateRecord {
            number,
            image: self.image.and_then(|name| name.parse().ok()),
            previous: self.previous.and_then(|name| name.parse().ok()),
            began: self.began.time(),
            ended: self.ended.map(Time::time),
            plan: self.plan.summary(),
            services: self.services.into_iter().map(service).collect(),
            health: self.health.into_iter().map(health).collect(),
            window: seconds(self.window_seconds),
            outcome: self.outcome.outcome(),
            note: self.note.as_deref().and_then(Note::cut),
        }
    }
}

impl Time {
    fn of(time: Timestamp) -> Self {
        Self(time.seconds(), time.nanos())
    }

    fn time(self) -> Timestamp {
        Timestamp::new(self.0, self.1).unwrap_or_default()
    }
}

impl Outcome {
    fn of(outcome: &UpdateOutcome) -> Self {
        let (why, detail, failures) = match outcome {
            UpdateOutcome::Made => (None, "", &[][..]),
            UpdateOutcome::OnTrial { why } => (Some(why.text()), "", &[][..]),
            UpdateOutcome::Undone { why, detail, failures } => {
                (Some(why.text()), detail.as_str(), &failures[..])
            }
            UpdateOutcome::NotMade { why } => (None, why.as_str(), &[][..]),
        };
        let failure = |of: &PathFailure| Failure { path: of.path.to_string(), reason: words(&of.reason) };
        let failures = failures.iter().map(failure).collect();
        let (is, why) = (outcome.text().to_owned(), why.map(str::to_owned));
        Self { is, why, detail: words(detail), failures }
    }

    /// A word nobody knows is of a later version: what it came to is not known then, and said so.
    fn outcome(self) -> UpdateOutcome {
        let Self { is, why, detail, failures } = self;
        let why = why.as_deref();
        let failure = |of: Failure| {
            Some(PathFailure { path: ImagePath::parse(of.path.as_bytes()).ok()?, reason: of.reason })
        };
        let failures = failures.into_iter().filter_map(failure).collect();
        let trial = spelt(TrialReason::ALL, TrialReason::text, why).unwrap_or(TrialReason::AgentRestart);
        let undoing = spelt(UndoReason::ALL, UndoReason::text, why).unwrap_or(UndoReason::Halted);
        let all = [
            UpdateOutcome::Made,
            UpdateOutcome::OnTrial { why: trial },
            UpdateOutcome::Undone { why: undoing, detail: detail.clone(), failures },
            UpdateOutcome::NotMade { why: detail.clone() },
        ];
        let outcome = all.into_iter().find(|outcome| outcome.text() == is);
        outcome.unwrap_or_else(|| UpdateOutcome::NotMade { why: format!("{is}: {detail}") })
    }
}

impl Plan {
    fn of(plan: &PlanSummary) -> Self {
        let action = |of: &PlannedAction| Action { service: of.service.clone(), action: of.action.clone() };
        let paths = |of: &[ImagePath]| of.iter().map(ToString::to_string).collect();
        Self {
            directories: plan.directories,
            files: plan.files,
            symlinks: plan.symlinks,
            specials: plan.specials,
            links: plan.links,
            metadata: plan.metadata,
            deletions: plan.deletions,
            bytes: plan.bytes,
            services: plan.services.iter().map(action).collect(),
            kept: paths(&plan.kept),
            protected: paths(&plan.protected),
            window_seconds: plan.window.as_secs_f64(),
        }
    }

    fn summary(self) -> PlanSummary {
        let action = |of: Action| PlannedAction { service: of.service, action: of.action };
        let paths =
            |of: Vec<String>| of.iter().filter_map(|path| ImagePath::parse(path.as_bytes()).ok()).collect();
        PlanSummary {
            directories: self.directories,
            files: self.files,
            symlinks: self.symlinks,
            specials: self.specials,
            links: self.links,
            metadata: self.metadata,
            deletions: self.deletions,
            bytes: self.bytes,
            services: self.services.into_iter().map(action).collect(),
            kept: paths(self.kept),
            protected: paths(self.protected),
            window: seconds(self.window_seconds),
        }
    }
}

/// What is spelt like that, if anything is.
fn spelt<T: Copy, const N: usize>(
    all: [T; N],
    text: impl Fn(T) -> &'static str,
    word: Option<&str>,
) -> Option<T> {
    all.into_iter().find(|value| Some(text(*value)) == word)
}

/// Whatever was written: no time is less than nothing or longer than a clock counts.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

fn words(text: &str) -> String {
    text.get(..text.floor_char_boundary(MAX_WORDS)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> UpdateRecord {
        let path = |text: &str| ImagePath::parse(text.as_bytes()).unwrap();
        let failure = || PathFailure { path: path("/etc/x"), reason: "it is immutable".to_owned() };
        UpdateRecord {
            number: 3,
            image: Some("web/2".parse().unwrap()),
            previous: Some("web/1".parse().unwrap()),
            began: Timestamp::new(1_700_000_000, 5).unwrap(),
            ended: Timestamp::new(1_700_000_009, 0),
            plan: PlanSummary {
                files: 20,
                bytes: 1 << 30,
                services: vec![PlannedAction { service: "web".to_owned(), action: "stop".to_owned() }],
                kept: vec![path("/srv")],
                window: Duration::from_micros(400),
                ..PlanSummary::default()
            },
            services: vec![ServiceOutcome {
                service: "web".to_owned(),
                action: "start".to_owned(),
                before: ServiceState::Running,
                error: Some("no licence".to_owned()),
            }],
            health: vec![HealthOutcome {
                name: "answers".to_owned(),
                attempts: 3,
                error: Some("status 500".to_owned()),
                took: Duration::from_millis(1500),
            }],
            window: Duration::from_millis(2),
            outcome: UpdateOutcome::Undone {
                why: UndoReason::Unhealthy,
                detail: "start web failed".to_owned(),
                failures: vec![failure()],
            },
            note: Note::cut("kernel 6.1"),
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let outcomes = [
            UpdateOutcome::Made,
            UpdateOutcome::OnTrial { why: TrialReason::Reboot },
            UpdateOutcome::OnTrial { why: TrialReason::AgentRestart },
            UpdateOutcome::NotMade { why: "no room".to_owned() },
        ];
        let undone = UndoReason::ALL.map(|why| UpdateOutcome::Undone {
            why,
            detail: String::new(),
            failures: Vec::new(),
        });
        let others = outcomes.into_iter().chain(undone).map(|outcome| UpdateRecord { outcome, ..full() });
        for record in others.chain([full()]) {
            let text = encode(&record, usize::MAX).unwrap();
            assert_eq!(decode(&text, 3).unwrap(), record);
        }
    }

    #[test]
    fn a_record_is_small_whatever_is_told_and_a_later_version_can_be_read() {
        let long = "ü".repeat(100_000);
        let mut record = full();
        record.services = vec![record.services[0].clone(); 10_000];
        record.services[0].error = Some(long.clone());
        record.outcome = UpdateOutcome::NotMade { why: long };
        let text = encode(&record, 64 * 1024).unwrap();
        assert_eq!(decode(&text, 3).unwrap().services.len(), MAX_NAMED);
        assert_eq!(encode(&record, 1000), None);
        let text = String::from_utf8(encode(&full(), usize::MAX).unwrap()).unwrap();
        let later = text.replace("\"undone\"", "\"handed on\"").replacen('{', "{\"Signed\": true,", 1);
        let read = decode(later.as_bytes(), 3).unwrap();
        assert_eq!(read.outcome, UpdateOutcome::NotMade { why: "handed on: start web failed".to_owned() });
    }
}
