//! What every daemon and tool of the fleet shares, so that each binary is only its composition: options with a
//! configuration file of the same names, certificates from the usual places, logging, signals, the async runtime,
//! filter and trigger files, and reports to people and programs.
//!
//! ```
//! use dominator_daemon::value::{Duration, HostPort};
//!
//! let server: HostPort = "images.example.com:6971".parse()?;
//! assert_eq!((server.host(), server.port()), ("images.example.com", 6971));
//! assert_eq!("500ms".parse::<Duration>()?.get(), std::time::Duration::from_millis(500));
//! # Ok::<(), dominator_daemon::value::BadValue>(())
//! ```
//!
//! # What is not here
//! Nothing of the protocol or of file-systems: a daemon's own crate joins those.
#![forbid(unsafe_code)]

pub mod audit;
pub mod config;
mod exporter;
pub mod failure;
pub mod input;
pub mod logging;
mod notify;
pub mod people;
pub mod plan;
pub mod process;
pub mod remark;
pub mod report;
pub mod roles;
mod serve;
pub mod tls;
pub mod value;
mod vitals;
pub mod xattrs;

pub use failure::{During, Failure};
pub use process::{Daemon, DaemonOptions, Reload, Shutdown, daemon, tool};
pub use serve::{DaemonTls, serve, serve_and_tell};
pub use vitals::Vitals;
