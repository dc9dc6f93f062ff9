//! What can go wrong, whose fault it is, and what to do next.

mod certificate;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use dominator_core::auth::Role;
use thiserror::Error;

pub use certificate::{BadCertificate, BadList};

use crate::certificate::{Serial, Validity, rfc3339};
use crate::revocation::BadDenial;

/// Where the bytes came from that an error speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// A file.
    File(PathBuf),
    /// The other end of a connection.
    Peer,
    /// PEM or DER handed over by the caller.
    Memory,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Peer => f.write_str("the peer's certificate"),
            Self::Memory => f.write_str("the given bytes"),
        }
    }
}

impl From<&Path> for Origin {
    fn from(path: &Path) -> Self {
        Self::File(path.into())
    }
}

/// Any failure of this crate. Causes are in `source`.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PkiError {
    /// The file system did not give us a file; `NotFound` is told apart by the source's kind.
    #[error("can't read {}; check that it exists and who may read it", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is a deny list, and the user this daemon runs as may not read it.
    #[error(
        "there is a deny list, {path}, and the user this daemon runs as may not read it; without it those it denies would be let in. Let that user read it (chgrp and chmod g+r {path}), or name another list with --deny-list",
        path = path.display()
    )]
    DenyListNotOurs {
        /// The list.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// The file system did not take a file.
    #[error("can't write {}; check the directory's owner and free space", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something stands where a new file should go.
    #[error("{} exists and is left alone; move it away, or have a certificate replaced with make-cert --force", path.display())]
    AlreadyExists {
        /// The file in the way.
        path: PathBuf,
    },
    /// More bytes than a certificate file can sensibly hold.
    #[error("{origin} is longer than {limit} bytes; this is not the file you mean")]
    TooLong {
        /// What was read.
        origin: Origin,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The PEM armour is broken.
    #[error("{origin} is not PEM; it must be text with -----BEGIN lines (openssl x509 -inform DER converts)")]
    NotPem {
        /// What was read.
        origin: Origin,
        /// Why.
        source: rustls_pki_types::pem::Error,
    },
    /// A section that would be passed over, with whoever is trusted, or not any more, by it.
    #[error(
        "{origin} has a section that can't be read: each -----BEGIN must be the first of its line, without spaces or a byte order mark before it, and begin a CERTIFICATE (or an X509 CRL, in a file of lists)"
    )]
    UnreadSection {
        /// What was read.
        origin: Origin,
    },
    /// More certificates, or lists of revoked ones, than are looked at.
    #[error("{origin} has more than {limit} certificates or lists; this is not the file you mean")]
    TooMany {
        /// What was read.
        origin: Origin,
        /// How many are allowed.
        limit: usize,
    },
    /// There is no certificate in it.
    #[error("{origin} holds no certificate; it must have a BEGIN CERTIFICATE section")]
    NoCertificate {
        /// What was read.
        origin: Origin,
    },
    /// There is no private key in it.
    #[error(
        "{origin} holds no private key that can be used; an encrypted key must be decrypted first (openssl pkcs8)"
    )]
    NoKey {
        /// What was read.
        origin: Origin,
    },
    /// Others than its owner may read or replace a private key.
    #[error(
        "the private key {path} has mode {mode:04o}, so that others than its owner can get at it; chmod 600 {path}, and issue it anew if they may have", path = path.display()
    )]
    ExposedKey {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Everybody can change what it says.
    #[error(
        "{path} has mode {mode:04o}, so that everybody on this machine can change who is believed; chmod o-w {path}, and look whether somebody has", path = path.display()
    )]
    OpenToChange {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A pipe, a device or a directory where a private key should be.
    #[error("{} is no regular file; a private key is read from nothing else", path.display())]
    NoKeyFile {
        /// What is there.
        path: PathBuf,
    },
    /// A pipe, a device or a directory where a file should be that is read again and again.
    #[error("{} is no regular file, and nothing else can be read again when it changes", path.display())]
    NoFile {
        /// What is there.
        path: PathBuf,
    },
    /// The key is of a kind we can't sign with.
    #[error(
        "the private key in {origin} can't be used; make it PKCS#8 (openssl pkcs8 -topk8 -nocrypt), of RSA with at least 2048 bits, ECDSA P-256 or P-384, or Ed25519"
    )]
    UnusableKey {
        /// What was read.
        origin: Origin,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Certificate and key are of different pairs.
    #[error(
        "the private key does not belong to the certificate in {origin}; give the pair that was made together"
    )]
    KeyMismatch {
        /// The certificate.
        origin: Origin,
    },
    /// A certificate that breaks the rules of `docs/formats/certificates.md`.
    #[error("{origin} is no acceptable certificate; have it issued again")]
    BadCertificate {
        /// What was read.
        origin: Origin,
        /// The rule.
        source: BadCertificate,
    },
    /// An X.509 version 1 certificate where its holder must prove something with it.
    #[error(
        "{origin} is an X.509 version 1 certificate, which can't be used for TLS; issue it again with make-cert (the authority itself may be version 1)"
    )]
    VersionOne {
        /// What was read.
        origin: Origin,
    },
    /// The certificate's time is over.
    #[error("{origin} expired at {not_after}, and by this machine's clock it is {now}; have it issued again")]
    Expired {
        /// What was read.
        origin: Origin,
        /// RFC 3339, UTC.
        not_after: String,
        /// When it was looked at; RFC 3339, UTC.
        now: String,
    },
    /// The certificate's time has not come.
    #[error(
        "{origin} is not valid before {not_before}, and by this machine's clock it is {now}; set the clock if it is wrong"
    )]
    NotYetValid {
        /// What was read.
        origin: Origin,
        /// RFC 3339, UTC.
        not_before: String,
        /// When it was looked at; RFC 3339, UTC.
        now: String,
    },
    /// Not a signer: no CA flag, or a key usage without certificate signing.
    #[error("{origin} is not a certificate authority; give the authority's own certificate")]
    NotAnAuthority {
        /// What was read.
        origin: Origin,
    },
    /// The certificates after an authority's own are not those of the authorities above it.
    #[error(
        "in {origin} a certificate is followed by one of somebody else than its signer; put the authority's own first, then its signer's, and so on"
    )]
    BrokenChain {
        /// What was read.
        origin: Origin,
    },
    /// An authority's list of revoked certificates that can't be continued.
    #[error(
        "the list of revoked certificates in {origin} can't be continued: {what}; bring the authority's own list back, or move this one away to begin a new one"
    )]
    BadRevocationList {
        /// What was read.
        origin: Origin,
        /// What is wrong with it.
        what: &'static str,
    },
    /// An authority without a list of revoked certificates.
    #[error(
        "there is no list of revoked certificates in {}; the first one is made by revoking a certificate", path.display()
    )]
    NoRevocationList {
        /// Where it should be.
        path: PathBuf,
    },
    /// An authority's certificate that can't be a trust anchor.
    #[error("{origin} can't be trusted as an authority")]
    BadAuthority {
        /// What was read.
        origin: Origin,
        /// Why.
        source: rustls::Error,
    },
    /// An authority among those believed in everything that is to be believed in identity only, by its own certificate.
    #[error(
        "in {origin}, {subject} is an identity authority, by its own mark or by that of another certificate of its key in the other file, which is never believed in everything; take it out there, and put it into the file of identity authorities (IdentityCA.pem)"
    )]
    IdentityAuthority {
        /// What was read.
        origin: Origin,
        /// Whose certificate it is.
        subject: String,
    },
    /// The peer sent no certificate, or the caller passed an empty chain.
    #[error("the peer presented no certificate; it must connect with one signed by an authority we trust")]
    NoPeerCertificate,
    /// The peer sent more certificates than we look at.
    #[error("the peer presented {count} certificates; at most {limit} are looked at")]
    ChainTooLong {
        /// How many came.
        count: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// The chain does not verify: wrong authority, wrong signature.
    #[error(
        "the certificate of {user:?} is not to be trusted; it must be signed by an authority in our CA file"
    )]
    Untrusted {
        /// The name it claims.
        user: String,
        /// Why.
        source: rustls::Error,
    },
    /// The chain was valid once or will be, by this machine's clock.
    #[error(
        "by this machine's clock it is {}, but the certificate of {user:?} (or the authority's between) is valid from {} until {}; have it issued again, or set the clock if it is wrong", rfc3339(*now), rfc3339(valid.not_before), rfc3339(valid.not_after)
    )]
    Untimely {
        /// The name it claims.
        user: String,
        /// When it was looked at.
        now: SystemTime,
        /// When the certificate is valid that is not.
        valid: Validity,
        /// The same in rustls's words.
        source: Box<rustls::Error>,
    },
    /// A certificate that was taken back: the peer's own, or an authority's between.
    #[error(
        "the certificate of {user:?} is not believed any more: serial number {serial} was taken back by {by}"
    )]
    Revoked {
        /// The name it claims.
        user: String,
        /// Of the certificate that was taken back.
        serial: Serial,
        /// By what.
        by: Revoker,
    },
    /// A server that is not what we meant to talk to.
    #[error("the server plays {}, but {expected} was expected; check the address, or issue its certificate for {expected}", describe(user, *found))]
    WrongRole {
        /// What the caller wanted.
        expected: Role,
        /// What the certificate says.
        found: Option<Role>,
        /// Whom the certificate names.
        user: String,
    },
    /// A server that did not show a certificate.
    #[error("the server showed no certificate; check that it is running, and that this is its port")]
    NoChain {
        /// Why.
        source: io::Error,
    },
    /// A request for a certificate that can't be issued.
    #[error("the certificate can't be issued as asked: {what}")]
    BadRequest {
        /// What is wrong with it.
        what: &'static str,
    },
    /// The certificate library refused.
    #[error("the certificate can't be made or signed")]
    Signing {
        /// Why.
        source: rcgen::Error,
    },
    /// The system gave no random numbers.
    #[error("no random numbers to be had")]
    NoRandomness,
    /// TLS could not be set up with these credentials.
    #[error("TLS can't be set up with the certificate and key given")]
    Configuration {
        /// Why.
        source: rustls::Error,
    },
    /// A user without certificates.
    #[error("there is no certificate in {}; put NAME.cert and NAME.key there", directory.display())]
    NoUserCertificate {
        /// The directory searched.
        directory: PathBuf,
    },
    /// A list of revoked certificates that can't be relied on.
    #[error(
        "the list of revoked certificates in {origin} is refused: {what}; put the authority's whole list there, PEM or DER"
    )]
    RefusedRevocationList {
        /// What was read.
        origin: Origin,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A list of revoked certificates that none of our authorities has signed.
    #[error(
        "the list of revoked certificates of {issuer:?} in {origin} was not signed by an authority we trust; remove it, or put its signer's certificate into the CA file (an intermediate's: behind the list)"
    )]
    UnknownRevoker {
        /// What was read.
        origin: Origin,
        /// Whom it names as its issuer.
        issuer: String,
    },
    /// A list that was in the files once.
    #[error(
        "the list of revoked certificates of {issuer:?}, which was read from {origin}, is in none of the files any more; what it revokes stays revoked until this process ends, and nobody learns what is revoked since: put the newest back, if the authority is still in use"
    )]
    LeftRevocationList {
        /// Where it was.
        origin: Origin,
        /// Whose it is.
        issuer: String,
    },
    /// A list of revoked certificates that is older than the one in force.
    #[error(
        "the list of revoked certificates of {issuer:?} in {origin}, of {issued}, is older than that of {held}, which stays in force; put the newest there"
    )]
    OlderRevocationList {
        /// What was read.
        origin: Origin,
        /// Whose it is.
        issuer: String,
        /// When it was made; RFC 3339, UTC.
        issued: String,
        /// When the one was made that is in force.
        held: String,
    },
    /// A deny list with a line that is not understood.
    #[error(
        "line {line} of the deny list {origin} is not understood; nothing of the list counts until it is put right"
    )]
    BadDenyList {
        /// What was read.
        origin: Origin,
        /// Counted from 1.
        line: usize,
        /// Why.
        source: BadDenial,
    },
    /// A serial counter that does not count.
    #[error("{} is not a serial counter; it must hold one decimal number", path.display())]
    BadSerialFile {
        /// The file.
        path: PathBuf,
    },
}

/// What took a certificate back.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Revoker {
    /// The authority that had issued it.
    List(Origin),
    /// The operator of this machine.
    Denied {
        /// What is denied: `serial number`, `user`, or `node`.
        what: &'static str,
        /// The deny list.
        origin: Origin,
    },
}

impl fmt::Display for Revoker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List(origin) => write!(f, "its authority, in {origin}"),
            Self::Denied { what, origin } => write!(f, "this machine, which denies its {what} in {origin}"),
        }
    }
}

fn describe(user: &str, found: Option<Role>) -> String {
    match found {
        Some(role) => format!("{role} (its certificate names {user:?})"),
        None => format!("no role (its certificate names {user:?})"),
    }
}

/// The reason of ours inside a refused handshake's error, if that reason was ours.
///
/// Chains that do not verify are reported by rustls in its own words, so that the peer gets the fitting alert.
pub fn refusal(error: &rustls::Error) -> Option<&PkiError> {
    let rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) = error else {
        return None;
    };
    other.0.downcast_ref()
}
