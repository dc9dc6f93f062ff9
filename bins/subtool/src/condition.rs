//! What stands in the way of updates, and what can be done about the last one, as shown.

use std::io::{self, Write};

use dominator_core::port::{AgentDetails, AgentMode, BadImage, TrialStatus, Undoable};
use dominator_daemon::value::HumanBytes;
use serde::Serialize;

use crate::poll::time;

/// A part of the answer to a poll.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Condition {
    mode: &'static str,
    /// The words of whoever stopped updates on the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<String>,
    /// Some of them.
    bad_images: Vec<Bad>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trial: Option<Trial>,
    #[serde(skip_serializing_if = "Option::is_none")]
    undoable: Option<Kept>,
    /// Some of them.
    conflicts: Vec<String>,
    conflict_count: u64,
    conflict_bytes: u64,
    disruption: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// An image that is not tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Bad {
    image: String,
    why: String,
    since: String,
}

/// An update that is in place and not judged yet.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Trial {
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    why: String,
    since: String,
    deadline_seconds: f64,
}

/// An update that can be taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Kept {
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    since: String,
    bytes: u64,
}

impl Condition {
    /// What the agent says.
    pub(crate) fn of(details: &AgentDetails) -> Self {
        let bad = |BadImage { image, why, since }: &BadImage| Bad {
            image: image.to_string(),
            why: why.clone(),
            since: time(*since),
        };
        let trial = |TrialStatus { image, why, since, deadline }: &TrialStatus| Trial {
            image: image.as_ref().map(ToString::to_string),
            why: why.to_string(),
            since: time(*since),
            deadline_seconds: deadline.as_secs_f64(),
        };
        let kept = |Undoable { image, since, bytes }: &Undoable| Kept {
            image: image.as_ref().map(ToString::to_string),
            since: time(*since),
            bytes: *bytes,
        };
        Self {
            mode: match details.mode {
                AgentMode::Normal => "normal",
                AgentMode::ReadOnly => "read-only",
                AgentMode::UpdatesDisabled => "updates-disabled",
                AgentMode::TriggersDisabled => "triggers-disabled",
            },
            stopped: details.stopped.clone(),
            bad_images: details.bad_images.iter().map(bad).collect(),
            trial: details.trial.as_ref().map(trial),
            undoable: details.undoable.as_ref().map(kept),
            conflicts: details.conflicts.iter().map(ToString::to_string).collect(),
            conflict_count: (details.conflicts.len() as u64).saturating_add(details.more_conflicts),
            conflict_bytes: details.conflict_bytes,
            disruption: details.disruption.to_string(),
            note: details.note.as_ref().map(ToString::to_string),
        }
    }

    /// For people: what is as usual is not mentioned.
    pub(crate) fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.mode != "normal" {
            writeln!(out, "mode        {}", self.mode)?;
        }
        if let Some(words) = &self.stopped {
            writeln!(out, "stopped     {}", if words.is_empty() { "without a word" } else { words })?;
        }
        for Bad { image, why, since } in &self.bad_images {
            writeln!(out, "bad image   {image}, since {since}: {why}")?;
        }
        let name = |image: &Option<String>| image.clone().unwrap_or_else(|| "an image without a name".into());
        if let Some(Trial { image, why, since, deadline_seconds }) = &self.trial {
            let image = name(image);
            writeln!(
                out,
                "on trial    {image}, since {since}: {why}, and it must be well within {deadline_seconds:.0} s then"
            )?;
        }
        if let Some(Kept { image, since, bytes }) = &self.undoable {
            let (image, bytes) = (name(image), HumanBytes(*bytes));
            writeln!(out, "undo        leads to {image}, which was before {since}; {bytes} are kept for it")?;
        }
        self.conflicts(out)?;
        if self.disruption != "anytime" {
            writeln!(out, "disruption  {}", self.disruption)?;
        }
        self.note.as_ref().map_or(Ok(()), |note| writeln!(out, "note        {note}"))
    }

    /// What nobody but a person removes, and the room it takes.
    fn conflicts(&self, out: &mut dyn Write) -> io::Result<()> {
        self.conflicts.iter().try_for_each(|path| writeln!(out, "conflict    {path}"))?;
        let (more, room) = (
            self.conflict_count.saturating_sub(self.conflicts.len() as u64),
            HumanBytes(self.conflict_bytes),
        );
        match (self.conflict_count, more) {
            (0, _) => Ok(()),
            (_, 0) => writeln!(out, "            they take {room} until somebody removes them"),
            (_, more) => {
                writeln!(out, "            and {more} more; they take {room} until somebody removes them")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use dominator_core::filter::Filter;
    use dominator_core::path::ImagePath;
    use dominator_core::port::MachineTraits;
    use dominator_core::view::{Granularity, Ownership, XattrPolicy};

    fn shown(conflicts: &[&str], more_conflicts: u64, conflict_bytes: u64) -> String {
        let traits = MachineTraits {
            protected: BTreeSet::new(),
            exclusions: Filter::Empty,
            xattrs: XattrPolicy::NONE,
            ownership: Ownership::Kept,
            mtime: Granularity::FINE,
        };
        let conflicts = conflicts.iter().map(|path| ImagePath::parse(path.as_bytes()).unwrap()).collect();
        let details =
            AgentDetails { conflicts, more_conflicts, conflict_bytes, ..AgentDetails::new(Arc::new(traits)) };
        let mut out = Vec::new();
        Condition::of(&details).text(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_undoing_moved_out_of_the_way_is_counted_with_the_room_it_takes() {
        assert_eq!(shown(&[], 0, 0), "");
        assert_eq!(
            shown(&["/.subd/conflicts/1"], 0, 4096),
            "conflict    /.subd/conflicts/1\n            they take 4.00 KiB until somebody removes them\n"
        );
        assert!(shown(&["/.subd/conflicts/1"], 7, 4096).contains("and 7 more; they take 4.00 KiB"));
    }
}
