//! Keeping what is trusted, and what is shown, as it is in its files.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use dominator_pki::files::{Loaded, TrustFiles};
use dominator_pki::{StalePolicy, Validity};
use tokio::time::{Instant, sleep};

use super::expiry::{Expiry, Warning};
use super::tls::{Proof, Tls};
use crate::metrics::{Expiring, Metrics, Success};
use crate::wire;

/// How often it is looked what is about to expire.
const EXPIRY: Duration = Duration::from_secs(60);

/// Has a [`Tls`] trust and show what its files say, whenever they say something else; tells what can't be read, and warns
/// of what is about to expire.
///
/// What can't be read leaves in force what was before, and is told when it comes to that, not with every look.
#[derive(Debug)]
pub struct Follower {
    tls: Tls,
    files: Arc<Mutex<TrustFiles>>,
    metrics: Metrics,
    expiry: Expiry,
}

/// Why it is looked.
#[derive(Clone, Copy, Debug)]
enum Look {
    Due,
    Ordered,
}

impl Follower {
    /// Follows `files`, of which `tls` was made, and counts into `metrics`.
    pub fn new(tls: Tls, files: TrustFiles, metrics: Metrics) -> Self {
        Self { tls, files: Arc::new(Mutex::new(files)), metrics, expiry: Expiry::default() }
    }

    /// Looks `every` so often, and at once whenever `ordered` resolves, which must be safe to cancel. Goes on until it is
    /// dropped; safe to cancel.
    pub async fn follow(&mut self, every: Duration, mut ordered: impl AsyncFnMut()) -> Infallible {
        let mut warned = Instant::now();
        self.warn(SystemTime::now());
        loop {
            let look = tokio::select! {
                () = sleep(every) => Look::Due,
                () = ordered() => Look::Ordered,
            };
            let is_new = self.look(look).await;
            if is_new || warned.elapsed() >= EXPIRY {
                warned = Instant::now();
                self.warn(SystemTime::now());
            }
        }
    }

    /// Takes over what the files say, if it is anything new.
    async fn look(&mut self, look: Look) -> bool {
        let files = Arc::clone(&self.files);
        // Files can lie on a disk that does not answer.
        let looked = tokio::task::spawn_blocking(move || {
            let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
            let now = SystemTime::now();
            match look {
                Look::Due => files.look(now),
                Look::Ordered => Some(files.reload(now)),
            }
        });
        match looked.await {
            Ok(None) => false,
            Ok(Some(loaded)) => {
                self.take(loaded, look);
                true
            }
            Err(broken) => {
                tracing::error!("reading certificates broke down; those before stay in force: {broken}");
                false
            }
        }
    }

    fn take(&self, Loaded { trust, credentials, mut problems }: Loaded, look: Look) {
        problems.extend(self.tls.replace(trust, credentials).err());
        for problem in &problems {
            let why = wire::text(problem);
            tracing::error!("what can't be read, or is refused, leaves in force what was before: {why}");
        }
        let generation = self.tls.generation();
        match look {
            _ if !problems.is_empty() => {}
            Look::Due => tracing::info!(generation, "certificates were read again: they have changed"),
            Look::Ordered => tracing::info!(generation, "certificates were read again, as ordered"),
        }
        self.metrics.reloaded(if problems.is_empty() { Success::Ok } else { Success::Failed });
    }

    /// Warns of what is about to expire.
    fn warn(&mut self, now: SystemTime) {
        let current = self.tls.current();
        let Some(proof) = &current.proof else { return };
        for kind in [Expiring::Certificate, Expiring::Authority, Expiring::RevocationList] {
            let ends = ends(proof, kind);
            self.metrics.expires(kind, ends.iter().map(|(_, valid)| valid.not_after).min());
            let then = what_ends(kind, self.tls.stale_policy());
            for (what, valid) in &ends {
                self.expiry.look(what, *valid, then, now).iter().for_each(Warning::tell);
            }
        }
    }
}

/// What can't be done any more when something of this kind is over, where that is not plain: a late list stops the very
/// updates that would bring a newer one.
const fn what_ends(kind: Expiring, policy: StalePolicy) -> &'static str {
    match (kind, policy) {
        (Expiring::RevocationList, StalePolicy::ClosedForChanges) => {
            ": without a current list no machine can be changed, also not to bring it a new list"
        }
        (Expiring::RevocationList, StalePolicy::Closed) => {
            ": without a current list no call is served, also none that would bring a new list"
        }
        (Expiring::RevocationList, StalePolicy::Open) | (Expiring::Certificate | Expiring::Authority, _) => {
            ""
        }
    }
}

/// Everything of a kind, in words, with its time.
fn ends(proof: &Proof, kind: Expiring) -> Vec<(String, Validity)> {
    match kind {
        Expiring::Certificate => {
            vec![(format!("our certificate in {}", proof.credentials.origin()), proof.valid())]
        }
        Expiring::Authority => {
            let authorities = proof.trust.authorities_valid().iter();
            authorities.map(|(name, valid)| (format!("the authority {name:?}"), *valid)).collect()
        }
        Expiring::RevocationList => {
            let lists = proof.trust.revocation().lists_valid();
            let told = |(origin, issuer, valid)| {
                (format!("the list of revoked certificates of {issuer:?} in {origin}"), valid)
            };
            lists.map(told).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_of_a_list_that_without_a_newer_one_none_can_be_brought() {
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(90 * 86_400);
        let valid = Validity { not_before: SystemTime::UNIX_EPOCH, not_after: end };
        let said = |kind, policy, now| {
            let then = what_ends(kind, policy);
            let (Warning::Soon(words) | Warning::Over(words)) =
                Expiry::default().look("it", valid, then, now).unwrap();
            words
        };
        let day = Duration::from_secs(86_400);
        for now in [end - day * 30, end - day * 7, end - day, end + day] {
            let list = |policy| said(Expiring::RevocationList, policy, now);
            assert!(list(StalePolicy::ClosedForChanges).contains("also not to bring it a new list"));
            assert!(list(StalePolicy::Closed).contains("no call is served"));
            assert!(list(StalePolicy::Open).ends_with("have it renewed"));
            assert!(said(Expiring::Authority, StalePolicy::Closed, now).ends_with("have it renewed"));
        }
    }
}
