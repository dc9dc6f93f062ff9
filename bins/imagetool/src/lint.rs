//! What people get wrong in filters, and why a path is left alone.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use dominator_core::filter::{Explanation, Finding, Lint, Surprise, Weight};
use dominator_core::path::ImagePath;
use dominator_daemon::report::{Show, remark};
use dominator_daemon::{Failure, input};
use serde::Serialize;

/// What there is to say of a filter file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Linted {
    filter: String,
    /// How many lines count.
    lines: u64,
    findings: Vec<Found>,
    #[serde(skip_serializing_if = "Option::is_none")]
    explanation: Option<Explained>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Found {
    number: u64,
    line: String,
    weight: &'static str,
    why: &'static str,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    suggestion: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Explained {
    path: String,
    left_alone: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    with: Option<String>,
    inverted: bool,
    matches: Vec<Match>,
}

/// A line that matches the path or a directory it is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Match {
    path: String,
    number: u64,
    line: String,
}

impl Linted {
    /// Reads the filter in `file` and looks at it, and at what it says of `path`.
    ///
    /// # Errors
    /// [`Failure`] when it can't be read or is no filter.
    pub(crate) fn of(file: &Path, path: Option<&ImagePath>) -> Result<Self, Failure> {
        let lint = input::lint(file)?;
        Ok(Self {
            filter: file.display().to_string(),
            lines: count(lint.len()),
            findings: lint.findings().into_iter().map(Found::of).collect(),
            explanation: path.map(|path| Explained::of(&lint, path)),
        })
    }

    /// The answer: whether the path is left alone, or else whether no line does anything but what it seems to.
    pub(crate) fn is_yes(&self) -> bool {
        match &self.explanation {
            Some(explanation) => explanation.left_alone,
            None => self.findings.iter().all(|found| found.weight == NOTE),
        }
    }
}

/// Warns of lines of the filter in `file` that may not do what they seem to. An empty name is no filter.
///
/// # Errors
/// As [`Linted::of`].
pub(crate) fn warn(file: &Path) -> Result<(), Failure> {
    if file.as_os_str().is_empty() {
        return Ok(());
    }
    for Found { number, line, detail, suggestion, .. } in
        Linted::of(file, None)?.findings.iter().filter(|found| found.weight == WARNING)
    {
        let hint = suggestion.as_ref().map(|text| format!("; did you mean {text}")).unwrap_or_default();
        remark("imagetool", &format!("{}:{number}: {line}: {detail}{hint}", file.display()));
    }
    Ok(())
}

const WARNING: &str = "warning";
const NOTE: &str = "note";

impl Found {
    fn of(finding: Finding) -> Self {
        let Finding { number, line, surprise, suggestion } = finding;
        let weight = match surprise.weight() {
            Weight::Warning => WARNING,
            Weight::Note => NOTE,
        };
        let why = Surprise::word(&surprise);
        Self { number: count(number), line, weight, why, detail: surprise.to_string(), suggestion }
    }
}

impl Explained {
    fn of(lint: &Lint, path: &ImagePath) -> Self {
        let Explanation { left_alone_with, lines, mut directories, inverted } = lint.explain(path);
        directories.insert(path.clone(), lines);
        let texts: BTreeMap<usize, &str> = lint.lines().collect();
        let matches = directories.iter().flat_map(|(at, numbers)| {
            numbers.iter().map(|number| Match {
                path: at.to_string(),
                number: count(*number),
                line: texts.get(number).copied().unwrap_or_default().to_owned(),
            })
        });
        Self {
            path: path.to_string(),
            left_alone: left_alone_with.is_some(),
            with: left_alone_with.filter(|with| with != path).map(|with| with.to_string()),
            inverted,
            matches: matches.collect(),
        }
    }
}

impl Show for Linted {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        if let Some(explanation) = &self.explanation {
            return explanation.text(out);
        }
        for Found { number, line, weight, detail, suggestion, .. } in &self.findings {
            writeln!(out, "{}:{number}: {weight}: {line}", self.filter)?;
            writeln!(out, "    {detail}")?;
            if let Some(suggestion) = suggestion {
                writeln!(out, "    did you mean  {suggestion}")?;
            }
        }
        writeln!(out, "{}: {} lines, {} findings", self.filter, self.lines, self.findings.len())
    }
}

impl Explained {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { path, left_alone, with, inverted, matches } = self;
        for Match { path, number, line } in matches {
            writeln!(out, "line {number} matches {path}: {line}")?;
        }
        if *inverted {
            writeln!(out, "a line ! inverts the filter: what no other line matches is left alone")?;
        }
        if let Some(with) = with {
            writeln!(out, "{path} is left alone, as {with} is and all that is in it")?;
        } else if *left_alone {
            writeln!(out, "{path} is left alone")?;
        } else {
            writeln!(out, "{path} is not left alone")?;
        }
        if *left_alone {
            writeln!(out, "building an image: it is not taken in")?;
            writeln!(out, "updating a machine: it is neither made, changed nor deleted")
        } else {
            writeln!(out, "building an image: it is taken in")?;
            writeln!(out, "updating a machine: it is made as in the image, or deleted if the image lacks it")
        }
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
