use std::fs;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

use crate::image::{EXCLUDED, FILTER, Image};
use crate::lab::{Certificate, Lab};
use crate::network::Network;
use crate::process::{Outcome, PATIENCE, Process};
use crate::trees;

/// What controls one machine: a controller and an image server, in the machine's network. The machine is `one`, and its
/// first image `first/1`.
#[derive(Debug)]
pub struct Stage {
    lab: Lab,
    dominator: Process,
    server: (Process, String),
    admin: Certificate,
    /// Where the trees of images are.
    trees: TempDir,
}

impl Stage {
    /// Servers in `network` that want machine `one` to be `image`, whose tree lies in `trees`.
    pub fn new(network: &Network, image: &Image, trees: TempDir) -> Self {
        let lab = Lab::in_network(network);
        let server = lab.image_server();
        let (dominator, _) = lab.dominator(&server.1, &lab.mdb(&[("one", 1, "first/1")]));
        let admin = lab.certificate("admin", "admin", "*.*");
        let stage = Self { lab, dominator, server, admin, trees };
        stage.add("first/1", image);
        stage
    }

    /// Puts on the machine's disk what only this machine has: how its agent is to run, with these lines more, and its
    /// certificate.
    pub fn equip(&self, disk: &Path, more: &str) {
        let certificate = self.lab.daemon_certificate("subd", "subd1");
        let ssl = disk.join("etc/ssl/subd");
        let copied = fs::create_dir_all(&ssl)
            .and_then(|()| fs::copy(&certificate.certificate, ssl.join("cert.pem")))
            .and_then(|_| fs::copy(&certificate.key, ssl.join("key.pem")))
            .and_then(|_| fs::copy(&certificate.authority, disk.join("etc/ssl/CA.pem")));
        copied.expect("the disk is writable");
        let usual = "scan-interval = \"200ms\"\nscan-speed-percent = 100\ncpu-percent = 100\n\
                     network-speed-percent = 100\nscrub-time = \"0s\"\nguard = \"subd-guard\"\n";
        fs::write(disk.join("etc/subd.toml"), format!("{usual}{more}")).expect("the disk is writable");
    }

    /// A copy of an image, to be changed.
    pub fn next(&self, image: &Image, name: &str) -> Image {
        image.copy(&self.trees.path().join(name))
    }

    /// Makes the machine's image another, which is added as `name` unless it was before; from where on to look for what comes of it.
    pub fn order(&self, name: &str, image: &Image) -> usize {
        if !self.is_known(name) {
            self.add(name, image);
        }
        let mark = self.dominator.mark();
        self.lab.mdb(&[("one", 1, name)]);
        mark
    }

    /// The same, and waits until the controller says that the machine is as the image says.
    pub fn update(&self, name: &str, image: &Image) {
        let mark = self.order(name, image);
        self.dominator.wait_for_event(mark, "update", &[("sub", "one"), ("image", name)]);
        self.wait(self.dominator.mark(), "synced");
    }

    /// From where on to look for what comes now.
    pub fn mark(&self) -> usize {
        self.dominator.mark()
    }

    /// Waits until the controller says that of the machine.
    pub fn wait(&self, mark: usize, status: &str) -> String {
        self.dominator.wait_for_event(mark, "status", &[("sub", "one"), ("status", status)])
    }

    /// Waits until the machine was scanned so many times more.
    pub fn wait_for_scans(&self, more: u64) {
        let scans =
            || self.poll().get("scan_count").and_then(Value::as_u64).expect("invariant: the schema says so");
        let (enough, deadline) = (scans() + more, Instant::now() + PATIENCE);
        while scans() < enough {
            assert!(Instant::now() < deadline, "the machine is not scanned any more");
        }
    }

    /// How often the machine was sent a plan since then.
    pub fn updates(&self, mark: usize) -> usize {
        self.dominator.log_since(mark).iter().filter(|line| line.contains(r#""message":"update""#)).count()
    }

    /// The machine's disk is as the image says, by a judge who shares no code with us.
    pub fn assert_is(&self, disk: &Path, image: &Image) {
        let differences = trees::differences(image.tree.path(), disk, EXCLUDED);
        assert_eq!(differences, Vec::<String>::new());
    }

    /// What the agent answers when it is asked.
    pub fn poll(&self) -> Value {
        self.subtool(&["poll", "--json"]).json()
    }

    /// Runs `subtool`.
    pub fn subtool(&self, arguments: &[&str]) -> Outcome {
        let sub = format!("{}:6969", self.lab.address(1));
        let arguments = ["--sub", &sub].into_iter().chain(arguments.iter().copied());
        self.lab.tool("subtool", &self.admin, arguments)
    }

    fn is_known(&self, name: &str) -> bool {
        let all =
            self.lab.tool("imagetool", &self.admin, ["--image-server", &self.server.1, "list"]).success();
        all.lines().any(|line| line == name)
    }

    fn add(&self, name: &str, image: &Image) {
        let filter = self.lab.write("filter", FILTER);
        let triggers = self.lab.write("triggers", &Value::from(image.triggers.clone()).to_string());
        let health = image.health.as_ref().map(|health| self.lab.write("health", &health.to_string()));
        let text =
            |path: &Path| path.to_str().expect("invariant: temporary directories are UTF-8").to_owned();
        let mut arguments: Vec<_> = ["--image-server", &self.server.1, "add", name].map(str::to_owned).into();
        arguments.extend([text(image.tree.path()), text(&filter), text(&triggers)]);
        if let Some(health) = &health {
            arguments.extend(["--health".to_owned(), text(health)]);
        }
        self.lab.tool("imagetool", &self.admin, arguments.iter().map(String::as_str)).success();
    }
}
