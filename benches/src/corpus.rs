//! Trees to measure on, the same every time.

use std::fs;
use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Corpora that are kept, as [`debian`] and [`many_small`] make them, in directories of `directory`: made if they are
/// not there. What was begun and not finished is begun again.
///
/// # Errors
/// What could not be made.
pub fn kept(directory: &Path) -> io::Result<[PathBuf; 2]> {
    Ok([keep(directory, "a", &debian)?, keep(directory, "b", &|path| many_small(path, Size::B))?])
}

/// Corpus A, and what becomes of it by [`Change::SMALL`] and [`Change::TEN`], kept beside it as [`kept`] does.
///
/// # Errors
/// What could not be made.
pub fn kept_changes(directory: &Path) -> io::Result<[PathBuf; 3]> {
    let [a, small] = kept_small_change(directory)?;
    let ten = keep(directory, "a-ten", &|path| changed(&a, path, &Change::TEN))?;
    Ok([a, small, ten])
}

/// Corpus A, and what becomes of it by [`Change::SMALL`], kept beside it as [`kept`] does.
///
/// # Errors
/// What could not be made.
pub fn kept_small_change(directory: &Path) -> io::Result<[PathBuf; 2]> {
    let a = keep(directory, "a", &debian)?;
    let small = keep(directory, "a-small", &|path| changed(&a, path, &Change::SMALL))?;
    Ok([a, small])
}

fn keep(directory: &Path, name: &str, make: &dyn Fn(&Path) -> io::Result<()>) -> io::Result<PathBuf> {
    let (path, unfinished) = (directory.join(name), directory.join(format!("{name}.unfinished")));
    if !path.exists() {
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        fs::create_dir_all(&unfinished)?;
        make(&unfinished)?;
        fs::rename(&unfinished, &path)?;
    }
    Ok(path)
}

/// Corpus A: a Debian root with compilers and a kernel, 32,000 files and 1.3 GB. Needs root, mmdebstrap and, the first
/// time, a mirror.
///
/// # Errors
/// The script failed, and said why on standard error.
pub fn debian(directory: &Path) -> io::Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bins/testkit/debian-root.sh");
    let status = Command::new("sh").arg(script).arg(directory).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("debian-root.sh: {status}"))) }
}

/// How much of a tree [`changed`] changes.
#[derive(Clone, Debug)]
pub struct Change {
    /// How many files get other contents.
    pub files: usize,
    /// Only files of so many bytes.
    pub sizes: RangeInclusive<u64>,
}

impl Change {
    /// From corpus A to A-small: 1 MB.
    pub const SMALL: Self = Self { files: 20, sizes: 20_000..=100_000 };
    /// From corpus A to A-ten, a tenth of it: 120 MB.
    pub const TEN: Self = Self { files: 3200, sizes: 2_000..=1_000_000 };
}

/// A copy of `tree`, evenly spread over which files have other contents: all their bits are turned over, so they are as
/// long as before, and their time is another. Files of several names, and those with extended attributes, stay as they
/// are. Which they are depends on the tree alone.
///
/// # Errors
/// What could not be copied or changed.
pub fn changed(tree: &Path, copy: &Path, change: &Change) -> io::Result<()> {
    let mut copying = Command::new("cp");
    copying.args(["-a", "--reflink=auto", "--no-target-directory"]).arg(tree).arg(copy);
    let status = copying.status()?;
    if !status.success() {
        return Err(io::Error::other(format!("{copying:?}: {status}")));
    }
    let mut files = Vec::new();
    for path in crate::bare::files(copy)? {
        let metadata = fs::symlink_metadata(&path)?;
        let fits = metadata.nlink() == 1 && change.sizes.contains(&metadata.len());
        if fits && rustix::fs::llistxattr(&path, &mut [0_u8; 0])? == 0 {
            files.push(path);
        }
    }
    files.sort();
    let step = (files.len() / change.files).max(1);
    for path in files.iter().step_by(step).take(change.files) {
        turn_over(path)?;
    }
    Ok(())
}

fn turn_over(path: &Path) -> io::Result<()> {
    let modified = fs::symlink_metadata(path)?.modified()? + Duration::from_secs(1);
    let contents: Vec<u8> = fs::read(path)?.iter().map(|byte| !byte).collect();
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    file.write_all(&contents)?;
    file.set_modified(modified)
}

/// How many files [`many_small`] makes, and how many names beside.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Files of 4 KiB.
    pub files: u64,
    /// Further names of some of them, and symbolic links: so many of each.
    pub links: u64,
}

impl Size {
    /// Corpus B.
    pub const B: Self = Self { files: 100_000, links: 1000 };
}

/// How many directories [`many_small`] makes in its root.
pub const DIRECTORIES: u64 = 1000;

/// Corpus B: files of 4 KiB without any order in them, hard links and symbolic links, spread over [`DIRECTORIES`].
///
/// # Errors
/// What could not be written.
pub fn many_small(directory: &Path, size: Size) -> io::Result<()> {
    let mut random = Random(1);
    for number in 0..DIRECTORIES {
        fs::create_dir(directory.join(number.to_string()))?;
    }
    let place = |kind: &str, number: u64| format!("{}/{kind}{number}", number % DIRECTORIES);
    for number in 0..size.files {
        fs::write(directory.join(place("file", number)), random.bytes(4096))?;
    }
    for number in 0..size.links {
        // A link lies in another directory than what it is a link to.
        let file = place("file", (number + 1) % size.files);
        fs::hard_link(directory.join(&file), directory.join(place("hard", number)))?;
        symlink(Path::new("..").join(&file), directory.join(place("soft", number)))?;
    }
    Ok(())
}

/// A tree like an operating system's, without one: 20 directories of 10, most files small, one in a hundred large.
/// Files have 40 KB on average.
///
/// # Errors
/// What could not be written.
pub fn like_a_system(directory: &Path, files: u64) -> io::Result<()> {
    let mut random = Random(1);
    for number in 0..files {
        let place = directory.join(format!("{}/{}", number % 20, number % 200));
        fs::create_dir_all(&place)?;
        let size = if number % 100 == 0 { random.next() % 4_000_000 } else { random.next() % 40_000 };
        fs::write(place.join(number.to_string()), random.bytes(size))?;
    }
    Ok(())
}

/// Knuth's linear congruential generator; only its upper bits are any good.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn bytes(&mut self, len: u64) -> Vec<u8> {
        (0..len.div_ceil(4)).flat_map(|_| self.next().to_le_bytes().into_iter().take(4)).collect()
    }
}
