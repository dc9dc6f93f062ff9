//! Applying plans to real directories.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::let_underscore_must_use,
    clippy::wildcard_enum_match_arm
)]

mod any_plan;
mod bystanders;
mod disk_lies;
mod links;
mod local;
mod mounts;
mod operations;
mod property;
mod recovery;
mod safety;
mod seen;
mod support;
mod trial;
mod undo;
