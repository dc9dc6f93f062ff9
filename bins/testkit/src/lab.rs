use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

use tempfile::TempDir;

use crate::binaries::binary;
use crate::network::Network;
use crate::process::{Outcome, Process};

/// The services a machine of a test may be reached by, each lab in a block of its own.
const BLOCK: u8 = 8;

/// A directory with a certificate authority, and addresses nobody else uses. All is gone when it is dropped.
#[derive(Debug)]
pub struct Lab {
    directory: TempDir,
    block: u8,
    network: Option<PathBuf>,
}

/// A certificate with its key, and the authority to believe.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// PEM.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
    /// PEM.
    pub authority: PathBuf,
}

impl Certificate {
    /// The flags every daemon and tool takes.
    pub fn flags(&self, command: &mut Command) {
        command.arg("--cert-file").arg(&self.certificate);
        command.arg("--key-file").arg(&self.key);
        command.arg("--ca-file").arg(&self.authority);
    }
}

impl Lab {
    /// A new lab with an authority `CA`.
    pub fn new() -> Self {
        Self::with(None)
    }

    /// The same in another network: all daemons and tools run in it, and its addresses are that network's.
    pub fn in_network(network: &Network) -> Self {
        Self::with(Some(network.namespace()))
    }

    fn with(network: Option<PathBuf>) -> Self {
        static LABS: AtomicU8 = AtomicU8::new(0);
        let block = LABS.fetch_add(1, Ordering::Relaxed);
        assert!(block < u8::MAX / BLOCK, "too many labs in one test program");
        let lab = Self { directory: tempfile::tempdir().expect("a temporary directory"), block, network };
        lab.authority("CA");
        lab
    }

    /// A path in the lab.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file in the lab and returns where.
    pub fn write(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.path(name);
        let temporary = self.path(format!("{name}.new"));
        fs::write(&temporary, contents)
            .and_then(|()| fs::rename(&temporary, &path))
            .expect("the lab is writable");
        path
    }

    /// An address of this lab, below 127.0.0.0/8 when it is in no other network: another for each number below 8.
    pub fn address(&self, number: u8) -> Ipv4Addr {
        assert!(number < BLOCK, "a lab has {BLOCK} addresses");
        if self.network.is_some() {
            return Ipv4Addr::new(192, 0, 2, number + 1);
        }
        let [_, _, high, low] = std::process::id().to_be_bytes();
        // 127.0.*.* is left to others.
        Ipv4Addr::new(127, high.max(1), low, self.block * BLOCK + number + 1)
    }

    /// Makes another authority.
    pub fn authority(&self, name: &str) {
        let mut command = Command::new(binary("make-cert"));
        Outcome::of(command.current_dir(self.directory.path()).args(["--new-ca", name])).success();
    }

    /// A certificate of authority `CA` for `user`, who may call `methods`: a list, or a file.
    pub fn certificate(&self, name: &str, user: &str, methods: &str) -> Certificate {
        self.certificate_of("CA", name, user, methods)
    }

    /// The same with these flags of `make-cert` besides.
    pub fn certificate_with(&self, name: &str, user: &str, methods: &str, flags: &[&str]) -> Certificate {
        let mut command = Command::new(binary("make-cert"));
        command.current_dir(self.directory.path()).args(["CA", name, "AUTO", user, methods]).args(flags);
        Outcome::of(&mut command).success();
        self.made(name)
    }

    /// A certificate of another authority; its holder believes `CA`.
    pub fn certificate_of(&self, authority: &str, name: &str, user: &str, methods: &str) -> Certificate {
        let mut command = Command::new(binary("make-cert"));
        command.current_dir(self.directory.path()).args([authority, name, "AUTO", user, methods]);
        Outcome::of(&mut command).success();
        self.made(name)
    }

    fn made(&self, name: &str) -> Certificate {
        Certificate {
            certificate: self.path(format!("{name}.pem")),
            key: self.path(format!("{name}.key.pem")),
            authority: self.path("CA.pem"),
        }
    }

    /// A daemon's certificate, with exactly the methods that stand in its `required-methods`.
    pub fn daemon_certificate(&self, daemon: &str, name: &str) -> Certificate {
        let bins = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("invariant: testkit lies in bins");
        let methods = bins.join(daemon).join("required-methods");
        self.certificate(name, daemon, &methods.display().to_string())
    }

    /// The command of a daemon with its certificate, state and address.
    pub fn daemon(&self, daemon: &str, certificate: &Certificate, listen: &str, state: &str) -> Command {
        let mut command = self.command(daemon);
        certificate.flags(&mut command);
        command.args(["--listen", listen]).arg("--state-dir").arg(self.path(state));
        command
    }

    fn command(&self, program: &str) -> Command {
        match &self.network {
            None => Command::new(binary(program)),
            Some(network) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", network.display())).arg("--").arg(binary(program));
                command
            }
        }
    }

    /// An image server on the lab's first address, and that.
    pub fn image_server(&self) -> (Process, String) {
        let address = format!("{}:6971", self.address(0));
        let certificate = self.daemon_certificate("imageserver", "imageserver");
        let mut command = self.daemon("imageserver", &certificate, &address, "imageserver-state");
        (Process::start("imageserver", &mut command), address)
    }

    /// An agent for `root` on the lab's address `number`.
    pub fn subd(&self, number: u8, root: &Path) -> Process {
        self.subd_with(number, root, &["--scan-interval", "200ms"])
    }

    /// The same with these flags.
    pub fn subd_with(&self, number: u8, root: &Path, flags: &[&str]) -> Process {
        let (name, address) = (format!("subd{number}"), format!("{}:6969", self.address(number)));
        // One that is started again has a certificate.
        let certificate = match self.path(format!("{name}.pem")).exists() {
            true => self.made(&name),
            false => self.daemon_certificate("subd", &name),
        };
        let mut command = self.daemon("subd", &certificate, &address, &format!("{name}-state"));
        command.arg("--root-dir").arg(root).args(flags);
        Process::start(&name, &mut command)
    }

    /// A controller on the lab's first address, and that.
    pub fn dominator(&self, image_server: &str, mdb: &Path) -> (Process, String) {
        let address = format!("{}:6970", self.address(0));
        let certificate = self.daemon_certificate("dominator", "dominator");
        let mut command = self.daemon("dominator", &certificate, &address, "dominator-state");
        command.args(["--image-server", image_server, "--min-interval", "100ms", "--mdb"]).arg(mdb);
        (Process::start("dominator", &mut command), address)
    }

    /// A machine data base of machines (name, the number of its address, image).
    pub fn mdb(&self, machines: &[(&str, u8, &str)]) -> PathBuf {
        let machine = |(name, number, image): &(&str, u8, &str)| {
            let address = self.address(*number).to_string();
            serde_json::json!({"Hostname": name, "IpAddress": address, "RequiredImage": image})
        };
        let machines: Vec<_> = machines.iter().map(machine).collect();
        self.write("mdb.json", &serde_json::json!({ "Machines": machines }).to_string())
    }

    /// Runs a tool.
    pub fn tool<'a>(
        &self,
        name: &str,
        certificate: &Certificate,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Outcome {
        let mut command = self.command(name);
        certificate.flags(&mut command);
        Outcome::of(command.args(arguments))
    }

    /// Runs a tool that reads this.
    pub fn tool_reading<'a>(
        &self,
        name: &str,
        certificate: &Certificate,
        arguments: impl IntoIterator<Item = &'a str>,
        input: &str,
    ) -> Outcome {
        let input = self.write(&format!("{name}-input"), input);
        let input = fs::File::open(&input).unwrap_or_else(|error| panic!("{}: {error}", input.display()));
        let mut command = self.command(name);
        certificate.flags(&mut command);
        Outcome::of(command.args(arguments).stdin(input))
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}
