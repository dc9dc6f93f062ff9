//! The one way by which a chain of certificates is verified, whichever end of a connection it comes from.

use std::cell::RefCell;
use std::sync::Arc;

use rustls::{CertificateError, Error, ExtendedKeyPurpose, OtherError};
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath, spki_for_anchor};

use crate::certificate::{Serial, Validity};
use crate::error::BadCertificate;
use crate::verified::AuthorityKey;

/// What a chain must be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usage {
    /// Whoever holds it calls.
    Client,
    /// Whoever holds it is called.
    Server,
}

/// A certificate on a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// The key that signed it. Not its name: anybody can name himself after an authority.
    pub(crate) issuer: AuthorityKey,
    pub(crate) serial: Serial,
}

/// A path that holds.
#[derive(Debug)]
pub(crate) struct Found {
    /// Which key signed the leaf.
    pub(crate) issuer: AuthorityKey,
    /// The times of the certificates between leaf and authority.
    pub(crate) between: Vec<Validity>,
}

/// Why no path holds.
#[derive(Debug)]
pub(crate) enum NoPath<R> {
    /// In rustls's words, for the sake of the alert.
    Unverified(Error),
    /// There is one, and it was judged unfit.
    Unfit(R),
}

/// What paths may be made of.
pub(crate) struct Ways<'a> {
    pub(crate) anchors: &'a [TrustAnchor<'static>],
    /// Certificates that may stand between, in no order.
    pub(crate) links: &'a [CertificateDer<'a>],
    pub(crate) algorithms: &'a [&'static dyn SignatureVerificationAlgorithm],
}

impl Ways<'_> {
    /// Finds a path from `leaf` to an authority on which every signature, time, and constraint holds and which `judge`
    /// lets pass. A path that is judged unfit does not keep others from being tried.
    pub(crate) fn verify<R>(
        &self,
        leaf: &CertificateDer<'_>,
        usage: Usage,
        now: UnixTime,
        judge: impl Fn(&[Step]) -> Result<(), R>,
    ) -> Result<Found, NoPath<R>> {
        let leaf = EndEntityCert::try_from(leaf).map_err(unverified)?;
        let usage = match usage {
            Usage::Client => KeyUsage::client_auth(),
            Usage::Server => KeyUsage::server_auth(),
        };
        let unfit = RefCell::new(None);
        let verdict = |path: &VerifiedPath<'_>| {
            judge(&steps(path)?).map_err(|reason| {
                unfit.borrow_mut().get_or_insert(reason);
                webpki::Error::CertRevoked
            })
        };
        let (anchors, links) = (self.anchors, self.links);
        let path = leaf.verify_for_usage(self.algorithms, anchors, links, now, usage, None, Some(&verdict));
        match (path, unfit.take()) {
            (Ok(path), _) => found(&path).map_err(unverified),
            (Err(webpki::Error::CertRevoked), Some(reason)) => Err(NoPath::Unfit(reason)),
            (Err(error), _) => Err(unverified(error)),
        }
    }
}

fn found(path: &VerifiedPath<'_>) -> Result<Found, webpki::Error> {
    let between = path.intermediate_certificates().map(|link| Validity::of(&link.der()));
    let between = between.collect::<Result<_, _>>().map_err(|_| webpki::Error::BadDer)?;
    Ok(Found { issuer: AuthorityKey::of(&path.issuer_spki()), between })
}

/// The certificates from the leaf upwards; each is signed by the key of the next, and the last by the authority's.
fn steps(path: &VerifiedPath<'_>) -> Result<Vec<Step>, webpki::Error> {
    let between = || path.intermediate_certificates();
    let keys = between().map(|link| link.subject_public_key_info());
    let keys = keys.chain([spki_for_anchor(path.anchor())]).map(|key| AuthorityKey::of(&key));
    let serials = [path.end_entity().serial()].into_iter().chain(between().map(|link| link.serial()));
    let serials = serials.map(Serial::from_bytes);
    let step = |(serial, issuer)| Ok(Step { issuer, serial: serial? });
    let steps: Result<_, BadCertificate> = serials.zip(keys).map(step).collect();
    steps.map_err(|_| webpki::Error::InvalidSerialNumber)
}

fn unverified<R>(error: webpki::Error) -> NoPath<R> {
    NoPath::Unverified(tls_error(error))
}

/// As rustls itself reports these, so that the far end gets the alert it would get of any other server.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "what has no alert of its own is told in the library's words"
)]
fn tls_error(error: webpki::Error) -> Error {
    let told = match error {
        webpki::Error::BadDer | webpki::Error::BadDerTime | webpki::Error::TrailingData(_) => {
            CertificateError::BadEncoding
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        webpki::Error::CertExpired { time, not_after } => {
            CertificateError::ExpiredContext { time, not_after }
        }
        webpki::Error::InvalidCertValidity => CertificateError::Expired,
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::CertRevoked => CertificateError::Revoked,
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        webpki::Error::UnsupportedSignatureAlgorithmContext(context) => {
            CertificateError::UnsupportedSignatureAlgorithmContext {
                signature_algorithm_id: context.signature_algorithm_id,
                supported_algorithms: context.supported_algorithms,
            }
        }
        webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext(context) => {
            CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
                signature_algorithm_id: context.signature_algorithm_id,
                public_key_algorithm_id: context.public_key_algorithm_id,
            }
        }
        webpki::Error::RequiredEkuNotFoundContext(context) => CertificateError::InvalidPurposeContext {
            required: purpose(context.required.oid_values().collect()),
            presented: context.present.into_iter().map(purpose).collect(),
        },
        other => CertificateError::Other(OtherError(Arc::new(other))),
    };
    told.into()
}

fn purpose(values: Vec<usize>) -> ExtendedKeyPurpose {
    match values.as_slice() {
        [1, 3, 6, 1, 5, 5, 7, 3, 2] => ExtendedKeyPurpose::ClientAuth,
        [1, 3, 6, 1, 5, 5, 7, 3, 1] => ExtendedKeyPurpose::ServerAuth,
        _ => ExtendedKeyPurpose::Other(values),
    }
}
