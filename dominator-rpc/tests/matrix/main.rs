//! Who may connect and what they may call: every way to be somebody else, against every service.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    dead_code,
    unreachable_pub,
    missing_docs
)]

#[path = "../support/mod.rs"]
mod support;

mod clients;
mod globs;
mod journal;
mod losses;
mod methods;
mod people;
mod plaintext;
mod powers;
mod resumption;
mod run;
mod servers;
mod services;
