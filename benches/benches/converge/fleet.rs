//! An image server that stays, and for each round a controller and an agent that know nothing yet.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use dominator_testkit::{Certificate, Lab, Process};
use serde_json::Value;

use crate::disk::settle;

/// The servers, whose state lies in `TMPDIR`.
pub(crate) struct Fleet {
    lab: Lab,
    admin: Certificate,
    images: (Process, String),
}

/// One machine, and who looks after it.
pub(crate) struct Machine<'a> {
    fleet: &'a Fleet,
    number: u8,
    name: String,
    dominator: Process,
    subd: Process,
}

/// What it took to make the machine another image.
pub(crate) struct Converged {
    /// From the change of the machine data base to "synced".
    pub(crate) wall: Duration,
    /// What each daemon used of the processors.
    pub(crate) cpu: [(&'static str, Duration); 3],
    /// From the first rename to the last, in seconds.
    pub(crate) window: f64,
    /// What the controller said the machine was at, and how long, in seconds.
    pub(crate) phases: Vec<(String, f64)>,
}

impl Fleet {
    pub(crate) fn start() -> Self {
        let lab = Lab::new();
        let admin = lab.certificate("admin", "admin", "*.*");
        let images = lab.image_server();
        Self { lab, admin, images }
    }

    /// Adds an image.
    pub(crate) fn add(&self, image: &str, tree: &Path) {
        let tree = tree.to_str().unwrap();
        let what = ["add", "--no-required-paths", image, tree, "/dev/null", ""];
        let arguments = ["--image-server", &self.images.1].into_iter().chain(what);
        self.lab.tool("imagetool", &self.admin, arguments).success();
    }

    /// A machine that has no image yet. Its agent is not held back; everything else is as by default.
    pub(crate) fn machine(&self, round: u8, root: &Path) -> Machine<'_> {
        let number = 1 + round % 7;
        let name = format!("machine{round}");
        let mdb = self.mdb(&name, number, None);
        let certificate = self.lab.daemon_certificate("dominator", &format!("dominator{round}"));
        let listen = format!("{}:6970", self.lab.address(0));
        let mut command =
            self.lab.daemon("dominator", &certificate, &listen, &format!("dominator{round}-state"));
        command.args(["--image-server", &self.images.1, "--min-interval", "1s", "--mdb"]).arg(mdb);
        let subd = self.subd(round, number, root);
        let dominator = Process::start("dominator", &mut command);
        let machine = Machine { fleet: self, number, name, dominator, subd };
        machine.wait(0, "image undefined");
        machine
    }

    fn subd(&self, round: u8, number: u8, root: &Path) -> Process {
        let name = format!("subd{round}");
        let certificate = self.lab.daemon_certificate("subd", &name);
        let listen = format!("{}:6969", self.lab.address(number));
        let mut command = self.lab.daemon("subd", &certificate, &listen, &format!("{name}-state"));
        command.args([
            "--scan-speed-percent=100",
            "--cpu-percent=100",
            "--scan-priority=inherited",
            "--network-speed-percent=100",
        ]);
        command.arg("--root-dir").arg(root);
        Process::start(&name, &mut command)
    }

    fn mdb(&self, name: &str, number: u8, image: Option<&str>) -> std::path::PathBuf {
        let mut machine =
            serde_json::json!({"Hostname": name, "IpAddress": self.lab.address(number).to_string()});
        if let Some(image) = image {
            machine["RequiredImage"] = image.into();
        }
        self.lab.write("mdb.json", &serde_json::json!({ "Machines": [machine] }).to_string())
    }
}

impl Machine<'_> {
    /// Makes the machine data base demand an image and waits until the machine is that.
    pub(crate) fn become_image(&self, image: &str) -> Converged {
        settle();
        let (log, own) = (self.dominator.mark(), self.subd.mark());
        let before = self.cpu_time();
        let began = Instant::now();
        self.fleet.mdb(&self.name, self.number, Some(image));
        self.wait(log, "synced");
        let wall = began.elapsed();
        let mut cpu = self.cpu_time();
        for ((_, time), (_, before)) in cpu.iter_mut().zip(before) {
            *time = time.saturating_sub(before);
        }
        let window = self.subd.log_since(own).iter().filter_map(|line| event(line, "update")).next_back();
        let window = window.and_then(|event| event["fields"]["window"].as_f64());
        Converged { wall, cpu, window: window.expect("an update says its window"), phases: self.phases(log) }
    }

    /// The most memory the agent ever had, in bytes.
    pub(crate) fn peak(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.subd.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    }

    fn wait(&self, mark: usize, status: &str) {
        self.dominator.wait_for_event(mark, "status", &[("sub", &self.name), ("status", status)]);
    }

    /// The 14th and 15th field of `/proc/PID/stat`, in hundredths of a second.
    fn cpu_time(&self) -> [(&'static str, Duration); 3] {
        let time = |process: &Process| {
            let stat = fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
            let after_name = stat.rsplit(')').next().unwrap();
            let ticks = after_name.split_whitespace().skip(11).take(2);
            Duration::from_millis(10 * ticks.map(|field| field.parse::<u64>().unwrap()).sum::<u64>())
        };
        let daemons =
            [("imageserver", &self.fleet.images.0), ("dominator", &self.dominator), ("subd", &self.subd)];
        daemons.map(|(name, process)| (name, time(process)))
    }

    fn phases(&self, mark: usize) -> Vec<(String, f64)> {
        let log = self.dominator.log_since(mark);
        let statuses: Vec<_> = log.iter().filter_map(|line| event(line, "status")).collect();
        let phase = |pair: &[Value]| {
            let [from, to] = pair else { panic!("invariant: a window of two") };
            (from["fields"]["status"].as_str().unwrap().to_owned(), time(to) - time(from))
        };
        statuses.windows(2).map(phase).collect()
    }
}

fn event(line: &str, message: &str) -> Option<Value> {
    let event: Value = serde_json::from_str(line).ok()?;
    (event["fields"]["message"] == message).then_some(event)
}

/// Seconds of the day, of an event's `2026-11-22T22:24:00.123456Z`. Nobody measures over midnight.
fn time(event: &Value) -> f64 {
    let time = event["timestamp"].as_str().unwrap().split('T').nth(1).unwrap().trim_end_matches('Z');
    time.split(':').fold(0.0, |seconds, part| seconds * 60.0 + part.parse::<f64>().unwrap())
}
