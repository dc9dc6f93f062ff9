use std::path::PathBuf;

use clap::Parser;
use dominator_daemon::value::{Duration, HostPort};
use dominator_daemon::{Daemon, DaemonOptions};

/// What this daemon is called and where it lives.
pub const DAEMON: Daemon =
    Daemon { name: "dominator", listen: "0.0.0.0:6970", state_dir: "/var/lib/dominator" };

/// Makes every machine of a fleet what its image says, and keeps it so.
///
/// The machine data base says which machines there are and which image each must be. The dominator asks their subds how
/// they stand, compares that with their images, and has them fetch and change what differs.
#[derive(Clone, Debug, Parser)]
#[command(name = "dominator", version, after_help = EXAMPLE)]
pub struct Options {
    /// Get images from this server; the machines fetch objects from it by the same name
    #[arg(long, value_name = "HOST:PORT")]
    pub image_server: HostPort,
    /// Read the machines from this JSON file, and again when it changes
    #[arg(long, value_name = "FILE")]
    pub mdb: PathBuf,
    /// Ask no machine twice within this time, as in 500ms, 1s, 1m
    #[arg(long, value_name = "TIME", default_value = "1s")]
    pub min_interval: Duration,
    /// What every daemon has. Last, as its headings would stand above what follows.
    #[command(flatten)]
    pub common: DaemonOptions,
}

const EXAMPLE: &str = r#"Example:
  dominator --image-server images.example.com:6971 --mdb /var/lib/mdbd/mdb.json

where the file says which machine must be what:
  {"Machines": [
    {"Hostname": "web1", "RequiredImage": "web/2026-11-22:10:00:00"},
    {"Hostname": "db1", "IpAddress": "10.0.0.7", "RequiredImage": "db/2026-11-20:12:30:00"}
  ]}"#;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use std::path::Path;

    #[test]
    fn the_example_configuration_is_one() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("dominator.toml");
        dominator_daemon::config::check::<Options>(&path).unwrap();
        Options::command().debug_assert();
    }
}
