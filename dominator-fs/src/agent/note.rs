//! What an agent notes in the journal of an update, for the agent after it.

use std::fmt::Display;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::str::FromStr;

use dominator_core::health::{BadHealth, HealthChecks};
use dominator_core::image::{BadImageName, ImageName};
use dominator_core::object::ObjectId;
use dominator_core::port::{ServiceOutcome, ServiceState};
use dominator_core::trigger::{BadTriggers, Triggers};
use thiserror::Error;

use crate::service::{Conclusion, Debt, Due, Withdrawal};

/// Whatever must be known to bring an update to its end once its files are in place: to judge it, to keep it, or to take
/// it back with its services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Note {
    /// Drawn anew for every update: one that repairs the same once more is another.
    pub(super) number: u64,
    /// Which record of the history is about it.
    pub(super) record: u64,
    /// What the machine is then, and was before; nothing for a sparse image.
    pub(super) image: Option<ImageName>,
    pub(super) previous: Option<ImageName>,
    /// The sparse image.
    pub(super) sparse: Option<ImageName>,
    /// What the image says of services, and the one before.
    pub(super) triggers: Triggers,
    pub(super) triggers_before: Triggers,
    /// What must be true for the update to stay.
    pub(super) health: HealthChecks,
    /// What is owed to services then, in order.
    pub(super) after: Vec<Debt>,
    /// Of these, what earlier updates owe: it says nothing about this one.
    pub(super) inherited: Vec<String>,
    /// Services that had failed before it: it is no worse when they fail again.
    pub(super) failed: Vec<String>,
    /// Services that ran before it: they must when it is judged.
    pub(super) ran: Vec<String>,
    /// What comes last.
    pub(super) conclusion: Option<Conclusion>,
    /// What is done to services when the update is taken back.
    pub(super) back: Withdrawal,
}

/// A note that can't be read.
#[derive(Debug, Error)]
pub(super) enum BadNote {
    #[error("it is damaged, or of a version this agent does not know")]
    Damaged,
    #[error("it names no image")]
    Image(#[source] BadImageName),
    #[error("its triggers are none")]
    Triggers(#[source] BadTriggers),
    #[error("its health checks are none")]
    Health(#[source] BadHealth),
}

impl Note {
    /// How `service` stood before the update, as far as that is known.
    pub(super) fn before(&self, service: &str) -> ServiceState {
        let is_among = |services: &[String]| services.iter().any(|other| other == service);
        match (is_among(&self.failed), is_among(&self.ran)) {
            (true, _) => ServiceState::Failed,
            (false, true) => ServiceState::Running,
            (false, false) => ServiceState::Unknown,
        }
    }

    /// `outcomes` with how each service stood before.
    pub(super) fn known(&self, outcomes: Vec<ServiceOutcome>) -> Vec<ServiceOutcome> {
        let known =
            |outcome: ServiceOutcome| ServiceOutcome { before: self.before(&outcome.service), ..outcome };
        outcomes.into_iter().map(known).collect()
    }

    const HEADER: &'static str = "update 2\n";

    /// Which image is bad when the machine is not well with the update.
    pub(super) fn blamed(&self) -> Option<&ImageName> {
        self.image.as_ref().or(self.sparse.as_ref())
    }

    /// Its number.
    pub(super) fn draw() -> u64 {
        RandomState::new().build_hasher().finish()
    }

    /// As `docs/formats/work-directory.md` says.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut text = Text(Self::HEADER.to_owned());
        text.line("number", self.number);
        text.line("record", self.record);
        text.lines("image", &self.image);
        text.lines("previous", &self.previous);
        text.lines("sparse", &self.sparse);
        self.after.iter().for_each(|debt| text.line(debt.due.word(), &debt.service));
        text.lines("inherited", &self.inherited);
        text.lines("failed", &self.failed);
        text.lines("ran", &self.ran);
        match &self.conclusion {
            Some(Conclusion::Reboot { service }) => text.line("reboot", service),
            Some(Conclusion::RestartAgent) => text.line("restart", "agent"),
            None => {}
        }
        text.lines("back-stop", &self.back.stop);
        self.back.start.iter().for_each(|debt| text.line(back(debt.due), &debt.service));
        text.block("health", &self.health.to_json());
        text.block("triggers-before", &self.triggers_before.to_json());
        text.block("triggers", &self.triggers.to_json());
        text.0.into_bytes()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BadNote> {
        let text = std::str::from_utf8(bytes).map_err(|_| BadNote::Damaged)?;
        let mut rest = text.strip_prefix(Self::HEADER).ok_or(BadNote::Damaged)?;
        let mut note = Self::default();
        loop {
            let (line, after) = rest.split_once('\n').ok_or(BadNote::Damaged)?;
            rest = after;
            let (word, value) = line.split_once(' ').ok_or(BadNote::Damaged)?;
            match word {
                "health" => {
                    note.health =
                        HealthChecks::from_json(block(value, &mut rest)?).map_err(BadNote::Health)?
                }
                "triggers-before" => note.triggers_before = triggers(value, &mut rest)?,
                // The last one.
                "triggers" => {
                    note.triggers = triggers(value, &mut rest)?;
                    note.check()?;
                    return if rest.is_empty() { Ok(note) } else { Err(BadNote::Damaged) };
                }
                _ => note.take(word, value)?,
            }
        }
    }

    fn take(&mut self, word: &str, value: &str) -> Result<(), BadNote> {
        let service = || value.to_owned();
        let debt = |due| Debt { service: service(), due };
        match word {
            "number" => self.number = number(value)?,
            "record" => self.record = number(value)?,
            "image" => self.image = Some(value.parse().map_err(BadNote::Image)?),
            "previous" => self.previous = Some(value.parse().map_err(BadNote::Image)?),
            "sparse" => self.sparse = Some(value.parse().map_err(BadNote::Image)?),
            "start" => self.after.push(debt(Due::Start)),
            "reload" => self.after.push(debt(Due::Reload)),
            "stop" => self.after.push(debt(Due::Stop)),
            "inherited" => self.inherited.push(service()),
            "failed" => self.failed.push(service()),
            "ran" => self.ran.push(service()),
            "reboot" => self.conclusion = Some(Conclusion::Reboot { service: service() }),
            "restart" if value == "agent" => self.conclusion = Some(Conclusion::RestartAgent),
            "back-stop" => self.back.stop.push(service()),
            "back-start" => self.back.start.push(debt(Due::Start)),
            "back-reload" => self.back.start.push(debt(Due::Reload)),
            "back-stop-after" => self.back.start.push(debt(Due::Stop)),
            _ => return Err(BadNote::Damaged),
        }
        Ok(())
    }

    /// What is read from a disk becomes an argument of a command.
    fn check(&self) -> Result<(), BadNote> {
        let named = |service: &String| Debt { service: service.clone(), due: Due::Start };
        let stopped: Vec<_> = self.back.stop.iter().map(named).collect();
        [&self.after, &self.back.start, &stopped]
            .into_iter()
            .try_for_each(|debts| Debt::check(debts))
            .map_err(BadNote::Triggers)
    }

    /// By what an update is known to have been concluded.
    pub(super) fn digest(encoded: &[u8]) -> ObjectId {
        ObjectId::of(encoded)
    }
}

/// Lines of a word and what it says, and blocks that may have any number of lines.
struct Text(String);

impl Text {
    fn line(&mut self, word: &str, value: impl Display) {
        self.0.push_str(&format!("{word} {value}\n"));
    }

    fn lines<T: Display>(&mut self, word: &str, values: impl IntoIterator<Item = T>) {
        values.into_iter().for_each(|value| self.line(word, value));
    }

    fn block(&mut self, word: &str, text: &str) {
        self.line(word, text.len());
        self.0.push_str(text);
        self.0.push('\n');
    }
}

fn block<'a>(len: &str, rest: &mut &'a str) -> Result<&'a [u8], BadNote> {
    let (text, after) = rest.split_at_checked(number(len)?).ok_or(BadNote::Damaged)?;
    *rest = after.strip_prefix('\n').ok_or(BadNote::Damaged)?;
    Ok(text.as_bytes())
}

fn triggers(len: &str, rest: &mut &str) -> Result<Triggers, BadNote> {
    Triggers::from_json(block(len, rest)?).map_err(BadNote::Triggers)
}

fn number<T: FromStr>(text: &str) -> Result<T, BadNote> {
    text.parse().map_err(|_| BadNote::Damaged)
}

const fn back(due: Due) -> &'static str {
    match due {
        Due::Start => "back-start",
        Due::Reload => "back-reload",
        Due::Stop => "back-stop-after",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_says_to_the_next_agent_what_this_one_meant() {
        let debt = |service: &str, due| Debt { service: service.to_owned(), due };
        let triggers = |json: &[u8]| Triggers::from_json(json).unwrap();
        let full = Note {
            number: u64::MAX,
            record: 7,
            image: Some("web/2".parse().unwrap()),
            previous: Some("web/1".parse().unwrap()),
            sparse: Some("keys/1".parse().unwrap()),
            triggers: triggers(br#"[{"MatchLines": ["/a"], "Service": "web"}]"#),
            triggers_before: triggers(br#"[{"MatchLines": ["/\u00fc"], "Service": "db"}]"#),
            health: HealthChecks::from_json(br#"{"Checks": [{"Name": "up", "Unit": "web"}]}"#).unwrap(),
            after: vec![debt("web", Due::Start), debt("db", Due::Reload), debt("old", Due::Stop)],
            inherited: vec!["db".to_owned()],
            failed: vec!["web".to_owned(), "mail".to_owned()],
            ran: vec!["db".to_owned()],
            conclusion: Some(Conclusion::Reboot { service: "kernel".to_owned() }),
            back: Withdrawal {
                stop: vec!["web".to_owned()],
                start: vec![debt("db", Due::Start), debt("x", Due::Reload), debt("old", Due::Stop)],
            },
        };
        let agent = Note { conclusion: Some(Conclusion::RestartAgent), ..full.clone() };
        for note in [full, Note::default(), agent] {
            let encoded = note.encode();
            assert_eq!(Note::decode(&encoded).unwrap(), note);
            for cut in 0..encoded.len() {
                assert!(Note::decode(&encoded[..cut]).is_err(), "cut at {cut}");
            }
            assert!(Note::decode(&[&encoded[..], b"x"].concat()).is_err());
        }
        let with = |lines: &str| Note::decode(format!("update 2\n{lines}triggers 2\n[]\n").as_bytes());
        for good in ["", "start web\n", "health 2\n{}\n"] {
            with(good).unwrap();
        }
        for bad in [
            "launch web\n",
            "start --all\n",
            "back-start ../web\n",
            "back-stop a b\n",
            "image \n",
            "restart web\n",
            "health 3\n{}\n",
            "triggers-before 99\n[]\n",
            "\n",
        ] {
            assert!(with(bad).is_err(), "{bad:?}");
        }
        assert!(Note::decode(b"update 1\ntriggers 2\n[]\n").is_err());
    }
}
