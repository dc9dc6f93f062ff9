//! Who may do what, once it is known who calls.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    dead_code,
    unreachable_pub,
    missing_docs
)]

mod layer;
mod people;
mod scopes;
#[path = "../support/mod.rs"]
mod support;
mod unnamed;
