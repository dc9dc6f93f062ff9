//! A server among strangers and callers who mean it no good: those who mean it well notice nothing, and it does not grow.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::print_stdout
)]

mod callers;
mod frames;
mod scene;
mod strangers;

/// What a server may grow by, in KiB, whatever is done to it.
const GROWTH: u64 = 192 * 1024;
