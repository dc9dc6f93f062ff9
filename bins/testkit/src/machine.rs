use std::fs;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use tempfile::TempDir;

use crate::debian::{Tree, script};
use crate::holder::first_line;
use crate::network::Network;
use crate::process::{Outcome, PATIENCE};
use crate::say;

/// What systemd runs without on a machine that shares its kernel with others.
const WITHHELD: &str = "-sys_module,-sys_rawio,-sys_time,-syslog";

/// What is process 1.
const SYSTEMD: [&str; 1] = ["/lib/systemd/systemd"];

/// A machine: Debian with systemd as process 1, in namespaces, with a disk and a network of its own. It sees nothing of
/// the machine it runs on but the kernel. When it is dropped, all its processes are killed, and its disk is gone.
///
/// It needs root, and a unified hierarchy of control groups, mounted or not.
#[derive(Debug)]
pub struct Machine {
    boot: Option<Boot>,
    /// It holds the disk, too.
    network: Network,
    directory: TempDir,
}

/// From power on to power off.
#[derive(Debug)]
struct Boot {
    process: Child,
    /// Of process 1, as seen from here.
    pid: String,
}

impl Machine {
    /// A machine whose disk is a copy of `tree`. It is off.
    pub fn new(tree: &Tree) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str| directory.path().join(name);
        let disk = path("disk");
        let file = fs::File::create(&disk).and_then(|file| file.set_len(2 << 30));
        file.expect("the directory is writable");
        let mut mkfs = Command::new("mkfs.ext4");
        mkfs.args(["-q", "-E", "lazy_itable_init=1,lazy_journal_init=1"]).arg(&disk);
        Outcome::of(&mut mkfs).success();
        for name in ["root", "groups"] {
            fs::create_dir(path(name)).expect("the directory is writable");
        }
        let network = Network::holding(&[&disk, &path("root"), &path("groups"), tree.path()]);
        Self { boot: None, network, directory }
    }

    /// Switches it on and waits until systemd says that it is up.
    pub fn boot(&mut self) {
        self.boot_by(&SYSTEMD);
    }

    /// Switches it on, and leaves it to whoever comes first to switch it off.
    pub fn switch_on(&mut self) {
        drop(self.start(&SYSTEMD));
    }

    /// Boots it with another program as process 1, which executes systemd sooner or later.
    pub fn boot_by(&mut self, program: &[&str]) {
        let socket = self.start(program);
        let deadline = Instant::now() + PATIENCE;
        let mut message = [0; 4096];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the machine does not come up:\n{}", self.journal());
            socket.set_read_timeout(Some(left)).expect("invariant: it is not zero");
            let length = socket.recv(&mut message).unwrap_or(0);
            if message
                .get(..length)
                .is_some_and(|said| said.split(|b| *b == b'\n').any(|line| line == b"READY=1"))
            {
                return;
            }
        }
    }

    /// Where systemd says that it is up.
    fn start(&mut self, program: &[&str]) -> UnixDatagram {
        assert!(self.boot.is_none(), "it is on");
        let notify = self.directory.path().join("notify");
        drop(fs::remove_file(&notify));
        let socket = UnixDatagram::bind(&notify).expect("the directory is writable");
        self.boot = Some(Boot::start(&self.network, &self.directory.path().join("root"), &notify, program));
        socket
    }

    /// Waits until it went down, be it that it wants to be booted again or that it does not. Whether it does.
    pub fn wait_until_down(&mut self) -> bool {
        let mut boot = self.boot.take().expect("it is on");
        let process = pidfd_open(Pid::from_child(&boot.process), PidfdFlags::empty());
        let process = process.expect("a child is there until it was waited for");
        let limit = Timespec::try_from(PATIENCE).expect("invariant: ten minutes are");
        let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit));
        assert_eq!(ended, Ok(1), "the machine does not go down");
        let status = boot.process.wait().expect("a child can be waited for");
        status.signal() == Some(Signal::HUP.as_raw())
    }

    /// Kills all its processes at once, like a power cut that spares the disk's caches.
    pub fn kill(&mut self) {
        drop(self.boot.take());
    }

    /// Runs a program on it.
    pub fn run<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Outcome {
        let boot = self.boot.as_ref().expect("it is on");
        Outcome::of(Command::new("nsenter").args(["--target", &boot.pid, "--all"]).args(words))
    }

    /// Runs a line of shell on it and returns what it prints.
    pub fn shell(&self, line: &str) -> String {
        self.run(["sh", "-c", line]).success()
    }

    /// A property of a unit, as `systemctl show` says it.
    pub fn unit(&self, unit: &str, property: &str) -> String {
        self.run(["systemctl", "show", "--value", "--property", property, unit]).success().trim().to_owned()
    }

    /// Where a path of its disk is, whether it is on or off. What it has mounted is not seen there.
    pub fn disk(&self, path: &str) -> PathBuf {
        self.network.holder().held(&self.directory.path().join("root")).join(path)
    }

    /// Its network: only its loopback interface. Whoever is to speak to it must be in it.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The end of its journal.
    pub fn journal(&self) -> String {
        let lines = ["journalctl", "--no-pager", "--lines=200", "--output=short-precise"];
        self.boot.as_ref().map(|_| self.run(lines)).map_or_else(String::new, |outcome| outcome.stdout)
    }
}

impl Boot {
    fn start(network: &Network, root: &Path, notify: &Path, program: &[&str]) -> Self {
        let mut command = network.holder().command("sh");
        command.args(["-c", r#"echo 0 >"$0/cgroup.procs"; exec "$@""#, network.holder().said()]);
        command.args(["unshare", "--uts", "--ipc", "--pid", "--cgroup", "--mount", "--fork", "--kill-child"]);
        command.args(["setpriv", "--bounding-set", WITHHELD]).arg(script("init.sh")).args([root, notify]);
        command.args(program).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("nsenter can be run");
        let pid = first_line(&mut process);
        Self { process, pid }
    }
}

impl Drop for Boot {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() && self.boot.is_some() {
            say(&format!("the end of the machine's journal:\n{}", self.journal()));
        }
        // Before the disk it holds.
        drop(self.boot.take());
    }
}
