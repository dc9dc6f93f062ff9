//! A small Debian that boots, as a tree: made once by `machine/root.sh`, and kept as an archive.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::Outcome;

/// What of the archive a machine needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernels {
    /// None: it runs on the kernel there is.
    Left,
    /// Both versions.
    Taken,
}

/// A tree that becomes an image, or the disk of a machine.
#[derive(Clone, Debug)]
pub struct Tree {
    path: PathBuf,
}

impl Tree {
    /// Debian in the new directory `path`.
    pub fn debian(path: &Path, kernels: Kernels) -> Self {
        let archive = Outcome::of(&mut Command::new(script("root.sh"))).success();
        fs::create_dir(path).expect("a new directory");
        let mut tar = Command::new("tar");
        tar.args(["--extract", "--file", archive.trim(), "--directory"]).arg(path);
        tar.args(["--numeric-owner", "--same-permissions", "--xattrs", "--xattrs-include=*"]);
        if kernels == Kernels::Left {
            tar.args(["--exclude=./boot/?*", "--exclude=./usr/lib/modules/?*"]);
        }
        Outcome::of(&mut tar).success();
        Self { path: path.to_owned() }
    }

    /// The same tree in the new directory `path`. Both share the files that neither writes anew.
    pub fn copy(&self, path: &Path) -> Self {
        Outcome::of(Command::new("cp").args(["--archive", "--link"]).args([&self.path, path])).success();
        Self { path: path.to_owned() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a file of that mode, in place of any that is there.
    pub fn write(&self, path: &str, contents: impl AsRef<[u8]>, mode: u32) {
        let path = self.path.join(path);
        let temporary = path.with_extension("new-of-tree");
        fs::create_dir_all(path.parent().expect("invariant: it is below the tree")).expect("ours");
        fs::write(&temporary, contents).expect("ours");
        fs::set_permissions(&temporary, PermissionsExt::from_mode(mode)).expect("ours");
        // Never into the file that is there: it may be another tree's, too.
        fs::rename(&temporary, &path).expect("ours");
    }

    /// Makes a symbolic link, in place of any that is there.
    pub fn link(&self, target: &str, path: &str) {
        let path = self.path.join(path);
        let removed = fs::remove_file(&path);
        removed
            .and_then(|()| symlink(target, &path))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// Puts a copy of a program there.
    pub fn install(&self, program: &Path, path: &str) {
        let to = self.path.join(path);
        let mut strip = Command::new("strip");
        Outcome::of(strip.arg("-o").arg(&to).arg(program)).success();
    }

    /// Removes a file, or a directory with all that is in it.
    pub fn remove(&self, path: &str) {
        let path = self.path.join(path);
        let is_directory = fs::symlink_metadata(&path).expect("it is there").is_dir();
        if is_directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.expect("ours");
    }

    /// Takes such a unit away.
    pub fn remove_unit(&self, name: &str) {
        self.remove(&format!("etc/systemd/system/{name}"));
        self.remove(&format!("etc/systemd/system/multi-user.target.wants/{name}"));
    }

    /// Makes a unit that is started with the machine.
    pub fn unit(&self, name: &str, contents: &str) {
        self.write(&format!("etc/systemd/system/{name}"), contents, 0o644);
        let early = contents.contains("WantedBy=sysinit.target");
        let target = if early { "sysinit.target.wants" } else { "multi-user.target.wants" };
        let wanted = self.path.join("etc/systemd/system").join(target).join(name);
        fs::create_dir_all(wanted.parent().expect("invariant: it is below the tree")).expect("ours");
        if let Err(error) = symlink(format!("../{name}"), wanted) {
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{name}: {error}");
        }
    }
}

/// A script of this package that makes machines.
pub(crate) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("machine").join(name)
}
