//! Images that were found bad on this machine, in the file `images.bad` of the state directory. Each is refused until
//! somebody forgives it.

use dominator_core::image::ImageName;
use dominator_core::inode::Timestamp;
use dominator_core::port::{AgentDetails, BadImage};

use super::memory::{Memory, MemoryError};

/// A line each: seconds, nanoseconds, name, and why, to its end.
const NAME: &str = "images.bad";
/// How much of the reason is kept, in bytes.
const MAX_WHY: usize = 300;
const MAX_LEN: usize = AgentDetails::MAX_BAD_IMAGES * (ImageName::MAX_LEN + MAX_WHY + 40);

impl Memory {
    /// The last ones found.
    ///
    /// # Errors
    /// A file that can't be read: an image that broke the machine must not come again for that.
    pub(super) fn bad_images(&self) -> Result<Vec<BadImage>, MemoryError> {
        let Some(bytes) = self.read(NAME, MAX_LEN)? else { return Ok(Vec::new()) };
        let text = String::from_utf8(bytes).map_err(|error| self.damaged(NAME, error))?;
        let lines =
            text.lines().map(|line| parse(line).ok_or_else(|| self.damaged(NAME, "a line that is none")));
        lines.collect()
    }

    /// Notes another one; the oldest goes when there are too many.
    pub(super) fn remember_bad(&self, bad: BadImage) -> Result<Vec<BadImage>, MemoryError> {
        let mut all = self.bad_images()?;
        all.retain(|other| other.image != bad.image);
        all.push(bad);
        let surplus = all.len().saturating_sub(AgentDetails::MAX_BAD_IMAGES);
        all.drain(..surplus);
        self.write_bad(all)
    }

    /// Forgives one, or all.
    pub(super) fn forgive(&self, image: Option<&ImageName>) -> Result<Vec<BadImage>, MemoryError> {
        let all = match image {
            Some(image) => self.bad_images()?.into_iter().filter(|bad| bad.image != *image).collect(),
            // Also when the file can't be read.
            None => Vec::new(),
        };
        self.write_bad(all)
    }

    fn write_bad(&self, all: Vec<BadImage>) -> Result<Vec<BadImage>, MemoryError> {
        let text: String = all.iter().map(spelt).collect();
        self.write(NAME, text.as_bytes())?;
        // As the next agent reads it.
        self.bad_images()
    }
}

fn spelt(bad: &BadImage) -> String {
    let why = bad.why.replace(char::is_control, " ");
    let why = why.get(..why.floor_char_boundary(MAX_WHY)).unwrap_or_default();
    format!("{} {} {} {why}\n", bad.since.seconds(), bad.since.nanos(), bad.image)
}

fn parse(line: &str) -> Option<BadImage> {
    let mut parts = line.splitn(4, ' ');
    let since = Timestamp::new(parts.next()?.parse().ok()?, parts.next()?.parse().ok()?)?;
    let image = parts.next()?.parse().ok()?;
    Some(BadImage { image, why: parts.next()?.to_owned(), since })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad(number: i64, why: &str) -> BadImage {
        let image = format!("web/{number}").parse().unwrap();
        BadImage { image, why: why.to_owned(), since: Timestamp::new(number, 7).unwrap() }
    }

    #[test]
    fn bad_images_are_remembered_until_they_are_forgiven() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::open(dir.path()).unwrap();
        assert_eq!(memory.bad_images().unwrap(), []);
        memory.remember_bad(bad(1, "start web failed: no licence")).unwrap();
        let all = memory.remember_bad(bad(2, "a\nb")).unwrap();
        assert_eq!(all, [bad(1, "start web failed: no licence"), bad(2, "a b")]);
        assert_eq!(memory.bad_images().unwrap(), all);
        assert_eq!(memory.remember_bad(bad(1, "")).unwrap(), [bad(2, "a b"), bad(1, "")], "each once");
        assert_eq!(memory.forgive(Some(&bad(2, "").image)).unwrap(), [bad(1, "")]);
        for number in 0..100 {
            memory.remember_bad(bad(number, &"ü".repeat(1000))).unwrap();
        }
        let all = memory.bad_images().unwrap();
        assert_eq!((all.len(), all[0].since.seconds()), (AgentDetails::MAX_BAD_IMAGES, 80));
        std::fs::write(dir.path().join(NAME), "yesterday web/1\n").unwrap();
        assert!(memory.bad_images().is_err() && memory.remember_bad(bad(1, "")).is_err());
        assert_eq!(memory.forgive(None).unwrap(), []);
    }
}
