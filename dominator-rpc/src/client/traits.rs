use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use dominator_core::port::MachineTraits;
use prost::Message as _;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tonic::Status;

use crate::{limits, v1, wire};

/// How many kinds of machines are remembered.
const KINDS: usize = 64;
/// How many filters are compiled at once.
const COMPILED_AT_ONCE: usize = 2;

/// The traits seen lately, with what they were read from.
///
/// Compiled filters are dear to make and to keep, and nearly all machines of a fleet have the same one. Machines can send
/// whatever they like, too: compiling that takes neither the threads that serve the others nor all of the processors.
#[derive(Clone, Debug)]
pub(super) struct KnownTraits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    known: Mutex<VecDeque<(v1::MachineTraits, MachineTraits)>>,
    compiling: Semaphore,
}

impl KnownTraits {
    pub(super) fn new() -> Self {
        Self(Arc::new(Inner { known: Mutex::default(), compiling: Semaphore::new(COMPILED_AT_ONCE) }))
    }

    /// Reads traits. Safe to cancel.
    pub(super) async fn read(&self, wire: &v1::MachineTraits) -> Result<MachineTraits, Status> {
        if wire.encoded_len() > limits::TRAITS {
            return Err(wire::invalid(format!("traits of more than {} bytes", limits::TRAITS)));
        }
        if let Some(traits) = self.find(wire) {
            return Ok(traits);
        }
        let broken = |_| Status::internal("reading the traits was broken off");
        let place = self.0.compiling.acquire().await.map_err(|_| Status::internal("nothing is compiled"))?;
        if let Some(traits) = self.find(wire) {
            return Ok(traits);
        }
        let read = wire.clone();
        let traits = spawn_blocking(move || wire::traits_from(&read)).await.map_err(broken)??;
        drop(place);
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, same)) = known.iter().find(|(from, _)| from == wire) {
            // Two were at it.
            return Ok(same.clone());
        }
        if known.len() >= KINDS {
            known.pop_front();
        }
        known.push_back((wire.clone(), traits.clone()));
        Ok(traits)
    }

    fn find(&self, wire: &v1::MachineTraits) -> Option<MachineTraits> {
        let known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|(from, _)| from == wire).map(|(_, traits)| traits.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(lines: Vec<String>) -> v1::MachineTraits {
        let exclusions = Some(v1::Filter { state: v1::FilterState::Lines.into(), lines });
        v1::MachineTraits { exclusions, mtime_nanos: 1, ..v1::MachineTraits::default() }
    }

    #[tokio::test]
    async fn traits_are_read_once_for_all_machines_and_not_remembered_for_ever() {
        let known = KnownTraits::new();
        let length = |known: &KnownTraits| known.0.known.lock().unwrap().len();
        let usual = wire(vec!["/tmp/.*".into()]);
        let (one, two) = tokio::join!(known.read(&usual), known.read(&usual));
        assert_eq!(one.unwrap(), two.unwrap());
        assert_eq!(length(&known), 1);
        for number in 0..2 * KINDS {
            known.read(&wire(vec![format!("/{number}")])).await.unwrap();
        }
        assert_eq!(length(&known), KINDS);
        let endless = wire(vec!["x".repeat(1000); limits::TRAITS / 1000]);
        assert!(known.read(&endless).await.unwrap_err().message().contains("more than"));
        assert!(known.read(&wire(vec!["(".into()])).await.is_err());
        assert_eq!(length(&known), KINDS);
    }
}
