use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use dominator_core::machine::{Machine, Mdb};
use dominator_core::port::{ClusterStore, ClusterStoreError, MachineSource, MachineSourceError, Revision};
use tokio::sync::watch;

/// A machine data base in memory: what is sent to the other end is what it holds.
#[derive(Debug)]
pub struct MemoryMachines(watch::Receiver<Mdb>);

impl MemoryMachines {
    /// A data base of these machines, and the end that changes it.
    pub fn new(machines: impl IntoIterator<Item = Machine>) -> (Self, watch::Sender<Mdb>) {
        let (sender, mut receiver) = watch::channel(Self::mdb(machines));
        receiver.mark_changed();
        (Self(receiver), sender)
    }

    /// These machines by their names.
    pub fn mdb(machines: impl IntoIterator<Item = Machine>) -> Mdb {
        Mdb { machines: machines.into_iter().map(|machine| (machine.hostname.clone(), machine)).collect() }
    }
}

#[async_trait]
impl MachineSource for MemoryMachines {
    async fn next(&mut self) -> Result<Mdb, MachineSourceError> {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        Ok(self.0.borrow_and_update().clone())
    }
}

/// A cluster of one, in memory.
#[derive(Debug, Default)]
pub struct MemoryCluster(Mutex<BTreeMap<String, (Bytes, Revision)>>);

#[async_trait]
impl ClusterStore for MemoryCluster {
    async fn value(&self, key: &str) -> Result<Option<(Bytes, Revision)>, ClusterStoreError> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }

    async fn set(
        &self,
        key: &str,
        value: Bytes,
        expected: Option<Revision>,
    ) -> Result<Revision, ClusterStoreError> {
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = values.get(key).map(|(_, revision)| *revision);
        if found != expected {
            return Err(ClusterStoreError::Conflict { key: key.into() });
        }
        let next = Revision(found.map_or(1, |revision| revision.0 + 1));
        values.insert(key.into(), (value, next));
        Ok(next)
    }
}
