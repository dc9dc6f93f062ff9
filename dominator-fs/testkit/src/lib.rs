//! For tests only: trees as nasty as Linux allows, disks that fail and are as slow as wanted, an oracle that tells what a
//! tree is without any of our code, and a file-system that plays every crash.
//!
//! What fails here fails the test that asked: these functions panic with what happened.
#![forbid(unsafe_code)]

pub mod crash;
mod disk;
mod faulty;
pub mod killing;
mod mounts;
mod nasty;
mod oracle;
mod privilege;
mod program;
pub mod scenario;
mod tapped;

pub use disk::{Disk, Throttle};
pub use faulty::{Fault, Faults, FaultyFs, Lasting};
pub use mounts::{
    Access, mount_bind, mount_layers, mount_overlay, mount_tmpfs, remount, unmount, with_mounts,
};
pub use nasty::{chain, deep, nasty};
pub use oracle::{Entries, compared, described, observed};
pub use privilege::{left_out, needs_root};
pub use program::write_script;
pub use tapped::{Call, CallKind, Tap, Tapped};
