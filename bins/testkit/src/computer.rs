use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

use crate::debian::Tree;
use crate::holder::Holder;
use crate::network::Network;
use crate::process::{Outcome, Process};
use crate::say;

/// How long the first word of a kernel may take: an accelerator that does not get so far is none.
const PROBE: Duration = Duration::from_secs(10);

/// What is said on the console when all is started.
const UP: &str = "the computer is up";

/// A whole computer, emulated: its own kernel, its own disk, and a switch that can be thrown at any moment. Its boot loader
/// is played from outside: it starts the kernel that `/vmlinuz` on the disk names.
///
/// It has the addresses of its network that a lab gives to machine 1. When it is dropped, all is gone.
#[derive(Debug)]
pub struct Computer {
    running: Option<Process>,
    network: Network,
    directory: TempDir,
}

impl Computer {
    /// Gives a tree what a computer needs for the tests' sake: a network, a door, and a word when all is up.
    pub fn furnish(tree: &Tree) {
        let network = "[Match]\nType=ether\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\nLinkLocalAddressing=no\n";
        tree.write("etc/systemd/network/10-test.network", network, 0o644);
        tree.write("etc/fstab", "/dev/vda / ext4 defaults 0 0\n", 0o644);
        let shell = "[Service]\nExecStart=-/bin/sh\nStandardInput=socket\nStandardOutput=socket\nStandardError=socket\n";
        tree.write("etc/systemd/system/door@.service", shell, 0o644);
        tree.unit("door.socket", "[Socket]\nListenStream=2323\nAccept=yes\n");
        let up = format!(
            "[Unit]\nAfter=door.socket nginx.service cron.service subd.service systemd-networkd.service\n\
             [Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo {UP} >/dev/console'\n"
        );
        tree.unit("up.service", &up);
    }

    /// A computer whose disk is a copy of `tree`. It is off.
    pub fn new(tree: &Tree) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let disk = directory.path().join("disk");
        let file = fs::File::create(&disk).and_then(|file| file.set_len(3 << 30));
        file.expect("the directory is writable");
        let mut mkfs = Command::new("mkfs.ext4");
        Outcome::of(mkfs.args(["-q", "-E", "lazy_itable_init=1,lazy_journal_init=1"]).arg(&disk)).success();
        fs::create_dir(directory.path().join("root")).expect("the directory is writable");
        let computer = Self { running: None, network: Network::new(), directory };
        computer.with_disk(|root| {
            Outcome::of(Command::new("cp").arg("--archive").arg(tree.path().join(".")).arg(root)).success();
        });
        computer
    }

    /// Lets `look` see the disk of a computer that is off.
    pub fn with_disk<T>(&self, look: impl FnOnce(&Path) -> T) -> T {
        assert!(self.running.is_none(), "it is on");
        let [disk, root] = ["disk", "root"].map(|name| self.directory.path().join(name));
        let holder = Holder::start("disk.sh", &["--mount"], &[&disk, &root]);
        look(&holder.held(&root))
    }

    /// Switches it on, with these words for the kernel, and waits until its services are started.
    pub fn boot(&mut self, words: &str) {
        self.switch_on(words);
        self.wait_for(UP);
    }

    /// Switches it on.
    pub fn switch_on(&mut self, words: &str) {
        let files = self.with_disk(|root| {
            ["vmlinuz", "initrd.img"].map(|name| {
                let file = self.directory.path().join(name);
                fs::copy(root.join(name), &file).unwrap_or_else(|error| panic!("{name}: {error}"));
                file
            })
        });
        let accelerator = accelerator(&self.network, &files);
        let mut qemu = qemu(&self.network, accelerator, &files, &format!("loglevel=6 {words}"));
        let disk = self.directory.path().join("disk");
        qemu.arg("-drive").arg(format!("file={},if=virtio,format=raw,cache=unsafe", disk.display()));
        // What is sent to machine 1 of a lab in this network is the computer's.
        let forwarded = [6969, 2323].map(|port| format!(",hostfwd=tcp:192.0.2.2:{port}-:{port}")).concat();
        qemu.args(["-netdev", &format!("user,id=net{forwarded}")]);
        qemu.args(["-device", "virtio-net-pci,netdev=net", "-device", "virtio-rng-pci"]);
        self.running = Some(Process::watch("the computer", &mut qemu));
    }

    /// Waits until the console says that.
    pub fn wait_for(&self, words: &str) -> String {
        self.running().wait_for(0, words, |line| line.contains(words))
    }

    /// Waits until it switched itself off, or is about to start again: the emulator ends either way.
    pub fn wait_until_down(&mut self) {
        self.running().wait_until_ended();
        drop(self.running.take());
    }

    /// Cuts its power.
    pub fn cut_power(&mut self) {
        drop(self.running.take());
    }

    /// Runs a line of shell on it and returns what it prints, errors included.
    pub fn shell(&self, line: &str) -> String {
        let talk = r#"exec 3<>/dev/tcp/192.0.2.2/2323; printf '%s\nexit\n' "$0" >&3; cat <&3"#;
        Outcome::of(self.network.command("bash").args(["-c", talk, line])).success()
    }

    /// The network that its services are to be spoken to in.
    pub fn network(&self) -> &Network {
        &self.network
    }

    fn running(&self) -> &Process {
        self.running.as_ref().expect("it is on")
    }
}

/// What runs the computer's instructions: the kernel, where it does, and else the emulator itself. That `/dev/kvm` is there
/// says nothing; it may hang.
fn accelerator(network: &Network, files: &[PathBuf; 2]) -> &'static str {
    static FOUND: OnceLock<&str> = OnceLock::new();
    FOUND.get_or_init(|| {
        let is_there = Path::new("/dev/kvm").exists();
        let speaks = || {
            let mut qemu = qemu(network, "kvm", files, "earlyprintk=ttyS0");
            Process::watch("the probe", &mut qemu)
                .says(0, PROBE, |line| line.contains("Linux version"))
                .is_ok()
        };
        let found = if is_there && speaks() { "kvm" } else { "tcg,thread=multi" };
        say(&format!("computers are run by {found}"));
        found
    })
}

fn qemu(network: &Network, accelerator: &str, [kernel, initial]: &[PathBuf; 2], words: &str) -> Command {
    let mut qemu = network.command("setpriv");
    // A test that is killed leaves none behind.
    qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
    qemu.args(["-machine", "q35", "-accel", accelerator, "-cpu", "max", "-smp", "2", "-m", "1024"]);
    qemu.args(["-nodefaults", "-display", "none", "-no-reboot", "-serial", "file:/dev/stderr"]);
    qemu.arg("-kernel").arg(kernel).arg("-initrd").arg(initial);
    let usual = "root=/dev/vda ro console=ttyS0 panic=1 fsck.mode=skip mitigations=off systemd.show_status=0";
    qemu.args(["-append", &format!("{usual} {words}")]);
    qemu
}
