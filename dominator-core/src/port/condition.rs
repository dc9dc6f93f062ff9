//! What stands in the way of updates of a machine, and what is known of the last one.

use std::fmt;
use std::time::Duration;

use super::TrialReason;
use crate::image::ImageName;
use crate::inode::Timestamp;

/// What an agent was started to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AgentMode {
    /// Everything.
    #[default]
    Normal,
    /// To look and to answer; it fetches nothing either.
    ReadOnly,
    /// Everything but updates.
    UpdatesDisabled,
    /// Updates without touching services: it was told to leave them alone, or its root is not that of the running system.
    TriggersDisabled,
}

impl fmt::Display for AgentMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Normal => "to do everything",
            Self::ReadOnly => "to look only",
            Self::UpdatesDisabled => "without updates",
            Self::TriggersDisabled => "without triggers",
        })
    }
}

/// An image that is not tried again on a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadImage {
    /// Which.
    pub image: ImageName,
    /// What was bad about it, for people to read.
    pub why: String,
    /// When that was found.
    pub since: Timestamp,
}

/// An update that is in place and not judged yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrialStatus {
    /// What the machine is meanwhile; nothing for a sparse image.
    pub image: Option<ImageName>,
    /// What comes before it is judged.
    pub why: TrialReason,
    /// When it began.
    pub since: Timestamp,
    /// How long after services have started it must be well.
    pub deadline: Duration,
}

/// An update that can be taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undoable {
    /// What the machine would be then, as far as is known.
    pub image: Option<ImageName>,
    /// Since when it is in place.
    pub since: Timestamp,
    /// How much room what is kept for it takes, in bytes.
    pub bytes: u64,
}

/// Whether those who use a machine may be disturbed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DisruptionState {
    /// Nobody has to be asked.
    #[default]
    Anytime,
    /// They may.
    Permitted,
    /// That was asked for.
    Requested,
    /// They may not.
    Denied,
}

impl fmt::Display for DisruptionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anytime => "anytime",
            Self::Permitted => "permitted",
            Self::Requested => "requested",
            Self::Denied => "denied",
        })
    }
}

/// A few words a machine says of itself, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note(String);

impl Note {
    /// The longest, in bytes.
    pub const MAX_LEN: usize = 64;

    /// As much of `text` as there is room for: of its first line, without what no terminal can show.
    pub fn cut(text: &str) -> Option<Self> {
        let line = text.trim().lines().next().unwrap_or_default();
        let mut shown = line.replace(char::is_control, " ");
        shown.truncate(shown.floor_char_boundary(Self::MAX_LEN));
        shown.truncate(shown.trim_end().len());
        (!shown.is_empty()).then_some(Self(shown))
    }

    /// The words.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who holds a lock: drawn at random by whoever takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockToken(pub u64);

/// An order to keep the orders of others out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockRequest {
    /// Whose orders are carried out meanwhile.
    pub token: LockToken,
    /// Who that is, for people to read.
    pub who: String,
    /// For how long.
    pub lease: Lease,
}

impl LockRequest {
    /// The longest name of a holder, in bytes.
    pub const MAX_WHO: usize = 100;
}

/// How long a lock holds, unless it is taken again: a holder that dies locks nobody out for long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lease(Duration);

impl Lease {
    /// The longest.
    pub const MAX: Self = Self(Duration::from_secs(15));
    /// None: the lock is given back.
    pub const NONE: Self = Self(Duration::ZERO);

    /// That long, at most [`Lease::MAX`].
    pub fn of(time: Duration) -> Self {
        Self(time.min(Self::MAX.0))
    }

    /// As a duration.
    pub const fn get(self) -> Duration {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_one_short_line() {
        let cut = |text: &str| Note::cut(text).map(|note| note.to_string());
        assert_eq!(cut(" kernel 6.1\nmore"), Some("kernel 6.1".into()));
        assert_eq!(cut("a\x1b[31mb"), Some("a [31mb".into()));
        assert_eq!(cut(&"ü".repeat(40)), Some("ü".repeat(32)));
        assert_eq!((cut(""), cut("\n \n")), (None, None));
    }

    #[test]
    fn nobody_locks_others_out_for_more_than_15_seconds_at_a_time() {
        assert_eq!(Lease::of(Duration::from_secs(60)), Lease::MAX);
        assert_eq!(Lease::of(Duration::from_secs(2)).get(), Duration::from_secs(2));
    }
}
