//! Ports in memory, for tests of what stands on them: stores, an agent that really applies plans, a machine data base
//! and a cluster store. Small and plain on purpose; nothing here survives the process.
#![forbid(unsafe_code)]

mod agent;
mod fleet;
mod stores;

pub use agent::{FakeAgent, image_of, tree_of};
pub use fleet::{MemoryCluster, MemoryMachines};
pub use stores::{MemoryImages, MemoryObjects, NamedSources};
