use super::{ArchivedExpiry, Mode, Policy, Task};
use crate::image::{ImageName, ImageState};

/// What follows from what there is at a name, here and at the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is to be done.
    Agreed,
    /// This is.
    Do(Task),
    /// Here and there can't be brought together without losing something.
    Hold(Held),
}

/// Why a name is held: what is here stays, and the master's is not fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Held {
    /// The master does not have it, and does not say that it was deleted: it has lost it, or is another server.
    Missing,
    /// The master says that another image of that name was deleted.
    AnotherDeleted,
    /// The master has another image of that name.
    Another,
    /// The master has an image that was deleted here: it was restored from an old backup.
    DeletedHere,
}

impl Held {
    /// Whether an operator may have it deleted here. Of two images with one name, nobody can say here which is the right one.
    pub const fn can_be_accepted(self) -> bool {
        match self {
            Self::Missing | Self::AnotherDeleted => true,
            Self::Another | Self::DeletedHere => false,
        }
    }

    /// For people: what is wrong, and what can be done.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Missing => {
                "the master does not have it and does not say that it was deleted; restore the master, or have it deleted \
                 here with imagetool accept-deletions"
            }
            Self::AnotherDeleted => {
                "the master has deleted another image of that name; restore the master, or have this one deleted with \
                 imagetool accept-deletions"
            }
            Self::Another => "the master has another image of that name; delete one of them there or here",
            Self::DeletedHere => "it was deleted, and the master has it again; delete it there",
        }
    }

    /// A word for programs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::AnotherDeleted => "another-deleted",
            Self::Another => "another",
            Self::DeletedHere => "deleted-here",
        }
    }
}

/// Decides about one name, when it is `now` seconds since 1970.
pub fn decide(policy: &Policy, name: &ImageName, here: ImageState, there: ImageState, now: u64) -> Verdict {
    use ImageState::{Absent, Deleted, Present};
    if !policy.selects(name) {
        return Verdict::Agreed;
    }
    match (here, there) {
        (Absent | Deleted { .. }, Absent | Deleted { .. }) => Verdict::Agreed,
        (Absent, Present { expires_at, .. }) => wanted(policy, expires_at, now, Task::Fetch),
        (Deleted { was }, Present { lasting, .. }) => match was {
            // Two servers that were both told to delete it, one of which has it from a backup.
            Some(was) if was == lasting => Verdict::Hold(Held::DeletedHere),
            Some(_) | None => Verdict::Hold(Held::Another),
        },
        (
            Present { id, lasting, expires_at },
            Present { id: theirs, lasting: as_lasting, expires_at: until },
        ) => {
            if id == theirs {
                Verdict::Agreed
            } else if lasting == as_lasting {
                Verdict::Do(Task::Refresh)
            } else if is_over(expires_at, now) {
                wanted(policy, until, now, Task::Replace)
            } else {
                Verdict::Hold(Held::Another)
            }
        }
        (Present { lasting, expires_at, .. }, Absent | Deleted { .. }) => {
            let deleted = if let Deleted { was } = there { Some(was) } else { None };
            match deleted {
                _ if policy.mode != Mode::Mirror => Verdict::Agreed,
                Some(Some(was)) if was == lasting => Verdict::Do(Task::Delete),
                // It goes by itself, as it went there.
                _ if is_over(expires_at, now) => Verdict::Agreed,
                Some(_) => Verdict::Hold(Held::AnotherDeleted),
                None => Verdict::Hold(Held::Missing),
            }
        }
    }
}

fn is_over(expires_at: Option<u64>, now: u64) -> bool {
    expires_at.is_some_and(|end| end <= now)
}

/// Whether an image that the master has until then is worth having.
fn wanted(policy: &Policy, expires_at: Option<u64>, now: u64, task: Task) -> Verdict {
    let left_out = policy.mode == Mode::Archive(ArchivedExpiry::LeftOut) && expires_at.is_some();
    if left_out || is_over(expires_at, now) { Verdict::Agreed } else { Verdict::Do(task) }
}
