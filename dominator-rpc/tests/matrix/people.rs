//! Authorities, those who show certificates of theirs, and those who show others.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dominator_core::auth::Role;
use dominator_pki::{
    Certificate, Credentials, DenyList, GROUPS_OID, METHODS_OID, Origin, PkiError, ROLE_URI, Revocation,
    Trust,
};
use dominator_rpc::transport::Tls;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DistinguishedName,
    DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
    SigningKey as _,
};
use rustls::client::ResolvesClientCert;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

const DAY: Duration = Duration::from_secs(86_400);

/// Whom a fleet trusts, and whom it does not.
pub struct World {
    /// What stands in `CA.pem`.
    pub root: Authority,
    /// What stands in `IdentityCA.pem`.
    pub people: Authority,
    /// Nobody trusts it.
    pub strangers: Authority,
    /// Nobody trusts it, and it bears the root's name.
    pub namesake: Authority,
}

impl World {
    pub fn new() -> Self {
        Self {
            root: Authority::named("Fleet"),
            people: Authority::named("People"),
            strangers: Authority::named("Strangers"),
            namesake: Authority::named("Fleet"),
        }
    }

    pub fn trust(&self) -> Trust {
        Trust::new(vec![self.root.der.clone()], vec![self.people.der.clone()]).unwrap()
    }

    /// The same once the root was taken out of `CA.pem` and the strangers were put in.
    pub fn trust_in_others(&self) -> Trust {
        Trust::new(vec![self.strangers.der.clone()], vec![self.people.der.clone()]).unwrap()
    }

    /// The same with a list of the root's, on which `shown` stands.
    pub fn trust_revoking(&self, shown: &Shown) -> Trust {
        self.trust_by_list(&self.root.revokes(shown))
    }

    /// The same with a list of the root's, on which whoever stands between `shown` and the root stands.
    pub fn trust_revoking_the_authority_of(&self, shown: &Shown) -> Trust {
        self.trust_by_list(&self.root.revokes_serial(&shown.chain[1]))
    }

    /// The same with a list of the root's whose successor is overdue, on which somebody else stands.
    pub fn trust_by_an_overdue_list(&self, _: &Shown) -> Trust {
        self.trust_by_list(&self.root.revokes_until(&self.member("mallory", "").chain[0], -1))
    }

    /// The same with a list of the root's whose successor is overdue, on which `shown` stands.
    pub fn trust_revoking_overdue(&self, shown: &Shown) -> Trust {
        self.trust_by_list(&self.root.revokes_until(&shown.chain[0], -1))
    }

    /// The same with that list, whosever it is.
    pub fn trust_by_list(&self, list: &[u8]) -> Trust {
        let (trust, mut revocation) = (self.trust(), Revocation::default());
        let refused = revocation.read_lists(&trust, list, &Origin::Memory).unwrap();
        assert!(refused.is_empty(), "{refused:?}");
        trust.with_revocation(revocation)
    }

    /// The same where the operator denies this.
    pub fn trust_denying(&self, denied: &str) -> Trust {
        let mut revocation = Revocation::default();
        revocation.deny(DenyList::parse(denied.as_bytes(), &Origin::Memory).unwrap());
        self.trust().with_revocation(revocation)
    }

    /// What a server or a client of this fleet needs, who shows `shown`.
    pub fn tls(&self, shown: &Shown) -> Tls {
        Tls::new(self.trust(), shown.credentials().unwrap()).unwrap()
    }

    /// Somebody of the fleet, with these methods.
    pub fn member(&self, user: &str, methods: &str) -> Shown {
        self.root.signs(&Paper::of(user).methods(methods))
    }
}

/// What a certificate says, be it true or not.
#[derive(Clone)]
pub struct Paper(CertificateParams);

impl Paper {
    /// Valid from yesterday until tomorrow.
    pub fn of(user: &str) -> Self {
        Self::of_all(&[user])
    }

    /// With several common names, or none.
    pub fn of_all(users: &[&str]) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (number, user) in users.iter().enumerate() {
            // The library keeps one of each kind; what is of another kind here is made a common name below.
            let kind = if number == 0 { DnType::CommonName } else { DnType::CustomDnType(vec![2, 5, 4, 3]) };
            params.distinguished_name.push(kind, *user);
        }
        Self(params).valid(-1, 1)
    }

    /// In days from now.
    pub fn valid(mut self, from: i64, until: i64) -> Self {
        (self.0.not_before, self.0.not_after) = (day(from).into(), day(until).into());
        self
    }

    /// A comma between each; whatever the text is, it goes into the certificate.
    pub fn methods(self, methods: &str) -> Self {
        if methods.is_empty() { self } else { self.list(METHODS_OID, methods) }
    }

    pub fn groups(self, groups: &str) -> Self {
        self.list(GROUPS_OID, groups)
    }

    fn list(mut self, oid: &[u64], items: &str) -> Self {
        let items: Vec<u8> = items.split(',').flat_map(|item| element(0x0c, item.as_bytes())).collect();
        let extension = CustomExtension::from_oid_content(oid, element(0x30, &items));
        self.0.custom_extensions.push(extension);
        self
    }

    pub fn uri(mut self, uri: &str) -> Self {
        self.0.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        self
    }

    pub fn host(mut self, name: &str) -> Self {
        self.0.subject_alt_names.push(SanType::DnsName(name.try_into().unwrap()));
        self
    }

    pub fn role(self, role: Role) -> Self {
        self.uri(&format!("{ROLE_URI}{role}"))
    }

    fn of_authority(mut self) -> Self {
        self.0.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        self.0.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        self
    }
}

/// In days from now.
fn day(day: i64) -> SystemTime {
    let distance = DAY * u32::try_from(day.unsigned_abs()).unwrap();
    if day < 0 { SystemTime::now() - distance } else { SystemTime::now() + distance }
}

/// Who signs certificates.
pub struct Authority {
    pub der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn named(name: &str) -> Self {
        let (params, key) = (Paper::of(name).of_authority().0, KeyPair::generate().unwrap());
        let der = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::from_ca_cert_der(&der, key).unwrap(), der }
    }

    /// Signs it for a new key.
    pub fn signs(&self, paper: &Paper) -> Shown {
        let key = KeyPair::generate().unwrap();
        Shown { chain: vec![paper.0.signed_by(&key, &self.issuer).unwrap().der().clone()], key }
    }

    /// The authority below this one with that certificate.
    pub fn below(&self, paper: Paper) -> Self {
        let key = KeyPair::generate().unwrap();
        let der = paper.of_authority().0.signed_by(&key, &self.issuer).unwrap().der().clone();
        Self { issuer: Issuer::from_ca_cert_der(&der, key).unwrap(), der }
    }

    /// This authority's key, certified by `other`.
    pub fn certified_by(&self, other: &Self) -> CertificateDer<'static> {
        let paper = Paper::of("People").of_authority();
        paper.0.signed_by(self.issuer.key(), &other.issuer).unwrap().der().clone()
    }

    /// A list of revoked certificates with the leaf of `shown`, be it this authority's or not.
    pub fn revokes(&self, shown: &Shown) -> Vec<u8> {
        self.revokes_serial(&shown.chain[0])
    }

    fn revokes_serial(&self, certificate: &[u8]) -> Vec<u8> {
        self.revokes_until(certificate, 1)
    }

    /// `until` is in days from now.
    fn revokes_until(&self, certificate: &[u8], until: i64) -> Vec<u8> {
        let serial = Certificate::parse(certificate).unwrap().serial().as_bytes().to_vec();
        let now = SystemTime::now() - 2 * DAY;
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from_slice(&serial),
            revocation_time: now.into(),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now.into(),
            next_update: day(until).into(),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().der().to_vec()
    }

    /// Signs as a version 1 certificate, as `openssl x509 -req` does without a file of extensions.
    pub fn signs_version_one(&self, paper: &Paper) -> Shown {
        let Shown { chain, key } = self.signs(paper);
        Shown { chain: vec![version_one(&chain[0], self.issuer.key())], key }
    }
}

/// What a peer shows: certificates, leaf first, and the key it signs with.
pub struct Shown {
    pub chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

impl Shown {
    /// Nothing at all.
    pub fn nothing() -> Self {
        Self { chain: Vec::new(), key: KeyPair::generate().unwrap() }
    }

    /// Signed by its own key.
    pub fn self_signed(paper: &Paper) -> Self {
        let key = KeyPair::generate().unwrap();
        Self { chain: vec![paper.0.self_signed(&key).unwrap().der().clone()], key }
    }

    /// Followed by the certificate of whoever stands between it and the root.
    pub fn by_way_of(mut self, authority: &Authority) -> Self {
        self.chain.push(authority.der.clone());
        self
    }

    pub fn followed_by(mut self, der: CertificateDer<'static>) -> Self {
        self.chain.push(der);
        self
    }

    /// The same certificates in the hands of somebody who has another key.
    pub fn stolen(self) -> Self {
        Self { key: KeyPair::generate().unwrap(), ..self }
    }

    /// A certificate that this one, which is no authority, has signed.
    pub fn signs(self, paper: &Paper) -> Self {
        let issuer = Issuer::from_ca_cert_der(&self.chain[0], self.key).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = paper.0.signed_by(&key, &issuer).unwrap().der().clone();
        Self { chain: [vec![leaf], self.chain].concat(), key }
    }

    /// The serial number of the leaf.
    pub fn serial(&self) -> String {
        Certificate::parse(&self.chain[0]).unwrap().serial().to_string()
    }

    /// As our own programs read it from files.
    pub fn credentials(&self) -> Result<Credentials, PkiError> {
        let chain: String = self.chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
        Credentials::from_pem(chain.as_bytes(), self.key.serialize_pem().as_bytes())
    }

    /// As a program shows it that checks nothing.
    pub fn resolver(&self) -> Arc<dyn ResolvesClientCert> {
        if self.chain.is_empty() {
            return Arc::new(Shows(None));
        }
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        let key = any_supported_type(&key).unwrap();
        Arc::new(Shows(Some(Arc::new(CertifiedKey::new(self.chain.clone(), key)))))
    }
}

#[derive(Debug)]
struct Shows(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

/// What is left of `der` in version 1, signed by `key`: serial number, algorithm, issuer, times, subject and key.
fn version_one(der: &[u8], key: &KeyPair) -> CertificateDer<'static> {
    let certificate = contents(der).0;
    let (body, rest) = contents(certificate);
    let algorithm = &rest[..rest.len() - contents(rest).1.len()];
    let mut kept = contents(body).1;
    let from = kept;
    for _ in 0..6 {
        kept = contents(kept).1;
    }
    let body = element(0x30, &from[..from.len() - kept.len()]);
    let signature = [vec![0], key.sign(&body).unwrap()].concat();
    let whole = [body, algorithm.to_vec(), element(0x03, &signature)].concat();
    CertificateDer::from(element(0x30, &whole))
}

/// What is in the first element, and what follows it.
fn contents(der: &[u8]) -> (&[u8], &[u8]) {
    let (header, length) = match der[1] {
        short @ 0..=0x7f => (2, usize::from(short)),
        0x81 => (3, usize::from(der[2])),
        0x82 => (4, usize::from(der[2]) << 8 | usize::from(der[3])),
        other => panic!("a length of {other:#x}"),
    };
    der[header..].split_at(length)
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    let head = match length {
        [0, short @ 0..=0x7f] => vec![tag, short],
        [0, length] => vec![tag, 0x81, length],
        [high, low] => vec![tag, 0x82, high, low],
    };
    [head, content.to_vec()].concat()
}

fn pem(kind: &str, der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in der.chunks(3) {
        let bits =
            chunk.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let value = DIGITS[bits >> (18 - 6 * digit) & 63];
            text.push(if digit > chunk.len() { '=' } else { char::from(value) });
        }
    }
    format!("-----BEGIN {kind}-----\n{text}\n-----END {kind}-----\n")
}
