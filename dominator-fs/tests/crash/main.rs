//! What crashes leave, at every point of everything that must survive them, played in memory: each state a crash may
//! leave is made, the code that is to cope with it runs, and what comes of it is judged. Decision 13 tells how.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    missing_docs
)]

mod conflicts;
mod directories;
mod images;
mod objects;
mod play;
mod publish;
mod random;
mod stores;
#[allow(dead_code, reason = "the tests of garbage need more of it")]
#[path = "../garbage/support.rs"]
mod support;
mod trial;
mod update;
