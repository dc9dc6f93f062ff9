//! Several filter files, or files of triggers, as one.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use dominator_core::filter::{Filter, Lines};
use dominator_core::trigger::Triggers;
use dominator_daemon::report::Show;
use dominator_daemon::{During, Failure, input};
use serde::Serialize;
use serde_json::Value;

use crate::show::FilterText;

/// Filters as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct MergedFilter(FilterText);

impl Show for MergedFilter {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.0.lines.iter().try_for_each(|line| writeln!(out, "{line}"))
    }
}

/// The line that inverts the others.
const INVERT: &str = "!";

/// All lines of the filters in `files`, each once. An image that is sparse (whose filter is no file, but an empty name) adds
/// nothing; several of them alone are sparse.
///
/// # Errors
/// [`Failure`] when one is no filter, or some are inverted and others not: no list of lines says what both say.
pub(crate) fn filters(files: &[PathBuf]) -> Result<MergedFilter, Failure> {
    let (mut lines, mut seen, mut inverted) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    let mut merged = Filter::Sparse;
    for file in files {
        let filter = input::filter(file)?;
        if let Filter::Lines(own) = &filter {
            inverted.insert(own.lines().iter().any(|line| line == INVERT));
            lines.extend(own.lines().iter().filter(|line| seen.insert((*line).clone())).cloned());
        }
        if filter != Filter::Sparse {
            merged = Filter::Empty;
        }
    }
    if inverted.len() > 1 {
        return Err(Failure::new(
            "some of the filters are inverted by a line ! and others are not; merge them by hand",
        ));
    }
    if !lines.is_empty() {
        merged = Lines::new(lines).map(Filter::Lines).during(|| "together they are no filter".into())?;
    }
    Ok(MergedFilter(FilterText::of(&merged)))
}

/// Triggers as one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct MergedTriggers {
    triggers: Value,
}

impl Show for MergedTriggers {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, &self.triggers)?;
        writeln!(out)
    }
}

/// The triggers in `files` as one list: those of one service and action are one, with all of their lines.
///
/// # Errors
/// [`Failure`] when one can't be read or is none.
pub(crate) fn triggers(files: &[PathBuf]) -> Result<MergedTriggers, Failure> {
    let read = |file: &PathBuf| input::triggers(Path::new(file));
    let mut merged = Triggers::default();
    for triggers in files.iter().map(read) {
        merged = merged.merged(&triggers?);
    }
    let json = merged.to_json();
    let triggers = serde_json::from_str(&json).during(|| "the triggers make no sense together".into())?;
    Ok(MergedTriggers { triggers })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(filters_of: &[&str]) -> Result<(&'static str, Vec<String>), String> {
        let dir = tempfile::tempdir().unwrap();
        let file = |(number, text): (usize, &&str)| {
            if text.is_empty() {
                return PathBuf::new();
            }
            let path = dir.path().join(number.to_string());
            std::fs::write(&path, text).unwrap();
            path
        };
        let files: Vec<_> = filters_of.iter().enumerate().map(file).collect();
        filters(&files).map(|merged| (merged.0.kind, merged.0.lines)).map_err(|error| error.to_string())
    }

    #[test]
    fn filters_are_merged_line_by_line_and_the_three_states_stay_apart() {
        let lines = |lines: &[&str]| lines.iter().copied().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(check(&["/a\n/b\n", "/b\n/c\n"]), Ok(("lines", lines(&["/a", "/b", "/c"]))));
        assert_eq!(check(&["", ""]), Ok(("sparse", vec![])));
        assert_eq!(check(&["", "# nothing\n"]), Ok(("empty", vec![])));
        assert_eq!(check(&["", "/a\n"]), Ok(("lines", lines(&["/a"]))));
        assert_eq!(check(&["!\n/a\n", "!\n/b\n"]), Ok(("lines", lines(&["!", "/a", "/b"]))));
        assert!(check(&["!\n/a\n", "/b\n"]).unwrap_err().contains("inverted"));
    }
}
