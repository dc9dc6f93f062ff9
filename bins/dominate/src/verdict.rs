use std::process::ExitCode;

use serde::Serialize;

/// How a command ended, as its exit status tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Everything is as it must be, or was made so: 0.
    Compliant,
    /// Something is not as it must be: 1.
    Deviant,
    /// Not everything could be looked at, and what could be is as it must be: 2.
    CouldNotLook,
    /// The command could not be carried out: 3.
    Failed,
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> Self {
        Self::from(match verdict {
            Verdict::Compliant => 0,
            Verdict::Deviant => 1,
            Verdict::CouldNotLook => 2,
            Verdict::Failed => 3,
        })
    }
}
