//! Options from the command line over options from a file.
//!
//! A configuration file is TOML whose keys are the long names of the flags: `listen = "0.0.0.0:6969"` in the file is
//! `--listen 0.0.0.0:6969` on the command line. So there is one list of options with one set of checks, and no key can
//! be misspelt unnoticed. What stands on the command line replaces what stands in the file.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches};
use thiserror::Error;
use toml::de::{DeTable, DeValue};

/// The longest file accepted, in bytes.
pub const MAX_FILE: u64 = 1 << 20;
/// The flag that names the file; it can't stand in one.
const CONFIG: &str = "config";

/// Parses `arguments` (the program's name first), and the file that `--config` names, if it is given.
///
/// # Errors
/// [`ConfigError::CommandLine`] when the arguments are wrong, or are a request for help; the others when the file is.
pub fn parse<O: CommandFactory + FromArgMatches>(
    adjust: impl FnOnce(Command) -> Command,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<O, ConfigError> {
    let command = adjust(O::command());
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let first = relaxed(&command).try_get_matches_from(&arguments)?;
    let matches = match first.get_one::<PathBuf>(CONFIG) {
        None => command.try_get_matches_from(&arguments)?,
        Some(path) => {
            let from_file = flags(&command, &first, path)?;
            let mut given = arguments.into_iter();
            let program = given.next();
            command.try_get_matches_from(program.into_iter().chain(from_file).chain(given))?
        }
    };
    Ok(O::from_arg_matches(&matches)?)
}

/// Checks a configuration file by itself: what a daemon would say of it when nothing is on the command line.
///
/// # Errors
/// [`ConfigError`].
pub fn check<O: CommandFactory>(path: &Path) -> Result<(), ConfigError> {
    let command = O::command();
    let nothing = relaxed(&command).try_get_matches_from([command.get_name()])?;
    flags(&command, &nothing, path).map(drop)
}

/// Options that can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The command line is wrong, or asks for help.
    #[error(transparent)]
    CommandLine(#[from] clap::Error),
    /// The file can't be read.
    #[error("can't read the configuration file {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is longer than [`MAX_FILE`], or no text.
    #[error("{} is no configuration file: it must be UTF-8 and not longer than {MAX_FILE} bytes", path.display())]
    NoText {
        /// Which.
        path: PathBuf,
    },
    /// It is no TOML.
    #[error("{} is no TOML: {message}", path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// What the parser says, with the line.
        message: String,
    },
    /// There is no such option.
    #[error("{}:{line}: unknown key {key:?}; the keys are the long flags that --help lists", path.display())]
    UnknownKey {
        /// Which file.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// What stands there.
        key: String,
    },
    /// The option can't have this value.
    #[error("{}:{line}: {key} can't be that: {why}", path.display())]
    Value {
        /// Which file.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// The option.
        key: String,
        /// What is wrong.
        why: String,
    },
}

/// The same command with nothing required, since the file may give it.
fn relaxed(command: &Command) -> Command {
    command.clone().mut_args(|argument| argument.required(false))
}

/// The flags that the file at `path` stands for, without those `given` on the command line.
fn flags(command: &Command, given: &ArgMatches, path: &Path) -> Result<Vec<OsString>, ConfigError> {
    let text = read(path)?;
    let table = DeTable::parse(&text)
        .map_err(|error| ConfigError::Syntax { path: path.into(), message: error.to_string() })?
        .into_inner();
    let mut flags = Vec::new();
    for (key, value) in &table {
        let line = text.get(..key.span().start).map_or(1, |before| before.matches('\n').count() + 1);
        let place = Place { path, line, key: key.get_ref() };
        let argument = place.argument(command)?;
        let own = place.flags(value.get_ref())?;
        let alone = std::iter::once(OsString::from(command.get_name())).chain(own.clone());
        relaxed(command).try_get_matches_from(alone).map_err(|error| place.refused(&error))?;
        if given.value_source(argument.get_id().as_str()) != Some(ValueSource::CommandLine) {
            flags.extend(own);
        }
    }
    Ok(flags)
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.into(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    let fits = u64::try_from(bytes.len()).is_ok_and(|len| len <= MAX_FILE);
    let text = String::from_utf8(bytes).ok().filter(|_| fits);
    text.ok_or_else(|| ConfigError::NoText { path: path.into() })
}

/// Where in a file a value stands.
struct Place<'a> {
    path: &'a Path,
    line: usize,
    key: &'a str,
}

impl Place<'_> {
    fn argument<'c>(&self, command: &'c Command) -> Result<&'c Arg, ConfigError> {
        let named = |argument: &&Arg| argument.get_long() == Some(self.key) && self.key != CONFIG;
        command.get_arguments().find(named).ok_or_else(|| ConfigError::UnknownKey {
            path: self.path.into(),
            line: self.line,
            key: self.key.chars().take(80).collect(),
        })
    }

    fn flags(&self, value: &DeValue<'_>) -> Result<Vec<OsString>, ConfigError> {
        let with = |value: &str| vec![OsString::from(format!("--{}={value}", self.key))];
        match value {
            DeValue::String(text) => Ok(with(text)),
            DeValue::Integer(number) if number.radix() == 10 => Ok(with(number.as_str())),
            DeValue::Boolean(true) => Ok(vec![format!("--{}", self.key).into()]),
            DeValue::Boolean(false) => Ok(Vec::new()),
            DeValue::Array(items) => {
                let each = items.iter().map(|item| item.get_ref().as_str().map(with));
                let flags: Option<Vec<_>> = each.collect();
                flags.map(|flags| flags.concat()).ok_or_else(|| self.wrong("a list holds strings".into()))
            }
            DeValue::Integer(_) | DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => {
                Err(self
                    .wrong("it must be a string, a decimal number, true, false, or a list of strings".into()))
            }
        }
    }

    fn refused(&self, error: &clap::Error) -> ConfigError {
        let text = error.render().to_string();
        let first = text.lines().next().unwrap_or_default();
        self.wrong(first.trim_start_matches("error: ").into())
    }

    fn wrong(&self, why: String) -> ConfigError {
        ConfigError::Value { path: self.path.into(), line: self.line, key: self.key.into(), why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[derive(Debug, PartialEq, Eq, clap::Parser)]
    struct Options {
        #[arg(long)]
        config: Option<PathBuf>,
        #[arg(long)]
        port: u16,
        #[arg(long, default_value = "somewhere")]
        place: String,
        #[arg(long)]
        exclude: Vec<String>,
        #[arg(long)]
        loud: bool,
    }

    fn check(file: &str, line: &[&str]) -> Result<Options, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.toml");
        fs::write(&path, file).unwrap();
        let mut arguments = vec![OsString::from("x"), "--config".into(), path.clone().into()];
        arguments.extend(line.iter().map(OsString::from));
        parse(|command| command, arguments)
            .map(|options| Options { config: None, ..options })
            .map_err(|error| error.to_string().replace(&path.display().to_string(), "x.toml"))
    }

    fn options(port: u16, place: &str, exclude: &[&str], loud: bool) -> Options {
        let exclude = exclude.iter().copied().map(str::to_owned).collect();
        Options { config: None, port, place: place.into(), exclude, loud }
    }

    #[test]
    fn flags_replace_what_the_file_says() {
        let file = "port = 7\nplace = \"here\"\nexclude = [\"/a\", \"/b\"]\nloud = true\n";
        assert_eq!(check(file, &[]), Ok(options(7, "here", &["/a", "/b"], true)));
        assert_eq!(check(file, &["--port", "8", "--exclude=/c"]), Ok(options(8, "here", &["/c"], true)));
        assert_eq!(check("port = 1", &["--place=there"]), Ok(options(1, "there", &[], false)));
    }

    #[test]
    fn a_fault_in_the_file_is_reported_with_its_line() {
        let rows = [
            ("port = 7\n\nprot = 8\n", "x.toml:3: unknown key \"prot\""),
            ("port = 7\nconfig = \"y\"\n", "x.toml:2: unknown key \"config\""),
            ("port = 70000\n", "x.toml:1: port can't be that: invalid value '70000'"),
            ("port = 7\n[place]\nx = 1\n", "x.toml:2: place can't be that"),
            ("port = 7\nloud = \"yes\"\n", "x.toml:2: loud can't be that: unexpected value 'yes'"),
            ("port = \n", "x.toml is no TOML: TOML parse error at line 1"),
        ];
        for (file, expected) in rows {
            let error = check(file, &[]).unwrap_err();
            assert!(error.starts_with(expected), "{file:?}: {error}");
        }
    }

    #[test]
    fn what_neither_gives_is_asked_for() {
        assert!(check("place = \"here\"", &[]).unwrap_err().contains("--port"));
    }
}
