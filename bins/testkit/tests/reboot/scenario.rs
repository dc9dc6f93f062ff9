use std::fs;
use std::path::Path;
use std::time::Instant;

use dominator_testkit::{Computer, Image, Stage, say};
use serde_json::json;

/// How many files an update changes that is cut off in its middle.
pub(crate) const MANY: usize = 3000;

/// Those files, of that version.
pub(crate) fn many(image: &Image, version: u32) {
    for number in 0..MANY {
        image.tree.write(&format!("usr/share/many/{number:04}"), format!("{version}\n"), 0o644);
    }
}

/// Which version one of them has on a disk.
pub(crate) fn version(disk: &Path, number: usize) -> String {
    fs::read_to_string(disk.join(format!("usr/share/many/{number:04}"))).unwrap().trim().to_owned()
}

/// A service that is stopped right before those files are swapped, and slows the agent down from then on until the machine
/// starts again, where that is wanted.
pub(crate) fn brake(image: &mut Image) {
    let slow = "systemctl set-property --runtime subd.service CPUQuota=15%";
    image.service("brake", &format!("ExecStopPost=/bin/sh -c '[ ! -e /run/brake ] || {slow}'"));
    image.tree.write("opt/brake/stop", STOP, 0o755);
    image.trigger("brake", "/usr/share/many/.*", &json!({}));
}

/// What the console says then.
const STOPPED: &str = "stopped in the middle";

/// It needs no other program and no library once it waits: there may be none in the middle.
const STOP: &str = r#"#!/usr/bin/perl
my ($file, @versions) = @ARGV;
my $agent = `systemctl show --value --property MainPID subd`;
open(my $console, '>', '/dev/console') or die;
for my $version (@versions) {
    my $now = '';
    until ($now eq "$version\n") {
        open(my $there, '<', $file) or next;
        $now = <$there> // '';
    }
}
kill 'STOP', $agent + 0;
syscall 162; # sync
syswrite $console, "stopped in the middle\n";
"#;

/// A computer as its image says, and what controls it.
pub(crate) struct Scenario {
    pub(crate) computer: Computer,
    pub(crate) stage: Stage,
}

impl Scenario {
    /// The disk of the computer, which is off, is as the image says.
    pub(crate) fn assert_is(&self, image: &Image) {
        self.computer.with_disk(|disk| self.stage.assert_is(disk, image));
    }

    /// Has the agent stopped for good once the file in the middle has had these contents, one after the other, and all that
    /// was written until then brought to the disk. What the console says then.
    pub(crate) fn stop_in_the_middle(&self, versions: &[&str]) -> &'static str {
        let file = format!("/usr/share/many/{:04}", MANY / 2);
        let stop = format!("systemd-run --quiet --no-block /opt/brake/stop {file} {}", versions.join(" "));
        self.computer.shell(&format!("touch /run/brake; {stop}"));
        STOPPED
    }

    /// Switches it on, with these words for its kernel.
    pub(crate) fn boot(&mut self, words: &str) {
        let began = Instant::now();
        self.computer.boot(words);
        say(&format!("booted in {:.1} s", began.elapsed().as_secs_f64()));
    }
}
