//! What the command line promises, shown by running it. An oracle that shares no code with it is the judge.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod check;
mod enforce;
mod judge;
mod output;
mod scan;
mod undo;
mod xattrs;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// Two directories: an image, and a root that is the same.
struct Trees {
    dir: TempDir,
}

impl Trees {
    fn new() -> Self {
        let trees = Self { dir: tempfile::tempdir().unwrap() };
        let image = trees.image();
        fs::create_dir_all(image.join("etc/app")).unwrap();
        fs::create_dir_all(image.join("var")).unwrap();
        fs::write(image.join("etc/app/config"), "port = 80\n").unwrap();
        fs::write(image.join("etc/motd"), "welcome\n").unwrap();
        fs::hard_link(image.join("etc/motd"), image.join("etc/issue")).unwrap();
        symlink("app/config", image.join("etc/link")).unwrap();
        fs::write(image.join("run me"), "#!/bin/sh\n").unwrap();
        trees.copy();
        trees
    }

    fn of(fill: impl FnOnce(&Path)) -> Self {
        let trees = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(trees.image()).unwrap();
        fs::create_dir(trees.root()).unwrap();
        fill(&trees.image());
        trees
    }

    fn copy(&self) {
        let copied = Command::new("cp").arg("-a").args([self.image(), self.root()]).status().unwrap();
        assert!(copied.success());
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// A file beside both.
    fn file(&self, name: &str, contents: &str) -> String {
        let path = self.dir.path().join(name);
        fs::write(&path, contents).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The image as an archive, by the system's own tar.
    fn tar(&self) -> PathBuf {
        let tar = self.dir.path().join("image.tar");
        let mut command = Command::new("tar");
        command.args(["--format=posix", "--xattrs", "-C"]).arg(self.image()).arg("-cf").arg(&tar).arg(".");
        assert!(command.status().unwrap().success());
        tar
    }

    /// Runs a command on both.
    fn run(&self, command: &str, more: &[&str]) -> Ended {
        self.run_with(&self.image(), command, more)
    }

    fn run_with(&self, image: &Path, command: &str, more: &[&str]) -> Ended {
        let (image, root) = (image.to_str().unwrap(), self.root());
        dominate(&[&[command, "--image", image, "--root", root.to_str().unwrap()], more].concat())
    }

    /// The paths at which the root differs from the image.
    fn differing(&self, excludes: &[&str]) -> String {
        dominator_fs_testkit::compared(&self.image(), &self.root(), excludes)
    }
}

/// How a command ended, and what it said.
struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl Ended {
    #[track_caller]
    fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        self
    }

    fn lines(&self) -> Vec<&str> {
        self.out.lines().collect()
    }
}

fn dominate(arguments: &[&str]) -> Ended {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_dominate")).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended { code: status.code().unwrap(), out: text(stdout), err: text(stderr) }
}
