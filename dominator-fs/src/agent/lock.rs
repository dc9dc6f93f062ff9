//! The client lock: for a moment, one client's orders only.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use dominator_core::port::{LockRequest, LockToken, Refusal};

/// Who has the machine for itself, if anybody has. It ends by itself, so that a client that died holds up nobody for long.
#[derive(Debug, Default)]
pub(super) struct Lock(Mutex<Option<Held>>);

#[derive(Debug)]
struct Held {
    token: LockToken,
    who: String,
    until: Instant,
}

impl Lock {
    /// Takes it, or keeps it for longer; for no time: gives it back.
    ///
    /// # Errors
    /// Somebody else has it.
    pub(super) fn take(&self, request: &LockRequest, now: Instant) -> Result<(), Refusal> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        admit(held.as_ref(), Some(request.token), now)?;
        let who = request.who.replace(char::is_control, " ");
        let who = who.get(..who.floor_char_boundary(LockRequest::MAX_WHO)).unwrap_or_default().to_owned();
        *held = Some(Held { token: request.token, who, until: now + request.lease.get() });
        Ok(())
    }

    /// Whether an order with this token may be carried out.
    ///
    /// # Errors
    /// Somebody else has the machine for itself.
    pub(super) fn admit(&self, token: Option<LockToken>, now: Instant) -> Result<(), Refusal> {
        admit(self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref(), token, now)
    }
}

fn admit(held: Option<&Held>, token: Option<LockToken>, now: Instant) -> Result<(), Refusal> {
    match held {
        Some(held) if held.until > now && Some(held.token) != token => {
            Err(Refusal::Locked { by: held.who.clone(), left: held.until - now })
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dominator_core::port::Lease;
    use std::time::Duration;

    #[test]
    fn who_has_the_lock_is_obeyed_and_others_are_told_who_it_is_until_it_is_over() {
        let lock = Lock::default();
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let request = |token: u64, lease: u64| {
            let lease = Lease::of(Duration::from_secs(lease));
            LockRequest { token: LockToken(token), who: format!("client {token}"), lease }
        };
        let admit = |token: Option<u64>, seconds| lock.admit(token.map(LockToken), at(seconds));
        admit(None, 0).unwrap();
        lock.take(&request(1, 3600), begin).unwrap();
        admit(Some(1), 14).unwrap();
        let refused = |left| {
            let left = Duration::from_secs(left);
            Err(Refusal::Locked { by: "client 1".to_owned(), left })
        };
        assert_eq!((admit(None, 12), admit(Some(2), 14)), (refused(3), refused(1)));
        assert_eq!(lock.take(&request(2, 15), at(14)), refused(1));
        lock.take(&request(1, 5), at(14)).unwrap();
        assert_eq!(admit(None, 18), refused(1));
        admit(None, 19).unwrap();
        lock.take(&request(2, 15), at(19)).unwrap();
        assert!(admit(Some(1), 20).is_err());
        lock.take(&request(2, 0), at(20)).unwrap();
        admit(None, 20).unwrap();
    }
}
