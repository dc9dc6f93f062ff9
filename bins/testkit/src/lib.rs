//! Real processes for tests: every daemon and tool as its own program, with certificates of its own, on loopback
//! addresses of its own. For tests only; a failure to set something up panics with what the programs said.
//!
//! # What is not here
//! Judgement: whether two trees are alike is told by `oracle.py` of `dominator-fs/testkit`, which shares no code with us.
#![forbid(unsafe_code)]
#![allow(clippy::missing_panics_doc, reason = "it is the way tests fail")]

mod binaries;
mod computer;
pub mod debian;
mod holder;
pub mod image;
mod lab;
mod link;
mod machine;
mod network;
mod process;
pub mod schema;
mod stage;
pub mod trees;

pub use binaries::{binary, recovery_program};
pub use computer::Computer;
pub use image::Image;
pub use lab::{Certificate, Lab};
pub use link::Link;
pub use machine::Machine;
pub use network::Network;
pub use process::{Outcome, Process};
pub use stage::Stage;

/// Whether tests that need root can run. Without root they say why they do not; where that must not happen (`CI` is
/// set), they fail.
pub fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "{test} needs root");
    if !root {
        say(&format!("{test} was not run: it needs root"));
    }
    root
}

/// Prints a remark that tests do not swallow.
pub fn say(words: &str) {
    use std::io::Write;
    drop(writeln!(std::io::stdout().lock(), "{words}"));
}
