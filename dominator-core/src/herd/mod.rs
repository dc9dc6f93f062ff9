//! The herd: what the controller knows of each machine and does next, as state machines without IO and clock.
//!
//! A runtime performs the [`Action`]s of a [`Sub`] and tells it what came of them as [`Event`]s, with the time. So
//! thousands of machines and weeks of clock fit into a test.

mod event;
mod required;
mod status;
mod sub;

pub use event::{Action, CompareError, Event, FastUpdate, Leave, Moment, Safety, Settings, SubInfo, Updates};
pub use required::{Required, Wanted};
pub use status::{BadStatus, Status};
pub use sub::Sub;
