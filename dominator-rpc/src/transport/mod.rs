//! Connections: mutual TLS on both ends, one listener, one way to dial.

mod client;
mod connection;
mod crowd;
mod server;
mod tls;

pub use client::ConnectError;
pub(crate) use client::{connect, connect_lazily};
pub use connection::Peer;
pub use server::{BindError, ServeError, Server};
pub use tls::Tls;
