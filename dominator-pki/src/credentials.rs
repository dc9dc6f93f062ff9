//! What one end of a connection proves itself with.

use std::fmt;

use rustls::crypto::ring;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::certificate::Certificate;
use crate::error::{Origin, PkiError};

/// The most certificates in one chain.
pub const MAX_CHAIN: usize = 8;

/// A certificate chain and the private key of its leaf.
pub struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    leaf: Certificate,
    origin: Origin,
}

impl Credentials {
    /// Reads a chain, leaf first, and its key: PKCS#8, PKCS#1 or SEC1.
    ///
    /// Validity in time is not looked at: only the caller knows what time it is.
    ///
    /// # Errors
    /// [`PkiError`] when either is unreadable, the leaf is malformed or version 1, or they are no pair.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, PkiError> {
        Self::from_pem_of(chain, key, &Origin::Memory, &Origin::Memory)
    }

    pub(crate) fn from_pem_of(
        chain: &[u8],
        key: &[u8],
        chain_origin: &Origin,
        key_origin: &Origin,
    ) -> Result<Self, PkiError> {
        let chain = certificates(chain, MAX_CHAIN, chain_origin)?;
        let first = chain.first().ok_or_else(|| PkiError::NoCertificate { origin: chain_origin.clone() })?;
        let leaf = Certificate::parse(first)
            .map_err(|source| PkiError::BadCertificate { origin: chain_origin.clone(), source })?;
        leaf.require_version_three(chain_origin.clone())?;
        let key =
            PrivateKeyDer::from_pem_slice(key).map_err(|_| PkiError::NoKey { origin: key_origin.clone() })?;
        let pair = CertifiedKey::from_der(chain.clone(), key.clone_key(), &ring::default_provider());
        if let Err(rustls::Error::InconsistentKeys(_)) = pair {
            return Err(PkiError::KeyMismatch { origin: chain_origin.clone() });
        }
        pair.map_err(|error| PkiError::UnusableKey { origin: key_origin.clone(), source: error.into() })?;
        Ok(Self { chain, key, leaf, origin: chain_origin.clone() })
    }

    /// The leaf.
    pub fn certificate(&self) -> &Certificate {
        &self.leaf
    }

    /// The chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Where the certificate came from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }
}

impl Clone for Credentials {
    fn clone(&self) -> Self {
        Self {
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            leaf: self.leaf.clone(),
            origin: self.origin.clone(),
        }
    }
}

impl fmt::Debug for Credentials {
    /// The key stays out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("leaf", &self.leaf)
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

/// Every section in `pem`, at most `limit`, of a file in which each counts: readers pass over what they do not know, and
/// what was passed over so could be an authority, or a revocation.
pub(crate) fn sections(
    pem: &[u8],
    limit: usize,
    origin: &Origin,
) -> Result<Vec<(SectionKind, Vec<u8>)>, PkiError> {
    const BEGIN: &[u8] = b"-----BEGIN ";
    let begun = pem.windows(BEGIN.len()).filter(|window| *window == BEGIN).count();
    if begun > limit {
        return Err(PkiError::TooMany { origin: origin.clone(), limit });
    }
    let found: Vec<_> = <(SectionKind, Vec<u8>)>::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|source| PkiError::NotPem { origin: origin.clone(), source })?;
    match found.len() == begun {
        true => Ok(found),
        false => Err(PkiError::UnreadSection { origin: origin.clone() }),
    }
}

/// Every certificate in `pem`, at most `limit`.
pub(crate) fn certificates(
    pem: &[u8],
    limit: usize,
    origin: &Origin,
) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let found = CertificateDer::pem_slice_iter(pem).take(limit.saturating_add(1));
    let found: Vec<_> = found
        .collect::<Result<_, _>>()
        .map_err(|source| PkiError::NotPem { origin: origin.clone(), source })?;
    match found.len() {
        0 => Err(PkiError::NoCertificate { origin: origin.clone() }),
        count if count > limit => Err(PkiError::TooMany { origin: origin.clone(), limit }),
        _ => Ok(found),
    }
}
