//! Health: what an image wants checked is tried on the running machine.

mod http;
mod probes;

use std::sync::Arc;
use std::time::Duration;

use dominator_core::health::Probe;
use dominator_core::port::{Prober, ServiceRunner, Unhealthy};

/// Tries it on the machine this process runs on.
#[derive(Clone)]
pub struct SystemProber {
    services: Arc<dyn ServiceRunner>,
}

impl SystemProber {
    /// Units are asked for from `services`, which has a limit of its own for that.
    pub fn new(services: Arc<dyn ServiceRunner>) -> Self {
        Self { services }
    }
}

impl Prober for SystemProber {
    fn probe(&self, probe: &Probe, limit: Duration) -> Result<(), Unhealthy> {
        match probe {
            Probe::Command(words) => probes::command(words, limit),
            Probe::Unit(unit) => probes::unit(&*self.services, unit),
            Probe::Tcp(address) => probes::tcp(address, limit).map(drop),
            Probe::Http { url, status } => http::get(url, *status, limit),
            Probe::Unix(path) => probes::unix(path, limit),
            _ => {
                Err(Unhealthy::Wrong("this agent does not know such a check; it must be upgraded".to_owned()))
            }
        }
    }
}
