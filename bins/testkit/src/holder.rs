use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::debian::script;

/// A script in namespaces of its own that holds something until this is dropped, or the test dies.
#[derive(Debug)]
pub(crate) struct Holder {
    process: Child,
    /// It ends when this is closed.
    stdin: Option<ChildStdin>,
    said: String,
}

impl Holder {
    /// Starts a script in new namespaces, and waits until it says that it holds what it is to hold.
    pub(crate) fn start(name: &str, namespaces: &[&str], arguments: &[&Path]) -> Self {
        let mut command = Command::new("unshare");
        command.args(namespaces).arg(script(name)).args(arguments);
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("unshare can be run");
        let said = first_line(&mut process);
        let stdin = process.stdin.take();
        Self { process, stdin, said }
    }

    /// What it said.
    pub(crate) fn said(&self) -> &str {
        &self.said
    }

    /// Where the kernel tells about it.
    pub(crate) fn process(&self) -> PathBuf {
        Path::new("/proc").join(self.process.id().to_string())
    }

    /// Where a path is as the holder sees it.
    pub(crate) fn held(&self, path: &Path) -> PathBuf {
        let below = path.strip_prefix("/").expect("invariant: temporary directories are absolute");
        self.process().join("root").join(below)
    }

    /// A command that runs `program` where the holder is.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.process.id().to_string(), "--net", "--mount", "--", program]);
        command
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.stdin.take());
        drop(self.process.wait());
    }
}

/// What a process says first.
pub(crate) fn first_line(process: &mut Child) -> String {
    let mut line = String::new();
    let output = process.stdout.take().expect("invariant: it was piped");
    BufReader::new(output).read_line(&mut line).expect("a pipe can be read");
    assert!(line.ends_with('\n'), "a machine can't be made: {:?}", process.wait());
    line.trim().to_owned()
}
