//! Trees to try things on, and who judges and disturbs them: separate programs, which share no code with ours.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::Outcome;

/// The judge: whether two trees are alike in every attribute of the model, but for the excluded paths. What differs is
/// returned, a line each.
pub fn differences(left: &Path, right: &Path, excluded: &[&str]) -> Vec<String> {
    let mut oracle = Command::new("python3");
    oracle.arg(testkit().join("../../dominator-fs/testkit/oracle.py")).arg("--diff").args([left, right]);
    for line in excluded {
        oracle.args(["--exclude", line]);
    }
    let outcome = Outcome::of(&mut oracle);
    assert!(matches!(outcome.code(), Some(0 | 1)), "the oracle failed: {outcome:?}");
    let lines: Vec<String> = outcome.stdout.lines().map(str::to_owned).collect();
    assert_eq!(lines.is_empty(), outcome.status.success(), "the oracle contradicts itself: {outcome:?}");
    lines
}

/// Disturbs a tree in every way there is, or in the ways named, and returns what was done, a line each.
pub fn disturb(root: &Path, seed: u64, spared: &[&str], kinds: &[&str]) -> Vec<String> {
    let mut drift = Command::new("python3");
    drift.arg(testkit().join("drift.py")).arg(root).args(["--seed", &seed.to_string()]);
    for line in spared {
        drift.args(["--spare", line]);
    }
    Outcome::of(drift.args(kinds)).success().lines().map(str::to_owned).collect()
}

/// A small tree with what every machine needs and a bit of everything else; `version` changes some of it.
pub fn small(root: &Path, version: u32) {
    let write = |path: &str, contents: &str, mode: u32| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("invariant: it is below the root")).expect("writable");
        fs::write(&path, contents).expect("writable");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
    };
    write("etc/passwd", "root:x:0:0::/root:/bin/sh\n", 0o644);
    write("etc/version", &format!("{version}\n"), 0o644);
    write("usr/bin/tool", &format!("#!/bin/sh\necho {version}\n"), 0o755);
    write("usr/bin/set-uid", "#!/bin/sh\n", 0o4755);
    write("usr/share/empty", "", 0o600);
    write("usr/share/only-in", &version.to_string(), 0o640);
    for number in 0..40 {
        write(&format!("usr/lib/d{}/f{number}", number % 5), &"line\n".repeat(number * 50 + 1), 0o644);
    }
    write(&format!("usr/share/v{version}/new"), "new\n", 0o644);
    fs::hard_link(root.join("usr/bin/tool"), root.join("usr/bin/alias")).expect("one file-system");
    fs::hard_link(root.join("usr/lib/d0/f0"), root.join("usr/lib/d1/linked")).expect("one file-system");
    symlink("passwd", root.join("etc/link")).expect("writable");
    fs::create_dir_all(root.join("var/empty")).expect("writable");
    Outcome::of(Command::new("mkfifo").arg(root.join("var/fifo"))).success();
    drop(Outcome::of(
        Command::new("setfattr").args(["-n", "user.note", "-v", "kept"]).arg(root.join("etc/version")),
    ));
}

fn testkit() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
