use dominator_core::auth::{Access, Role};
use thiserror::Error;

use super::within;
use crate::transport::{ConnectError, Tls, connect};
use crate::v1::introspection_client::IntrospectionClient;
use crate::{limits, v1, wire};

/// What a server offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerMethods {
    /// Its version.
    pub version: String,
    /// Its methods as `Service.Method`, in order, with what they demand.
    pub methods: Vec<(String, Access)>,
}

/// Asks the server at `address` (`host:port`), which must play the role `expected`, what it offers.
///
/// # Errors
/// [`IntrospectError`] when it can't be reached or does not answer.
pub async fn list_methods(
    tls: &Tls,
    address: &str,
    expected: Role,
) -> Result<ServerMethods, IntrospectError> {
    let channel = connect(tls, address, expected).await?;
    let mut client = IntrospectionClient::new(channel).max_decoding_message_size(limits::MESSAGE);
    let answer = within(limits::CALL, client.list_methods(v1::Empty {})).await;
    let answer =
        answer.map_err(|status| IntrospectError::Refused(wire::cause(&status).to_string()))?.into_inner();
    let access = |public| if public { Access::Public } else { Access::Listed };
    let methods = answer.methods.into_iter().map(|method| (method.name, access(method.public))).collect();
    Ok(ServerMethods { version: answer.version, methods })
}

/// A server that did not say what it offers.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IntrospectError {
    /// It can't be reached.
    #[error("the server can't be reached")]
    Connect(#[from] ConnectError),
    /// It did not answer.
    #[error("the server did not say what it offers: {0}")]
    Refused(String),
}
