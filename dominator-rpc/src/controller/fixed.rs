use async_trait::async_trait;
use dominator_core::machine::{Machine, Mdb};
use dominator_core::port::{MachineSource, MachineSourceError};

/// A machine data base that never changes: for those who know their machines when they start.
#[derive(Clone, Debug)]
pub struct FixedMachines(Option<Mdb>);

impl FixedMachines {
    /// These machines, for ever. Of several with one name the last counts.
    pub fn new(machines: impl IntoIterator<Item = Machine>) -> Self {
        let machines = machines.into_iter().map(|machine| (machine.hostname.clone(), machine));
        Self(Some(Mdb { machines: machines.collect() }))
    }
}

#[async_trait]
impl MachineSource for FixedMachines {
    async fn next(&mut self) -> Result<Mdb, MachineSourceError> {
        match self.0.take() {
            Some(mdb) => Ok(mdb),
            None => std::future::pending().await,
        }
    }
}
