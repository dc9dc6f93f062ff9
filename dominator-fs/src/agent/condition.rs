//! What stands in the way of updates, and what is known of the last one.

use dominator_core::port::{AgentDetails, AgentMode, BadImage, DisruptionState, Note, TrialStatus, Undoable};

use super::Shared;
use super::switch;
use crate::update::Conflicts;

/// As answers tell it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) mode: AgentMode,
    pub(super) stopped: Option<String>,
    pub(super) bad_images: Vec<BadImage>,
    pub(super) trial: Option<TrialStatus>,
    pub(super) undoable: Option<Undoable>,
    pub(super) conflicts: Conflicts,
    pub(super) disruption: DisruptionState,
    pub(super) note: Option<Note>,
}

impl Condition {
    pub(super) fn told(&self, details: AgentDetails) -> AgentDetails {
        let Self { mode, stopped, bad_images, trial, undoable, conflicts, disruption, note } = self.clone();
        let Conflicts { paths: conflicts, more: more_conflicts, bytes: conflict_bytes } = conflicts;
        AgentDetails {
            mode,
            stopped,
            bad_images,
            trial,
            undoable,
            conflicts,
            more_conflicts,
            conflict_bytes,
            disruption,
            note,
            ..details
        }
    }

    /// One more that is not tried again, though that can't be noted.
    pub(super) fn adds_bad_image(&mut self, bad: BadImage) {
        self.bad_images.retain(|other| other.image != bad.image);
        let surplus = (self.bad_images.len() + 1).saturating_sub(AgentDetails::MAX_BAD_IMAGES);
        self.bad_images.drain(..surplus);
        self.bad_images.push(bad);
    }

    /// Takes in what lies among conflicts, and says whether that is news.
    pub(super) fn notice(&mut self, conflicts: Conflicts) -> bool {
        let count = |conflicts: &Conflicts| conflicts.paths.len() as u64 + conflicts.more;
        if count(&conflicts) > count(&self.conflicts) {
            let (count, bytes) = (count(&conflicts), conflicts.bytes);
            tracing::warn!(
                count,
                bytes,
                "what somebody had changed is in /.subd/conflicts until somebody removes it"
            );
        }
        let is_news = self.conflicts != conflicts;
        self.conflicts = conflicts;
        is_news
    }
}

impl Shared {
    /// Lets the machine say something of itself, and tells that from then on: nothing, when its program fails.
    pub(super) fn take_note(&self) -> Option<Note> {
        let note = self.noting.as_ref()?.run().unwrap_or_else(|error| {
            tracing::warn!(%error, "the machine says nothing of itself");
            None
        });
        self.change(|state| state.condition().note.clone_from(&note));
        note
    }

    /// The words on the switch, if it is set, and lets those know who wait for news. Costs a system call when it is not.
    pub(super) fn look_at_the_switch(&self) -> Option<String> {
        let _until_told = self.looking_at_switch.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let words = switch::words(self.memory.dir());
        let disruption = self.gate.as_ref().map_or(DisruptionState::Anytime, |gate| gate.state());
        let mut state = self.lock();
        let condition = state.condition();
        if (&condition.stopped, condition.disruption) != (&words, disruption) {
            if condition.stopped != words {
                tracing::warn!(words, "the stop switch was set, or taken back");
            }
            (condition.stopped, condition.disruption) = (words.clone(), disruption);
            self.announce(state);
        }
        words
    }
}
