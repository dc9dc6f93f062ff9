//! Scans and updates of trees that somebody is working against: an attacker, a storm, a failing disk; and scans of trees of
//! every shape, judged by an oracle that shares no code with the scanner. Every scene is looked at both ways there are:
//! anew, and with what the looks before have left.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod attack;
mod cancel;
mod disks;
mod failing;
mod faults;
mod large;
mod mounting;
mod observer;
mod onlooker;
mod oracle;
mod outside;
mod process;
mod scrub;
#[path = "../update/seen.rs"]
mod seen;
mod storms;
#[path = "../update/support.rs"]
#[allow(dead_code, reason = "tests of updates share it, and not all need all of it")]
mod support;
mod swapping;
