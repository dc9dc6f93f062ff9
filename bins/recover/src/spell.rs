//! What is said of an update.

use dominator_core::port::{Chain, PathFailure};
use dominator_fs::update::{Reason, Recovery, UndoReport, WorkError};

/// How many paths are listed.
const SHOWN: usize = 50;

pub(crate) fn recovery(recovery: &Recovery) -> String {
    match recovery {
        Recovery::Clean => "nothing was under way".to_owned(),
        Recovery::Abandoned { .. } => {
            "an update that was cut off had not begun; it is given up, and nothing had changed".to_owned()
        }
        Recovery::Finished { report, .. } => {
            let done = format!("an update that was cut off is finished: {} changes", report.applied);
            listed(done, &report.failures)
        }
        Recovery::Undone { reason, report, .. } => undone(*reason, report),
        Recovery::OnTrial { .. } => {
            "an update is on trial: if the agent does not accept it, the next start of the machine undoes it"
                .to_owned()
        }
        Recovery::Kept { .. } => "the last update is complete".to_owned(),
        other => format!("{other:?}"),
    }
}

pub(crate) fn undone(reason: Reason, report: &UndoReport) -> String {
    let done = format!("the last update is undone, because {reason}: {} changes taken back", report.undone);
    listed(done, &report.not_as_before())
}

pub(crate) fn failure(error: &WorkError) -> String {
    Chain(error).to_string()
}

fn listed(mut text: String, failures: &[PathFailure]) -> String {
    for failure in failures.iter().take(SHOWN) {
        text.push_str(&format!("\n  {}: {}", failure.path, failure.reason));
    }
    match failures.len().saturating_sub(SHOWN) {
        0 => {}
        more => text.push_str(&format!("\n  and {more} more")),
    }
    text
}
