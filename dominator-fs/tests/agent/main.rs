//! The local agent, from the first poll to the last, as a controller sees it.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::let_underscore_must_use)]
#![allow(dead_code, reason = "tests of agents that die use more of it")]

mod conditions;
mod orders;
mod recovery;
mod support;
mod trials;
mod undecided;
mod undoing;
mod world;
