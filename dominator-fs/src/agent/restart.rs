//! The restart that is owed when an update is taken back with which the machine, or the agent, was started: what runs is
//! then no longer what is on the disk. It is on record in the file `restart.owed` of the state directory before paths change
//! back, until it came.

use std::sync::atomic::Ordering;

use dominator_core::object::ObjectId;
use dominator_core::port::{Chain, UpdateReport};

use super::Shared;
use super::activation::Course;
use super::memory::{Memory, MemoryError};
use super::state::Shortfall;
use crate::service::Conclusion;
use crate::update::BootId;

const NAME: &str = "restart.owed";
const MAX_LEN: usize = 4096;

/// What is owed, and since when: another boot, or another agent, is what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owed {
    /// The digest of the update's note.
    update: ObjectId,
    conclusion: Conclusion,
    boot: BootId,
    instance: u64,
}

impl Owed {
    fn encode(&self) -> String {
        let Self { update, conclusion, boot, instance } = self;
        match conclusion {
            Conclusion::Reboot { service } => format!("{update} reboot {boot} {instance} {service}\n"),
            Conclusion::RestartAgent => format!("{update} agent {boot} {instance}\n"),
        }
    }

    fn decode(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let update = words.next()?.parse().ok()?;
        let what = words.next()?;
        let (boot, instance) = (BootId::parse(words.next()?)?, words.next()?.parse().ok()?);
        let conclusion = match (what, words.next()) {
            ("reboot", Some(service)) => Conclusion::Reboot { service: service.to_owned() },
            ("agent", None) => Conclusion::RestartAgent,
            _ => return None,
        };
        Some(Self { update, conclusion, boot, instance })
    }
}

impl Memory {
    fn owed_restart(&self) -> Result<Option<Owed>, MemoryError> {
        let Some(bytes) = self.read(NAME, MAX_LEN)? else { return Ok(None) };
        let owed = String::from_utf8(bytes).ok().and_then(|text| Owed::decode(&text));
        owed.map(Some).ok_or_else(|| self.damaged(NAME, "it is not what an agent writes"))
    }
}

impl Shared {
    /// Notes, before the paths of an update change back, that what runs came with it.
    pub(super) fn owe_restart(&self, course: &Course) {
        let Some(conclusion) = course.note.conclusion.clone() else { return };
        let (update, boot, instance) = (course.digest(), self.boot, self.lock().instance());
        self.restarting.store(false, Ordering::Relaxed);
        let owed = Owed { update, conclusion, boot, instance };
        if let Err(error) = self.memory.write(NAME, owed.encode().as_bytes()) {
            tracing::warn!(error = %Chain(&error), "should this agent die now, what was taken back may go on running");
        }
    }

    /// Whether one is owed for the sake of this update.
    pub(super) fn owes_restart_for(&self, course: &Course) -> bool {
        self.owed_restart().is_some_and(|owed| owed.update == course.digest())
    }

    /// The update stays after all, or is still to be judged.
    pub(super) fn owe_no_restart_for(&self, course: &Course) {
        if self.owes_restart_for(course) {
            self.forget_restart();
        }
    }

    /// Whether one is owed and did not come yet.
    pub(super) fn owes_restart(&self) -> bool {
        self.owed_restart().is_some_and(|owed| !self.has_come(&owed))
    }

    /// Restarts what is owed a restart, once in a process; what has come is owed no longer. To be called when nothing is
    /// left to be done of an update.
    pub(super) fn restart_if_owed(&self) {
        let Some(owed) = self.owed_restart() else { return };
        if self.has_come(&owed) {
            return self.forget_restart();
        }
        if self.restarting.swap(true, Ordering::Relaxed) {
            return;
        }
        tracing::warn!("what runs is of an update that was taken back: it is restarted");
        let outcome = owed.conclusion.carry_out(&*self.services);
        let report = UpdateReport { services: vec![outcome], ..UpdateReport::default() };
        if let Some(shortfall) = Shortfall::of(None, &report) {
            self.change(|state| state.inherited(shortfall));
        }
    }

    fn has_come(&self, owed: &Owed) -> bool {
        match owed.conclusion {
            Conclusion::Reboot { .. } => owed.boot != self.boot,
            Conclusion::RestartAgent => owed.instance != self.lock().instance(),
        }
    }

    fn owed_restart(&self) -> Option<Owed> {
        self.memory.owed_restart().unwrap_or_else(|error| {
            tracing::error!(error = %Chain(&error), "whether a restart is owed can't be read");
            None
        })
    }

    fn forget_restart(&self) {
        if let Err(error) = self.memory.remove(NAME) {
            tracing::warn!(error = %Chain(&error), "that no restart is owed any more can't be noted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_owed_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::open(dir.path()).unwrap();
        assert_eq!(memory.owed_restart().unwrap(), None);
        for conclusion in [Conclusion::Reboot { service: "kernel".to_owned() }, Conclusion::RestartAgent] {
            let (update, boot) = (ObjectId::of(b"this"), BootId::of(b"1"));
            let owed = Owed { update, conclusion, boot, instance: u64::MAX };
            memory.write(NAME, owed.encode().as_bytes()).unwrap();
            assert_eq!(memory.owed_restart().unwrap(), Some(owed));
        }
        memory.remove(NAME).unwrap();
        memory.remove(NAME).unwrap();
        assert_eq!(memory.owed_restart().unwrap(), None);
        std::fs::write(dir.path().join(NAME), "soon").unwrap();
        assert!(memory.owed_restart().is_err());
    }
}
