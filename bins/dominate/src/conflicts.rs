//! `dominate remove-conflicts`: what undoing moved out of the way, without an agent.

use std::io::{self, Write};

use dominator_daemon::report::{Format, Show, show};
use dominator_daemon::value::HumanBytes;
use dominator_daemon::{During, Failure};
use serde::Serialize;

use crate::undo::open;
use crate::{RootOptions, Verdict};

/// How much of it is named.
const NAMED: usize = 100;

/// What `--json` prints; docs/schemas/dominate-remove-conflicts.json.
#[derive(Serialize)]
struct Removed {
    /// Some of it.
    removed: Vec<String>,
    removed_count: u64,
    bytes: u64,
}

/// Removes it, after an update that was cut off was brought to its end.
pub(crate) fn remove(options: &RootOptions, format: Format) -> Result<Verdict, Failure> {
    let what = || format!("can't remove the conflicts of {}", options.root.display());
    let (mut updater, _) = open(&options.root)?;
    let removed = updater.remove_conflicts(NAMED).during(what)?;
    let removed_count = (removed.paths.len() as u64).saturating_add(removed.more);
    let named = removed.paths.iter().map(ToString::to_string).collect();
    show(&Removed { removed: named, removed_count, bytes: removed.bytes }, format)?;
    Ok(Verdict::Compliant)
}

impl Show for Removed {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.removed.iter().try_for_each(|path| writeln!(out, "{path}"))?;
        let more = self.removed_count.saturating_sub(self.removed.len() as u64);
        if more > 0 {
            writeln!(out, "and {more} more")?;
        }
        writeln!(out, "{} conflicts of {} are gone", self.removed_count, HumanBytes(self.bytes))
    }
}
