//! Trees to measure on, the same every time.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Corpora that are kept, as [`debian`] and [`many_small`] make them, in directories of `directory`: made if they are
/// not there. What was begun and not finished is begun again.
///
/// # Errors
/// What could not be made.
pub fn kept(directory: &Path) -> io::Result<[PathBuf; 2]> {
    let kept = |name: &str, make: &dyn Fn(&Path) -> io::Result<()>| -> io::Result<PathBuf> {
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
    };
    Ok([kept("a", &debian)?, kept("b", &|path| many_small(path, Size::B))?])
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
