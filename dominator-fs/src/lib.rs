//! Linux: what `dominator-core` decides, done to a disk.
//!
//! [`root`] opens paths below one directory and nowhere else, [`mounts`] says what must stay where it is there, [`seam`] is
//! the only way anything is changed, [`scan`] makes trees of what is there, [`watch`] hears of changes when they are made,
//! [`pace`] says how much of a machine that may take, [`update`] applies plans, takes them back, and brings to its end what
//! a crash cut off ([`Update`] needs nothing but a directory and a plan), [`store`] keeps objects and images,
//! [`import`] and [`export`] make images of directories and archives and the other way round, [`service`] runs what
//! triggers ask for, [`health`] finds out whether the machine is well, [`note`] what it says of itself, [`compliance`] is
//! the embedder's front door. With the `tokio` feature, `disruption` asks a program when users may be disturbed, and `agent`
//! is the port `Agent` on all of it.

#[cfg(feature = "tokio")]
pub mod agent;
pub mod audit;
pub mod compliance;
#[cfg(feature = "tokio")]
pub mod disruption;
pub mod export;
mod handle;
pub mod health;
pub mod import;
pub mod mounts;
pub mod note;
pub mod pace;
pub mod publish;
pub mod root;
pub mod scan;
pub mod seam;
pub mod service;
mod sparse;
pub mod store;
pub mod traits;
pub mod update;
pub mod watch;

pub use update::Update;
