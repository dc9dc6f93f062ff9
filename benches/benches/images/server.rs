//! Image servers, each with a store of its own.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use dominator_core::auth::Role;
use dominator_pki::{Credentials, Trust};
use dominator_rpc::transport::Tls;
use dominator_testkit::{Certificate, Lab, Process};

use crate::disk::Disk;

/// What all of them have in common: an authority, an address, and who may do everything with them.
pub(crate) struct Servers {
    lab: Lab,
    daemon: Certificate,
    admin: Certificate,
    address: String,
}

/// One that runs.
pub(crate) struct Server<'a> {
    servers: &'a Servers,
    process: Process,
    /// From before it was started until it listened.
    pub(crate) start: Duration,
}

impl Servers {
    /// Their certificates lie on `disk`.
    pub(crate) fn new(disk: &Disk) -> Self {
        let directory = disk.path().join("lab");
        fs::create_dir(&directory).unwrap();
        tempfile::env::override_temp_dir(&directory).unwrap();
        let lab = Lab::new();
        let daemon = lab.daemon_certificate("imageserver", "imageserver");
        let admin = lab.certificate("admin", "admin", "*.*");
        let address = format!("{}:6971", lab.address(0));
        Self { lab, daemon, admin, address }
    }

    /// Starts one whose state lies in `state`.
    pub(crate) fn start(&self, state: &Path) -> Server<'_> {
        let mut command =
            self.lab.daemon("imageserver", &self.daemon, &self.address, state.to_str().unwrap());
        let begun = Instant::now();
        let process = Process::start("imageserver", &mut command);
        Server { servers: self, process, start: begun.elapsed() }
    }

    /// Where they listen.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Whom a client believes, and what it shows.
    pub(crate) fn tls(&self) -> Tls {
        Tls::new(self.trust(), credentials(&self.admin)).unwrap()
    }

    /// The configuration of one who needs nothing of ours but the certificates.
    pub(crate) fn client_config(&self) -> rustls::ClientConfig {
        self.trust().client_config(&credentials(&self.admin), Role::ImageServer).unwrap()
    }

    /// The same for a server.
    pub(crate) fn server_config(&self) -> rustls::ServerConfig {
        self.trust().server_config(&credentials(&self.daemon)).unwrap()
    }

    fn trust(&self) -> Trust {
        Trust::from_pem(&fs::read(&self.admin.authority).unwrap(), None).unwrap()
    }
}

fn credentials(of: &Certificate) -> Credentials {
    let [chain, key] = [&of.certificate, &of.key].map(|path| fs::read(path).unwrap());
    Credentials::from_pem(&chain, &key).unwrap()
}

impl Server<'_> {
    /// Adds an image.
    pub(crate) fn add(&self, image: &str, tree: &Path) {
        self.tool(&["add", "--no-required-paths", image, tree.to_str().unwrap(), "/dev/null", ""]);
    }

    /// Writes an image's tree.
    pub(crate) fn get(&self, image: &str, directory: &Path) {
        self.tool(&["get", image, directory.to_str().unwrap()]);
    }

    fn tool(&self, what: &[&str]) {
        let Servers { lab, admin, address, .. } = self.servers;
        let arguments = ["--image-server", address].into_iter().chain(what.iter().copied());
        lab.tool("imagetool", admin, arguments).success();
    }

    /// How much memory it has (`VmRSS`), or ever had (`VmHWM`), in bytes.
    pub(crate) fn memory(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
        value.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    }

    /// What it has used of the processors.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let ticks = stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2);
        Duration::from_millis(10 * ticks.map(|field| field.parse::<u64>().unwrap()).sum::<u64>())
    }

    /// Ends it.
    pub(crate) fn end(self) {
        self.process.end();
    }
}
