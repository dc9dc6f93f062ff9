//! Reading one certificate, strictly.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dominator_core::auth::{Identity, MethodPattern};
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::der_parser::asn1_rs::Oid;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate, X509Name, X509Version};
use x509_parser::time::ASN1Time;

use crate::error::{BadCertificate, Origin, PkiError};
use crate::verified::Granted;
use crate::{der, urn};

/// The object identifier of the extension that lists methods.
pub const METHODS_OID: &[u64] = &[1, 3, 6, 1, 4, 1, 9586, 100, 7, 1];
/// The object identifier of the extension that lists groups.
pub const GROUPS_OID: &[u64] = &[1, 3, 6, 1, 4, 1, 9586, 100, 7, 2];
/// What a role's URI in the subject alternative names begins with.
pub const ROLE_URI: &str = "urn:dominator:role:";
/// What the URI of a node's id begins with.
pub const NODE_URI: &str = "urn:dominator:node:";
/// What every URI that limits where methods are granted begins with.
pub const SCOPE_URI: &str = "urn:dominator:scope:";
/// What the URI of a limit to machines with a tag begins with; `KEY=VALUE` follows, each percent-encoded.
pub const SCOPE_TAG_URI: &str = "urn:dominator:scope:tag:";
/// What the URI of a limit to a directory of images begins with.
pub const SCOPE_IMAGES_URI: &str = "urn:dominator:scope:images:";

/// The URI in an authority's own certificate that says that it is believed in identity only, whoever has signed it.
pub const IDENTITY_ONLY_URI: &str = "urn:dominator:identity-only";

/// The longest certificate that is read, in bytes.
pub const MAX_CERTIFICATE: usize = 64 * 1024;
/// The most method patterns, and the most groups, in one certificate.
pub const MAX_LIST: usize = 1024;
/// The longest user name, in characters; X.509's own limit for common names.
pub const MAX_USER: usize = 64;
/// The longest group name, in bytes.
pub const MAX_GROUP: usize = 256;
const MAX_SERIAL: usize = 20;

/// A certificate as it stands, nothing verified.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    der: CertificateDer<'static>,
    claims: Identity,
    names: Vec<AlternativeName>,
    issuer: String,
    serial: Serial,
    validity: Validity,
    version: X509Version,
}

impl Certificate {
    /// Reads a certificate from DER.
    ///
    /// # Errors
    /// [`BadCertificate`] for everything that is not exactly as `docs/formats/certificates.md` says.
    pub fn parse(der: &[u8]) -> Result<Self, BadCertificate> {
        if der.len() > MAX_CERTIFICATE {
            return Err(BadCertificate::TooLong { length: der.len(), limit: MAX_CERTIFICATE });
        }
        let (rest, parsed) =
            X509Certificate::from_der(der).map_err(|error| BadCertificate::NotDer(error.to_string()))?;
        if !rest.is_empty() {
            return Err(BadCertificate::TrailingBytes(rest.len()));
        }
        parsed.extensions_map().map_err(|_| BadCertificate::DuplicateExtension)?;
        let names = alternative_names(&parsed)?;
        Ok(Self {
            claims: claims(&parsed, &names)?,
            names,
            issuer: parsed.issuer().to_string(),
            serial: Serial::from_bytes(parsed.raw_serial())?,
            validity: Validity::parsed(&parsed),
            version: parsed.version(),
            der: CertificateDer::from(der.to_vec()),
        })
    }

    /// What the certificate claims. Nobody has verified it: for decisions use [`Trust::identify`](crate::Trust::identify).
    pub fn unverified_claims(&self) -> &Identity {
        &self.claims
    }

    /// The subject alternative names, in order.
    pub fn alternative_names(&self) -> &[AlternativeName] {
        &self.names
    }

    /// The issuer's distinguished name, for people. Never decide by it: anybody can claim a name.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The serial number.
    pub fn serial(&self) -> &Serial {
        &self.serial
    }

    /// From when until when.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// SHA-256 of the DER.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(Sha256::digest(&self.der).into())
    }

    /// The X.509 version; TLS needs 3.
    pub fn version(&self) -> u32 {
        self.version.0.saturating_add(1)
    }

    /// In what it may be believed as an authority's, by its own word: whoever bears the mark of an identity authority is
    /// believed in no more, wherever it is put. Without the mark, the file decides where the authority stands.
    pub fn authority_for(&self) -> Granted {
        urn::authority_for(&self.names)
    }

    /// The certificate itself.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Whether the certificate binds its holder to host names or addresses.
    pub(crate) fn names_a_host(&self) -> bool {
        self.names.iter().any(|name| matches!(name, AlternativeName::Dns(_) | AlternativeName::Ip(_)))
    }

    /// TLS needs version 3.
    pub(crate) fn require_version_three(&self, origin: Origin) -> Result<(), PkiError> {
        (self.version == X509Version::V3).then_some(()).ok_or(PkiError::VersionOne { origin })
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("claims", &self.claims)
            .field("serial", &self.serial)
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}

/// A subject alternative name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AlternativeName {
    /// A host name.
    Dns(String),
    /// An address.
    Ip(IpAddr),
    /// A URI; roles are written so.
    Uri(String),
    /// Of another kind, in some readable form.
    Other(String),
}

impl AlternativeName {
    /// The kind in one word: `dns`, `ip`, `uri` or `other`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Dns(_) => "dns",
            Self::Ip(_) => "ip",
            Self::Uri(_) => "uri",
            Self::Other(_) => "other",
        }
    }
}

impl fmt::Display for AlternativeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(text) | Self::Uri(text) | Self::Other(text) => f.write_str(text),
            Self::Ip(address) => address.fmt(f),
        }
    }
}

/// When a certificate may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first moment.
    pub not_before: SystemTime,
    /// The last moment.
    pub not_after: SystemTime,
}

impl Validity {
    /// How much life is left at `now`; `None` when it is over.
    pub fn remaining(&self, now: SystemTime) -> Option<Duration> {
        self.not_after.duration_since(now).ok()
    }

    /// What both have in common.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            not_before: self.not_before.max(other.not_before),
            not_after: self.not_after.min(other.not_after),
        }
    }

    /// Whether `now` lies within.
    pub fn contains(self, now: SystemTime) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }

    /// The subject of a certificate, for people, with its times.
    pub(crate) fn of_subject(der: &[u8]) -> Option<(String, Self)> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        Some((parsed.subject().to_string(), Self::parsed(&parsed)))
    }

    /// The times of a certificate of which nothing else is looked at.
    pub(crate) fn of(der: &[u8]) -> Result<Self, BadCertificate> {
        let (_, parsed) =
            X509Certificate::from_der(der).map_err(|error| BadCertificate::NotDer(error.to_string()))?;
        Ok(Self::parsed(&parsed))
    }

    fn parsed(parsed: &X509Certificate<'_>) -> Self {
        let validity = parsed.validity();
        Self { not_before: system_time(validity.not_before), not_after: system_time(validity.not_after) }
    }

    /// Checks that `now` lies within.
    ///
    /// # Errors
    /// [`PkiError::Expired`] or [`PkiError::NotYetValid`], naming `origin`.
    pub fn check(&self, now: SystemTime, origin: Origin) -> Result<(), PkiError> {
        if now > self.not_after {
            let (not_after, now) = (rfc3339(self.not_after), rfc3339(now));
            return Err(PkiError::Expired { origin, not_after, now });
        }
        if now < self.not_before {
            let (not_before, now) = (rfc3339(self.not_before), rfc3339(now));
            return Err(PkiError::NotYetValid { origin, not_before, now });
        }
        Ok(())
    }
}

/// `time` as people and programs read it: RFC 3339, UTC. Times outside the years 0 to 9999 come out as the nearest second
/// within.
pub fn rfc3339(time: SystemTime) -> String {
    const LAST: i64 = 253_402_300_799;
    const FIRST: i64 = -62_167_219_200;
    let seconds = seconds(time).clamp(FIRST, LAST);
    let time = OffsetDateTime::from_unix_timestamp(seconds)
        .expect("invariant: clamped to the years that can be written");
    time.format(&Rfc3339).expect("invariant: the years 0 to 9999 can be written")
}

/// A certificate's serial number: 1 to 20 bytes, positive.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Serial(Vec<u8>);

impl Serial {
    /// The serial number's bytes, the most significant first, without leading zeros.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads a positive number of at most 20 bytes in hexadecimal digits, with colons between them or without.
    ///
    /// # Errors
    /// [`PkiError::BadRequest`] when it is not so.
    pub fn from_hexadecimal(text: &str) -> Result<Self, PkiError> {
        let bad = || PkiError::BadRequest {
            what: "the serial must be 1 to 20 bytes in hexadecimal digits, not all zero",
        };
        let digits = text.chars().filter(|digit| *digit != ':').map(|digit| digit.to_digit(16));
        let digits: Option<Vec<_>> = digits.map(|digit| u8::try_from(digit?).ok()).collect();
        let digits = digits.ok_or_else(bad)?;
        let byte = |pair: &[u8]| pair.iter().fold(0, |byte, digit| byte << 4 | digit);
        let mut bytes: Vec<u8> = digits.rchunks(2).map(byte).collect();
        bytes.reverse();
        let serial = Self::from_bytes(&bytes).map_err(|_| bad())?;
        if serial.0.is_empty() { Err(bad()) } else { Ok(serial) }
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, BadCertificate> {
        let digits: Vec<u8> = bytes.iter().copied().skip_while(|byte| *byte == 0).collect();
        if digits.len() > MAX_SERIAL {
            Err(BadCertificate::BadSerial(digits.len()))
        } else {
            Ok(Self(digits))
        }
    }
}

impl From<u128> for Serial {
    fn from(number: u128) -> Self {
        Self(number.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect())
    }
}

impl FromStr for Serial {
    type Err = PkiError;

    /// Reads a positive number: decimal below 2^127, or `0x` and the bytes in hexadecimal, as certificates are shown.
    fn from_str(text: &str) -> Result<Self, PkiError> {
        let bad = PkiError::BadRequest {
            what: "the serial must be a positive decimal number below 2^127, or 0x and at most 40 hexadecimal digits",
        };
        let serial = match text.strip_prefix("0x") {
            Some(digits) => hexadecimal(digits),
            None => text.parse::<u128>().ok().filter(|number| number >> 127 == 0).map(Self::from),
        };
        serial.filter(|serial| !serial.0.is_empty()).ok_or(bad)
    }
}

fn hexadecimal(digits: &str) -> Option<Serial> {
    let even = format!("{}{digits}", if digits.len().is_multiple_of(2) { "" } else { "0" });
    let byte = |pair: &[u8]| {
        let digit = |at: usize| pair.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        u8::try_from(digit(0)? * 16 + digit(1)?).ok()
    };
    let bytes: Option<Vec<u8>> = even.as_bytes().chunks(2).map(byte).collect();
    bytes.and_then(|bytes| Serial::from_bytes(&bytes).ok())
}

impl fmt::Display for Serial {
    /// `0x` and hexadecimal, two digits a byte: so it can be pasted where a serial number is asked for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        match self.0.is_empty() {
            true => f.write_str("00"),
            false => self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

/// SHA-256 of a certificate's DER.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Seconds since 1970, negative before.
pub(crate) fn seconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds),
    }
}

/// A user name that can stand in certificates, logs and deny lists. With blanks at its ends it would look like another's.
pub(crate) fn check_user(user: &str) -> Result<(), BadCertificate> {
    let bare = !user.is_empty() && user.trim() == user;
    let fits = bare && user.chars().count() <= MAX_USER && !user.chars().any(char::is_control);
    fits.then_some(()).ok_or(BadCertificate::BadUser)
}

pub(crate) fn system_time(time: ASN1Time) -> SystemTime {
    let offset = Duration::from_secs(time.timestamp().unsigned_abs());
    if time.timestamp() < 0 { UNIX_EPOCH - offset } else { UNIX_EPOCH + offset }
}

fn claims(parsed: &X509Certificate<'_>, names: &[AlternativeName]) -> Result<Identity, BadCertificate> {
    let user = user(parsed.subject())?;
    let methods = strings(parsed, METHODS_OID, "methods")?.into_iter().map(str::parse::<MethodPattern>);
    let groups = strings(parsed, GROUPS_OID, "groups")?.into_iter().map(group);
    Ok(Identity {
        methods: methods.collect::<Result<_, _>>()?,
        groups: groups.collect::<Result<_, _>>()?,
        role: urn::role(&user, names)?,
        node: urn::node(names)?,
        scope: urn::scope(names)?,
        user,
    })
}

/// The one common name. The reference takes the first non-empty one up the chain, so that a leaf without a name
/// inherits its authority's; here a leaf speaks for itself or not at all.
fn user(subject: &X509Name<'_>) -> Result<String, BadCertificate> {
    let names: Vec<_> = subject.iter_common_name().collect();
    let [name] = names.as_slice() else { return Err(BadCertificate::CommonNames(names.len())) };
    let user = name.as_str().map_err(|_| BadCertificate::BadUser)?;
    check_user(user)?;
    Ok(user.into())
}

fn group(name: &str) -> Result<String, BadCertificate> {
    let fits = !name.is_empty() && name.len() <= MAX_GROUP && !name.chars().any(char::is_control);
    fits.then(|| name.into()).ok_or(BadCertificate::BadGroup)
}

fn strings<'a>(
    parsed: &'a X509Certificate<'_>,
    oid: &[u64],
    list: &'static str,
) -> Result<Vec<&'a str>, BadCertificate> {
    let oid = Oid::from(oid).expect("invariant: our object identifiers are well-formed");
    let extension = parsed.get_extension_unique(&oid).map_err(|_| BadCertificate::DuplicateExtension)?;
    extension.map_or(Ok(Vec::new()), |found| {
        der::decode(found.value, MAX_LIST).map_err(|source| BadCertificate::BadList { list, source })
    })
}

fn alternative_names(parsed: &X509Certificate<'_>) -> Result<Vec<AlternativeName>, BadCertificate> {
    let extension = parsed.subject_alternative_name().map_err(|_| BadCertificate::BadAlternativeName)?;
    let names = extension.map_or(&[][..], |found| found.value.general_names.as_slice());
    names.iter().map(alternative_name).collect()
}

/// In what an authority may be believed, by its own certificate.
pub(crate) fn authority_for(parsed: &X509Certificate<'_>) -> Result<Granted, BadCertificate> {
    alternative_names(parsed).map(|names| urn::authority_for(&names))
}

fn alternative_name(name: &GeneralName<'_>) -> Result<AlternativeName, BadCertificate> {
    match name {
        GeneralName::DNSName(host) => Ok(AlternativeName::Dns((*host).into())),
        GeneralName::URI(uri) => Ok(AlternativeName::Uri((*uri).into())),
        GeneralName::IPAddress(bytes) => address(bytes).map(AlternativeName::Ip),
        GeneralName::Invalid(..) => Err(BadCertificate::BadAlternativeName),
        GeneralName::OtherName(..)
        | GeneralName::RFC822Name(_)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::RegisteredID(_) => Ok(AlternativeName::Other(name.to_string())),
    }
}

fn address(bytes: &[u8]) -> Result<IpAddr, BadCertificate> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .map_err(|_| BadCertificate::BadAlternativeName)
}
