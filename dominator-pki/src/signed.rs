//! Who has signed something in the way of X.509, by key.

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::der::{BIT_STRING, SEQUENCE, take};
use crate::verified::AuthorityKey;

type Algorithms = [&'static dyn SignatureVerificationAlgorithm];

/// An authority that may sign, whether it is trusted itself or by another that is.
#[derive(Clone, Debug)]
pub(crate) struct Signer {
    /// Its distinguished name, in DER.
    pub(crate) subject: Vec<u8>,
    /// Its `SubjectPublicKeyInfo`, in DER.
    pub(crate) public_key: Vec<u8>,
    /// The key of the authority by which it is trusted.
    pub(crate) root: AuthorityKey,
    /// Whether its key usage, if it has one, includes lists of revoked certificates.
    pub(crate) may_revoke: bool,
}

impl Signer {
    /// From the certificate of an authority that is trusted itself, which may be of version 1. `None` when it can't be read.
    pub(crate) fn root(der: &[u8]) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        Some(Self::parsed(&parsed, AuthorityKey::of(parsed.public_key().raw)))
    }

    /// The same for certificates that `roots` have signed, themselves or through others of `links`.
    pub(crate) fn below(roots: &[Self], links: &[CertificateDer<'_>], algorithms: &Algorithms) -> Vec<Self> {
        let mut known = roots.to_vec();
        let mut left: Vec<_> = links.iter().filter_map(|der| Some((der, authority(der)?))).collect();
        while let Some(at) =
            left.iter().position(|(der, link)| signer_of(der, link, &known, algorithms).is_some())
        {
            let (der, link) = left.swap_remove(at);
            let root = signer_of(der, &link, &known, algorithms).map(|signer| signer.root);
            known.extend(root.map(|root| Self::parsed(&link, root)));
        }
        known
    }

    /// What its lists bind.
    pub(crate) fn key(&self) -> AuthorityKey {
        AuthorityKey::of(&self.public_key)
    }

    fn parsed(parsed: &X509Certificate<'_>, root: AuthorityKey) -> Self {
        let may_revoke =
            parsed.key_usage().is_ok_and(|found| found.is_none_or(|usage| usage.value.crl_sign()));
        Self {
            subject: parsed.subject().as_raw().to_vec(),
            public_key: parsed.public_key().raw.to_vec(),
            root,
            may_revoke,
        }
    }
}

/// Whether `der`, a certificate or a list of revoked ones, bears a signature by `public_key`, with an algorithm that
/// certificates may be signed with, too.
pub(crate) fn is_signed_by(der: &[u8], public_key: &[u8], algorithms: &Algorithms) -> bool {
    let (Some(signed), Some(key)) = (Signed::split(der), Key::split(public_key)) else { return false };
    algorithms.iter().any(|algorithm| {
        algorithm.signature_alg_id().as_ref() == signed.algorithm
            && algorithm.public_key_alg_id().as_ref() == key.algorithm
            && algorithm.verify_signature(key.bits, signed.message, signed.signature).is_ok()
    })
}

/// Whether `bytes` are one DER sequence and nothing else.
pub(crate) fn is_one_sequence(bytes: &[u8]) -> bool {
    take(SEQUENCE, bytes).is_ok_and(|(_, rest)| rest.is_empty())
}

/// `SEQUENCE { what is signed, AlgorithmIdentifier, BIT STRING }`
struct Signed<'a> {
    message: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Signed<'a> {
    fn split(der: &'a [u8]) -> Option<Self> {
        let (whole, _) = take(SEQUENCE, der).ok()?;
        let (_, after) = take(SEQUENCE, whole).ok()?;
        let message = whole.get(..whole.len() - after.len())?;
        let (algorithm, after) = take(SEQUENCE, after).ok()?;
        Some(Self { message, algorithm, signature: whole_bytes(after)? })
    }
}

/// `SEQUENCE { AlgorithmIdentifier, BIT STRING }`
struct Key<'a> {
    algorithm: &'a [u8],
    bits: &'a [u8],
}

impl<'a> Key<'a> {
    fn split(der: &'a [u8]) -> Option<Self> {
        let (whole, _) = take(SEQUENCE, der).ok()?;
        let (algorithm, after) = take(SEQUENCE, whole).ok()?;
        Some(Self { algorithm, bits: whole_bytes(after)? })
    }
}

/// A bit string that ends with a whole byte and has nothing behind it.
fn whole_bytes(der: &[u8]) -> Option<&[u8]> {
    match take(BIT_STRING, der).ok()? {
        ([0, bits @ ..], []) => Some(bits),
        _ => None,
    }
}

/// A certificate that says it is an authority's.
fn authority<'a>(der: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    parsed.basic_constraints().ok().flatten().is_some_and(|found| found.value.ca).then_some(parsed)
}

fn signer_of<'a>(
    der: &[u8],
    link: &X509Certificate<'_>,
    known: &'a [Signer],
    algorithms: &Algorithms,
) -> Option<&'a Signer> {
    known.iter().find(|signer| {
        signer.subject == link.issuer().as_raw() && is_signed_by(der, &signer.public_key, algorithms)
    })
}
