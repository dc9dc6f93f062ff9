//! Where a process can be killed: at each call it makes to the file-system, as a trace of an unharmed run has them. Needs
//! strace.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A call: its name, and which of that name it is, counted from the beginning of the process. That is how strace counts,
/// for each thread; the victim has one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// Its name.
    pub name: String,
    /// Which of that name.
    pub nth: usize,
}

/// Which calls are points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All that have to do with files.
    All,
    /// Those that change something, or wait for the disk: to a power cut, between them nothing happens.
    Changes,
}

const CHANGES: [&str; 28] = [
    "mkdirat",
    "openat",
    "write",
    "pwrite64",
    "writev",
    "copy_file_range",
    "fallocate",
    "ftruncate",
    "symlinkat",
    "mknodat",
    "linkat",
    "renameat2",
    "unlinkat",
    "fchmod",
    "fchmodat",
    "chmod",
    "fchownat",
    "utimensat",
    "setxattr",
    "lsetxattr",
    "fsetxattr",
    "removexattr",
    "lremovexattr",
    "fremovexattr",
    "ioctl",
    "fsync",
    "fdatasync",
    "syncfs",
];
const LOOKS: [&str; 20] = [
    "openat2",
    "statx",
    "newfstatat",
    "fstat",
    "fstatfs",
    "statfs",
    "getdents64",
    "read",
    "pread64",
    "lseek",
    "readlinkat",
    "readlink",
    "listxattr",
    "llistxattr",
    "flistxattr",
    "getxattr",
    "lgetxattr",
    "fgetxattr",
    "flock",
    "fadvise64",
];

/// Runs the victim unharmed and tells all points of it, from the first call that names `root` on.
///
/// # Panics
/// When it fails.
pub fn points(victim: &mut Command, root: &Path, which: Which) -> Vec<Point> {
    points_until(victim, 0, root, which)
}

/// As [`points`], of a victim that ends with that status.
///
/// # Panics
/// When it ends with another.
pub fn points_until(victim: &mut Command, status: u8, root: &Path, which: Which) -> Vec<Point> {
    let trace = tempfile::NamedTempFile::new().expect("a file for the trace");
    let ran = under_strace(&["-o", &trace.path().display().to_string()], victim);
    assert_eq!(ran.status.code(), Some(status.into()), "unharmed: {ran:?}");
    let text = std::fs::read_to_string(trace.path()).expect("a trace");
    let root = root.display().to_string();
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    let mut begun = false;
    let mut points = Vec::new();
    for (name, arguments) in text.lines().filter_map(call) {
        let nth = count.entry(name).or_default();
        *nth += 1;
        // What comes before is loading the program.
        begun |= arguments.contains(&root) && name != "execve";
        let change = CHANGES.contains(&name) && (name != "openat" || arguments.contains("O_CREAT"));
        if begun && (change || which == Which::All && (CHANGES.contains(&name) || LOOKS.contains(&name))) {
            points.push(Point { name: name.to_owned(), nth: *nth });
        }
    }
    points
}

/// Runs the victim until that call, which it does not live to make. Says whether it had promised anything.
///
/// # Panics
/// When it does not come to that call.
pub fn killed_at(point: &Point, victim: &mut Command) -> Option<String> {
    let inject = format!("inject={}:signal=KILL:when={}", point.name, point.nth);
    let trace = format!("trace={}", point.name);
    let ran = under_strace(&["-o", "/dev/null", "-e", &trace, "-e", &inject], victim);
    assert_eq!(ran.status.signal(), Some(9), "{point:?} was not reached: {ran:?}");
    promised(&ran)
}

/// What a process says it promised: a line `promised: ` and what.
pub fn promised(output: &Output) -> Option<String> {
    let said = String::from_utf8_lossy(&output.stdout);
    said.lines().find_map(|line| line.strip_prefix("promised: ")).map(str::to_owned)
}

/// Held while a root is open in this process, and while a process is made: for a moment a child has all that is open
/// here, locks of roots too.
static FORK: Mutex<()> = Mutex::new(());

/// No process is made by [`output`] until this is dropped.
pub fn alone() -> MutexGuard<'static, ()> {
    FORK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a program to its end.
///
/// # Panics
/// When it can't be run.
pub fn output(command: &mut Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = {
        let _alone = alone();
        command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
    };
    child.wait_with_output().expect("what it says can be read")
}

fn under_strace(options: &[&str], victim: &Command) -> Output {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq"]).args(options).arg(victim.get_program()).args(victim.get_args());
    output(&mut strace)
}

/// The name of a call and the rest of its line, which begins with the number of the process.
fn call(line: &str) -> Option<(&str, &str)> {
    let (_, call) = line.trim_start().split_once(' ')?;
    let (name, rest) = call.trim_start().split_once('(')?;
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_').then_some((name, rest))
}
