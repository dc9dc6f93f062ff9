//! The authority: made or loaded, and issuing certificates.

use std::time::{Duration, SystemTime};

use dominator_core::authorise::{MethodPattern, Role};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CustomExtension, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
    SerialNumber, SubjectPublicKeyInfo,
};
use rustls::crypto::CryptoProvider;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, DnsName, PrivateKeyDer};
use time::OffsetDateTime;
use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_KEY_IDENTIFIER;
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

use crate::certificate::{
    AlternativeName, Certificate, GROUPS_OID, METHODS_OID, ROLE_URI, Serial, check_user, seconds,
};
use crate::credentials::Credentials;
use crate::error::{BadCertificate, Origin, PkiError};
use crate::list;

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
    key_identifier: KeyIdentifier,
    not_after: SystemTime,
}

/// Whether the authority's certificate has a key identifier that leaves can point to; version 1 roots have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeyIdentifier {
    Present,
    Absent,
}

impl Authority {
    /// Makes a new authority: an ECDSA P-256 key and a self-signed certificate for [`DEFAULT_DAYS`].
    ///
    /// # Errors
    /// [`PkiError::BadRequest`] when `common_name` can't be a name; [`PkiError::Signing`], [`PkiError::NoRandomness`].
    pub fn create(common_name: &str, now: SystemTime) -> Result<Self, PkiError> {
        let mut params = parameters(common_name, random_serial()?, DEFAULT_DAYS, now)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(signing)?;
        let made = params.self_signed(&key).map_err(signing)?;
        Self::from_pem(made.pem().as_bytes(), key.serialize_pem().as_bytes())
    }

    /// Loads an authority from PEM. Version 1 roots, which have no CA flag, are accepted: whoever holds the private key
    /// of a certificate in the CA file can sign.
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
        let certificate = first_certificate(cert, cert_origin)?;
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

    /// Issues a certificate for `public_key`; nothing but the key is taken from whoever asks for it.
    ///
    /// What was signed is read back by the strict reader before it is handed out, so that nothing is issued which our
    /// own servers would refuse.
    ///
    /// # Errors
    /// [`PkiError::BadRequest`], [`PkiError::BadCertificate`] when the leaf breaks a limit, [`PkiError::Expired`] when the
    /// authority's own time is over, [`PkiError::Signing`].
    pub fn issue(&self, leaf: &Leaf, public_key: &PublicKey, now: SystemTime) -> Result<Issued, PkiError> {
        if now > self.not_after {
            let not_after = crate::certificate::rfc3339(self.not_after);
            return Err(PkiError::Expired { origin: Origin::Memory, not_after });
        }
        let mut params = leaf.parameters(now)?;
        params.use_authority_key_identifier_extension = self.key_identifier == KeyIdentifier::Present;
        let signed = params.signed_by(&public_key.0, &self.issuer).map_err(signing)?;
        let bad = |source| PkiError::BadCertificate { origin: Origin::Memory, source };
        let certificate = Certificate::parse(signed.der()).map_err(bad)?;
        self.check_issuer(signed.der())?;
        Ok(Issued { certificate, pem: signed.pem() })
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

/// What a certificate shall say.
#[derive(Clone, Debug)]
pub struct Leaf {
    user: String,
    methods: Vec<MethodPattern>,
    groups: Vec<String>,
    role: Option<Role>,
    names: Vec<AlternativeName>,
    days: u32,
    serial: Option<Serial>,
}

impl Leaf {
    /// A certificate for `user`, granting nothing; with a role when the user name is a role's.
    ///
    /// # Errors
    /// [`PkiError::BadCertificate`] when `user` can't be a user name.
    pub fn new(user: &str) -> Result<Self, PkiError> {
        check_user(user).map_err(|source| PkiError::BadCertificate { origin: Origin::Memory, source })?;
        let (methods, groups, names) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self {
            user: user.into(),
            methods,
            groups,
            role: Role::named(user),
            names,
            days: DEFAULT_DAYS,
            serial: None,
        })
    }

    /// Grants these methods.
    #[must_use]
    pub fn methods(mut self, methods: impl IntoIterator<Item = MethodPattern>) -> Self {
        self.methods.extend(methods);
        self
    }

    /// Puts the user into these groups.
    #[must_use]
    pub fn groups<S: Into<String>>(mut self, groups: impl IntoIterator<Item = S>) -> Self {
        self.groups.extend(groups.into_iter().map(Into::into));
        self
    }

    /// Lets the certificate play `role` under whatever user name.
    #[must_use]
    pub fn role(mut self, role: Role) -> Self {
        self.role = Some(role);
        self
    }

    /// Binds the certificate to these names: a server with it is believed under them only.
    #[must_use]
    pub fn alternative_names(mut self, names: impl IntoIterator<Item = AlternativeName>) -> Self {
        self.names.extend(names);
        self
    }

    /// How many days it shall be valid, 1 to [`MAX_DAYS`].
    #[must_use]
    pub fn days(mut self, days: u32) -> Self {
        self.days = days;
        self
    }

    /// Its serial number; a random one otherwise.
    #[must_use]
    pub fn serial(mut self, serial: Serial) -> Self {
        self.serial = Some(serial);
        self
    }

    fn parameters(&self, now: SystemTime) -> Result<CertificateParams, PkiError> {
        let serial = self.serial.clone().map_or_else(random_serial, Ok)?;
        let mut params = parameters(&self.user, serial, self.days, now)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = self.subject_alternative_names()?;
        let methods: Vec<String> = self.methods.iter().map(ToString::to_string).collect();
        let lists = [(METHODS_OID, &methods), (GROUPS_OID, &self.groups)];
        // Not critical: TLS libraries refuse critical extensions they do not know.
        params.custom_extensions = lists
            .into_iter()
            .filter(|(_, items)| !items.is_empty())
            .map(|(oid, items)| {
                CustomExtension::from_oid_content(oid, list::encode(items.iter().map(String::as_str)))
            })
            .collect();
        Ok(params)
    }

    fn subject_alternative_names(&self) -> Result<Vec<SanType>, PkiError> {
        let role = self.role.map(|role| AlternativeName::Uri(format!("{ROLE_URI}{role}")));
        role.iter().chain(&self.names).map(subject_alternative_name).collect()
    }
}

/// A certificate just issued.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate, as read back.
    pub certificate: Certificate,
    /// The same in PEM.
    pub pem: String,
}

/// The key pair of a certificate to be issued.
#[derive(Debug)]
pub struct LeafKey(KeyPair);

impl LeafKey {
    /// A new ECDSA P-256 key.
    ///
    /// # Errors
    /// [`PkiError::Signing`] when there is no randomness.
    pub fn generate() -> Result<Self, PkiError> {
        KeyPair::generate().map(Self).map_err(signing)
    }

    /// An existing key, PKCS#8 PEM.
    ///
    /// # Errors
    /// [`PkiError::NoKey`], [`PkiError::UnusableKey`], naming `origin`.
    pub fn from_pem(pem: &[u8], origin: &Origin) -> Result<Self, PkiError> {
        private_key(pem, origin).map(Self)
    }

    /// The key in PKCS#8 PEM.
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// The public half.
    ///
    /// # Errors
    /// [`PkiError::Signing`] when it is of a kind that can't be written.
    pub fn public_key(&self) -> Result<PublicKey, PkiError> {
        PublicKey::from_der(&self.0.subject_public_key_info())
    }
}

/// A public key to be certified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(SubjectPublicKeyInfo);

impl PublicKey {
    /// From a DER `SubjectPublicKeyInfo`.
    ///
    /// # Errors
    /// [`PkiError::Signing`] when it is of an unknown kind.
    pub fn from_der(spki: &[u8]) -> Result<Self, PkiError> {
        SubjectPublicKeyInfo::from_der(spki).map(Self).map_err(signing)
    }

    /// The key out of a signing request in PEM, whose own signature is checked: it proves that the asker holds the
    /// private key. Everything else in the request is dropped, for it is only a wish: a request can ask to be an
    /// authority.
    ///
    /// # Errors
    /// [`PkiError::Signing`] when it is no request, is not signed by its key, or asks for unknown extensions.
    pub fn from_signing_request(pem: &str) -> Result<Self, PkiError> {
        let request = CertificateSigningRequestParams::from_pem(pem).map_err(signing)?;
        Self::from_der(&request.public_key.subject_public_key_info())
    }
}

/// What every certificate has, authorities and leaves alike. Nothing is left to the library's defaults: they are valid
/// until the year 4096.
fn parameters(name: &str, serial: Serial, days: u32, now: SystemTime) -> Result<CertificateParams, PkiError> {
    check_user(name).map_err(|source| PkiError::BadCertificate { origin: Origin::Memory, source })?;
    if !(1..=MAX_DAYS).contains(&days) {
        return Err(PkiError::BadRequest { what: "the life must be 1 to 36525 days" });
    }
    let at = |seconds| {
        OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| PkiError::BadRequest {
            what: "the time is outside the years a certificate can tell",
        })
    };
    let now = seconds(now);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
    params.not_before = at(now.saturating_sub_unsigned(CLOCK_SKEW.as_secs()))?;
    params.not_after = at(now.saturating_add(i64::from(days) * 86_400))?;
    Ok(params)
}

fn subject_alternative_name(name: &AlternativeName) -> Result<SanType, PkiError> {
    let bad = PkiError::BadRequest {
        what: "an alternative name is neither a host name, nor an address, nor a URI",
    };
    match name {
        AlternativeName::Dns(host) if DnsName::try_from(host.as_str()).is_ok() => {
            host.as_str().try_into().map(SanType::DnsName).map_err(signing)
        }
        AlternativeName::Ip(address) => Ok(SanType::IpAddress(*address)),
        AlternativeName::Uri(uri) => uri.as_str().try_into().map(SanType::URI).map_err(signing),
        AlternativeName::Dns(_) | AlternativeName::Other(_) => Err(bad),
    }
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

fn first_certificate(pem: &[u8], origin: &Origin) -> Result<CertificateDer<'static>, PkiError> {
    let first = CertificateDer::pem_slice_iter(pem).next();
    first
        .ok_or_else(|| PkiError::NoCertificate { origin: origin.clone() })?
        .map_err(|source| PkiError::NotPem { origin: origin.clone(), source })
}

fn private_key(pem: &[u8], origin: &Origin) -> Result<KeyPair, PkiError> {
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| PkiError::NoKey { origin: origin.clone() })?;
    KeyPair::try_from(&key)
        .map_err(|source| PkiError::UnusableKey { origin: origin.clone(), source: source.into() })
}

fn signing(source: rcgen::Error) -> PkiError {
    PkiError::Signing { source }
}
