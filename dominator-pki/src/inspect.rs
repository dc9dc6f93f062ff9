//! What people want to know of a certificate and no decision hangs on.

use std::time::SystemTime;

use rustls::crypto::ring;
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::der_parser::asn1_rs::Oid;
use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_SIG_ED25519};
use x509_parser::prelude::{CertificateRevocationList, FromDer, RevokedCertificate, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::ca::Reason;
use crate::certificate::{Certificate, Serial, system_time};
use crate::error::{BadCertificate, Origin, PkiError};
use crate::signed::{is_one_sequence, is_signed_by};
use crate::verified::AuthorityKey;

impl Certificate {
    /// Whether it says of itself that it is an authority's; version 1 can't say so.
    pub fn is_authority(&self) -> bool {
        let read = X509Certificate::from_der(self.der());
        read.is_ok_and(|(_, parsed)| parsed.is_ca())
    }

    /// Whether `signer` stands as the issuer in this certificate, and its key has signed it. Nothing else is verified: not
    /// even that `signer` is an authority.
    pub fn is_signed_by(&self, signer: &Self) -> bool {
        let both = (X509Certificate::from_der(self.der()), X509Certificate::from_der(signer.der()));
        let (Ok((_, own)), Ok((_, signer))) = both else { return false };
        own.issuer().as_raw() == signer.subject().as_raw()
            && is_signed_by(
                self.der(),
                signer.public_key().raw,
                ring::default_provider().signature_verification_algorithms.all,
            )
    }

    /// The key it certifies, as an authority's is named.
    pub fn own_key(&self) -> AuthorityKey {
        let read = X509Certificate::from_der(self.der());
        AuthorityKey::of(read.as_ref().map_or(&[], |(_, parsed)| parsed.public_key().raw))
    }

    /// The kind of its key, for people: `ECDSA P-256`, `Ed25519`, `RSA 2048`.
    pub fn key_kind(&self) -> String {
        let Ok((_, parsed)) = X509Certificate::from_der(self.der()) else { return "unknown".into() };
        let info = parsed.public_key();
        let curve = || info.algorithm.parameters.as_ref().and_then(|curve| Oid::try_from(curve).ok());
        match info.parsed() {
            Ok(PublicKey::RSA(key)) => format!("RSA {}", key.key_size()),
            Ok(PublicKey::EC(_)) => match curve() {
                Some(curve) if curve == OID_EC_P256 => "ECDSA P-256".into(),
                Some(curve) if curve == OID_NIST_EC_P384 => "ECDSA P-384".into(),
                other => format!("ECDSA {}", other.map_or_else(String::new, |curve| curve.to_id_string())),
            },
            _ if info.algorithm.algorithm == OID_SIG_ED25519 => "Ed25519".into(),
            _ => info.algorithm.algorithm.to_id_string(),
        }
    }
}

/// A list of revoked certificates as it stands, nothing verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownList {
    /// The issuer's distinguished name, for people.
    pub issuer: String,
    /// Its number, if it has one.
    pub number: Option<Serial>,
    /// When it was made.
    pub made: SystemTime,
    /// When a newer one should be there.
    pub next: Option<SystemTime>,
    /// The certificates on it, in its order.
    pub revoked: Vec<ShownEntry>,
}

/// A certificate on such a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownEntry {
    /// Which.
    pub serial: Serial,
    /// Since when.
    pub since: SystemTime,
    /// Why; `None` for a reason that whole lists don't have.
    pub reason: Option<Reason>,
}

/// The lists of revoked certificates in `bytes`, PEM or DER, if there are any.
///
/// # Errors
/// [`PkiError::NotPem`]; [`PkiError::RefusedRevocationList`] when one is not well-formed.
pub(crate) fn lists(bytes: &[u8], origin: &Origin) -> Result<Vec<ShownList>, PkiError> {
    let bad = |what| PkiError::RefusedRevocationList { origin: origin.clone(), what };
    if is_one_sequence(bytes) {
        // Whatever else it may be, a certificate perhaps, it is no list.
        return match CertificateRevocationList::from_der(bytes) {
            Ok((_, list)) => Ok(vec![ShownList::of(&list).map_err(bad)?]),
            Err(_) => Ok(Vec::new()),
        };
    }
    let read = |der: Result<CertificateRevocationListDer<'_>, _>| {
        let der = der.map_err(|source| PkiError::NotPem { origin: origin.clone(), source })?;
        let (rest, list) =
            CertificateRevocationList::from_der(&der).map_err(|_| bad("it is not well-formed"))?;
        if !rest.is_empty() {
            return Err(bad("more bytes follow it"));
        }
        ShownList::of(&list).map_err(bad)
    };
    CertificateRevocationListDer::pem_slice_iter(bytes).map(read).collect()
}

impl ShownList {
    fn of(list: &CertificateRevocationList<'_>) -> Result<Self, &'static str> {
        let long = |_| "it has a number of over 20 bytes";
        let number = list.crl_number().map(|number| Serial::from_bytes(&number.to_bytes_be()));
        Ok(Self {
            issuer: list.issuer().to_string(),
            number: number.transpose().map_err(long)?,
            made: system_time(list.last_update()),
            next: list.next_update().map(system_time),
            revoked: list
                .iter_revoked_certificates()
                .map(ShownEntry::of)
                .collect::<Result<_, _>>()
                .map_err(long)?,
        })
    }
}

impl ShownEntry {
    fn of(entry: &RevokedCertificate<'_>) -> Result<Self, BadCertificate> {
        Ok(Self {
            serial: Serial::from_bytes(entry.raw_serial())?,
            since: system_time(entry.revocation_date),
            reason: Reason::coded(entry.reason_code().map_or(0, |(_, code)| code.0)),
        })
    }
}
