use std::collections::HashMap;
use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use dominator_daemon::{During, Failure};
use serde::{Deserialize, Serialize};

/// How much of a tree to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Amount {
    /// All of it.
    Everything,
    /// [`FILES`] files of it, or as many as make [`BYTES`] bytes.
    Enough,
}

/// How many files are enough, and how few are too few.
const FILES: u64 = 5300;
const TOO_FEW: u64 = 5000;
/// How many bytes are enough, and how large one file of them may be.
const BYTES: u64 = 300 * 1024 * 1024;
const LARGE: u64 = 1024 * 1024;
/// A second name that is given to the first file, so that there is a hard link in every tree.
pub(super) const LINKED: &str = "second-name-of-the-first-file";
/// Every so manyth file is rewritten, given another mode, and removed by an upgrade.
const REWRITTEN: usize = 10;
const OTHER_MODE: usize = 100;
const REMOVED: usize = 101;

/// What was copied.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Copied {
    pub(super) from: PathBuf,
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// What could not be read, or is neither file, directory nor symlink.
    pub(super) left_out: u64,
}

/// What was changed.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Upgraded {
    pub(super) rewritten: u64,
    pub(super) modes: u64,
    pub(super) removed: u64,
    pub(super) added: u64,
}

/// Copies the first tree of `from` that has enough.
pub(super) fn copy(from: &[PathBuf], to: &Path, amount: Amount) -> Result<Copied, Failure> {
    for from in from {
        if amount == Amount::Enough && !from.is_dir() {
            continue;
        }
        let mut copy = Copy { amount, copied: Copied::default(), names: HashMap::new() };
        copy.directory(from, to).during(|| format!("can't copy {}", from.display()))?;
        if copy.copied.files >= TOO_FEW || amount == Amount::Everything && copy.copied.files > 0 {
            link_first(to).during(|| format!("can't link in {}", to.display()))?;
            copy.copied.from.clone_from(from);
            return Ok(copy.copied);
        }
        fs::remove_dir_all(to).during(|| format!("can't remove {}", to.display()))?;
    }
    let names: Vec<_> = from.iter().map(|from| from.display().to_string()).collect();
    let enough = if amount == Amount::Everything { 1 } else { TOO_FEW };
    Err(Failure::new(format!(
        "there are not {enough} files to read in {}; name another directory with --source",
        names.join(" or ")
    )))
}

/// Changes every tenth file of `tree`, and a few more in other ways.
pub(super) fn upgrade(tree: &Path) -> io::Result<Upgraded> {
    let mut upgraded = Upgraded::default();
    let files = files(tree)?;
    for (number, path) in files.iter().enumerate() {
        if number % REMOVED == 0 {
            fs::remove_file(path)?;
            upgraded.removed += 1;
        } else if number % REWRITTEN == 0 {
            let mut file = OpenOptions::new().append(true).open(path)?;
            file.write_all(b"\n# the next version\n")?;
            upgraded.rewritten += 1;
        } else if number % OTHER_MODE == 1 {
            let mode = fs::symlink_metadata(path)?.mode() & 0o777;
            fs::set_permissions(path, Permissions::from_mode(mode ^ 0o010))?;
            upgraded.modes += 1;
        }
    }
    let added = tree.join("added-by-the-next-version");
    fs::create_dir(&added)?;
    for number in 0..files.len() / 100 + 1 {
        fs::write(added.join(format!("{number}.txt")), format!("file {number} of the next version\n"))?;
        upgraded.added += 1;
    }
    Ok(upgraded)
}

/// Every regular file of a tree that has one name only, in order.
pub(super) fn files(tree: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in entries(tree)? {
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.is_dir() {
            found.extend(files(&path)?);
        } else if metadata.is_file() && metadata.nlink() == 1 {
            found.push(path);
        }
    }
    Ok(found)
}

/// What is in a directory, in order.
pub(super) fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// Gives the first file a second name, unless the tree it was copied from has it already.
fn link_first(tree: &Path) -> io::Result<()> {
    let second = tree.join(LINKED);
    match files(tree)?.into_iter().next() {
        Some(first) if fs::symlink_metadata(&second).is_err() => fs::hard_link(first, second),
        Some(_) | None => Ok(()),
    }
}

struct Copy {
    amount: Amount,
    copied: Copied,
    /// Copies of files with several names.
    names: HashMap<(u64, u64), PathBuf>,
}

impl Copy {
    fn directory(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        fs::create_dir(to)?;
        for path in entries(from)? {
            let Some(name) = path.file_name() else { continue };
            if self.is_enough() {
                break;
            }
            match self.entry(&path, &to.join(name)) {
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound) =>
                {
                    self.copied.left_out += 1;
                }
                other => other?,
            }
        }
        // The copy's owner must be able to change what is in it.
        let mode = fs::symlink_metadata(from)?.mode() & 0o777 | 0o700;
        fs::set_permissions(to, Permissions::from_mode(mode))
    }

    fn entry(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let metadata = fs::symlink_metadata(from)?;
        if metadata.is_dir() {
            // One that can't be read must not be left half made.
            fs::read_dir(from)?;
            self.directory(from, to)
        } else if metadata.is_symlink() {
            symlink(fs::read_link(from)?, to)
        } else if metadata.is_file() && (self.amount == Amount::Everything || metadata.len() <= LARGE) {
            self.file(from, to, &metadata)
        } else {
            self.copied.left_out += 1;
            Ok(())
        }
    }

    fn file(&mut self, from: &Path, to: &Path, metadata: &fs::Metadata) -> io::Result<()> {
        if metadata.nlink() > 1 {
            let copy = self.names.entry((metadata.dev(), metadata.ino())).or_insert_with(|| to.to_owned());
            if copy != to {
                return fs::hard_link(copy, to);
            }
        }
        // Nothing that runs as somebody else is planted in a temporary directory.
        let mode = Permissions::from_mode(metadata.mode() & 0o777 | 0o600);
        let mut source = File::open(from)?;
        let mut copy = File::create_new(to)?;
        self.copied.bytes += io::copy(&mut source, &mut copy)?;
        copy.set_permissions(mode)?;
        copy.set_times(FileTimes::new().set_modified(metadata.modified()?))?;
        self.copied.files += 1;
        Ok(())
    }

    fn is_enough(&self) -> bool {
        self.amount == Amount::Enough && (self.copied.files >= FILES || self.copied.bytes >= BYTES)
    }
}
