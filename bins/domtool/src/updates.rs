//! What was decided about updates, as shown.

use std::io::{self, Write};

use dominator_daemon::report::Show;
use dominator_daemon::value::rfc3339;
use dominator_rpc::controller::{Switch, Updates};
use serde::Serialize;

/// Whether machines are changed, and who decided so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Decision {
    updates: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    who: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    when: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Decision {
    /// One that was just made; who made it is what the certificate says.
    pub(crate) fn made(switch: Switch) -> Self {
        Self { updates: word(switch), who: None, when: None, reason: None }
    }

    /// The one in force; nobody made the first.
    pub(crate) fn of(updates: Updates) -> Self {
        let decided = !updates.who.is_empty();
        Self {
            updates: word(updates.switch),
            when: decided.then(|| rfc3339(updates.when)),
            who: Some(updates.who).filter(|_| decided),
            reason: Some(updates.reason).filter(|reason| !reason.is_empty()),
        }
    }
}

impl Show for Decision {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        write!(out, "updates are {}", self.updates)?;
        if let Some((who, when)) = self.who.as_ref().zip(self.when.as_ref()) {
            write!(out, " by {who} since {when}")?;
        }
        self.reason.as_ref().map_or(Ok(()), |reason| write!(out, ": {reason}"))?;
        writeln!(out)
    }
}

fn word(switch: Switch) -> &'static str {
    match switch {
        Switch::Enabled => "enabled",
        Switch::Disabled => "disabled",
    }
}
