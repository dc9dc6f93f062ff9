use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use dominator_core::machine::Machine;
use dominator_core::port::{Agent, AgentDialer, AgentError, ObjectSource, ObjectSources, StoreError};
use tokio::sync::OnceCell;

use super::answers::KnownAnswers;
use super::{RemoteAgent, RemoteObjects};
use crate::limits;
use crate::transport::Tls;

/// How many sources are kept connected.
const SOURCES: usize = 64;

/// Connects to the agents of machines over the network.
#[derive(Clone, Debug)]
pub struct Dialer {
    tls: Tls,
    port: u16,
    known: KnownAnswers,
}

impl Dialer {
    /// Dials the port agents listen on.
    pub fn new(tls: Tls) -> Self {
        Self { tls, port: Machine::PORT, known: KnownAnswers::new() }
    }

    /// Dials another port.
    #[must_use]
    pub fn with_port(self, port: u16) -> Self {
        Self { port, ..self }
    }
}

#[async_trait]
impl AgentDialer for Dialer {
    async fn dial(&self, machine: &Machine) -> Result<Arc<dyn Agent>, AgentError> {
        let host = machine.dial_host();
        let port = self.port;
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Ok(Arc::new(RemoteAgent::connect_among(self.known.clone(), &self.tls, &address).await?))
    }

    async fn renewed(&self, seen: u64) -> u64 {
        self.tls.renewed(seen).await
    }
}

/// Finds image servers over the network by their addresses, and keeps the connections for the next time.
#[derive(Clone, Debug)]
pub struct Sources {
    tls: Tls,
    known: Arc<Mutex<HashMap<String, Arc<OnceCell<RemoteObjects>>>>>,
}

impl Sources {
    /// Knows none yet.
    pub fn new(tls: Tls) -> Self {
        Self { tls, known: Arc::default() }
    }

    fn known(&self, address: &str) -> Arc<OnceCell<RemoteObjects>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= SOURCES && !known.contains_key(address) {
            known.clear();
        }
        known.entry(address.into()).or_default().clone()
    }
}

#[async_trait]
impl ObjectSources for Sources {
    async fn source(&self, address: &str) -> Result<Arc<dyn ObjectSource>, StoreError> {
        let known = self.known(address);
        let source = known.get_or_try_init(|| RemoteObjects::connect(&self.tls, address)).await?;
        Ok(Arc::new(source.clone()))
    }

    async fn place(&self, address: &str) -> Option<IpAddr> {
        let found = tokio::time::timeout(limits::CONNECT, tokio::net::lookup_host(address)).await;
        found.ok()?.ok()?.next().map(|address| address.ip())
    }
}
