//! What can go wrong, whose fault it is, and what to do next.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use dominator_core::authorise::{BadPattern, Role};
use thiserror::Error;

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
    /// The file system did not take a file.
    #[error("can't write {}; check the directory's owner and free space", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something stands where a new file should go.
    #[error("{} exists and is left alone; move it away or ask for its replacement", path.display())]
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
    #[error("{origin} expired at {not_after}; have it issued again")]
    Expired {
        /// What was read.
        origin: Origin,
        /// RFC 3339, UTC.
        not_after: String,
    },
    /// The certificate's time has not come.
    #[error("{origin} is not valid before {not_before}; check this machine's clock")]
    NotYetValid {
        /// What was read.
        origin: Origin,
        /// RFC 3339, UTC.
        not_before: String,
    },
    /// Not a signer: no CA flag, or a key usage without certificate signing.
    #[error("{origin} is not a certificate authority; give the authority's own certificate")]
    NotAnAuthority {
        /// What was read.
        origin: Origin,
    },
    /// An authority's certificate that can't be a trust anchor.
    #[error("{origin} can't be trusted as an authority")]
    BadAuthority {
        /// What was read.
        origin: Origin,
        /// Why.
        source: rustls::Error,
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
    /// The chain does not verify: wrong authority, wrong signature, wrong time.
    #[error(
        "the certificate of {user:?} is not to be trusted; it must be valid now and signed by an authority in our CA file"
    )]
    Untrusted {
        /// The name it claims.
        user: String,
        /// Why.
        source: rustls::Error,
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
    /// A serial counter that does not count.
    #[error("{} is not a serial counter; it must hold one decimal number", path.display())]
    BadSerialFile {
        /// The file.
        path: PathBuf,
    },
}

/// A rule that a certificate breaks.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BadCertificate {
    /// Not strict DER, or not a certificate.
    #[error("it is not a DER certificate: {0}")]
    NotDer(String),
    /// Bytes after the end.
    #[error("{0} bytes follow its end")]
    TrailingBytes(usize),
    /// Larger than any honest one.
    #[error("it has {length} bytes; at most {limit} are read")]
    TooLong {
        /// Its length, in bytes.
        length: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// An extension stands in it twice, so that two readers could disagree.
    #[error("an extension stands in it twice")]
    DuplicateExtension,
    /// The subject must have exactly one common name.
    #[error("its subject has {0} common names; it must have one, the user name")]
    CommonNames(usize),
    /// The common name is no user name.
    #[error("its common name is empty, too long, or has control characters")]
    BadUser,
    /// One of our two lists is malformed.
    #[error("its list of {list} is malformed")]
    BadList {
        /// `methods` or `groups`.
        list: &'static str,
        /// How.
        source: BadList,
    },
    /// The method list holds something that is no method pattern.
    #[error("its list of methods is malformed")]
    BadPattern(#[from] BadPattern),
    /// A group name that is empty, too long, or has control characters.
    #[error("a group's name is empty, too long, or has control characters")]
    BadGroup,
    /// Two roles; a certificate plays one.
    #[error("it claims several roles; it may claim one")]
    SeveralRoles,
    /// A subject alternative name that can't be read.
    #[error("a subject alternative name can't be read")]
    BadAlternativeName,
    /// A serial number of more than 20 bytes.
    #[error("its serial number has {0} bytes; 20 are allowed")]
    BadSerial(usize),
}

/// How a `SEQUENCE OF UTF8String` can be wrong.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BadList {
    /// Ends early, or a length is not in its shortest form.
    #[error("it is truncated, or a length is not in its shortest form")]
    Malformed,
    /// Another type where a SEQUENCE or UTF8String must be.
    #[error("found DER tag {found:#04x} where {expected:#04x} must be")]
    WrongType {
        /// The tag found.
        found: u8,
        /// The tag that belongs there.
        expected: u8,
    },
    /// Bytes after the end.
    #[error("bytes follow its end")]
    TrailingBytes,
    /// Not UTF-8.
    #[error("an item is not UTF-8")]
    NotUtf8,
    /// More items than allowed.
    #[error("it has more than {limit} items")]
    TooMany {
        /// The limit.
        limit: usize,
    },
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
