use std::path::PathBuf;

use clap::Parser;
use dominator_core::port::FetchRequest;
use dominator_daemon::value::{Duration, HostPort};
use dominator_daemon::{Daemon, DaemonOptions, Failure};

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
    /// Have the machines fetch objects from this server, and from the image server only what it has not or when it
    /// fails; may be given several times, in order of preference
    #[arg(long, value_name = "HOST:PORT")]
    pub object_server: Vec<HostPort>,
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

impl Options {
    /// Where machines fetch objects, in order of preference.
    ///
    /// # Errors
    /// [`Failure`] when there are more than an order can name.
    pub fn sources(&self) -> Result<Vec<String>, Failure> {
        let most = FetchRequest::MAX_SOURCES - 1;
        if self.object_server.len() > most {
            return Err(Failure::new(format!("at most {most} object servers can be given")));
        }
        Ok(self.object_server.iter().chain([&self.image_server]).map(ToString::to_string).collect())
    }
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
    fn machines_fetch_from_the_image_server_last() {
        let options = |arguments: &[&str]| {
            let usual = ["dominator", "--image-server=i:1", "--mdb=m"];
            let given = usual.iter().chain(arguments).map(Into::into);
            dominator_daemon::config::parse::<Options>(|c| DAEMON.adjust(c), given).unwrap()
        };
        let two = options(&["--object-server=a:2", "--object-server=b:3"]);
        assert_eq!(options(&[]).sources().unwrap(), ["i:1"]);
        assert_eq!(two.sources().unwrap(), ["a:2", "b:3", "i:1"]);
        assert!(options(&["--object-server=a:2"; 8]).sources().is_err());
    }

    #[test]
    fn the_example_configuration_is_one() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("dominator.toml");
        dominator_daemon::config::check::<Options>(&path).unwrap();
        Options::command().debug_assert();
    }
}
