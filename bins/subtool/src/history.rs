//! What became of the updates of a machine, as it remembers them.

use std::io::{self, Write};

use dominator_core::image::ImageName;
use dominator_core::port::{Agent, UpdateRecord};
use dominator_daemon::plan::PlanShown;
use dominator_daemon::report::Show;
use dominator_daemon::{During, Failure};
use serde::Serialize;

use crate::outcome::{Check, Outcome, Service};
use crate::poll::time;

/// The last updates, the latest first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct History {
    updates: Vec<Record>,
}

/// One update.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Record {
    number: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<String>,
    began: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<String>,
    plan: PlanShown,
    services: Vec<Service>,
    health: Vec<Check>,
    window_seconds: f64,
    #[serde(flatten)]
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// Asks for them.
pub(crate) async fn history(agent: &dyn Agent, limit: usize) -> Result<History, Failure> {
    let updates = agent.history(limit).await.during(|| "can't ask for the history".into())?;
    Ok(History { updates: updates.iter().map(Record::from).collect() })
}

impl From<&UpdateRecord> for Record {
    fn from(record: &UpdateRecord) -> Self {
        let name = |name: &Option<ImageName>| name.as_ref().map(ToString::to_string);
        Self {
            number: record.number,
            image: name(&record.image),
            previous: name(&record.previous),
            began: time(record.began),
            ended: record.ended.map(time),
            plan: PlanShown::from(&record.plan),
            services: record.services.iter().map(Service::from).collect(),
            health: record.health.iter().map(Check::from).collect(),
            window_seconds: record.window.as_secs_f64(),
            outcome: Outcome::from(&record.outcome),
            note: record.note.as_ref().map(ToString::to_string),
        }
    }
}

impl Show for History {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        for (place, record) in self.updates.iter().enumerate() {
            if place > 0 {
                writeln!(out)?;
            }
            record.text(out)?;
        }
        if self.updates.is_empty() { writeln!(out, "no update is remembered") } else { Ok(()) }
    }
}

impl Record {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { number, began, .. } = self;
        let image = self.image.as_deref().unwrap_or("a sparse image, or none");
        let previous = self.previous.as_ref().map_or(String::new(), |previous| format!(", after {previous}"));
        writeln!(out, "update {number}: {image}{previous}")?;
        let ended = self.ended.as_ref().map_or("not decided yet".into(), |ended| format!("decided {ended}"));
        writeln!(out, "when        began {began}, {ended}")?;
        writeln!(out, "outcome     {}", self.outcome.words())?;
        self.outcome.left().try_for_each(|remark| writeln!(out, "left        {remark}"))?;
        self.plan.text_of_past(out)?;
        if self.window_seconds > 0.0 {
            writeln!(out, "window      paths changed within {:.4} s", self.window_seconds)?;
        }
        self.services.iter().try_for_each(|service| writeln!(out, "service     {}", service.words()))?;
        self.health.iter().try_for_each(|check| writeln!(out, "check       {}", check.words()))?;
        self.note.as_ref().map_or(Ok(()), |note| writeln!(out, "note        {note}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dominator_core::inode::Timestamp;
    use dominator_core::plan::PlanSummary;
    use dominator_core::port::UpdateOutcome;
    use std::time::Duration;

    #[test]
    fn of_an_update_that_was_made_it_is_said_how_long_it_took_and_not_how_long_it_would() {
        let plan = PlanSummary { files: 2, window: Duration::from_micros(40), ..PlanSummary::default() };
        let record = UpdateRecord {
            number: 7,
            image: Some("web/2".parse().unwrap()),
            previous: Some("web/1".parse().unwrap()),
            began: Timestamp::default(),
            ended: Some(Timestamp::default()),
            plan,
            services: Vec::new(),
            health: Vec::new(),
            window: Duration::from_micros(1500),
            outcome: UpdateOutcome::Made,
            note: None,
        };
        let mut out = Vec::new();
        Record::from(&record).text(&mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "update 7: web/2, after web/1\n\
             when        began 1970-01-01T00:00:00Z, decided 1970-01-01T00:00:00Z\n\
             outcome     made\n\
             new         2 files of 0 B\n\
             window      paths changed within 0.0015 s\n"
        );
    }
}
