//! Which paths of an image each trigger line matches.

use std::io::{self, Write};
use std::path::Path;

use dominator_core::filter::Lines;
use dominator_core::image::{Image, ImageName};
use dominator_core::tree::Snapshot;
use dominator_core::trigger::Triggers;
use dominator_daemon::report::Show;
use dominator_daemon::{During, Failure, input};
use serde::Serialize;

/// Every line of every trigger with what it matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Matched {
    image: String,
    triggers: Vec<Line>,
}

/// A line of a trigger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Line {
    /// Of which service.
    pub(crate) service: String,
    /// The line.
    pub(crate) line: String,
    /// How many paths it matches.
    pub(crate) matches: u64,
    /// The first of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    examples: Vec<String>,
}

const EXAMPLES: usize = 5;

/// What each line of the triggers matches in a tree.
///
/// # Errors
/// [`Failure`] when a line is none.
pub(crate) fn lines(triggers: &Triggers, tree: &Snapshot) -> Result<Vec<Line>, Failure> {
    let mut compiled = Vec::new();
    for trigger in triggers.iter() {
        for line in &trigger.match_lines {
            let lines = Lines::new(vec![line.clone()]).during(|| format!("{line} is no trigger line"))?;
            let service = trigger.service.clone();
            compiled.push((lines, Line { service, line: line.clone(), matches: 0, examples: Vec::new() }));
        }
    }
    tree.walk(|path, _| {
        for (lines, line) in &mut compiled {
            if lines.matches(path.as_bytes()) {
                line.matches += 1;
                if line.examples.len() < EXAMPLES {
                    line.examples.push(path.to_string());
                }
            }
        }
    });
    Ok(compiled.into_iter().map(|(_, line)| line).collect())
}

impl Matched {
    /// Looks for the paths that the image's own triggers match, or those in a file.
    ///
    /// # Errors
    /// [`Failure`] when the file can't be read or is none.
    pub(super) fn of(
        name: &ImageName,
        image: &Image,
        tree: &Snapshot,
        file: Option<&Path>,
    ) -> Result<Self, Failure> {
        let other = file.map(input::triggers).transpose()?;
        let triggers = lines(other.as_ref().unwrap_or(&image.triggers), tree)?;
        Ok(Self { image: name.to_string(), triggers })
    }

    /// Whether every line matches something.
    pub(super) fn is_whole(&self) -> bool {
        self.triggers.iter().all(|line| line.matches > 0)
    }
}

impl Show for Matched {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        for Line { service, line, matches, examples } in &self.triggers {
            writeln!(out, "{service}: {line} matches {matches} paths")?;
            examples.iter().try_for_each(|path| writeln!(out, "    {path}"))?;
            let more = matches.saturating_sub(examples.len() as u64);
            if more > 0 {
                writeln!(out, "    … and {more} more")?;
            }
        }
        Ok(())
    }
}
