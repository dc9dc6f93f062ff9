//! Completions and manual pages, out of the same definition that parses the command line, so that they can't say anything
//! else. Every program of the fleet has the hidden words `--generate SHELL` and `--generate man DIR` as its whole command
//! line.
//!
//! ```
//! use clap::{Arg, Command};
//!
//! let command = Command::new("greet").arg(Arg::new("whom").long("whom"));
//! let mut script = Vec::new();
//! dominator_manual::completions(command, clap_complete::Shell::Bash, &mut script);
//! assert!(String::from_utf8_lossy(&script).contains("--whom"));
//! ```
//!
//! # What is not here
//! Where a system wants its completions and pages; README.md says how to install them.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{Command, ValueEnum};
use clap_complete::Shell;

/// The word that asks for it.
pub const GENERATE: &str = "--generate";
/// The exit status when it could not be done, as of every program.
const FAILED: u8 = 2;
const USAGE: &str = "say --generate bash, elvish, fish, powershell or zsh for completions on standard output, or \
                     --generate man DIR for manual pages in that directory";

/// Does what the command line of this process asks for, if it begins with [`GENERATE`], and tells how that went. Nothing,
/// when it asks for something else, which is for the program to do.
pub fn answer(command: impl FnOnce() -> Command) -> Option<ExitCode> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let asked = arguments.split_first().filter(|(first, _)| *first == GENERATE)?;
    let command = command();
    let name = command.get_name().to_owned();
    Some(match generate(command, asked.1) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to be told when standard error is gone.
            drop(writeln!(io::stderr(), "{name}: {error}"));
            ExitCode::from(FAILED)
        }
    })
}

fn generate(command: Command, words: &[OsString]) -> io::Result<()> {
    let words: Vec<_> = words.iter().filter_map(|word| word.to_str()).collect();
    match words.as_slice() {
        ["man", directory] => pages(command, Path::new(directory)).map(drop),
        [shell] => {
            let shell = Shell::from_str(shell, false).map_err(|_| io::Error::other(USAGE))?;
            let mut script = Vec::new();
            completions(command, shell, &mut script);
            io::stdout().lock().write_all(&script)
        }
        _ => Err(io::Error::other(USAGE)),
    }
}

/// Writes what completes the command line of `command` in `shell`.
pub fn completions(mut command: Command, shell: Shell, out: &mut dyn Write) {
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut { out });
}

/// Writes the pages of `command` and of each of its subcommands into `directory`, which is made if need be: `PROGRAM.1`,
/// `PROGRAM-VERB.1`. Returns how many.
///
/// # Errors
/// When they can't be written.
pub fn pages(command: Command, directory: &Path) -> io::Result<usize> {
    fs::create_dir_all(directory)?;
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let count = 1 + command.get_subcommands().filter(|verb| !verb.is_hide_set()).count();
    clap_mangen::generate_to(command, directory)?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Arg;

    fn command() -> Command {
        let verb = |name: &'static str| Command::new(name).about("Does it");
        let secret = Command::new("secret").hide(true);
        Command::new("tool").arg(Arg::new("loud").long("loud")).subcommands([
            verb("add"),
            verb("list"),
            secret,
        ])
    }

    #[test]
    fn every_verb_has_its_page_and_what_is_hidden_has_none() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(pages(command(), &directory.path().join("man1")).unwrap(), 3);
        let names = fs::read_dir(directory.path().join("man1")).unwrap();
        let mut names: Vec<_> = names.map(|name| name.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["tool-add.1", "tool-list.1", "tool.1"]);
    }

    #[test]
    fn what_is_no_shell_is_refused_with_the_words_there_are() {
        for words in [&[][..], &["tcsh"], &["man"], &["bash", "x"]] {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            let error = generate(command(), &words).unwrap_err().to_string();
            assert_eq!(error, USAGE, "{words:?}");
        }
    }
}
