//! The stop switch: a file that an administrator of the machine makes, and nothing is changed any more.

use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use dominator_core::port::AgentDetails;

use crate::root::open_file;
use crate::seam::At;

/// The file, in the state directory. That it is there is all that counts.
pub(super) const NAME: &str = "stop";
/// What is shown of a file that says nothing.
const NO_WORDS: &str = "nobody says why";

/// The words on the switch, if it is set. What is there and can't be read, as a directory or a pipe, stops as well: who
/// made it meant something by it.
pub(super) fn words(state: BorrowedFd<'_>) -> Option<String> {
    let read = open_file(At::new(state, NAME.as_bytes())).and_then(|file| {
        let mut bytes = Vec::new();
        file.take(AgentDetails::MAX_STOPPED as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    let bytes = match read {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => return Some(format!("it can't be read: {error}")),
    };
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().next().unwrap_or_default();
    let line: String = line.chars().filter(|character| !character.is_control()).collect();
    let line = line.trim();
    Some(if line.is_empty() { NO_WORDS.to_owned() } else { line.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn whatever_has_the_name_stops_and_its_first_line_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let open = File::open(dir.path()).unwrap();
        let path = dir.path().join(NAME);
        let now = || words(open.as_fd());
        assert_eq!(now(), None);
        for (contents, shown) in [
            ("", NO_WORDS),
            ("\n", NO_WORDS),
            ("disk is being replaced\nsince May", "disk is being replaced"),
            ("\x1b[31mred", "[31mred"),
        ] {
            std::fs::write(&path, contents).unwrap();
            assert_eq!(now().as_deref(), Some(shown));
        }
        std::fs::write(&path, "x".repeat(100_000)).unwrap();
        assert_eq!(now().unwrap().len(), AgentDetails::MAX_STOPPED);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(now().is_some());
        std::fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        assert!(now().is_some());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(now(), None);
    }
}
