//! Ports whose other end is elsewhere. Each connects to a server that must prove its role, checks what comes back, and
//! says which end is at fault when it fails.
//!
//! Dropping the future of a call abandons it on both ends; orders to agents go on there, as the port says.

mod agent;
mod answers;
mod catalog;
mod dial;
mod fleet;
mod garbage;
mod images;
mod introspection;
mod logger;
mod objects;

use std::time::Duration;

use tokio::time::timeout;
use tonic::{Status, Streaming};

pub use logger::{LogError, LogNews, LogQuery, RemoteLog};

pub use agent::RemoteAgent;
pub use dial::{Dialer, Sources};
pub use fleet::RemoteFleet;
pub use images::RemoteImages;
pub use introspection::{IntrospectError, ServerMethods, list_methods};
pub use objects::{Compression, RemoteObjects, verified};

use crate::limits;

/// The answer of a call that must come in time.
async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let late = |_| Err(Status::deadline_exceeded(format!("no answer within {} s", limit.as_secs())));
    timeout(limit, call).await.unwrap_or_else(late)
}

/// The next message of a stream that must not stand still.
async fn next<T>(stream: &mut Streaming<T>) -> Result<Option<T>, Status> {
    within(limits::STALL, stream.message()).await
}
