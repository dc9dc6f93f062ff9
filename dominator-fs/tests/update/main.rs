//! Applying plans to real directories.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::let_underscore_must_use)]

mod mounts;
mod operations;
mod property;
mod safety;
mod support;
