//! How far an update came after its files were in place, in the file `update.progress` of the state directory: whoever
//! comes after a crash must neither leave out a service nor restart a machine twice.

use dominator_core::object::ObjectId;

use super::memory::{Memory, MemoryError};
use crate::update::BootId;

const NAME: &str = "update.progress";
const MAX_LEN: usize = 1024;

/// What was done about the update with this note, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// The digest of its note.
    pub(super) update: ObjectId,
    pub(super) reached: Reached,
    /// The boot in which that was.
    pub(super) boot: BootId,
    /// The agent that did it.
    pub(super) instance: u64,
    /// How often it was begun to judge it.
    pub(super) judgements: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// All services were started that had to be.
    Started,
    /// The restart was ordered that comes before the update is judged.
    Restarting,
}

impl Reached {
    const fn word(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Restarting => "restarting",
        }
    }
}

impl Memory {
    /// How far the update came that has this digest. What can't be read counts as nothing: it is done once more.
    pub(super) fn progress(&self, update: ObjectId) -> Option<Progress> {
        let text = String::from_utf8(self.read(NAME, MAX_LEN).ok()??).ok()?;
        let mut words = text.split_whitespace();
        let of: ObjectId = words.next()?.parse().ok()?;
        let word = words.next()?;
        let reached = [Reached::Started, Reached::Restarting].into_iter().find(|it| it.word() == word)?;
        let boot = BootId::parse(words.next()?)?;
        let instance = words.next()?.parse().ok()?;
        let judgements = words.next().map_or(Some(0), |count| count.parse().ok())?;
        (of == update).then_some(Progress { update, reached, boot, instance, judgements })
    }

    pub(super) fn remember_progress(&self, progress: &Progress) -> Result<(), MemoryError> {
        let Progress { update, reached, boot, instance, judgements } = progress;
        let line = format!("{update} {} {boot} {instance} {judgements}\n", reached.word());
        self.write(NAME, line.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_an_update_came_is_known_of_that_update_only() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::open(dir.path()).unwrap();
        let update = ObjectId::of(b"this");
        assert_eq!(memory.progress(update), None);
        for reached in [Reached::Started, Reached::Restarting] {
            let (boot, instance) = (BootId::of(b"1"), u64::MAX);
            let progress = Progress { update, reached, boot, instance, judgements: 2 };
            memory.remember_progress(&progress).unwrap();
            assert_eq!(memory.progress(update), Some(progress));
            assert_eq!(memory.progress(ObjectId::of(b"that")), None);
        }
        std::fs::write(dir.path().join(NAME), format!("{update} ended x 1")).unwrap();
        assert_eq!(memory.progress(update), None);
    }
}
