//! Connections: mutual TLS on both ends, one listener, one way to dial.

mod ages;
mod arrivals;
mod bounds;
mod channel;
mod client;
mod conduct;
mod connection;
mod crowd;
pub mod danger;
mod expiry;
mod follow;
mod observed;
mod pace;
mod seats;
mod server;
mod standing;
mod stream;
mod tls;
mod words;

pub use bounds::Bounds;
pub use channel::Channel;
pub(crate) use client::connect_lazily;
pub use client::{ConnectError, connect};
pub use connection::Peer;
pub(crate) use crowd::neighbourhood;
pub use follow::Follower;
pub use server::{BindError, ServeError, Server};
pub use standing::Lost;
pub use tls::Tls;
