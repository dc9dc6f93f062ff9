//! The model of images, trees and fleets, and every decision about them: what a machine is, what it must be, what has to
//! be done to make it so, whether that is safe, and who may ask for it. A [tree] is a Merkle tree of
//! [inodes](inode), so that two machines are equal when 32 bytes are; a [view] says what of a machine is looked at;
//! an [image] is a tree with a name; a [plan] is what makes one tree of another; [herd] holds the state machines of the
//! fleet. The [ports](port) are the traits through which all this meets disks and networks. Everything here is a
//! function or a value: it can be tested by the million and embedded anywhere.
//!
//! ```
//! use dominator_core::inode::{Inode, Kind, Mode, Timestamp, Xattrs};
//! use dominator_core::object::ObjectId;
//! use dominator_core::path::ImagePath;
//! use dominator_core::plan::Comparison;
//! use dominator_core::tree::{Builder, Snapshot};
//! use dominator_core::view::View;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! fn inode(mode: u32, kind: Kind) -> Inode {
//!     Inode { mode: Mode::from_st_mode(mode), uid: 0, gid: 0, xattrs: Xattrs::default(), kind }
//! }
//!
//! /// A machine with one file, `/etc/motd`, and perhaps one more.
//! fn machine(motd: &str, more: Option<&str>) -> Result<Snapshot, Box<dyn std::error::Error>> {
//!     let directory = || inode(0o755, Kind::Directory { id: Builder::placeholder() });
//!     let file = |contents: &str| {
//!         let (size, object) = (contents.len() as u64, ObjectId::of(contents.as_bytes()));
//!         inode(0o644, Kind::Regular { mtime: Timestamp::default(), size, object })
//!     };
//!     let mut builder = Builder::new(directory())?;
//!     builder.insert(&ImagePath::parse(b"/etc")?, directory())?;
//!     builder.insert(&ImagePath::parse(b"/etc/motd")?, file(motd))?;
//!     if let Some(path) = more {
//!         builder.insert(&ImagePath::parse(path.as_bytes())?, file("nobody asked for it"))?;
//!     }
//!     Ok(builder.finish(View::everything().id()))
//! }
//!
//! let required = machine("Welcome.", None)?;
//! let actual = machine("Go away!", Some("/etc/backdoor"))?;
//! assert_ne!(required.id(), actual.id());
//!
//! let plan = Comparison {
//!     required: &required,
//!     actual: &actual.tree,
//!     links: Some(&actual.links),
//!     directories: &actual.directories,
//! }
//! .plan()?
//! .plan;
//! let steps: Vec<String> = plan.operations.iter().map(ToString::to_string).collect();
//! assert_eq!(steps, ["put file /etc/motd", "delete /etc/backdoor"]);
//! # Ok(())
//! # }
//! ```
//!
//! # What is not here
//!
//! No input or output, no clock, no runtime, no randomness: time is an argument, actions are values that somebody else
//! performs. Files are read and changed by `dominator-fs`, the network and certificates are `dominator-rpc`'s and
//! `dominator-pki`'s. There is no serialisation by derive either: what leaves a process has an encoding written by
//! hand and specified in `docs/formats/`, and what comes from outside is decoded within named limits or refused.
#![forbid(unsafe_code)]

pub mod activation;
pub mod auth;
pub mod backoff;
pub mod catalog;
mod codec;
pub mod disruption;
pub mod filter;
pub mod garbage;
pub mod health;
pub mod herd;
pub mod image;
pub mod inode;
pub mod machine;
pub mod namespace;
pub mod object;
pub mod path;
pub mod plan;
pub mod port;
pub mod replica;
pub mod tree;
pub mod trigger;
pub mod view;

pub use codec::DecodeError;
