//! `dominate undo` and `dominate recover`: what is kept of the last update of a directory, without an agent.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use dominator_core::port::PathFailure;
use dominator_daemon::remark::Remark;
use dominator_daemon::report::{Format, Show, show};
use dominator_daemon::{During, Failure};
use dominator_fs::root::Root;
use dominator_fs::seam::Kernel;
use dominator_fs::update::{Reason, Recovery, Updater};
use serde::Serialize;

use crate::{RootOptions, Verdict};

/// Takes the last update back.
pub(crate) fn undo(options: &RootOptions, format: Format) -> Result<Verdict, Failure> {
    let what = || format!("can't undo the last update of {}", options.root.display());
    let (mut updater, found) = open(&options.root).during(what)?;
    let outcome = match Outcome::of(found) {
        // What was cut off was the update to undo, or another attempt to undo it.
        outcome if outcome.found == Found::Undone => outcome,
        _ => {
            let report = updater.undo(Reason::Asked).during(what)?;
            Outcome::new(Found::Undone, report.undone, &report.not_as_before())
        }
    };
    outcome.show(format)
}

/// Brings an update that was cut off to its end, and says what there is to undo.
pub(crate) fn recover(options: &RootOptions, format: Format) -> Result<Verdict, Failure> {
    let what = || format!("can't bring the last update of {} to its end", options.root.display());
    let (_updater, found) = open(&options.root).during(what)?;
    Outcome::of(found).show(format)
}

/// Opens the directory; an update that was cut off is brought to its end.
pub(crate) fn open(root: &Path) -> Result<(Updater, Recovery), Failure> {
    let what = || format!("can't open {}", root.display());
    let (root, _) = Root::open_beneath_mounts(root).during(what)?;
    let (mut updater, found) = Updater::open(root, Arc::new(Kernel)).during(what)?;
    if matches!(found, Recovery::Undone { .. }) {
        // It is told now, and nobody else waits for it.
        updater.clean_up().during(what)?;
    }
    Ok((updater, found))
}

/// What `--json` prints; docs/schemas/dominate-recover.json and dominate-undo.json.
#[derive(Serialize)]
struct Outcome {
    verdict: Verdict,
    found: Found,
    changes: u64,
    failures: Vec<Remark>,
}

/// What was found, and what became of it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Found {
    Nothing,
    Abandoned,
    Finished,
    Undone,
    Undoable,
}

impl Outcome {
    fn new(found: Found, changes: u64, failures: &[PathFailure]) -> Self {
        let failures: Vec<_> = failures.iter().map(|f| Remark::new(&f.path, f.reason.as_str())).collect();
        let verdict = if failures.is_empty() { Verdict::Compliant } else { Verdict::Deviant };
        Self { verdict, found, changes, failures }
    }

    fn of(recovery: Recovery) -> Self {
        match recovery {
            Recovery::Abandoned { .. } => Self::new(Found::Abandoned, 0, &[]),
            Recovery::Finished { report, .. } => Self::new(Found::Finished, report.applied, &report.failures),
            Recovery::Undone { report, .. } => {
                Self::new(Found::Undone, report.undone, &report.not_as_before())
            }
            Recovery::Kept { totals, .. } | Recovery::OnTrial { totals, .. } => {
                Self::new(Found::Undoable, totals.applied, &[])
            }
            Recovery::Clean | _ => Self::new(Found::Nothing, 0, &[]),
        }
    }

    fn show(&self, format: Format) -> Result<Verdict, Failure> {
        show(self, format)?;
        Ok(self.verdict)
    }
}

impl Show for Outcome {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.failures.iter().try_for_each(|failure| writeln!(out, "{failure}"))?;
        let changes = self.changes;
        match self.found {
            Found::Nothing => writeln!(out, "nothing was under way, and there is nothing to undo"),
            Found::Abandoned => {
                writeln!(
                    out,
                    "an update was cut off before it changed anything; what it had prepared is gone"
                )
            }
            Found::Finished => {
                writeln!(
                    out,
                    "an update was cut off and is finished now: {changes} changes; it can be undone"
                )
            }
            Found::Undone => writeln!(out, "the last update is undone: {changes} changes taken back"),
            Found::Undoable => {
                writeln!(out, "the last update is complete: {changes} changes; it can be undone")
            }
        }
    }
}
