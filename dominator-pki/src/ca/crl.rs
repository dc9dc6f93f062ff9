//! Certificates taken back: the authority's own list of them.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use rustls::crypto::ring;
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::{
    OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, OID_X509_EXT_CRL_NUMBER, OID_X509_EXT_INVALIDITY_DATE,
    OID_X509_EXT_REASON_CODE,
};
use x509_parser::prelude::{
    CertificateRevocationList, FromDer, RevokedCertificate, X509Certificate, X509Extension,
};

use super::{Authority, CLOCK_SKEW, MAX_DAYS, armoured, moment, signing};
use crate::certificate::{Certificate, Serial, seconds, system_time};
use crate::error::{Origin, PkiError};
use crate::signed::is_signed_by;

/// For how long a list of revoked certificates is current unless somebody says otherwise, in days.
pub const DEFAULT_CRL_DAYS: u32 = 90;

/// A certificate taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// Which.
    pub serial: Serial,
    /// Since when.
    pub since: SystemTime,
    /// Why.
    pub reason: Reason,
}

/// Why a certificate was taken back: the reasons of RFC 5280.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// Nobody said.
    #[default]
    Unspecified,
    /// Somebody else may have its private key.
    KeyCompromise,
    /// Somebody else may have its authority's private key.
    CaCompromise,
    /// Its holder belongs elsewhere now.
    AffiliationChanged,
    /// There is a newer one.
    Superseded,
    /// It is needed no more.
    CessationOfOperation,
    /// For the time being. Kept where another program wrote it; none of ours takes it back.
    CertificateHold,
    /// What it granted is not granted any more.
    PrivilegeWithdrawn,
    /// Somebody else may have the key of an authority over attributes.
    AaCompromise,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 9] = [
        Self::Unspecified,
        Self::KeyCompromise,
        Self::CaCompromise,
        Self::AffiliationChanged,
        Self::Superseded,
        Self::CessationOfOperation,
        Self::CertificateHold,
        Self::PrivilegeWithdrawn,
        Self::AaCompromise,
    ];

    /// Its name, as in `key-compromise`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "key-compromise",
            Self::CaCompromise => "ca-compromise",
            Self::AffiliationChanged => "affiliation-changed",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessation-of-operation",
            Self::CertificateHold => "certificate-hold",
            Self::PrivilegeWithdrawn => "privilege-withdrawn",
            Self::AaCompromise => "aa-compromise",
        }
    }

    /// The one with this code in RFC 5280.
    pub(crate) fn coded(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| u8::try_from(reason.code() as i32) == Ok(code))
    }

    const fn code(self) -> RevocationReason {
        match self {
            Self::Unspecified => RevocationReason::Unspecified,
            Self::KeyCompromise => RevocationReason::KeyCompromise,
            Self::CaCompromise => RevocationReason::CaCompromise,
            Self::AffiliationChanged => RevocationReason::AffiliationChanged,
            Self::Superseded => RevocationReason::Superseded,
            Self::CessationOfOperation => RevocationReason::CessationOfOperation,
            Self::CertificateHold => RevocationReason::CertificateHold,
            Self::PrivilegeWithdrawn => RevocationReason::PrivilegeWithdrawn,
            Self::AaCompromise => RevocationReason::AaCompromise,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Reason {
    type Err = PkiError;

    fn from_str(text: &str) -> Result<Self, PkiError> {
        let known = Self::ALL.into_iter().find(|reason| reason.name() == text);
        known.ok_or(PkiError::BadRequest { what: "there is no such reason for a revocation" })
    }
}

/// A list of revoked certificates, signed by the authority that had issued them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationList {
    number: u128,
    issued: SystemTime,
    next: SystemTime,
    revoked: Vec<Revoked>,
    pem: String,
}

impl RevocationList {
    /// Its number: each list of an authority has a higher one than the list before.
    pub fn number(&self) -> u128 {
        self.number
    }

    /// Until when it is current; then there should be a newer one.
    pub fn next(&self) -> SystemTime {
        self.next
    }

    /// The certificates, in the order in which they were taken back.
    pub fn revoked(&self) -> &[Revoked] {
        &self.revoked
    }

    /// Whether this certificate is on it.
    pub fn holds(&self, serial: &Serial) -> bool {
        self.revoked.iter().any(|one| one.serial == *serial)
    }

    /// The list in PEM; an intermediate's is followed by [`Authority::links`], for whoever reads it must be able to check
    /// its signature.
    pub fn pem(&self) -> &str {
        &self.pem
    }
}

impl Authority {
    /// Signs a list that holds everything that `previous` held, and `more`, and is current for `days` days.
    ///
    /// Nothing is ever left out, not even a certificate that has expired meanwhile: whose clock is behind would take it for
    /// valid. One that was on the list already stays on it as it was.
    ///
    /// # Errors
    /// [`PkiError::BadRequest`] when `days` is not 1 to [`MAX_DAYS`], a serial number is none, or `previous` is from the
    /// future; [`PkiError::Signing`] when the authority's key usage rules it out.
    pub fn revoke(
        &self,
        previous: Option<&RevocationList>,
        more: &[Revoked],
        days: u32,
        now: SystemTime,
    ) -> Result<RevocationList, PkiError> {
        if !(1..=MAX_DAYS).contains(&days) {
            return Err(PkiError::BadRequest { what: "a list is current for 1 to 36525 days" });
        }
        if previous.is_some_and(|previous| previous.issued > now) {
            let what = "the list is of a later time than this machine's clock tells; set the clock";
            return Err(PkiError::BadRequest { what });
        }
        let mut revoked = previous.map_or_else(Vec::new, |previous| previous.revoked.clone());
        for one in more {
            if one.serial.as_bytes().is_empty() {
                return Err(PkiError::BadRequest { what: "no certificate has the serial number 0" });
            }
            if !revoked.iter().any(|known| known.serial == one.serial) {
                revoked.push(one.clone());
            }
        }
        let number = previous.map_or(0, RevocationList::number).saturating_add(1);
        let times = [now - CLOCK_SKEW, now + Duration::from_secs(u64::from(days) * 86_400)];
        self.sign_list(number, times, &revoked)
    }

    /// Reads a list that this authority has signed.
    ///
    /// # Errors
    /// [`PkiError::BadRevocationList`] when it is another's, or says something that would be lost if it were written again.
    pub fn read_revocations(&self, pem: &[u8], origin: &Origin) -> Result<RevocationList, PkiError> {
        let bad = |what| PkiError::BadRevocationList { origin: origin.clone(), what };
        let mut found = CertificateRevocationListDer::pem_slice_iter(pem);
        let (Some(Ok(der)), None) = (found.next(), found.next()) else {
            return Err(bad("it must have one X509 CRL section"));
        };
        let (rest, list) =
            CertificateRevocationList::from_der(&der).map_err(|_| bad("it is not well-formed"))?;
        if !rest.is_empty() {
            return Err(bad("bytes follow its end"));
        }
        self.check_signed(&list, &der).map_err(bad)?;
        let known = [OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, OID_X509_EXT_CRL_NUMBER];
        if list.extensions().iter().any(|found| found.critical && !known.contains(&found.oid)) {
            return Err(bad("it is a part of a list, or of another kind than ours"));
        }
        let number = list.crl_number().map_or(Some(0), |number| u128::try_from(number).ok());
        let revoked =
            list.iter_revoked_certificates().map(read_entry).collect::<Result<_, _>>().map_err(bad)?;
        Ok(RevocationList {
            number: number
                .filter(|number| number >> 127 == 0)
                .ok_or_else(|| bad("its number is too large"))?,
            issued: system_time(list.last_update()),
            next: list.next_update().map_or(SystemTime::UNIX_EPOCH, system_time),
            revoked,
            pem: String::from_utf8_lossy(pem).into_owned(),
        })
    }

    /// Whether this authority has signed the certificate.
    pub fn has_issued(&self, certificate: &Certificate) -> bool {
        Certificate::parse(&self.certificate).is_ok_and(|own| certificate.is_signed_by(&own))
    }

    fn check_signed(&self, list: &CertificateRevocationList<'_>, der: &[u8]) -> Result<(), &'static str> {
        let (_, own) =
            X509Certificate::from_der(&self.certificate).map_err(|_| "its signer can't be read")?;
        if own.subject().as_raw() != list.issuer().as_raw() {
            return Err("it is another authority's");
        }
        let signed = is_signed_by(
            der,
            own.public_key().raw,
            ring::default_provider().signature_verification_algorithms.all,
        );
        signed.then_some(()).ok_or("it was not signed with this authority's key")
    }

    fn sign_list(
        &self,
        number: u128,
        [issued, next]: [SystemTime; 2],
        revoked: &[Revoked],
    ) -> Result<RevocationList, PkiError> {
        let entry = |one: &Revoked| {
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from_slice(one.serial.as_bytes()),
                revocation_time: moment(seconds(one.since))?,
                reason_code: Some(one.reason.code()),
                invalidity_date: None,
            })
        };
        let params = CertificateRevocationListParams {
            this_update: moment(seconds(issued))?,
            next_update: moment(seconds(next))?,
            crl_number: SerialNumber::from_slice(Serial::from(number).as_bytes()),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect::<Result<_, PkiError>>()?,
            key_identifier_method: self.key_identifier_method()?,
        };
        let signed = params.signed_by(&self.issuer).map_err(signing)?;
        let links: String = self.links.iter().map(|link| armoured("CERTIFICATE", link)).collect();
        let pem = armoured("X509 CRL", signed.der()) + &links;
        // Read back, so that nothing is published that can't be continued.
        self.read_revocations(pem.as_bytes(), &Origin::Memory)
    }

    /// The identifier as the authority's own certificate has it.
    fn key_identifier_method(&self) -> Result<KeyIdMethod, PkiError> {
        let (_, own) = X509Certificate::from_der(&self.certificate)
            .map_err(|_| PkiError::BadRequest { what: "the authority's certificate can't be read" })?;
        let identifier = own.iter_extensions().find_map(|found| {
            let ParsedExtension::SubjectKeyIdentifier(identifier) = found.parsed_extension() else {
                return None;
            };
            Some(identifier.0.to_vec())
        });
        Ok(identifier.map_or(KeyIdMethod::Sha256, KeyIdMethod::PreSpecified))
    }
}

fn read_entry(entry: &RevokedCertificate<'_>) -> Result<Revoked, &'static str> {
    let known = [OID_X509_EXT_REASON_CODE, OID_X509_EXT_INVALIDITY_DATE];
    let foreign = |found: &X509Extension<'_>| found.critical && !known.contains(&found.oid);
    if entry.iter_extensions().any(foreign) {
        return Err("it is of several authorities, or of another kind than ours");
    }
    let code = entry.reason_code().map_or(0, |(_, code)| code.0);
    Ok(Revoked {
        serial: Serial::from_bytes(entry.raw_serial())
            .map_err(|_| "it holds a serial number of over 20 bytes")?,
        since: system_time(entry.revocation_date),
        reason: Reason::coded(code).ok_or("it gives a reason that only parts of lists may have")?,
    })
}
