use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use dominator_core::auth::{Effect, Identity, Role, Scope};
use dominator_pki::{PkiError, Validity, Verified, rfc3339};
use rustls_pki_types::{CertificateDer, ServerName};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::sleep;

use super::tls::{Configured, Tls};
use crate::limits;

/// By which rules whoever is at the other end is judged.
#[derive(Clone, Debug)]
pub(super) enum Far {
    /// A client may be anybody whose name is known.
    Client,
    /// A server must play this role under this name.
    Server(Role, ServerName<'static>),
}

/// Whether whoever is at the other end of a connection may still be there: a certificate that was good when the
/// connection was made may expire, be revoked, or lose the authority behind it.
pub(crate) struct Standing {
    tls: Tls,
    far: Far,
    chain: Vec<CertificateDer<'static>>,
    identity: Arc<Identity>,
    /// Nothing where nobody has to prove anything.
    verified: Option<Arc<Verified>>,
    /// Under which trust it was found good.
    generation: AtomicU64,
    lost: OnceLock<Lost>,
}

impl Standing {
    /// Verifies `chain`, leaf first, by what is in force.
    pub(super) fn establish(
        tls: &Tls,
        far: Far,
        chain: &[CertificateDer<'_>],
    ) -> Result<Arc<Self>, PkiError> {
        let chain: Vec<_> = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let current = tls.current();
        let verified = judge(&current, &far, &chain, SystemTime::now())?;
        Ok(Arc::new(Self {
            tls: tls.clone(),
            far,
            chain,
            identity: Arc::new(verified.as_ref().map_or_else(insecure, |found| found.identity().clone())),
            verified: verified.map(Arc::new),
            generation: AtomicU64::new(current.generation),
            lost: OnceLock::new(),
        }))
    }

    /// Who is there.
    pub(super) fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// By which certificate.
    pub(super) fn verified(&self) -> Option<&Arc<Verified>> {
        self.verified.as_ref()
    }

    /// Says whether the connection may go on at `now`. Once it may not, it never may again. Costs next to nothing unless
    /// what is trusted was replaced in the meantime.
    pub(crate) fn check(&self, now: SystemTime) -> Result<(), &Lost> {
        if let Some(lost) = self.lost.get() {
            return Err(lost);
        }
        if let Some(valid) = self.verified.as_ref().map(|verified| verified.valid())
            && now > valid.not_after
        {
            return Err(self.lose(Lost::expired(&self.identity, valid, now)));
        }
        if self.generation.load(Ordering::Acquire) == self.tls.generation() {
            return Ok(());
        }
        let current = self.tls.current();
        match judge(&current, &self.far, &self.chain, now) {
            Ok(verified) if verified.as_ref() == self.verified.as_deref() => {
                self.generation.store(current.generation, Ordering::Release);
                Ok(())
            }
            Ok(_) => Err(self.lose(Lost::changed(&self.identity))),
            Err(error) => Err(self.lose(Lost::refused(&self.identity, &error))),
        }
    }

    /// Why a call with this effect is refused at `now`, if it is because nobody knows who was revoked.
    pub(crate) fn stale(&self, effect: Effect, now: SystemTime) -> Option<String> {
        self.tls.stale(effect, now)
    }

    /// Resolves when the connection may not go on. Safe to cancel.
    pub(super) async fn lost(&self) -> &Lost {
        let mut replaced: watch::Receiver<_> = self.tls.subscribe();
        loop {
            let now = SystemTime::now();
            if let Err(lost) = self.check(now) {
                return lost;
            }
            // Clocks are set: what is left by the wall clock now may not be what is left in a minute.
            let left = self.verified.as_ref().and_then(|verified| verified.valid().remaining(now));
            let look = sleep(left.map_or(limits::STANDING, |left| left.min(limits::STANDING)));
            tokio::select! {
                // The sender lives in `tls`.
                _ = replaced.changed() => {}
                () = look => {}
            }
        }
    }

    fn lose(&self, lost: Lost) -> &Lost {
        self.lost.get_or_init(|| lost)
    }
}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Standing").field("user", &self.identity.user).field("lost", &self.lost).finish()
    }
}

fn judge(
    current: &Configured,
    far: &Far,
    chain: &[CertificateDer<'_>],
    now: SystemTime,
) -> Result<Option<Verified>, PkiError> {
    let Some(proof) = &current.proof else { return Ok(None) };
    match far {
        Far::Client => proof.trust.identify(chain, now).map(Some),
        Far::Server(role, name) => proof.trust.recognise(chain, *role, name, now).map(Some),
    }
}

/// Who everybody is where nobody has to prove anything.
fn insecure() -> Identity {
    let everything = "*.*".parse().expect("invariant: this is a pattern");
    let (role, node) = (None, None);
    Identity {
        user: "insecure".into(),
        groups: BTreeSet::new(),
        methods: vec![everything],
        role,
        node,
        scope: Scope::default(),
    }
}

/// Why a connection that was good may not go on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{words}")]
pub struct Lost {
    cause: Cause,
    words: String,
}

/// The same in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Expired,
    Revoked,
    Untrusted,
    Changed,
}

impl Lost {
    /// For metrics: `expired`, `revoked`, `untrusted`, or `changed`.
    pub const fn word(&self) -> &'static str {
        match self.cause {
            Cause::Expired => "expired",
            Cause::Revoked => "revoked",
            Cause::Untrusted => "untrusted",
            Cause::Changed => "changed",
        }
    }

    fn expired(identity: &Identity, valid: Validity, now: SystemTime) -> Self {
        let (user, now, end) = (&identity.user, rfc3339(now), rfc3339(valid.not_after));
        let words = format!(
            "the certificate of {user:?} has expired: by this machine's clock it is {now}, and it was valid until {end}"
        );
        Self { cause: Cause::Expired, words }
    }

    fn changed(identity: &Identity) -> Self {
        let user = &identity.user;
        let words = format!("what the certificate of {user:?} is good for has changed; connect again");
        Self { cause: Cause::Changed, words }
    }

    fn refused(identity: &Identity, error: &PkiError) -> Self {
        let (user, why) = (&identity.user, crate::wire::text(error));
        let words = format!("the certificate of {user:?} is no longer accepted: {why}");
        let cause = if matches!(error, PkiError::Untimely { .. }) {
            Cause::Expired
        } else if matches!(error, PkiError::Revoked { .. }) {
            Cause::Revoked
        } else {
            Cause::Untrusted
        };
        Self { cause, words }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dominator_pki::Trust;
    use dominator_pki::ca::{Authority, Leaf};

    use super::*;

    struct Fleet(Authority);

    impl Fleet {
        fn new() -> Self {
            Self(Authority::create("Fleet", SystemTime::now()).unwrap())
        }

        fn trust(&self) -> Trust {
            Trust::from_pem(self.0.certificate_pem().as_bytes(), None).unwrap()
        }

        fn credentials(&self, user: &str) -> dominator_pki::Credentials {
            self.0.issue_credentials(&Leaf::new(user).unwrap().days(2), SystemTime::now()).unwrap()
        }
    }

    fn standing(fleet: &Fleet) -> (Tls, Arc<Standing>) {
        let tls = Tls::new(fleet.trust(), fleet.credentials("subd")).unwrap();
        let alice = fleet.credentials("alice");
        (tls.clone(), Standing::establish(&tls, Far::Client, alice.chain()).unwrap())
    }

    #[test]
    fn a_call_that_comes_before_its_connection_is_closed_is_refused() {
        let (fleet, next) = (Fleet::new(), Fleet::new());
        let now = SystemTime::now();
        let (tls, standing) = standing(&fleet);
        standing.check(now).unwrap();
        tls.replace(next.trust(), next.credentials("subd")).unwrap();
        let lost = standing.check(now).unwrap_err().clone();
        assert_eq!(lost.word(), "untrusted");
        // What is trusted again later does not bring it back: somebody has been told that it is over.
        tls.replace(fleet.trust(), fleet.credentials("subd")).unwrap();
        assert_eq!(standing.check(now), Err(&lost));
    }

    #[test]
    fn whoever_is_still_believed_stands_whatever_else_was_replaced() {
        let fleet = Fleet::new();
        let (tls, standing) = standing(&fleet);
        for _ in 0..3 {
            tls.replace(fleet.trust(), fleet.credentials("subd")).unwrap();
            standing.check(SystemTime::now()).unwrap();
        }
        assert_eq!(tls.generation(), 3);
    }

    #[test]
    fn a_call_after_the_end_of_a_certificate_is_refused_however_the_clock_came_there() {
        let (_, standing) = standing(&Fleet::new());
        let lost = standing.check(SystemTime::now() + Duration::from_secs(3 * 86_400)).unwrap_err();
        assert_eq!(lost.word(), "expired");
    }

    #[test]
    fn whoever_loses_powers_has_to_connect_again() {
        let (fleet, root) = (Fleet::new(), Fleet::new());
        let (tls, standing) = standing(&fleet);
        let pem = |fleet: &Fleet| fleet.0.certificate_pem().to_owned();
        let trust = Trust::from_pem(pem(&root).as_bytes(), Some(pem(&fleet).as_bytes())).unwrap();
        tls.replace(trust, fleet.credentials("subd")).unwrap();
        assert_eq!(standing.check(SystemTime::now()).unwrap_err().word(), "changed");
    }
}
