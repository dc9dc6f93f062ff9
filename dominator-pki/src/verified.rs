//! What is known of a peer once its chain has been verified.

use std::fmt;
use std::str::FromStr;

use dominator_core::auth::Identity;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::certificate::{Certificate, Fingerprint, Serial, Validity};

/// A peer whose chain leads to an authority and was not revoked. Only [`Trust`](crate::Trust) makes these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    identity: Identity,
    serial: Serial,
    issuer: AuthorityKey,
    fingerprint: Fingerprint,
    valid: Validity,
    granted: Granted,
}

/// In what an authority is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Granted {
    /// In everything the certificate says.
    Everything,
    /// In name, groups, and node; methods and role do not count, and were emptied.
    IdentityOnly,
}

impl Verified {
    pub(crate) fn new(
        leaf: &Certificate,
        granted: Granted,
        issuer: AuthorityKey,
        between: &[Validity],
    ) -> Self {
        let claims = leaf.unverified_claims().clone();
        let identity = match granted {
            Granted::Everything => claims,
            Granted::IdentityOnly => Identity { methods: Vec::new(), role: None, ..claims },
        };
        let valid = between.iter().fold(leaf.validity(), |valid, other| valid.and(*other));
        Self {
            identity,
            serial: leaf.serial().clone(),
            issuer,
            fingerprint: leaf.fingerprint(),
            valid,
            granted,
        }
    }

    /// Who it is and what was granted.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The serial number of the leaf; with [`Self::issuer`] it names the certificate.
    pub fn serial(&self) -> &Serial {
        &self.serial
    }

    /// The key that signed the leaf.
    pub fn issuer(&self) -> AuthorityKey {
        self.issuer
    }

    /// SHA-256 of the leaf.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// When the leaf and everything between it and its authority are valid.
    pub fn valid(&self) -> Validity {
        self.valid
    }

    /// In what the certificate is believed.
    pub fn granted(&self) -> Granted {
        self.granted
    }
}

/// An authority's public key: SHA-256 of its `SubjectPublicKeyInfo` in DER.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuthorityKey([u8; 32]);

impl AuthorityKey {
    pub(crate) fn of(public_key: &[u8]) -> Self {
        Self(Sha256::digest(public_key).into())
    }
}

impl FromStr for AuthorityKey {
    type Err = BadAuthorityKey;

    fn from_str(text: &str) -> Result<Self, BadAuthorityKey> {
        let digits: Vec<_> = text.chars().map(|digit| digit.to_digit(16)).take(65).collect();
        let digits: Vec<u32> = digits.into_iter().collect::<Option<_>>().ok_or(BadAuthorityKey)?;
        let bytes: Vec<u8> = digits
            .chunks(2)
            .filter_map(|pair| u8::try_from(pair.iter().fold(0, |byte, digit| byte << 4 | digit)).ok())
            .collect();
        match (digits.len(), <[u8; 32]>::try_from(bytes)) {
            (64, Ok(key)) => Ok(Self(key)),
            _ => Err(BadAuthorityKey),
        }
    }
}

/// Text that is no [`AuthorityKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an authority's key is named by the SHA-256 of its public key, 64 hexadecimal digits")]
pub struct BadAuthorityKey;

impl fmt::Display for AuthorityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
