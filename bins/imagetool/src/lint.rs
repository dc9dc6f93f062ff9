//! What people get wrong in filters, and why a path is left alone.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use dominator_core::filter::{Explanation, Filter, Finding, Lines, Lint, Surprise, Weight};
use dominator_core::path::ImagePath;
use dominator_core::tree::Snapshot;
use dominator_daemon::report::{Show, remark};
use dominator_daemon::{During, Failure, input};
use dominator_fs::import::Selection;
use serde::Serialize;

use crate::text::LintOptions;
use crate::{look, required, tree};

/// What there is to say of a filter file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Linted {
    filter: String,
    /// How many lines count.
    lines: u64,
    findings: Vec<Found>,
    /// What else there is to say: of the filter as a whole, of triggers, and of the tree they are for.
    beyond: Vec<Beyond>,
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

/// What is wrong with more than a line by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Beyond {
    weight: &'static str,
    why: &'static str,
    detail: String,
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
    /// Looks at all that `options` name.
    ///
    /// # Errors
    /// [`Failure`] when something of it can't be read or is not what it should be.
    pub(crate) fn of(options: &LintOptions) -> Result<Self, Failure> {
        let LintOptions { filter: file, triggers, tree, explain } = options;
        let lint = lines_of(file)?;
        let explanation = explain.as_ref().map(|path| Explained::of(&lint, path));
        let beyond = match explanation {
            Some(_) => Vec::new(),
            None => beyond(file, triggers.as_deref(), tree.as_deref())?,
        };
        Ok(Self {
            filter: file.display().to_string(),
            lines: count(lint.len()),
            findings: lint.findings().into_iter().map(Found::of).collect(),
            beyond,
            explanation,
        })
    }

    /// The answer: whether the path is left alone, or else whether no line does anything but what it seems to.
    pub(crate) fn is_yes(&self) -> bool {
        match &self.explanation {
            Some(explanation) => explanation.left_alone,
            None => {
                let weights = self.findings.iter().map(|found| found.weight);
                weights.chain(self.beyond.iter().map(|beyond| beyond.weight)).all(|weight| weight == NOTE)
            }
        }
    }
}

/// The lines of a filter file; a name that is empty has none.
fn lines_of(file: &Path) -> Result<Lint, Failure> {
    if !file.as_os_str().is_empty() {
        return input::lint(file);
    }
    Lint::of("").during(|| "no lines are a filter".into())
}

fn beyond(file: &Path, triggers: Option<&Path>, tree: Option<&Path>) -> Result<Vec<Beyond>, Failure> {
    let filter = input::filter(file)?;
    let triggers = triggers.map(input::triggers).transpose()?.unwrap_or_default();
    let mut found: Vec<Beyond> = of_filter(&filter).into_iter().collect();
    let Some(tree) = tree else { return Ok(found) };
    let whole = tree::read(tree, Selection::from(&Filter::Empty), None)?.imported.snapshot;
    found.extend(unmatched_lines(&filter, &whole)?);
    let selected = crate::make::filtered(&whole, &filter);
    let lacking = if filter == Filter::Sparse { Vec::new() } else { required::lacking(&selected) };
    let hidden = required::hidden(&filter);
    let lacks = |path: &&str| !hidden.contains(path);
    found.extend(lacking.into_iter().filter(lacks).map(|path| Beyond {
        weight: WARNING,
        why: "missing-required-path",
        detail: format!("the tree lacks {path}, which every machine needs"),
    }));
    for line in look::trigger_lines(&triggers, &selected)?.into_iter().filter(|line| line.matches == 0) {
        let detail = format!("trigger of {}: {} matches nothing in the image", line.service, line.line);
        found.push(Beyond { weight: WARNING, why: "trigger-matches-nothing", detail });
    }
    Ok(found)
}

/// What the filter as a whole does.
fn of_filter(filter: &Filter) -> Option<Beyond> {
    let hidden = required::hidden(filter);
    let anything = |path: &str| ImagePath::parse(path.as_bytes()).is_ok_and(|path| filter.matches(&path));
    // Names nobody has: who matches all of these matches whatever there is.
    let everything = ["/0/1", "/no/such/path", "/\u{1}"].into_iter().all(anything);
    if everything {
        let detail =
            "the filter matches everything: the image is empty, and changes nothing on a machine".into();
        return Some(Beyond { weight: WARNING, why: "matches-everything", detail });
    }
    let detail = format!("the filter hides {}, which every machine needs", hidden.join(", "));
    (!hidden.is_empty()).then_some(Beyond { weight: WARNING, why: "hides-required-path", detail })
}

/// Lines that match nothing in a tree that nothing was left out of: no mistake, where it is a machine's own that is meant.
fn unmatched_lines(filter: &Filter, tree: &Snapshot) -> Result<Vec<Beyond>, Failure> {
    let Filter::Lines(lines) = filter else { return Ok(Vec::new()) };
    let mut left = Vec::new();
    for line in lines.lines().iter().filter(|line| *line != INVERT) {
        left.push((line, Lines::new(vec![line.clone()]).during(|| format!("{line} is no filter line"))?));
    }
    tree.walk(|path, _| left.retain(|(_, line)| !line.matches(path.as_bytes())));
    let note = |(line, _): (&String, Lines)| Beyond {
        weight: NOTE,
        why: "line-matches-nothing",
        detail: format!("{line} matches nothing in the tree"),
    };
    Ok(left.into_iter().map(note).collect())
}

/// Warns of lines of the filter in `file` that may not do what they seem to. An empty name is no filter.
///
/// # Errors
/// As [`Linted::of`].
pub(crate) fn warn(file: &Path) -> Result<(), Failure> {
    if file.as_os_str().is_empty() {
        return Ok(());
    }
    let findings = lines_of(file)?.findings().into_iter().map(Found::of);
    for Found { number, line, detail, suggestion, .. } in findings.filter(|found| found.weight == WARNING) {
        let hint = suggestion.as_ref().map(|text| format!("; did you mean {text}")).unwrap_or_default();
        remark("imagetool", &format!("{}:{number}: {line}: {detail}{hint}", file.display()));
    }
    Ok(())
}

/// The line that inverts the others.
const INVERT: &str = "!";
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
        for Beyond { weight, detail, .. } in &self.beyond {
            writeln!(out, "{weight}: {detail}")?;
        }
        let findings = self.findings.len() + self.beyond.len();
        writeln!(out, "{}: {} lines, {findings} findings", self.filter, self.lines)
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
