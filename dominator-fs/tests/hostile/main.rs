//! Scans of trees that somebody is working against: an attacker, a storm, a failing disk; and of trees of every shape,
//! judged by an oracle that shares no code with the scanner. Every scene is looked at both ways there are: anew, and
//! with what the looks before have left.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod attack;
mod cancel;
mod faults;
mod large;
mod observer;
mod oracle;
mod outside;
mod process;
mod scrub;
mod storms;
