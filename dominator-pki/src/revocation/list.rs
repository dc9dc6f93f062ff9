//! Reading a list of revoked certificates (RFC 5280, section 5).

use std::collections::HashSet;
use std::time::SystemTime;

use rustls_pki_types::pem::SectionKind;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::extensions::ParsedExtension;
use x509_parser::num_bigint::BigUint;
use x509_parser::oid_registry::{
    OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, OID_X509_EXT_CRL_NUMBER, OID_X509_EXT_DELTA_CRL_INDICATOR,
    OID_X509_EXT_INVALIDITY_DATE, OID_X509_EXT_ISSUER_DISTRIBUTION_POINT, OID_X509_EXT_REASON_CODE,
};
use x509_parser::prelude::{
    CertificateRevocationList, FromDer, RevokedCertificate, X509Extension, X509Version,
};

use crate::certificate::{Serial, Validity, rfc3339, system_time};
use crate::error::{Origin, PkiError};
use crate::signed::{Signer, is_signed_by};
use crate::trust::Trust;
use crate::verified::AuthorityKey;

/// The most lists and intermediates' certificates together in one file.
pub const MAX_LISTS: usize = 64;
/// The most certificates on one list.
pub const MAX_REVOKED: usize = 65_536;
/// The longest number of a list, in bits; RFC 5280 has it so.
const MAX_NUMBER: u64 = 160;

/// A list that an authority stands behind.
#[derive(Debug)]
pub(crate) struct List {
    issuer: String,
    key: AuthorityKey,
    root: AuthorityKey,
    number: Option<BigUint>,
    issued: SystemTime,
    next: SystemTime,
    revoked: HashSet<Serial>,
    origin: Origin,
}

impl List {
    /// Whose certificates it revokes: those that this key signed.
    pub(crate) fn key(&self) -> AuthorityKey {
        self.key
    }

    /// The authority by which the signer is trusted, often the signer itself.
    pub(crate) fn root(&self) -> AuthorityKey {
        self.root
    }

    /// When a newer one should be there.
    pub(crate) fn next(&self) -> SystemTime {
        self.next
    }

    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// From when until when nothing newer need be there.
    pub(crate) fn current(&self) -> Validity {
        Validity { not_before: self.issued, not_after: self.next }
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    pub(crate) fn holds(&self, serial: &Serial) -> bool {
        self.revoked.contains(serial)
    }

    /// By number; authorities that do not number their lists are held to the times.
    pub(crate) fn is_older_than(&self, other: &Self) -> bool {
        match (&self.number, &other.number) {
            (Some(own), Some(others)) if own != others => own < others,
            _ => self.issued < other.issued,
        }
    }

    /// What is told of a list that no file holds any more.
    pub(crate) fn left_behind(&self) -> PkiError {
        PkiError::LeftRevocationList { origin: self.origin.clone(), issuer: self.issuer.clone() }
    }

    /// Why this list, which is older, does not take the place of `held`.
    pub(crate) fn refuse_for(&self, held: &Self) -> PkiError {
        let (origin, issuer) = (self.origin.clone(), self.issuer.clone());
        PkiError::OlderRevocationList {
            origin,
            issuer,
            issued: rfc3339(self.issued),
            held: rfc3339(held.issued),
        }
    }
}

/// Reads all lists of a file; the second half of what it gives back is why others do not count.
pub(crate) fn read(
    trust: &Trust,
    bytes: &[u8],
    origin: &Origin,
) -> Result<(Vec<List>, Vec<PkiError>), PkiError> {
    let (found, links) = sections(bytes, origin)?;
    let signers = trust.signers(&links);
    let (mut lists, mut refused) = (Vec::new(), Vec::new());
    for der in &found {
        let parsed = Parsed::of(der, origin)?;
        match parsed.signed_by(&signers, trust) {
            Ok(list) => lists.push(list),
            Err(Unsigned::Nobody(error)) => refused.push(error),
            Err(Unsigned::Unfit(error)) => return Err(error),
        }
    }
    match (lists.is_empty(), refused.pop()) {
        (true, Some(error)) => Err(error),
        (_, last) => {
            refused.extend(last);
            Ok((lists, refused))
        }
    }
}

type Sections = (Vec<CertificateRevocationListDer<'static>>, Vec<CertificateDer<'static>>);

/// The lists in a file and the certificates beside them.
fn sections(bytes: &[u8], origin: &Origin) -> Result<Sections, PkiError> {
    // PEM is text and begins with a dash or a remark; DER begins with the tag of a sequence and its length.
    if crate::signed::is_one_sequence(bytes) {
        return Ok((vec![bytes.to_vec().into()], Vec::new()));
    }
    let (mut lists, mut links): Sections = (Vec::new(), Vec::new());
    for (kind, der) in crate::credentials::sections(bytes, MAX_LISTS, origin)? {
        if kind == SectionKind::Crl {
            lists.push(der.into());
        } else if kind == SectionKind::Certificate {
            links.push(der.into());
        } else {
            return Err(bad(origin, "it has something else than lists and certificates beside them"));
        }
    }
    match lists.is_empty() {
        true => Err(bad(origin, "it has no X509 CRL section, and is no DER either")),
        false => Ok((lists, links)),
    }
}

/// A list that nobody stands behind yet.
struct Parsed<'a> {
    der: &'a [u8],
    list: CertificateRevocationList<'a>,
    number: Option<BigUint>,
    next: SystemTime,
    origin: &'a Origin,
}

enum Unsigned {
    /// No authority we know has signed it.
    Nobody(PkiError),
    /// One did, but it can't be used.
    Unfit(PkiError),
}

impl<'a> Parsed<'a> {
    fn of(der: &'a [u8], origin: &'a Origin) -> Result<Self, PkiError> {
        let bad = |what| bad(origin, what);
        let (rest, list) =
            CertificateRevocationList::from_der(der).map_err(|_| bad("it is not well-formed"))?;
        if !rest.is_empty() {
            return Err(bad("bytes follow its end"));
        }
        if !matches!(list.version(), None | Some(X509Version(1))) {
            return Err(bad("it is of a version that does not exist"));
        }
        let number = check_extensions(&list).map_err(bad)?;
        if list.tbs_cert_list.revoked_certificates.len() > MAX_REVOKED {
            return Err(bad("it has more than 65536 certificates"));
        }
        list.iter_revoked_certificates().try_for_each(check_entry).map_err(bad)?;
        let next = list.next_update().ok_or_else(|| bad("it does not say when the next one is due"))?;
        Ok(Self { der, list, number, next: system_time(next), origin })
    }

    /// The name must be right as well as the key: an authority may have given its key to another of its certificates.
    fn signed_by(self, signers: &[Signer], trust: &Trust) -> Result<List, Unsigned> {
        let issuer = self.list.issuer();
        let algorithms = trust.provider().signature_verification_algorithms.all;
        let signed = |signer: &&Signer| {
            signer.subject == issuer.as_raw() && is_signed_by(self.der, &signer.public_key, algorithms)
        };
        let origin = self.origin.clone();
        let Some(signer) = signers.iter().filter(signed).max_by_key(|signer| signer.may_revoke) else {
            let issuer = issuer.to_string();
            return Err(Unsigned::Nobody(PkiError::UnknownRevoker { origin, issuer }));
        };
        if !signer.may_revoke {
            let what = "its signer's certificate has a key usage without signing of such lists";
            return Err(Unsigned::Unfit(bad(&origin, what)));
        }
        let serials =
            self.list.iter_revoked_certificates().map(|entry| Serial::from_bytes(entry.raw_serial()));
        let revoked = serials.collect::<Result<_, _>>();
        Ok(List {
            issuer: issuer.to_string(),
            key: signer.key(),
            root: signer.root,
            number: self.number,
            issued: system_time(self.list.last_update()),
            next: self.next,
            revoked: revoked.map_err(|_| Unsigned::Unfit(bad(&origin, LONG_SERIAL)))?,
            origin,
        })
    }
}

const LONG_SERIAL: &str = "it holds a serial number of over 20 bytes";

/// Gives back the list's number. What a list says in a critical extension that we don't know may be that it is not a list
/// of what is revoked.
fn check_extensions(list: &CertificateRevocationList<'_>) -> Result<Option<BigUint>, &'static str> {
    list.tbs_cert_list.extensions_map().map_err(|_| "an extension stands in it twice")?;
    let mut number = None;
    for extension in list.extensions() {
        let oid = &extension.oid;
        if *oid == OID_X509_EXT_DELTA_CRL_INDICATOR {
            return Err("it only says what has changed since another; give the whole list");
        } else if *oid == OID_X509_EXT_ISSUER_DISTRIBUTION_POINT {
            return Err("it is only a part of a list; give the whole one");
        } else if *oid == OID_X509_EXT_CRL_NUMBER {
            let ParsedExtension::CRLNumber(found) = extension.parsed_extension() else {
                return Err("its number is malformed");
            };
            if found.bits() > MAX_NUMBER {
                return Err("its number has more than 20 bytes");
            }
            number = Some(found.clone());
        } else if extension.critical && *oid != OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER {
            return Err("it has a critical extension that is not known");
        }
    }
    Ok(number)
}

/// The extension that names another issuer for the entries from there on is critical, and not known.
fn check_entry(entry: &RevokedCertificate<'_>) -> Result<(), &'static str> {
    let known = [OID_X509_EXT_REASON_CODE, OID_X509_EXT_INVALIDITY_DATE];
    let foreign = |found: &X509Extension<'_>| found.critical && !known.contains(&found.oid);
    match entry.iter_extensions().any(foreign) {
        true => Err("an entry has a critical extension that is not known, or is of another authority"),
        false => Ok(()),
    }
}

fn bad(origin: &Origin, what: &'static str) -> PkiError {
    PkiError::RefusedRevocationList { origin: origin.clone(), what }
}
