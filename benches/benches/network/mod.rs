//! A server in a process of its own, with the limits every server has, and the certificates of those who call it.

#![allow(dead_code, unreachable_pub)]

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::SystemTime;

use dominator_core::auth::{MethodPattern, Role};
use dominator_core_testkit::MemoryObjects;
use dominator_pki::ca::{Authority, Leaf, LeafKey};
use dominator_pki::{Credentials, Trust};
use dominator_rpc::server::Services;
use dominator_rpc::transport::{Server, Tls};

/// A server that runs in a process of its own.
pub struct Served {
    child: Child,
    pub address: SocketAddr,
}

impl Served {
    pub fn start(directory: &Path, address: SocketAddr) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("--serve").arg(directory).arg("--address").arg(address.to_string());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, address: line.trim().parse().unwrap() }
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }

    /// The most it ever took.
    pub fn memory(&self) -> u64 {
        let status = self.read("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }

    pub fn cpu(&self) -> u64 {
        let stat = self.read("stat");
        let fields: Vec<_> = stat[stat.rfind(')').unwrap()..].split_whitespace().collect();
        (fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap()) / 100
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Is the server.
pub async fn serve(directory: &Path, address: SocketAddr) {
    let (trust, credentials) = load(directory, "server");
    let tls = Tls::new(trust, credentials).unwrap();
    let services = Services::new("bench").objects(Arc::new(MemoryObjects::default()));
    let server = Server::bind(address, tls, services).await.unwrap();
    println!("{}", server.local_address());
    server.serve(std::future::pending()).await.unwrap();
}

/// Whom everybody believes, and what `name` shows.
pub fn load(directory: &Path, name: &str) -> (Trust, Credentials) {
    let read = |name: &str| std::fs::read(directory.join(name)).unwrap();
    let trust = Trust::from_pem(&read("CA.pem"), None).unwrap();
    let (chain, key) = (read(&format!("{name}.pem")), read(&format!("{name}.key")));
    (trust, Credentials::from_pem(&chain, &key).unwrap())
}

/// Makes certificates for a `server` and a `client`.
pub fn certificates(directory: &Path) {
    let now = SystemTime::now();
    let authority = Authority::create("Bench", now).unwrap();
    std::fs::write(directory.join("CA.pem"), authority.certificate_pem()).unwrap();
    let methods = MethodPattern::parse_list("ObjectServer.*").unwrap();
    for (name, leaf) in [
        ("server", Leaf::new("imageserver").unwrap().role(Role::ImageServer)),
        ("client", Leaf::new("subd").unwrap().methods(methods)),
    ] {
        let key = LeafKey::generate().unwrap();
        let issued = authority.issue(&leaf, &key.public_key().unwrap(), now).unwrap();
        std::fs::write(directory.join(format!("{name}.pem")), issued.pem).unwrap();
        std::fs::write(directory.join(format!("{name}.key")), key.to_pem()).unwrap();
    }
}
