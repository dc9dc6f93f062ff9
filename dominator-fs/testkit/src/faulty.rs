use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dominator_fs::seam::Rename;
use rustix::io::Errno;

use crate::tapped::{Call, CallKind, Tap, Tapped};

/// A disk that fails when told to. Calls that would not reach the disk it stands for, or that such a disk still can do,
/// don't fail: from a full one things can be removed, one that is read-only has nothing to wait for.
pub type FaultyFs = Tapped<Arc<Faults>>;

/// What fails, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The `nth` call of this kind, or of any kind when not given, that can fail so.
    pub kind: Option<CallKind>,
    /// From one on, counted from the moment this was told.
    pub nth: usize,
    /// With what.
    pub errno: Errno,
    /// And after that?
    pub lasting: Lasting,
}

/// How long something fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    /// One call.
    Once,
    /// That call, and all calls of its kind after it.
    ThisKind,
    /// That call, and after it all that can fail so.
    Everything,
}

/// What a [`FaultyFs`] was told, and what it counted.
#[derive(Debug, Default)]
pub struct Faults(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    fault: Option<Fault>,
    /// What fails until it is mended.
    broken: Option<(Option<CallKind>, Errno)>,
    /// Calls made since the last time something was told or asked.
    calls: BTreeMap<CallKind, usize>,
    /// How many calls the fault could have hit.
    eligible: usize,
    hit: usize,
}

impl Faults {
    /// One that does not fail yet.
    pub fn none() -> Arc<Self> {
        Arc::default()
    }

    /// The disk for it.
    pub fn disk(self: &Arc<Self>) -> Arc<FaultyFs> {
        Arc::new(Tapped(Arc::clone(self)))
    }

    /// From now on, `fault`.
    pub fn breaks(&self, fault: Fault) {
        *self.lock() = State { fault: Some(fault), ..State::default() };
    }

    /// All is well from now on. Says how many calls failed since it was told to.
    pub fn mend(&self) -> usize {
        std::mem::take(&mut *self.lock()).hit
    }

    /// How many calls of each kind were made since something was told or asked last.
    pub fn count(&self) -> BTreeMap<CallKind, usize> {
        std::mem::take(&mut self.lock().calls)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tap for Faults {
    fn before(&self, call: Call<'_>) -> io::Result<()> {
        let mut state = self.lock();
        let kind = call.kind();
        *state.calls.entry(kind).or_default() += 1;
        if let Some((which, errno)) = state.broken {
            if which.is_none_or(|which| which == kind) && can_fail(call, errno) {
                state.hit += 1;
                return Err(errno.into());
            }
            return Ok(());
        }
        let Some(fault) = state.fault else { return Ok(()) };
        if fault.kind.is_some_and(|which| which != kind) || !can_fail(call, fault.errno) {
            return Ok(());
        }
        state.eligible += 1;
        if state.eligible != fault.nth {
            return Ok(());
        }
        state.fault = None;
        state.hit += 1;
        state.broken = match fault.lasting {
            Lasting::Once => None,
            Lasting::ThisKind => Some((Some(kind), fault.errno)),
            Lasting::Everything => Some((None, fault.errno)),
        };
        Err(fault.errno.into())
    }
}

/// Whether a file-system in such a state refuses such a call.
fn can_fail(call: Call<'_>, errno: Errno) -> bool {
    let needs_room = match call.kind() {
        CallKind::Mkdir
        | CallKind::Create
        | CallKind::Write
        | CallKind::Reflink
        | CallKind::Symlink
        | CallKind::Mknod
        | CallKind::Link
        | CallKind::SetXattr
        | CallKind::Fsync
        | CallKind::Syncfs => true,
        // What changes places needs no more room than it had.
        CallKind::Rename => !matches!(call, Call::Rename(_, _, Rename::Exchange)),
        CallKind::Truncate
        | CallKind::Remove
        | CallKind::Chmod
        | CallKind::Chown
        | CallKind::SetMtime
        | CallKind::RemoveXattr
        | CallKind::SetFlags => false,
    };
    match errno {
        Errno::NOSPC | Errno::DQUOT => needs_room,
        Errno::ROFS => !matches!(call.kind(), CallKind::Fsync | CallKind::Syncfs),
        _ => true,
    }
}
