//! The ports of `dominator-core` over the network.
//!
//! A server puts ports behind mutual TLS and one door that decides who may call what; a client adapter *is* a port whose
//! other end is elsewhere. Between them: gRPC with the messages of `proto/`, limits on everything, and errors that say
//! who is at fault. On top, [`controller`] drives the fleet's state machines, over these adapters or any others.
//!
//! ```no_run
//! use std::sync::Arc;
//! use dominator_core::port::{ImageStore, ObjectStore};
//! use dominator_pki::{Credentials, Trust};
//! use dominator_rpc::server::Services;
//! use dominator_rpc::transport::{Server, Tls};
//!
//! async fn image_server(
//!     trust: Trust,
//!     credentials: Credentials,
//!     objects: Arc<dyn ObjectStore>,
//!     images: Arc<dyn ImageStore>,
//! ) -> Result<(), Box<dyn std::error::Error>> {
//!     let tls = Tls::new(trust, credentials)?;
//!     let services = Services::new("1.0").objects(objects).images(images, std::time::SystemTime::now);
//!     let server = Server::bind(([0, 0, 0, 0], 6971).into(), tls, services).await?;
//!     server.serve(std::future::pending()).await?;
//!     Ok(())
//! }
//! ```
//!
//! # What is not here
//! The files behind the ports (`dominator-fs`), the decisions (`dominator-core`), certificates (`dominator-pki`),
//! signals, configuration and logs (the binaries).
#![forbid(unsafe_code)]

pub mod auth;
pub mod client;
pub mod controller;
pub mod limits;
mod lines;
pub mod log;
pub mod metrics;
pub mod readiness;
pub mod replica;
pub mod server;
pub mod transport;
mod wire;

/// The protocol's messages, services and clients as they are generated from `proto/`, for those who speak it without
/// the adapters.
#[allow(
    missing_docs,
    unreachable_pub,
    elided_lifetimes_in_paths,
    clippy::all,
    clippy::restriction,
    clippy::pedantic
)]
pub mod v1 {
    tonic::include_proto!("dominator.v1");
}
