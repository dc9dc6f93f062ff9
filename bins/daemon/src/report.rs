//! What tools say: results on standard output as text or JSON, errors and progress on standard error.

use std::error::Error;
use std::io::{self, IsTerminal, Write};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::failure::{During, Failure, chain};

/// How to show results.
#[derive(Clone, Copy, Debug, Args)]
pub struct OutputOptions {
    /// Print JSON; docs/schemas/PROGRAM-COMMAND.json of the sources describes it
    #[arg(long, global = true)]
    pub json: bool,
}

impl OutputOptions {
    /// What the flag asks for.
    pub const fn format(self) -> Format {
        if self.json { Format::Json } else { Format::Text }
    }
}

/// The look of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// A result that can be shown both ways: serialised for programs, written for people.
pub trait Show: Serialize {
    /// Writes it for people, with a newline at the end.
    ///
    /// # Errors
    /// Those of `out`.
    fn text(&self, out: &mut dyn Write) -> io::Result<()>;
}

/// Prints a result on standard output. A reader that went away is no failure.
///
/// # Errors
/// [`Failure`] when standard output can't be written to.
pub fn show(result: &impl Show, format: Format) -> Result<(), Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written = write(result, format, &mut out).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.during(|| "can't print the result".into()),
    }
}

/// Prints one result of many as it comes: JSON in a line of its own.
///
/// # Errors
/// [`Failure`] when standard output can't be written to: also when its reader went away, as there is no point in going on.
pub fn show_line(result: &impl Show, format: Format) -> Result<(), Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written = match format {
        Format::Text => result.text(&mut out),
        Format::Json => {
            serde_json::to_writer(&mut out, result).map_err(io::Error::from).and_then(|()| writeln!(out))
        }
    };
    written.and_then(|()| out.flush()).during(|| "can't print the result".into())
}

/// Writes a result as [`show`] prints it.
///
/// # Errors
/// Those of `out`.
pub fn write(result: &impl Show, format: Format, out: &mut dyn Write) -> io::Result<()> {
    match format {
        Format::Text => result.text(out),
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, result)?;
            writeln!(out)
        }
    }
}

/// Prints an error with its causes on standard error, after the program's name.
pub fn complain(program: &str, error: &(dyn Error + 'static)) {
    // Nobody is left to be told when standard error is gone.
    drop(writeln!(io::stderr().lock(), "{program}: {}", chain(error)));
}

/// Prints a remark on standard error.
pub fn remark(program: &str, words: &str) {
    drop(writeln!(io::stderr().lock(), "{program}: {words}"));
}

/// A bar for work of a known number of bytes. It is drawn only when standard error is a terminal.
pub fn byte_bar(label: &'static str, total: u64) -> ProgressBar {
    let target =
        if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(total), target).with_style(style).with_message(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Count {
        files: u64,
    }

    impl Show for Count {
        fn text(&self, out: &mut dyn Write) -> io::Result<()> {
            writeln!(out, "{} files", self.files)
        }
    }

    #[test]
    fn a_result_is_shown_for_people_or_for_programs() {
        let written = |format| {
            let mut out = Vec::new();
            write(&Count { files: 3 }, format, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written(Format::Text), "3 files\n");
        assert_eq!(written(Format::Json), "{\n  \"files\": 3\n}\n");
    }
}
