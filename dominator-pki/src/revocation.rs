//! Certificates taken back: lists that their authorities signed, and what this machine's operator denies.

mod denied;
mod list;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use dominator_core::auth::Identity;

pub use denied::{BadDenial, DenyList};
pub use list::{MAX_LISTS, MAX_REVOKED};

use crate::certificate::{Certificate, Serial, Validity};
use crate::error::{Origin, PkiError, Revoker};
use crate::path::Step;
use crate::trust::Trust;
use crate::verified::AuthorityKey;
use list::List;

/// Who is not believed any more although an authority once signed for him.
///
/// A list of revoked certificates binds the key that signed it, and nobody else's certificates: another authority of the
/// same name revokes nothing of ours, and an intermediate revokes nothing of the root's. Of the lists of one key the
/// newest is in force; none gives way to an older one. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Revocation {
    lists: BTreeMap<AuthorityKey, Arc<List>>,
    /// Whose lists were in the files before and have not been found in them again.
    left: BTreeSet<AuthorityKey>,
    denied: Arc<DenyList>,
    unread: Vec<(Origin, SystemTime)>,
}

impl Revocation {
    /// Takes over the lists in one file: one in DER, or any in PEM, with the certificates of the intermediates that signed
    /// them. All count, or none.
    ///
    /// Gives back what is not in force, with the reason: lists that are older than the one held, and lists that no
    /// authority of `trust` stands behind as long as it stands behind another in the same file.
    ///
    /// # Errors
    /// [`PkiError::RefusedRevocationList`], [`PkiError::NotPem`], [`PkiError::UnreadSection`], [`PkiError::TooMany`]; [`PkiError::UnknownRevoker`] when it is
    /// so with all lists in the file.
    pub fn read_lists(
        &mut self,
        trust: &Trust,
        bytes: &[u8],
        origin: &Origin,
    ) -> Result<Vec<PkiError>, PkiError> {
        let (found, mut refused) = list::read(trust, bytes, origin)?;
        for list in found {
            self.left.remove(&list.key());
            let held = self.lists.get(&list.key()).filter(|held| list.is_older_than(held));
            match held {
                Some(held) => refused.push(list.refuse_for(held)),
                None => drop(self.lists.insert(list.key(), Arc::new(list))),
            }
        }
        Ok(refused)
    }

    /// Replaces the deny list.
    pub fn deny(&mut self, denied: DenyList) {
        self.denied = Arc::new(denied);
    }

    /// The deny list.
    pub fn denied(&self) -> &DenyList {
        &self.denied
    }

    /// Remembers that the lists in a file could not be read, and since when: what was revoked stays so, but nobody knows
    /// what was revoked since.
    pub fn missed(&mut self, origin: Origin, now: SystemTime) {
        self.unread.push((origin, now));
    }

    /// What stays in force when all files are read again under `trust`: the deny list, and every list of an authority that
    /// is still trusted. Until one is found in a file again, it need not be current.
    #[must_use]
    pub fn carried_over(&self, trust: &Trust) -> Self {
        let trusted = |list: &&Arc<List>| trust.has_authority(list.root());
        let lists: BTreeMap<_, _> =
            self.lists.values().filter(trusted).map(|list| (list.key(), list.clone())).collect();
        let left = lists.keys().copied().collect();
        Self { lists, left, denied: self.denied.clone(), unread: Vec::new() }
    }

    /// Which lists are in force although no file holds them any more, but those of files that can't be read.
    pub fn left_behind(&self) -> Vec<PkiError> {
        let left = self.lists.values().filter(|list| self.left.contains(&list.key()));
        let left = left.filter(|list| self.missed_since(list.origin()).is_none());
        left.map(|list| list.left_behind()).collect()
    }

    /// Since when the lists in this file could not be read, if they can't.
    pub fn missed_since(&self, origin: &Origin) -> Option<SystemTime> {
        self.unread.iter().find(|(unread, _)| unread == origin).map(|(_, since)| *since)
    }

    /// Whether everything that may have been revoked by `now` is known.
    pub fn standing(&self, now: SystemTime) -> RevocationStanding {
        let expired = self.found().filter(|list| list.next() < now);
        let expired = expired.map(|list| (list.origin().clone(), list.next()));
        let first = expired.chain(self.unread.iter().cloned()).min_by_key(|(_, since)| *since);
        first.map_or(RevocationStanding::Current, |(origin, since)| RevocationStanding::Stale {
            origin,
            since,
        })
    }

    /// Where each list that is in force was read, whose it is, and from when until when it is current.
    pub fn lists_valid(&self) -> impl Iterator<Item = (&Origin, &str, Validity)> {
        self.found().map(|list| (list.origin(), list.issuer(), list.current()))
    }

    /// How many lists are in force.
    pub fn lists(&self) -> usize {
        self.lists.len()
    }

    /// By what a certificate was taken back, if it was, of which `issuer` is the authority's: for people who look at it.
    /// Without an issuer, nobody's lists bind it.
    pub fn names(&self, certificate: &Certificate, issuer: Option<&Certificate>) -> Option<Revoker> {
        let issuer = issuer.map_or_else(|| AuthorityKey::of(&[]), Certificate::own_key);
        let step = Step { issuer, serial: certificate.serial().clone() };
        self.judge(certificate.unverified_claims(), &[step]).err().map(|revoked| revoked.by)
    }

    fn found(&self) -> impl Iterator<Item = &Arc<List>> {
        self.lists.values().filter(|list| !self.left.contains(&list.key()))
    }

    /// Says why a path is not to be believed whose leaf, first among `steps`, makes these claims.
    pub(crate) fn judge(&self, claims: &Identity, steps: &[Step]) -> Result<(), RevokedBy> {
        for step in steps {
            let list = self.lists.get(&step.issuer).filter(|list| list.holds(&step.serial));
            let by = list.map(|list| Revoker::List(list.origin().clone()));
            if let Some(by) = by.or_else(|| self.denied.serial(&step.serial, step.issuer)) {
                return Err(RevokedBy { serial: step.serial.clone(), by });
            }
        }
        match (self.denied.identity(claims), steps.first()) {
            (Some(by), Some(leaf)) => Err(RevokedBy { serial: leaf.serial.clone(), by }),
            _ => Ok(()),
        }
    }
}

/// The certificate on a path that was taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RevokedBy {
    pub(crate) serial: Serial,
    pub(crate) by: Revoker,
}

/// Whether everything that was revoked is known.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RevocationStanding {
    /// It is, as far as lists can tell.
    Current,
    /// It is not. What was revoked before stays revoked.
    Stale {
        /// The list that should have been replaced, or that can't be read.
        origin: Origin,
        /// Since when.
        since: SystemTime,
    },
}

/// What is still allowed while the [`RevocationStanding`] is stale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StalePolicy {
    /// Everything: for those who would rather have a revoked certificate do harm than a late list.
    Open,
    /// What changes nothing.
    #[default]
    ClosedForChanges,
    /// Nothing.
    Closed,
}

impl StalePolicy {
    const NAMES: [(Self, &'static str); 3] =
        [(Self::Open, "open"), (Self::ClosedForChanges, "closed-for-changes"), (Self::Closed, "closed")];
}

impl fmt::Display for StalePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(policy, _)| policy == self).map(|(_, name)| name);
        f.write_str(name.expect("invariant: every policy has a name"))
    }
}

impl FromStr for StalePolicy {
    type Err = BadStalePolicy;

    fn from_str(text: &str) -> Result<Self, BadStalePolicy> {
        Self::NAMES.iter().find(|(_, name)| *name == text).map(|(policy, _)| *policy).ok_or(BadStalePolicy)
    }
}

/// Text that is no [`StalePolicy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write open, closed-for-changes, or closed")]
pub struct BadStalePolicy;
