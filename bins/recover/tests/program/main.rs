//! The recovery program on roots of its own: it decides what was cut off, counts starts, and watches over an agent that
//! does not answer.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    missing_docs
)]

mod boot;
mod first;
mod guard;
mod killed;
mod root;
