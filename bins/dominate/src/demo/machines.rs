//! The two adapters that tell the controller of this fleet which machines there are and where: examples of how to write
//! them for another source of machines, or another way to reach them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use dominator_core::image::ImageName;
use dominator_core::machine::{Machine, Mdb};
use dominator_core::port::{
    Agent, AgentDialer, AgentError, Cause, MachineSource, MachineSourceError, Unreachable,
};
use dominator_rpc::client::RemoteAgent;
use dominator_rpc::transport::Tls;
use tokio::sync::watch;

/// A machine data base in memory.
#[derive(Debug)]
pub(super) struct Assignments(watch::Sender<Mdb>);

impl Assignments {
    /// An empty one, and what the controller reads of it.
    pub(super) fn new() -> (Self, AssignmentSource) {
        let (sender, mut receiver) = watch::channel(Mdb::default());
        // The first state is one that was not read yet.
        receiver.mark_changed();
        (Self(sender), AssignmentSource(receiver))
    }

    /// Says that each of `hostnames` must be `image`.
    pub(super) fn assign<'a>(&self, hostnames: impl Iterator<Item = &'a String>, image: &ImageName) {
        let assigned = |name: &String| {
            (name.clone(), Machine { required_image: Some(image.clone()), ..Machine::named(name) })
        };
        self.0.send_replace(Mdb { machines: hostnames.map(assigned).collect() });
    }
}

/// The controller's end.
#[derive(Debug)]
pub(super) struct AssignmentSource(watch::Receiver<Mdb>);

#[async_trait]
impl MachineSource for AssignmentSource {
    async fn next(&mut self) -> Result<Mdb, MachineSourceError> {
        if self.0.changed().await.is_err() {
            // Nobody is left who could change anything: the last state stays in force.
            std::future::pending::<()>().await;
        }
        Ok(self.0.borrow_and_update().clone())
    }
}

/// Reaches agents at addresses known by name: here several live at one address, each with a port of its own.
pub(super) struct AddressBook {
    pub(super) tls: Tls,
    pub(super) addresses: BTreeMap<String, SocketAddr>,
}

#[async_trait]
impl AgentDialer for AddressBook {
    async fn dial(&self, machine: &Machine) -> Result<Arc<dyn Agent>, AgentError> {
        let name = &machine.hostname;
        let address = self.addresses.get(name).ok_or_else(|| AgentError::Unreachable {
            why: Unreachable::Dns,
            cause: Cause::new(format!("{name} is not in the address book")),
        })?;
        Ok(Arc::new(RemoteAgent::connect(&self.tls, &address.to_string()).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_state_is_told_once_and_a_cancelled_wait_loses_none() {
        let (assignments, mut source) = Assignments::new();
        assert_eq!(source.next().await.unwrap(), Mdb::default());
        let (names, image) = (["a".to_owned(), "b".to_owned()], "x/1".parse().unwrap());
        drop(source.next());
        assignments.assign(names.iter(), &image);
        drop(source.next());
        let told = source.next().await.unwrap();
        assert_eq!(told.machines.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert!(told.machines.values().all(|machine| machine.required_image.as_ref() == Some(&image)));
        tokio::select! {
            biased;
            told = source.next() => panic!("told twice: {told:?}"),
            () = std::future::ready(()) => {}
        }
    }
}
