//! Agents die at every step of an update, of judging it and of taking it back, one after another; then the right services
//! run, and the machine says what it is.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::let_underscore_must_use)]
#![allow(dead_code, reason = "tests of agents that live use more of it")]

#[path = "../agent/support.rs"]
mod support;
#[path = "../agent/world.rs"]
mod world;

mod deaths;
