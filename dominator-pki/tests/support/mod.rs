//! Certificates good and bad, and handshakes without sockets.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dominator_core::auth::MethodPattern;
use dominator_pki::Credentials;
use dominator_pki::ca::{Authority, Leaf};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    SigningKey,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ConnectionCommon, Error, ServerConfig, ServerConnection};
use x509_parser::prelude::{FromDer, X509Certificate};

pub const DAY: Duration = Duration::from_secs(86_400);

pub fn methods(list: &str) -> Vec<MethodPattern> {
    MethodPattern::parse_list(list).unwrap()
}

pub fn texts(methods: &[MethodPattern]) -> Vec<String> {
    methods.iter().map(ToString::to_string).collect()
}

pub fn groups(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

pub fn authority(name: &str) -> Authority {
    Authority::create(name, SystemTime::now()).unwrap()
}

pub fn leaf(user: &str) -> Leaf {
    Leaf::new(user).unwrap()
}

pub fn issue(authority: &Authority, leaf: &Leaf) -> Credentials {
    authority.issue_credentials(leaf, SystemTime::now()).unwrap()
}

/// Parameters for certificates that our own authority would never issue.
pub fn params(user: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = (SystemTime::now() - DAY).into();
    params.not_after = (SystemTime::now() + DAY).into();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, user);
    params
}

pub fn ca_params(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

pub fn extension(oid: &[u64], der: &[u8]) -> CustomExtension {
    CustomExtension::from_oid_content(oid, der.to_vec())
}

/// `authority` as the certificate library's issuer, for signing what the authority itself would not.
pub fn issuer(authority: &Authority) -> Issuer<'static, KeyPair> {
    let key = KeyPair::from_pem(&authority.private_key_pem()).unwrap();
    Issuer::from_ca_cert_der(authority.certificate_der(), key).unwrap()
}

/// Signs `params` with `by` for a new key.
pub fn forge(params: &CertificateParams, by: &Issuer<'_, KeyPair>) -> Forged {
    let key = KeyPair::generate().unwrap();
    Forged { chain: vec![params.signed_by(&key, by).unwrap().der().clone()], key }
}

/// A chain and a key that [`Credentials`] might refuse to load.
pub struct Forged {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: KeyPair,
}

impl Forged {
    pub fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }
}

/// Makes `der` a version 1 certificate, as `openssl x509 -req` does without an extension file: no version, no
/// extensions, signed by `key`.
pub fn version_one(der: &[u8], key: &KeyPair) -> CertificateDer<'static> {
    let (_, v3) = X509Certificate::from_der(der).unwrap();
    let time = |time: i64| {
        let time = time::OffsetDateTime::from_unix_timestamp(time).unwrap();
        let (year, month, day) = time.to_calendar_date();
        let text = format!(
            "{:02}{:02}{day:02}{:02}{:02}{:02}Z",
            year % 100,
            u8::from(month),
            time.hour(),
            time.minute(),
            time.second()
        );
        element(0x17, text.as_bytes())
    };
    let validity = v3.validity();
    // ecdsa-with-SHA256
    let algorithm = b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02".to_vec();
    let body = [
        element(0x02, v3.raw_serial()),
        algorithm.clone(),
        v3.issuer().as_raw().to_vec(),
        element(
            0x30,
            &[time(validity.not_before.timestamp()), time(validity.not_after.timestamp())].concat(),
        ),
        v3.subject().as_raw().to_vec(),
        v3.public_key().raw.to_vec(),
    ];
    let body = element(0x30, &body.concat());
    let signature = [vec![0], key.sign(&body).unwrap()].concat();
    CertificateDer::from(element(0x30, &[body, algorithm, element(0x03, &signature)].concat()))
}

/// A list of revoked certificates such as [`Authority::revoke`] would not sign.
pub struct ForgedList {
    pub number: Option<u8>,
    pub issued: &'static str,
    pub next: Option<&'static str>,
    /// Serial numbers, each with its extensions.
    pub revoked: Vec<(u8, Vec<u8>)>,
    /// More extensions of the list itself.
    pub extensions: Vec<u8>,
}

impl ForgedList {
    pub fn of(number: u8, revoked: &[u8]) -> Self {
        let revoked = revoked.iter().map(|serial| (*serial, Vec::new())).collect();
        let (issued, next) = ("20200101000000Z", Some("20991231235959Z"));
        Self { number: Some(number), issued, next, revoked, extensions: Vec::new() }
    }

    /// Signed with a P-256 key.
    pub fn sign(&self, by: &Authority) -> Vec<u8> {
        let algorithm = b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02".to_vec();
        let (_, issuer) = X509Certificate::from_der(by.certificate_der()).unwrap();
        let time = |time: &str| element(0x18, time.as_bytes());
        let entry = |(serial, extensions): &(u8, Vec<u8>)| {
            let extensions = if extensions.is_empty() { vec![] } else { element(0x30, extensions) };
            element(0x30, &[element(0x02, &[*serial]), time(self.issued), extensions].concat())
        };
        let number = self.number.map(|number| v3_extension(20, false, &element(0x02, &[number])));
        let extensions = [number.unwrap_or_default(), self.extensions.clone()].concat();
        let body = [
            element(0x02, &[1]),
            algorithm.clone(),
            issuer.subject().as_raw().to_vec(),
            time(self.issued),
            self.next.map(time).unwrap_or_default(),
            element(0x30, &self.revoked.iter().map(entry).collect::<Vec<_>>().concat()),
            if extensions.is_empty() { vec![] } else { element(0xa0, &element(0x30, &extensions)) },
        ];
        let body = element(0x30, &body.concat());
        let key = KeyPair::from_pem(&by.private_key_pem()).unwrap();
        let signature = [vec![0], key.sign(&body).unwrap()].concat();
        element(0x30, &[body, algorithm, element(0x03, &signature)].concat())
    }
}

/// An extension 2.5.29.`arc`.
pub fn v3_extension(arc: u8, critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = if critical { vec![1, 1, 0xff] } else { vec![] };
    element(0x30, &[vec![6, 3, 0x55, 0x1d, arc], critical, element(0x04, value)].concat())
}

pub fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let head = match length {
        0..=0x7f => vec![tag, length as u8],
        0x80..=0xff => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    [head, content.to_vec()].concat()
}

pub fn pem(kind: &str, der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |bits: u32| char::from(DIGITS[(bits & 63) as usize]);
    let mut text = String::new();
    for chunk in der.chunks(3) {
        let bits = chunk.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        let digits: String =
            (0..4).map(|n| if n > chunk.len() { '=' } else { digit(bits >> (18 - 6 * n)) }).collect();
        text.push_str(&digits);
    }
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", lines.join("\n"))
}

/// How a handshake ended, at both ends.
pub struct Handshake {
    pub client: Result<ClientConnection, Error>,
    pub server: Result<ServerConnection, Error>,
}

impl Handshake {
    /// Both ends must be satisfied.
    pub fn accepted(self) -> (ClientConnection, ServerConnection) {
        (self.client.unwrap(), self.server.unwrap())
    }

    /// The server must have refused the client.
    pub fn refused_by_server(self) -> Error {
        let Err(error) = self.server else { panic!("the server let the client in") };
        assert!(!matches!(error, Error::AlertReceived(_)), "it was the client that refused: {error}");
        error
    }

    /// The client must have refused the server.
    pub fn refused_by_client(self) -> Error {
        let Err(error) = self.client else { panic!("the client believed the server") };
        assert!(!matches!(error, Error::AlertReceived(_)), "it was the server that refused: {error}");
        error
    }
}

/// A whole handshake through buffers.
pub fn handshake(server: ServerConfig, client: ClientConfig, name: &str) -> Handshake {
    handshake_shared(&Arc::new(server), &Arc::new(client), name)
}

pub fn handshake_shared(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>, name: &str) -> Handshake {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(client.clone(), name).unwrap();
    let mut server = ServerConnection::new(server.clone()).unwrap();
    let (mut at_client, mut at_server) = (Ok(()), Ok(()));
    loop {
        let to_server = flush(&mut client);
        at_server = at_server.and_then(|()| feed(&mut server, &to_server));
        let to_client = flush(&mut server);
        at_client = at_client.and_then(|()| feed(&mut client, &to_client));
        if to_server.is_empty() && to_client.is_empty() {
            break;
        }
    }
    assert!(
        at_server.is_err() || at_client.is_err() || !(client.is_handshaking() || server.is_handshaking())
    );
    Handshake { client: at_client.map(|()| client), server: at_server.map(|()| server) }
}

fn flush<D>(connection: &mut ConnectionCommon<D>) -> Vec<u8> {
    let mut bytes = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut bytes).unwrap();
    }
    bytes
}

fn feed<D>(connection: &mut ConnectionCommon<D>, mut bytes: &[u8]) -> Result<(), Error> {
    while !bytes.is_empty() {
        connection.read_tls(&mut bytes).unwrap();
        connection.process_new_packets()?;
    }
    Ok(())
}

/// Sends a word each way.
pub fn converse(client: &mut ClientConnection, server: &mut ServerConnection) {
    client.writer().write_all(b"poll").unwrap();
    feed(server, &flush(client)).unwrap();
    let mut word = [0; 4];
    server.reader().read_exact(&mut word).unwrap();
    assert_eq!(&word, b"poll");
}
