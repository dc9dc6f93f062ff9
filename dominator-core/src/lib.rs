//! The core.
#![forbid(unsafe_code)]

pub mod authorise;
