//! The core.
#![forbid(unsafe_code)]

pub mod authorise;
mod codec;
pub mod filter;
pub mod herd;
pub mod image;
pub mod inode;
pub mod machine;
pub mod object;
pub mod path;
pub mod plan;
pub mod port;
pub mod tree;
pub mod trigger;
pub mod view;

pub use codec::DecodeError;
