//! How hard an agent may work: shown and changed.

use std::io::{self, Write};
use std::num::NonZeroU64;

use dominator_core::filter::Filter;
use dominator_core::port::{Agent, Boost, Reconfiguration};
use dominator_daemon::report::Show;
use dominator_daemon::{During, Failure};
use serde::Serialize;

/// What an agent may take and leaves alone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Limits {
    cpu_percent: u8,
    scan_speed_percent: u8,
    network_speed_percent: u8,
    network_bytes_per_second: Option<u64>,
    exclusions: Vec<String>,
}

/// A limit that was lifted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Lifted {
    lifted: &'static str,
}

/// Asks for the limits.
pub(crate) async fn configuration(agent: &dyn Agent) -> Result<Limits, Failure> {
    let configuration = agent.configuration().await.during(|| "can't get the configuration".into())?;
    Ok(Limits {
        cpu_percent: configuration.cpu.get(),
        scan_speed_percent: configuration.scan_speed.get(),
        network_speed_percent: configuration.network_speed.get(),
        network_bytes_per_second: configuration.network_bytes.map(NonZeroU64::get),
        exclusions: match &configuration.exclusions {
            Filter::Lines(lines) => lines.lines().to_vec(),
            Filter::Empty | Filter::Sparse => Vec::new(),
        },
    })
}

/// Changes the limits and shows what they are then.
pub(crate) async fn configure(agent: &dyn Agent, change: Reconfiguration) -> Result<Limits, Failure> {
    agent.configure(change).await.during(|| "can't change the configuration".into())?;
    configuration(agent).await
}

/// Lifts a limit.
pub(crate) async fn boost(agent: &dyn Agent, boost: Boost) -> Result<Lifted, Failure> {
    agent.boost(boost).await.during(|| "can't lift the limit".into())?;
    Ok(Lifted {
        lifted: match boost {
            Boost::Cpu => "cpu",
            Boost::Scan => "scan-speed",
        },
    })
}

impl Show for Limits {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "processors  {} %", self.cpu_percent)?;
        writeln!(out, "disk        {} %", self.scan_speed_percent)?;
        writeln!(out, "network     {} %", self.network_speed_percent)?;
        if let Some(bytes) = self.network_bytes_per_second {
            writeln!(out, "network     {bytes} bytes/s")?;
        }
        self.exclusions.iter().try_for_each(|line| writeln!(out, "left alone  {line}"))
    }
}

impl Show for Lifted {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "the limit on {} is lifted until the end of a scan", self.lifted)
    }
}
