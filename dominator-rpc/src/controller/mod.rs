//! The controller of a fleet: what it shows to people, and the runtime that drives the decisions of
//! `dominator_core::herd`.
//!
//! The runtime knows ports only: agents may be machines over the network, in this process or in a test, and whoever
//! embeds it has the same controller.

mod compare;
mod control;
mod directories;
mod fixed;
mod fleet;
mod images;
mod machine;
mod member;
mod runtime;

pub use control::{Consent, FleetControl, FleetError, Progress, Stage, Standing, SubInfo, Switch, Updates};
pub use fixed::FixedMachines;
pub use fleet::{Changes, Fleet};
pub use runtime::{Controller, Parts, Tuning};
