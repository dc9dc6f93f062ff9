use std::fs::{self, FileTimes, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use dominator_daemon::{During, Failure};
use serde::{Deserialize, Serialize};

use super::{LIMIT, compare, trees};

/// A way to damage a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Other contents, but size and modification time as before
    Edit,
    /// Another mode
    Chmod,
    /// A file is gone
    Delete,
    /// A file that must not be there
    Add,
    /// A symlink instead of a file
    Swap,
    /// A hard link that becomes a copy
    Unlink,
}

impl Kind {
    /// Every kind.
    pub(super) const ALL: [Self; 6] =
        [Self::Edit, Self::Chmod, Self::Delete, Self::Add, Self::Swap, Self::Unlink];

    /// What it is, for people.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Edit => "contents edited, size and time kept",
            Self::Chmod => "mode changed",
            Self::Delete => "file deleted",
            Self::Add => "file added",
            Self::Swap => "file replaced by a symlink",
            Self::Unlink => "hard link broken",
        }
    }
}

/// Damage that was repaired.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Repaired {
    pub(super) path: PathBuf,
    pub(super) seconds: f64,
}

/// How often to look whether the damage is repaired.
const LOOK: Duration = Duration::from_millis(2);

/// Damages `tree`, waits until the path is as in `reference` again, and says how long that took.
pub(super) fn damage(kind: Kind, tree: &Path, reference: &Path) -> Result<Repaired, Failure> {
    let what = || format!("can't damage {}", tree.display());
    let path = target(kind, reference).during(what)?;
    inflict(kind, tree, &path).during(what)?;
    let began = Instant::now();
    while !is_repaired(kind, tree, reference, &path).during(|| "can't look at the damage".into())? {
        if began.elapsed() > LIMIT {
            return Err(Failure::new(format!(
                "{}: nobody repaired {} within {} s",
                kind.words(),
                tree.join(&path).display(),
                LIMIT.as_secs()
            )));
        }
        thread::sleep(LOOK);
    }
    Ok(Repaired { path, seconds: began.elapsed().as_secs_f64() })
}

/// The path to damage, below the root: for each kind another one, in the middle of the tree.
fn target(kind: Kind, reference: &Path) -> io::Result<PathBuf> {
    match kind {
        Kind::Add => return Ok("must-not-be-here".into()),
        Kind::Unlink => return Ok(trees::LINKED.into()),
        Kind::Edit | Kind::Chmod | Kind::Delete | Kind::Swap => {}
    }
    let mut files = trees::files(reference)?;
    files.retain(|path| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.len() > 0));
    let place = Kind::ALL.iter().position(|other| *other == kind).unwrap_or_default();
    let number = files.len() * (place + 1) / (Kind::ALL.len() + 1);
    let path = files.get(number).ok_or(io::ErrorKind::NotFound)?;
    Ok(path.strip_prefix(reference).unwrap_or(path).to_owned())
}

fn inflict(kind: Kind, tree: &Path, path: &Path) -> io::Result<()> {
    let path = &tree.join(path);
    match kind {
        Kind::Edit => edit(path),
        Kind::Chmod => {
            let mode = fs::symlink_metadata(path)?.mode() & 0o777;
            fs::set_permissions(path, Permissions::from_mode(mode ^ 0o111))
        }
        Kind::Delete => fs::remove_file(path),
        Kind::Add => fs::write(path, "a way in\n"),
        Kind::Swap => {
            fs::remove_file(path)?;
            symlink("/dev/null", path)
        }
        Kind::Unlink => {
            let contents = fs::read(path)?;
            let metadata = fs::symlink_metadata(path)?;
            fs::remove_file(path)?;
            fs::write(path, contents)?;
            fs::set_permissions(path, metadata.permissions())?;
            let times = FileTimes::new().set_modified(metadata.modified()?);
            OpenOptions::new().write(true).open(path)?.set_times(times)
        }
    }
}

/// Turns the first byte over.
fn edit(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let modified = file.metadata()?.modified()?;
    let mut first = [0];
    file.read_exact(&mut first)?;
    file.rewind()?;
    file.write_all(&first.map(|byte| !byte))?;
    file.set_times(FileTimes::new().set_modified(modified))
}

fn is_repaired(kind: Kind, tree: &Path, reference: &Path, path: &Path) -> io::Result<bool> {
    let (there, must) = (tree.join(path), reference.join(path));
    let same = compare::entry(&there)? == compare::entry(&must)?;
    let linked = kind != Kind::Unlink || fs::symlink_metadata(&there).is_ok_and(|m| m.nlink() > 1);
    Ok(same && linked)
}
