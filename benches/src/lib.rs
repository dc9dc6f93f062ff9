//! What benchmarks share: trees to measure on, and the bare limits of the machine they run on.
//!
//! The benchmarks themselves: `cargo bench -p dominator-benches`. How they were measured, and what was seen:
//! `docs/performance.md`.
#![forbid(unsafe_code)]

pub mod bare;
pub mod contender;
pub mod corpus;
pub mod table;
