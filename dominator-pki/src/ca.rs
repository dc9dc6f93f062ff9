//! The authority: made or loaded, and issuing certificates.

mod crl;
mod key;
mod leaf;

use std::time::{Duration, SystemTime};

use pem::{EncodeConfig, LineEnding, Pem};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber,
};
use rustls::crypto::CryptoProvider;
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_KEY_IDENTIFIER;
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

pub use crl::{DEFAULT_CRL_DAYS, Reason, RevocationList, Revoked};
pub use key::{KeyKind, LeafKey, PublicKey};
pub use leaf::Leaf;

use crate::certificate::{Certificate, IDENTITY_ONLY_URI, Serial, check_user, rfc3339, seconds};
use crate::credentials::{Credentials, MAX_CHAIN, certificates};
use crate::error::{BadCertificate, Origin, PkiError};
use crate::verified::Granted;
use key::private_key;

/// How long certificates live unless somebody says otherwise, in days.
pub const DEFAULT_DAYS: u32 = 1096;
/// The longest life that is issued, in days.
pub const MAX_DAYS: u32 = 36_525;
/// How long before "now" a certificate's validity begins, so that a machine whose clock is behind accepts it at once.
pub const CLOCK_SKEW: Duration = Duration::from_mins(5);

/// A certificate authority: its certificate and its private key.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    /// What follows a leaf in its file: nothing for a root.
    links: Vec<CertificateDer<'static>>,
    key_identifier: KeyIdentifier,
    below: Below,
    believed: Granted,
    not_after: SystemTime,
}

/// Whether the authority's certificate has a key identifier that leaves can point to; version 1 roots have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyIdentifier {
    Present,
    Absent,
}

/// How many authorities may stand between this one and a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Below {
    AtMost(u32),
    Unlimited,
}

/// What a new authority shall be.
#[derive(Clone, Debug)]
pub struct NewAuthority {
    common_name: String,
    days: u32,
    below: Option<u8>,
    believed: Granted,
}

impl NewAuthority {
    /// An authority called so, for [`DEFAULT_DAYS`].
    ///
    /// # Errors
    /// [`PkiError::BadCertificate`] when it can't be a name.
    pub fn new(common_name: &str) -> Result<Self, PkiError> {
        check_user(common_name)
            .map_err(|source| PkiError::BadCertificate { origin: Origin::Memory, source })?;
        Ok(Self {
            common_name: common_name.into(),
            days: DEFAULT_DAYS,
            below: None,
            believed: Granted::Everything,
        })
    }

    /// How many days it shall be valid, 1 to [`MAX_DAYS`].
    #[must_use]
    pub fn days(mut self, days: u32) -> Self {
        self.days = days;
        self
    }

    /// How many authorities may stand between it and a leaf. Otherwise none below an intermediate, any number below a root.
    #[must_use]
    pub fn below(mut self, authorities: u8) -> Self {
        self.below = Some(authorities);
        self
    }

    /// Marks it as one that is believed in who somebody is, and never in methods or roles, whoever has signed it.
    #[must_use]
    pub fn identity_only(mut self) -> Self {
        self.believed = Granted::IdentityOnly;
        self
    }

    fn parameters(
        &self,
        otherwise: BasicConstraints,
        now: SystemTime,
    ) -> Result<CertificateParams, PkiError> {
        let mut params = parameters(&self.common_name, random_serial()?, self.days, now)?;
        params.is_ca = IsCa::Ca(self.below.map_or(otherwise, BasicConstraints::Constrained));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        if self.believed == Granted::IdentityOnly {
            params.subject_alt_names = vec![SanType::URI(IDENTITY_ONLY_URI.try_into().map_err(signing)?)];
        }
        Ok(params)
    }
}

impl Authority {
    /// Makes a new root: an ECDSA P-256 key and a self-signed certificate for [`DEFAULT_DAYS`].
    ///
    /// # Errors
    /// [`PkiError::BadCertificate`] when `common_name` can't be a name; [`PkiError::Signing`], [`PkiError::NoRandomness`].
    pub fn create(common_name: &str, now: SystemTime) -> Result<Self, PkiError> {
        Self::create_with(&NewAuthority::new(common_name)?, LeafKey::generate()?, now)
    }

    /// Makes a new root with this key.
    ///
    /// # Errors
    /// [`PkiError::BadRequest`], [`PkiError::Signing`], [`PkiError::NoRandomness`].
    pub fn create_with(wanted: &NewAuthority, key: LeafKey, now: SystemTime) -> Result<Self, PkiError> {
        let params = wanted.parameters(BasicConstraints::Unconstrained, now)?;
        let made = params.self_signed(key.pair()).map_err(signing)?;
        Self::from_pem(made.pem().as_bytes(), key.to_pem().as_bytes())
    }

    /// Loads an authority from PEM, of which the first certificate is its own and others are those of the authorities above
    /// it, up to the root, which may be left out. Version 1 roots, which have no CA flag, are accepted: whoever holds the
    /// private key of a certificate in the CA file can sign.
    ///
    /// # Errors
    /// [`PkiError`] when either is unreadable, is no authority, or the two do not belong together.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, PkiError> {
        Self::from_pem_of(certificate, key, &Origin::Memory, &Origin::Memory)
    }

    pub(crate) fn from_pem_of(
        cert: &[u8],
        key: &[u8],
        cert_origin: &Origin,
        key_origin: &Origin,
    ) -> Result<Self, PkiError> {
        let given = certificates(cert, MAX_CHAIN, cert_origin)?;
        let missing = || PkiError::NoCertificate { origin: cert_origin.clone() };
        let certificate = given.first().ok_or_else(missing)?.clone();
        let key = private_key(key, key_origin)?;
        let bad = |source| PkiError::BadCertificate { origin: cert_origin.clone(), source };
        let claimed = Certificate::parse(&certificate).map_err(bad)?;
        let (_, parsed) = X509Certificate::from_der(&certificate)
            .map_err(|error| bad(BadCertificate::NotDer(error.to_string())))?;
        if !may_sign(&parsed) {
            return Err(PkiError::NotAnAuthority { origin: cert_origin.clone() });
        }
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(PkiError::KeyMismatch { origin: cert_origin.clone() });
        }
        let identified =
            parsed.get_extension_unique(&OID_X509_EXT_SUBJECT_KEY_IDENTIFIER).ok().flatten().is_some();
        Ok(Self {
            links: links(given, cert_origin)?,
            below: below(&parsed),
            believed: claimed.authority_for(),
            issuer: Issuer::from_ca_cert_der(&certificate, key).map_err(signing)?,
            certificate_pem: String::from_utf8_lossy(cert).into_owned(),
            key_identifier: if identified { KeyIdentifier::Present } else { KeyIdentifier::Absent },
            not_after: claimed.validity().not_after,
            certificate,
        })
    }

    /// The authority's certificate as it was made or loaded: what goes into `/etc/ssl/CA.pem` everywhere.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's certificate in DER.
    pub fn certificate_der(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The private key, PKCS#8 PEM. Whoever reads it owns the fleet.
    pub fn private_key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// The certificates that stand between what this authority issues and the root: for an intermediate its own, and those
    /// above it as its file has them.
    pub fn links(&self) -> &[CertificateDer<'static>] {
        &self.links
    }

    /// Issues a certificate for `public_key`; nothing but the key is taken from whoever asks for it.
    ///
    /// What an intermediate issues ends with it at the latest: nobody would believe it longer.
    ///
    /// What was signed is read back by the strict reader before it is handed out, so that nothing is issued which our
    /// own servers would refuse.
    ///
    /// # Errors
    /// [`PkiError::BadRequest`], also when the leaf claims methods or a role of an authority that is marked to be believed in
    /// identity only; [`PkiError::BadCertificate`] when the leaf breaks a limit, [`PkiError::Expired`] when the
    /// authority's own time is over, [`PkiError::Signing`].
    pub fn issue(&self, leaf: &Leaf, public_key: &PublicKey, now: SystemTime) -> Result<Issued, PkiError> {
        if self.believed == Granted::IdentityOnly && leaf.claims_powers() {
            let what = "methods and roles of an identity authority's certificates count nowhere; leave them out, give a role's name to no user, or let another authority sign";
            return Err(PkiError::BadRequest { what });
        }
        self.sign(leaf.parameters(now)?, public_key, now)
    }

    /// Issues a certificate for a new key: both in memory, ready for TLS.
    ///
    /// # Errors
    /// As [`Self::issue`].
    pub fn issue_credentials(&self, leaf: &Leaf, now: SystemTime) -> Result<Credentials, PkiError> {
        let key = LeafKey::generate()?;
        let issued = self.issue(leaf, &key.public_key()?, now)?;
        Credentials::from_pem(issued.pem.as_bytes(), key.to_pem().as_bytes())
    }

    /// Certifies an authority below this one, which signs leaves and nothing else unless asked otherwise.
    ///
    /// # Errors
    /// [`PkiError::BadRequest`] when this one may have no such authority below it; the others as for [`Self::issue`].
    pub fn issue_authority(
        &self,
        wanted: &NewAuthority,
        public_key: &PublicKey,
        now: SystemTime,
    ) -> Result<Issued, PkiError> {
        match self.below {
            Below::AtMost(most) if u32::from(wanted.below.unwrap_or(0)) >= most => {
                let what =
                    "the signing authority may have no such authority below it; let one further up sign";
                return Err(PkiError::BadRequest { what });
            }
            Below::AtMost(_) | Below::Unlimited => {}
        }
        if self.links.len() + 2 >= MAX_CHAIN {
            return Err(PkiError::ChainTooLong { count: self.links.len() + 2, limit: MAX_CHAIN - 1 });
        }
        if public_key.0.subject_public_key_info() == self.issuer.key().subject_public_key_info() {
            return Err(PkiError::BadRequest {
                what: "it is the signing authority's own key; each has its own",
            });
        }
        // What stands below has no more to give, and says so, too.
        let believed = match self.believed {
            Granted::Everything => wanted.believed,
            Granted::IdentityOnly => Granted::IdentityOnly,
        };
        let wanted = NewAuthority { believed, ..wanted.clone() };
        self.sign(wanted.parameters(BasicConstraints::Constrained(0), now)?, public_key, now)
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        public_key: &PublicKey,
        now: SystemTime,
    ) -> Result<Issued, PkiError> {
        if now > self.not_after {
            let (not_after, now) = (rfc3339(self.not_after), rfc3339(now));
            return Err(PkiError::Expired { origin: Origin::Memory, not_after, now });
        }
        if !self.links.is_empty() {
            params.not_after = params.not_after.min(moment(seconds(self.not_after))?);
        }
        params.use_authority_key_identifier_extension = self.key_identifier == KeyIdentifier::Present;
        let signed = params.signed_by(&public_key.0, &self.issuer).map_err(signing)?;
        let bad = |source| PkiError::BadCertificate { origin: Origin::Memory, source };
        let certificate = Certificate::parse(signed.der()).map_err(bad)?;
        self.check_issuer(signed.der())?;
        let links: String = self.links.iter().map(|link| armoured("CERTIFICATE", link)).collect();
        Ok(Issued { certificate, pem: signed.pem() + &links })
    }

    /// Verifiers look an authority up by the exact bytes of its name, and a name with repeated or exotic parts might not
    /// survive being parsed and written again.
    fn check_issuer(&self, leaf: &[u8]) -> Result<(), PkiError> {
        let issuer = X509Certificate::from_der(leaf).map(|(_, parsed)| parsed.issuer().as_raw().to_vec());
        let subject = X509Certificate::from_der(&self.certificate)
            .map(|(_, parsed)| parsed.subject().as_raw().to_vec());
        match (issuer, subject) {
            (Ok(issuer), Ok(subject)) if issuer == subject => Ok(()),
            _ => Err(PkiError::BadRequest {
                what: "the authority's name can't be copied; make an authority with a plain common name",
            }),
        }
    }
}

/// A certificate just issued.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate, as read back.
    pub certificate: Certificate,
    /// The same in PEM, followed by [`Authority::links`].
    pub pem: String,
}

/// What every certificate has, authorities and leaves alike. Nothing is left to the library's defaults: they are valid
/// until the year 4096.
fn parameters(name: &str, serial: Serial, days: u32, now: SystemTime) -> Result<CertificateParams, PkiError> {
    check_user(name).map_err(|source| PkiError::BadCertificate { origin: Origin::Memory, source })?;
    if !(1..=MAX_DAYS).contains(&days) {
        return Err(PkiError::BadRequest { what: "the life must be 1 to 36525 days" });
    }
    let now = seconds(now);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
    params.not_before = moment(now.saturating_sub_unsigned(CLOCK_SKEW.as_secs()))?;
    params.not_after = moment(now.saturating_add(i64::from(days) * 86_400))?;
    Ok(params)
}

fn moment(seconds: i64) -> Result<OffsetDateTime, PkiError> {
    OffsetDateTime::from_unix_timestamp(seconds)
        .map_err(|_| PkiError::BadRequest { what: "the time is outside the years a certificate can tell" })
}

/// 127 random bits: positive in DER's signed integers, and not to be guessed or met twice.
fn random_serial() -> Result<Serial, PkiError> {
    let provider: CryptoProvider = rustls::crypto::ring::default_provider();
    let mut bytes = [0; 16];
    provider.secure_random.fill(&mut bytes).map_err(|_| PkiError::NoRandomness)?;
    Ok((u128::from_be_bytes(bytes) >> 1).max(1).into())
}

/// Version 1 has no CA flag, so there only a root is taken for a signer.
fn may_sign(parsed: &X509Certificate<'_>) -> bool {
    if parsed.version() != X509Version::V3 {
        return parsed.issuer().as_raw() == parsed.subject().as_raw();
    }
    let ca = parsed.basic_constraints().ok().flatten().is_some_and(|found| found.value.ca);
    ca && parsed.key_usage().is_ok_and(|found| found.is_none_or(|usage| usage.value.key_cert_sign()))
}

/// Version 1 and certificates without the field limit nothing.
fn below(parsed: &X509Certificate<'_>) -> Below {
    let constraints = parsed.basic_constraints().ok().flatten();
    constraints.and_then(|found| found.value.path_len_constraint).map_or(Below::Unlimited, Below::AtMost)
}

/// An intermediate's own certificate and those above it, each signed in the name of the next, without the root: whoever
/// verifies has the root from elsewhere, or must not believe it.
fn links(
    given: Vec<CertificateDer<'static>>,
    origin: &Origin,
) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let bad = |source| PkiError::BadCertificate { origin: origin.clone(), source };
    let mut links = Vec::new();
    let mut signer: Option<Vec<u8>> = None;
    for der in given {
        let (_, parsed) = X509Certificate::from_der(&der)
            .map_err(|error| bad(BadCertificate::NotDer(error.to_string())))?;
        if signer.is_some_and(|signer| signer != parsed.subject().as_raw()) {
            return Err(PkiError::BrokenChain { origin: origin.clone() });
        }
        if parsed.issuer().as_raw() == parsed.subject().as_raw() {
            break;
        }
        signer = Some(parsed.issuer().as_raw().to_vec());
        links.push(der);
    }
    Ok(links)
}

fn signing(source: rcgen::Error) -> PkiError {
    PkiError::Signing { source }
}

/// PEM, with lines of 64 characters.
fn armoured(kind: &str, der: &[u8]) -> String {
    let config = EncodeConfig::new().set_line_ending(LineEnding::LF);
    pem::encode_config(&Pem::new(kind, der), config)
}
