//! What a machine says of itself: the first words of what a program prints, shown with its status.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use dominator_core::port::Note;
use thiserror::Error;

use crate::service::{Ended, Leftovers, run_limited};

/// A program that is run without arguments when an agent starts, and after each update that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteCommand(PathBuf);

/// A note that could not be had. The fault is the program's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the note program {} failed: {why}", program.display())]
pub struct NoteError {
    program: PathBuf,
    why: String,
}

impl NoteCommand {
    /// How long the program may take.
    pub const LIMIT: Duration = Duration::from_secs(30);

    /// That program.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self(program.into())
    }

    /// Runs it: as much of its first line as a [`Note`] has room for, nothing when it prints nothing. What it leaves
    /// running is killed.
    ///
    /// # Errors
    /// [`NoteError`] when it fails, or takes longer than [`NoteCommand::LIMIT`].
    pub fn run(&self) -> Result<Option<Note>, NoteError> {
        let failed = |why: String| NoteError { program: self.0.clone(), why };
        match run_limited(Command::new(&self.0), Self::LIMIT, Leftovers::Killed) {
            Ok(Ended::Exited { status, output }) if status.success() => Ok(Note::cut(&output)),
            Ok(Ended::Exited { status, output }) => Err(failed(format!("{status}: {output}"))),
            Ok(Ended::TooLate) => Err(failed(format!("no end within {} s", Self::LIMIT.as_secs()))),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dominator_fs_testkit::write_script;

    fn printed(script: &str) -> Result<Option<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("note");
        write_script(&program, &format!("#!/bin/sh\n{script}\n"));
        let note = NoteCommand::new(program).run();
        note.map(|note| note.map(|note| note.as_str().to_owned())).map_err(|error| error.to_string())
    }

    #[test]
    fn a_note_is_the_first_line_and_not_all_of_a_long_one() {
        assert_eq!(printed("echo rack 7; echo more"), Ok(Some("rack 7".to_owned())));
        assert_eq!(printed("printf %0100d 0"), Ok(Some("0".repeat(Note::MAX_LEN))));
        assert_eq!(printed("true"), Ok(None));
    }

    #[test]
    fn a_program_that_fails_says_nothing_of_the_machine() {
        let error = printed("echo rack 7; exit 4").unwrap_err();
        assert!(error.ends_with("failed: exit status: 4: rack 7"), "{error}");
    }
}
