//! For tests only: trees as nasty as Linux allows, disks as slow as wanted, and an oracle that tells what a tree is
//! without any of our code.
//!
//! What fails here fails the test that asked: these functions panic with what happened.
#![forbid(unsafe_code)]

mod disk;
mod mounts;
mod nasty;
mod oracle;
mod privilege;

pub use disk::{Disk, Throttle};
pub use mounts::{Access, mount_bind, mount_overlay, mount_tmpfs, remount, unmount, with_mounts};
pub use nasty::{chain, deep, nasty};
pub use oracle::{Entries, compared, described, observed};
pub use privilege::{left_out, needs_root};
